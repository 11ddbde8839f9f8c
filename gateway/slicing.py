"""A whole answer of a completion as the stream that it would have been: assembly.py's work, the other way round.

Pure: bytes in, bytes out. An answer is sliced only if assembling the slices gives that very answer again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import orjson

from gateway.assembly import CHAT, COMPLETION, merged
from gateway.merging import Untellable
from gateway.types import JsonValue

_Object: TypeAlias = dict[str, JsonValue]
_Step: TypeAlias = tuple[JsonValue, _Object | None]  # a delta or a piece of text, and the logprobs that come with it

_DONE: Final = b"data: [DONE]\n\n"
_PIECE_CHARS: Final = 16
_MOST_PIECES: Final = 1000  # about so many of a long answer: each has some 200 bytes around it
_MOST_GROWTH: Final = 32  # pieces of _PIECE_CHARS make about 17
_SMALL_BYTES: Final = 65_536
_HEAD: Final = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
_TEXTS: Final = ("reasoning_content", "reasoning", "content", "refusal")  # in the order in which a model writes them
_COLUMNS: Final = ({"content", "refusal"}, {"tokens", "token_logprobs", "top_logprobs", "text_offset"})


def sliced(method: str, answer: bytes, *, include_usage: bool) -> bytes | None:
    """The events of the stream that this whole answer would have been, `[DONE]` included; None where it cannot be.

    Texts come in pieces of some words, or of a token each where the answer has logprobs; what is never cut comes in a
    choice's first chunk. With `include_usage` the usage comes last, as OpenAI sends it, and has to be there.
    """
    shape = _SHAPES.get(method)
    if shape is None:
        return None
    try:
        whole = orjson.loads(answer)
        chunk = shape.as_chunk(whole)
        if merged(method, [chunk]) != whole or (include_usage and "usage" not in chunk):
            return None
        piece_chars = max(_PIECE_CHARS, len(answer) // _MOST_PIECES)
        events = _events(shape, chunk, piece_chars, include_usage=include_usage)
        return _joined(events, _MOST_GROWTH * len(answer) + _SMALL_BYTES)
    except (Untellable, RecursionError, orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None


def _joined(events: Iterator[bytes], limit_bytes: int) -> bytes:
    """The stream; Untellable where it outgrows its answer as only one with an endless id or empty calls does."""
    stream = bytearray()
    for event in events:
        stream += event
        if len(stream) > limit_bytes:
            raise Untellable("the stream is too large")
    return bytes(stream)


def _events(shape: _Shape, chunk: _Object, piece_chars: int, *, include_usage: bool) -> Iterator[bytes]:
    """The events of an answer; what nobody knows among its own members comes with the first one."""
    head: _Object = {name: chunk[name] for name in _HEAD if name in chunk}
    end: _Object = {"usage": None} if include_usage else {}
    once = {name: value for name, value in chunk.items() if name not in {*head, "choices", "usage"}}
    for choice in cast(list[_Object], chunk["choices"]):
        for part in _parts(shape, choice, piece_chars):
            yield _event({**head, "choices": [part], **once, **end})
            once = {}
    if include_usage:
        yield _event({**head, "choices": [], "usage": chunk["usage"]})
    yield _DONE


def _event(chunk: _Object) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _parts(shape: _Shape, choice: _Object, piece_chars: int) -> Iterator[_Object]:
    """What of a choice is in each of its chunks; in the last one its reason to finish, and what nobody knows of it."""
    blank: _Object = {name: None for name in shape.members if name in choice}
    blank["index"] = choice["index"]
    for content, logprobs in shape.steps(choice, piece_chars):
        part: _Object = {**blank, shape.content: content}
        if logprobs is not None:
            part["logprobs"] = logprobs
        yield part
    last: _Object = {shape.content: shape.nothing, "finish_reason": choice["finish_reason"]}
    yield {**choice, **blank, **last}


def _chat_chunk(answer: JsonValue) -> _Object:
    """The answer as the only chunk of its stream; raises Untellable where it does not look like an answer at all."""
    whole = _object(answer)
    choices = whole.get("choices")
    if not isinstance(choices, list):
        raise Untellable("the answer has no choices")
    return {**whole, "object": "chat.completion.chunk", "choices": [_chat_choice(choice) for choice in choices]}


def _chat_choice(value: JsonValue) -> _Object:
    choice = _object(value)
    delta = {**_object(choice.get("message"))}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [{**_object(call), "index": index} for index, call in enumerate(calls)]
    rest = {name: member for name, member in choice.items() if name != "message"}
    return {**rest, "delta": delta}


def _object(value: JsonValue) -> _Object:
    if not isinstance(value, dict):
        raise Untellable("a part of the answer is no object")
    return value


def _text_steps(choice: _Object, piece_chars: int) -> Iterator[_Step]:
    """The pieces of a completion's text."""
    logprobs = cast(_Object | None, choice.get("logprobs"))
    tokens = logprobs.get("tokens") if logprobs else None
    return _pieces(cast(str, choice["text"]), logprobs, cast(list[JsonValue], tokens or []), piece_chars)


