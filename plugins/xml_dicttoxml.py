"""`result_type=xml` by the library dicttoxml: a stand-by for clients that know its output.

Unlike the direct writer it drops what it has no words for: a null is an empty element, and so are an empty list and
an empty object; numeric keys get an `n` before them, spaces in keys become underscores. What it cannot say in
well-formed XML (control characters, say) is refused. It turns each value into text for its log, level by level, which
is slow: documents above a size are refused. Without the library the plugin offers nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from xml.parsers import expat

from gateway.hookspecs import FormatterSpec, hookimpl
from gateway.types import Document, RenderingRefused

from ._output import refuses_deep_nesting

_LARGEST_DOCUMENT_BYTES = 1024 * 1024


@hookimpl
def gateway_formatters() -> list[FormatterSpec]:
    try:
        from dicttoxml import dicttoxml  # type: ignore[import-untyped]  # ships no types
    except ImportError:
        return []
    # The library logs whole payloads. A level, unlike `disabled`, survives a later logging.config.dictConfig.
    logging.getLogger("dicttoxml").setLevel(logging.CRITICAL + 1)
    render = refuses_deep_nesting(partial(_render, partial(dicttoxml, attr_type=False)))
    render_event = partial(_render_event, render)
    return [FormatterSpec("xml", "application/xml; charset=utf-8", render, render_event, standby=True)]


def _render_event(render: Callable[[Document], bytes], document: Document) -> bytes:
    return render(document).replace(b"\r", b"&#13;")


def _render(convert: Callable[[object], bytes], document: Document) -> bytes:
    if len(document.text) > _LARGEST_DOCUMENT_BYTES:
        raise RenderingRefused(f"dicttoxml is given documents up to {_LARGEST_DOCUMENT_BYTES} bytes")
    try:
        rendering = convert(document.value)
        expat.ParserCreate(namespace_separator=" ").Parse(rendering, True)
    except (json.JSONDecodeError, UnicodeEncodeError, expat.ExpatError) as error:
        raise RenderingRefused(f"dicttoxml cannot say this in XML: {error}") from error
    if len(rendering) > document.limit_bytes:
        raise RenderingRefused(f"the rendering is larger than {document.limit_bytes} bytes")
    return rendering
