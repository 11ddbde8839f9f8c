"""From segments of text to their translations: what needs none, what must survive exactly, and what came back whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic
from typing import Final

from msgspec.structs import replace

from gateway.hookspecs import TranslatorSpec
from gateway.running import is_cancelled
from gateway.translation.prose import Protected
from gateway.types import TranslationContext, TranslationFailed

LOG = logging.getLogger("gateway.translation")

_ENDS: Final = frozenset(".!?\u2026\u3002\uff01\uff1f\u201d\u300d\u300f")
_SHORT: Final = 12
_SURE: Final = 24
_REMEMBERED_CHARS: Final = 160
_IDEOGRAPH_WEIGHT: Final = 3  # one says about as much as so many letters
_SLOW_S: Final = 0.1
_JUDGED_CHARS: Final = 40  # a translation this long is asked whether it is in the language


def weight(text: str) -> int:
    """How much there is to judge a text's language by, in letters."""
    return sum(_IDEOGRAPH_WEIGHT if char >= "\u2e80" else 1 for char in text if char.isalpha())


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

    @property
    def tag(self) -> str:
        """The language's BCP 47 tag."""
        return self._translator.tag

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
        letters = weight(words) if self._before else sum(map(str.isalpha, words))
        return letters >= _SURE and self._ask(words)

    def _ask(self, text: str) -> bool:
        """The plugin's decision. Nothing else runs meanwhile: the operator hears of one that takes long."""
        name, started = self._translator.name, monotonic()
        try:
            already = self._translator.is_already(text)
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001  # a plugin's, and it awaits nothing
            LOG.warning("translation to %s failed: is_already() raised %s", name, type(error).__name__)
            self.faulty = already = True
        if monotonic() - started > _SLOW_S:
            LOG.warning("the translator to %s held up every call: its is_already() is slow", name)
        return already


def spaced(piece: Protected, before: str, tag: str) -> Protected:
    """The piece with the space before it that its new language wants; `before` is the text that ends there.

    Between sentences Chinese and Japanese have none, and others have one.
    """
    if before[-1:] not in _ENDS:
        return piece
    if tag.partition("-")[0] in {"zh", "ja"}:
        return replace(piece, before="") if piece.before == " " else piece
    return piece if piece.before else replace(piece, before=" ")


async def translate_pieces(
    pieces: Sequence[Protected], translator: TranslatorSpec, context: TranslationContext, deadline_s: float
) -> list[str | None]:
    """Each piece translated and put together again; None for one that stays as it is.

    Raises nothing but the cancellation of its own task, which it must have: a plugin's faults are not its caller's.
    """
    try:
        async with asyncio.timeout(deadline_s):
            results = list(await translator.translate([piece.text for piece in pieces], context))
        if len(results) != len(pieces) or not all(isinstance(result, str | None) for result in results):
            raise TranslationFailed("the translator did not return one text for each")
        return [_whole(piece, result, translator) for piece, result in zip(pieces, results, strict=True)]
    except (Exception, SystemExit, asyncio.CancelledError) as error:  # a plugin: whatever it does, the answer goes out
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            raise
        why = f": {error}" if isinstance(error, TranslationFailed) else ""
        LOG.warning("translation to %s failed: %s%s", translator.name, type(error).__name__, why)
        return [None] * len(pieces)


def _whole(piece: Protected, result: str | None, translator: TranslatorSpec) -> str | None:
    """A translation with all in it that had to survive; None where that is lost, or where it is in no such language."""
    if result is None or not result.strip():
        return None
    if len(result) >= _JUDGED_CHARS and result != piece.text and not translator.is_already(result):
        return None
    whole = piece.restored(result)
    if whole is not None:
        whole.encode()  # half a surrogate pair cannot be sent: UnicodeEncodeError
    return whole
