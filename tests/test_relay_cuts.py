"""A cut answer never looks like a finished one: the upstream breaks off at every byte, cleanly or with a reset."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.chaos import head, sse_head
from tests.lockstep import CLOSE, Exchange, Lockstep, call_request, chat_request
from tests.support import Gateway, parse_answer
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
def test_a_stream_cut_at_any_byte_ends_with_an_error_event(gateway: Gateway, framing: str, front: str, end: str) -> None:
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
    unfinished = sent[sent.rfind(b"\n\r\n") + 3 :]
    if sent.endswith((b"data: [DONE]", b"data: [DONE]\n")):
        assert exchange.payload == sent
        return
    found = data_of_events(bytes(exchange.payload))
    assert json.loads(found.pop())["error"]["code"] == "5000"
    assert (b"[DONE]" in found) == (sent == STREAM)
    complete = data_of_events(sent)
    assert found[: len(complete)] == complete
    assert len(found) - len(complete) <= 1, unfinished  # the unfinished event, ended


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
