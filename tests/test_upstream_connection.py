"""One exchange on one connection: sending, waiting for the answer, and the three ways in which a body is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from gateway.errors import GatewayError
from gateway.upstream.connection import HELD_BYTES, UpstreamConnection
from gateway.upstream.pool import Deadlines, Pool
from tests.chaos import (
    LAST_CHUNK,
    Chaos,
    Close,
    Cut,
    Flood,
    Hang,
    ReadBody,
    Script,
    Send,
    Trickle,
    WaitFor,
    answer,
    chunk,
    head,
    json_answer,
    sse_answer,
    sse_head,
)
from tests.lockstep import Dechunker
from tests.support import exchange_on
from tests.test_streams import EVENTS, SHORT, SHORT_PAYLOAD

REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: upstream\r\n\r\n"
UPLOAD = b"POST /v1/files HTTP/1.1\r\nHost: upstream\r\nContent-Length: 1000000000\r\n\r\n"
IN_FLIGHT_LIMIT_BYTES = 16 * 1024 * 1024  # what the kernel's two buffers may hold


@asynccontextmanager
async def exchange(*scripts: Script, request: bytes = REQUEST) -> AsyncIterator[tuple[Chaos, UpstreamConnection]]:
    """An exchange with an upstream that plays these scripts."""
    async with asyncio.timeout(10), Chaos(*scripts) as chaos:
        pool = Pool("127.0.0.1", chaos.port, None, Deadlines(5, 5, 5, 5, 60))
        try:
            async with exchange_on(pool, request) as link:
                yield chaos, link
        finally:
            pool.close()


class Client(asyncio.Protocol):
    """The server's end of a client's connection: what a relay writes to."""

    def __init__(self) -> None:
        self.relay: UpstreamConnection | None = None
        self.transport: asyncio.Transport | None = None
        self.writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self.relay is not None:
            self.relay.resume()


@asynccontextmanager
async def connected_client() -> AsyncIterator[tuple[Client, asyncio.StreamReader]]:
    """A client, and what its other end reads."""
    client = Client()
    server = await asyncio.get_running_loop().create_server(lambda: client, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield client, reader
        finally:
            writer.close()
            if client.transport is not None:
                client.transport.abort()


async def stalled(chaos: Chaos) -> int:
    """How much the upstream has sent when it can send no more."""
    connection = chaos.connections[0]
    last = -1
    while connection.sent_bytes != last:
        last = connection.sent_bytes
        await asyncio.sleep(0.2)
    return last


async def whole_answer(link: UpstreamConnection, limit_bytes: int = 1000) -> bytes:
    await link.answer()
    return await link.read(limit_bytes)


# the answer


async def test_a_short_json_answer_is_whole_when_its_head_is_there() -> None:
    go_on = asyncio.Event()
    whole = json_answer({"n": 1})
    async with exchange([whole[:-4], WaitFor(go_on), whole[-4:]]) as (_, link):
        answering = asyncio.create_task(link.answer())
        await asyncio.sleep(0.05)
        assert not answering.done()
        go_on.set()
        assert (await answering).status == 200
        assert await link.read(1000) == b'{"n": 1}'


async def test_of_any_other_answer_the_head_is_enough() -> None:
    async with exchange([sse_head(), Hang()]) as (_, link):
        assert (await link.answer()).media_type == b"text/event-stream"


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
async def test_a_body_is_read_whole_up_to_its_limit(content_type: str) -> None:
    body = b"x" * 300_000
    async with exchange(answer(body, content_type)) as (_, link):
        await link.answer()
        assert await link.read(len(body)) == body
    async with exchange(answer(body, content_type)) as (_, link):
        await link.answer()
        with pytest.raises(GatewayError, match=r"5000.*larger than 299999 bytes"):
            await link.read(len(body) - 1)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
async def test_an_endless_body_is_read_no_further_than_its_limit(content_type: str) -> None:
    flood: Script = [head(200, ("Content-Type", content_type)), Flood(None, b"x" * 65_536)]
    async with exchange(flood) as (chaos, link):
        await link.answer()
        with pytest.raises(GatewayError, match="5000"):
            await link.read(1_000_000)
    assert chaos.connections[0].sent_bytes < IN_FLIGHT_LIMIT_BYTES


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([Close()], "4001"),
        ([Cut()], "4001"),
        ([b"HTTP/1.1 200", Close()], "4001"),
        ([json_answer({"n": 1})[:-1], Close()], "5000"),
        ([json_answer({"n": 1})[:-1], Cut()], "5000"),
        ([b"nonsense\r\n\r\n", Hang()], "4002"),
    ],
)
async def test_what_breaks_an_answer_off_is_told_by_its_code(script: Script, code: str) -> None:
    async with exchange(script) as (_, link):
        with pytest.raises(GatewayError) as caught:
            await whole_answer(link)
    assert caught.value.code.code == code


async def test_a_body_in_small_chunks_is_kept_in_few_pieces() -> None:
    """An object for each chunk would take many times the body's size."""
    limit = 1_000_000
    flood: Script = [
        head(200, ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")),
        Flood(None, chunk(b"12345678") * 1000),
    ]
    async with exchange(flood) as (_, link):
        await link.answer()
        with pytest.raises(GatewayError, match="5000"):
            await link.read(limit)
        assert sum(map(len, link._pieces)) > limit
        assert len(link._pieces) <= limit / 4096 + 1


async def test_a_body_in_crumbs_is_nonsense() -> None:
    flood: Script = [
        head(200, ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")),
        Flood(None, chunk(b"12") * 40_000),
    ]
    async with exchange(flood) as (_, link):
        with pytest.raises(GatewayError, match="4002"):
            await whole_answer(link, 20_000_000)


# pulled


async def test_pieces_come_as_they_arrive() -> None:
    taken = asyncio.Event()
    pieces: list[bytes] = []

    async with exchange([sse_head(), chunk(b"one"), WaitFor(taken), chunk(b"two"), LAST_CHUNK]) as (_, link):
        await link.answer()
        async for piece in link.pieces():
            pieces.append(piece)
            taken.set()
    assert pieces == [b"one", b"two"]


async def test_who_takes_no_pieces_stops_the_upstream() -> None:
    piece = chunk(b"x" * 65_536)
    total = 1000
    async with exchange([sse_head(), Flood(total * len(piece), piece), Send(LAST_CHUNK)]) as (chaos, link):
        await link.answer()
        assert await stalled(chaos) < IN_FLIGHT_LIMIT_BYTES
        assert link.reading_paused
        assert sum([len(piece) async for piece in link.pieces()]) == total * 65_536


async def test_pieces_end_with_what_broke_the_body_off() -> None:
    taken = b""
    async with exchange([sse_head(), chunk(b"one"), b"9\r\ntw", Close()]) as (_, link):
        await link.answer()
        pieces = link.pieces()
        while taken != b"onetw":
            taken += await anext(pieces)
        with pytest.raises(GatewayError, match="5000"):
            await anext(pieces)


# relayed


async def test_a_relay_writes_the_head_and_the_upstreams_own_chunks() -> None:
    wire = sse_answer(SHORT)
    async with connected_client() as (client, reader), exchange(wire) as (_, link):
        await link.answer()
        await link.relay(client, b"HEAD|", chunked=True)
        assert await reader.readexactly(5) == b"HEAD|"
        body = wire.partition(b"\r\n\r\n")[2]
        assert await reader.readexactly(len(body)) == body
        assert link.relayed_bytes == len(SHORT_PAYLOAD)
        assert link.first_body_at is not None
        assert client.relay is None


async def test_what_was_relayed_is_counted_in_payload_whatever_the_reads_were() -> None:
    pieces = [piece for piece in EVENTS[:40] if len(piece) > 200]
    for steps in ([b"".join(map(chunk, pieces))], list(map(chunk, pieces)), [Trickle(b"".join(map(chunk, pieces)), 7)]):
        script: Script = [sse_head(), *steps, LAST_CHUNK]
        async with connected_client() as (client, _), exchange(script) as (_, link):
            await link.answer()
            await link.relay(client, b"", chunked=True)
            assert link.relayed_bytes == sum(map(len, pieces))


@pytest.mark.parametrize(
    "script",
    [
        [sse_answer(EVENTS[:40])],
        [answer(b"".join(EVENTS[:40]), "text/event-stream")],
        [head(200, ("Content-Type", "text/event-stream")), b"".join(EVENTS[:40]), Close()],
    ],
)
@pytest.mark.parametrize("chunked", [True, False])
async def test_every_framing_can_be_relayed_in_either(script: Script, chunked: bool) -> None:
    expected = b"".join(EVENTS[:40])
    async with connected_client() as (client, reader), exchange(script) as (_, link):
        await link.answer()
        await link.relay(client, b"", chunked=chunked)
        received = Dechunker()
        if not chunked:
            received.payload += await reader.readexactly(len(expected))
        while chunked and not received.ended:
            received.feed(await reader.read(65_536))
        assert received.payload == expected
        assert expected.endswith(link.tail)
        assert len(link.tail) >= 100


async def test_a_relay_that_breaks_off_says_how_to_add_a_last_payload() -> None:
    for broken in (chunk(b"one"), chunk(b"one")[:-1], chunk(b"one")[:-2], chunk(b"one")[:-3], b"ff;x\r\none"):
        async with connected_client() as (client, reader), exchange([sse_head(), broken, Close()]) as (_, link):
            await link.answer()
            with pytest.raises(GatewayError, match="5000"):
                await link.relay(client, b"", chunked=True)
            assert client.transport is not None
            client.transport.write(link.append(b" and the last"))
            client.transport.close()
            received = Dechunker()
            received.feed(await reader.read())
            assert b"one and the last".startswith(link.tail)
            assert received.payload == link.tail + b" and the last"
            assert not received.ended


async def test_an_end_that_the_connection_alone_tells_is_judged_by_its_tail() -> None:
    script: Script = [head(200, ("Content-Type", "text/event-stream")), b"data: 1\n\n", Close()]
    for whole in (True, False):
        async with connected_client() as (client, reader), exchange(script) as (_, link):
            await link.answer()
            relaying = link.relay(client, b"", chunked=True, looks_whole=lambda tail, whole=whole: whole)  # type: ignore[misc]
            if whole:
                await relaying
            else:
                with pytest.raises(GatewayError, match="5000"):
                    await relaying
            assert client.transport is not None
            client.transport.close()
            assert (await reader.read()).endswith(LAST_CHUNK) is whole


async def test_a_relay_to_a_client_that_has_gone_does_not_begin() -> None:
    async with exchange([sse_head(), Hang()]) as (_, link):
        await link.answer()
        with pytest.raises(ConnectionResetError):
            await link.relay(Client(), b"", chunked=True)


# the request


async def test_sending_waits_for_an_upstream_that_reads_slowly() -> None:
    read_on = asyncio.Event()
    piece = bytes(65_536)
    sent_bytes = 0

    async with exchange([ReadBody(0), WaitFor(read_on), ReadBody(50_000_000), json_answer({})], request=UPLOAD) as (
        _,
        link,
    ):

        async def send() -> None:
            nonlocal sent_bytes
            for _ in range(800):
                await link.send_more(piece)
                sent_bytes += len(piece)

        sending = asyncio.create_task(send())
        last = -1
        while sent_bytes != last:
            last = sent_bytes
            await asyncio.sleep(0.2)
        assert sent_bytes < IN_FLIGHT_LIMIT_BYTES
        read_on.set()
        await link.answer()
        await sending


async def send_for_ever(link: UpstreamConnection) -> None:
    while True:
        await link.send_more(bytes(65_536))


async def test_sending_to_an_upstream_that_has_gone_is_4001() -> None:
    async with exchange([ReadBody(0), Cut()], request=UPLOAD) as (_, link):
        with pytest.raises(GatewayError, match="4001"):
            await send_for_ever(link)


async def test_nothing_is_held_beyond_what_a_reader_may_need() -> None:
    """A client that takes none of a download costs two reads of memory."""
    async with exchange([head(200, ("Content-Type", "audio/mpeg")), Flood(None, b"x" * 65_536)]) as (chaos, link):
        await link.answer()
        await stalled(chaos)
        assert sum(map(len, link._pieces)) < HELD_BYTES + 300_000
