"""A cut answer never looks like a finished one: the upstream breaks off at every byte, cleanly or with a reset."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos import Chaos, Flood, Hang, ReadBody, Script, Step, Trickle, chunk, head, sse_head, stalled_connect
from tests.lockstep import CLOSE, UPLOAD_END, Exchange, Lockstep, call_request, chat_request, upload_request
from tests.support import Gateway, exchange, gateway_before_chaos, gateway_process, parse_answer
from tests.test_streams import EVENT_STREAM, EVENTS, FRONTS, Body, chunked_body, plain_body

ENDS = ("FIN", "RST")
PIECES = [*EVENTS[:6], EVENTS[8], EVENTS[10], ": 🌻 向日葵\r\n\r\n".encode(), b"data: [DONE]\n\n"]
STREAM = b"".join(PIECES)
CHUNKS = chunked_body(PIECES, lambda piece: b"%x\r\n" % len(piece) if len(piece) % 2 else b"%X;a=b\r\n" % len(piece))
STREAMS = {
    "chunked": (sse_head(CLOSE), CHUNKS),
    "Content-Length": (head(200, EVENT_STREAM, ("Content-Length", str(len(STREAM))), CLOSE), plain_body(STREAM)),
    "the connection's end": (head(200, EVENT_STREAM, CLOSE), plain_body(STREAM)),
}
RESULT = json.dumps({"object": "list", "data": [{"embedding": [0.5, -1e-7]}], "text": "向日葵 🌻"}).encode()
JSON_TYPE = ("Content-Type", "application/json")
JSON_ANSWERS = {
    "chunked": (
        head(200, JSON_TYPE, ("Transfer-Encoding", "chunked"), CLOSE),
        chunked_body([RESULT[:30], RESULT[30:]]).wire,
    ),
    "Content-Length": (head(200, JSON_TYPE, ("Content-Length", str(len(RESULT))), CLOSE), RESULT),
    "the connection's end": (head(200, JSON_TYPE, CLOSE), RESULT),
}


def data_of_events(stream: bytes) -> list[bytes]:
    """The data of each complete event, as a browser finds it."""
    *lines, _ = re.split(rb"\r\n|\r|\n", stream)
    found: list[bytes] = []
    data: list[bytes] = []
    for line in lines:
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            found.append(b"\n".join(data))
            data = []
    return found


def break_off(exchange: Exchange, wire: bytes, end: str) -> None:
    """The upstream sends `wire` and is gone; the client reads what comes of it."""
    exchange.upstream.sendall(wire)
    if end == "RST":
        exchange.cut()
    else:
        exchange.upstream.close()
    if not exchange.head:
        exchange.read_head()
    exchange.read_end()


def refusal(exchange: Exchange, front: str) -> str:
    """The error code of a whole answer, which its header must carry too."""
    answer = parse_answer(exchange.head + b"\r\n\r\n" + exchange.payload)
    assert answer.complete
    assert answer.status == (200 if front == "custom" else 502)
    code: Any = answer.json["error_code"] if front == "custom" else answer.json["error"]["code"]
    assert isinstance(code, str)
    assert answer.headers["x-error-code"] == code
    return code


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("framing", STREAMS)
def test_a_stream_cut_at_any_byte_ends_with_an_error_event(
    gateway: Gateway, framing: str, front: str, end: str
) -> None:
    answer_head, body = STREAMS[framing]
    wire = answer_head + body.wire
    with Lockstep(gateway) as lockstep:
        for offset in range(len(wire)):
            with lockstep.begin(chat_request(gateway, front)) as exchange:
                break_off(exchange, wire[:offset], end)
                if offset < len(answer_head):
                    assert refusal(exchange, front) == "4001"
                else:
                    assert_cut(exchange, body, offset - len(answer_head))


def assert_cut(exchange: Exchange, body: Body, offset: int) -> None:
    """The client has what the body's first `offset` bytes hold, and was told that more should have come."""
    assert b"X-Error-Code" not in exchange.head
    assert not exchange.ended, "a last chunk was sent"
    sent = STREAM[: body.delivered[offset]]
    assert exchange.payload.startswith(sent)
    if sent.endswith((b"data: [DONE]", b"data: [DONE]\n")):
        assert exchange.payload == sent
        return
    found = data_of_events(bytes(exchange.payload))
    assert json.loads(found.pop())["error"]["code"] == "5000"
    assert (b"[DONE]" in found) == (sent == STREAM)
    complete = data_of_events(sent)
    assert found[: len(complete)] == complete
    assert len(found) - len(complete) <= 1  # an unfinished event is ended, so that the error is one of its own


