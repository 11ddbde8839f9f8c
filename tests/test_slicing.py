"""Whole answers as streams, which assembled are these answers again."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from gateway.assembly import CHAT, COMPLETION, assembled
from gateway.slicing import sliced

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"city": "Paris", "unit": "celsius"}'},
}
TEXT = "Most gardens, in the end, are made by patience; some by rain."


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-4o",
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
            for index, message in enumerate(messages)
        ],
        "usage": USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        **more,
    }


def said(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "refusal": None, **more}


def completion(*texts: str, logprobs: Any = None) -> dict[str, Any]:
    choices = [
        {"text": text, "index": index, "logprobs": logprobs, "finish_reason": "stop"}
        for index, text in enumerate(texts)
    ]
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": choices, "usage": USAGE}


def events(answer: dict[str, Any], method: str = CHAT, *, include_usage: bool = False) -> list[Any]:
    """The chunks of the sliced answer, whose end is `[DONE]`."""
    stream = sliced(method, json.dumps(answer).encode(), include_usage=include_usage)
    assert stream is not None
    *blocks, done, nothing = stream.decode().split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def deltas(message: dict[str, Any]) -> list[Any]:
    return [chunk["choices"][0]["delta"] for chunk in events(chat(message))]


def is_sliced(answer: Any, method: str = CHAT, *, include_usage: bool = False) -> bool:
    return sliced(method, json.dumps(answer).encode(), include_usage=include_usage) is not None


def again(answer: dict[str, Any], method: str = CHAT) -> Any:
    """The answer, sliced and assembled."""
    stream = sliced(method, json.dumps(answer).encode(), include_usage="usage" in answer)
    assert stream is not None
    whole = assembled(method, stream)
    assert whole is not None
    return json.loads(whole)


def test_a_text_comes_in_pieces_of_some_words_between_an_opening_and_an_end() -> None:
    chunks = events(chat(said("Most gardens, in the end,")))
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "gpt-4o"}
    head |= {"service_tier": "default", "system_fingerprint": "fp_1"}
    told = [
        ({"role": "assistant", "content": "", "refusal": None}, None),
        ({"content": "Most gardens, in"}, None),
        ({"content": " the end,"}, None),
        ({}, "stop"),
    ]
    assert chunks == [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
        for delta, finish in told
    ]


def test_pieces_are_cut_anywhere_where_there_are_no_spaces() -> None:
    text = "向日葵向着太阳，从早到晚。" * 3
    pieces = [delta["content"] for delta in deltas(said(text))[1:-1]]
    assert "".join(pieces) == text
    assert {len(piece) for piece in pieces[:-1]} == {16}


def test_with_usage_asked_for_it_comes_last_and_is_null_before() -> None:
    *chunks, last = events(chat(said(TEXT)), include_usage=True)
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert all(chunk["usage"] is None for chunk in chunks)


def test_with_no_usage_asked_for_there_is_none() -> None:
    assert all("usage" not in chunk for chunk in events(chat(said(TEXT))))


def test_an_answer_that_tells_no_usage_is_no_stream_for_those_who_asked_for_it() -> None:
    answer = chat(said(TEXT))
    del answer["usage"]
    assert not is_sliced(answer, include_usage=True)
    assert is_sliced(answer)
    assert again(answer) == answer


def test_tool_calls_come_as_openai_streams_them() -> None:
    opening, first, *rest, end = deltas(said(None, tool_calls=[CALL, {**CALL, "id": "call_2"}]))
    assert opening == {"role": "assistant", "content": None, "refusal": None}
    function = {"name": "f", "arguments": ""}
    assert first == {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}
    assert rest[0] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}
    assert [call["id"] for delta in rest for call in delta["tool_calls"] if "id" in call] == ["call_2"]
    assert end == {}


def test_the_old_function_call_comes_with_its_name_first() -> None:
    opening, *pieces, _ = deltas(said(None, function_call={"name": "f", "arguments": '{"x": 1}'}))
    assert opening["function_call"] == {"name": "f", "arguments": ""}
    assert pieces == [{"function_call": {"arguments": '{"x": 1}'}}]


def test_reasoning_comes_before_the_text_and_a_refusal_in_its_place() -> None:
    assert deltas(said("b", reasoning_content="a"))[1:-1] == [{"reasoning_content": "a"}, {"content": "b"}]
    opening, piece, _ = deltas({**said(None), "refusal": "No."})
    assert opening == {"role": "assistant", "content": None, "refusal": None}
    assert piece == {"refusal": "No."}


def test_what_is_never_cut_comes_once_with_the_opening() -> None:
    once = {"annotations": [{"type": "url_citation"}], "audio": {"id": "a", "data": "YQ=="}, "grade": {"x": 1}}
    opening, *rest = deltas(said(TEXT, **once))
    assert opening == {"role": "assistant", "content": "", "refusal": None, **once}
    assert not [delta for delta in rest if delta.keys() & once.keys()]


def test_choices_come_one_after_another() -> None:
    chunks = events(chat(said("a"), said("b")))
    told = [(chunk["choices"][0]["index"], chunk["choices"][0]["finish_reason"]) for chunk in chunks]
    assert told == [(0, None), (0, None), (0, "stop"), (1, None), (1, None), (1, "stop")]


def entries(*tokens: str) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": -0.5, "bytes": [*token.encode()], "top_logprobs": []} for token in tokens]


def with_logprobs(message: dict[str, Any], logprobs: Any) -> dict[str, Any]:
    answer = chat(message)
    answer["choices"][0]["logprobs"] = logprobs
    return answer


@pytest.mark.parametrize("name", ["content", "refusal"])
def test_each_token_comes_with_its_logprob(name: str) -> None:
    other = {"content": "refusal", "refusal": "content"}[name]
    message = {"role": "assistant", name: "Most gardens", other: None}
    answer = with_logprobs(message, {name: entries("Most", " gard", "ens"), other: None})
    choices = [chunk["choices"][0] for chunk in events(answer)]
    assert [(choice["delta"], choice["logprobs"]) for choice in choices[1:-1]] == [
        ({name: token}, {name: entries(token), other: None}) for token in ("Most", " gard", "ens")
    ]
    assert choices[0]["logprobs"] is None
    assert choices[-1]["logprobs"] is None
    assert again(answer) == answer


@pytest.mark.parametrize(
    ("content", "logprobs"),
    [
        ("Most gardens and more", {"content": entries("Most"), "refusal": None}),
        ("Most", {"content": entries("Most"), "refusal": entries("a", "b")}),
        ("Most", {"content": entries("Most"), "x": [1]}),
        ("Most", {"content": [{"token": 5}, {}, None]}),
        ("", {"content": [], "refusal": None}),
        (None, {"content": entries("Most"), "refusal": None}),
        ("Most", {"content": [], "refusal": None}),
        ("Most", {"content": None, "refusal": None}),
        ("Most", {}),
    ],
)
def test_logprobs_of_other_tokens_than_the_texts_come_in_one_piece(content: str | None, logprobs: Any) -> None:
    answer = with_logprobs(said(content), logprobs)
    assert [c for chunk in events(answer) if (c := chunk["choices"][0]["logprobs"]) is not None] == [logprobs]
    assert again(answer) == answer


def test_a_completion_comes_in_pieces_of_its_text_and_a_last_one_without() -> None:
    chunks = events(completion("Most gardens, in the end,"), COMPLETION)
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        ("Most gardens, in", None),
        (" the end,", None),
        ("", "stop"),
    ]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


@pytest.mark.parametrize(
    ("text", "logprobs", "cut"),
    [
        ("ab", {"tokens": ["a", "b"], "token_logprobs": [None, -1], "top_logprobs": None, "text_offset": [0, 1]}, 2),
        ("ab", {"tokens": ["a", "b"], "token_logprobs": [-1]}, 1),
        ("ab", {"tokens": ["a", "c"], "token_logprobs": [-1, -1]}, 1),
        ("", {"tokens": [], "token_logprobs": []}, 1),
        ("ab", {"tokens": None}, 1),
        ("ab", {}, 1),
    ],
)
def test_a_completions_logprobs_go_with_their_tokens(text: str, logprobs: Any, cut: int) -> None:
    answer = completion(text, logprobs=logprobs)
    assert len([c for c in events(answer, COMPLETION) if c["choices"][0]["logprobs"] is not None]) == cut
    assert again(answer, COMPLETION) == answer


def test_what_nobody_knows_comes_once_in_the_answers_first_chunk_or_the_choices_last() -> None:
    answer = chat(said("a"), said("b"), citations=["c"])
    answer["choices"][1] |= {"stop_reason": 7, "text": "x"}
    chunks = events(answer)
    assert [number for number, chunk in enumerate(chunks) if "citations" in chunk] == [0]
    assert [number for number, chunk in enumerate(chunks) if "stop_reason" in chunk["choices"][0]] == [5]
    assert again(answer) == answer


def test_the_sdk_reads_the_stream_as_the_answer() -> None:
    choices = [said(TEXT), {**said(None), "refusal": "No."}, said(None, tool_calls=[CALL, {**CALL, "id": "call_2"}])]
    answer = with_logprobs(choices[0], {"content": entries(*TEXT.partition(" ")), "refusal": None})
    answer["choices"] += chat(*choices)["choices"][1:]
    state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
    for chunk in events(answer, include_usage=True):
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    read = json.loads(state.get_final_completion().model_dump_json(exclude_none=True))
    for choice in read["choices"]:
        choice["message"].pop("parsed", None)
        for index, call in enumerate(choice["message"].get("tool_calls", ())):
            assert call.pop("index", index) == index
            call["function"].pop("parsed_arguments", None)
    assert read == without_nulls(answer)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(member) for name, member in value.items() if member is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (CHAT, completion("a")),
        (COMPLETION, chat(said("a"))),
        ("v1/responses", chat(said("a"))),
        (CHAT, {"error": {"message": "m"}}),
        (CHAT, chat(said("a"), error={"message": "m"})),
        (CHAT, chat(said("a"), object="chat.completion.chunk")),
        (CHAT, chat(said("a"), obfuscation="x")),
        (CHAT, chat(said("a"), usage=None)),
        (CHAT, chat(said("a"), created="1")),
        (CHAT, chat(said("a"), id=None)),
        (CHAT, chat()),
        (CHAT, chat(said("a"), choices=None)),
        (CHAT, chat(said("a"), choices=[None])),
        (CHAT, chat(said("a"), choices=chat(said("a"), said("b"))["choices"][::-1])),
        (CHAT, chat(said("a"), choices=[{"index": 0, "finish_reason": "stop"}])),
        (CHAT, chat(said("a"), choices=[{"index": 0, "message": said("a"), "delta": {}, "finish_reason": "stop"}])),
        (CHAT, chat(said("a"), choices=[{"index": 0, "message": said("a"), "finish_reason": None}])),
        (CHAT, chat({"content": "a"})),
        (CHAT, chat({"role": "assistant"})),
        (CHAT, chat({"role": "assistant", "content": [{"type": "text", "text": "a"}]})),
        (CHAT, chat(said(None, tool_calls=[None]))),
        (CHAT, chat(said(None, tool_calls=[{**CALL, "index": 0}]))),
        (CHAT, chat(said(None, tool_calls="x"))),
        (CHAT, chat(said(None, tool_calls=[{"id": "a", "function": {"name": "f", "arguments": {}}}]))),
        (CHAT, chat(said(None, audio={"data": "YQ==YQ=="}))),
        (CHAT, []),
        (CHAT, None),
        (COMPLETION, completion()),
        (COMPLETION, {**completion("a"), "choices": [{"index": 0, "text": None, "finish_reason": "stop"}]}),
        (COMPLETION, {**completion("a"), "choices": [{"index": 1, "text": "a", "finish_reason": "stop"}]}),
    ],
)
def test_an_answer_that_no_stream_can_be_is_not_sliced(method: str, answer: Any) -> None:
    assert not is_sliced(answer, method)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"a": "\\ud83d"}', b"[" * 2000, b"null"])
def test_what_is_no_json_is_not_sliced(text: bytes) -> None:
    assert sliced(CHAT, text, include_usage=False) is None


@pytest.mark.parametrize("depth", [100, 240, 253, 400, 1000])
def test_a_deep_member_comes_back_or_the_answer_is_not_sliced(depth: int) -> None:
    text = json.dumps(chat(said("a"), x=7)).replace("7", "[" * depth + "]" * depth, 1).encode()
    stream = sliced(CHAT, text, include_usage=True)
    assert stream is None or assembled(CHAT, stream) is not None


texts = st.text(st.sampled_from(["a", " ", "\n", "\r", "向", "😀", '"', "\\", "\u2028", "\x00"]), max_size=60)
maybe_texts = st.none() | texts
leaves: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, -1.5, "", "x", [], {}, [1], {"y": None}])
others = st.dictionaries(st.sampled_from(["x", "text", "delta", "message", "index", "error", "obfuscation"]), leaves)
functions = st.fixed_dictionaries({"name": texts, "arguments": maybe_texts}) | leaves
calls = st.fixed_dictionaries({"id": texts, "type": st.just("function"), "function": functions})
calls |= st.fixed_dictionaries({"id": texts, "type": st.just("custom"), "custom": others})
token_entries = st.fixed_dictionaries({"token": texts, "logprob": st.just(-0.5)}) | leaves
refusal_entries = st.none() | st.lists(token_entries)
chat_logprobs = st.fixed_dictionaries(
    {}, optional={"content": st.lists(token_entries) | leaves, "refusal": refusal_entries, "x": leaves}
)
messages = st.builds(
    lambda known, unknown: {**unknown, **known},
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": maybe_texts},
        optional={
            "refusal": maybe_texts,
            "reasoning_content": maybe_texts,
            "reasoning": maybe_texts,
            "tool_calls": st.lists(calls, max_size=3) | leaves,
            "function_call": functions,
            "annotations": leaves,
            "audio": leaves | st.fixed_dictionaries({"id": texts, "data": st.just("YQ=="), "transcript": texts}),
        },
    ),
    others,
)


def choices_of(bodies: st.SearchStrategy[dict[str, Any]], logprobs: st.SearchStrategy[Any]) -> Any:
    """Strategies of answers' lists of choices."""
    ends = st.fixed_dictionaries(
        {"finish_reason": st.sampled_from(["stop", "length"])}, optional={"logprobs": st.none() | logprobs}
    )
    choice = st.builds(lambda body, end, more: {**more, **body, **end}, bodies, ends, others)
    return st.lists(choice, min_size=1, max_size=3).map(
        lambda choices: [{**choice, "index": index} for index, choice in enumerate(choices)]
    )


