"""JSON that holds half of a surrogate pair."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.json_text import read_json, write_json
from gateway.types import JsonValue

VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_written_reads_back_halves_of_pairs_included(value: JsonValue) -> None:
    assert read_json(write_json(value)) == value


def test_half_of_a_pair_is_written_as_its_escape() -> None:
    assert write_json({"a": read_json(rb'"\ud83d"')}) == rb'{"a":"\ud83d"}'


@pytest.mark.parametrize("text", [b"", b"[DONE]", b"{", b"\xff", b"[" * 200_000])
def test_what_is_not_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(text)


def test_what_nests_too_deep_to_be_written_is_a_value_error() -> None:
    value: JsonValue = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match=r"."):
        write_json(value)
