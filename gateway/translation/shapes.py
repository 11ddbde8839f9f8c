"""Where the events of a stream hold text, and how an event that carries other text looks. Pure; JSON values only."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import orjson

from gateway.types import JsonValue

Members: TypeAlias = dict[str, JsonValue]

_DELTAS: Final = frozenset({"response.output_text.delta", "transcript.text.delta"})
_PLAIN_CHOICE: Final = frozenset({"index", "delta", "text", "finish_reason", "logprobs"})
_PLAIN_EVENT: Final = ("id", "object", "created", "model", "type", "item_id", "output_index", "content_index")
_NULLED: Final = frozenset({"logprobs", "finish_reason"})
_MAX_TEMPLATE_BYTES: Final = 2_048
_PLAIN_DELTA: Final = frozenset({"role", "content"})


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text in an event: whose it is, the text, and where it stands."""

    lane: Hashable
    text: str
    holder: Members
    name: str
    choice: Members | None  # of a chat completion or a completion


def deltas_of(event: Members) -> list[Delta]:
    """The pieces of text that an event adds."""
    if event.get("type") in _DELTAS:
        text = event.get("delta")
        return [Delta(_lane_of(event), text, event, "delta", None)] if isinstance(text, str) and text else []
    found = []
    for choice in choices_of(event):
        lane = lane_of(choice)
        for holder, name in ((choice.get("delta"), "content"), (choice, "text")):
            if isinstance(holder, dict):
                text = holder.get(name)
                if isinstance(text, str) and text:
                    found.append(Delta(lane, text, holder, name, choice))
    return found


def ended_lanes(event: Members) -> list[Hashable]:
    """Whose text is complete with this event."""
    if event.get("type") in {"response.output_text.done", "transcript.text.done"}:
        return [_lane_of(event)]
    return [lane_of(choice) for choice in choices_of(event) if choice.get("finish_reason")]


def lane_of(choice: Members) -> Hashable:
    """Whose a choice's text is; whatever an upstream numbers its choices by."""
    index = choice.get("index", 0)
    return ("choice", index if isinstance(index, int | str) else repr(index))


def repeats_of(event: Members) -> Iterator[tuple[Hashable, Members, str]]:
    """Where an event says again all that was said: by whom, and where it stands."""
    kind = event.get("type")
    if kind in {"response.output_text.done", "transcript.text.done"}:
        yield _lane_of(event), event, "text"
    elif kind == "response.content_part.done":
        if isinstance(part := event.get("part"), dict):
            yield _lane_of(event), part, "text"
    elif kind == "response.output_item.done":
        yield from _item_repeats(event.get("item"))
    elif kind in {"response.completed", "response.incomplete"} and isinstance(whole := event.get("response"), dict):
        output = whole.get("output")
        for item in output if isinstance(output, list) else ():
            yield from _item_repeats(item)


def _item_repeats(item: JsonValue) -> Iterator[tuple[Hashable, Members, str]]:
    content = item.get("content") if isinstance(item, dict) else None
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(item, dict) and isinstance(part, dict) and part.get("type") == "output_text":
            yield ("item", str(item.get("id")), index), part, "text"


def _lane_of(event: Members) -> Hashable:
    return ("item", str(event.get("item_id")), _index(event.get("content_index")))


def _index(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0


def choices_of(event: Members) -> list[Members]:
    """The choices of a chat completion's or a completion's event."""
    choices = event.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def says_more(event: Members, deltas: list[Delta], *, role: bool) -> bool:
    """Whether an event of choices tells more than the text in it. `role`: a role is news."""
    if any(delta.choice is None for delta in deltas):
        return False
    if event.get("usage") or event.get("error"):
        return True
    for choice in choices_of(event):
        delta = choice.get("delta")
        members = delta if isinstance(delta, dict) else {}
        if role and members.get("role"):
            return True
        if choice.get("finish_reason") or _tells(choice, _PLAIN_CHOICE) or _tells(members, _PLAIN_DELTA):
            return True
    return False


def _tells(members: Members, plain: frozenset[str]) -> bool:
    return any(value not in (None, "", []) for name, value in members.items() if name not in plain)


def without_text(event: Members, deltas: list[Delta]) -> bytes:
    """The event with nothing in the places of its text, itself changed. TypeError where it nests too deep."""
    for delta in deltas:
        delta.holder[delta.name] = ""
        if delta.choice is not None and delta.choice.get("logprobs") is not None:
            delta.choice["logprobs"] = None
    return orjson.dumps(event)


class Template:
    """An event of its kind for other text of the same lane: `before` and `after` are its JSON around the text.

    What is large, or cannot be written, is left out: it would come again with each sentence.
    """

    __slots__ = ("after", "before")

    def __init__(self, event: Members, delta: Delta) -> None:
        try:
            before, after = _around(event, delta)
        except TypeError:  # orjson's, for what nests too deep
            before = after = b""
        if not before or len(before) + len(after) > _MAX_TEMPLATE_BYTES:
            plain = {name: event[name] for name in _PLAIN_EVENT if isinstance(event.get(name), str | int)}
            choice: Members | None = None
            if delta.choice is not None:
                index = delta.choice.get("index", 0)
                choice = {"index": index if isinstance(index, int | str) else 0, "delta": {}}
                if delta.holder is delta.choice:
                    choice = {"index": choice["index"], delta.name: ""}
            holder = choice if delta.holder is delta.choice and choice is not None else {}
            before, after = _around(plain, Delta(delta.lane, "", holder, delta.name, choice))
        self.before, self.after = before, after

    def filled(self, text: str) -> bytes:
        """The event's JSON with this text."""
        return self.before + orjson.dumps(text) + self.after


def _around(event: Members, delta: Delta) -> tuple[bytes, bytes]:
    mark = "\u27e6text\u27e7"
    shown: Members = {name: value for name, value in event.items() if name != "obfuscation"}
    if delta.choice is None:
        shown["delta"] = mark
    else:
        choice = {name: None if name in _NULLED else value for name, value in delta.choice.items()}
        if delta.holder is delta.choice:
            choice[delta.name] = mark
        else:
            choice["delta"] = {delta.name: mark}
        shown["choices"] = [choice]
        if "usage" in shown:
            shown["usage"] = None
    before, _, after = orjson.dumps(shown).rpartition(orjson.dumps(mark))
    return before, after
