"""`result_type=xml` is a document that strict parsers read back to the same text and structure."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from gateway_plugins.xml import render
from hypothesis import given
from lxml import etree  # type: ignore[import-untyped]  # ships no types

from gateway.types import MAX_DEPTH, Document, RenderingRefused

from .documents import documents
from .php import Vector, decoded_vectors, lone_surrogate_vectors

PARSERS = pytest.mark.parametrize("parse", [etree.fromstring, ElementTree.fromstring], ids=["libxml", "expat"])
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


@PARSERS
@given(text=documents(lone_surrogates=True))
def test_reads_back(parse: Callable[[bytes], Any], text: bytes) -> None:
    root = parse(render(Document(text)))
    assert root.tag == "root"
    assert _read(root) == _expected(text)


@PARSERS
@pytest.mark.parametrize("vector", decoded_vectors() + lone_surrogate_vectors(), ids=lambda vector: vector.id)
def test_every_vector_of_bearable_depth_reads_back(parse: Callable[[bytes], Any], vector: Vector) -> None:
    if vector.id != "nest/list_258":  # deeper than the gateway renders, and than libxml reads
        assert _read(parse(render(Document(vector.text)))) == _expected(vector.text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id":7,"tags":["a",""]}', "<root><id>7</id><tags><item>a</item><item></item></tags></root>"),
        ("[1.50,-0,1E400,true,false]", "1.50 -0 1E400 true false"),
        ("12345678901234567890123", "<root>12345678901234567890123</root>"),
        ('{"n":null,"l":[],"o":{}}', '<root><n type="null"/><l type="list"/><o type="object"/></root>'),
        ('{"item":1}', '<root type="object"><item>1</item></root>'),
        ('{"item":1,"a":2}', "<root><item>1</item><a>2</a></root>"),
        (r'" \t\n\r<&>]]> "', "<root> \t\n&#13;&lt;&amp;&gt;]]&gt; </root>"),
        (r'"\u001b[0m中"', r'<root encoding="json">"\u001b[0m\u4e2d"</root>'),
        (r'{"a \"\n":1}', '<root><key name="a &quot;&#10;">1</key></root>'),
        (r'{"\u0000":null}', r'<root><key name="&quot;\u0000&quot;" name-encoding="json" type="null"/></root>'),
        ('{"键":1,"xmlns":2,"a:b":3}', '<root><键>1</键><key name="xmlns">2</key><key name="a:b">3</key></root>'),
    ],
)
def test_examples(text: str, expected: str) -> None:
    if not expected.startswith("<"):
        expected = "<root>" + "".join(f"<item>{item}</item>" for item in expected.split()) + "</root>"
    assert render(Document(text.encode())).decode() == DECLARATION + expected


@PARSERS
def test_the_deepest_nesting_that_is_rendered_reads_back(parse: Callable[[bytes], Any]) -> None:
    text = b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH
    assert _read(parse(render(Document(text)))) == _expected(text)


@PARSERS
def test_a_very_long_key_reads_back(parse: Callable[[bytes], Any]) -> None:
    text = b'{"%b": 1}' % (b"k" * 100_000)
    assert _read(parse(render(Document(text)))) == _expected(text)


def test_stops_at_the_limit() -> None:
    document = Document(b"[" + b"[]," * 100_000 + b"[]]", limit_bytes=1_000_000)
    with pytest.raises(RenderingRefused, match="larger than 1000000 bytes"):
        render(document)


@pytest.mark.parametrize("depth", [600, 1000, 100_000])
def test_too_deep_is_refused(depth: int) -> None:
    with pytest.raises(RenderingRefused, match="too deep"):
        render(Document(b'{"a":[' * depth + b"]}" * depth))


def _read(element: Any) -> object:
    """What the plugin's documentation lets a client understand of an element."""
    kind, children = element.get("type"), list(element)
    if kind == "null":
        return None
    if kind == "list" or (kind is None and children and all(child.tag == "item" for child in children)):
        return [_read(child) for child in children]
    if kind == "object" or children:
        return {_key(child): _read(child) for child in children}
    text = element.text or ""
    return json.loads(text) if element.get("encoding") == "json" else text


def _key(element: Any) -> object:
    name = element.get("name")
    if name is None:
        return element.tag
    return json.loads(name) if element.get("name-encoding") == "json" else name


def _expected(text: bytes) -> object:
    """The document with numbers and booleans as text, which is all that XML says of them."""

    def as_text(value: object) -> object:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, list):
            return [as_text(item) for item in value]
        return {key: as_text(item) for key, item in value.items()} if isinstance(value, dict) else value

    return as_text(json.loads(text, parse_int=str, parse_float=str))
