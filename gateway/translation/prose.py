"""What of a sentence must survive a translation exactly: taken out before it, and put back after.

Pure. Works on single segments: its patterns may take time that grows with the square of a text's length.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.types import PerCall

_MARK = re.compile("\u27e6[ \u00a0]*(\\d{1,4})[ \u00a0]*\u27e7")
_BRACKETS: Final = "\u27e6\u27e7"
_SIGNS: Final = ("*", "_", "~~", "`", "[", "]", "|", "\n")
"""Markdown that stays in the text: a translation must have as many."""

_MODIFIERS: Final = "\ufe0e\ufe0f\u200d\U0001f3fb-\U0001f3ff"
_SYMBOL: Final = f"[\u2190-\u27bf\u2900-\u2bff\U0001f000-\U0001faff][{_MODIFIERS}]*"
_BEFORE = re.compile(
    r"\s*(?:>[ \t]*|#{1,6}[ \t]+|[-*+\u2022\u00b7][ \t]+(?:\[[ xX]\][ \t]+)?|\d{1,4}[.)][ \t]+"
    rf"|\[\^?[^\]\n]{{1,40}}\]:[ \t]+|\d{{1,3}}[\u3001\uff0e]\s*|\|[ \t]*|{_SYMBOL}[ \t]*)*"
)
_SYMBOL_CHARS = re.compile("[\u2190-\u27bf\u2900-\u2bff\U0001f000-\U0001faff\ufe0e\ufe0f\u200d\\s]")

_CURRENCY: Final = "[$\u20ac\u00a3\u00a5\u20bd]?"
_NAME: Final = "[A-Za-z0-9_]"
_KEPT = re.compile(
    "|".join((
        f"[{_BRACKETS}]+",
        r"(?P<code>(?<!`)(?P<ticks>`+)(?!`)(?:.+?)(?<!`)(?P=ticks)(?!`))",
        r"<!--.*?-->|</?[A-Za-z][^<>\n]*>|&(?:#\d{1,7}|#x[0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});",
        r"(?P<url>(?<![A-Za-z0-9])(?:[A-Za-z][A-Za-z0-9+.-]{1,15}://|www\.)[!-.0-;=?-_a-z~]+(?:/[!-;=?-_a-z~\w]*)?)",
        r"<(?P<tag>code|pre|script|style|kbd|samp)\b[^<>\n]*>.*?</(?P=tag)>",
        r"\b[A-Za-z]:\\[^\s\"<>|?*]+",
        r"\{\s*\"(?:[^{}]|\{[^{}]*\})*\}",
        r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",
        r"\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:\s+\"[^\"\n]*\"|\s+'[^'\n]*')?\)|\]\[[^\]\n]*\]|\[\^[^\]\n]+\]",
        r"\$\$.+?\$\$|\\\(.+?\\\)|\\\[.+?\\\]|\$(?=\d)[^\s$]*(?<=\S)\$(?!\d)|\$(?![\s\d$])[^$\n]*?(?<!\s)\$(?!\d)",
        r"\$\{[^{}\n]*\}|\{\{[^{}\n]*\}\}|\{[A-Za-z_][A-Za-z0-9_.]*\}|%(?:\([A-Za-z_]\w*\))?[sdifxr]\b",
        r"\\[A-Za-z]+\*?(?:\{[^{}\n]*\})*|\\[!-/:-@\[-`{-~]",
        r"\$[A-Za-z_]" + _NAME + "*",
        r"(?<![A-Za-z0-9_/.~])(?:~|\.{1,2})?(?:/[A-Za-z0-9_.@+-]*[A-Za-z0-9_@+-])+/?",
        r"(?<![A-Za-z0-9_-])--[A-Za-z][A-Za-z0-9_-]*|(?<=\s)-[A-Za-z](?=\s|\Z)",
        r"(?<![A-Za-z0-9_@])@[A-Za-z0-9_]+|(?<![A-Za-z0-9_#&])#[A-Za-z0-9_]+",
        r"(?<![A-Za-z0-9_])[A-Za-z_]" + _NAME + r"*(?:\.[A-Za-z_]" + _NAME + r"*)*\(\)",
        r"(?<![A-Za-z0-9_.-])[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_]+)+(?![A-Za-z0-9_])",
        r"(?<![A-Za-z0-9_])[A-Za-z][A-Za-z0-9]*(?:_+[A-Za-z0-9]+)+",
        r"(?<![A-Za-z0-9_])(?:[a-z]+(?:[A-Z][a-z0-9]*)+|(?:[A-Z][a-z0-9]+){2,})(?![A-Za-z0-9_])",
        r"(?<![A-Za-z0-9_-])(?=[A-Za-z])(?=[A-Za-z-]{1,60}[0-9])[A-Za-z][A-Za-z0-9]*(?:[.-][A-Za-z0-9]+)*",
        r"\b0[xXbBoO][0-9A-Fa-f]+\b|\b\d+(?:\.\d+)?[eE][+-]?\d+\b",
        rf"(?:(?<![\w)])[+\u2212\u00b1-])?{_CURRENCY}\d+(?:[.,:/\u2013-]\d+)*(?:[ \u00a0]?[%\u2030\u00b0])?{_CURRENCY}",
        r"[ \t]*\|[ \t]*",
    )),
    re.DOTALL,
)  # fmt: skip
_TRAILING = re.compile(r"[.,;:!?'\"*_~)\]]+\Z")


class Protected(PerCall, frozen=True):
    """A segment: what stands before and after its words, the words with marks in them, and what the marks stand for."""

    before: str
    text: str
    after: str
    kept: tuple[str, ...]

    @property
    def words(self) -> str:
        """What the language is judged by."""
        return _MARK.sub(" ", self.text)

    @property
    def has_words(self) -> bool:
        """Whether there is anything to translate."""
        return any(map(str.isalpha, self.words))

    def restored(self, translation: str) -> str | None:
        """The translation with all in it that was taken out; None where a mark is missing, or there twice, or unknown,
        or where Markdown was lost or added.
        """
        translation = translation.strip()
        parts = _MARK.split(translation)
        marks = [int(number) for number in parts[1::2]]
        if sorted(marks) != list(range(1, len(self.kept) + 1)):
            return None
        rest = "".join(parts[::2])
        if any(bracket in rest for bracket in _BRACKETS):
            return None
        if any(translation.count(sign) != self.text.count(sign) for sign in _SIGNS):
            return None
        parts[1::2] = [self.kept[number - 1] for number in marks]
        return f"{self.before}{''.join(parts)}{self.after}"


def protect(text: str) -> Protected:
    """A segment's words, with marks for what must not be translated."""
    start = _BEFORE.match(text)
    begin = start.end() if start is not None else 0
    end = len(text)
    while end > begin and (text[end - 1].isspace() or text[end - 1] == "|"):
        end -= 1
    while end > begin and text[end - 1] not in _BRACKETS and _SYMBOL_CHARS.match(text[end - 1]):
        end -= 1
    kept: list[str] = []

    def mark(found: re.Match[str]) -> str:
        whole, rest = found[0], ""
        if found["url"]:
            whole, rest = _url(whole)
        kept.append(whole)
        return f"\u27e6{len(kept)}\u27e7{rest}"

    words = _KEPT.sub(mark, text[begin:end])
    return Protected(text[:begin], words, text[end:], tuple(kept))


def _url(found: str) -> tuple[str, str]:
    """An address, and the punctuation behind it that is the sentence's."""
    trailing = _TRAILING.search(found)
    end = trailing.start() if trailing is not None else len(found)
    if trailing is not None and trailing[0].startswith(")") and found.count("(", 0, end) > found.count(")", 0, end):
        end += 1
    return found[:end], found[end:]
