"""A finished stream of a completion as the whole answer that the upstream would have given in its place.

Pure: bytes in, bytes out. Nothing is guessed: where the chunks do not say for certain what their sum is, there is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import orjson

from gateway.merging import Base64, Column, First, Indexed, Items, Last, Record, Rules, Text, Untellable, Value
from gateway.sse import Event, EventSplitter
from gateway.types import JsonValue

CHAT: Final = "v1/chat/completions"
COMPLETION: Final = "v1/completions"

_READ_BYTES = 65_536
_FIELD = re.compile(rb":|(?:data|event|id|retry)(?::|\Z)")
_ERROR_NAME = re.compile(rb"event: ?error\Z")


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the chunks of a method look like, and what its answers are called."""

    chunk_object: str
    answer_object: str
    chunk: Rules


_INDEX: Final = partial(Value, int, repeats=True)
_SAME: Final = partial(Value, str, repeats=True)
_FUNCTION: Final[Rules] = {"name": partial(Value, str), "arguments": Text}
_CALL: Final[Rules] = {"index": _INDEX, "id": _SAME, "type": _SAME, "function": partial(Record, _FUNCTION)}
_AUDIO: Final[Rules] = {"id": _SAME, "data": Base64, "transcript": Text, "expires_at": partial(Value, int)}
_DELTA: Final[Rules] = {
    "role": _SAME,
    "content": Text,
    "reasoning_content": Text,
    "reasoning": Text,
    "tool_calls": partial(Indexed, _CALL),
    "function_call": partial(Record, _FUNCTION),
    "refusal": Text,
    "annotations": Items,
    "audio": partial(Record, _AUDIO),
}
_CHAT_LOGPROBS: Final[Rules] = {"content": Items, "refusal": Items}
_CHAT_CHOICE: Final[Rules] = {
    "index": _INDEX,
    "delta": partial(Record, _DELTA),
    "logprobs": partial(Record, _CHAT_LOGPROBS),
    "finish_reason": _SAME,
}
_COMPLETION_LOGPROBS: Final[Rules] = dict.fromkeys(("text_offset", "token_logprobs", "tokens", "top_logprobs"), Column)
_COMPLETION_CHOICE: Final[Rules] = {
    "text": Text,
    "index": _INDEX,
    "logprobs": partial(Record, _COMPLETION_LOGPROBS),
    "finish_reason": _SAME,
}


def _rules_of_chunk(choice: Rules, content: str) -> Rules:
    """The rules for a chunk's members, in the order in which OpenAI's answers have them; `content` is each choice's."""
    return {
        "id": _SAME,
        "object": _SAME,
        "created": First,
        "model": _SAME,
        "choices": partial(Indexed, choice, content),
        "usage": partial(Last, dict),
        "service_tier": _SAME,
        "system_fingerprint": _SAME,
        "obfuscation": partial(Last, str),  # random letters that hide the size of a chunk
    }


_SHAPES: Final[Mapping[str, _Shape]] = {
    CHAT: _Shape("chat.completion.chunk", "chat.completion", _rules_of_chunk(_CHAT_CHOICE, "delta")),
    COMPLETION: _Shape("text_completion", "text_completion", _rules_of_chunk(_COMPLETION_CHOICE, "text")),
}


def assembled(method: str, stream: bytes) -> bytes | None:
    """The JSON of the whole answer that this finished stream amounts to; None where that cannot be told faithfully.

    None for any stream that is not known to be whole: without `[DONE]`, with an error or anything unreadable in it, or
    with a choice that has no finish_reason. Numbers keep their values but not their spellings.
    """
    if method not in _SHAPES:
        return None
    try:
        return _written(merged(method, _chunks(stream)))
    except (ValueError, RecursionError, orjson.JSONEncodeError):
        return None


def merged(method: str, chunks: Iterable[JsonValue]) -> dict[str, JsonValue]:
    """The answer that all the parsed chunks of a stream amount to, its members in OpenAI's order; raises Untellable."""
    shape = _SHAPES[method]
    answer = Record(shape.chunk, partial(Value, repeats=True))
    for chunk in chunks:
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
            raise Untellable("a chunk is no object with choices")
        answer.add(chunk)
    return _finished(answer.whole or {}, shape)


def _finished(whole: dict[str, JsonValue], shape: _Shape) -> dict[str, JsonValue]:
    """The members of all chunks, merged, as the members of an answer."""
    if None in (whole.get("id"), whole.get("created"), whole.get("model")) or "error" in whole:
        raise Untellable("the chunks do not say what they are chunks of")
    if whole.get("object") != shape.chunk_object or not whole["choices"]:
        raise Untellable("the chunks are none of this method's")
    whole["object"] = shape.answer_object
    choices = cast(list[dict[str, JsonValue]], whole["choices"])
    whole["choices"] = [_finished_choice(choice, number, shape) for number, choice in enumerate(choices)]
    whole.pop("obfuscation", None)
    if whole.get("usage") is None:
        whole.pop("usage", None)
    return whole


def _finished_choice(choice: dict[str, JsonValue], number: int, shape: _Shape) -> JsonValue:
    if choice["index"] != number or not choice.get("finish_reason") or "error" in choice:
        raise Untellable("a choice is missing, not finished, or failed")
    if shape.chunk_object == shape.answer_object:
        return choice
    delta = cast(dict[str, JsonValue], choice.pop("delta"))
    if not delta.get("role") or "message" in choice:
        raise Untellable("the chunks do not say whose message it is")
    calls = delta.get("tool_calls")
    for call in cast(list[dict[str, JsonValue]], calls or []):
        del call["index"]
    return {"index": number, "message": {"role": None, "content": None, **delta}, **choice}


def _chunks(stream: bytes) -> Iterator[JsonValue]:
    """The chunks up to `[DONE]`, parsed; raises ValueError where the stream is not a clean and finished one."""
    splitter = EventSplitter(4 * len(stream) + 1024)  # with the cost of its lines, which real events have few of
    done = False
    for start in range(0, len(stream), _READ_BYTES):
        for event in splitter.feed(stream[start : start + _READ_BYTES]):
            data = _data(event)
            if data is None:
                continue
            if done:
                raise Untellable("something follows [DONE]")
            if data.strip() == b"[DONE]":
                done = True
            else:
                yield _parsed(data)
    if not done or splitter.rest:
        raise Untellable("the stream is cut")


def _data(event: Event) -> bytes | None:
    """The event's data, None for comments. Lines that a reader would pass over may be an error's bare text: refused."""
    if event.data is None or len(event.lines) > 1:
        for line in event.lines:
            if not _FIELD.match(line) or _ERROR_NAME.match(line):
                raise Untellable("a line is no event's, or an error's")
    return event.data


def _parsed(data: bytes) -> JsonValue:
    """A chunk's JSON. Upstreams cut between the two escapes of a character; only the slower parser lets that pass."""
    try:
        return cast(JsonValue, orjson.loads(data))
    except orjson.JSONDecodeError:
        number = orjson.loads  # as it reads them: what is infinite, or not a number, is refused
        value = json.loads(data.decode(), parse_float=number, parse_int=number, parse_constant=number)
        return cast(JsonValue, value)


def _written(whole: dict[str, JsonValue]) -> bytes:
    try:
        return orjson.dumps(whole)
    except orjson.JSONEncodeError:
        # Halves of surrogate pairs, side by side now: as escapes they read as one character. A single half is refused.
        return orjson.dumps(orjson.loads(json.dumps(whole)))
