"""`lang=en`: answers in English. Its words tell what is English; the engine translates."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.hookspecs import TranslatorSpec, hookimpl
from gateway.types import TranslationContext

from ._latin import count_words, looks_english
from ._scripts import CYRILLIC_WORD, foreign_words, in_every_part

_TAG = "en"


@hookimpl
def gateway_translators() -> list[TranslatorSpec]:
    return [TranslatorSpec("en", _TAG, is_already, translate)]


def is_already(text: str) -> bool:
    """Whether a text is English. Latin letters pass for English until something speaks for another language."""
    return in_every_part(text, _is_english)


async def translate(texts: Sequence[str], context: TranslationContext) -> Sequence[str | None]:
    return await context.engine(texts, _TAG)


def _is_english(part: str) -> bool:
    words = count_words(part)
    foreign = 0.0 if part.isascii() else foreign_words(part) + len(CYRILLIC_WORD.findall(part))
    if foreign * 4 > words.all:
        return False
    left = words.english - words.other * 2
    if left < 0 or left >= len(words.unknown):
        return left >= 0
    return left >= sum(not looks_english(word) for word in words.unknown)
