"""Streams pass byte for byte and as they come, on both fronts, in every framing, cut at every offset."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import pytest

from tests.chaos import LAST_CHUNK, Chaos, Exchange, chunk, head, recorded_stream, sse_head
from tests.lockstep import CLOSE, Dechunker, Lockstep, chat_request
from tests.support import Gateway

FRONTS = ("native", "custom")
EVENT_STREAM = ("Content-Type", "text/event-stream")
STREAM = recorded_stream()
EVENTS = re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", STREAM)[:-1]
BIG = max(range(len(EVENTS)), key=lambda number: len(EVENTS[number]))
FEATURES = EVENTS[:14]
"""The first 3 KB of the recorded stream: CRLF, comments, ids, CJK, several lines of data and none."""
SHORT = [*FEATURES, ": 🌻 向日葵\r\n\r\n".encode(), b"data: [DONE]\n\n"]


@dataclass(frozen=True)
class Body:
    """A body as the upstream frames it. `delivered[n]` is how much payload its first n bytes give a client."""

    wire: bytes
    delivered: Sequence[int]


def plain_body(payload: bytes) -> Body:
    return Body(payload, range(len(payload) + 1))


def chunked_body(
    pieces: Iterable[bytes], head_of: Callable[[bytes], bytes] = lambda piece: b"%x\r\n" % len(piece)
) -> Body:
    """A chunk a piece, each under the head that `head_of` gives it."""
    wire = b""
    delivered = [0]
    for piece in pieces:
        before = delivered[-1]
        delivered += [before] * len(head_of(piece))
        delivered += range(before + 1, before + len(piece) + 1)
        delivered += [before + len(piece)] * 2
        wire += head_of(piece) + piece + b"\r\n"
    return Body(wire + LAST_CHUNK, delivered + [delivered[-1]] * len(LAST_CHUNK))


def resized(payload: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """The payload in pieces of these sizes, and the rest."""
    start = 0
    for size in sizes:
        yield payload[start : start + size]
        start += size
    yield payload[start:]


def play(lockstep: Lockstep, request: bytes, answer_head: bytes, body: Body, cuts: Iterable[int]) -> bytes:
    """Sends the body in pieces that end at `cuts`, each when all before it has arrived; the payload that came of it."""
    with lockstep.begin(request) as exchange:
        exchange.upstream.sendall(answer_head)
        exchange.read_head()
        for start, end in pairwise([0, *cuts, len(body.wire)]):
            exchange.upstream.sendall(body.wire[start:end])
            if body.delivered[end] > body.delivered[start]:
                exchange.read_payload(body.delivered[end])
            else:
                exchange.settle()
        exchange.upstream.close()
        exchange.read_end()
        assert exchange.ended
        return bytes(exchange.payload)


def play_all_cuts(
    lockstep: Lockstep, request: bytes, answer_head: bytes, body: Body, offsets: Sequence[int], expected: bytes
) -> None:
    """Cuts the body at each of the offsets, some hundred bytes apart in each call, all of them over all calls."""
    stride = 97
    for phase in range(stride):
        assert play(lockstep, request, answer_head, body, offsets[phase::stride]) == expected


def test_the_recorded_stream_passes_whole_however_it_is_cut(gateway: Gateway) -> None:
    body = chunked_body(EVENTS)
    inside = body.wire.index(EVENTS[BIG])
    inside_end = inside + len(EVENTS[BIG])
    offsets = [
        offset
        for offset in range(1, len(body.wire))
        if not inside + 64 < offset < inside_end - 64 or (offset - inside) % 4099 == 0
    ]
    with Lockstep(gateway) as lockstep:
        play_all_cuts(lockstep, chat_request(gateway), sse_head(CLOSE), body, offsets, STREAM)


CHUNKINGS = {
    "an event a chunk": chunked_body(SHORT),
    "many events a chunk": chunked_body([b"".join(SHORT[:5]), b"".join(SHORT[5:])]),
    "events split over chunks": chunked_body(resized(b"".join(SHORT), [1, 2, 3, 5, 8, 13, 21] * 40)),
    "chunk extensions": chunked_body(SHORT, lambda piece: b'%x ;name="a;b" ; x\r\n' % len(piece)),
    "upper-case hex with zeros": chunked_body(SHORT, lambda piece: b"%06X\r\n" % len(piece)),
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_every_chunking_passes_cut_at_every_offset(gateway: Gateway, chunking: str, front: str) -> None:
    body = CHUNKINGS[chunking]
    with Lockstep(gateway) as lockstep:
        request = chat_request(gateway, front)
        play_all_cuts(lockstep, request, sse_head(CLOSE), body, range(1, len(body.wire)), b"".join(SHORT))


SHORT_PAYLOAD = b"".join(SHORT)
FRAMINGS = {
    "Content-Length": head(200, EVENT_STREAM, ("Content-Length", str(len(SHORT_PAYLOAD))), CLOSE),
    "the connection's end": head(200, EVENT_STREAM, CLOSE),
    "HTTP/1.0": head(200, EVENT_STREAM, version="1.0"),
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_stream_without_chunks_passes_cut_at_every_offset(gateway: Gateway, framing: str, front: str) -> None:
    body = plain_body(SHORT_PAYLOAD)
    with Lockstep(gateway) as lockstep:
        request = chat_request(gateway, front)
        play_all_cuts(lockstep, request, FRAMINGS[framing], body, range(1, len(body.wire)), SHORT_PAYLOAD)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("answer_head", [sse_head(CLOSE), *FRAMINGS.values()], ids=["chunked", *FRAMINGS])
def test_a_client_of_http_1_0_gets_the_bare_payload(gateway: Gateway, answer_head: bytes, front: str) -> None:
    body = CHUNKINGS["events split over chunks"] if b"chunked" in answer_head else plain_body(SHORT_PAYLOAD)
    with Lockstep(gateway) as lockstep:
        request = chat_request(gateway, front, version="1.0")
        play_all_cuts(lockstep, request, answer_head, body, range(1, len(body.wire)), SHORT_PAYLOAD)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("answer_head", [sse_head(CLOSE), *FRAMINGS.values()], ids=["chunked", *FRAMINGS])
def test_the_head_may_be_cut_anywhere_and_bring_the_whole_body_along(
    gateway: Gateway, answer_head: bytes, front: str
) -> None:
    body = CHUNKINGS["events split over chunks"] if b"chunked" in answer_head else plain_body(SHORT_PAYLOAD)
    wire = answer_head + body.wire
    with Lockstep(gateway) as lockstep:
        for offset in range(len(answer_head) + 8):
            with lockstep.begin(chat_request(gateway, front)) as exchange:
                exchange.upstream.sendall(wire[:offset])
                exchange.settle()
                exchange.upstream.sendall(wire[offset:])
                exchange.upstream.close()
                exchange.read_head()
                exchange.read_end()
                assert exchange.ended
                assert exchange.payload == SHORT_PAYLOAD


@pytest.mark.parametrize("front", FRONTS)
async def test_no_event_waits_for_the_next(gateway: Gateway, front: str) -> None:
    """The upstream sends an event only when the client has the one before: any waiting would last for ever."""
    arrived = asyncio.Event()
    sent_at = 0.0
    delays_s = []

    async def upstream(exchange: Exchange) -> None:
        nonlocal sent_at
        await exchange.read_body()
        await exchange.send(sse_head())
        for event in EVENTS[:200]:
            arrived.clear()
            sent_at = time.monotonic()
            await exchange.send(chunk(event))
            await arrived.wait()
        await exchange.send(LAST_CHUNK)

    async with asyncio.timeout(20), Chaos(upstream, port=gateway.upstream_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(chat_request(gateway, front))
        await reader.readuntil(b"\r\n\r\n")
        received = Dechunker()
        for size in map(len, EVENTS[:200]):
            expected = len(received.payload) + size
            while len(received.payload) < expected:
                received.feed(await reader.read(65_536))
            delays_s.append(time.monotonic() - sent_at)
            arrived.set()
        writer.close()
    assert received.payload == b"".join(EVENTS[:200])
    assert median(delays_s) < 0.02, "a delayed ACK with Nagle's algorithm at work costs 40 ms"
    assert sorted(delays_s)[-5] < 0.15
