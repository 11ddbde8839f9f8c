"""The two ids of a call, both made of one counter of microseconds. Knows nothing of calls, stores or HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable

EPOCH_2020_US = 1_577_836_800_000_000
NODE_BITS = 10


def microseconds_of(last_id: int) -> int:
    """The counter's value, in microseconds since 1970, that `last_id` was made of."""
    return (last_id >> NODE_BITS) + EPOCH_2020_US


def least_id_at(us: int) -> int:
    """The least `last_id` that can be made of the microsecond `us` since 1970, or of the nearest that has one."""
    return min(max(us - EPOCH_2020_US, 0), (1 << 63 - NODE_BITS) - 1) << NODE_BITS


class CallIds:
    """Gives each call of this node its ids.

    The counter follows the wall clock but never stands still or goes back: two calls in one microsecond, or a clock
    that is set back, only let it run ahead. `floor_us` is the greatest value known from before the start. Belongs to
    one event loop; threads must not share it.
    """

    __slots__ = ("_clock_ns", "_last_us", "_node_id", "_prefix", "_second")

    def __init__(self, node_id: int, floor_us: int = 0, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock_ns = clock_ns
        self._last_us = max(floor_us, EPOCH_2020_US)
        self._node_id = node_id
        self._second = 0
        self._prefix = ""  # of that second's request ids

    def next(self) -> tuple[str, int]:
        """Returns `request_id` (the node, a dot, 13 hex digits as PHP's uniqid()) and `last_id` (fits 63 bits)."""
        us = self._clock_ns() // 1000
        if us <= self._last_us:
            us = self._last_us + 1
        self._last_us = us
        second, fraction_us = divmod(us, 1_000_000)
        if second != self._second:
            self._second = second
            self._prefix = f"{self._node_id}.{second:08x}"
        return f"{self._prefix}{fraction_us:05x}", (us - EPOCH_2020_US) << NODE_BITS | self._node_id