heads = st.fixed_dictionaries(
    {"id": texts, "created": st.integers(0, 2**40), "model": st.just("m")},
    optional={"service_tier": maybe_texts, "system_fingerprint": maybe_texts, "usage": st.just(USAGE), "x": leaves},
)
chat_choices = choices_of(st.fixed_dictionaries({"message": messages}), chat_logprobs)


@given(heads, chat_choices)
def test_every_chat_that_is_sliced_is_assembled_to_itself(head: dict[str, Any], choices: Any) -> None:
    answer = {**head, "object": "chat.completion", "choices": choices}
    if is_sliced(answer):
        assert again(answer) == answer


def token_columns(tokens: list[str]) -> dict[str, Any]:
    return {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens), "top_logprobs": None}


completion_choices = choices_of(
    st.fixed_dictionaries({"text": texts}), st.lists(texts, max_size=4).map(token_columns) | leaves
) | st.lists(texts, max_size=4).map(
    lambda tokens: [{"index": 0, "text": "".join(tokens), "logprobs": token_columns(tokens), "finish_reason": "stop"}]
)


@given(heads, completion_choices)
def test_every_completion_that_is_sliced_is_assembled_to_itself(head: dict[str, Any], choices: Any) -> None:
    answer = {**head, "object": "text_completion", "choices": choices}
    if is_sliced(answer, COMPLETION):
        assert again(answer, COMPLETION) == answer


