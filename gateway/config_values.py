"""Texts and TOML values become typed keys, and a value that cannot be becomes a fault that helps.

Knows msgspec and the types of keys, but none of the configuration's sections.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec

_EXAMPLES = {"numbers": '"a" = 1.5', "texts": '"a" = "b"', "lists of texts": '"a" = ["b", "c"]'}
SectionType = TypeVar("SectionType", bound=msgspec.Struct)


@dataclass(frozen=True)
class Source:
    """Where values come from, the file or the environment variable that won over it, and what is wrong with them."""

    file: Path | None
    variables: dict[str, str] = field(default_factory=dict)  # dotted key -> environment variable
    faults: dict[str, list[str]] = field(default_factory=dict)  # dotted key -> lines that name where, key and reason

    def fault(self, key: str, reason: str) -> None:
        where = self.variables.get(key) or (self.file and str(self.file)) or "configuration"
        self.faults.setdefault(key, []).append(f"{where}: {key}: {reason}")

    def path(self, text: str) -> str:
        """A path as the settings hold it: absolute; a relative one starts at the file, without one where we run."""
        return str((self.file.absolute().parent if self.file else Path.cwd()) / text) if text else ""


def key_types(section: type[msgspec.Struct]) -> dict[str, Any]:
    return {info.name: info.type for info in msgspec.structs.fields(section)}


def read_section(table: object, section: type[SectionType], name: str, source: Source) -> SectionType:
    """One table as its section, key by key; one with a fault has its default, so that the others are looked at too."""
    if not isinstance(table, dict):
        source.fault(name, f"expected a table, written [{name}]")
        return section()
    types = key_types(section)
    values = {}
    for key, value in table.items():
        dotted = f"{name}.{key}"
        if key not in types:
            source.fault(dotted, f"unknown key; {nearest(key, types)}")
            continue
        try:
            values[key] = msgspec.convert(value, types[key])
        except msgspec.ValidationError:
            source.fault(dotted, _expected(types[key], dotted, value))
    return section(**values)


def nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"


def _expected(type_: Any, key: str, found: object) -> str:
    secret = re.search(r"key|secret|token|password|pepper|url", key)
    shown = "" if secret or not isinstance(found, str | int | float) else f", found {str(found)[:80]!r}"
    return f"expected {_allowed(type_)}{shown}"


def _allowed(type_: Any) -> str:
    """What a key of this type takes, for a person."""
    origin = get_origin(type_)
    if origin is Literal:
        return "one of " + ", ".join(f'"{value}"' for value in get_args(type_))
    if origin is tuple:
        return "a list of texts"
    if origin is dict:
        item = get_args(type_)[1]
        of = "texts" if item is str else "numbers" if get_origin(item) is Annotated else "lists of texts"
        return f"a table of {of} such as {{{_EXAMPLES[of]}}}"
    if type_ is bool:
        return "true or false"
    if origin is not Annotated:
        return "a text"
    plain, meta = get_args(type_)
    if plain is str:
        return "a text that is not empty"
    low = f"above {meta.gt}" if meta.gt is not None else f"from {meta.ge}"
    return f"{'a whole number' if plain is int else 'a number'} {low}" + (f" to {meta.le}" if meta.le else "")


def from_text(text: str, type_: Any) -> Any:
    """A variable's text as its key's type: numbers as written, tuples as a,b,c, tables as JSON or TOML.

    One that cannot be stays text, which read_section() refuses like any other wrong value.
    """
    origin = get_origin(type_)
    if origin is tuple:
        return [item.strip() for item in text.split(",") if item.strip()]
    if origin is dict:
        try:
            return msgspec.json.decode(text, type=type_)
        except msgspec.DecodeError:
            pass
        try:
            return tomllib.loads(f"table = {text}")["table"]
        except (ValueError, RecursionError):
            return text
    try:
        return msgspec.convert(text, type_, strict=False)
    except msgspec.ValidationError:
        return text
