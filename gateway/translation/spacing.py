"""The spaces between sentences, which languages want differently: put there, or taken away, as a text is joined."""

from __future__ import annotations

import re
from typing import Final

from gateway.translation.prose import Protected

_ENDS: Final = frozenset(".!?\u2026\u3002\uff01\uff1f\u201d\u300d\u300f\"')\uff09*_")
_SYMBOL = re.compile("[\u2190-\u27bf\u2900-\u2bff\U0001f000-\U0001faff][\ufe0e\ufe0f\u200d\U0001f3fb-\U0001f3ff]*")


class Spacing:
    """Joins the segments of one text in a language: Chinese and Japanese have no space between sentences, others one.

    What was not translated, beside what was not translated either, stays as it is.
    """

    __slots__ = ("_is_spaced", "_last", "_was_translated")

    def __init__(self, tag: str) -> None:
        self._is_spaced = tag.partition("-")[0].lower() not in {"zh", "ja"}
        self._last = ""
        self._was_translated = False

    def joined(self, text: str, piece: Protected | None, *, is_translated: bool) -> str:
        """The segment as it stands behind those before it. `piece`: what of it was translated."""
        if is_translated and piece is not None and self._is_spaced and _SYMBOL.fullmatch(piece.before):
            text = f"{piece.before} {text[len(piece.before) :]}"
        if self._last in _ENDS and (is_translated or self._was_translated):
            if self._is_spaced and (text[:1].isalnum() or text[:1] in "\u201c\u2018\u00ab(" or _SYMBOL.match(text)):
                text = f" {text}"
            elif not self._is_spaced and is_translated and text[:1] == " " and not text[1:2].isspace():
                text = text[1:]
        if text:
            self._last, self._was_translated = text[-1], is_translated
        return text
