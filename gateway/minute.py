"""How much came in the last minute: what a limit per minute is measured by. Knows nothing of calls."""

from __future__ import annotations

from math import ceil

MINUTE_S = 60


class LastMinute:
    """A sum over the last 60 s. Moments are monotonic seconds, and none is before the one given last.

    What comes within one second makes one portion, which counts in full until the youngest of it is 60 s old. So the
    sum is never too small, it is at most a second late to shrink, and there are at most 61 portions whatever it is.
    """

    __slots__ = ("_amounts", "_ends", "_open_until", "_sum")

    def __init__(self) -> None:
        self._ends: list[float] = []  # of each portion, the oldest first: when it counts no longer
        self._amounts: list[int] = []
        self._open_until = 0.0  # the youngest portion takes what comes before this moment
        self._sum = 0

    def sum(self, now: float) -> int:
        ends = self._ends
        while ends and ends[0] <= now:
            del ends[0]
            self._sum -= self._amounts.pop(0)
        return self._sum

    def add(self, amount: int, now: float) -> None:
        if self._ends and now < self._open_until:
            self._ends[-1] = now + MINUTE_S
            self._amounts[-1] += amount
        else:
            self.sum(now)  # what has ended goes, also where nobody asks
            self._ends.append(now + MINUTE_S)
            self._amounts.append(amount)
            self._open_until = now + 1.0
        self._sum += amount

    def wait_s(self, limit: int, now: float) -> int:
        """How long, in whole seconds (1 to 60), until the sum is below the limit; 0: it is.

        A limit of 0 is never met, and the answer is 60.
        """
        if self._sum < limit:  # with what has ended since, which is left for later
            return 0
        left = self.sum(now)
        if left < limit:
            return 0
        for end, amount in zip(self._ends, self._amounts, strict=True):
            left -= amount
            if left < limit:
                return min(ceil(end - now), MINUTE_S)  # a sum of floats may come out above the 60 s by a hair
        return MINUTE_S
