"""Where an upstream's body ends: three framings, each fed with what was read, each giving back payload.

Pure: no I/O. `feed` returns the payload's pieces; `done` tells that the body is whole; `surplus` that bytes followed
it, which makes the connection unfit for another request; `fault` that the framing is broken behind what was returned.
"""

from __future__ import annotations

import re
from functools import lru_cache

from gateway.errors import GatewayError
from gateway.upstream.head import CHUNKED, UNTIL_CLOSE, ResponseHead, nonsense

_CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_MAX_CHUNK_LINE_BYTES = 4096
_MAX_TRAILER_BYTES = 8192
# A read of very many chunks must hold this much for each, framing included: eight bytes of payload, less than the
# smallest event takes. An upstream that sends two at a time would cost a tenth of a second a read.
_MANY_CHUNKS = 4096
_LEAST_CHUNK_BYTES = 13
_CRLF = b"\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class LengthBody:
    """A body of a known length."""

    __slots__ = ("done", "left", "surplus")
    fault: GatewayError | None = None

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0
        self.surplus = False

    def feed(self, data: bytes) -> list[bytes]:
        """The payload in `data`."""
        if len(data) > self.left:
            self.surplus = True
            data = data[: self.left]
        self.left -= len(data)
        self.done = self.left == 0
        return [data] if data else []

    def end_of_stream(self) -> bool:
        """Whether the body is whole now that the connection has ended."""
        return self.done


WHOLE = LengthBody(0)
"""For a body that came whole with its head: nothing more is fed to it."""


class CloseBody:
    """A body that ends where the connection ends: a clean end and a cut look alike, but for a reset."""

    __slots__ = ("done", "surplus")
    fault: GatewayError | None = None

    def __init__(self) -> None:
        self.done = False
        self.surplus = False

    def feed(self, data: bytes) -> list[bytes]:
        """The payload in `data`: all of it."""
        return [data] if data else []

    def end_of_stream(self) -> bool:
        """Whether the body is whole now that the connection has ended: always."""
        self.done = True
        return True


@lru_cache(maxsize=4096)
def _only_chunk(length: int) -> tuple[int, tuple[bytes, ...]]:
    """The payload's size of the plain chunk that is so long, framing included, and its head in either spelling.

    Of a few lengths there is no chunk: then there is no head.
    """
    for digits in range(1, 16):
        size = length - digits - 4
        if size > 0 and len(f"{size:x}") == digits:
            return size, (b"%x\r\n" % size, b"%X\r\n" % size)
    return 0, ()


class ChunkedBody:
    """A chunked body (RFC 9112, section 7.1): extensions and trailers are read and dropped.

    `left` counts what is still to come of the current chunk, its closing CRLF included. A chunk's head is held in
    `_partial` until it is whole, so that what was relayed always stands inside a chunk or between two.
    """

    __slots__ = ("_ending", "_partial", "done", "fault", "left", "surplus")

    def __init__(self) -> None:
        self.left = 0
        self.done = False
        self.surplus = False
        self.fault: GatewayError | None = None
        self._partial = b""
        self._ending = False

    def one_chunk(self, data: bytes) -> int:
        """The payload's size where `data` is one whole chunk and nothing else, the shortest path of a relay; or 0."""
        if self.left or self._partial or self._ending or not data.endswith(_CRLF):
            return 0
        size, heads = _only_chunk(len(data))  # nothing has to be parsed: a chunk of this length begins in one way only
        return size if data.startswith(heads) else 0

    def feed(self, data: bytes, framed: list[bytes] | None = None) -> list[bytes]:
        """The payload in `data`; `framed`, where given, receives what a relay passes on: the chunks, made plain."""
        if self._partial:
            data, self._partial = self._partial + data, b""
        payload: list[bytes] = []
        framing = framed if framed is not None else []
        position = run = 0  # `run`: where the bytes begin that may be passed on just as they are
        size_read = len(data)
        try:
            while position < size_read and not self.done:
                if self.left:
                    position = self._inside_chunk(data, position, payload)
                    continue
                if self._ending:
                    framing.append(data[run:position])
                    position = run = self._trailers(data, position, framing)
                    break
                head = _CHUNK_HEAD.match(data, position)
                if head is None:
                    self._hold(data[position:])
                    break
                digits = head[1]
                size = int(digits, 16)
                start = head.end()
                if size == 0:
                    self._ending = True
                    framing.append(data[run:position])
                    run = position = start
                    if position == size_read:
                        break
                    continue
                if start - position > _MAX_CHUNK_LINE_BYTES:
                    raise nonsense("a chunk's head is too long")
                if len(payload) > _MANY_CHUNKS and position < len(payload) * _LEAST_CHUNK_BYTES:
                    raise nonsense("its chunks are too small")
                if start - position != len(digits) + 2:
                    framing += (data[run:position], digits, _CRLF)
                    run = start
                end = start + size
                if data.startswith(_CRLF, end):  # the whole chunk is here, as most are
                    payload.append(data[start:end])
                    position = end + 2
                else:
                    self.left = size + 2
                    position = start
        except GatewayError as error:  # what came before the nonsense is the client's
            self.fault = error
        if framed is not None and run < position:
            framing.append(data if run == 0 and position == size_read else data[run:position])
        return payload

    def _inside_chunk(self, data: bytes, position: int, payload: list[bytes]) -> int:
        """Reads on in the current chunk; returns the new position."""
        end = min(position + self.left, len(data))
        payload_end = max(position, min(end, position + self.left - 2))
        if end > payload_end:
            closing = 2 - (self.left - (payload_end - position))
            if data[payload_end:end] != _CRLF[closing : closing + end - payload_end]:
                raise nonsense("a chunk does not end where its length says")
        if payload_end > position:
            payload.append(data[position:payload_end])
        self.left -= end - position
        return end

    def _trailers(self, data: bytes, position: int, framing: list[bytes]) -> int:
        """Reads the lines after the last chunk; returns the new position."""
        rest = data[position:]
        if rest.startswith(_CRLF):
            end = 2
        else:
            found = rest.find(b"\r\n\r\n")
            if found < 0:
                if len(rest) > _MAX_TRAILER_BYTES:
                    raise nonsense("trailers are too long")
                self._partial = rest
                return len(data)
            end = found + 4
        self.done = True
        self.surplus = end < len(rest)
        framing.append(LAST_CHUNK)
        return len(data)

    def _hold(self, rest: bytes) -> None:
        """Keeps the beginning of a chunk's head until the next read."""
        if len(rest) > _MAX_CHUNK_LINE_BYTES or b"\n" in rest:
            raise nonsense("a chunk has no valid length")
        self._partial = rest

    def end_of_stream(self) -> bool:
        """Whether the body is whole now that the connection has ended."""
        return self.done

    def append(self, payload: bytes) -> bytes:
        """The bytes that add a payload to a body whose relay stopped here, wherever in a chunk that was.

        The last chunk is not written: a body that was cut must not look whole.
        """
        chunk = frame(payload)
        if not self.left:
            return chunk
        room = self.left - 2
        if room <= 0:
            return _CRLF[-self.left :] + chunk
        if len(payload) <= room:
            return payload
        return payload[:room] + _CRLF + frame(payload[room:])


Body = LengthBody | CloseBody | ChunkedBody


def body_of(head: ResponseHead) -> Body:
    """The framing that a head announces."""
    if head.length == CHUNKED:
        return ChunkedBody()
    return CloseBody() if head.length == UNTIL_CLOSE else LengthBody(head.length)


def frame(payload: bytes) -> bytes:
    """A payload (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)
