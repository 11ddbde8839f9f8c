"""One timer for many deadlines: everything is looked at every so often, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar

Item = TypeVar("Item")

SLICE = 64
"""So many items are looked at in one step, some 0.1 ms: no stream that waits for it is delayed noticeably."""


def sweep_period_s(*deadlines_s: float) -> float:
    """How often to look: a deadline is noticed late by a quarter of the shortest one, and by a second at most.

    Looking more often costs: with 5,000 streams open a look every quarter second was a tenth of a chunk's cost.
    """
    return min(1.0, max(0.05, min(deadlines_s) / 4))


class Sweeper(Generic[Item]):
    """Calls `look(item, now)` for all of `items()` every `period_s` seconds until `stop`; `now` is monotonic.

    Between two slices the loop does whatever else is due. An item may have changed or gone since the sweep began.
    """

    __slots__ = ("_items", "_look", "_loop", "_period_s", "_timer")

    def __init__(
        self, period_s: float, items: Callable[[], Sequence[Item]], look: Callable[[Item, float], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._period_s = period_s
        self._items = items
        self._look = look
        self._timer: asyncio.Handle = self._loop.call_later(period_s, self._begin)

    def stop(self) -> None:
        """Looks no more."""
        self._timer.cancel()

    def _begin(self) -> None:
        self._go_on(self._items(), 0)

    def _go_on(self, items: Sequence[Item], start: int) -> None:
        now = monotonic()
        end = start + SLICE
        try:
            for item in items[start:end]:
                self._look(item, now)
        finally:  # one that fails must not end everybody's deadlines
            if end < len(items):
                self._timer = self._loop.call_soon(self._go_on, items, end)
            else:
                self._timer = self._loop.call_later(self._period_s, self._begin)
