"""The stage "enter the limits": how many calls and tokens of an account are let through (contract, section 4).

Kept in this process's memory. What is shared by several processes comes behind the same `Limits`, and so `enter` is a
coroutine, though this one never waits: between its checks and its taking nobody else has a turn.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Protocol

from gateway.errors import GatewayError
from gateway.minute import MINUTE_S, LastMinute
from gateway.store.counting import Days
from gateway.types import Account, CallCounts


class Slot(Protocol):
    """A call's place among those under way."""

    def leave(self, tokens: int = 0) -> None:
        """Gives the place back; `tokens` used count into the minute. A second time nothing happens.

        To be called on every way out, after the call was counted and in the same step of the loop: the other way
        round, a call that begins in between would find it in neither number.
        """


class Limits(Protocol):
    """Lets calls in, or not."""

    async def enter(self, account: Account, started_at: float) -> Slot:
        """GatewayError 4008, then 4013; a refused call leaves no trace. `started_at` is seconds since the epoch."""


class MemoryLimits:
    """The limits of one process. Belongs to one event loop.

    `counts` says how often an account has called, finished calls alone, on the day of a moment and in all; `clock` is
    monotonic seconds. Account objects may be replaced at any time: the limits are those of the one that enters.
    """

    __slots__ = ("_clock", "_counts", "_days", "_standings")

    def __init__(
        self, counts: Callable[[Account, float], CallCounts], days: Days, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counts = counts
        self._days = days
        self._clock = clock
        self._standings: OrderedDict[int, _Standing] = OrderedDict()

    def running(self, account_id: int) -> int:
        """How many calls of the account are under way."""
        standing = self._standings.get(account_id)
        return 0 if standing is None else standing.running

    async def enter(self, account: Account, started_at: float) -> Slot:
        """As in Limits."""
        standing = self._standings.get(account.id)
        if standing is None:
            standing = self._new_standing(account.id)
        concurrency = account.concurrency
        if concurrency is not None and standing.running >= concurrency:
            # Nobody knows when a call will end, but none ever does for a limit of 0.
            wait_s = 1 if concurrency else MINUTE_S
            raise GatewayError("4008", "all the calls that may run at one time are running", retry_after_s=wait_s)
        minute, now = None, 0.0
        if account.per_minute is not None or account.tokens_per_minute is not None:
            minute, now = standing.minute, self._clock()
            if minute is None:
                minute = standing.minute = _Minute()
            minute.check(account, now)
        day = ""
        if account.per_day is not None or account.total is not None:
            day = self._enter_quotas(account, standing, started_at)
        # From here on nothing fails.
        if minute is not None:
            minute.calls.add(1, now)
        standing.running += 1
        return _MemorySlot(standing, day, self._clock)

    def _enter_quotas(self, account: Account, standing: _Standing, started_at: float) -> str:
        """The day that has the call among its own now; "" where days do not matter. GatewayError 4013."""
        counts = self._counts(account, started_at)
        if account.total is not None and counts.total + standing.running >= account.total:
            raise GatewayError("4013", "the account's calls are used up")
        per_day = account.per_day
        if per_day is None:
            return ""
        day = self._days.day_of(started_at)
        if counts.today + standing.running_on(day) >= per_day:
            # Where no call is allowed on any day, waiting is in vain.
            wait_s = ceil(self._days.end_of(started_at) - started_at) if per_day else None
            raise GatewayError("4013", "the account's calls of this day are used up", retry_after_s=wait_s)
        standing.begun[day] = standing.begun.get(day, 0) + 1
        return day

    def _new_standing(self, account_id: int) -> _Standing:
        """Makes one, and forgets two idle ones at most: so those idle are never many more than those in use."""
        standings, now = self._standings, self._clock()
        for _ in range(min(2, len(standings))):
            oldest, standing = standings.popitem(last=False)
            if not standing.is_idle(now):
                standings[oldest] = standing
        standings[account_id] = standing = _Standing()
        return standing


class _Standing:
    """What an account has under way, and what it did in the last minute if anybody wants to know.

    `begun` has the calls under way that were measured by a limit per day, by their day: days are kept apart, so that a
    wall clock that steps about midnight moves no call from one to another.
    """

    __slots__ = ("begun", "minute", "running")

    def __init__(self) -> None:
        self.running = 0
        self.begun: dict[str, int] = {}
        self.minute: _Minute | None = None

    def running_on(self, day: str) -> int:
        """The calls under way that are not known to have begun on another day: those that began while there was no
        limit per day are taken for this day's.
        """
        return self.running - sum(self.begun.values()) + self.begun.get(day, 0)

    def is_idle(self, now: float) -> bool:
        return not self.running and (self.minute is None or self.minute.is_over(now))


class _Minute:
    """The calls that were let in during the last minute, and the tokens of those that ended in it."""

    __slots__ = ("calls", "tokens")

    def __init__(self) -> None:
        self.calls = LastMinute()
        self.tokens = LastMinute()

    def check(self, account: Account, now: float) -> None:
        """GatewayError 4008; it says when neither limit will be in the way."""
        calls, tokens = account.per_minute, account.tokens_per_minute
        calls_wait_s = 0 if calls is None else self.calls.wait_s(calls, now)
        tokens_wait_s = 0 if tokens is None else self.tokens.wait_s(tokens, now)
        if calls_wait_s or tokens_wait_s:
            what = "calls" if calls_wait_s >= tokens_wait_s else "tokens"
            wait_s = max(calls_wait_s, tokens_wait_s)
            raise GatewayError("4008", f"the account's {what} of a minute are used up", retry_after_s=wait_s)

    def is_over(self, now: float) -> bool:
        return not self.calls.sum(now) and not self.tokens.sum(now)


class _MemorySlot:
    __slots__ = ("_clock", "_day", "_standing")

    def __init__(self, standing: _Standing, day: str, clock: Callable[[], float]) -> None:
        self._standing: _Standing | None = standing
        self._day = day
        self._clock = clock

    def leave(self, tokens: int = 0) -> None:
        """As in Slot."""
        standing = self._standing
        if standing is None:
            return
        self._standing = None
        standing.running -= 1
        if day := self._day:
            if standing.begun[day] == 1:
                del standing.begun[day]
            else:
                standing.begun[day] -= 1
        if tokens > 0 and standing.minute is not None:
            standing.minute.tokens.add(tokens, self._clock())
