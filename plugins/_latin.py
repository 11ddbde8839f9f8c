"""Latin text: how many of its words are English, another language's, names. Shared by the languages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ._english_shapes import FOLLOWERS
from ._scripts import LATIN_WORD
from ._words import ENGLISH, LOANS, OTHER_LATIN

_LETTERS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_CONTRACTION = re.compile(r".*(?:n['’]t|['’](?:re|ll|ve|d|m|s))")
_ELISION = re.compile(r"(?:[ldjcnsmt]|qu|un|all|dell|nell|sull|dall|quell)['’][a-zà-öø-ɏ]")
_GERMAN_NOUN = re.compile("[A-ZÄÖÜ][a-zäöüß]{3,}(?:ung|ungen|heit|keit|schaft|lich|isch)")
_PARTICLES = frozenset(
    {"bin", "da", "das", "de", "del", "della", "der", "di", "do", "dos", "du", "la", "ter", "van", "von"}
)
_SHAPES = frozenset(entry[:2] + after for entry in FOLLOWERS.split() for after in entry[2:])


@dataclass(frozen=True, slots=True)
class LatinWords:
    """Counts of words by what they speak for; `unknown` are those in no list that are no names, in small letters."""

    all: int
    english: int
    other: int
    unknown: Sequence[str]

    @property
    def plain(self) -> int:
        """Words that are no names: of whatever language."""
        return self.english + self.other + len(self.unknown)


def count_words(text: str) -> LatinWords:
    words = LATIN_WORD.findall(text)
    rest = [number for number, word in enumerate(words) if word.lower() not in ENGLISH]
    english, other, unknown = len(words) - len(rest), 0, []
    for number in rest:
        word, small = words[number], words[number].lower()
        if _is_part_of_a_name(words, number):
            continue
        if small in OTHER_LATIN or _GERMAN_NOUN.fullmatch(word):
            other += 1
        elif _is_name(word, small):
            if number == 0 and _begins_a_sentence(words):
                unknown.append(small)
        elif _CONTRACTION.fullmatch(small):
            english += 1
        elif small.isascii() and not _ELISION.match(small):
            unknown.append(small)
        else:
            other += small not in LOANS
    return LatinWords(len(words), english, other, unknown)


def looks_english(word: str) -> bool:
    """Whether all runs of three letters in a word are some English word's."""
    edged = f"_{word}_"
    return all(edged[start : start + 3] in _SHAPES for start in range(len(edged) - 2))


def _is_name(word: str, small: str) -> bool:
    """Whether a word that no list has is taken for a name: one with a capital or a digit, or a single letter."""
    return word != small or len(word) == 1 or not _LETTERS.fullmatch(word)


def _begins_a_sentence(words: Sequence[str]) -> bool:
    """Whether the first word has its capital from its place alone, as it seems."""
    if len(words) == 1 or words[1] in _PARTICLES or not words[1].islower():
        return False
    return len(words[0]) > 1 and words[0].istitle() and _LETTERS.fullmatch(words[0]) is not None


def _is_part_of_a_name(words: Sequence[str], number: int) -> bool:
    """Whether a word is an abbreviation, or the `van` between two names."""
    word = words[number]
    if word not in _PARTICLES:
        return len(word) > 1 and word.isupper()
    return 0 < number < len(words) - 1 and words[number - 1][0].isupper() and words[number + 1][0].isupper()
