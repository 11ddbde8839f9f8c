"""How the pieces of a JSON value that come one after another add up to the whole: each kind of member by its own rule.

Knows JSON, and nothing of streams or of what the members mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from gateway.types import JsonValue


class Untellable(ValueError):  # noqa: N818  # a finding about the pieces, not a fault of ours
    """What the pieces add up to cannot be told for certain."""


class Part(Protocol):
    """What the pieces say of one member. Null says nothing; it is the whole where nothing else was said.

    Raises Untellable, in adding or when asked for the whole.
    """

    def add(self, value: JsonValue, /) -> None: ...

    @property
    def whole(self) -> JsonValue: ...


Rule: TypeAlias = Callable[[], Part]
Rules: TypeAlias = Mapping[str, Rule]


class Value:
    """A value that comes whole; null and "" give way to any other.

    With `repeats` it may come again, always the same; without, a second one might be a second piece of it.
    """

    __slots__ = ("_kind", "_repeats", "whole")

    def __init__(self, kind: type | None = None, *, repeats: bool = False) -> None:
        self._kind = kind
        self._repeats = repeats
        self.whole: JsonValue = None

    def add(self, value: JsonValue) -> None:
        if value is None or (self._repeats and value == self.whole):
            return
        _check_kind(value, self._kind)
        if self.whole is None or self.whole == "":
            self.whole = value
        elif value != "":
            raise Untellable("a member has two values")


class First:
    """The first number but 0: some upstreams date every chunk anew."""

    __slots__ = ("whole",)

    def __init__(self) -> None:
        self.whole: JsonValue = None

    def add(self, value: JsonValue) -> None:
        _check_kind(value, int)
        self.whole = self.whole or value


class Last:
    """The last value but null, such as the usage of a stream that tells it so far in every chunk."""

    __slots__ = ("_kind", "whole")

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self.whole: JsonValue = None

    def add(self, value: JsonValue) -> None:
        if value is not None:
            _check_kind(value, self._kind)
            self.whole = value


class Text:
    """A string that comes in pieces."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def add(self, value: JsonValue) -> None:
        if isinstance(value, str):
            self._pieces.append(value)
        elif value is not None:
            raise Untellable("a piece of text is no string")

    @property
    def whole(self) -> JsonValue:
        return "".join(self._pieces) if self._pieces else None


class Base64(Text):
    """Base64 in pieces. Padding within it means that they were encoded one by one: joined they would be no base64."""

    __slots__ = ()

    @property
    def whole(self) -> JsonValue:
        text = super().whole
        if isinstance(text, str) and "=" in text.rstrip("="):
            raise Untellable("pieces of base64 are padded")
        return text


class Items:
    """A list that comes in pieces."""

    __slots__ = ("whole",)

    def __init__(self) -> None:
        self.whole: list[JsonValue] | None = None

    def add(self, value: JsonValue) -> None:
        if value is not None:
            self.whole = self.whole or []
            self.whole += _list(value)


class Column(Items):
    """A list beside others, with an item for each of theirs: null in some chunks only would put it out of step."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        super().__init__()
        self._seen = False

    def add(self, value: JsonValue) -> None:
        if self._seen and (value is None) != (self.whole is None):
            raise Untellable("a list of logprobs has gaps")
        self._seen = True
        super().add(value)


class Record:
    """An object whose members come in pieces, by a rule for each name; `others` is the rule for all other names.

    The members of the whole stand in the rules' order, then in that of their coming.
    """

    __slots__ = ("_others", "_parts", "_rules")

    def __init__(self, rules: Rules, others: Rule = Value) -> None:
        self._rules = rules
        self._others = others
        self._parts: dict[str, Part] | None = None

    def add(self, value: JsonValue) -> None:
        if value is None:
            return
        if not isinstance(value, dict):
            raise Untellable("a member is no object")
        parts = self._parts
        if parts is None:
            parts = self._parts = {}
        for name, member in value.items():
            part = parts.get(name)
            if part is None:
                part = parts[name] = self._rules.get(name, self._others)()
            part.add(member)

    @property
    def whole(self) -> dict[str, JsonValue] | None:
        parts = self._parts
        if parts is None:
            return None
        names = [name for name in self._rules if name in parts] + [name for name in parts if name not in self._rules]
        return {name: parts[name].whole for name in names}


class Indexed:
    """A list of records, each told in pieces that say its index; `needed` is the member that every piece has."""

    __slots__ = ("_needed", "_records", "_rules")

    def __init__(self, rules: Rules, needed: str = "index") -> None:
        self._rules = rules
        self._needed = needed
        self._records: dict[int, Record] | None = None

    def add(self, value: JsonValue) -> None:
        if value is None:
            return
        if self._records is None:
            self._records = {}
        for piece in _list(value):
            if not isinstance(piece, dict) or piece.get(self._needed) is None:
                raise Untellable("a piece of a list's item does not say enough")
            index = piece.get("index")
            if type(index) is not int or index < 0:
                raise Untellable("a piece of a list's item does not say where it belongs")
            record = self._records.get(index)
            if record is None:
                record = self._records[index] = Record(self._rules)
            record.add(piece)

    @property
    def whole(self) -> list[JsonValue] | None:
        return None if self._records is None else [self._records[index].whole for index in sorted(self._records)]


def _check_kind(value: JsonValue, kind: type | None) -> None:
    if kind is not None and type(value) is not kind:  # a boolean is no int here
        raise Untellable(f"a member is no {kind.__name__}")


def _list(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise Untellable("a member is no list")
    return value