def _delta_steps(choice: _Object, piece_chars: int) -> Iterator[_Step]:
    """The deltas of a chat completion's message: an opening with all that is never cut, then texts, then calls."""
    delta, logprobs = cast(_Object, choice["delta"]), cast(_Object | None, choice.get("logprobs"))
    texts = {name: text for name in _TEXTS if isinstance(text := delta.get(name), str) and text}
    spoken = next((name for name in ("content", "refusal") if name in texts and logprobs and logprobs.get(name)), None)
    yield _opening(delta, texts), logprobs if spoken is None else None
    for name, text in texts.items():
        own = logprobs if name == spoken else None
        entries = cast(list[JsonValue], own[name]) if own else []
        for piece, piece_logprobs in _pieces(text, own, [_token(entry) for entry in entries], piece_chars):
            yield {name: piece}, piece_logprobs
    for call in cast(list[_Object], delta.get("tool_calls") or []):
        for call_piece in _call_pieces(call, piece_chars):
            yield {"tool_calls": [call_piece]}, None
    for arguments in _cut(_arguments(delta.get("function_call")), piece_chars):
        yield {"function_call": {"arguments": arguments}}, None


def _opening(delta: _Object, texts: Mapping[str, str]) -> _Object:
    opening: _Object = {name: None if name in texts else member for name, member in delta.items()}
    if "content" in texts:
        opening["content"] = ""
    if delta.get("tool_calls"):
        del opening["tool_calls"]
    if "function_call" in delta:
        opening["function_call"] = _without_arguments(delta["function_call"])
    return opening


def _call_pieces(call: _Object, piece_chars: int) -> Iterator[_Object]:
    """A tool's call as OpenAI streams it: first all but its arguments, then these."""
    opening = {**call}
    if "function" in call:
        opening["function"] = _without_arguments(call["function"])
    yield opening
    for arguments in _cut(_arguments(call.get("function")), piece_chars):
        yield {"index": call["index"], "function": {"arguments": arguments}}


def _arguments(function: JsonValue) -> str:
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return arguments if isinstance(arguments, str) else ""


def _without_arguments(function: JsonValue) -> JsonValue:
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        return {**function, "arguments": ""}
    return function


def _token(entry: JsonValue) -> JsonValue:
    return entry.get("token") if isinstance(entry, dict) else None


def _pieces(text: str, logprobs: _Object | None, tokens: list[JsonValue], piece_chars: int) -> Iterator[_Step]:
    """The text in pieces with what each has of the logprobs: by its tokens if they are exactly the text, or in one."""
    if logprobs is None:
        for piece in _cut(text, piece_chars):
            yield piece, None
    elif _are_rows(logprobs, tokens) and "".join(cast(list[str], tokens)) == text:
        for row, token in enumerate(tokens):
            yield token, {name: _entry(column, row) for name, column in logprobs.items()}
    else:
        yield text, logprobs


def _are_rows(logprobs: _Object, tokens: list[JsonValue]) -> bool:
    """Whether each column of the logprobs, but for those that are null, has an entry for each of some tokens."""
    if not tokens or not any(logprobs.keys() <= names for names in _COLUMNS):
        return False
    lengths = {len(column) for column in logprobs.values() if isinstance(column, list)}
    return lengths == {len(tokens)} and all(isinstance(token, str) for token in tokens)


def _entry(column: JsonValue, row: int) -> JsonValue:
    return column[row : row + 1] if isinstance(column, list) else None


def _cut(text: str, piece_chars: int) -> Iterator[str]:
    """The text in pieces of at most so many characters: before a space where there is one, and else anywhere."""
    start = 0
    while len(text) - start > piece_chars:
        end = text.rfind(" ", start + 1, start + piece_chars + 1)
        end = end if end > start else start + piece_chars
        yield text[start:end]
        start = end
    if text:
        yield text[start:]


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a method's answers are sliced: `content` is the member that comes in pieces, `nothing` its end."""

    content: str
    nothing: JsonValue
    members: tuple[str, ...]
    as_chunk: Callable[[JsonValue], _Object]
    steps: Callable[[_Object, int], Iterator[_Step]]


_SHAPES: Final[Mapping[str, _Shape]] = {
    CHAT: _Shape("delta", {}, ("index", "delta", "logprobs", "finish_reason"), _chat_chunk, _delta_steps),
    COMPLETION: _Shape("text", "", ("text", "index", "logprobs", "finish_reason"), _object, _text_steps),
}
