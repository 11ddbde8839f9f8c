"""The engine as translators see it: texts in one batch, what was translated before from memory, and a pause for an
engine that fails. Knows no HTTP and no plugin.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from gateway.charging import Price, Use
from gateway.progress import Translating
from gateway.translation.engines import Engine, Translated
from gateway.types import TranslationFailed

LOG = logging.getLogger("gateway.translation")

MAX_BATCH_TEXTS = 50
MAX_BATCH_CHARS = 6_000
FAILURES = 5
"""So many requests in a row fail, and the engine is left alone for PAUSE_S seconds: no call waits for it meanwhile."""
PAUSE_S = 10.0

_ENTRY_BYTES = 300  # of a remembered text, besides its characters
_CHAR_BYTES = 4


class Memory:
    """Translations by account, tag and text: the least recently used go first, at `limit_bytes`.

    By account: what a model makes of a text depends on the other texts of its batch, so that one caller's hidden
    instruction could else become another's answer.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._known: OrderedDict[tuple[int, str, str], str] = OrderedDict()

    def get(self, account_id: int, tag: str, text: str) -> str | None:
        """What is remembered of a text."""
        key = (account_id, tag, text)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def put(self, account_id: int, tag: str, text: str, translation: str) -> None:
        """Remembers a translation."""
        key = (account_id, tag, text)
        if (old := self._known.pop(key, None)) is not None:
            self._bytes -= _size(text, old)
        self._known[key] = translation
        self._bytes += _size(text, translation)
        while self._bytes > self._limit_bytes:
            (_, _, oldest), result = self._known.popitem(last=False)
            self._bytes -= _size(oldest, result)


def _size(text: str, translation: str) -> int:
    return _ENTRY_BYTES + _CHAR_BYTES * (len(text) + len(translation))


class Interpreter:
    """One engine for all calls: at most `concurrency` requests at once, each at `price`."""

    def __init__(self, engine: Engine, price: Price, concurrency: int, memory_bytes: int) -> None:
        self._engine = engine
        self.price = price
        self._turns = asyncio.Semaphore(concurrency)
        self._memory = Memory(memory_bytes)
        self._failures = 0
        self._paused_until = 0.0

    def for_call(
        self, account_id: int, notes: Translating
    ) -> Callable[[Sequence[str], str], Awaitable[Sequence[str | None]]]:
        """The engine of one call's context; what it does and costs is noted."""

        async def translate(texts: Sequence[str], tag: str) -> Sequence[str | None]:
            return await self._translate(account_id, notes, texts, tag)

        return translate

    async def _translate(
        self, account_id: int, notes: Translating, texts: Sequence[str], tag: str
    ) -> Sequence[str | None]:
        memory = self._memory
        known = {text: memory.get(account_id, tag, text) for text in texts}
        unknown = [text for text, translation in known.items() if translation is None]
        if texts:
            notes.engine = self._engine.name
        if unknown:
            batches = list(_batches(unknown))
            answers = await asyncio.gather(*(self._ask(notes, batch, tag) for batch in batches))
            for batch, answer in zip(batches, answers, strict=True):
                for text, translation in zip(batch, answer, strict=True):
                    known[text] = translation
                    if translation is not None:
                        memory.put(account_id, tag, text, translation)
            if all(translation is None for translation in known.values()):
                raise TranslationFailed("the engine translated nothing")
        return [known[text] for text in texts]

    async def _ask(self, notes: Translating, batch: Sequence[str], tag: str) -> Sequence[str | None]:
        """One request. A failure is logged here, and costs these texts their translation and no others."""
        if monotonic() < self._paused_until:
            return [None] * len(batch)
        try:
            async with self._turns:
                translated = await self._engine.translate(batch, tag)
        except TranslationFailed as failure:
            self._failed(str(failure))
            return [None] * len(batch)
        self._failures = 0
        self._note(notes, translated)
        return translated.texts

    def _note(self, notes: Translating, translated: Translated) -> None:
        notes.micros += self.price.cost(Use(translated.usage))

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._failures = FAILURES - 1  # one more, after the pause, begins the next
            self._paused_until = monotonic() + PAUSE_S
            LOG.warning("the translation engine %s fails; it is left alone for %g s", self._engine.name, PAUSE_S)
        LOG.info("a translation failed: %s", reason)


def _batches(texts: Sequence[str]) -> list[list[str]]:
    """The texts in as few requests as their bounds allow."""
    batches: list[list[str]] = []
    chars = 0
    for text in texts:
        if not batches or len(batches[-1]) >= MAX_BATCH_TEXTS or chars + len(text) > MAX_BATCH_CHARS:
            batches.append([])
            chars = 0
        batches[-1].append(text)
        chars += len(text)
    return batches
