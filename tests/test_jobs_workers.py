"""Several processes on one store: together they keep to the limits, and go on with what a dead one has left."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import closing

import pytest

from tests.backends import Generations, MidjourneyProxy
from tests.books import balance, check_books, connect, database_of, rows
from tests.support import Gateway, call, custom_path, free_port, gateway_process
from tests.test_image_jobs import ended, submit

CONFIG = """
[[price]]
method = "images/submit"
per_call = "0.1"

[jobs]
backend = "midjourney"
url = "{origin}"
poll_s = 0.05
workers = 2
"""


@pytest.mark.timeout(120)
async def test_another_process_goes_on_with_a_dead_one_s_jobs() -> None:
    async with MidjourneyProxy() as proxy:
        with gateway_process("http://127.0.0.1:9/v1", CONFIG.format(origin=proxy.origin)) as first:
            first.cli("accounts", "topup", "tester", "10")
            second = beside(first)
            try:
                imgid = await submit(first, "stuck for a while")
                async with asyncio.timeout(10):
                    while not proxy.asked:
                        await asyncio.sleep(0.02)
                first.kill()
                [task] = proxy.tasks
                asked = proxy.asked[task]
                proxy.tasks[task] = "please"
                async with asyncio.timeout(50):
                    while proxy.asked[task] <= asked + 1:
                        await asyncio.sleep(0.1)
                assert (await ended(second, imgid))["status"] == "SUCCESS"
                assert proxy.made == {"stuck for a while": 1}
                assert balance(first) == (9_900_000, 0)
                check_books(database_of(first))
            finally:
                second.kill()
                await asyncio.to_thread(first.restart)  # which the fixture ends


def beside(gateway: Gateway) -> Gateway:
    """A second process on the same store, with a node of its own."""
    port = free_port()
    environment = {**(gateway.environment or {}), "GATEWAY_SERVER__NODE_ID": "2"}
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(gateway.config_path), "--port", str(port)]
    with (gateway.directory / "log-2").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    other = Gateway(
        process, port, gateway.key, gateway.secret, gateway.directory, gateway.directory / "log-2", 0,
        gateway.config_path, tuple(command), environment,
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while b"serving at" not in other.log_path.read_bytes():
        assert time.monotonic() < deadline, other.log
        time.sleep(0.05)
    return other


async def test_a_store_that_cannot_be_written_holds_jobs_up_and_loses_none() -> None:
    price = '[[price]]\nmethod = "images/submit"\nper_call = "0.1"\n'
    async with Generations(slowest_s=0.2) as backend:
        with gateway_process(backend.base_url, price) as gateway:
            gateway.cli("accounts", "topup", "tester", "10")
            imgids = [await submit(gateway, f"please {number}") for number in range(4)]
            with closing(connect(database_of(gateway))) as locker:
                locker.execute("BEGIN IMMEDIATE")
                refused = await call(gateway, "GET", custom_path(gateway, method="images/submit", prompt="late"))
            assert refused.json["error_code"] == "4000"
            assert {(await ended(gateway, imgid))["status"] for imgid in imgids} == {"SUCCESS"}
            assert set(backend.made.values()) == {1}
            assert balance(gateway) == (9_600_000, 0)
            check_books(database_of(gateway))
            assert rows(database_of(gateway), "SELECT count(*) FROM jobs") == [(4,)]
