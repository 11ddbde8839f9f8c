"""Watching a stream on its way: what it says that was used, what text went by, and the one event that stays here.

Pure: payload in, payload out. A meter costs a chunk one append; it reads what has gathered some kilobytes at a time,
and whole lines only, so its memory does not grow with the stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import orjson

from gateway.types import Usage
from gateway.usage import event_usage, usage_of

GATHER_BYTES: Final = 8_192
RUNNING_GATHER_BYTES: Final = 1_024  # where it counts how far a stream has come
_MAX_LINE_BYTES: Final = 262_144  # of a longer one, which holds a picture or a whole response, only the end is kept
_LONG_LINE_TAIL_BYTES: Final = 16_384  # the usage stands in it, with the caller's metadata behind
_MAX_TEXT_BYTES: Final = 262_144  # of the text that waits to be counted
_DATA: Final = b"data:"
_IMAGE = re.compile(rb'"type"[ \t]*:[ \t]*"image_\w+\.(completed)?')
_USAGE = re.compile(rb'"usage"[ \t]*:[ \t]*\{')
_STRING = rb'[ \t]*:[ \t]*"((?:[^"\\]|\\.)*)"'
_TEXTS = {
    "v1/chat/completions": re.compile(rb'"(?:content|reasoning_content|reasoning|refusal|arguments|name)"' + _STRING),
    "v1/completions": re.compile(rb'"text"' + _STRING),
}
_OTHER_TEXTS = re.compile(rb'"delta"' + _STRING)  # responses, transcriptions: only what is new, not what repeats it


class Meter:
    """Reads along with a stream. `usage` is what it told last; None while it has told nothing.

    `images` are the finished ones that its events named, None where none of them spoke of images; `read_bytes` is how
    much of it was read.
    """

    __slots__ = (
        "_count",
        "_counted",
        "_gather_bytes",
        "_gathered",
        "_in_long_line",
        "_pieces",
        "_rest",
        "_text",
        "_texts",
        "images",
        "read_bytes",
        "usage",
    )

    def __init__(self, method: str, count: Callable[[str], int], *, gather_bytes: int = GATHER_BYTES) -> None:
        self._count = count
        self._gather_bytes = gather_bytes
        self._texts = _TEXTS.get(method, _OTHER_TEXTS)
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._rest = b""  # the unfinished line
        self._text = b""  # what went by, still escaped as in JSON
        self._counted = 0
        self._in_long_line = False  # of which the rest is the end
        self.usage: Usage | None = None
        self.images: int | None = None
        self.read_bytes = 0

    def feed(self, payload: bytes) -> None:
        """Takes a piece of the stream."""
        self._pieces.append(payload)
        self._gathered += len(payload)
        if self._gathered > self._gather_bytes:
            self._read()

    @property
    def delivered_tokens(self) -> int:
        """An estimate of the tokens of what went by."""
        self._read()
        if self._text:
            self._counted += self._count(_unescaped(self._text))
            self._text = b""
        return self._counted

    @property
    def running_tokens(self) -> int:
        """Roughly how many tokens have gone by, not fewer than there were; what has gathered last is not read yet."""
        return self._counted + len(self._text) // 3

    def finish(self) -> Usage | None:
        """What the stream told was used, once it has ended; its last line may lack its end."""
        self._read()
        if self._in_long_line:
            self._end_long_line(self._rest)
        else:
            self._look(self._rest)
        self._rest = b""
        return self.usage

    def _read(self) -> None:
        if not self._pieces:
            return
        self.read_bytes += self._gathered
        text = self._rest + b"".join(self._pieces)
        self._pieces.clear()
        self._gathered = 0
        if self._in_long_line:
            end = text.find(b"\n") + 1
            if not end:
                self._rest = self._long_line(text)
                return
            self._end_long_line(text[:end])
            text = text[end:]
        end = text.rfind(b"\n") + 1
        self._look(text[:end])
        rest = text[end:]
        if len(rest) > _MAX_LINE_BYTES:
            self._in_long_line = True
            self._count_images(rest[:_LONG_LINE_TAIL_BYTES])
            rest = self._long_line(rest)
        self._rest = rest

    def _long_line(self, line: bytes) -> bytes:
        """The end of a line that is too long to be kept. Only a chat's may hold so much text that is new."""
        dropped = max(len(line) - _LONG_LINE_TAIL_BYTES, 0)
        if self._texts is not _OTHER_TEXTS:
            self._counted += dropped // 4
        return line[dropped:]

    def _end_long_line(self, tail: bytes) -> None:
        self._in_long_line = False
        self.usage = usage_of(tail[-_LONG_LINE_TAIL_BYTES:]) or self.usage
        self._count_images(tail)

    def _count_images(self, text: bytes) -> None:
        for completed in _IMAGE.findall(text):
            self.images = (self.images or 0) + bool(completed)

    def _look(self, lines: bytes) -> None:
        if not lines:
            return
        if _USAGE.search(lines) is not None:
            self.usage = _last_usage(lines) or self.usage
        if b'"image_' in lines:
            self._count_images(lines)
        self._text += b"".join(self._texts.findall(lines))
        if len(self._text) > _MAX_TEXT_BYTES:
            self._counted += self._count(_unescaped(self._text))
            self._text = b""


def _last_usage(lines: bytes) -> Usage | None:
    for line in reversed(lines.splitlines()):
        if _USAGE.search(line) is not None and (usage := event_usage(line.removeprefix(_DATA))) is not None:
            return usage
    return None


