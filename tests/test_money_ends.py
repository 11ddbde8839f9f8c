"""How priced calls end with their process or without their client: settled, nothing held, every place given back."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator, Sequence

import pytest

from tests.books import balance, charges, check_books, database_of, rows
from tests.chaos import LAST_CHUNK, Chaos, Hang, Script, Step, Wait, WaitFor, chunk, json_answer, sse_head
from tests.support import Answer, Gateway, gateway_before_chaos, native, request_bytes

PRICES = """
[[price]]
per_call = "0.001"
per_1k_completion = "0.002"
max_completion_tokens = 1000
"""
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}\n\n'
DONE = b"data: [DONE]\n\n"
PRICE = 1000 + 7 * 2
STREAM = {"model": "a", "messages": [], "stream": True}
STREAMS = 20


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with gateway_before_chaos(f"[server]\ndrain_s = 2\n{PRICES}", environ={"GATEWAY_LOG__ACCESS": "off"}) as running:
        running.cli("accounts", "topup", "tester", "1000")
        yield running


async def ask(gateway: Gateway) -> Answer:
    return await native(gateway, "POST", "/v1/chat/completions", STREAM)


async def ended(gateway: Gateway) -> int:
    return await asyncio.to_thread(gateway.process.wait, 20)


async def under_way(chaos: Chaos, calls: Sequence[asyncio.Task[Answer]]) -> None:
    """Waits until the upstream has been asked for all of them."""
    await chaos.exchange(len(calls) - 1)


def check_ended(gateway: Gateway, calls: int) -> None:
    """The process is gone, and has left nothing for the next one to do."""
    check_books(database_of(gateway))
    assert balance(gateway)[1] == 0
    assert rows(database_of(gateway), "SELECT count(*), sum(settled = 'unknown') FROM calls") == [(calls, 0)]


async def test_priced_streams_that_are_open_at_the_signal_finish_and_are_charged(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    script: Script = [sse_head(), chunk(EVENT), WaitFor(go_on), chunk(USAGE), chunk(DONE), LAST_CHUNK]
    async with asyncio.timeout(30), Chaos(script, port=gateway.upstream_port) as chaos:
        calls = [asyncio.create_task(ask(gateway)) for _ in range(STREAMS)]
        await under_way(chaos, calls)
        gateway.process.send_signal(signal.SIGTERM)
        while "draining" not in gateway.log:
            await asyncio.sleep(0.01)
        go_on.set()
        answers = await asyncio.gather(*calls)
        assert all(answer.complete and answer.body == EVENT + DONE for answer in answers)
        assert await ended(gateway) == 0
    assert charges(gateway) == [PRICE] * STREAMS
    check_ended(gateway, STREAMS)


async def test_streams_that_outlast_the_drain_are_cut_and_settled(gateway: Gateway) -> None:
    pieces: list[bytes | Step] = [chunk(EVENT), Wait(0.05)]
    endless = [sse_head(), *pieces * 1000]
    async with asyncio.timeout(30), Chaos(endless, port=gateway.upstream_port) as chaos:
        calls = [asyncio.create_task(ask(gateway)) for _ in range(STREAMS)]
        await under_way(chaos, calls)
        gateway.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*calls)
        assert await ended(gateway) == 0
    assert all(EVENT in answer.body and not answer.complete for answer in answers)
    assert len(charges(gateway)) == STREAMS  # for what was delivered
    assert min(charges(gateway)) > 1000
    check_ended(gateway, STREAMS)


async def test_calls_that_wait_for_their_answer_when_the_drain_is_over_are_not_charged(gateway: Gateway) -> None:
    async with asyncio.timeout(30), Chaos([Hang()], port=gateway.upstream_port) as chaos:
        calls = [asyncio.create_task(ask(gateway)) for _ in range(STREAMS)]
        await under_way(chaos, calls)
        gateway.process.send_signal(signal.SIGTERM)
        assert await ended(gateway) == 0
        await asyncio.gather(*calls, return_exceptions=True)
    assert charges(gateway) == []
    check_ended(gateway, STREAMS)


MOMENTS: tuple[tuple[list[bytes | Step], bytes], ...] = (
    ([], b""),
    ([sse_head()], b"\r\n\r\n"),
    ([sse_head(), chunk(EVENT)], b"word "),
    ([sse_head(), chunk(EVENT), chunk(EVENT.replace(b"word", b"last"))], b"last "),
)
"""Before the head, before the first event, in the middle, before the usage: what was sent, and what the client saw."""


async def test_a_thousand_calls_that_are_left_give_everything_back(gateway: Gateway) -> None:
    async with asyncio.timeout(90):
        await leave_calls(gateway, 200)
        sockets, resident_bytes = gateway.sockets, gateway.resident_bytes
        await leave_calls(gateway, 1000)
        while gateway.sockets > sockets:
            await asyncio.sleep(0.01)
        assert gateway.resident_bytes - resident_bytes < 3_000_000
        check_books(database_of(gateway))
        assert balance(gateway)[1] == 0
        query = "SELECT count(*), sum(charge_micros > 0) FROM calls"
        assert rows(database_of(gateway), query) == [(1200, 900)]  # who left before the head pays nothing
        assert await runs_at_once(gateway, 5)


async def leave_calls(gateway: Gateway, count: int) -> None:
    """Makes so many calls, 40 at a time, each left at one of the moments; returns when all of them are settled."""
    for sent, seen in MOMENTS:
        async with Chaos([*sent, Hang()], port=gateway.upstream_port) as chaos:
            for start in range(0, count // len(MOMENTS), 40):
                size = min(40, count // len(MOMENTS) - start)
                asked = len(chaos.exchanges)
                writers = await asyncio.gather(*(begin(gateway, seen) for _ in range(size)))
                await chaos.exchange(asked + size - 1)
                for writer in writers:
                    writer.transport.abort()
                for connection in chaos.connections:
                    await connection.closed.wait()
    while rows(database_of(gateway), "SELECT count(*) FROM holds") != [(0,)]:
        await asyncio.sleep(0.01)


async def begin(gateway: Gateway, seen: bytes) -> asyncio.StreamWriter:
    """A call of which its client has seen so much."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    headers = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/json"}
    writer.write(request_bytes("POST", "/v1/chat/completions", json.dumps(STREAM).encode(), headers))
    if seen:
        await reader.readuntil(seen)
    return writer


async def runs_at_once(gateway: Gateway, concurrency: int) -> bool:
    """Whether an account that may run so many calls at once runs all of them, and no more."""
    gateway.cli("accounts", "set", "tester", "--concurrency", str(concurrency))
    await asyncio.sleep(1.5)  # the change takes effect within a second
    go_on = asyncio.Event()
    script: Script = [WaitFor(go_on), json_answer({"choices": []})]
    async with Chaos(script, port=gateway.upstream_port) as chaos:
        calls = [asyncio.create_task(ask(gateway)) for _ in range(concurrency)]
        await under_way(chaos, calls)
        refused = await ask(gateway)
        go_on.set()
        codes = [answer.headers["x-error-code"] for answer in await asyncio.gather(*calls)]
    return codes == ["0000"] * concurrency and refused.headers["x-error-code"] == "4008"
