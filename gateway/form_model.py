"""Finds out which model a form names while its bytes pass by on their way upstream: what an upload costs hangs on it.

Pure: bytes in, a name out. Holds no more of the form than the head of one part.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'(?i)content-disposition:[^\r\n]*;[ \t]*name="?model"?[ \t]*(?:;|\r\n|\Z)')
_FILE = re.compile(rb"(?i)content-disposition:[^\r\n]*;[ \t]*filename")
_MAX_HEAD_BYTES: Final = 8_192
_MAX_MODEL_BYTES: Final = 256


class _At(Enum):
    CONTENT = 1  # of a part that is of no interest, or before the first
    HEAD = 2
    MODEL = 3
    LOST = 4  # this is no form that one can follow


class FormModel:
    """`model` is the name in the part `model`; None while there is none, and where two of them differ."""

    __slots__ = ("_at", "_delimiter", "_found", "_held")

    def __init__(self, content_type: str) -> None:
        boundary = _BOUNDARY.search(content_type)
        name = "" if boundary is None else boundary[1] or boundary[2]
        self._delimiter = b"\r\n--" + name.encode("latin-1", "replace")
        self._held = b"\r\n"  # as if a line ended before the first delimiter
        self._at = _At.CONTENT if name else _At.LOST
        self._found: set[bytes] = set()

    @property
    def model(self) -> str | None:
        if len(self._found) != 1:
            return None
        (found,) = self._found
        return found.decode("utf-8", "replace")

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the form."""
        if self._at is _At.LOST:
            return
        self._held += data
        while self._step():
            pass

    def _step(self) -> bool:
        """Goes on to the next boundary between two states, if it is there."""
        held = self._held
        if self._at is _At.HEAD:
            end = held.find(b"\r\n\r\n")
            if end < 0:
                self._lose_above(_MAX_HEAD_BYTES)
                return False
            head = held[:end]
            names_model = _NAME.search(head) is not None and _FILE.search(head) is None
            self._at = _At.MODEL if names_model else _At.CONTENT
            self._held = held[end + 2 :]  # a part without content ends with the line end of its head
            return True
        end = held.find(self._delimiter)
        if end < 0:
            if self._at is _At.MODEL:
                self._lose_above(_MAX_MODEL_BYTES + len(self._delimiter))
            else:
                self._held = held[-len(self._delimiter) :]
            return False
        if self._at is _At.MODEL:
            if end - 2 > _MAX_MODEL_BYTES:
                self._lose_above(0)
                return False
            self._found.add(held[2:end])
        self._at = _At.HEAD
        self._held = held[end + len(self._delimiter) :]
        return True

    def _lose_above(self, limit_bytes: int) -> None:
        if len(self._held) > limit_bytes:
            self._at = _At.LOST
            self._held = b""
            self._found.clear()
