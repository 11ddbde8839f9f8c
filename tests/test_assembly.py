"""Finished streams as whole answers, and the streams that amount to none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.assembly import CHAT, COMPLETION, assembled
from gateway.demo import start

DONE = "data: [DONE]\n\n"
HEAD: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "model": "gpt-4o",
    "service_tier": "default",
    "system_fingerprint": "fp_1",
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def stream(*chunks: dict[str, Any], end: str = DONE) -> bytes:
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end).encode()


def chunk(delta: Any, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}], **more}


def text_chunk(text: Any, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    choice = {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "davinci", "choices": [choice]}


def whole(events: bytes, method: str = CHAT) -> Any:
    """The answer, or None."""
    answer = assembled(method, events)
    return None if answer is None else json.loads(answer)


def choice_of(*chunks: dict[str, Any]) -> Any:
    (choice,) = whole(stream(*chunks))["choices"]
    return choice


def message(*deltas: dict[str, Any]) -> Any:
    """The message that these deltas amount to behind one that tells the role; None where that cannot be told."""
    answer = whole(stream(chunk({"role": "assistant"}), *map(chunk, deltas), chunk({}, "stop")))
    return None if answer is None else answer["choices"][0]["message"]


HELLO = [
    chunk({"role": "assistant", "content": "", "refusal": None}, usage=None),
    chunk({"content": "Hel"}, usage=None),
    chunk({"content": "lo"}, usage=None),
    chunk({}, "stop", usage=None),
    {**HEAD, "choices": [], "usage": USAGE},
]
HELLO_WHOLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "gpt-4o",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
    "service_tier": "default",
    "system_fingerprint": "fp_1",
}


def test_a_stream_is_the_answer_that_it_amounts_to_with_its_members_in_openais_order() -> None:
    answer = assembled(CHAT, stream(*HELLO))
    assert answer is not None
    assert json.dumps(json.loads(answer)) == json.dumps(HELLO_WHOLE)


def test_a_stream_that_tells_no_usage_is_an_answer_without_usage() -> None:
    assert "usage" not in whole(stream(*HELLO[:-1]))


def test_the_last_usage_counts_where_every_chunk_tells_it_so_far() -> None:
    chunks = [chunk({"role": "assistant"}, usage={"total_tokens": 1}), chunk({}, "stop", usage=USAGE)]
    assert whole(stream(*chunks))["usage"] == USAGE


def test_choices_come_by_their_index_however_they_were_mixed() -> None:
    chunks = [
        chunk({"role": "assistant", "content": ""}, index=1),
        chunk({"role": "assistant", "content": ""}, index=0),
        chunk({"content": "b"}, index=1),
        chunk({"content": "a"}, index=0),
        chunk({}, "length", index=0),
        chunk({"content": "c"}, index=1),
        chunk({}, "stop", index=1),
    ]
    told = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in whole(stream(*chunks))["choices"]]
    assert told == [(0, "a", "length"), (1, "bc", "stop")]


def test_several_choices_may_come_in_one_chunk() -> None:
    first, second = chunk({"role": "assistant", "content": "a"}, "stop"), chunk({"role": "assistant"}, "stop", index=1)
    both = {**HEAD, "choices": first["choices"] + second["choices"]}
    assert [c["message"]["content"] for c in whole(stream(both))["choices"]] == ["a", None]


def test_tool_calls_are_merged_by_their_index_which_answers_do_not_have() -> None:
    def called(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        function = {"arguments": arguments, **more.pop("function", {})}
        return {"tool_calls": [{"index": index, "function": function, **more}]}

    calls = [
        called(0, "", id="call_a", type="function", function={"name": "f"}),
        called(0, '{"x"'),
        called(1, "{}", id="call_b", type="function", function={"name": "g"}),
        called(0, ":1}"),
    ]
    assert message(*calls) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


def test_a_call_of_two_ids_is_two_calls_mixed_up_and_no_answer() -> None:
    assert message(*({"tool_calls": [{"index": 0, "id": name}]} for name in "ab")) is None


def test_the_old_function_call_is_merged() -> None:
    deltas = [{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": "{}"}}]
    assert message(*deltas)["function_call"] == {"name": "f", "arguments": "{}"}


def test_content_is_null_where_no_delta_had_a_string_and_empty_where_one_had() -> None:
    assert message()["content"] is None
    assert message({"content": None})["content"] is None
    assert message({"content": ""})["content"] == ""


def test_refusals_and_reasoning_are_joined() -> None:
    deltas = [{name: piece} for name in ("refusal", "reasoning", "reasoning_content") for piece in ("a ", "b")]
    joined = message(*deltas)
    assert (joined["refusal"], joined["reasoning"], joined["reasoning_content"]) == ("a b", "a b", "a b")


def test_annotations_are_one_list() -> None:
    assert message({"annotations": [{"a": 1}]}, {"annotations": [{"b": 2}]})["annotations"] == [{"a": 1}, {"b": 2}]


def test_sound_is_joined_with_its_transcript() -> None:
    deltas: list[dict[str, Any]] = [
        {"audio": {"id": "audio_1", "transcript": "He"}},
        {"audio": {"id": "audio_1", "data": "YWJj", "transcript": "llo"}},
        {"audio": {"data": "ZA=="}},
        {"audio": {"expires_at": 17}},
    ]
    sound = {"id": "audio_1", "data": "YWJjZA==", "transcript": "Hello", "expires_at": 17}
    assert message(*deltas)["audio"] == sound


def test_sound_that_was_padded_in_the_middle_is_no_answer() -> None:
    assert message({"audio": {"data": "YQ=="}}, {"audio": {"data": "YQ=="}}) is None


def test_logprobs_are_one_list_of_each_kind() -> None:
    def said(token: str) -> dict[str, Any]:
        value = chunk({"content": token})
        value["choices"][0]["logprobs"] = {"content": [{"token": token, "logprob": -0.5}], "refusal": None}
        return value

    choice = choice_of(chunk({"role": "assistant"}), said("a"), said("b"), chunk({}, "stop"))
    entries = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.5}]
    assert choice["logprobs"] == {"content": entries, "refusal": None}
    assert choice_of(chunk({"role": "assistant"}), chunk({}, "stop"))["logprobs"] is None


def test_a_completion_is_assembled_as_well() -> None:
    def columns(token: str) -> dict[str, Any]:
        return {"tokens": [token], "token_logprobs": [-1.0], "top_logprobs": None, "text_offset": [7]}

    answer = whole(
        stream(text_chunk("a", None, columns("a")), text_chunk("b", None, columns("b")), text_chunk("", "stop")),
        COMPLETION,
    )
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -1.0], "top_logprobs": None, "text_offset": [7, 7]}
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"text": "ab", "index": 0, "logprobs": logprobs, "finish_reason": "stop"}]


def test_a_member_that_nobody_knows_is_taken_where_it_came_once() -> None:
    assert message({"grade": [1]}, {"content": "a"})["grade"] == [1]
    choice = chunk({}, "stop")
    choice["choices"][0]["stop_reason"] = 7
    assert choice_of(chunk({"role": "assistant"}), choice)["stop_reason"] == 7
    assert whole(stream({**HELLO[0], "provider": "x"}, *HELLO[1:]))["provider"] == "x"


def test_a_member_that_nobody_knows_is_no_answer_where_it_came_in_pieces() -> None:
    assert message({"thoughts": "a"}, {"thoughts": "a"}) is None
    assert whole(stream({**HELLO[0], "provider": "x"}, {**HELLO[1], "provider": "y"}, *HELLO[2:])) is None


def test_a_name_that_every_chunk_repeats_is_the_answers() -> None:
    assert whole(stream(*({**each, "provider": "x"} for each in HELLO)))["provider"] == "x"


def test_chunks_that_are_dated_each_for_itself_are_dated_by_the_first() -> None:
    chunks = [{**each, "created": 5 + number} for number, each in enumerate(HELLO)]
    assert whole(stream(*chunks))["created"] == 5


def test_a_first_chunk_that_only_tells_of_filters_takes_part() -> None:
    filters = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [{}]}
    assert whole(stream(filters, *HELLO)) == {**HELLO_WHOLE, "prompt_filter_results": [{}]}


def test_obfuscation_is_left_out() -> None:
    assert whole(stream(*({**each, "obfuscation": "x" * number} for number, each in enumerate(HELLO)))) == HELLO_WHOLE


@pytest.mark.parametrize(
    "rewritten",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("data: ", ": note\nevent: message\nid: 7\nretry: 9\ndata:"),
        lambda text: ": idle\n\n" + text.replace("\n\n", "\n\n:\n\n"),
        lambda text: text.replace('", "', '",\ndata: "'),
        lambda text: text.replace("[DONE]", "[DONE] "),
    ],
)
def test_the_same_events_written_in_any_way_are_the_same_answer(rewritten: Callable[[str], str]) -> None:
    assert whole(rewritten(stream(*HELLO).decode()).encode()) == HELLO_WHOLE


def test_a_character_whose_escapes_stand_in_two_chunks_is_one_character() -> None:
    def cut(name: str) -> list[dict[str, Any]]:
        return [{name: "a\ud83d"}, {name: "\ude00b\ud83d\ude00"}]

    assert rb'"a\ud83d"' in stream(*map(chunk, cut("content")))
    joined = message(*cut("content"), *cut("reasoning"))
    assert joined["content"] == joined["reasoning"] == "a😀b😀"


@pytest.mark.parametrize("content", ["\ud83d", "\ude00\ud83d"])
def test_half_a_character_is_no_answer(content: str) -> None:
    assert message({"content": content}) is None


def test_beside_half_a_character_numbers_are_as_strict_as_everywhere() -> None:
    def with_number(number: str) -> Any:
        halves = [chunk({"role": "assistant", "content": "\ud83d"}), chunk({"content": "\ude00"}, "stop")]
        return whole(stream(*halves).replace(b'"default"', number.encode()).replace(b'"service_tier"', b'"x"'))

    assert with_number("1.5")["x"] == 1.5
    assert [with_number(number) for number in ("NaN", "Infinity", "1e999", "01")] == [None] * 4


def test_numbers_keep_their_values() -> None:
    answer = assembled(CHAT, stream(*({**each, "x": [1, 0.1, -0.0, 18446744073709551615]} for each in HELLO)))
    assert answer is not None
    assert b'"x":[1,0.1,-0.0,18446744073709551615]' in answer
    assert b'"created":1700000000,' in answer


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"])
def test_a_stream_cut_anywhere_is_no_answer(line_end: str) -> None:
    text = stream(*HELLO).decode().replace("\n", line_end).encode()
    finished = len(text) - (1 if line_end == "\r\n" else 0)  # a CR ends the event, whether or not an LF follows
    for size in range(len(text)):
        assert whole(text[:size]) == (HELLO_WHOLE if size >= finished else None), size


@pytest.mark.parametrize(
    "garbage",
    [
        "data: \n\n",
        "data\n\n",
        "data: {\n\n",
        "data: null\n\n",
        "data: []\n\n",
        "data: {}\n\n",
        "data: \x00\n\n",
        'data: {"error": {"message": "m"}}\n\n',
        'data: {"error": null, "choices": []}\n\n',
        'event: error\ndata: {"choices": []}\n\n',
        "event: error\n\n",
        '{"error": {"message": "m"}}\n\n',
        "\ufeffdata: {}\n\n",
        "upstream connect error\n\n",
        'data: {"choices": [], "object": "text_completion"}\n\n',
        'data: {"choices": [], "id": "chatcmpl-2"}\n\n',
        'data: {"choices": [], "model": "gpt-3"}\n\n',
        "data: " + "[" * 100_000 + "\n\n",
        "data: " + '{"choices":[],"x":' + "[" * 500 + "]" * 500 + "}\n\n",
        ":\n" * 1_000_000 + "\n",
    ],
)
@pytest.mark.parametrize("place", [0, 2, 5])
def test_garbage_between_the_events_is_no_answer(garbage: str, place: int) -> None:
    events = stream(*HELLO, end="").decode().split("\n\n")[:-1]
    events = [event + "\n\n" for event in events]
    assert whole("".join([*events, DONE]).encode()) == HELLO_WHOLE
    assert whole("".join([*events[:place], garbage, *events[place:], DONE]).encode()) is None


@pytest.mark.parametrize("after", [DONE, "data: x\n\n", "data", ": unfinished", "\n\n: idle\n\ndata: {}\n\n"])
def test_what_follows_the_end_makes_it_no_answer(after: str) -> None:
    assert whole(stream(*HELLO) + after.encode()) is None


def test_comments_may_follow_the_end() -> None:
    assert whole(stream(*HELLO) + b"\n\n: idle\n\n") == HELLO_WHOLE


@pytest.mark.parametrize("events", [b"", b"\n\n", DONE.encode(), stream({**HEAD, "choices": []}), b"\xff\xfe" * 40])
def test_no_choices_are_no_answer(events: bytes) -> None:
    assert whole(events) is None


def test_a_choice_without_its_end_role_or_predecessor_is_no_answer() -> None:
    assert whole(stream(HELLO[0], HELLO[1])) is None
    assert whole(stream(HELLO[0], chunk({}, ""))) is None
    assert whole(stream(chunk({"content": "a"}), chunk({}, "stop"))) is None
    assert whole(stream(*HELLO, chunk({"role": "assistant"}, "stop", index=2))) is None
    assert whole(stream(*HELLO, chunk({"role": "assistant"}, index=1))) is None


def test_a_choice_that_failed_is_no_answer() -> None:
    failed = chunk({}, "error")
    failed["choices"][0]["error"] = {"message": "m"}
    assert whole(stream(HELLO[0], failed)) is None


@pytest.mark.parametrize("method", ["v1/embeddings", "v1/responses", ""])
def test_other_methods_have_no_such_streams(method: str) -> None:
    assert assembled(method, stream(*HELLO)) is None


def test_a_stream_of_the_other_method_is_no_answer() -> None:
    assert whole(stream(*HELLO), COMPLETION) is None
    assert whole(stream(text_chunk("a", "stop"))) is None


WRONG = [5, 1.5, True, "x", [], {}, [5], [None], [[]], {"x": 1}, None]
TOLD_CHUNK = chunk(
    {
        "role": "assistant",
        "content": "a",
        "refusal": "b",
        "reasoning_content": "c",
        "tool_calls": [{"index": 0, "id": "i", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        "function_call": {"name": "f", "arguments": "{}"},
        "annotations": [{"type": "url_citation"}],
        "audio": {"id": "a", "data": "YWJj", "transcript": "t", "expires_at": 1},
    },
    "stop",
    usage=USAGE,
    obfuscation="xx",
)
TOLD_CHUNK["choices"][0]["logprobs"] = {"content": [{"token": "a"}], "refusal": []}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all the members in a value but for those that are taken as they are."""
    found = [path] if path else []
    if path and path[-1] in {"usage", "annotations", "content", "refusal"}:
        return found
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, member in pairs for place in places(member, (*path, key))]


