"""The disk is full, fails, or is locked under load: what must be charged is refused before it costs anything, nothing
that was acknowledged is lost, and service returns by itself.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.books import balance, charges, check_books, connect, database_of
from tests.chaos import Chaos, WaitFor, json_answer
from tests.faults import Faults, faults
from tests.load import Load
from tests.orders import MONEY, PRICES, Order, code_of
from tests.support import (
    START_LIMIT_S,
    Answer,
    Gateway,
    call,
    exchange,
    free_port,
    gateway_before_chaos,
    native,
)

DISK_BYTES = 12_000_000
REFUSALS = ("4008", "4000")
PROMPT_S = 3.0
"""Within which a call is refused that cannot be written down. The machine may be busy."""
QUICK = {"GATEWAY_LOG__ACCESS": "off", "GATEWAY_STORE__PATIENCE_S": "4"}
ALARM = "the store cannot be written"
FLAT = """
[[price]]
per_call = "1"
"""


@contextmanager
def rich_gateway(environ: Mapping[str, str]) -> Iterator[Gateway]:
    with gateway_before_chaos(PRICES, environ={**QUICK, **environ}) as gateway:
        gateway.cli("accounts", "topup", "tester", MONEY)
        yield gateway


async def until(condition: Callable[[], bool], limit_s: float = 40) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


async def ready(gateway: Gateway) -> bool:
    return (await call(gateway, "GET", "/readyz")).status == 200


async def until_ready(gateway: Gateway, wanted: bool) -> None:
    async with asyncio.timeout(20):
        while await ready(gateway) is not wanted:
            await asyncio.sleep(0.02)


async def refused_in_a_row(gateway: Gateway, load: Load, count: int) -> list[float]:
    """Calls until so many in a row were refused, one after the other; how long each of those took, in seconds.

    A little may still fit on a full disk, so that the first calls need not be refused.
    """
    took_s: list[float] = []
    async with asyncio.timeout(60):
        number = 10**9
        while len(took_s) < count:
            number += 1
            order = Order(number, ("native", "custom")[number % 2], number % 3 == 0, "json", False, None)
            seen = load.agreement.seen.total()
            started = time.monotonic()
            answer = await exchange(gateway, order.request(gateway))
            if code_of(answer) == "0000":
                took_s.clear()
                continue
            assert answer.headers["x-error-code"] == "4000"
            assert answer.status == (500 if order.front == "native" else 200)
            assert load.agreement.seen.total() == seen, "the upstream was asked for what cannot be charged"
            took_s.append(time.monotonic() - started)
    return took_s


async def serve_on(gateway: Gateway, load: Load) -> None:
    """Service has returned: calls are charged again, and everybody agrees on all calls."""
    await until_ready(gateway, True)
    whole = load.codes["0000"]
    load.begin()
    await until(lambda: load.codes["0000"] >= whole + 100)
    await load.answered()
    await load.quiet()
    await load.settled()
    load.agreement.compare()
    assert not load.agreement.charged_refusals
    assert gateway.process.poll() is None
    assert 1 <= gateway.log.count(ALARM) <= 20, "an alarm is a line, and not one for each call"


# a full disk


class Tmpfs:
    """A small file system of its own."""

    def __init__(self, directory: Path) -> None:
        self.environ = {"GATEWAY_STORE__URL": f"sqlite:///{directory}/gateway.db"}
        self._filler = directory / "filler"

    def fill(self) -> None:
        """Takes all the space that is left, to the last page."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (65_536, 4_096):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        self._filler.unlink()


class Injected:
    """A disk that says it is full."""

    def __init__(self, fault: Faults) -> None:
        self.environ = fault.environ
        self._fault = fault

    def fill(self) -> None:
        self._fault.disk_full = True

    def free(self) -> None:
        assert self._fault.struck["writes_refused"]
        self._fault.disk_full = False


