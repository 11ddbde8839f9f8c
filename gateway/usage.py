"""What an upstream says that a call used: read from the end of its answer, where it stands, without parsing the rest.

Pure: bytes in, a value out.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import msgspec
import orjson

from gateway.arguments import with_members, without_members
from gateway.types import Arguments, JsonValue, Usage

MAX_TOKENS: Final = 10**12
"""More is nonsense, and is counted as so many."""

_REACH_BYTES: Final = 2048
_COUNT = re.compile(
    rb'"(prompt_tokens|completion_tokens|input_tokens|output_tokens|cached_tokens)"[ \t\r\n]*:[ \t\r\n]*(-?[0-9]{1,30})'
    rb"(?![0-9.eE])"
)
# As OpenAI writes it, and nearly everyone after it: one match instead of a list of findings.
_CHAT = re.compile(
    rb'"usage": ?\{"prompt_tokens": ?([0-9]{1,12}), ?"completion_tokens": ?([0-9]{1,12}), ?"total_tokens": ?[0-9]+'
    rb'(?:\}|, ?"prompt_tokens_details": ?\{"cached_tokens": ?([0-9]{1,12})[,}])'
)
_PROMPT = frozenset({b"prompt_tokens", b"input_tokens"})
_COMPLETION = frozenset({b"completion_tokens", b"output_tokens"})
_OPENING = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*(\{|null)')


def usage_of(text: bytes) -> Usage | None:
    """The usage that stands last in a JSON answer, or in the last events of a stream; None where there is none.

    `"usage"` is a name there: within a JSON string its quotes would be escaped. Of chat completions and of completions,
    embeddings and transcriptions the counts are prompt_tokens and completion_tokens, of responses and images
    input_tokens and output_tokens (OpenAI's API reference).
    """
    at = text.rfind(b'"usage"')
    if at >= 0 and (chat := _CHAT.match(text, at)) is not None:
        prompt, completion, cached = chat.groups()
        return Usage(int(prompt), int(completion), None if cached is None else int(cached))
    while at >= 0:
        opening = _OPENING.match(text, at)
        if opening is not None:
            found = _COUNT.findall(text, opening.end(), opening.end() + _REACH_BYTES) if opening[1] == b"{" else []
            return _usage(found)
        at = text.rfind(b'"usage"', 0, at)  # that one was a text, or a caller's own name for one, as in metadata
    return None


def _usage(found: list[tuple[bytes, bytes]]) -> Usage | None:
    """The usage that these names and numbers tell; of two of one name the first is the usage's own."""
    prompt = completion = cached = None
    for name, digits in found:
        count = min(max(int(digits), 0), MAX_TOKENS)
        if name in _PROMPT:
            prompt = count if prompt is None else prompt
        elif name in _COMPLETION:
            completion = count if completion is None else completion
        else:
            cached = count if cached is None else cached
    return None if prompt is None and completion is None else Usage(prompt, completion, cached)


def tokens_used(usage: Usage | None) -> int:
    """What counts against a limit of tokens."""
    return 0 if usage is None else (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)


def asking_usage(arguments: Arguments) -> bytes:
    """The text of a stream's arguments with `stream_options.include_usage`; all else in it stays as it was written."""
    options = arguments.values.get("stream_options")
    asked: JsonValue = {**options, "include_usage": True} if isinstance(options, dict) else {"include_usage": True}
    rest = without_members(arguments, frozenset({"stream_options"}))
    return with_members(rest, {"stream_options": orjson.dumps(asked)}, {"stream_options": asked}).text


class _Answer(msgspec.Struct):
    """What of an answer or an event may tell its use; msgspec passes over all else without making anything of it."""

    usage: Any = None
    response: Any = None
    data: msgspec.Raw = msgspec.Raw(b"")
    duration: Any = None


def told_usage(value: object) -> Usage | None:
    """The usage that a parsed `usage` tells: numbers that are none are missing, absurd ones clamped, zero is zero."""
    if not isinstance(value, dict):
        return None
    prompt = _told(value, "prompt_tokens", "input_tokens")
    completion = _told(value, "completion_tokens", "output_tokens")
    if prompt is None and completion is None:
        return None
    details = value.get("prompt_tokens_details") or value.get("input_tokens_details")
    cached = _told(details, "cached_tokens") if isinstance(details, dict) else _told(value, "cached_tokens")
    return Usage(prompt, completion, cached)


def _told(value: dict[str, Any], *names: str) -> int | None:
    for name in names:
        count = value.get(name)
        if type(count) is int:  # as nearly always
            return count if 0 <= count <= MAX_TOKENS else MAX_TOKENS if count > 0 else 0
        if isinstance(count, float):
            return int(min(max(count, 0), MAX_TOKENS))
    return None


def event_usage(data: bytes) -> Usage | None:
    """The usage that one event's JSON tells, its own or that of the response in it; read by its structure.

    A name within what a caller wrote, a schema or a tool that the upstream repeats, cannot be taken for it.
    """
    try:
        event = msgspec.json.decode(data, type=_Answer)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    usage = told_usage(event.usage)
    if usage is None and isinstance(event.response, dict):
        usage = told_usage(event.response.get("usage"))
    return usage


def whole_usage(body: bytes) -> tuple[Usage | None, int, int]:
    """A JSON answer's usage, how many items its `data` has, and its milliseconds of sound; read as `event_usage`."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        items = 0
        if bytes(answer.data).startswith(b"["):
            items = len(msgspec.json.decode(answer.data, type=list[msgspec.Raw]))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None, 0, 0
    seconds = answer.duration
    if seconds is None and isinstance(answer.usage, dict):
        seconds = answer.usage.get("seconds")
    return told_usage(answer.usage), items, _milliseconds(seconds)


def _milliseconds(seconds: object) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | str):
        return 0
    try:
        value = float(seconds)
    except (ValueError, OverflowError):
        return 0
    return int(min(max(value, 0.0), 1e7) * 1000 + 0.5) if math.isfinite(value) else 0
