"""Pieces of JSON values and what they add up to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from gateway.merging import Base64, Column, First, Indexed, Items, Last, Part, Record, Text, Untellable, Value
from gateway.types import JsonValue

Making = Callable[[], Part]

SAME = partial(Value, str, repeats=True)
ONCE = partial(Value, str)
CALLS = partial(Indexed, {"index": partial(Value, int, repeats=True), "text": Text})


def whole(making: Making, *pieces: JsonValue) -> JsonValue:
    part = making()
    for piece in pieces:
        part.add(piece)
    return part.whole


@pytest.mark.parametrize(
    ("making", "pieces", "expected"),
    [
        (ONCE, ["", None, "a", "", None], "a"),
        (ONCE, [None, ""], ""),
        (Value, [{"a": [1]}], {"a": [1]}),
        (SAME, ["a", "a", None, "", "a"], "a"),
        (First, [0, 7, 8], 7),
        (First, [0], 0),
        (partial(Last, dict), [None, {"a": 1}, {"a": 2}, None], {"a": 2}),
        (Text, ["a", None, "", "b"], "ab"),
        (Text, [""], ""),
        (Base64, ["YWJj", "ZA=="], "YWJjZA=="),
        (Items, [[], [1], None, [2, 3]], [1, 2, 3]),
        (Items, [[]], []),
        (Column, [[1], [], [2]], [1, 2]),
        (Column, [None, None], None),
        (partial(Record, {"b": Text}), [{"a": 1}, None, {"b": "x"}, {"b": "y"}], {"b": "xy", "a": 1}),
        (partial(Record, {}), [{}], {}),
        (CALLS, [[], [{"index": 1, "text": "c"}, {"index": 0, "text": "a"}], [{"index": 0, "text": "b"}]],
         [{"index": 0, "text": "ab"}, {"index": 1, "text": "c"}]),
        (CALLS, [[]], []),
    ],
)  # fmt: skip
def test_pieces_add_up(making: Making, pieces: list[JsonValue], expected: JsonValue) -> None:
    assert whole(making, *pieces) == expected


@pytest.mark.parametrize(
    "making", [ONCE, SAME, partial(Last, dict), Text, Base64, Items, Column, partial(Record, {}), CALLS]
)
def test_null_alone_is_null(making: Making) -> None:
    assert whole(making, None, None) is None
    assert whole(making) is None


@pytest.mark.parametrize(
    ("making", "pieces"),
    [
        (ONCE, ["a", "a"]),
        (ONCE, [1]),
        (Value, [1, 1]),
        (SAME, ["a", "b"]),
        (partial(Value, int), [True]),
        (partial(Value, int), [""]),
        (First, [None]),
        (First, [1.5]),
        (partial(Last, dict), [[]]),
        (Text, [["a"]]),
        (Base64, ["YQ==", "YQ=="]),
        (Items, [{}]),
        (Column, [None, [1]]),
        (Column, [[1], None]),
        (partial(Record, {}), [[]]),
        (partial(Record, {}), [{"a": 1}, {"a": 1}]),
        (CALLS, [{}]),
        (CALLS, [[None]]),
        (CALLS, [[{"text": "a"}]]),
        (CALLS, [[{"index": "0"}]]),
        (CALLS, [[{"index": True}]]),
        (CALLS, [[{"index": -1}]]),
        (partial(Indexed, {}, "text"), [[{"index": 0, "text": None}]]),
    ],
)
def test_what_cannot_be_told_is_not_guessed(making: Making, pieces: list[JsonValue]) -> None:
    with pytest.raises(Untellable):
        whole(making, *pieces)


def test_pieces_are_left_as_they_were() -> None:
    pieces: list[JsonValue] = [[1], [2]]
    assert whole(Items, *pieces) == [1, 2]
    assert pieces == [[1], [2]]
