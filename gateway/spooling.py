"""An upload that is looked at before it goes upstream: kept in a file while it comes, and digested by what it holds.

Of a form the boundary between its parts is not what it holds: every client makes up a new one for each request.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from typing import Final

from gateway.form_model import boundary_of

_IN_MEMORY_BYTES: Final = 262_144
_PIECE_BYTES: Final = 65_536


class Spool:
    """The body of one upload. `is_whole`: all of it is here; else `pieces` goes on with what is still to come."""

    def __init__(self, content_type: str, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._digest = _ContentDigest(content_type)
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115  # see __exit__
        self._rest: AsyncIterator[bytes] | None = None
        self._is_lent = False
        self._size_bytes = 0
        self.is_whole = False

    @property
    def digest(self) -> bytes:
        """Of what it holds, once it is whole."""
        return self._digest.digest()

    async def fill(self, pieces: AsyncIterator[bytes]) -> None:
        """Takes the body in, as long as it is within the limit. Raises what reading it does."""
        async for piece in pieces:
            self._digest.update(piece)
            try:
                if self._size_bytes + len(piece) > _IN_MEMORY_BYTES:
                    await asyncio.get_running_loop().run_in_executor(None, self._write, piece)
                else:
                    self._write(piece)
            except OSError:  # there is no room for it: it goes on without having been looked at
                self._rest = _behind(piece, pieces)
                return
            self._size_bytes += len(piece)
            if self._size_bytes > self._limit_bytes:
                self._rest = pieces
                return
        self.is_whole = True

    def _write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._file.flush()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body from its beginning; a second time only where it is whole."""
        self._file.seek(0)
        left = self._size_bytes
        while left and (piece := self._file.read(min(left, _PIECE_BYTES))):
            left -= len(piece)
            yield piece
        if self._rest is not None:
            async for piece in self._rest:
                yield piece

    def lent(self) -> Callable[[], AsyncIterator[bytes]]:
        """`pieces`, for one who may need them when whoever took the body in has gone: the file lives as long."""
        self._is_lent = True
        return self.pieces

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_lent:  # else it goes with the last who has it
            self._file.close()


async def _behind(piece: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield piece
    async for more in pieces:
        yield more


class _ContentDigest:
    """Of the parts between the boundaries, each by itself, so that no content can look like a boundary.

    A boundary stands at a line's beginning, and its line holds nothing else (RFC 2046, section 5.1.1).
    """

    def __init__(self, content_type: str) -> None:
        name = boundary_of(content_type).encode("latin-1", "replace")
        self._delimiter = re.compile(rb"\r\n--%b(?=\r\n|--|[ \t])" % re.escape(name)) if name else None
        self._keep = len(name) + 6  # what may be the beginning of a delimiter, and what must stand behind it
        kind = content_type.encode("utf-8", "surrogatepass")
        self._outer = blake2b(kind.replace(name, b"") if name else kind, digest_size=32)
        self._part = blake2b(digest_size=32)
        self._held = b"\r\n"  # as if a line ended before the first

    def update(self, piece: bytes) -> None:
        if self._delimiter is None:
            self._part.update(piece)
            return
        *whole, last = self._delimiter.split(self._held + piece)
        for part in whole:
            self._part.update(part)
            self._end_part()
        cut = max(0, len(last) - self._keep)
        self._part.update(last[:cut])
        self._held = last[cut:]

    def digest(self) -> bytes:
        self._part.update(self._held)
        self._held = b""
        self._end_part()
        return self._outer.digest()

    def _end_part(self) -> None:
        self._outer.update(self._part.digest())
        self._part = blake2b(digest_size=32)
