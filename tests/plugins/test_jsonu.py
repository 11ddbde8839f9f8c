"""`result_type=jsonu` is the document as it came, with every letter readable."""

from __future__ import annotations

import json
import re

import pytest
from gateway_plugins import json as json_plugin
from gateway_plugins.jsonu import render
from hypothesis import given

from gateway.types import Document

from .documents import documents
from .php import Vector, decoded_vectors


@given(documents(lone_surrogates=True))
def test_says_the_same_and_escapes_only_what_must_be(text: bytes) -> None:
    rendering = render(Document(text)).decode()
    assert json.loads(rendering) == json.loads(text)
    for escape in re.findall(r"\\(?:u....|.)", rendering):
        if escape.startswith("\\u"):
            character = json.loads(f'"{escape}"')
            assert character < " " or character in '"\\' or "\ud800" <= character <= "\udfff"
    assert len(rendering.encode()) <= len(text)


@given(documents())
def test_undoes_what_json_does(text: bytes) -> None:
    assert render(Document(json_plugin.render(Document(text)))) == render(Document(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'{ "\u4e2d\u6587" : 1.50 }', '{ "中文" : 1.50 }'),
        (r'"\ud83d\ude00 \uD83D\uDE00"', '"😀 😀"'),
        (r'"\\u4e2d \\\u4e2d \\\\u4e2d"', r'"\\u4e2d \\中 \\\\u4e2d"'),
        (r'"\u0022\u005c\u005C\u000a\u001F\n\"\/"', r'"\u0022\u005c\u005C\u000a\u001F\n\"\/"'),
        (r'"\u005c\u4e2d\u005cu4e2d"', r'"\u005c中\u005cu4e2d"'),
        (r'"\ud83d\u4e2d\ude00\ud83d\ud83d\ude00"', r'"\ud83d中\ude00\ud83d😀"'),
        (r'"\u0020\u007f\u0085\u2028\ufeff\ufffe\udbff\udfff"', '" \x7f\x85\u2028\ufeff\ufffe\U0010ffff"'),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert render(Document(text.encode())) == expected.encode()


def test_a_long_run_of_escapes_is_said_in_full() -> None:
    assert render(Document(b'"%b"' % (rb"\ud83d\ude00" * 1000))).decode() == f'"{"😀" * 1000}"'


def test_text_without_such_escapes_is_the_very_same_object() -> None:
    text = '{"a": "中\\n"}'.encode()
    assert render(Document(text)) is text


@pytest.mark.parametrize("vector", decoded_vectors(), ids=lambda vector: vector.id)
def test_says_what_came_for_every_vector(vector: Vector) -> None:
    assert json.loads(render(Document(vector.text))) == json.loads(vector.text)
