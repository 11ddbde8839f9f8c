"""Which count of its account a call belongs to, and on which day. The store and the directory share the rule."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from gateway.errors import ERROR_CODES

Count = Literal["succeeded", "empty", "failed"]

_COUNTS: dict[str, Count] = {code: "failed" for code, row in ERROR_CODES.items() if row.dispatched}
_COUNTS |= {"0000": "succeeded", "2000": "empty"}


def counted_as(outcome: str) -> Count | None:
    """None for a call that was refused before dispatch: it stands in the log and in no count."""
    return _COUNTS.get(outcome)


class Days:
    """The date of a moment in the operator's time zone, for many moments of one day. Threads must not share it."""

    __slots__ = ("_day", "_end", "_start", "_zone")

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self._day = ""
        self._start = self._end = 0.0

    def day_of(self, at: float) -> str:
        """`at` is seconds since the epoch; the answer looks like `2022-10-11`."""
        if not self._start <= at < self._end:
            self._turn(at)
        return self._day

    def end_of(self, at: float) -> float:
        """When the day of `at` ends, in seconds since the epoch."""
        if not self._start <= at < self._end:
            self._turn(at)
        return self._end

    def _turn(self, at: float) -> None:
        date = datetime.fromtimestamp(at, self._zone).date()
        self._day = date.isoformat()
        self._start = datetime.combine(date, time(), self._zone).timestamp()
        self._end = datetime.combine(date + timedelta(days=1), time(), self._zone).timestamp()
