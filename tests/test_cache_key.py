"""No two different requests have one key, and one request has one key however it is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import combinations
from time import perf_counter
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache_key import DELIVERY, KEY_BYTES, cache_key, canonical
from gateway.formatting import read_object
from gateway.types import NO_ARGUMENTS, Arguments, Call
from tests.published import PUBLISHED, QUERIES, pairs, variants

SECRET = bytes(range(32))
SCOPES = ("account:1", "account:2", "account:12", "group:1")
UPSTREAMS = ("openai", "other")


def arguments_of(text: bytes | str) -> Arguments:
    """As a front reads them."""
    raw = text if isinstance(text, bytes) else text.encode()
    return Arguments(raw, read_object(raw))


def call_of(value: object, method: str = "v1/chat/completions", verb: str = "POST", query: str = "") -> Call:
    return Call("1.x", "native", method, verb, arguments_of(orjson.dumps(value)), query)


def key_of(call: Call, scope: str = SCOPES[0], upstream: str = UPSTREAMS[0], **more: Any) -> bytes:
    return cache_key(SECRET, scope, upstream, call, **more)


def encoded(text: bytes | str) -> bytes:
    return canonical(arguments_of(text))


# one request, one key


def test_every_published_argument_varied_alone_changes_the_key_for_every_account_and_upstream() -> None:
    keys: dict[bytes, object] = {}
    for method in PUBLISHED:
        for values in variants(method):
            call = call_of(values, method)
            for scope in SCOPES:
                for upstream in UPSTREAMS:
                    key, request = key_of(call, scope, upstream), (scope, upstream, method, values)
                    assert keys.setdefault(key, request) is request, (keys[key], request)
    assert len(keys) > 4000


def test_two_published_arguments_varied_together_change_the_key() -> None:
    keys: dict[bytes, object] = {}
    for method in PUBLISHED:
        seen = set()
        for values in (*variants(method), *pairs(method)):
            text = json.dumps(values, sort_keys=True)
            if text in seen:
                continue
            seen.add(text)
            request = (method, values)
            key = key_of(call_of(values, method))
            assert keys.setdefault(key, request) is request, (keys[key], request)
    assert len(keys) > 3000


def test_queries_and_verbs_change_the_key() -> None:
    calls = [
        Call("1.x", "native", method, verb, NO_ARGUMENTS, query)
        for method, queries in QUERIES.items()
        for query in queries
        for verb in ("GET", "POST", "DELETE")
    ]
    keys = {key_of(call, scope, upstream) for call in calls for scope in SCOPES for upstream in UPSTREAMS}
    assert len(keys) == len(calls) * len(SCOPES) * len(UPSTREAMS)


def test_an_argument_that_nobody_thought_of_changes_the_key() -> None:
    plain: dict[str, Any] = {"model": "m", "messages": []}
    keys = {key_of(call_of({**plain, **more})) for more in ({}, {"novel": 1}, {"novel": [1]}, {"novel_2": 1})}
    assert len(keys) == 4


def test_nothing_moves_from_one_part_of_a_request_into_the_next_one() -> None:
    keys = [
        cache_key(SECRET, "account:1", "ab", call_of({}, "c")),
        cache_key(SECRET, "account:1a", "b", call_of({}, "c")),
        cache_key(SECRET, "account:1", "a", call_of({}, "bc")),
        cache_key(SECRET, "account:1", "ab", call_of({}, "", "c")),
        cache_key(SECRET, "account:1", "ab", call_of({}, "c"), content=b"{}"),
        cache_key(SECRET, "account:1", "ab", call_of({}, "c"), headers=[("a", "b")]),
        cache_key(SECRET, "account:1", "ab", call_of({}, "c"), headers=[("ab", "")]),
        cache_key(SECRET, "account:1", "ab", call_of({}, "c"), headers=[("a", "b"), ("", "")]),
        cache_key(SECRET, "account:1", "ab", call_of({}, "c"), headers=[("a", "b"), ("a", "c")]),
        cache_key(SECRET, "account:1", "ab", call_of({}, "c"), headers=[("a", "c"), ("a", "b")]),
        cache_key(SECRET, "account:1", "ab", call_of({}, "c"), without=DELIVERY),
    ]
    assert len(set(keys)) == len(keys)


def test_another_secret_gives_another_key() -> None:
    call = call_of({})
    assert cache_key(SECRET, "account:1", "a", call) != cache_key(bytes(32), "account:1", "a", call)
    assert len(cache_key(SECRET, "account:1", "a", call)) == KEY_BYTES


def test_what_only_the_gateway_reads_does_not_change_the_key() -> None:
    values = arguments_of('{"model":"m"}')
    plain = Call("1.x", "native", "v1/embeddings", "POST", values)
    other = Call(
        "2.y", "custom", "v1/embeddings", "POST", values, "", "xml", "cn", None, True, True, 2, True, "192.0.2.1"
    )
    assert key_of(plain) == key_of(other)


def test_the_name_of_a_header_is_read_in_any_case_and_its_value_is_not() -> None:
    call = call_of({})
    assert key_of(call, headers=[("OpenAI-Beta", "a")]) == key_of(call, headers=[("openai-beta", "a")])
    assert key_of(call, headers=[("OpenAI-Beta", "a")]) != key_of(call, headers=[("OpenAI-Beta", "A")])


def test_streamed_and_whole_answers_of_a_request_share_a_key_where_delivery_is_left_out() -> None:
    plain = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    asked: list[dict[str, Any]] = [
        {},
        {"stream": True},
        {"stream": False},
        {"stream": True, "stream_options": {"include_usage": True}},
    ]
    calls = [call_of({**plain, **more}) for more in asked]
    assert len({key_of(call, without=DELIVERY) for call in calls}) == 1
    assert len({key_of(call) for call in calls}) == len(calls)
    inner = call_of({**plain, "metadata": {"stream": True}})
    assert key_of(inner, without=DELIVERY) != key_of(calls[0], without=DELIVERY)


# how a request is written


def test_white_space_the_order_of_members_and_escapes_do_not_matter() -> None:
    assert encoded(b'{"b":[1,{"d":2,"c":"\xe9\x9b\xa8"}],"a":"/"}') == encoded(
        '\t{ "a" : "\\/",\r\n "\\u0062" : [ 1 , { "c" : "\\u96e8" , "d" : 2 } ] } \n'
    )


def test_the_order_of_a_list_matters() -> None:
    assert encoded('{"a":[1,2]}') != encoded('{"a":[2,1]}')


@pytest.mark.parametrize("spellings", [
    ("1", "1.0", "1e0", "10e-1", "0.1e1", "1.00000000000000000000", "1E+0", "0.00000000000000000001e20"),
    ("-2.5", "-25e-1", "-0.25E1", "-2.50"),
    ("100000000000000000000", "1e20", "1E20", "100000000000000000000.0", "0.1e21"),
    ("9007199254740993", "9007199254740993.0", "9007199254740993e0", "900719925474099.3e1"),
    ("0", "0.0", "0e5", "0E-5", "0.000", "0e99999999999999999999"),
    ("-0", "-0.0", "-0e5", "-0.000"),
    ("1e-5", "0.00001", "10e-6", "1e-000005"),
    ("1" + "0" * 308, "1e308", "1.0e308"),
])  # fmt: skip
def test_numbers_are_taken_by_their_value(spellings: tuple[str, ...]) -> None:
    for place in ('{"a":%s}', '{"a":[%s]}', '{"a":{"b":[true,%s ]}}', '{"a":%s\n,"b":"-0 "}'):
        assert len({encoded(place % spelling) for spelling in spellings}) == 1


ALIKE = r"""
null false true 0 -0 1 -1 "" "0" "1" "-1" "null" "true" [] {} [[]] [{}] [null] [0] [false] [""] ["[]"]
{"":null} {"":{}} {"a":null} {"b":null} {"a":null,"b":null} {"a":0} {"a":false} {"a":[]} {"A":null}
[1,2] [12] [[1],2] [1,[2]] ["1","2"] ["1,2"] ["1\",\"2"] "\u00e9" "e\u0301" "\u0000" "\\u0000" "a" "A" "a\u0020"
9007199254740992 9007199254740993 9007199254740994 -9223372036854775808 -9223372036854775809
18446744073709551615 18446744073709551616 18446744073709551617 1e22 10000000000000000000001
0.1 0.10000000000000001 0.1000000000000000055 1.0000000000000000001 0.99999999999
1e-400 1e-401 -1e-400 1e-40000000000 5e-324 3e-324 1e-99999999999999999999 1e-99999999999999999998
"""


def test_values_that_are_alike_are_told_apart() -> None:
    encodings = {encoded(f'{{"a":{text}}}') for text in ALIKE.split()}
    assert len(ALIKE.split()) > 60
    assert len(encodings) == len(ALIKE.split())
    assert encoded("{}") not in encodings


@pytest.mark.parametrize("text", ['{"a":"x-0 y"}', '{"date":"2024-01-01","b":[-0.5, -0 ]}'])
def test_what_looks_like_a_minus_zero_changes_nothing_else(text: str) -> None:
    assert json.loads(encoded(text)) == json.loads(text)


def test_a_nesting_as_deep_as_is_read_has_a_key() -> None:
    text = '{"a":' + "[" * 249 + "-0 " + "]" * 249 + "}"
    assert encoded(text) == text.replace("-0 ", "-0.0").encode()


# against a comparison that is slow and plainly right


class Number:
    """A number by its exact value and the sign of a zero."""

    def __init__(self, text: str) -> None:
        self.value = Decimal(text) or Decimal(0)  # neither reading nor comparing rounds
        self.is_minus_zero = self.value == 0 and text.startswith("-")


def same(left: object, right: object) -> bool:
    """Whether two JSON values are equal, by types and values."""
    if isinstance(left, Number) and isinstance(right, Number):
        return left.value == right.value and left.is_minus_zero == right.is_minus_zero
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    return type(left) is type(right) and not isinstance(left, Number) and left == right


def slow_value(text: str) -> object:
    return json.loads(text, parse_int=Number, parse_float=Number)


def spellings_of(number: str) -> Iterator[str]:
    """The same number in other words."""
    yield number
    mantissa, mark, power = number.lower().partition("e")
    if not mark:
        yield f"{number}e0"
        yield f"{number}E+00"
    if "." in mantissa:
        yield f"{mantissa}000{mark}{power}"
    else:
        yield f"{mantissa}.00{mark}{power}"
        if mantissa not in {"0", "-0"}:
            yield f"{mantissa}0e{int(power or 0) - 1}"


NUMBERS = st.one_of(
    st.integers(-3, 3).map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.integers(2**53 - 2, 2**53 + 3).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "0.0", "1.0", "1e22", "1e-400", "2e-400", "0e-9999999999"]),
)
STRINGS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["", "a", "-0 ", "-0,", "1", "1.0", "null", '","', "\\", '\\"', "[", "]"]),
)


def written(draw: st.DrawFn, depth: int) -> str:
    """A JSON text of a value that is drawn, in a spelling that is drawn."""
    gap = draw(st.sampled_from(["", "", " ", "\n\t"]))
    kind = draw(st.sampled_from(("word", "number", "string", "list", "object")[: 5 if depth else 3]))
    if kind == "word":
        return draw(st.sampled_from(("null", "true", "false"))) + gap
    if kind == "number":
        return draw(st.sampled_from(list(spellings_of(draw(NUMBERS))))) + gap
    if kind == "string":
        return json.dumps(draw(STRINGS), ensure_ascii=draw(st.booleans())) + gap
    if kind == "list":
        items = [written(draw, depth - 1) for _ in range(draw(st.integers(0, 3)))]
        return f"[{gap}{','.join(items)}]{gap}"
    return written_object(draw, depth, gap)


def written_object(draw: st.DrawFn, depth: int, gap: str = "") -> str:
    names = draw(st.lists(STRINGS, max_size=3, unique=True))
    members = [f"{json.dumps(name)}{gap}:{gap}{written(draw, depth - 1)}" for name in names]
    return f"{{{gap}{f'{gap},'.join(members)}}}{gap}"


@st.composite
def objects(draw: st.DrawFn) -> str:
    return written_object(draw, 3)


def rewritten(draw: st.DrawFn, value: object) -> str:
    """An equal value, written otherwise."""
    if isinstance(value, dict):
        members = draw(st.permutations(list(value.items())))
        return "{" + " ,".join(f"{json.dumps(name)}: {rewritten(draw, inner)}" for name, inner in members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(rewritten(draw, inner) for inner in value) + "]"
    if isinstance(value, Number):
        text = "-0" if value.is_minus_zero else str(value.value)
        return draw(st.sampled_from(list(spellings_of(text))))
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@given(objects(), st.data())
def test_equal_values_always_share_an_encoding(text: str, data: st.DataObject) -> None:
    again = data.draw(st.composite(rewritten)(slow_value(text)))
    assert same(slow_value(text), slow_value(again))
    if "9999999999" not in text:  # its exponent stays as it is written
        assert encoded(text) == encoded(again)


@given(objects())
def test_an_encoding_is_read_back_as_the_same_value(text: str) -> None:
    assert same(slow_value(encoded(text).decode()), slow_value(text))


@given(st.lists(objects(), min_size=2, max_size=12))
def test_two_values_share_an_encoding_only_if_they_are_equal(texts: list[str]) -> None:
    for left, right in combinations(texts, 2):
        if encoded(left) == encoded(right):
            assert same(slow_value(left), slow_value(right))


@given(NUMBERS, NUMBERS)
def test_two_numbers_share_an_encoding_only_if_they_are_equal(left: str, right: str) -> None:
    alike = same(slow_value(left), slow_value(right))
    assert (encoded(f'{{"a":{left}}}') == encoded(f'{{"a":{right}}}')) == alike


# its cost


def test_a_key_costs_microseconds() -> None:
    turn = {"role": "user", "content": "The history of tea is long, and begins in the south-west of China. " * 6}
    for turns, limit_us in ((4, 15 * 4), (240, 400 * 4)):  # on a machine that may be four times as slow
        call = call_of({"model": "gpt-4o-mini", "temperature": 0.7, "top_p": 1.0, "messages": [turn] * turns})
        best_s = float("inf")
        for _ in range(20):
            started = perf_counter()
            for _ in range(20):
                key_of(call, without=DELIVERY)
            best_s = min(best_s, (perf_counter() - started) / 20)
        print(f"{len(call.arguments.text)} bytes: {best_s * 1e6:.1f} us")
        assert best_s * 1e6 < limit_us
