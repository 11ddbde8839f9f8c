"""What a call used is read from the end of its answer, of whichever interface, and stands in the call log."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.types import Arguments, Usage
from gateway.usage import MAX_TOKENS, asking_usage, told_usage, usage_of, whole_usage
from tests.chaos import LAST_CHUNK, Chaos, Script, Send, WaitFor, chunk, json_answer, sse_head
from tests.lockstep import call_request, chat_request
from tests.support import Gateway, exchange

CHAT = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 0},
}
RESPONSES = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 123,
}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (CHAT, Usage(19, 10, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}, Usage(5, 6)),
        ({**CHAT, "prompt_tokens_details": None}, Usage(19, 10)),
        (RESPONSES, Usage(36, 87, 5)),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8)),
        ({"completion_tokens": 3}, Usage(None, 3)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),  # zero is not missing
        ({"prompt_tokens": -5, "completion_tokens": 10**20}, Usage(0, MAX_TOKENS)),
        ({"prompt_tokens": 5, "x": {"prompt_tokens": 6}}, Usage(5)),
        ({"prompt_tokens": 1.5, "completion_tokens": "7"}, None),
        ({"prompt_tokens": 15e3, "completion_tokens": 2}, Usage(None, 2)),
        ({"seconds": 3}, None),
        ({}, None),
        (None, None),
        ([1], None),
        ("prompt_tokens", None),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_the_usage_of_an_answer_is_read(usage: object, expected: Usage | None, indent: int | None) -> None:
    document = {"choices": [], "usage": usage, "service_tier": "default", "metadata": {"n": 9}}
    assert usage_of(json.dumps(document, indent=indent).encode()) == expected


def test_an_answer_without_usage_has_none() -> None:
    assert usage_of(b"") is None
    assert usage_of(b'{"prompt_tokens": 5}') is None
    assert usage_of(json.dumps({"text": json.dumps({"usage": CHAT})}).encode()) is None
    assert usage_of(b'{"text": "usage", "prompt_tokens": 5}') is None


def test_the_usage_that_comes_last_counts() -> None:
    events = [{"usage": None}, {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}, {"usage": CHAT}]
    stream = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    assert usage_of(stream + b"data: [DONE]\n\n") == Usage(19, 10, 7)


def test_what_a_caller_had_echoed_is_not_taken_for_the_usage() -> None:
    tools = [{"parameters": {"properties": {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}}}]
    response = {"tools": tools, "usage": RESPONSES, "metadata": {"usage": "free", "prompt_tokens": "0"}}
    assert usage_of(json.dumps(response).encode()) == Usage(36, 87, 5)
    assert usage_of(json.dumps({**response, "usage": None}).encode()) is None


TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(['"usage": {"prompt_tokens": 3}', '\\"usage\\":', "usage", '"'])
)


@given(content=TEXTS, name=TEXTS, prompt=st.integers(0, 10**6), completion=st.integers(0, 10**6), escaped=st.booleans())
def test_no_text_in_an_answer_is_taken_for_its_usage(
    content: str, name: str, prompt: int, completion: int, escaped: bool
) -> None:
    document: dict[str, object] = {"choices": [{"message": {"content": content, name: content}}]}
    text = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "replace")
    if name != "usage":
        assert usage_of(text) is None
    document["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion}
    document["x"] = content
    text = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "replace")
    assert usage_of(text) == Usage(prompt, completion)


# In the call log


def rows(gateway: Gateway, count: int) -> list[dict[str, Any]]:
    """The newest rows, the oldest first."""
    found: list[dict[str, Any]] = json.loads(gateway.cli("calls", "--json", "--limit", str(count)))
    return found[::-1]


def tokens(row: dict[str, Any]) -> tuple[object, ...]:
    return row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]


async def play(gateway: Gateway, script: Script, request: bytes) -> None:
    async with Chaos(script, port=gateway.upstream_port):
        await exchange(gateway, request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


TELLS = event({"id": "chatcmpl-" + "x" * 100, "choices": [], "usage": CHAT})
DONE = b"data: [DONE]\n\n"


async def test_what_was_used_stands_in_the_call_log(gateway: Gateway) -> None:
    text = event({"id": "chatcmpl-1", "choices": [{"delta": {"content": "hello " * 30}}], "usage": None})
    whole = [sse_head(), chunk(text) * 3, chunk(TELLS), chunk(DONE), LAST_CHUNK]
    embedding = call_request(gateway, "v1/embeddings", {"input": "a"}, "custom")
    chats = [
        chat_request(gateway, front, result_type=kind) for front in ("native", "custom") for kind in ("json", "xml")
    ]
    await play(gateway, json_answer({"data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}), embedding)
    await play(gateway, json_answer({"data": []}), embedding)
    for request in chats:
        await play(gateway, list(whole), request)
    completed = event({"type": "response.completed", "response": {"output": "x" * 9000, "usage": RESPONSES}})
    responses = call_request(gateway, "v1/responses", {"input": "a", "stream": True}, "native")
    await play(gateway, [sse_head(), chunk(text), chunk(completed), LAST_CHUNK], responses)
    await play(gateway, [sse_head(), chunk(text) * 2, chunk(DONE), LAST_CHUNK], chats[0])
    await asyncio.sleep(0.3)  # the writer gathers
    seen = [tokens(row) for row in rows(gateway, 8)]
    none = (None, None, None)
    assert seen == [(8, None, None), none, *[(19, 10, 7)] * 4, (36, 87, 5), none]


async def test_the_usage_is_found_wherever_the_end_of_a_stream_is_cut(gateway: Gateway) -> None:
    text = event({"id": "chatcmpl-1", "choices": [{"delta": {"content": "hello " * 30}}]})
    end = chunk(TELLS) + chunk(DONE) + LAST_CHUNK
    offsets = range(1, len(end), 7)
    request = chat_request(gateway)
    for offset in offsets:
        read = asyncio.Event()
        script: Script = [sse_head(), chunk(text), Send(end[:offset]), WaitFor(read), end[offset:]]
        async with Chaos(script, port=gateway.upstream_port), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(request)
            received = b""
            while len(received) < len(text) and not received.endswith(b"\r\n"):
                received += await reader.read(65_536)
            await asyncio.sleep(0)
            read.set()
            while not received.endswith(LAST_CHUNK):
                received += await reader.read(65_536)
            writer.close()
    await asyncio.sleep(0.3)
    assert [tokens(row) for row in rows(gateway, len(offsets))] == [(19, 10, 7)] * len(offsets)


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4)),
        ({"input_tokens": 3, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 2}}, Usage(3, 4, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        ({"prompt_tokens": -1, "completion_tokens": 10**40}, Usage(0, 10**12)),
        ({"prompt_tokens": 2.0}, Usage(2)),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": "3"}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_a_parsed_usage(value: object, usage: Usage | None) -> None:
    assert told_usage(value) == usage


def test_a_whole_answer_is_read_by_its_structure() -> None:
    lie = b'"tools":[{"usage":{"prompt_tokens":0}}],"metadata":{"usage":{"prompt_tokens":1}}'
    assert whole_usage(b'{"usage":{"prompt_tokens":5},%b}' % lie) == (Usage(5), 0, 0)
    assert whole_usage(b"{%b}" % lie) == (None, 0, 0)
    assert whole_usage(b'{"data":[{"url":"a"},{"b64_json":"b"}]}') == (None, 2, 0)
    assert whole_usage(b'{"text":"a","duration":12.5}') == (None, 0, 12_500)
    assert whole_usage(b'{"text":"a","usage":{"type":"duration","seconds":7}}') == (None, 0, 7000)
    assert whole_usage(b'{"duration":"3.25"}') == (None, 0, 3250)
    for odd in (b"[]", b"{", b'"x"', b'{"data":{},"duration":-4}', b'{"duration":"nan"}', b'{"duration":[]}', b""):
        assert whole_usage(odd) == (None, 0, 0)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (b'{"a": 1.50, "stream":true}', {"include_usage": True}),
        (b' {"stream_options": {"include_usage": false, "x": 1}, "a": 1.50}\n', {"include_usage": True, "x": 1}),
        (b'{"a": 1.50, "stream_options": null}', {"include_usage": True}),
    ],
)
def test_asking_for_the_usage_leaves_the_other_arguments_as_they_were(text: bytes, options: object) -> None:
    asked = asking_usage(Arguments(text, json.loads(text)))
    assert json.loads(asked) == {**json.loads(text), "stream_options": options}
    assert b"1.50" in asked
