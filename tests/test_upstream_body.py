"""Where an upstream's body ends: the framings byte for byte, and what an upstream that breaks them can do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gateway.upstream.body import LAST_CHUNK, ChunkedBody, CloseBody, LengthBody, body_of, frame
from gateway.upstream.head import parse_head
from tests.chaos import chunk, head, sse_head
from tests.lockstep import CLOSE, Dechunker, Lockstep, chat_request
from tests.support import Gateway
from tests.test_relay_cuts import data_of_events
from tests.test_streams import CHUNKINGS, FRONTS, SHORT_PAYLOAD

TRAILERS = b"0\r\nX-Checksum: 1\r\nX-More: 2\r\n\r\n"
BODIES = {
    **{name: body.wire for name, body in CHUNKINGS.items()},
    "trailers": CHUNKINGS["an event a chunk"].wire.removesuffix(LAST_CHUNK) + TRAILERS,
}


def halves(wire: bytes) -> Iterator[tuple[bytes, bytes]]:
    for offset in range(len(wire) + 1):
        yield wire[:offset], wire[offset:]


@pytest.mark.parametrize("wire", BODIES.values(), ids=BODIES)
def test_a_chunked_body_gives_the_same_payload_wherever_it_is_cut(wire: bytes) -> None:
    for first, second in halves(wire):
        body = ChunkedBody()
        framed: list[bytes] = []
        payload = b"".join([*body.feed(first, framed), *body.feed(second, framed)])
        received = Dechunker()
        received.feed(b"".join(framed))
        assert body.done
        assert not body.surplus
        assert payload == received.payload == SHORT_PAYLOAD
        assert received.ended


@pytest.mark.parametrize("wire", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_a_chunked_body_may_come_in_crumbs(wire: bytes, size: int) -> None:
    body = ChunkedBody()
    payload: list[bytes] = []
    for start in range(0, len(wire), size):
        assert not body.done
        payload += body.feed(wire[start : start + size])
    assert body.done
    assert b"".join(payload) == SHORT_PAYLOAD


def test_plain_chunks_pass_as_they_are() -> None:
    """No joining, no splitting: what is passed on of a read is the read itself, without a copy."""
    wire = chunk(b"one") + chunk(b"two") + chunk(b"three")[:5]
    framed: list[bytes] = []
    ChunkedBody().feed(wire, framed)
    assert len(framed) == 1
    assert framed[0] is wire


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (chunk(b"data: 1\n\n"), 9),
        (b"a\r\n0123456789\r\n", 10),
        (b"A\r\n0123456789\r\n", 10),
        (chunk(b"x" * 0xFF), 0xFF),
        (chunk(b"x" * 0x100), 0x100),
        (b"00A\r\n0123456789\r\n", 0),  # the long path takes it
        (b"9\r\n0123456789\r\n", 0),
        (b"b\r\n0123456789\r\n", 0),
        (b"\r\n", 0),
        (chunk(b"a") + chunk(b"b"), 0),
        (chunk(b"data")[:-1], 0),
        (b"4;x\r\ndata\r\n", 0),
        (LAST_CHUNK, 0),
        (b"4\r\ndata\n\n", 0),
        (b"", 0),
    ],
)
def test_the_shortest_path_takes_exactly_one_whole_chunk(data: bytes, size: int) -> None:
    assert ChunkedBody().one_chunk(data) == size


@pytest.mark.parametrize("wire", BODIES.values(), ids=BODIES)
def test_a_last_payload_can_be_added_wherever_a_relay_stopped(wire: bytes) -> None:
    for first, _ in halves(wire[: wire.rindex(b"0\r\n")]):
        body = ChunkedBody()
        framed: list[bytes] = []
        payload = b"".join(body.feed(first, framed))
        for added in (b"x", b"data: {}\n\n" * 100):
            received = Dechunker()
            received.feed(b"".join(framed) + body.append(added))
            assert received.payload == payload + added
            assert not received.ended


def test_bytes_behind_a_body_are_surplus() -> None:
    for first, second in halves(CHUNKINGS["an event a chunk"].wire + b"HTTP/1.1 200 OK\r\n"):
        body = ChunkedBody()
        payload = body.feed(first)
        if not body.done:
            payload += body.feed(second)
            assert body.surplus
        assert b"".join(payload) == SHORT_PAYLOAD


NONSENSE = {
    "no number": b"zz\r\n",
    "a negative number": b"-5\r\nhello\r\n",
    "a prefix": b"0x5\r\nhello\r\n",
    "a sign": b"+5\r\nhello\r\n",
    "nothing": b"\r\n\r\n",
    "a bare LF": b"5\nhello\n",
    "a number beyond all bounds": b"f" * 17 + b"\r\n",
    "an endless number": b"0" * 5000,
    "an endless extension": b"5;" + b"x" * 5000,
    "a long extension": b"5;" + b"x" * 4096 + b"\r\n",
    "a wrong end": b"5\r\nhelloXY",
    "endless trailers": b"0\r\n" + b"X-More: 1\r\n" * 1000,
    "an endless trailer": b"0\r\nX-More: " + b"x" * 9000,
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_found_and_what_came_before_it_is_not_lost(nonsense: bytes) -> None:
    good = chunk(b"one") + b"3;a=b\r\ntwo\r\n"
    for first, second in halves(good):
        body = ChunkedBody()
        framed: list[bytes] = []
        payload = body.feed(first, framed)
        assert body.fault is None
        payload += body.feed(second + nonsense, framed)
        assert body.fault is not None
        assert body.fault.code.code == "4002"
        assert not body.done
        assert b"".join(payload) == b"onetwo"
        received = Dechunker()
        received.feed(b"".join(framed) + body.append(b"!"))
        assert received.payload == b"onetwo!"


READ_BYTES = 262_144


@pytest.mark.parametrize("crumb", [chunk(b"x"), chunk(b"xx"), b"1;a\r\nx\r\n", b"0001\r\nx\r\n"])
def test_a_read_of_nothing_but_crumbs_is_nonsense(crumb: bytes) -> None:
    body = ChunkedBody()
    framed: list[bytes] = []
    payload = body.feed(crumb * (READ_BYTES // len(crumb)), framed)
    assert body.fault is not None
    assert body.fault.code.code == "4002"
    assert 4096 <= len(payload) < 4200
    received = Dechunker()
    received.feed(b"".join(framed) + body.append(b"!"))
    assert received.payload == b"".join(payload) + b"!"


@pytest.mark.parametrize(
    ("piece", "count"), [(b"x", 4096), (b"data: 1\n\n", READ_BYTES // 14)], ids=["a thousand crumbs", "small events"]
)
def test_small_chunks_are_no_nonsense(piece: bytes, count: int) -> None:
    body = ChunkedBody()
    assert b"".join(body.feed(chunk(piece) * count + LAST_CHUNK)) == piece * count
    assert body.done
    assert body.fault is None


def test_a_long_head_of_a_chunk_is_not_held_for_ever() -> None:
    body = ChunkedBody()
    fed_bytes = 0
    while body.fault is None:
        body.feed(b"0")
        fed_bytes += 1
    assert fed_bytes < 5000


def test_a_body_of_a_known_length_ends_there() -> None:
    for first, second in halves(b"hello and more"):
        body = LengthBody(5)
        payload = body.feed(first)
        assert body.done is (len(first) >= 5)
        assert body.end_of_stream() is body.done
        payload += body.feed(second) if not body.done else []
        assert b"".join(payload) == b"hello"
        assert body.surplus is (len(first) > 5 or len(first) < 5)


def test_a_body_until_close_ends_with_the_connection() -> None:
    body = CloseBody()
    assert body.feed(b"") == []
    assert body.feed(b"hello") == [b"hello"]
    assert not body.done
    assert body.end_of_stream()
    assert body.done


def test_a_chunked_body_does_not_end_with_the_connection() -> None:
    for first, _ in halves(CHUNKINGS["an event a chunk"].wire):
        body = ChunkedBody()
        body.feed(first)
        assert body.end_of_stream() is (first.endswith(LAST_CHUNK))


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ([("Transfer-Encoding", "chunked")], ChunkedBody),
        ([("Content-Length", "5")], LengthBody),
        ([], CloseBody),
    ],
)
def test_the_head_decides_the_framing(fields: list[tuple[str, str]], kind: type) -> None:
    assert isinstance(body_of(parse_head(head(200, *fields))), kind)


def test_a_frame_is_a_chunk() -> None:
    assert frame(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


# through a running gateway


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_a_stream_that_turns_into_nonsense_ends_with_an_error_event(
    gateway: Gateway, nonsense: bytes, front: str
) -> None:
    wire = chunk(b"data: 1\n\n") + b"9;a=b\r\ndata: 2\n\n\r\n" + nonsense
    with Lockstep(gateway) as lockstep:
        for offset in (0, *range(20, 36), len(wire)):
            with lockstep.begin(chat_request(gateway, front)) as exchange:
                exchange.upstream.sendall(sse_head(CLOSE) + wire[:offset])
                exchange.settle()
                exchange.upstream.sendall(wire[offset:])
                exchange.read_head()
                exchange.read_end()
                assert not exchange.ended
                *data, error = data_of_events(bytes(exchange.payload))
                assert data == ([b"1", b"2"])
                assert json.loads(error)["error"]["code"] == "4002"
