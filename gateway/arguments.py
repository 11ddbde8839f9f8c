"""Changing a call's arguments where that has to be: what the client wrote stays as it is, spacing and spellings too."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import orjson

from gateway.types import NO_ARGUMENTS, Arguments, JsonValue


def with_members(arguments: Arguments, members: Mapping[str, bytes], values: Mapping[str, JsonValue]) -> Arguments:
    """Arguments with members added in front; the text that the client wrote stays as it is.

    `members` are JSON texts, none of a name that the arguments have; `values` are the same, parsed.
    """
    if not members:
        return arguments
    added = b",".join(orjson.dumps(name) + b":" + text for name, text in members.items())
    rest = arguments.text.strip(b" \t\r\n")[1:]
    text = b"{" + added + (b"," if arguments.values else b"") + rest
    return Arguments(text, {**values, **arguments.values})


def without_members(arguments: Arguments, names: frozenset[str]) -> Arguments:
    """Arguments without the members of these names; the others' texts stay as they are."""
    if names.isdisjoint(arguments.values):
        return arguments
    kept = members_of(arguments, names)
    return with_members(NO_ARGUMENTS, kept, {name: arguments.values[name] for name in kept})


def members_of(arguments: Arguments, taken: Collection[str]) -> dict[str, bytes]:
    """The members as JSON texts, without those whose names are taken."""
    if not arguments.values:
        return {}
    members = msgspec.json.decode(arguments.text, type=dict[str, msgspec.Raw])
    return {name: bytes(text) for name, text in members.items() if name not in taken}
