"""Several chats' answers as one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.assembly import assembled
from gateway.errors import GatewayError
from gateway.joining import Joiner, joined
from gateway.sse import EventSplitter
from tests.test_reshaping import USAGE, chat, piece

TWICE = {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6, "prompt_tokens_details": {"cached_tokens": 0}}
DONE = b"data: [DONE]\n\n"


def usage_event(**more: Any) -> bytes:
    value = {"id": "u", "object": "chat.completion.chunk", "created": 5, "model": "m-1", "choices": [], "usage": USAGE}
    return b"data: " + json.dumps(value | more).encode() + b"\n\n"


def join(*streams: list[bytes], order: list[int] | None = None, with_usage: bool = True) -> bytes:
    """The streams joined, their events taken in turn, or in this order of streams."""
    joiner = Joiner(len(streams), 1)
    left = [list(stream) for stream in streams]
    turns = order or [number for turn in range(max(map(len, streams))) for number in range(len(streams))]
    sent = b""
    for number in turns:
        if left[number]:
            for event in EventSplitter(100_000).feed(left[number].pop(0)):
                sent += joiner.event(number, event)
    return sent + joiner.end(with_usage=with_usage)


def test_choices_are_numbered_by_prompt_and_then_by_choice_and_usage_is_summed() -> None:
    found = json.loads(joined([chat("a", "b"), chat("c", "d", id="other", model="m-2")], 2))
    texts = [(each["index"], each["message"]["content"]) for each in found["choices"]]
    assert texts == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]
    assert found["usage"] == TWICE
    assert (found["id"], found["model"]) == ("chatcmpl-7", "m-1")


def test_a_usage_that_one_does_not_tell_is_told_by_none() -> None:
    assert "usage" not in json.loads(joined([chat("a"), chat("b", usage=None)], 1))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices": null}'])
def test_an_answer_that_is_no_chat_is_4002(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        joined([chat("a"), body], 1)
    assert caught.value.code.code == "4002"


def stream(text: str, chat_id: str = "chatcmpl-7") -> list[bytes]:
    role = piece({"role": "assistant", "content": ""}, id=chat_id)
    return [role, piece({"content": text}, id=chat_id), piece({}, "stop", id=chat_id), usage_event(id=chat_id), DONE]


def test_streams_become_one_that_adds_up_to_the_joined_answer() -> None:
    whole = assembled("v1/chat/completions", join(stream("a"), stream("b", "chatcmpl-8")))
    assert whole is not None
    found = json.loads(whole)
    assert [(each["index"], each["message"]["content"]) for each in found["choices"]] == [(0, "a"), (1, "b")]
    assert (found["id"], found["usage"]) == ("chatcmpl-7", TWICE)


def test_a_usage_that_nobody_asked_for_is_not_told() -> None:
    assert b"usage" not in join(stream("a"), stream("b"), with_usage=False).replace(b'"usage":null', b"")


def test_a_usage_beside_a_choice_is_told_at_the_end() -> None:
    one = [piece({"content": "a"}, "stop", usage=USAGE), DONE]
    sent = join(one, one)
    assert sent.count(b'"usage":null') == 2
    assert json.loads(sent.split(b"data: ")[-2])["usage"] == TWICE


def test_without_the_end_of_each_there_is_no_end() -> None:
    assert DONE not in join(stream("a"), stream("b")[:-1])


def test_an_error_or_a_comment_passes_as_it_came() -> None:
    error = b'data: {"error": {"message": "x"}}\n\n'
    assert join([b": ping\n\n", error]) == b": ping\n\n" + error


@given(st.lists(st.integers(0, 2), max_size=60))
def test_whatever_the_order_each_choice_says_what_its_stream_said(order: list[int]) -> None:
    streams = [[piece({"role": "assistant", "content": ""}), *(piece({"content": f"{name}{n}"}) for n in range(5)),
                piece({}, "stop"), DONE] for name in "abc"]  # fmt: skip
    order += [number for number in range(3) for _ in range(10)]
    whole = assembled("v1/chat/completions", join(*streams, order=order))
    assert whole is not None
    texts = [each["message"]["content"] for each in json.loads(whole)["choices"]]
    assert texts == ["".join(f"{name}{n}" for n in range(5)) for name in "abc"]


def test_a_usage_without_any_choices_counts_and_does_not_go_out() -> None:
    bare = b"data: " + json.dumps({"object": "chat.completion.chunk", "usage": USAGE}).encode() + b"\n\n"
    sent = join([piece({"content": "a"}), bare, DONE], [piece({"content": "b"}), bare, DONE])
    assert sent.count(b'"total_tokens"') == 1
    assert TWICE["total_tokens"] == 6
    assert b'"total_tokens":6' in sent.replace(b" ", b"")


def test_the_identity_is_that_of_the_first_event_which_has_one() -> None:
    empty = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []}
    nameless = b"data: " + json.dumps(empty).encode() + b"\n\n"
    sent = join([nameless, piece({"content": "a"}), DONE], [nameless, piece({"content": "b"}), DONE])
    events = [json.loads(line[6:]) for line in sent.split(b"\n") if line.startswith(b"data: {")]
    assert [event["model"] for event in events if event["choices"]] == ["m-1", "m-1"]
