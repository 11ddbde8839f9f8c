"""`result_type=serialize`: byte for byte what PHP's `serialize(json_decode($json, true))` gives.

A lone surrogate, for which PHP refuses the whole document, becomes U+FFFD. A streamed event writes a string that holds
a carriage return in PHP's escaped form, `S:3:"a\\0db";`: unserialize() reads it to the same value (PHP 8.4 and later
with a deprecation notice).
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.hookspecs import FormatterSpec, hookimpl
from gateway.types import Document, JsonValue

from ._output import Output, refuses_deep_nesting
from ._php import entries, fits_integer, float_text, read


@hookimpl
def gateway_formatters() -> list[FormatterSpec]:
    return [FormatterSpec("serialize", "text/plain; charset=utf-8", render, render_event)]


@refuses_deep_nesting
def render(document: Document) -> bytes:
    return _rendered(document, _string)


@refuses_deep_nesting
def render_event(document: Document) -> bytes:
    return _rendered(document, _string_without_cr)


def _rendered(document: Document, string: Callable[[str], str]) -> bytes:
    output = Output(document.limit_bytes)
    _write(read(document), output, string)
    return output.finish()


def _write(value: JsonValue, output: Output, string: Callable[[str], str]) -> None:
    if isinstance(value, str):
        output.write(string(value))
    elif value is None:
        output.write("N;")
    elif isinstance(value, bool):
        output.write("b:1;" if value else "b:0;")
    elif isinstance(value, int) and fits_integer(value):
        output.write(f"i:{value};")
    elif isinstance(value, (int, float)):
        output.write(f"d:{float_text(float(value))};")
    else:
        output.write(f"a:{len(value)}:{{")
        for key, item in entries(value):
            output.write(string(key) if isinstance(key, str) else f"i:{key};")
            _write(item, output, string)
            output.check()
        output.write("}")


def _string(text: str) -> str:
    return f's:{_size_bytes(text)}:"{text}";'


def _string_without_cr(text: str) -> str:
    if "\r" not in text:
        return _string(text)
    escaped = text.replace("\\", r"\5c").replace("\r", r"\0d")
    return f'S:{_size_bytes(text)}:"{escaped}";'  # the size is that of the text meant


def _size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