@given(st.lists(st.builds(said, texts, reasoning_content=texts, tool_calls=st.lists(st.just(CALL))), min_size=1))
def test_every_answer_of_the_common_shapes_is_sliced(some: list[dict[str, Any]]) -> None:
    assert again(chat(*some)) == chat(*some)


def test_a_long_answer_comes_in_longer_pieces_and_grows_little() -> None:
    answer = json.dumps(chat(said("word " * 200_000))).encode()
    stream = sliced(CHAT, answer, include_usage=True)
    assert stream is not None
    assert len(stream) < 1.5 * len(answer)
    assert stream.count(b"\n\n") < 1200


@pytest.mark.parametrize("more", [{"id": "x" * 100_000}, {"system_fingerprint": "x" * 100_000}])
def test_an_answer_whose_chunks_would_repeat_too_much_is_not_sliced(more: dict[str, Any]) -> None:
    assert not is_sliced(chat(said("word " * 10_000), **more))
    assert is_sliced(chat(said("word"), **more))


def test_an_answer_of_countless_empty_calls_is_not_sliced() -> None:
    assert not is_sliced(chat(said(None, tool_calls=[{}] * 10_000)))
    assert is_sliced(chat(said(None, tool_calls=[CALL] * 10_000)))


def test_a_long_answer_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        answer = json.dumps(chat(said("w" * size, tool_calls=[CALL] * (size // 100)))).encode()
        started = time.process_time()
        assert sliced(CHAT, answer, include_usage=True)
        return time.process_time() - started

    assert seconds(2_000_000) < 40 * seconds(200_000)  # 10 where it is linear, 100 where it is quadratic