def _unescaped(text: bytes) -> str:
    """What stands between the quotes of JSON strings; one that is none is taken as it is."""
    try:
        value = orjson.loads(b'"%b"' % text)
    except orjson.JSONDecodeError:
        return text.decode("utf-8", "replace")
    return str(value)


_EMPTY_CHOICES = re.compile(rb'"choices"[ \t]*:[ \t]*\[[ \t]*\]')
_FILLED_CHOICES = re.compile(rb'"choices"[ \t]*:[ \t]*\[[ \t]*[^\] \t]')
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_MAX_HELD_BYTES: Final = 4_096


class Sieve:
    """Takes out of a stream the event that tells nothing but the usage, which the gateway asked for and not the client.

    All other bytes pass unchanged, each as soon as it is certain that it is no part of that event: a whole event at
    once, the beginning of one when its choices are seen to be some.
    """

    __slots__ = ("_after_cr", "_dropped", "_held", "_passed")

    def __init__(self) -> None:
        self._held = b""  # the beginning of an event that may be the one
        self._passed = b""  # the last bytes of an event whose beginning has gone on; empty at an event's beginning
        self._dropped = False  # the last event that ended
        self._after_cr = False  # it ended with a CR, and a LF may still belong to that

    def feed(self, payload: bytes) -> bytes:
        """What of the stream can go on now: `payload` itself where that is all of it."""
        if (
            not self._held
            and not self._passed
            and not self._after_cr
            and payload.endswith(b"\n\n")
            and _EMPTY_CHOICES.search(payload) is None
        ):
            return payload  # whole events, as most reads are
        passed: list[bytes] = []
        if self._after_cr and payload:
            self._after_cr = False
            if payload.startswith(b"\n"):
                payload = payload[1:]
                if not self._dropped:
                    passed.append(b"\n")
        before = self._passed
        text = before + self._held + payload
        self._held = b""
        gone = len(before)  # so much of the text went on earlier
        start = 0
        for end in _EVENT_END.finditer(text):
            event = text[max(start, gone) : end.end()]
            self._dropped = not before and tells_usage_only(event)
            passed.append(_blank_lines(event) if self._dropped else event)
            start = end.end()
            before = b""
        self._after_cr = self._after_cr or (start == len(text) and text.endswith(b"\r"))
        rest = text[start:]
        if rest and not before and _may_tell_usage_only(rest):
            self._held, self._passed = rest, b""
        else:
            passed.append(text[max(start, gone) :])
            self._passed = rest[-3:]
        return b"".join(passed)

    def finish(self) -> bytes:
        """What was held when the stream ended: an unfinished event, unless it is the one."""
        rest, self._held = self._held, b""
        return _blank_lines(rest) if tells_usage_only(rest) else rest


def _blank_lines(event: bytes) -> bytes:
    """The line ends before an event, which are none of it."""
    return event[: len(event) - len(event.lstrip(b"\r\n"))]


def tells_usage_only(event: bytes) -> bool:
    """Whether an event is the one that `stream_options.include_usage` adds: no choices, and a usage."""
    if _EMPTY_CHOICES.search(event) is None or _USAGE.search(event) is None:
        return False
    field = event.strip(b"\r\n")
    if not field.startswith(_DATA):
        return False
    try:
        value = orjson.loads(field[len(_DATA) :])
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and value.get("choices") == [] and isinstance(value.get("usage"), dict)


def _may_tell_usage_only(beginning: bytes) -> bool:
    """Whether an event that begins so could still turn out to be that one."""
    if len(beginning) > _MAX_HELD_BYTES:
        return False
    field = beginning.lstrip(b"\r\n")
    if not (field.startswith(_DATA) or _DATA.startswith(field)):
        return False
    data = field[len(_DATA) :].lstrip(b" ")
    return (not data or data.startswith(b"{")) and _FILLED_CHOICES.search(field) is None


class Watch:
    """What a relay shows its payload to on its way: a meter, a sieve and a keeper, each where it is wanted."""

    __slots__ = ("_keep_limit", "_kept", "_kept_bytes", "_sieve", "meter", "noted")

    def __init__(self, meter: Meter | None, *, sieves: bool, keep_limit_bytes: int = 0) -> None:
        self.meter = meter
        self._sieve = Sieve() if sieves else None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._keep_limit = keep_limit_bytes
        self.noted: Callable[[], None] | None = None  # called after each piece

    def feed(self, payload: bytes) -> bytes:
        """What of a piece goes on to the client: `payload` itself where that is all of it."""
        if self.meter is not None:
            self.meter.feed(payload)
        passed = payload if self._sieve is None else self._sieve.feed(payload)
        if self._keep_limit:
            self.keep(passed)
        if self.noted is not None:
            self.noted()
        return passed

    def finish(self) -> bytes:
        """What was held back and goes on now that the stream has ended."""
        passed = b"" if self._sieve is None else self._sieve.finish()
        if passed and self._keep_limit:
            self.keep(passed)
        return passed

    def keep(self, passed: bytes) -> None:
        """Keeps what the client was given, until it is too much."""
        self._kept_bytes += len(passed)
        if self._kept_bytes <= self._keep_limit:
            self._kept.append(passed)
        else:
            self._kept.clear()

    @property
    def kept(self) -> bytes | None:
        """All that the client was given; None where it was too much to keep."""
        return b"".join(self._kept) if 0 < self._kept_bytes <= self._keep_limit else None
