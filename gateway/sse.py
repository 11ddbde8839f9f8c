"""Server-Sent Events as the WHATWG's event-stream format has them: bytes to events and back, without I/O.

The byte-exact relay parses nothing; it asks `separator` about the last bytes when the upstream breaks off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LINE_COST_BYTES = 32  # an object of its own: millions of empty comments must not slip under the limit


class EventTooLarge(ValueError):  # noqa: N818  # a finding about the stream, not a fault of ours
    """An event, complete or not, is larger than the reader was told to hold."""


@dataclass(frozen=True, slots=True)
class Event:
    """A block of lines that a blank line ended, in their order and without their line ends.

    `data` is the lines of that field joined by LF; None where the block has none, such as a comment on an idle line.
    `exact` is how it came, with whatever blank lines stood before it: those of all events are the stream. `is_remade`:
    it is not the upstream's own.
    """

    lines: tuple[bytes, ...]
    data: bytes | None
    exact: bytes = field(default=b"", compare=False)
    is_remade: bool = field(default=False, compare=False)

    @property
    def raw(self) -> bytes:
        """The block unchanged, ready to be sent: every line ends with LF, and a blank line ends it."""
        return b"\n".join(self.lines) + b"\n\n"


class EventSplitter:
    """Bytes, cut anywhere, to events; linear in the bytes however they are cut.

    A CR ends its line at once, without waiting for the LF that may follow in the next read. `max_event_bytes` bounds
    what is held, a small cost for each line included; after EventTooLarge the splitter is of no more use.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._lines: list[bytes] = []
        self._line = bytearray()  # the unfinished line
        self._held_bytes = 0
        self._after_cr = False
        self._at_start = True
        self._exact = bytearray()  # what came since the last event

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes, in order."""
        if self._at_start:
            chunk = self._without_bom(chunk)
        start = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        taken = 0  # so much of the chunk is in events
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        events = []
        for end in _LINE_END.finditer(chunk, start):
            self._hold(chunk[start : end.start()])
            start = end.end()
            if self._line:
                self._lines.append(bytes(self._line))
                self._line.clear()
                self._held_bytes += _LINE_COST_BYTES
            elif self._lines:
                self._exact += chunk[taken:start]
                taken = start
                events.append(self._take())
        self._hold(chunk[start:])
        self._exact += chunk[taken:]
        if len(self._exact) > 2 * self._max_event_bytes:  # blank lines
            raise EventTooLarge(f"an event is larger than {self._max_event_bytes} bytes")
        return events

    def finish(self) -> Event | None:
        """What is left at the end of a stream that is known to be whole: its last event, blank line or not, or only
        blank lines; None where nothing is.
        """
        if self._line:
            self._lines.append(bytes(self._line))
            self._exact = self._exact or self._line
            self._line = bytearray()
        return self._take() if self._lines or self._exact else None

    @property
    def rest(self) -> bytes:
        """The unfinished event; empty when the stream stands at an event's boundary."""
        return b"".join(line + b"\n" for line in self._lines) + self._line

    def _hold(self, piece: bytes) -> None:
        self._held_bytes += len(piece)
        if self._held_bytes > self._max_event_bytes:
            raise EventTooLarge(f"an event is larger than {self._max_event_bytes} bytes")
        self._line += piece

    def _take(self) -> Event:
        lines = tuple(self._lines)
        self._lines.clear()
        self._held_bytes = 0
        values = [value for line in lines if (value := _data_value(line)) is not None]
        exact = bytes(self._exact)
        self._exact.clear()
        return Event(lines, b"\n".join(values) if values else None, exact)

    def _without_bom(self, chunk: bytes) -> bytes:
        """What can be read of the stream's first bytes: none while they may yet become a byte order mark."""
        head = bytes(self._line) + chunk
        self._line.clear()
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._line += head
            return b""
        self._at_start = False
        if head.startswith(_BOM):
            self._exact += _BOM
        return head.removeprefix(_BOM)


def encode_event(event: Event, payload: bytes) -> bytes:
    """The event with `payload` for its data: one `data:` line for each line of it, where the first one stood.

    Raises ValueError for a carriage return: it would end the line in the reader's eyes.
    """
    if b"\r" in payload:
        raise ValueError("a carriage return cannot be carried in an event's data")
    data = [b"data: " + line for line in payload.split(b"\n")]
    lines: list[bytes] = []
    for line in event.lines:
        if _data_value(line) is None:
            lines.append(line)
        else:
            lines += data
            data = []
    return b"\n".join([*lines, *data, b"", b""])


def with_data(event: Event, payload: bytes) -> Event:
    """The event with `payload`, which is one line, for its data, and its other lines before it."""
    lines = (*(line for line in event.lines if _data_value(line) is None), b"data: " + payload)
    return Event(lines, payload, b"\n".join((*lines, b"", b"")), is_remade=True)


def _data_value(line: bytes) -> bytes | None:
    if line.startswith(b"data:"):
        return line[5:].removeprefix(b" ")
    return b"" if line == b"data" else None


_BOUNDARY = re.compile(rb"(?:\A|\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)\Z")
_BLANK_LINES = (b"\n\n", b"\n\r", b"\r\r")  # how any blank line begins: with the line end before it
_DONE = re.compile(rb"(?:\A|[\r\n])(?:\xef\xbb\xbf)?data:[ \t]*\[DONE\]")


def separator(tail: bytes) -> bytes | None:
    """What must be written before one more event can follow a stream whose last bytes are `tail`.

    Nothing at an event's boundary; in the middle of an event, what ends it. None where the unfinished event is a
    `[DONE]`, or begins as one: to complete it would make a cut stream look finished, so nothing may follow it.
    `tail` is the whole stream or its end; the more of the unfinished event it shows, the surer a `[DONE]` is seen.
    """
    if not tail or _BOUNDARY.search(tail[-4:]):
        return b""
    if _DONE.search(tail[_last_boundary(tail) :]):
        return None
    # After a CR one LF would only complete a CRLF; a second one makes the blank line.
    return b"\n" if tail.endswith(b"\n") else b"\n\n"


def _last_boundary(tail: bytes) -> int:
    """Where the unfinished event begins: at the last line end of the last blank line, or at 0."""
    return max(0, *(tail.rfind(blank) + 1 for blank in _BLANK_LINES))
