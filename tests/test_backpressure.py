"""Who reads slowly slows the other side down: the gateway holds a bounded part of a body, whichever way it flows."""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from gateway_plugins.xml import gateway_formatters

from gateway.types import Document
from tests.chaos import LAST_CHUNK, Chaos, Flood, Send, Step, chunk, head, json_answer, sse_head
from tests.lockstep import UPLOAD_END, Dechunker, call_request, chat_request, upload_request
from tests.support import Gateway

FRONTS = ("native", "custom", "unusual")
MEGABYTE = 1 << 20
TOTAL_BYTES = 200 * MEGABYTE
GROWTH_LIMIT_BYTES = 8 * MEGABYTE
IN_FLIGHT_LIMIT_BYTES = 24 * MEGABYTE
"""What the kernel's buffers of two connections and the gateway's own may hold between the two sides."""

PIECE = b"0123456789abcdef" * 4096
JSON = b'{"text":"' + PIECE + b'"}'
EVENT = b"data: " + JSON + b"\n\n"


@asynccontextmanager
async def slow_client(gateway: Gateway) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection with a small buffer, which reads nothing until it is told to."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def stalled(count: Callable[[], int]) -> int:
    """The count once it has begun and then stood still for a while."""
    last, since = 0, 0
    while not last or since < 15:
        await asyncio.sleep(0.02)
        last, since = (last, since + 1) if count() == last else (count(), 0)
    return last


async def payload(reader: asyncio.StreamReader, is_chunked: bool = True) -> AsyncIterator[bytes]:
    """A body's payload as it comes, without keeping it; of one that is not chunked, all that the connection brings."""
    received = Dechunker()
    while not received.ended and (data := await reader.read(MEGABYTE)):
        if not is_chunked:
            yield data
            continue
        received.feed(data)
        yield bytes(received.payload)
        received.payload.clear()


def repeated_crc(piece: bytes, count: int) -> int:
    crc = 0
    for _ in range(count):
        crc = zlib.crc32(piece, crc)
    return crc


async def assert_held_back(gateway: Gateway, request: bytes, answer_head: bytes, piece: bytes, rendered: bytes) -> None:
    """Floods a client that does not read, then lets it read: `rendered` is what it is to get for each piece."""
    count = TOTAL_BYTES // len(piece)
    upstream: list[Step] = [Send(answer_head), Flood(count * len(piece), chunk(piece)), Send(LAST_CHUNK)]
    async with (
        asyncio.timeout(60),
        Chaos(upstream, port=gateway.upstream_port) as chaos,
        slow_client(gateway) as (reader, writer),
    ):
        before = gateway.resident_bytes
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
        sent_bytes = await stalled(lambda: chaos.connections[0].sent_bytes)
        assert sent_bytes < IN_FLIGHT_LIMIT_BYTES
        assert gateway.resident_bytes - before < GROWTH_LIMIT_BYTES
        size = crc = 0
        async for data in payload(reader):
            size += len(data)
            crc = zlib.crc32(data, crc)
        assert gateway.resident_bytes - before < GROWTH_LIMIT_BYTES
    assert size == count * len(rendered)
    assert crc == repeated_crc(rendered, count)


@pytest.mark.parametrize("front", FRONTS)
async def test_a_stream_waits_for_its_client(gateway: Gateway, front: str) -> None:
    await assert_held_back(gateway, chat_request(gateway, front), sse_head(), EVENT, EVENT)


@pytest.mark.parametrize("front", FRONTS)
async def test_a_stream_in_another_format_waits_for_its_client(gateway: Gateway, front: str) -> None:
    (xml,) = gateway_formatters()
    rendered = b"data: " + xml.render(Document(JSON)).replace(b"\n", b"\ndata: ") + b"\n\n"
    await assert_held_back(gateway, chat_request(gateway, front, result_type="xml"), sse_head(), EVENT, rendered)


@pytest.mark.parametrize("front", FRONTS)
async def test_a_download_waits_for_its_client(gateway: Gateway, front: str) -> None:
    answer_head = head(200, ("Content-Type", "audio/mpeg"), ("Transfer-Encoding", "chunked"))
    request = call_request(gateway, "v1/audio/speech", {"input": "a"}, front)
    await assert_held_back(gateway, request, answer_head, PIECE, PIECE)


@pytest.mark.parametrize("front", ["native", "custom"])
async def test_an_upload_waits_for_its_upstream(gateway: Gateway, front: str) -> None:
    count = TOTAL_BYTES // len(PIECE)
    sent_bytes = 0
    go_on = asyncio.Event()
    received: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request_head = await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        received.set_result(await file_checksum(reader, b"chunked" in request_head, TOTAL_BYTES))
        writer.write(json_answer({}))
        writer.close()

    async def upload(writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        writer.write(upload_request(gateway, front, count * len(PIECE)))
        for _ in range(count):
            writer.write(PIECE)
            await writer.drain()
            sent_bytes += len(PIECE)
        writer.write(UPLOAD_END)

    server = await asyncio.start_server(upstream, "127.0.0.1", gateway.upstream_port)
    async with asyncio.timeout(60), server, slow_client(gateway) as (reader, writer):
        before = gateway.resident_bytes
        uploading = asyncio.create_task(upload(writer))
        assert await stalled(lambda: sent_bytes) < IN_FLIGHT_LIMIT_BYTES
        assert gateway.resident_bytes - before < GROWTH_LIMIT_BYTES
        go_on.set()
        await uploading
        assert (await reader.readline()).split()[1] == b"200"
        assert await received == (TOTAL_BYTES, repeated_crc(PIECE, count))
        assert gateway.resident_bytes - before < GROWTH_LIMIT_BYTES


async def file_checksum(reader: asyncio.StreamReader, is_chunked: bool, size: int) -> tuple[int, int]:
    """Size and CRC of the one file in a form, which is known to hold `size` bytes."""
    body = b""
    received = crc = 0
    async for data in payload(reader, is_chunked):
        body += data
        if not received:  # the part's head comes first
            body = body.partition(b"\r\n\r\n")[2]
        content, body = body[: size - received], body[size - received :]
        crc = zlib.crc32(content, crc)
        received += len(content)
        if body.endswith(b"--\r\n"):
            break
    return received, crc