@contextmanager
def mounted() -> Iterator[Path]:
    """A small tmpfs, for as long as it is needed. Skips the test where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root")
    with tempfile.TemporaryDirectory() as name:
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", name]
        try:
            subprocess.run(mounting, check=True, capture_output=True, timeout=10)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a small tmpfs cannot be mounted here")
        try:
            yield Path(name)
        finally:
            # Lazily: whatever still holds a file there, the mount is gone.
            subprocess.run(["umount", "--lazy", name], check=True, timeout=10)


@pytest.fixture(params=["tmpfs", "injected"])
def disk(request: pytest.FixtureRequest) -> Iterator[Tmpfs | Injected]:
    if request.param == "tmpfs":
        with mounted() as directory:
            yield Tmpfs(directory)
    else:
        with faults() as fault:
            yield Injected(fault)


async def test_on_a_full_disk_no_unpaid_call_reaches_the_upstream_and_service_returns_with_the_space(
    disk: Tmpfs | Injected,
) -> None:
    with rich_gateway(disk.environ) as gateway:
        async with Load(gateway, seed=1, refusals=REFUSALS) as load:
            load.begin()
            await until(lambda: load.codes["0000"] >= 100)
            disk.fill()
            await until(lambda: load.codes["4000"] >= 30)
            await load.quiet()
            took_s = await refused_in_a_row(gateway, load, 20)
            assert max(took_s) < PROMPT_S
            assert not await ready(gateway)
            disk.free()
            await serve_on(gateway, load)


# a disk that fails


@pytest.fixture
def fault() -> Iterator[Faults]:
    with faults() as switches:
        yield switches


async def fail_syncs(load: Load, fault: Faults) -> None:
    """Under load no sync works, for a second; nothing is acknowledged meanwhile."""
    load.begin()
    await until(lambda: load.codes["0000"] >= 100)
    fault.sync_fails = True
    refused = load.codes["4000"]
    await until(lambda: load.codes["4000"] > refused)
    await asyncio.sleep(0.2)  # what was acknowledged before is on its way to its client
    told = [each for each in load.agreement.told if not each.replayed]
    await asyncio.sleep(1)
    assert [each for each in load.agreement.told if not each.replayed] == told
    assert fault.struck["syncs_failed"]


async def test_while_syncs_fail_no_charge_is_acknowledged_and_service_returns_with_them(fault: Faults) -> None:
    with rich_gateway(fault.environ) as gateway:
        async with Load(gateway, seed=2, refusals=REFUSALS) as load:
            await fail_syncs(load, fault)
            await load.quiet()
            took_s = await refused_in_a_row(gateway, load, 10)
            assert max(took_s) < PROMPT_S
            assert not await ready(gateway)
            fault.sync_fails = False
            await serve_on(gateway, load)


async def test_nothing_acknowledged_is_lost_when_the_process_dies_while_syncs_fail(fault: Faults) -> None:
    with rich_gateway(fault.environ) as gateway:
        async with Load(gateway, seed=3, refusals=REFUSALS) as load:
            for _ in range(3):
                await fail_syncs(load, fault)
                load.pause()
                gateway.kill()
                fault.sync_fails = False
                await load.quiet()
                await load.process_gone()
                await asyncio.to_thread(gateway.restart)
                load.agreement.compare()
                print(f"charged though they were told 4000: {len(load.agreement.charged_refusals)}")


# a locked database


@contextmanager
def locked(gateway: Gateway) -> Iterator[None]:
    """As another process that writes for long."""
    with closing(connect(database_of(gateway))) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def test_calls_wait_for_a_database_that_is_locked_for_a_moment() -> None:
    with rich_gateway({}) as gateway:
        async with Load(gateway, seed=4) as load:  # without a refusal
            load.begin()
            await until(lambda: load.codes["0000"] >= 50)
            with locked(gateway):
                await asyncio.sleep(0.5)
            whole = load.codes["0000"]
            await until(lambda: load.codes["0000"] >= whole + 100)
            await load.answered()
            await load.quiet()
            await load.settled()
            load.agreement.compare()


async def test_a_database_that_stays_locked_refuses_calls_and_service_returns_with_it() -> None:
    with rich_gateway({}) as gateway:
        async with Load(gateway, seed=5, refusals=REFUSALS) as load:
            load.begin()
            await until(lambda: load.codes["0000"] >= 50)
            with locked(gateway):
                await until(lambda: load.codes["4000"] >= 30)
                await load.quiet()
                took_s = await refused_in_a_row(gateway, load, 3)
                assert max(took_s) < PROMPT_S + 3  # it is waited for, and looked at again, but not for ever
                assert not await ready(gateway)
            await serve_on(gateway, load)


# two processes


@contextmanager
def beside(gateway: Gateway, node_id: int) -> Iterator[Gateway]:
    """Another process on the same store."""
    environment = {**(gateway.environment or {}), "GATEWAY_SERVER__NODE_ID": str(node_id)}
    other = replace(
        gateway, port=free_port(), log_path=gateway.directory / f"log-{node_id}", environment=environment
    )  # fmt: skip
    other.log_path.touch()
    other.restart()
    try:
        yield other
    finally:
        other.process.terminate()
        assert other.process.wait(START_LIMIT_S) == 0


def test_a_second_process_of_the_same_node_is_told_what_to_do() -> None:
    with gateway_before_chaos(PRICES) as gateway:
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(gateway.config_path), "--port", "0"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=START_LIMIT_S, env=gateway.environment
        )
    assert done.returncode == 2
    assert "another process serves this store as node 1" in done.stderr
    assert "give each process a server.node_id of its own" in done.stderr


async def ask(gateway: Gateway) -> Answer:
    return await native(gateway, "POST", "/v1/chat/completions", {"model": "a", "messages": []})


async def test_two_processes_share_a_balance_without_overdrawing_it() -> None:
    with gateway_before_chaos(FLAT) as gateway, beside(gateway, 2) as other:
        gateway.cli("accounts", "topup", "tester", "10")
        async with Chaos(json_answer({"choices": []}), port=gateway.upstream_port) as chaos:
            answers = await asyncio.gather(*(ask((gateway, other)[number % 2]) for number in range(200)))
            assert len(chaos.exchanges) == 10
        assert sorted(answer.status for answer in answers) == [200] * 10 + [402] * 190
        assert balance(gateway) == (0, 0)
        assert charges(gateway) == [1_000_000] * 10
        assert len({answer.headers["x-last-id"] for answer in answers}) == 200


async def test_a_process_that_starts_releases_what_the_dead_held_and_not_what_the_living_hold() -> None:
    with gateway_before_chaos(FLAT) as gateway:
        gateway.cli("accounts", "topup", "tester", "10")
        go_on = asyncio.Event()
        async with Chaos([WaitFor(go_on), json_answer({"choices": []})], port=gateway.upstream_port) as chaos:
            with beside(gateway, 2) as other:
                living = asyncio.create_task(ask(gateway))
                await chaos.exchange(0)
                dying = asyncio.create_task(ask(other))
                await chaos.exchange(1)
                assert balance(gateway) == (10_000_000, 2_000_000)
                other.kill()
                with suppress(ConnectionError):
                    await dying
                await asyncio.to_thread(other.restart)
                assert balance(gateway) == (10_000_000, 1_000_000)
                go_on.set()
                assert (await living).status == 200
        assert balance(gateway) == (9_000_000, 0)
        check_books(database_of(gateway))
