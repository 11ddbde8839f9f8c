"""A JSON document as PHP holds it after `json_decode($json, true)`: shared by the formats that are PHP's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from gateway.types import Document, JsonValue

_INT64 = range(-(2**63), 2**63)
_LONGEST_INT64 = 20  # characters, with the sign
_INTEGER_KEY = re.compile("0|-?[1-9][0-9]{0,18}")

# An escaped pair of surrogates, a lone one (group 1), or any other escape: the `\\` of `\\ud800` is passed over.
_ESCAPE = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.")


def read(document: Document) -> JsonValue:
    """The document's value, without lone surrogates and with infinite floats, as PHP has it.

    PHP refuses a document with a lone surrogate as a whole, which would lose the other 99.9 percent of an answer: here
    U+FFFD stands in for the surrogate. It goes in before parsing, because keys that differ only there become one key.
    """
    try:
        return document.value
    except json.JSONDecodeError:  # lone surrogates and floats beyond the range: rare, and slower to read
        text = _ESCAPE.sub(_without_lone_surrogate, document.text)
        value: JsonValue = json.loads(text, parse_int=_number)
        return value


def entries(value: list[JsonValue] | dict[str, JsonValue]) -> Iterable[tuple[int | str, JsonValue]]:
    """An array's keys and values as PHP has them: a key that is written as an int64 is an int."""
    if isinstance(value, list):
        return enumerate(value)
    return ((int(key) if _is_integer(key) else key, item) for key, item in value.items())


def fits_integer(value: int) -> bool:
    """Whether PHP reads this integer as an int; all others are floats."""
    return value in _INT64


def float_text(value: float) -> str:
    """The digits of a float as PHP writes them with `serialize_precision=-1`: `1`, `-0`, `0.5`, `1.0E+25`, `INF`.

    Python and PHP agree on the shortest digits and differ in how these are written: PHP goes over to an exponent at
    1e17, Python at 1e16.
    """
    text = repr(value)
    if text.endswith(".0"):
        return text[:-2]
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text.upper()  # for INF; digits have no case
    if exponent == "+16":
        return mantissa.replace(".", "").ljust(17 + (value < 0), "0")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{int(exponent):+d}"


def _is_integer(key: str) -> bool:
    if key >= ":":  # sorts behind the digits and the minus, as nearly every key does
        return False
    return _INTEGER_KEY.fullmatch(key) is not None and int(key) in _INT64


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INT64 else float(digits)


def _without_lone_surrogate(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match[1] else match[0]
