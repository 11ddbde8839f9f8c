"""The stand-by for `xml` gives what dicttoxml gives, and refuses what that is not XML."""

from __future__ import annotations

import logging
import sys

import pytest
from gateway_plugins.xml_dicttoxml import gateway_formatters
from hypothesis import given, settings
from lxml import etree  # type: ignore[import-untyped]  # ships no types

from gateway.hookspecs import FormatterSpec
from gateway.types import Document, RenderingRefused

from .documents import documents
from .php import decoded_vectors


@pytest.fixture(scope="module")
def formatter() -> FormatterSpec:
    pytest.importorskip("dicttoxml", reason="dicttoxml is not installed")
    (spec,) = gateway_formatters()
    return spec


def test_stands_by(formatter: FormatterSpec) -> None:
    assert (formatter.name, formatter.standby) == ("xml", True)


def test_gives_what_the_library_gives(formatter: FormatterSpec) -> None:
    document = Document(b'{"a b": [1, true, null], "2": {"c": "<&>"}, "d": false}')
    assert formatter.render(document) == (
        b'<?xml version="1.0" encoding="UTF-8" ?><root><a_b><item>1</item><item>True</item><item></item></a_b>'
        b"<n2><c>&lt;&amp;&gt;</c></n2><d>false</d></root>"
    )


def test_renders_most_vectors_and_refuses_the_others(formatter: FormatterSpec) -> None:
    refused = set()
    for vector in decoded_vectors():
        try:
            rendering = formatter.render(Document(vector.text))
        except RenderingRefused:
            refused.add(vector.id)
        else:
            if vector.id != "nest/list_258":  # deeper than libxml reads
                assert etree.fromstring(rendering).tag == "root"
    unsayable = {"key/control", "key/nul", "string/boundaries", "string/controls_each", "string/escape_forms"}
    unsayable |= {"string/long_quotes", "string/nonchar", "string/tabs"}
    bad_names = {"key/unicode", "key/unicode_digits_nested"}  # the library writes <n²>, which is no name
    assert refused == {"float/overflow", *unsayable, *bad_names}


@settings(max_examples=30)
@given(text=documents(lone_surrogates=True))
def test_whatever_it_renders_is_well_formed(formatter: FormatterSpec, text: bytes) -> None:
    try:
        rendering = formatter.render(Document(text))
    except RenderingRefused:
        return
    assert etree.fromstring(rendering).tag == "root"


def test_an_event_has_no_carriage_return_and_says_the_same(formatter: FormatterSpec) -> None:
    assert formatter.render_event is not None
    assert etree.fromstring(formatter.render_event(Document(rb'{"a": "\r\n"}')))[0].text == "\r\n"


def test_payloads_are_not_logged(formatter: FormatterSpec, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        formatter.render(Document(b'{"a": "a canary"}'))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (Document(rb'"\u0000"'), "cannot say this in XML"),
        (Document(rb'"\ud800"'), "cannot say this in XML"),
        (Document(b"[" * 1000 + b"]" * 1000), "too deep"),
        (Document(b"[1,2]", limit_bytes=50), "larger than 50 bytes"),
        (Document(b'"' + b"a" * 1024 * 1024 + b'"'), "documents up to 1048576 bytes"),
    ],
    ids=["control character", "lone surrogate", "depth", "limit", "size"],
)
def test_refuses(formatter: FormatterSpec, document: Document, reason: str) -> None:
    with pytest.raises(RenderingRefused, match=reason):
        formatter.render(document)


def test_offers_nothing_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dicttoxml", None)
    assert gateway_formatters() == []
