"""Many rows by few statements: a statement for each row would give up the GIL and fight for it again each time, against
an event loop that never rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import apsw

_SIZES = (128, 16, 4, 1)  # a few only: each of their statements is prepared once


class Inserts:
    """`INSERT … VALUES …` of many rows. `head` is the statement up to VALUES, `row` one row's placeholders."""

    __slots__ = ("_statements",)

    def __init__(self, head: str, row: str) -> None:
        self._statements = {size: f"{head} VALUES {', '.join([row] * size)}" for size in _SIZES}

    def execute(self, connection: apsw.Connection, rows: Sequence[Sequence[apsw.SQLiteValue]]) -> None:
        """Inserts the rows in their order."""
        start = 0
        for size in _SIZES:
            while len(rows) - start >= size:
                values = list(chain.from_iterable(rows[start : start + size]))
                connection.execute(self._statements[size], values)
                start += size
