"""`result_type=var_export` is PHP's var_export(), byte for byte."""

from __future__ import annotations

import tracemalloc

import pytest
from gateway_plugins.var_export import render, render_event
from hypothesis import given

from gateway.types import MAX_DEPTH, Document, RenderingRefused

from .documents import documents
from .php import Php, Vector, decoded_vectors, lone_surrogate_vectors


@pytest.mark.parametrize("vector", decoded_vectors(), ids=lambda vector: vector.id)
def test_is_what_php_recorded(vector: Vector) -> None:
    assert vector.matches("var_export", render(Document(vector.text)))


@given(text=documents())
def test_is_what_php_says_now(php: Php, text: bytes) -> None:
    assert render(Document(text)) == php.var_export(text)


@given(text=documents())
def test_php_evaluates_it_to_the_same_value(php: Php, text: bytes) -> None:
    assert php.evaluate(render(Document(text))) == php.serialize(text)


@given(text=documents())
def test_an_event_has_no_carriage_return_and_evaluates_to_the_same_value(php: Php, text: bytes) -> None:
    event = render_event(Document(text))
    assert b"\r" not in event
    assert php.evaluate(event) == php.serialize(text)


def test_an_event_writes_a_carriage_return_in_double_quotes() -> None:
    document = Document(rb'{"a\r": "\\r\r\u0000"}')
    expected = r"""'a' . "\r" . '' => '\\r' . "\r" . '' . "\0" . '',"""
    assert render_event(document).decode() == f"array (\n  {expected}\n)"


@pytest.mark.parametrize("vector", lone_surrogate_vectors(), ids=lambda vector: vector.id)
def test_a_lone_surrogate_becomes_a_replacement_character(vector: Vector) -> None:
    assert "\ufffd" in render(Document(vector.text)).decode()


def test_deep_indentation_stops_at_the_limit_in_bounded_memory() -> None:
    """Some 400 KB in, which would be 100 MB out."""
    deep = MAX_DEPTH - 1
    document = Document(b"[" * deep + b"[" + b"1," * 200_000 + b"1]" + b"]" * deep, limit_bytes=1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(RenderingRefused, match="larger than 1000000 bytes"):
            render(document)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [600, 1000, 100_000])
def test_too_deep_is_refused(depth: int) -> None:
    with pytest.raises(RenderingRefused, match="too deep"):
        render(Document(b'{"a":[' * depth + b"]}" * depth))
