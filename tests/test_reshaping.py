"""A chat's answers in the form of the old interfaces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.reshaping import Shape, reshaped, reshaped_events
from gateway.sse import Event, EventSplitter

SHAPE = Shape("v1/completions", "cmpl-fallback")
EDIT = Shape("v1/edits", "")
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}}


def chat(*texts: Any, **more: Any) -> bytes:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    value = {"id": "chatcmpl-7", "object": "chat.completion", "created": 5, "model": "m-1", "choices": choices}
    return json.dumps(value | {"service_tier": "default", "usage": USAGE} | more).encode()


def piece(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    value = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 5, "model": "m-1", "choices": [choice]}
    return b"data: " + json.dumps(value | more).encode() + b"\n\n"


def whole(answer: bytes, shape: Shape = SHAPE) -> Any:
    return json.loads(reshaped(shape, answer))


def streamed(pieces: Iterable[bytes], shape: Shape = SHAPE) -> list[Event]:
    async def source() -> AsyncGenerator[Event, None]:
        splitter = EventSplitter(100_000)
        for one in pieces:
            for event in splitter.feed(one):
                yield event

    async def read() -> list[Event]:
        return [event async for event in reshaped_events(shape, source())]

    return asyncio.run(read())


def values(events: Iterable[Event]) -> list[Any]:
    return [json.loads(event.data or b"null") for event in events]


def test_a_chat_becomes_a_completion() -> None:
    choice = {"text": "Hello.", "index": 0, "logprobs": None, "finish_reason": "stop"}
    assert whole(chat("Hello.")) == {
        "id": "cmpl-7", "object": "text_completion", "created": 5, "model": "m-1", "choices": [choice], "usage": USAGE,
    }  # fmt: skip


def test_a_chat_becomes_an_edit() -> None:
    choices = [{"text": "a", "index": 0}, {"text": "b", "index": 1}]
    assert whole(chat("a", "b"), EDIT) == {"object": "edit", "created": 5, "choices": choices, "usage": USAGE}


def test_every_choice_and_its_reason_is_kept() -> None:
    body = json.loads(chat("a", "b"))
    body["choices"][1]["finish_reason"] = "length"
    found = whole(json.dumps(body).encode())
    assert [(each["text"], each["index"], each["finish_reason"]) for each in found["choices"]] == [
        ("a", 0, "stop"), ("b", 1, "length"),
    ]  # fmt: skip


def test_an_id_of_another_kind_is_kept_behind_the_prefix_and_a_missing_one_made_up() -> None:
    assert whole(chat("a", id="x-1"))["id"] == "cmpl-x-1"
    assert whole(chat("a", id=None))["id"] == "cmpl-fallback"


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, ""), ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "image"}], "ab"), (5, "")],
)
def test_content_of_any_kind_becomes_text(content: Any, text: str) -> None:
    assert whole(chat(content))["choices"][0]["text"] == text


def test_a_refusal_is_the_text() -> None:
    body = json.loads(chat(None))
    body["choices"][0]["message"]["refusal"] = "I cannot."
    assert whole(json.dumps(body).encode())["choices"][0]["text"] == "I cannot."


def test_an_echo_stands_before_each_choice_of_its_prompt() -> None:
    shape = Shape("v1/completions", "", ("p", "q"), 2)
    assert [each["text"] for each in whole(chat("a", "b", "c", "d"), shape)["choices"]] == ["pa", "pb", "qc", "qd"]


@pytest.mark.parametrize("body", [b"", b"plain", b"[]", b"{}", b'{"choices": 1}', b'{"object": "list", "data": []}'])
def test_what_is_no_chat_is_4002(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        reshaped(SHAPE, body)
    assert caught.value.code.code == "4002"


def test_each_event_becomes_one_of_the_same_place() -> None:
    sent = [
        piece({"role": "assistant", "content": ""}),
        piece({"content": "Hel"}),
        piece({"content": "lo."}),
        piece({}, "stop"),
        piece({}, usage=USAGE).replace(b'"choices": [{', b'"choices": [], "x": [{'),
        b"data: [DONE]\n\n",
    ]
    events = streamed(sent)
    assert events[-1].data == b"[DONE]"
    assert events[-1].exact == sent[-1]
    found = values(events[:-1])
    assert all((each["id"], each["object"], each["model"]) == ("cmpl-7", "text_completion", "m-1") for each in found)
    assert [each["choices"][0]["text"] for each in found[:-1]] == ["", "Hel", "lo.", ""]
    assert [each["choices"][0]["finish_reason"] for each in found[:-1]] == [None, None, None, "stop"]
    assert (found[-1]["choices"], found[-1]["usage"]) == ([], USAGE)
    assert all(event.is_remade and event.exact == event.raw for event in events[:-1])


def test_an_edits_events_hold_text_and_index() -> None:
    [event] = streamed([piece({"content": "a"}, index=1)], EDIT)
    assert values([event]) == [{"object": "edit", "created": 5, "choices": [{"text": "a", "index": 1}]}]


def test_a_streams_echo_comes_once_with_the_first_event_of_each_choice() -> None:
    shape = Shape("v1/completions", "", ("p", "q"))
    sent = [piece({"content": text}, index=index) for index, text in ((1, "a"), (0, ""), (1, "b"), (0, "c"))]
    assert [each["choices"][0]["text"] for each in values(streamed(sent, shape))] == ["qa", "p", "b", "c"]


@pytest.mark.parametrize("data", [b": ping\n\n", b'data: {"error": {"message": "x"}}\n\n', b"data: nonsense\n\n"])
def test_what_is_no_chunk_stays_as_it_came(data: bytes) -> None:
    [event] = streamed([data])
    assert (event.exact, event.is_remade) == (data, False)


def test_other_lines_of_an_event_stay() -> None:
    [event] = streamed([b"id: 4\n" + piece({"content": "a"})])
    assert event.exact.startswith(b"id: 4\ndata: {")


def test_a_character_cut_between_its_escapes_survives() -> None:
    halves = [rb"\ud83c", rb"\udf3b"]
    sent = [piece({"content": "X"}).replace(b"X", half) for half in halves]
    assert [event.exact.count(half) for event, half in zip(streamed(sent), halves, strict=True)] == [1, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.text()), max_size=20), st.booleans())
def test_the_texts_of_a_stream_are_those_of_the_chat(said: list[tuple[int, str]], echo: bool) -> None:
    shape = Shape("v1/completions", "", ("p", "q") if echo else (), 2)
    found = dict.fromkeys(range(4), "")
    for each in values(streamed(piece({"content": text}, index=index) for index, text in said)):
        found[each["choices"][0]["index"]] += each["choices"][0]["text"]
    assert found == {index: "".join(text for at, text in said if at == index) for index in range(4)}
    echoed = "".join(
        each["choices"][0]["text"]
        for each in values(streamed((piece({"content": text}, index=index) for index, text in said), shape))
        if each["choices"][0]["index"] == 3
    )
    assert echoed == ("q" if echo and any(index == 3 for index, _ in said) else "") + found[3]


def test_one_prompt_stands_before_each_of_its_texts() -> None:
    shape = Shape("v1/completions", "cmpl-fallback", ("p",))
    found = json.loads(reshaped(shape, chat("a", "b", "c")))
    assert [choice["text"] for choice in found["choices"]] == ["pa", "pb", "pc"]
