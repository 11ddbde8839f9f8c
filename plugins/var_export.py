"""`result_type=var_export`: byte for byte what PHP's `var_export(json_decode($json, true), true)` gives.

A lone surrogate, for which PHP refuses the whole document, becomes U+FFFD. A streamed event writes a carriage return as
`' . "\\r" . '`, which evaluates to the same value.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.hookspecs import FormatterSpec, hookimpl
from gateway.types import Document, JsonValue

from ._output import Output, refuses_deep_nesting
from ._php import entries, fits_integer, float_text, read

_SMALLEST_INTEGER = -(2**63)


@hookimpl
def gateway_formatters() -> list[FormatterSpec]:
    return [FormatterSpec("var_export", "text/plain; charset=utf-8", render, render_event)]


@refuses_deep_nesting
def render(document: Document) -> bytes:
    return _rendered(document, _string)


@refuses_deep_nesting
def render_event(document: Document) -> bytes:
    return _rendered(document, _string_without_cr)


def _rendered(document: Document, string: Callable[[str], str]) -> bytes:
    output = Output(document.limit_bytes)
    _write(read(document), "\n", output, string)
    return output.finish()


def _write(value: JsonValue, new_line: str, output: Output, string: Callable[[str], str]) -> None:
    """Writes one value; `new_line` is a line feed and the indentation of the value's level."""
    if isinstance(value, str):
        output.write(string(value))
    elif isinstance(value, (list, dict)):
        output.write("array (")
        for key, item in entries(value):
            output.write(f"{new_line}  {string(key) if isinstance(key, str) else key} => ")
            if isinstance(item, (list, dict)):
                output.write(f"{new_line}  ")
            _write(item, new_line + "  ", output, string)
            output.write(",")
            output.check()
        output.write(f"{new_line})")
    else:
        output.write(_scalar(value))


def _scalar(value: float | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and fits_integer(value):
        # PHP has no literal for its smallest integer: it would read the digits, before the minus, as a float.
        return str(value) if value != _SMALLEST_INTEGER else f"{value + 1}-1"
    text = float_text(float(value))
    return text if "." in text or text.endswith("INF") else text + ".0"


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "' . \"\\0\" . '")
    return f"'{escaped}'"


def _string_without_cr(text: str) -> str:
    return _string(text).replace("\r", "' . \"\\r\" . '")
