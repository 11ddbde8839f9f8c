"""Bounded output for the formats that can outgrow their input: shared by the plugins that write element by element."""

from __future__ import annotations

import functools
from collections.abc import Callable

from gateway.types import Document, RenderingRefused

_FOLD_AT = 4096  # pieces: folding costs next to nothing per piece, and a few thousand of them are little memory


class Output:
    """Collects pieces of text, and raises RenderingRefused soon after they pass `limit_bytes`.

    `write` is a plain list's append, the cheapest call there is; whoever writes in a loop calls `check` in each round.
    """

    __slots__ = ("_chunks", "_left_bytes", "_limit_bytes", "_pieces", "write")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = self._left_bytes = limit_bytes
        self._chunks: list[bytes] = []
        self._pieces: list[str] = []
        self.write = self._pieces.append

    def check(self) -> None:
        if len(self._pieces) > _FOLD_AT:
            self._fold()

    def finish(self) -> bytes:
        self._fold()
        return b"".join(self._chunks)

    def _fold(self) -> None:
        chunk = "".join(self._pieces).encode()
        self._pieces.clear()
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise RenderingRefused(f"the rendering is larger than {self._limit_bytes} bytes")
        self._chunks.append(chunk)


def refuses_deep_nesting(render: Callable[[Document], bytes]) -> Callable[[Document], bytes]:
    """For a formatter that recurses: the caller bounds the depth, and this is what happens where it did not."""

    @functools.wraps(render)
    def guarded(document: Document) -> bytes:
        try:
            return render(document)
        except RecursionError:
            raise RenderingRefused("the document is nested too deep") from None

    return guarded