AUDIO_TYPE = ("Content-Type", "audio/mpeg")
FILES = {
    "chunked": (head(200, AUDIO_TYPE, ("Transfer-Encoding", "chunked"), CLOSE), chunk(b"ID3"), ENDS),
    "Content-Length": (head(200, AUDIO_TYPE, ("Content-Length", "100"), CLOSE), b"ID3", ENDS),
    "the connection's end": (head(200, AUDIO_TYPE, CLOSE), b"ID3", ("RST",)),  # with a FIN it would be whole
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("framing", FILES)
def test_a_file_that_is_cut_does_not_end_like_a_whole_one(
    gateway: Gateway, framing: str, front: str, version: str
) -> None:
    """On HTTP/1.0, where the end of the connection may be the body's, it ends with a reset."""
    answer_head, beginning, ends = FILES[framing]
    request = call_request(gateway, "v1/audio/speech", {"input": "a"}, front, version)
    with Lockstep(gateway) as lockstep:
        for end in ends:
            with lockstep.begin(request) as exchange:
                exchange.upstream.sendall(answer_head + beginning)
                exchange.read_head()
                exchange.read_payload(3)
                break_off(exchange, b"", end)
                assert exchange.payload == b"ID3"
                assert not exchange.ended


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("front", FRONTS)
def test_a_stream_cut_in_its_done_does_not_end_like_a_whole_one_on_http_1_0(
    gateway: Gateway, front: str, end: str
) -> None:
    """An error event behind it would complete the `[DONE]`."""
    request = chat_request(gateway, front, version="1.0")
    beginning = b'data: {"n": 1}\n\ndata: [DONE]'
    with Lockstep(gateway) as lockstep, lockstep.begin(request) as exchange:
        exchange.upstream.sendall(sse_head(CLOSE) + chunk(beginning))
        exchange.read_head()
        exchange.read_payload(len(beginning))
        break_off(exchange, b"", end)
        assert exchange.payload == beginning
        assert not exchange.ended


@pytest.mark.parametrize("result_type", ["json", "jsonu"])
@pytest.mark.parametrize("front", FRONTS)
def test_a_stream_that_is_cut_on_http_1_0_says_so_in_its_last_event(
    gateway: Gateway, front: str, result_type: str
) -> None:
    request = chat_request(gateway, front, version="1.0", result_type=result_type)
    with Lockstep(gateway) as lockstep, lockstep.begin(request) as exchange:
        break_off(exchange, sse_head(CLOSE) + chunk(b"data: 1\n\n"), "FIN")
        first, error = data_of_events(bytes(exchange.payload))
        assert first == b"1"
        assert json.loads(error)["error"]["code"] == "5000"


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("framing", JSON_ANSWERS)
def test_a_json_answer_cut_at_any_byte_is_an_error(gateway: Gateway, framing: str, front: str, end: str) -> None:
    answer_head, body = JSON_ANSWERS[framing]
    wire = answer_head + body
    request = call_request(gateway, "v1/embeddings", {"input": "a"}, front)
    with Lockstep(gateway) as lockstep:
        for offset in range(len(wire)):
            with lockstep.begin(request) as exchange:
                break_off(exchange, wire[:offset], end)
                code = refusal(exchange, front)
                if offset < len(answer_head):
                    assert code == "4001"
                else:
                    assert code in {"4002", "5000"}


DEADLINE_S = 0.3
TOTAL_S = 1.0
DEADLINES = f"""
connect_timeout_s = {DEADLINE_S}
first_byte_timeout_s = {DEADLINE_S}
idle_timeout_s = {DEADLINE_S}
total_timeout_s = {TOTAL_S}
"""


@pytest.fixture(scope="module")
def impatient() -> Iterator[Gateway]:
    """A gateway whose deadlines are short."""
    with gateway_before_chaos(upstream_config=DEADLINES) as running:
        yield running


async def assert_timed_out(gateway: Gateway, script: Script, *requests: bytes) -> None:
    """The calls are refused with 4017, and their upstream connections closed. They wait side by side."""
    async with asyncio.timeout(10), Chaos(script, port=gateway.upstream_port) as chaos:
        for refused in await asyncio.gather(*(exchange(gateway, request) for request in requests)):
            assert refused.complete
            assert refused.status in {200, 504}
            assert refused.headers["x-error-code"] == "4017"
            assert b"4017" in refused.body
        for connection in chaos.connections:
            await connection.closed.wait()


def embeddings(gateway: Gateway) -> list[bytes]:
    return [closing(call_request(gateway, "v1/embeddings", {"input": "a"}, front)) for front in FRONTS]


def closing(request: bytes) -> bytes:
    return request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


INTERIM = head(103, ("Link", "</a>"))
SILENCES: dict[str, Script] = {
    "no byte": [Hang()],
    "half a head": [b"HTTP/1.1 200 OK\r\nX: ", Hang()],
    "a head in drops": [Trickle(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, pause_s=0.01), Hang()],
    "interim answers for ever": [Trickle(INTERIM * 1000, size=len(INTERIM), pause_s=0.01), Hang()],
    "a flood of interim answers": [Flood(None, INTERIM * 1000)],
    "half an answer": [head(200, JSON_TYPE, ("Content-Length", "100")) + b'{"half": ', Hang()],
}


@pytest.mark.parametrize("script", SILENCES.values(), ids=SILENCES)
async def test_an_upstream_that_does_not_answer_in_time_is_4017(impatient: Gateway, script: Script) -> None:
    await assert_timed_out(impatient, script, *embeddings(impatient))


async def test_an_upload_that_the_upstream_does_not_take_is_4017(impatient: Gateway) -> None:
    size = 20_000_000
    requests = [closing(upload_request(impatient, front, size)) + bytes(size) + UPLOAD_END for front in FRONTS]
    async with asyncio.timeout(10), Chaos([ReadBody(0), Hang()], port=impatient.upstream_port):
        for refused in await asyncio.gather(*(exchange(impatient, request) for request in requests)):
            assert refused.headers["x-error-code"] == "4017"


async def test_a_connection_that_does_not_come_about_is_4017() -> None:
    async with stalled_connect() as base_url:
        with gateway_process(upstream=base_url, upstream_config=DEADLINES) as gateway:
            for refused in await asyncio.gather(*(exchange(gateway, request) for request in embeddings(gateway))):
                assert refused.headers["x-error-code"] == "4017"


EVENT = b'data: {"n":1}\n\n'
STALLS: dict[str, list[bytes | Step]] = {
    "before the first event": [Hang()],
    "between two events": [chunk(EVENT), Hang()],
    "in an event": [chunk(EVENT), chunk(b"data: {"), Hang()],
    "in a chunk": [chunk(EVENT), b"ff\r\ndata: {", Hang()],
    "never, but goes on for ever": [Trickle(chunk(EVENT) * 1000, size=len(chunk(EVENT)), pause_s=0.02)],
}


@pytest.mark.parametrize("script", STALLS.values(), ids=STALLS)
async def test_a_stream_that_stalls_ends_with_an_error_event(impatient: Gateway, script: list[bytes | Step]) -> None:
    requests = [
        chat_request(impatient, front, result_type=result_type) for front in FRONTS for result_type in ("json", "jsonu")
    ]
    async with asyncio.timeout(10), Chaos([sse_head(), *script], port=impatient.upstream_port) as chaos:
        for cut in await asyncio.gather(*(exchange(impatient, request) for request in requests)):
            assert cut.status == 200
            assert "x-error-code" not in cut.headers
            assert not cut.complete
            *events, error = data_of_events(cut.body)
            assert json.loads(error)["error"]["code"] == "4017"
            assert events[:1] == [b'{"n":1}'] * (len(script) > 1 or bool(events))
        for connection in chaos.connections:
            await connection.closed.wait()
