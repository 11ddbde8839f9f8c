"""A client that leaves takes its upstream call with it at once, wherever the call stands, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Sequence

import pytest

from tests.chaos import Chaos, Hang, ReadBody, Set, Step, chunk, head, sse_head
from tests.lockstep import call_request, chat_request, upload_request
from tests.support import Gateway

FRONTS = ("native", "custom", "unusual")
PROMISED_S = 0.1
TRIES = 3  # the best one counts: the machine's own pauses are not the gateway's

Steps = Sequence[bytes | Step]

HEAD_SEEN = b"\r\n\r\n"
EVENT_SEEN = b"\n\n"
MOMENTS: dict[str, tuple[Steps, bytes]] = {
    "before the head": ([], b""),
    "before the first event": ([sse_head()], HEAD_SEEN),
    "in the middle": ([sse_head(), chunk(b'data: {"n": 1}\n\n')], EVENT_SEEN),
}
"""What the upstream has sent by then, and what of it the client has seen."""


async def leave(gateway: Gateway, request: bytes, sent: Steps, seen: bytes = b"") -> float:
    """Makes a call that is left once the upstream has `sent` and the client has `seen`.

    Returns how long it took until the upstream's connection was closed, in seconds.
    """
    ready = asyncio.Event()
    async with asyncio.timeout(20), Chaos([*sent, Set(ready), Hang()], port=gateway.upstream_port) as chaos:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request)
        await ready.wait()
        if seen:
            await reader.readuntil(seen)
        left_at = time.monotonic()
        writer.transport.abort()
        (connection,) = chaos.connections
        await connection.closed.wait()
    assert connection.closed_at is not None
    return connection.closed_at - left_at


async def assert_prompt(gateway: Gateway, request: bytes, sent: Steps, seen: bytes = b"") -> None:
    delays_s = [await leave(gateway, request, sent, seen) for _ in range(TRIES)]
    assert min(delays_s) < PROMISED_S, delays_s


@pytest.mark.parametrize("result_type", ["json", "xml"])
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_upstream_of_a_stream_is_left_at_once(
    gateway: Gateway, moment: str, front: str, result_type: str
) -> None:
    sent, seen = MOMENTS[moment]
    await assert_prompt(gateway, chat_request(gateway, front, result_type=result_type), sent, seen)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("sent", [b"", b'{"half": '], ids=["before the head", "in the middle"])
async def test_the_upstream_of_a_json_answer_is_left_at_once(gateway: Gateway, sent: bytes, front: str) -> None:
    answer_head = head(200, ("Content-Type", "application/json"), ("Content-Length", "100"))
    request = call_request(gateway, "v1/embeddings", {"input": "a"}, front)
    await assert_prompt(gateway, request, [answer_head + sent] if sent else [])


@pytest.mark.parametrize("front", FRONTS)
async def test_the_upstream_of_a_download_is_left_at_once(gateway: Gateway, front: str) -> None:
    answer_head = head(200, ("Content-Type", "audio/mpeg"), ("Transfer-Encoding", "chunked"))
    request = call_request(gateway, "v1/audio/speech", {"input": "a"}, front)
    await assert_prompt(gateway, request, [answer_head, chunk(b"ID3")], b"ID3")


@pytest.mark.parametrize("front", ["native", "custom"])
async def test_the_upstream_of_an_upload_is_left_at_once(gateway: Gateway, front: str) -> None:
    request = upload_request(gateway, front, size=10_000_000) + bytes(1_100_000)
    await assert_prompt(gateway, request, [ReadBody(1_000_000)])


@pytest.mark.parametrize("front", ["native", "custom"])
async def test_leaving_an_upload_that_stands_still_is_noticed(gateway: Gateway, front: str) -> None:
    """While the upstream takes nothing the gateway reads nothing either, and still sees its client go."""
    async with Chaos([ReadBody(0), Hang()], port=gateway.upstream_port) as chaos, asyncio.timeout(30):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(upload_request(gateway, front, size=100_000_000))
        await chaos.exchange(0)
        with contextlib.suppress(TimeoutError):  # until nobody takes any more
            while True:
                async with asyncio.timeout(1):
                    writer.write(bytes(65_536))
                    await writer.drain()
        open_sockets = gateway.sockets
        linger = struct.pack("ii", 1, 0)  # an RST: a FIN would wait behind the bytes that nobody takes
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        while gateway.sockets > open_sockets - 2:  # the upstream, which reads nothing, cannot tell
            await asyncio.sleep(0.05)


async def test_a_thousand_calls_left_at_every_moment_leave_no_socket_and_no_memory(gateway: Gateway) -> None:
    requests = [chat_request(gateway, front, result_type=kind) for front in FRONTS for kind in ("json", "xml")]
    kinds = [(request, seen) for request in requests for _, seen in MOMENTS.values()]
    sent_bytes = sse_head() + chunk(b'data: {"n": 1}\n\n')

    async def call(number: int) -> None:
        request, seen = kinds[number % len(kinds)]
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request)
        if seen:
            await reader.readuntil(seen)
        else:
            await chaos.exchange(0)  # some call has come through; this one may be anywhere
        writer.transport.abort()

    async def call_many(count: int) -> None:
        for start in range(0, count, 50):
            await asyncio.gather(*(call(number) for number in range(start, start + 50)))
        for connection in chaos.connections:
            await connection.closed.wait()
        chaos.connections.clear()
        chaos.exchanges.clear()

    async with asyncio.timeout(60), Chaos([sent_bytes, Hang()], port=gateway.upstream_port) as chaos:
        await call_many(200)
        sockets_before, resident_before = gateway.sockets, gateway.resident_bytes
        await call_many(1000)
        while gateway.sockets > sockets_before:  # the client's own socket closes a moment later
            await asyncio.sleep(0.01)
    assert gateway.resident_bytes - resident_before < 2_000_000
