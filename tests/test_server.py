"""What the server bears from its clients: deadlines for slow ones, and connections that live as long as they should."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos import Chaos, Exchange, json_answer
from tests.support import (
    Gateway,
    custom_path,
    gateway_before_chaos,
    native,
    parse_answer,
    read_to_end,
    request_bytes,
)

DEADLINE_S = 0.7
SWEEP_S = 0.2
MANY = 300
CONFIG = f"""
[server]
header_timeout_s = {DEADLINE_S}
body_timeout_s = {DEADLINE_S}
keepalive_timeout_s = {DEADLINE_S}
body_min_rate_bytes = 1000
"""


@pytest.fixture(scope="module")
def strict() -> Iterator[Gateway]:
    """A gateway with short deadlines."""
    with gateway_before_chaos(CONFIG) as gateway:
        yield gateway


@pytest.fixture
async def upstream(strict: Gateway) -> AsyncIterator[Chaos]:
    async with Chaos(json_answer({"ok": True}), port=strict.upstream_port) as chaos:
        yield chaos


@asynccontextmanager
async def connection(gateway: Gateway) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def dribble(gateway: Gateway, start: bytes) -> float:
    """Sends a beginning, then a byte now and then, until the server has had enough: after how many seconds."""
    async with connection(gateway) as (reader, writer):
        started = time.monotonic()
        writer.write(start)
        ended = asyncio.ensure_future(read_to_end(reader))
        while not (await asyncio.wait([ended], timeout=0.2))[0]:
            if not writer.is_closing():
                writer.write(b"x")
        return time.monotonic() - started


async def served_promptly(gateway: Gateway, until: asyncio.Event) -> int:
    """Makes calls one after the other; none may take long."""
    count = 0
    while not until.is_set():
        started = time.monotonic()
        assert (await native(gateway, "GET", "/v1/models")).status == 200
        assert time.monotonic() - started < 5.0  # against deadlines that hold the slow ones
        count += 1
        await asyncio.sleep(0.02)
    return count


def slow_heads(gateway: Gateway) -> list[bytes]:
    return [
        b"GET /x",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX: ",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHos",  # behind a whole request
    ]


def slow_bodies(gateway: Gateway) -> list[bytes]:
    bearer = {"Authorization": f"Bearer {gateway.token}"}
    upload = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": "5000000"}
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    call = custom_path(gateway, method="v1/files")
    return [
        request_bytes("POST", "/v1/responses", headers={**bearer, "Content-Length": "5000"}) + b"{",
        request_bytes("POST", "/v1/responses", headers={**bearer, "Transfer-Encoding": "chunked"}) + b"5000\r\n{",
        request_bytes("POST", "/openai/custom/", headers={"Content-Length": "5000"}) + b"key=",
        request_bytes("POST", "/openai/custom/", headers={**upload, "Content-Length": "5000"}) + part,
        request_bytes("POST", "/v1/files", headers={**bearer, **upload}) + part,
        request_bytes("POST", call, headers=upload) + part,
    ]


@pytest.mark.parametrize("starts", [slow_heads, slow_bodies])
async def test_hundreds_of_slow_clients_are_cut_off_and_delay_nobody(
    strict: Gateway, upstream: Chaos, starts: Callable[[Gateway], list[bytes]]
) -> None:
    kinds = starts(strict)
    done = asyncio.Event()
    others = asyncio.create_task(served_promptly(strict, done))
    lasted = await asyncio.gather(*[dribble(strict, kinds[i % len(kinds)]) for i in range(MANY)])
    done.set()
    assert await others > 10
    assert {request.method for request in upstream.exchanges if request.body_complete} == {"GET"}
    assert min(lasted) > DEADLINE_S / 4  # not at once; connecting is in the time, and the machine shared
    assert max(lasted) < DEADLINE_S + SWEEP_S + 1.5  # the last byte is sent, and the machine shared


async def test_an_aborted_slow_upload_ends_the_upstreams_request(strict: Gateway, upstream: Chaos) -> None:
    start = slow_bodies(strict)[4]
    await dribble(strict, start)
    await upstream.connections[0].closed.wait()
    assert not upstream.exchanges[0].body_complete


async def test_a_body_that_keeps_the_pace_is_taken_however_long_it_lasts(strict: Gateway, upstream: Chaos) -> None:
    body = b'{"a":"' + b"b" * 8000 + b'"}'
    fields = {"Authorization": f"Bearer {strict.token}", "Content-Length": str(len(body)), "Connection": "close"}
    async with connection(strict) as (reader, writer):
        writer.write(request_bytes("POST", "/v1/responses", headers=fields))
        for start in range(0, len(body), 1000):
            writer.write(body[start : start + 1000])
            await asyncio.sleep(0.25)  # in all more than twice the deadline
        assert parse_answer(await read_to_end(reader)).status == 200
    assert bytes(upstream.exchanges[0].body) == body


async def test_an_upload_waits_for_a_slow_upstream_and_the_client_is_not_blamed(strict: Gateway) -> None:
    """Only the time in which the gateway waits for the client counts."""
    go_on = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.read_body(1000)
        await go_on.wait()
        await exchange.read_body()
        await exchange.send(json_answer({"size": len(exchange.body)}))

    size = 20_000_000
    fields = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": f"Bearer {strict.token}"}
    async with Chaos(slow, port=strict.upstream_port), connection(strict) as (reader, writer):
        writer.write(request_bytes("POST", "/v1/files", headers={**fields, "Content-Length": str(size)}) + b"x" * size)
        answering = asyncio.ensure_future(reader.readuntil(b"}"))
        await asyncio.wait([answering], timeout=DEADLINE_S + 2 * SWEEP_S)
        assert not answering.done()
        go_on.set()
        assert parse_answer(await answering).json == {"size": size}


async def test_an_idle_connection_is_closed_after_its_time(strict: Gateway, upstream: Chaos) -> None:
    async with connection(strict) as (reader, writer):
        writer.write(request_bytes("GET", "/healthz"))
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        answered = time.monotonic()
        assert await reader.read() == b""
        assert 0.5 * DEADLINE_S < time.monotonic() - answered < DEADLINE_S + SWEEP_S + 1


async def test_a_connection_without_a_request_is_closed_after_the_heads_time(strict: Gateway) -> None:
    async with connection(strict) as (reader, _):
        started = time.monotonic()
        assert await read_to_end(reader) == b""
        assert 0.5 * DEADLINE_S < time.monotonic() - started < DEADLINE_S + SWEEP_S + 1


async def test_a_call_that_takes_longer_than_the_clients_deadlines_is_served(strict: Gateway) -> None:
    """The deadlines are for clients; an upstream has its own."""
    go_on = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.read_body()
        await go_on.wait()
        await exchange.send(json_answer({"ok": True}))

    async with Chaos(slow, port=strict.upstream_port):
        answering = asyncio.create_task(native(strict, "POST", "/v1/responses", {"a": 1}))
        await asyncio.wait([answering], timeout=DEADLINE_S + 2 * SWEEP_S)
        assert not answering.done()
        go_on.set()
        assert (await answering).json == {"ok": True}


async def test_a_connection_carries_many_calls(gateway: Gateway) -> None:
    async with Chaos(json_answer({"ok": 1}), port=gateway.upstream_port), connection(gateway) as (reader, writer):
        for _ in range(50):
            writer.write(request_bytes("GET", "/v1/models", headers={"Authorization": f"Bearer {gateway.token}"}))
            assert b"connection: close" not in (await reader.readuntil(b"}")).lower()


# Expect: 100-continue


@pytest.mark.parametrize("front", ["native", "custom", "native upload", "custom upload"])
async def test_a_client_that_waits_is_told_to_go_on_once(gateway: Gateway, front: str) -> None:
    target = "/v1/files" if front.startswith("native") else custom_path(gateway, method="v1/files", purpose="batch")
    fields = {"Authorization": f"Bearer {gateway.token}", "Expect": "100-continue", "Connection": "close"}
    body = b'{"limit":1}'
    if front.endswith("upload"):
        fields["Content-Type"] = "multipart/form-data; boundary=b"
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    async with Chaos(json_answer({"ok": 1}), port=gateway.upstream_port), connection(gateway) as (reader, writer):
        writer.write(request_bytes("POST", target, headers={**fields, "Content-Length": str(len(body))}))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        raw = await read_to_end(reader)
    assert raw.startswith(b"HTTP/1.1 200")
    assert b"100 Continue" not in raw


@pytest.mark.parametrize("front", ["native", "custom"])
async def test_a_client_that_waits_and_is_refused_need_not_send_its_body(gateway: Gateway, front: str) -> None:
    target = "/v1/files" if front == "native" else "/openai/custom/?key=nobody&secret=none&method=v1/files"
    fields = {"Authorization": "Bearer nobody:none", "Expect": "100-continue", "Content-Length": "2000000"}
    async with connection(gateway) as (reader, writer):
        writer.write(request_bytes("POST", target, headers=fields))
        head = await reader.readuntil(b"\r\n\r\n")
    assert b"X-Error-Code: 4004\r\n" in head
    assert b"Connection: close\r\n" in head
    assert b"100 Continue" not in head


# Clients that leave


async def leave_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def leave_after_half_a_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(request_bytes("POST", "/v1/responses", headers={"Content-Length": "1000"}) + b"{")
    await writer.drain()
    writer.transport.abort()


async def leave_after_half_a_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /v1/models HTTP/1.1\r\nHos")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("leave", [leave_at_once, leave_after_half_a_body, leave_after_half_a_head])
async def test_a_client_that_leaves_is_no_failure(
    gateway: Gateway, leave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> None:
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        await leave(reader, writer)
    async with Chaos(json_answer({}), port=gateway.upstream_port):
        assert (await native(gateway, "GET", "/v1/models")).status == 200
    assert "ERROR" not in gateway.log
    assert "Traceback" not in gateway.log