@pytest.mark.parametrize("path", places(TOLD_CHUNK), ids=lambda path: ".".join(map(str, path)))
def test_a_member_of_a_wrong_type_is_no_answer(path: tuple[Any, ...]) -> None:
    assert whole(stream(TOLD_CHUNK)) is not None
    holder: Any = TOLD_CHUNK
    for key in path[:-1]:
        holder = holder[key]
    right = holder[path[-1]]
    for wrong in WRONG:
        if type(wrong) is type(right) or (wrong is None and path[0] != "choices"):
            continue
        changed = json.loads(json.dumps(TOLD_CHUNK))
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = wrong
        answer = whole(stream(changed))
        may_be_null = wrong is None and path[-1] not in {"choices", 0, "index", "delta", "role", "finish_reason"}
        assert (answer is not None) == may_be_null, wrong


@pytest.mark.parametrize("name", ["id", "object", "created", "model", "choices"])
def test_an_answer_needs_what_identifies_it(name: str) -> None:
    assert whole(stream({key: value for key, value in TOLD_CHUNK.items() if key != name})) is None
    assert whole(stream({**TOLD_CHUNK, name: None})) is None


json_values = st.recursive(
    st.sampled_from([None, True, 0, 1, -1, 2**70, 0.5, float("inf"), float("nan"), "", "x", "\ud83d"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["index", "delta", "choices", "tool_calls", "content", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(["choices", "id", "usage", "x"]), json_values), max_size=4))
def test_nothing_that_an_upstream_writes_raises_an_error(chunks: list[dict[str, Any]]) -> None:
    for method in (CHAT, COMPLETION):
        whole(stream(*HELLO[:2], *chunks, *HELLO[2:]), method)


@given(st.binary(max_size=60), st.integers(0, 100))
def test_no_bytes_raise_an_error(noise: bytes, place: int) -> None:
    events = stream(*HELLO)
    whole(events[:place] + noise + events[place:])


ASKED: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "What makes a good garden?"}]},
    {"messages": [{"role": "user", "content": "向日葵"}], "n": 3},
    {"messages": [{"role": "user", "content": "Как дела?"}], "max_tokens": 4},
    {"messages": [{"role": "user", "content": "List it"}], "response_format": {"type": "json_object"}},
    {
        "messages": [{"role": "user", "content": "the weather in Paris"}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}],
        "n": 2,
    },
    {"prompt": "Once upon a time"},
    {"prompt": ["one", "two"], "n": 2, "echo": True, "max_tokens": 9},
]


