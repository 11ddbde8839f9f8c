"""`lang=ru`: answers in Russian. It is told from its neighbours by letters and words; the translation is the engine's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.hookspecs import TranslatorSpec, hookimpl
from gateway.types import TranslationContext

from ._latin import count_words
from ._scripts import CYRILLIC_WORD, foreign_words, in_every_part
from ._words import OTHER_CYRILLIC, RUSSIAN

_TAG = "ru"
# Letters that Russian lacks, and its hard sign where it has none.
_OTHER_LETTERS = re.compile("[^а-яё'’ʼ]|ъ(?![еёюя])|['’ʼ]")
_RUSSIAN_LETTERS = re.compile("[ыэё]")


@hookimpl
def gateway_translators() -> list[TranslatorSpec]:
    return [TranslatorSpec("ru", _TAG, is_already, translate)]


def is_already(text: str) -> bool:
    """Whether a text is Russian. Cyrillic passes for Russian until something speaks for another language."""
    return in_every_part(text, _is_russian)


async def translate(texts: Sequence[str], context: TranslationContext) -> Sequence[str | None]:
    return await context.engine(texts, _TAG)


def _is_russian(part: str) -> bool:
    words = CYRILLIC_WORD.findall(part.lower())
    foreign = foreign_words(part)
    if not words:
        return not foreign and count_words(part).plain == 0
    latin = count_words(part)
    if foreign * 3 + latin.english * 2 + latin.other * 2 > len(words) or latin.plain > len(words) * 2:
        return False
    other, russian = _count(words)
    return not other or other < russian


def _count(words: Sequence[str]) -> tuple[int, int]:
    """How many words speak for another language, and how many for Russian."""
    other = russian = 0
    for word in words:
        if word in RUSSIAN:
            russian += 1
        elif word in OTHER_CYRILLIC or _OTHER_LETTERS.search(word):
            other += 1
        else:
            russian += _RUSSIAN_LETTERS.search(word) is not None
    return other, russian
