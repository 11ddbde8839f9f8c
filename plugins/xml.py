"""`result_type=xml`: a document that every strict parser reads back, plain enough for SimpleXML.

    {"id": 7, "tags": ["a", ""], "none": null, "a b": {}}
    <root><id>7</id><tags><item>a</item><item></item></tags><none type="null"/><key name="a b" type="object"/></root>

- The root element is `root`, an object's members are elements named for their keys, a list's are `item`. Strings,
  numbers, `true` and `false` are text; a number keeps the author's spelling.
- `type` stands only where the text would leave it open: `null`, an empty `list`, an empty `object`, and an `object`
  whose only key is `item`.
- A key that is no plain name becomes `<key name="…">`. A plain name is ASCII letters, Chinese characters (U+4E00 to
  U+9FA5), `_`, and further on digits, `.` and `-`; at most 1,000 characters, not beginning with the reserved `xml`.
  Expat's idea of a name is older than libxml's: this is what they share.
- XML cannot say most control characters, U+FFFE, U+FFFF and lone surrogates at all. A string that holds one is written
  as a JSON string, quotes included, in an element with `encoding="json"`; such a key's name has `name-encoding="json"`.

libxml reads a string above ten million bytes only with its option for huge documents.
"""

from __future__ import annotations

import json
import re

from gateway.hookspecs import FormatterSpec, hookimpl
from gateway.types import Document, JsonValue

from ._output import Output, refuses_deep_nesting

_NAME = re.compile(r"(?![xX][mM][lL])[A-Za-z_一-龥][A-Za-z0-9_.一-龥-]{0,999}")
_UNSAYABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)  # keeps spellings, and is faster than float and back


@hookimpl
def gateway_formatters() -> list[FormatterSpec]:
    return [FormatterSpec("xml", "application/xml; charset=utf-8", render)]


@refuses_deep_nesting
def render(document: Document) -> bytes:
    output = Output(document.limit_bytes)
    output.write('<?xml version="1.0" encoding="UTF-8"?>\n')
    _write("root", "", _DECODER.decode(document.text.decode()), output)
    return output.finish()


def _write(tag: str, attributes: str, value: JsonValue, output: Output) -> None:
    """Writes one element; `attributes` are ready for the start tag."""
    if isinstance(value, str):
        if _UNSAYABLE.search(value):
            attributes += ' encoding="json"'
            value = json.dumps(value)
        output.write(f"<{tag}{attributes}>{_text(value)}</{tag}>")
    elif isinstance(value, bool):
        output.write(f"<{tag}{attributes}>{'true' if value else 'false'}</{tag}>")
    elif not isinstance(value, (list, dict)):
        output.write(f'<{tag}{attributes} type="null"/>')
    elif not value:
        output.write(f'<{tag}{attributes} type="{"list" if isinstance(value, list) else "object"}"/>')
    else:
        if isinstance(value, dict) and value.keys() == {"item"}:
            attributes += ' type="object"'
        output.write(f"<{tag}{attributes}>")
        _write_children(value, output)
        output.write(f"</{tag}>")


def _write_children(value: list[JsonValue] | dict[str, JsonValue], output: Output) -> None:
    if isinstance(value, list):
        for item in value:
            _write("item", "", item, output)
            output.check()
    else:
        for key, item in value.items():
            if _NAME.fullmatch(key):
                _write(key, "", item, output)
            else:
                _write("key", _name_attribute(key), item, output)
            output.check()


def _name_attribute(key: str) -> str:
    encoding = ""
    if _UNSAYABLE.search(key):
        key, encoding = json.dumps(key), ' name-encoding="json"'
    # A parser turns white space in an attribute into spaces, unless it is written as a reference.
    name = _text(key).replace('"', "&quot;").replace("\t", "&#9;").replace("\n", "&#10;")
    return f' name="{name}"{encoding}'


def _text(text: str) -> str:
    # A parser reads a bare carriage return as a line feed, and "]]>" may not stand in a text.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
