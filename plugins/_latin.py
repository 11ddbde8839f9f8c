"""Latin text: how many of its words are English, how many another language's, how many names. Shared by the languages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ._scripts import LATIN_WORD
from ._words import ENGLISH, LOANS, OTHER_LATIN

_LETTERS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_CONTRACTION = re.compile(r".*(?:n['’]t|['’](?:re|ll|ve|d|m|s))")
_ELISION = re.compile(r"(?:[ldjcnsmt]|qu|un|all|dell|nell|sull|dall|quell)['’][a-zà-öø-ɏ]")
_ENGLISH_ENDING = re.compile(r".{3,}(?:ing|ed|ly|ness|ful|less|ship|ght|ies|ers|tions|ity|ably|ough)")
_OTHER_ENDING = re.compile(
    r".{4,}(?:ung|ungen|heit|keit|schaft|lich|isch|zione|zioni|mente|eux|euse|ción|iert|ieren|ijk|tje|ości|yor|lar|ler)"
)
_PARTICLES = frozenset("al bin da das de del della der di do dos du el la le of ter van von y und zu".split())


@dataclass(frozen=True, slots=True)
class LatinWords:
    """Counts of words. `plain` are those that are no names: of whatever language."""

    all: int
    english: int
    other: int
    plain: int
    english_like: int  # unknown words with an English ending


def count_words(text: str) -> LatinWords:
    words = LATIN_WORD.findall(text)
    unknown = [number for number, word in enumerate(words) if word.lower() not in ENGLISH]
    english = plain = len(words) - len(unknown)
    other = like = 0
    for number in unknown:
        word, small = words[number], words[number].lower()
        if _is_part_of_a_name(words, number):
            continue
        if small in OTHER_LATIN:
            other += 1
        elif _is_name(word, small):
            other += len(word) > 7 and word.isalpha() and not word.isupper() and _has_other_shape(small)
            continue
        elif _CONTRACTION.fullmatch(small):
            english += 1
        elif _has_other_shape(small):
            other += 1
        else:
            like += _ENGLISH_ENDING.fullmatch(small) is not None
        plain += 1
    return LatinWords(len(words), english, other, plain, like)


def _is_name(word: str, small: str) -> bool:
    """Whether a word that no list has is taken for a name: one with a capital or a digit, or a single letter."""
    return word != small or len(word) == 1 or not _LETTERS.fullmatch(word)


def _is_part_of_a_name(words: Sequence[str], number: int) -> bool:
    """Whether a word is an abbreviation, or the `van` between two names."""
    word = words[number]
    if word not in _PARTICLES:
        return len(word) > 1 and word.isupper()
    return 0 < number < len(words) - 1 and words[number - 1][0].isupper() and words[number + 1][0].isupper()


def _has_other_shape(small: str) -> bool:
    if small.isascii():
        return bool(_OTHER_ENDING.fullmatch(small) or _ELISION.match(small))
    return small not in LOANS
