from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.amounts import amount_micros, amount_text


@pytest.mark.parametrize(
    ("text", "micros"),
    [("0", 0), ("10", 10_000_000), ("12.50", 12_500_000), ("0.000001", 1), ("999999999999.999999", 10**18 - 1)],
)
def test_an_amount_is_read_exactly(text: str, micros: int) -> None:
    """Digits, a point, at most six decimals."""
    assert amount_micros(text) == micros


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "1.", ".5", "1.0000001", "1,5", " 1", "nan", "١", "1_000", "1" * 13, "1\n"]
)
def test_anything_else_is_refused(text: str) -> None:
    """Nothing is rounded or guessed."""
    with pytest.raises(ValueError, match="is not an amount"):
        amount_micros(text)


@given(st.integers(0, 10**18 - 1))
def test_what_is_written_reads_back(micros: int) -> None:
    """Writing loses nothing, and a debt differs by its sign alone."""
    assert amount_micros(amount_text(micros)) == micros
    assert amount_text(-micros) == (f"-{amount_text(micros)}" if micros else "0")


def test_no_zeros_trail() -> None:
    """Whole amounts have no point, and their own zeros stay."""
    assert [amount_text(micros) for micros in (0, 100_000_000, 12_500_000, 1)] == ["0", "100", "12.5", "0.000001"]
