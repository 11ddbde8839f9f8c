"""Streams in another format: one event in, one event out, as soon as it is whole, wherever the bytes were cut."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from gateway_plugins import jsonu, serialize, var_export, xml

from gateway.hookspecs import FormatterSpec
from gateway.types import Document
from tests.chaos import LAST_CHUNK, Chaos, Flood, Script, chunk, head, sse_answer, sse_head
from tests.lockstep import CLOSE, Lockstep, chat_request
from tests.support import Gateway, call, custom_path, exchange, free_port, gateway_process
from tests.test_relay_cuts import PIECES, STREAMS, break_off, data_of_events
from tests.test_streams import EVENTS, FRONTS, SHORT, Body, chunked_body, plain_body

FORMATS: dict[str, FormatterSpec] = {
    spec.name: spec
    for plugin in (jsonu, serialize, var_export, xml)
    for spec in plugin.gateway_formatters()
    if not spec.standby
}
HARD = [
    b": comment\r\n\r\n",
    b'id: 7\r\nevent: message\r\ndata: {"a":\r\ndata: [1.50, "\xe5\x90\x91\\r\\n\\ud83c\\udf3b"]}\r\nretry: 5\r\n\r\n',
    b"event: ping\n\n",
    b"data: not JSON\ndata:\n\n",
    b'data:"<&\\u0000>"\r\r',
    b"data: 1e400\n\n",
    b"data\n\n",
    b"data:  [DONE]\n\n",
]
"""Beside the recorded stream: each kind of line, each line end, and data that is no JSON."""
EVENTS_IN = [*HARD, *SHORT]


def rendered(spec: FormatterSpec, event: bytes) -> bytes:
    """An event as the contract wants it in this format, computed the plain way."""
    lines = re.split(rb"\r\n|\r|\n", event)[:-2]
    data = [line.removeprefix(b"data").removeprefix(b":").removeprefix(b" ") for line in lines if is_data(line)]
    text = b"\n".join(data)
    if data and text != b"[DONE]" and is_json(text):
        payload = spec.render(Document(text))
        if b"\r" in payload:
            assert spec.render_event is not None
            payload = spec.render_event(Document(text))
        first = next(number for number, line in enumerate(lines) if is_data(line))
        others = [line for line in lines if not is_data(line)]
        lines = [*others[:first], *(b"data: " + line for line in payload.split(b"\n")), *others[first:]]
    return b"\n".join([*lines, b"", b""])


def is_data(line: bytes) -> bool:
    return line == b"data" or line.startswith(b"data:")


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("result_type", FORMATS)
def test_each_event_comes_at_once_and_rendered_like_a_whole_answer(
    gateway: Gateway, result_type: str, front: str
) -> None:
    """The upstream sends an event only when the client has the one before, rendered: none waits for another."""
    spec = FORMATS[result_type]
    expected = b""
    with Lockstep(gateway) as lockstep, lockstep.begin(chat_request(gateway, front, result_type=result_type)) as call:
        call.upstream.sendall(sse_head(CLOSE))
        assert b"\r\nContent-Type: text/event-stream\r\n" in call.read_head()
        for event in [*HARD, *EVENTS]:
            call.upstream.sendall(chunk(event))
            expected += rendered(spec, event)
            call.read_payload(len(expected))
        assert call.payload == expected
        call.upstream.sendall(LAST_CHUNK)
        call.read_end()
        assert call.ended
        assert call.payload == expected


FRAMINGS: dict[str, tuple[bytes, Body]] = {
    "an event a chunk": (sse_head(CLOSE), chunked_body(EVENTS_IN)),
    "one chunk": (sse_head(CLOSE), chunked_body([b"".join(EVENTS_IN)])),
    "the connection's end": (
        head(200, ("Content-Type", "text/event-stream"), CLOSE),
        plain_body(b"".join(EVENTS_IN)),
    ),
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("result_type", FORMATS)
def test_the_events_are_the_same_wherever_the_stream_is_cut(
    gateway: Gateway, result_type: str, framing: str, version: str
) -> None:
    answer_head, body = FRAMINGS[framing]
    expected = b"".join(rendered(FORMATS[result_type], event) for event in EVENTS_IN)
    request = chat_request(gateway, version=version, result_type=result_type)
    stride = 61
    with Lockstep(gateway) as lockstep:
        for phase in range(1, stride + 1):
            with lockstep.begin(request) as call:
                call.upstream.sendall(answer_head)
                for start, end in pairwise([0, *range(phase, len(body.wire), stride), len(body.wire)]):
                    call.settle()
                    call.upstream.sendall(body.wire[start:end])
                call.upstream.close()
                call.read_head()
                call.read_end()
                assert call.ended
                assert call.payload == expected


@pytest.mark.parametrize(
    ("framing", "front", "end"),
    [
        ("chunked", "native", "FIN"),
        ("chunked", "custom", "RST"),
        ("Content-Length", "native", "RST"),
        ("the connection's end", "custom", "FIN"),
    ],
)
def test_a_stream_cut_at_any_byte_ends_with_a_rendered_error(
    gateway: Gateway, framing: str, front: str, end: str
) -> None:
    answer_head, body = STREAMS[framing]
    wire = answer_head + body.wire
    events = [rendered(FORMATS["xml"], event) for event in PIECES]
    with Lockstep(gateway) as lockstep:
        for offset in range(len(answer_head), len(wire)):
            with lockstep.begin(chat_request(gateway, front, result_type="xml")) as call:
                break_off(call, wire[:offset], end)
                assert not call.ended
                assert b"X-Error-Code" not in call.head
                whole = complete_events(body.delivered[offset - len(answer_head)])
                expected = b"".join(events[:whole])
                assert call.payload.startswith(expected)
                (error,) = data_of_events(bytes(call.payload.removeprefix(expected)))
                assert b"<code>5000</code>" in error


def complete_events(size: int) -> int:
    """How many of PIECES are complete in the first `size` bytes; a CR that ends the blank line is enough."""
    ends = [len(b"".join(PIECES[: number + 1])) - PIECES[number].endswith(b"\r\n") for number in range(len(PIECES))]
    return sum(end <= size for end in ends)


@pytest.fixture(scope="module")
def strict() -> Iterator[Gateway]:
    """A gateway that holds no event above 64 KB."""
    port = free_port()
    config = "[stream]\nmax_event_bytes = 65536\n"
    with gateway_process(upstream=f"http://127.0.0.1:{port}/v1", config=config) as running:
        running.upstream_port = port
        yield running


ENDLESS = {
    "an endless line": b"data: " + b"x" * 65_536,
    "an endless payload": b"data: 1\n" * 8192,
    "endless empty comments": b":\n" * 32_768,
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("piece", ENDLESS.values(), ids=ENDLESS)
async def test_an_event_without_end_is_cut_off_in_bounded_memory(strict: Gateway, piece: bytes, front: str) -> None:
    before = strict.resident_bytes
    script: Script = [sse_head(), chunk(b"data: 1\n\n"), Flood(None, chunk(piece))]
    async with Chaos(script, port=strict.upstream_port) as chaos:
        cut = await exchange(strict, chat_request(strict, front, result_type="jsonu"))
        await chaos.connections[0].closed.wait()
    assert strict.resident_bytes - before < 4_000_000
    assert not cut.complete
    first, error = data_of_events(cut.body)
    assert first == b"1"
    assert json.loads(error)["error"]["code"] == "5000"
    assert "65536" in json.loads(error)["error"]["message"]


@pytest.mark.parametrize("front", FRONTS)
async def test_an_event_that_cannot_be_rendered_ends_the_stream_with_an_error(gateway: Gateway, front: str) -> None:
    deep = b"data: " + b"[" * 251 + b"]" * 251 + b"\n\n"
    script = [sse_head(), chunk(b"data: 1\n\n"), chunk(deep), chunk(b"data: 2\n\n"), chunk(b"data: [DONE]\n\n")]
    async with Chaos(script, port=gateway.upstream_port) as chaos:
        cut = await exchange(gateway, chat_request(gateway, front, result_type="jsonu"))
        await chaos.connections[0].closed.wait()
    assert not cut.complete
    first, error = data_of_events(cut.body)
    assert first == b"1"
    assert json.loads(error)["error"]["code"] == "5000"


async def test_a_last_event_without_its_blank_line_counts_where_the_framing_ends_cleanly(gateway: Gateway) -> None:
    """The byte-exact path calls such a stream finished, and so does this one."""
    script = sse_answer([b'data: {"a": 1}\n\n', b"data: [DONE]\n"])
    target = custom_path(gateway, method="v1/chat/completions", messages="[]", stream="true", result_type="jsonu")
    async with Chaos(script, port=gateway.upstream_port):
        got = await call(gateway, "GET", target)
    assert got.body == b'data: {"a": 1}\n\ndata: [DONE]\n\n'
    assert got.complete
