"""Many rows by one statement: each step of a statement gives up the GIL and fights for it again, against an event loop
that never rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import apsw

_LARGEST = 128
_EXACT = 32  # of up to so many rows, every number has a statement of its own, prepared once


class Inserts:
    """`INSERT … VALUES …` of many rows. `head` is the statement up to VALUES, `row` one row's placeholders."""

    __slots__ = ("_head", "_row")

    def __init__(self, head: str, row: str) -> None:
        self._head = head
        self._row = row

    def execute(self, connection: apsw.Connection, rows: Sequence[Sequence[apsw.SQLiteValue]]) -> None:
        """Inserts the rows in their order."""
        start = 0
        while (left := len(rows) - start) > 0:
            size = left if left <= _EXACT else _LARGEST if left >= _LARGEST else _EXACT
            values = list(chain.from_iterable(rows[start : start + size]))
            connection.execute(f"{self._head} VALUES {', '.join([self._row] * size)}", values)
            start += size
