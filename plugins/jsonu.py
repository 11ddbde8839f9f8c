"""`result_type=jsonu`: the document as it came, with `\\uXXXX` only where UTF-8 cannot say the character.

An escape stays for what JSON must escape (quote, backslash, characters below U+0020) and for a lone surrogate. All
else is said directly, U+007F, U+2028 and noncharacters included. The rendering is never longer than the document.
"""

from __future__ import annotations

import re

from gateway.hookspecs import FormatterSpec, hookimpl
from gateway.types import Document

_HIGH_AND_LOW = rb"[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_SAYABLE = rb"(?!00(?:[01]|22|5[cC])|[dD][89a-fA-F])[0-9a-fA-F]{4}"
# Either an escaped backslash, so that the `u4e2d` of `\\u4e2d` is passed over, or (group 1) a run of escapes. Its
# length is bounded because other threads get their turn between two runs only.
_ESCAPES = re.compile(rb"\\(?:\\|(u(?:%b|%b)(?:\\u(?:%b|%b)){0,255}))" % ((_SAYABLE, _HIGH_AND_LOW) * 2))


@hookimpl
def gateway_formatters() -> list[FormatterSpec]:
    return [FormatterSpec("jsonu", "application/json; charset=utf-8", render)]


def render(document: Document) -> bytes:
    text = document.text
    return _ESCAPES.sub(_said, text) if b"\\u" in text else text


def _said(escapes: re.Match[bytes]) -> bytes:
    run: bytes | None = escapes[1]
    if run is None:
        return escapes[0]
    units = bytes.fromhex(run.translate(None, b"\\u").decode())
    return units.decode("utf-16-be").encode()
