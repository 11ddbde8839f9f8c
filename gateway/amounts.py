"""Amounts of money: decimal strings outside, integers of a millionth of the currency unit inside. Never a float."""

from __future__ import annotations

import re

MICROS = 1_000_000
_AMOUNT = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?", re.ASCII)


def amount_micros(text: str) -> int:
    """Reads `12.5` as 12500000; ValueError for signs, exponents, more than 12 digits before or 6 after the point."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount: digits, then at most six decimals")
    return int(match[1]) * MICROS + int((match[2] or "").ljust(6, "0"))


def amount_text(micros: int) -> str:
    """Writes 12500000 as `12.5`: no exponent, no trailing zeros."""
    units, rest = divmod(abs(micros), MICROS)
    sign = "-" if micros < 0 else ""
    return f"{sign}{units}.{rest:06}".rstrip("0").rstrip(".")
