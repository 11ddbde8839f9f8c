"""From segments of text to their translations: what needs none, what must survive exactly, and what came back whole."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final

from gateway.hookspecs import TranslatorSpec
from gateway.running import is_cancelled
from gateway.translation.memory import Remembered
from gateway.translation.prose import Protected
from gateway.types import TranslationContext, TranslationFailed

LOG = logging.getLogger("gateway.translation")

_SHORT: Final = 12
_SURE: Final = 24
_REMEMBERED_CHARS: Final = 160
_IDEOGRAPH_WEIGHT: Final = 3  # one says about as much as so many letters
_FIRST_IDEOGRAPH_WEIGHT: Final = 1.5  # and tells the scripts apart less surely
_SLOW_S: Final = 0.1
_JUDGED_CHARS: Final = 40  # a translation this long is asked whether it is in the language


def weight(text: str, ideograph: float = _IDEOGRAPH_WEIGHT) -> float:
    """How much there is to judge a text's language by, in letters."""
    return sum(ideograph if char >= "\u2e80" else 1 for char in text if char.isalpha())


class Judge:
    """Decides segment by segment, in a text's order, what is already in the language.

    A short one is judged together with what came before it, as long as that was in the language: alone, one foreign
    name would look like a foreign sentence. `faulty`: the plugin's decision failed, and nothing is translated.
    """

    __slots__ = ("_before", "_translator", "faulty")

    def __init__(self, translator: TranslatorSpec) -> None:
        self._translator = translator
        self._before = ""  # the end of what was already in the language
        self.faulty = False

    def is_already(self, words: str) -> bool:
        """Whether a whole segment needs no translation."""
        text = words
        if self._before and weight(words) < _SHORT:
            text = f"{self._before} {words}"
        already = self._ask(text)
        self._before = f"{self._before} {words}"[-_REMEMBERED_CHARS:] if already else ""
        return already

    def is_surely_already(self, words: str) -> bool:
        """Whether the beginning of a segment tells that all of it will need none.

        Among a few ideographs there may be none that tells the scripts apart, unless what came before has.
        """
        ideograph = _IDEOGRAPH_WEIGHT if self._before else _FIRST_IDEOGRAPH_WEIGHT
        return weight(words, ideograph) >= _SURE and self._ask(words)

    def _ask(self, text: str) -> bool:
        """The plugin's decision. Nothing else runs meanwhile: the operator hears of one that takes long."""
        name, started = self._translator.name, monotonic()
        try:
            already = self._translator.is_already(text)
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001  # a plugin's, and awaits nothing
            LOG.warning("translation to %s failed: is_already() raised %s", name, _fault(error))
            self.faulty = already = True
        if monotonic() - started > _SLOW_S:
            LOG.warning("the translator to %s held up every call: its is_already() is slow", name)
        return already


async def translate_pieces(
    pieces: Sequence[Protected],
    translator: TranslatorSpec,
    context: TranslationContext,
    deadline_s: float,
    remembered: Remembered | None = None,
) -> list[str | None]:
    """Each piece translated and put together again; None for one that stays as it is.

    Only what has proved whole is remembered. Raises nothing but the cancellation of its own task, which it must have: a
    plugin's faults are not its caller's.
    """
    known = {piece.text: remembered.get(piece.text) if remembered is not None else None for piece in pieces}
    unknown = [text for text, translation in known.items() if translation is None]
    if unknown:
        known.update(zip(unknown, await _translated(unknown, translator, context, deadline_s), strict=True))
    wholes = []
    for piece in pieces:
        result = known[piece.text]
        whole = None if result is None else _whole(piece, result, translator)
        if whole is not None and result is not None and remembered is not None:
            remembered.put(piece.text, result)
        wholes.append(whole)
    return wholes


async def _translated(
    texts: list[str], translator: TranslatorSpec, context: TranslationContext, deadline_s: float
) -> list[str | None]:
    try:
        async with asyncio.timeout(deadline_s):
            results = list(await translator.translate(texts, context))
        if len(results) != len(texts) or not all(isinstance(result, str | None) for result in results):
            raise ValueError("the translator did not return one text for each")
        return results
    except TranslationFailed as failure:
        LOG.info("translation to %s failed: %s", translator.name, failure)
    except (Exception, SystemExit, asyncio.CancelledError) as error:  # a plugin: whatever it does, the answer goes out
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            raise
        LOG.warning("translation to %s failed: %s", translator.name, _fault(error))
    return [None] * len(texts)


def _whole(piece: Protected, result: str, translator: TranslatorSpec) -> str | None:
    """A translation with all in it that had to survive; None where that is lost, or where it is in no such language."""
    if not result.strip():
        return None
    if len(result) >= _JUDGED_CHARS and not translator.is_already(result):
        return None
    whole = piece.restored(result)
    try:
        (whole or "").encode()
    except UnicodeEncodeError:  # half a surrogate pair cannot be sent
        return None
    return whole


def _fault(error: BaseException) -> str:
    """What kind of failure, and where it was raised: its text may hold what a caller wrote."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if len(frames) > 1 else ""
    return f"{type(error).__name__}{where}"