def anonymous(answer: dict[str, Any]) -> Any:
    """The answer without what the embedded upstream makes of the whole request, its id and its calls' ids."""
    text = json.dumps({**answer, "created": 0}, sort_keys=True)
    return json.loads(text.replace(answer["id"].partition("-")[2], ""))


@pytest.mark.parametrize("arguments", ASKED, ids=str)
async def test_a_stream_of_the_embedded_upstream_is_its_whole_answer_to_the_same_request(
    arguments: dict[str, Any],
) -> None:
    method = CHAT if "messages" in arguments else COMPLETION
    body = {"model": "gpt-4o", **arguments}
    streaming = {**body, "stream": True, "stream_options": {"include_usage": True}}
    runner, base_url = await start("127.0.0.1", 0, "key", pace_s=0)
    try:
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session:
            url = base_url.removesuffix("/v1") + "/" + method
            async with session.post(url, json=body) as response:
                expected = await response.json()
            async with session.post(url, json=streaming) as response:
                answer = whole(await response.read(), method)
    finally:
        await runner.cleanup()
    assert answer
    assert anonymous(answer) == anonymous(expected)


def test_a_long_stream_takes_linear_time() -> None:
    def seconds(count: int) -> float:
        events = stream(HELLO[0], *[HELLO[1]] * count, *HELLO[3:])
        started = time.process_time()
        assert assembled(CHAT, events)
        return time.process_time() - started

    assert seconds(20_000) < 40 * seconds(2_000)  # 10 where it is linear, 100 where it is quadratic
