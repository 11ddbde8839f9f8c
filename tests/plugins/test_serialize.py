"""`result_type=serialize` is PHP's serialize(), byte for byte."""

from __future__ import annotations

import json
import re

import phpserialize  # type: ignore[import-untyped]  # ships no types
import pytest
from gateway_plugins.serialize import render, render_event
from hypothesis import given

from gateway.types import Document, RenderingRefused

from .documents import documents
from .php import Php, Vector, decoded_vectors, lone_surrogate_vectors


@pytest.mark.parametrize("vector", decoded_vectors(), ids=lambda vector: vector.id)
def test_is_what_php_recorded(vector: Vector) -> None:
    assert vector.matches("serialize", render(Document(vector.text)))


@given(text=documents())
def test_is_what_php_says_now(php: Php, text: bytes) -> None:
    assert render(Document(text)) == php.serialize(text)


@given(text=documents())
def test_an_event_has_no_carriage_return_and_php_reads_the_same_value(php: Php, text: bytes) -> None:
    event = render_event(Document(text))
    assert b"\r" not in event
    assert php.unserialize(event) == render(Document(text))


@given(documents())
def test_an_independent_reader_reads_it_back(text: bytes) -> None:
    rendering = render(Document(text))
    assert phpserialize.loads(rendering, decode_strings=True) == _as_php(json.loads(text))


def test_an_event_differs_only_in_the_strings_with_a_carriage_return() -> None:
    document = Document(rb'{"a\r": "\\\r\n", "\\": "\\"}')
    assert render_event(document) == b'a:2:{S:2:"a\\0d";S:3:"\\5c\\0d\n";s:1:"\\";s:1:"\\";}'


@pytest.mark.parametrize("vector", lone_surrogate_vectors(), ids=lambda vector: vector.id)
def test_a_lone_surrogate_becomes_a_replacement_character(vector: Vector) -> None:
    assert "\ufffd" in render(Document(vector.text)).decode()


def test_keys_that_differ_in_a_lone_surrogate_become_one() -> None:
    document = Document(rb'{"\ud800": 1, "b": 1e999, "\udc00": "\\ud800\ud83d\ude00"}')
    assert render(document) == 'a:2:{s:3:"\ufffd";s:10:"\\ud800😀";s:1:"b";d:INF;}'.encode()


def test_stops_at_the_limit() -> None:
    assert render(Document(b"[[],[]]", limit_bytes=30)) == b"a:2:{i:0;a:0:{}i:1;a:0:{}}"
    with pytest.raises(RenderingRefused, match="larger than 25 bytes"):
        render(Document(b"[[],[]]", limit_bytes=25))


@pytest.mark.parametrize("depth", [600, 1000, 100_000])
def test_too_deep_is_refused(depth: int) -> None:
    with pytest.raises(RenderingRefused, match="too deep"):
        render(Document(b'{"a":[' * depth + b"]}" * depth))


def _as_php(value: object) -> object:
    if isinstance(value, list):
        return {index: _as_php(item) for index, item in enumerate(value)}
    if isinstance(value, dict):
        return {_key(key): _as_php(item) for key, item in value.items()}
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


def _key(key: str) -> int | str:
    canonical = re.fullmatch("-?[0-9]+", key) and str(int(key)) == key and -(2**63) <= int(key) < 2**63
    return int(key) if canonical else key
