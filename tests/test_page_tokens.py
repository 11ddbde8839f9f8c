"""Page tokens: what was given is read back, and nothing else is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.page_tokens import PageTokens

TOKENS = PageTokens(b"k" * 32)
METHOD = "account/calls"


@given(position=st.integers(-(2**63), 2**63 - 1), account_id=st.integers(1, 2**63 - 1))
def test_a_token_stands_for_its_place_and_may_stand_in_a_url(position: int, account_id: int) -> None:
    token = TOKENS.give(account_id, METHOD, position)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert TOKENS.read(account_id, METHOD, token) == position


def test_a_token_is_its_account_s_and_its_method_s_alone() -> None:
    token = TOKENS.give(1, METHOD, 7)
    assert TOKENS.read(2, METHOD, token) is None
    assert TOKENS.read(1, "account/others", token) is None
    assert PageTokens(b"j" * 32).read(1, METHOD, token) is None


def test_no_character_of_a_token_can_be_changed() -> None:
    token = TOKENS.give(1, METHOD, 7)
    for i, character in enumerate(token):
        changed = token[:i] + ("A" if character != "A" else "B") + token[i + 1 :]
        assert TOKENS.read(1, METHOD, changed) is None, changed


@pytest.mark.parametrize("change", ["{}=", "{}A", " {}", "{}\n", "{}\0", "+{}", "é{}"])
def test_a_token_has_one_spelling(change: str) -> None:
    """The decoder of base64 would pass over what does not belong there."""
    assert TOKENS.read(1, METHOD, change.format(TOKENS.give(1, METHOD, 7))) is None


@given(text=st.text())
def test_other_texts_are_no_tokens(text: str) -> None:
    assert TOKENS.read(1, METHOD, text) is None


def test_a_place_beyond_64_bits_has_no_token() -> None:
    with pytest.raises(OverflowError):
        TOKENS.give(1, METHOD, 2**63)
