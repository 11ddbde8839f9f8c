"""An upload that is looked at before it goes upstream: kept in a file while it comes, and digested by what it holds.

Of a form the boundary between its parts is not what it holds: every client makes up a new one for each request.
"""

from __future__ import annotations

import asyncio
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
        self.is_whole = False

    @property
    def digest(self) -> bytes:
        """Of what it holds, once it is whole."""
        return self._digest.digest()

    async def fill(self, pieces: AsyncIterator[bytes]) -> None:
        """Takes the body in, as long as it is within the limit. Raises what reading it does."""
        size_bytes = 0
        async for piece in pieces:
            size_bytes += len(piece)
            self._digest.update(piece)
            if size_bytes > _IN_MEMORY_BYTES:
                await asyncio.get_running_loop().run_in_executor(None, self._file.write, piece)
            else:
                self._file.write(piece)
            if size_bytes > self._limit_bytes:
                self._rest = pieces
                return
        self.is_whole = True

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body from its beginning; a second time only where it is whole."""
        self._file.seek(0)
        while piece := self._file.read(_PIECE_BYTES):
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


class _ContentDigest:
    """Of the parts between the boundaries, each by itself, so that no content can look like a boundary."""

    def __init__(self, content_type: str) -> None:
        name = boundary_of(content_type)
        self._boundary = b"--" + name.encode("latin-1", "replace") if name else b""
        media_type = content_type.partition(";")[0].strip().lower() if name else content_type
        self._outer = blake2b(media_type.encode("utf-8", "surrogatepass"), digest_size=32)
        self._part = blake2b(digest_size=32)
        self._held = b""

    def update(self, piece: bytes) -> None:
        if not self._boundary:
            self._part.update(piece)
            return
        *whole, last = (self._held + piece).split(self._boundary)
        for part in whole:
            self._part.update(part)
            self._end_part()
        keep = len(self._boundary) - 1  # which may be the beginning of one
        self._part.update(last[:-keep])
        self._held = last[-keep:]

    def digest(self) -> bytes:
        self._part.update(self._held)
        self._held = b""
        self._end_part()
        return self._outer.digest()

    def _end_part(self) -> None:
        self._outer.update(self._part.digest())
        self._part = blake2b(digest_size=32)
