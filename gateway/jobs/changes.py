"""Who waits for a job to change, and hears of it at once where this process works on it."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

LOOK_S = 1.0
"""So often somebody looks by himself: another process may be the one that works on the job."""
_MOST_OF_ONE = 32
"""So many calls of one account wait at one time; further ones are told how things are, at once."""


class Changes:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._of_account: Counter[int] = Counter()
        self.is_over = False

    def tell(self, number: int) -> None:
        """A job has changed."""
        for event in self._waiting.get(number, ()):
            event.set()

    def end(self) -> None:
        """Nobody is to wait any more: the process is about to end."""
        self.is_over = True
        for number in self._waiting:
            self.tell(number)

    def enter(self, account_id: int) -> bool:
        """Whether one more call of the account may wait; then it has to `leave`."""
        if self.is_over or self._of_account[account_id] >= _MOST_OF_ONE:
            return False
        self._of_account[account_id] += 1
        return True

    def leave(self, account_id: int) -> None:
        """A call of the account has ended its wait."""
        self._of_account[account_id] -= 1
        if not self._of_account[account_id]:
            del self._of_account[account_id]

    def listen(self, number: int) -> asyncio.Event:
        """An event that is set when the job changes; to be given back to `forget`."""
        event = asyncio.Event()
        self._waiting.setdefault(number, set()).add(event)
        return event

    def forget(self, number: int, event: asyncio.Event) -> None:
        """Nobody waits for this event any more."""
        events = self._waiting[number]
        events.discard(event)
        if not events:
            del self._waiting[number]

    @staticmethod
    async def wait(event: asyncio.Event, limit_s: float) -> None:
        """Returns when the job may have changed, and after LOOK_S in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(limit_s, LOOK_S)):
                await event.wait()
        event.clear()
