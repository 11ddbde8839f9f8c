"""JSON documents for property tests: every kind of value, key, character, spelling and spacing."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from gateway.types import JsonValue

_TROUBLE = "\0\x01\b\t\n\f\r\x1b '\"\\/<>&]u4;{}$\x7f\x85éя中😀\u2028\ufeff\ufdd0\ufffe\uffff"
_KEYS = ["0", "1", "-1", "-0", "00", "01", "+1", "1.0", "٣", "item", "key", "root", "name", "xml", "XmL", "xmlns"]
_KEYS += ["a:b", ":", ".a", "-a", "a.b", "a=b", "键", "龦", "é"]
_KEYS += [str(number) for number in (2**63 - 1, 2**63, -(2**63), -(2**63) - 1)]


def _texts(characters: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.text(st.sampled_from(_TROUBLE) | characters, max_size=12)


def _values(texts: st.SearchStrategy[str]) -> st.SearchStrategy[JsonValue]:
    numbers: st.SearchStrategy[int | float] = st.integers() | st.integers(-(2**70), 2**70)
    numbers |= st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1e18, 1e18)
    scalars: st.SearchStrategy[JsonValue] = st.none() | st.booleans() | numbers | texts
    keys = st.sampled_from(_KEYS) | texts
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    )


@st.composite
def documents(draw: st.DrawFn, *, lone_surrogates: bool = False) -> bytes:
    """Valid JSON in UTF-8."""
    characters = st.characters(exclude_categories=[] if lone_surrogates else ["Cs"])
    value = draw(_values(_texts(characters)))
    indent = draw(st.sampled_from([None, 1]))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=indent)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent).encode()
