"""`result_type=json` is the document as it came, in pure ASCII."""

from __future__ import annotations

import json

import pytest
from gateway_plugins.json import render
from hypothesis import given

from gateway.types import Document, RenderingRefused

from .documents import documents
from .php import Vector, decoded_vectors


@given(documents(lone_surrogates=True))
def test_is_ascii_and_says_the_same(text: bytes) -> None:
    rendering = render(Document(text))
    assert rendering.isascii()
    assert json.loads(rendering) == json.loads(text)


def test_ascii_text_is_the_very_same_object() -> None:
    text = b'{ "a":1.50, "b" : "\\u4e2d\\/" }\n'
    assert render(Document(text)) is text


def test_only_characters_beyond_ascii_change() -> None:
    text = '{"中é": 1.50,\r\n "b" : "a\\u4E2D\\/ÿĀ\U0001f600\x7f\uffff"}'
    expected = r'{"\u4e2d\u00e9": 1.50,' + "\r\n" + r' "b" : "a\u4E2D\/\u00ff\u0100\ud83d\ude00' + '\x7f\\uffff"}'
    assert render(Document(text.encode())) == expected.encode()


@pytest.mark.parametrize("vector", decoded_vectors(), ids=lambda vector: vector.id)
def test_says_what_php_read(vector: Vector) -> None:
    php = vector.fields["php_json_obj"]
    if php is not None:  # PHP's encoder refuses infinity, and its decoder an object's key that begins with NUL
        rendering = render(Document(vector.text))
        assert json.loads(rendering, parse_int=float) == json.loads(php, parse_int=float)  # PHP drops the .0 of a float


def test_escapes_that_pass_the_limit_are_refused() -> None:
    with pytest.raises(RenderingRefused, match="larger than 7 bytes"):
        render(Document('"中"'.encode(), limit_bytes=7))
