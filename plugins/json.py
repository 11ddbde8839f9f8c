"""`result_type=json`: the document as it came, every character beyond ASCII written as `\\uXXXX`."""

from __future__ import annotations

import re

from gateway.hookspecs import FormatterSpec, hookimpl
from gateway.types import Document, RenderingRefused

# What Python's backslashreplace does not write as JSON does: it has \xe9 and \U0001f600.
_UNLIKE_JSON = re.compile("[\x80-\xff\U00010000-\U0010ffff]+")


@hookimpl
def gateway_formatters() -> list[FormatterSpec]:
    return [FormatterSpec("json", "application/json", render)]


def render(document: Document) -> bytes:
    text = document.text
    if not text.isascii():
        # Valid JSON has such characters inside strings only, where an escape may stand for each.
        text = _UNLIKE_JSON.sub(_escaped, text.decode()).encode("ascii", "backslashreplace")
    if len(text) > document.limit_bytes:
        raise RenderingRefused(f"the rendering is larger than {document.limit_bytes} bytes")
    return text


def _escaped(run: re.Match[str]) -> str:
    return "\\u" + run[0].encode("utf-16-be").hex("-", 2).replace("-", "\\u")
