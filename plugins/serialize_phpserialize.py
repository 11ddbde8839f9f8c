"""`result_type=serialize` by the library phpserialize: a stand-by.

PHP's unserialize() reads its output to the same values, with these exceptions: integers beyond 64 bits are written as
integers, which PHP wraps around. The bytes differ from PHP's own where a float is whole (`d:1.0;`) or has an exponent
(`d:1e+25;`), and where a key is an integer (`s:1:"0";`). Lone surrogates and infinite floats are refused. A streamed
event with a carriage return, which the library can only write raw, is left to the direct writer.
"""

from __future__ import annotations

import json

import phpserialize  # type: ignore[import-untyped]  # ships no types

from gateway.hookspecs import FormatterSpec, hookimpl
from gateway.types import Document, RenderingRefused

from ._output import refuses_deep_nesting
from .serialize import render_event


@hookimpl
def gateway_formatters() -> list[FormatterSpec]:
    return [FormatterSpec("serialize", "text/plain; charset=utf-8", render, render_event, standby=True)]


@refuses_deep_nesting
def render(document: Document) -> bytes:
    try:
        rendering: bytes = phpserialize.dumps(document.value)
    except json.JSONDecodeError as error:
        raise RenderingRefused(f"phpserialize cannot say this: {error}") from error
    if len(rendering) > document.limit_bytes:
        raise RenderingRefused(f"the rendering is larger than {document.limit_bytes} bytes")
    return rendering
