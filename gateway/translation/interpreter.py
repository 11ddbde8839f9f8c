"""The engine as translators see it: texts in few requests, a deadline that costs only what is late, and a pause for an
engine that fails. Knows no HTTP and no plugin.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from gateway.charging import MAX_COST, Price, Use
from gateway.progress import Translating
from gateway.translation.engines import Engine
from gateway.translation.memory import Memory, Turns
from gateway.types import TranslationFailed

LOG = logging.getLogger("gateway.translation")

MAX_BATCH_TEXTS = 50
MAX_BATCH_CHARS = 6_000
FAILURES = 5
"""So many requests in a row fail, and the engine is left alone for PAUSE_S seconds: no call waits for it meanwhile."""
PAUSE_S = 10.0


class Interpreter:
    """One engine for all calls: at most `concurrency` requests at once, each at `price`."""

    def __init__(self, engine: Engine, price: Price, *, concurrency: int, memory_bytes: int, deadline_s: float) -> None:
        self._engine = engine
        self._price = price
        self._turns = Turns(concurrency)
        self._deadline_s = deadline_s
        self._failures = 0
        self._paused_until = 0.0
        self.memory = Memory(memory_bytes)

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
        """Raises TranslationFailed where nothing came of it; what is late or unfit is None."""
        batches = _batches(list(dict.fromkeys(texts)))
        tasks = [asyncio.create_task(self._ask(account_id, notes, batch, tag)) for batch in batches]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._deadline_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        known: dict[str, str | None] = {}
        for batch, task in zip(batches, tasks, strict=True):
            answer = [None] * len(batch) if task.cancelled() else task.result()
            known.update(zip(batch, answer, strict=True))
        if known and all(translation is None for translation in known.values()):
            raise TranslationFailed("the engine translated nothing")
        return [known[text] for text in texts]

    async def _ask(self, account_id: int, notes: Translating, batch: Sequence[str], tag: str) -> Sequence[str | None]:
        """One request. A failure is logged here, and costs these texts their translation and no others."""
        if monotonic() < self._paused_until:
            return [None] * len(batch)
        try:
            async with self._turns.turn(account_id):
                notes.engine = self._engine.name
                translated = await self._engine.translate(batch, tag)
        except TranslationFailed as failure:
            self._failed(str(failure))
            return [None] * len(batch)
        self._failures = 0
        notes.micros = min(notes.micros + self._price.cost(Use(translated.usage)), MAX_COST)
        return translated.texts

    def _failed(self, reason: str) -> None:
        self._failures += 1
        level = logging.WARNING if self._failures == 1 else logging.INFO
        LOG.log(level, "the translation engine %s failed: %s", self._engine.name, reason)
        if self._failures >= FAILURES:
            self._failures = FAILURES - 1  # one more, after the pause, begins the next
            self._paused_until = monotonic() + PAUSE_S
            LOG.warning("the translation engine %s fails again and again; no call waits for it", self._engine.name)


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
