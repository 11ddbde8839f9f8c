"""Translations by text, and turns at the engine by account."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_ENTRY_BYTES = 300  # of a remembered text, besides its characters
_CHAR_BYTES = 4


class Memory:
    """Translations by account, `lang` and text: the least recently used go first, at `limit_bytes`.

    By account: what a model makes of a text depends on the other texts of its batch, so that one caller's hidden
    instruction could else become another's answer.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._known: OrderedDict[tuple[int, str, str], str] = OrderedDict()

    def get(self, account_id: int, lang: str, text: str) -> str | None:
        """What is remembered of a text."""
        key = (account_id, lang, text)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def put(self, account_id: int, lang: str, text: str, translation: str) -> None:
        """Remembers a translation."""
        key = (account_id, lang, text)
        if (old := self._known.pop(key, None)) is not None:
            self._bytes -= _size(text, old)
        self._known[key] = translation
        self._bytes += _size(text, translation)
        while self._bytes > self._limit_bytes:
            (_, _, oldest), result = self._known.popitem(last=False)
            self._bytes -= _size(oldest, result)


def _size(text: str, translation: str) -> int:
    return _ENTRY_BYTES + _CHAR_BYTES * (len(text) + len(translation))


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is remembered of one account's texts in one language."""

    memory: Memory
    account_id: int
    lang: str

    def get(self, text: str) -> str | None:
        """The translation of a text."""
        return self.memory.get(self.account_id, self.lang, text)

    def put(self, text: str, translation: str) -> None:
        """Remembers a translation that proved whole."""
        self.memory.put(self.account_id, self.lang, text, translation)


class Turns:
    """At most `limit` at once; those who wait have their turns account by account, so that none stands in the way."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, account_id: int) -> AsyncIterator[None]:
        """Waits for a turn, and has it as long as it is entered."""
        await self._take(account_id)
        try:
            yield
        finally:
            self._pass_on()

    async def _take(self, account_id: int) -> None:
        if self._free:
            self._free -= 1
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(account_id, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._pass_on()  # it was granted just then
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            account_id, waiting = self._waiting.popitem(last=False)
            granted = waiting.popleft()
            if waiting:
                self._waiting[account_id] = waiting  # behind the others
            if not granted.done():
                granted.set_result(None)
                return
        self._free += 1
