"""`lang=ru`: answers in Russian. Letters and words tell it from its neighbours; the engine translates."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.hookspecs import TranslatorSpec, hookimpl
from gateway.types import TranslationContext

from ._latin import count_words
from ._scripts import CYRILLIC_WORD, foreign_words, in_every_part
from ._words import OTHER_CYRILLIC, RUSSIAN

_TAG = "ru"
# Letters that Russian lacks; its hard sign where it has none; clusters and endings of its neighbours.
_OTHER_SHAPE = re.compile(
    "[^а-яё]|ъ(?![еёюя])|ъ$|[бвгджзклмнпрстфхцчшщ]р[бвгджзклмнпстфхцчшщ]|шч|дз[ьея]|цца|[бвгджзклмнпстфцчш]э"
    "|.(?:ння|ття|ість|увати|ують|ють|ський|ської|ському|цький|зький)$"
    "|..(?:ият|стта|нето|ството|овете|ваме|вате|ване|ането|цата|ува|уваат|иран[аио]?|ць|ски[яй]т)$"
)
_RUSSIAN_SHAPE = re.compile(
    "[ыэё]|.(?:ть|ться|тся|[ыио]й|ая|яя|[оеыи]е|[ое]го|[ое]му|[ыи]х|[оеыи]м|[ая]ми|ост[ьи]|[ая]ни[ея]|ени[ея]|ци[яи]|[ое]в)$"
)
_LONG = 4  # words


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
    unknown = [word for word in words if word not in RUSSIAN]
    neutral = [word for word in unknown if word not in OTHER_CYRILLIC and not _OTHER_SHAPE.search(word)]
    russian, other = len(words) - len(unknown), len(unknown) - len(neutral)
    if other * 4 > len(words):
        return False
    if other < russian or (not other and len(words) < _LONG):
        return True
    # No frequent word tells: some length of Russian has its endings, where Kyrgyz or Mongolian may have no letter else.
    return other < russian + sum(_RUSSIAN_SHAPE.search(word) is not None for word in neutral)
