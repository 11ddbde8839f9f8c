"""What a text is written in, by Unicode's blocks: shared by the languages. It knows scripts, and no language.

A text is judged by parts of a few hundred characters, so that a long foreign passage in it is seen however much else
there is; of a very long text only a sample is looked at.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

_PART = 320  # characters: a quoted phrase is lost in so many, a foreign paragraph is not
_MOST_PARTS = 32  # a foreign passage longer than a thirtieth of a very long text, and two parts, is always met

_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a"
_CYRILLIC = "\u0400-\u0481\u048a-\u052f\u1c80-\u1c8f\ua640-\ua69d"
_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff\uff66-\uff6f\uff71-\uff9d"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
# Letters of no language: of phonetics, of ordinals and units, of mathematics; and marks of sound that stand among kana.
_NEUTRAL = "\u00aa\u00b5\u00ba\u0250-\u02ff\u1d00-\u1dbf\u2071\u207f\u2090-\u209c\u2100-\u214f\u24b6-\u24e9"
_NEUTRAL += "\u30fc\uff70\U0001d400-\U0001d7ff\U0001f130-\U0001f189"

_WORD_SIGNS = "0-9_+#"
LATIN_WORD = re.compile(f"[{_LATIN}][{_LATIN}{_WORD_SIGNS}]*(?:['\u2019][{_LATIN}]+)*")
"""A word or a name of code; an apostrophe within it is a part of it."""
CYRILLIC_WORD = re.compile(f"[{_CYRILLIC}]+(?:['\u2019\u02bc][{_CYRILLIC}]+)*")
HAN = re.compile(f"[{_HAN}]+")
KANA = re.compile(f"[{_KANA}]+")
HANGUL = re.compile(f"[{_HANGUL}]+")
KANA_BESIDE_HAN = re.compile(f"[{_HAN}][{_KANA}]|[{_KANA}][{_HAN}]")
_SIGNS = re.compile(f"[{_HAN}{_KANA}{_HANGUL}]+")
# A Greek letter alone is a formula's.
_FOREIGN = re.compile(f"[^\\W\\d_{_LATIN}{_CYRILLIC}{_NEUTRAL}\u0370-\u03ff]+|[\u0370-\u03ff]{{2,}}")
_QUOTES = re.compile('“[^“”]{1,60}”|"[^"\n]{1,60}"|«[^«»]{1,60}»|„[^„“”]{1,60}[“”]|「[^「」]{1,60}」|『[^『』]{1,60}』')
_BRACKETS = re.compile(r"\([^()]{1,60}\)|（[^（）]{1,60}）")
_LETTERS_OF_A_WORD = 5
_SIGNS_OF_A_WORD = 2  # of Chinese, Japanese and Korean writing


def in_every_part(text: str, judge: Callable[[str], bool]) -> bool:
    """Whether a text's every part passes. Nothing is asked about a text without letters, and it passes."""
    return all(judge(part) for part in _parts(text) if _has_letters(part))


def count(letters: re.Pattern[str], text: str) -> int:
    """How many letters of a script there are."""
    return sum(map(len, letters.findall(text)))


def foreign_words(text: str) -> float:
    """About how many words there are in scripts other than Latin and Cyrillic."""
    letters = "".join(_FOREIGN.findall(text))
    if not letters.isalpha():  # ½ and ② are `\w` too
        letters = "".join(filter(str.isalpha, letters))
    signs = count(_SIGNS, letters)
    return signs / _SIGNS_OF_A_WORD + (len(letters) - signs) / _LETTERS_OF_A_WORD


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))


def _parts(text: str) -> Iterator[str]:
    if len(text) <= _PART * _MOST_PARTS:
        yield from _split(_without_quotes(text))
        return
    step = (len(text) - _PART) / (_MOST_PARTS - 1)
    for number in range(_MOST_PARTS):
        start = int(number * step)
        yield _without_quotes(text[start : start + _PART])


def _split(text: str) -> Iterator[str]:
    """Parts of one length, so that none is too short to be judged."""
    size = -(-len(text) // max(1, -(-len(text) // _PART)))
    return (text[start : start + size] for start in range(0, len(text), size or 1))


def _without_quotes(text: str) -> str:
    """What a text says itself: short quotations and asides are left out, unless it has nothing else."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    rest = _BRACKETS.sub(" ", _QUOTES.sub(" ", text))
    return rest if rest == text or _has_letters(rest) else text
