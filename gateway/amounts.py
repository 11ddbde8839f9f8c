"""Amounts of money: decimal strings outside, integers of a millionth of the currency unit inside. Never a float.

Writing one is open to plugins, and so stands in types.py.
"""

from __future__ import annotations

import re

from gateway.types import MICROS, amount_text

__all__ = ["MICROS", "amount_micros", "amount_text"]

_AMOUNT = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?", re.ASCII)


def amount_micros(text: str) -> int:
    """Reads `12.5` as 12500000; ValueError for signs, exponents, more than 12 digits before or 6 after the point."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount: digits, then at most six decimals")
    return int(match[1]) * MICROS + int((match[2] or "").ljust(6, "0"))
