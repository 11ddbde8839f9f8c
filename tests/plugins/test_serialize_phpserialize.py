"""The stand-by for `serialize` gives what phpserialize gives, which PHP reads to the same values."""

from __future__ import annotations

import json

import pytest
from gateway_plugins.serialize_phpserialize import gateway_formatters, render
from hypothesis import assume, given

from gateway.types import Document, RenderingRefused

from .documents import documents
from .php import Php, decoded_vectors


def test_stands_by() -> None:
    (spec,) = gateway_formatters()
    assert (spec.name, spec.standby) == ("serialize", True)


def test_gives_what_the_library_gives() -> None:
    document = Document(b'{"0": [1.0, 1e25, -0.0], "a": true}')
    assert render(document) == b'a:2:{s:1:"0";a:3:{i:0;d:1.0;i:1;d:1e+25;i:2;d:-0.0;}s:1:"a";b:1;}'


def test_renders_every_vector_but_infinity_and_the_same_as_php_in_strings() -> None:
    refused = set()
    for vector in decoded_vectors():
        try:
            rendering = render(Document(vector.text))
        except RenderingRefused:
            refused.add(vector.id)
        else:
            if vector.id.startswith(("string/", "empty/")):
                assert vector.matches("serialize", rendering)
    assert refused == {"float/overflow"}


@given(text=documents())
def test_php_reads_it_to_the_same_value(php: Php, text: bytes) -> None:
    integers: list[int] = []
    json.loads(text, parse_int=lambda digits: integers.append(int(digits)))
    assume(all(-(2**63) <= integer < 2**63 for integer in integers))
    assert php.unserialize(render(Document(text))) == php.serialize(text)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (Document(rb'"\ud800"'), "cannot say this"),
        (Document(b"1e999"), "cannot say this"),
        (Document(b"[" * 1000 + b"]" * 1000), "too deep"),
        (Document(b"[1,2]", limit_bytes=20), "larger than 20 bytes"),
    ],
    ids=["lone surrogate", "infinity", "depth", "limit"],
)
def test_refuses(document: Document, reason: str) -> None:
    with pytest.raises(RenderingRefused, match=reason):
        render(document)
