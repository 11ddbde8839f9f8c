"""Finds out which model a form names while its bytes pass by on their way upstream: what an upload costs hangs on it.

Pure: bytes in, a name out. Holds no more of the form than the head of one part.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

_BOUNDARY = re.compile(
    r';[ \t]*boundary[ \t]*=[ \t]*(?:"([^"\\]{1,70})"|([^\s;,"]{1,70}))[ \t]*(?=;|\Z)', re.IGNORECASE
)
# Of a part's head the one line that names it, in the plain way in which clients write it and all readers read alike.
_DISPOSITION = re.compile(
    rb'(?i)content-disposition:[ \t]*form-data;[ \t]*name=(?:"([^"\\%\r\n]*)"|([^";\\%\s]+))'
    rb"([ \t]*;[ \t]*filename[^\r\n]*)?[ \t]*"
)
_OTHER_FIELD = re.compile(rb"(?i)content-(?!disposition)[a-z-]+:[^\r\n]*")
_MAX_HEAD_BYTES: Final = 8_192
_MAX_MODEL_BYTES: Final = 256


class _At(Enum):
    START = 1
    CONTENT = 2  # of a part that is of no interest
    HEAD = 3
    MODEL = 4
    END = 5  # behind the last part
    LOST = 6  # this is no form that every reader reads alike


def boundary_of(content_type: str) -> str:
    """The boundary of a form's parts; empty where there is none, or more than one that a reader could take."""
    boundaries = _BOUNDARY.findall(content_type)
    return "".join(boundaries[0]) if len(boundaries) == 1 and content_type.lower().count("boundary") == 1 else ""


class FormModel:
    """`model` is the name in the part `model`; None while there is none, where two of them differ, and in a form that
    another reader could read in another way: who sends it must not choose which model is paid and which is served.
    """

    __slots__ = ("_at", "_delimiter", "_found", "_held")

    def __init__(self, content_type: str) -> None:
        name = boundary_of(content_type)
        self._delimiter = b"\r\n--" + name.encode("latin-1", "replace")
        self._held = b"\r\n"  # as if a line ended before the first delimiter
        self._at = _At.START if name else _At.LOST
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
        if self._at is _At.HEAD:
            return self._head()
        if self._at in {_At.END, _At.LOST}:
            self._held = b""
            return False
        held, delimiter = self._held, self._delimiter
        end = held.find(delimiter[2:])  # wherever it stands: some readers take it with other line ends
        if end < 0:
            if self._at is _At.MODEL:
                self._lose_above(_MAX_MODEL_BYTES + len(delimiter))
            elif self._at is _At.START:
                self._lose_above(len(delimiter) - 1)
            else:
                self._held = held[-len(delimiter) :]
            return False
        if not held.startswith(b"\r\n", end - 2) or (self._at is _At.START and end != 2):
            return self._lose()
        end -= 2
        if self._at is _At.MODEL:
            if end - 2 > _MAX_MODEL_BYTES:
                return self._lose()
            self._found.add(held[2:end])
        self._at = _At.HEAD
        self._held = held[end + len(delimiter) :]
        return True

    def _head(self) -> bool:
        """Reads the head of a part, which begins behind its delimiter."""
        held = self._held
        if held.startswith(b"--"):
            self._at = _At.END
            return True
        if not held.startswith(b"\r\n"[: len(held)]) and held != b"-":
            return self._lose()
        end = held.find(b"\r\n\r\n")
        if end < 0:
            self._lose_above(_MAX_HEAD_BYTES)
            return False
        lines = held[2:end].split(b"\r\n")
        named = [match for line in lines if (match := _DISPOSITION.fullmatch(line)) is not None]
        others = sum(_OTHER_FIELD.fullmatch(line) is not None for line in lines)
        if len(named) != 1 or others != len(lines) - 1:
            return self._lose()
        name, bare_name, filename = named[0].groups()
        is_model = (name or bare_name or b"").lower() == b"model"
        self._at = _At.MODEL if is_model and filename is None else _At.CONTENT
        self._held = held[end + 2 :]  # a part without content ends with the line end of its head
        return True

    def _lose(self) -> bool:
        self._lose_above(-1)
        return False

    def _lose_above(self, limit_bytes: int) -> None:
        if len(self._held) > limit_bytes:
            self._at = _At.LOST
            self._held = b""
            self._found.clear()
