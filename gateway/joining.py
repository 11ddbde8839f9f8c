"""The answers of several chats as that of one: choices numbered through, usage added up, one identity.

Pure: JSON and events in, bytes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.errors import GatewayError
from gateway.json_text import read_json, write_json
from gateway.sse import Event
from gateway.types import JsonValue

_DONE: Final = b"[DONE]"
_IDENTITY: Final = ("id", "created", "model", "system_fingerprint")


def joined(answers: Sequence[bytes], choices: int) -> bytes:
    """Whole chat completions, of so many choices each, as one. 4002 where one of them is none."""
    try:
        values = [read_json(answer) for answer in answers]
        whole: dict[str, JsonValue] = {}
        everything: list[JsonValue] = []
        usages: list[JsonValue] = []
        for number, value in enumerate(values):
            if not isinstance(value, dict) or not isinstance(given := value.get("choices"), list):
                raise GatewayError("4002", "the upstream's answer is not a chat completion")
            whole = whole or value
            everything += [_moved(choice, number * choices) for choice in given]
            usages.append(value.get("usage"))
        whole = {name: value for name, value in whole.items() if name != "usage"} | {"choices": everything}
        if all(isinstance(usage, dict) for usage in usages):
            whole["usage"] = _sum(usages)
        return write_json(whole)
    except ValueError as error:  # both ways: it nests too deep, for one
        raise GatewayError("4002", "the upstream's answer cannot be read as a chat completion") from error


class Joiner:
    """Joins streams of `choices` choices each, of which there are `streams`."""

    def __init__(self, streams: int, choices: int) -> None:
        self._streams = streams
        self._choices = choices
        self._identity: dict[str, JsonValue] = {}
        self._usages: dict[int, JsonValue] = {}
        self._done: set[int] = set()

    def event(self, number: int, event: Event) -> bytes:
        """What of an event of this stream goes on, ready to be sent; nothing of its end and of what it used."""
        if event.data is None:
            return event.raw if event.lines else b""
        if event.data.strip() == _DONE:
            self._done.add(number)
            return b""
        try:
            value = read_json(event.data)
            if not isinstance(value, dict):
                return event.raw
            usage, choices = value.get("usage"), value.get("choices")
            if isinstance(usage, dict):
                self._usages[number] = usage
                value["usage"] = None
                if not choices:
                    return b""
            if not isinstance(choices, list):
                return event.raw
            value["choices"] = [_moved(choice, number * self._choices) for choice in choices]
            return b"data: " + write_json(self._identified(value)) + b"\n\n"
        except ValueError:
            return event.raw

    def is_done(self, number: int) -> bool:
        """Whether a stream has said that it has ended."""
        return number in self._done

    def end(self, *, with_usage: bool) -> bytes:
        """What ends the whole: its usage, where every stream has told its own and somebody asked, and `[DONE]`."""
        end = b""
        if with_usage and len(self._usages) == self._streams:
            usage = _sum(list(self._usages.values()))
            value: dict[str, JsonValue] = {"object": "chat.completion.chunk", "choices": [], "usage": usage}
            end = b"data: " + write_json(self._identified(value)) + b"\n\n"
        return end + b"data: [DONE]\n\n" if len(self._done) == self._streams else end

    def _identified(self, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """The event as one of the stream that named itself first."""
        for name in _IDENTITY:  # some upstreams begin with an event that has none
            if value.get(name) and name not in self._identity:
                self._identity[name] = value[name]
        own: dict[str, JsonValue] = {name: value[name] for name in _IDENTITY if name in value}
        return {**own, **self._identity, **{name: part for name, part in value.items() if name not in _IDENTITY}}


def _moved(choice: JsonValue, by: int) -> JsonValue:
    """A choice, or a piece of it, by its number among all."""
    if not isinstance(choice, dict):
        return choice
    index = choice.get("index", 0)
    return {**choice, "index": index + by if isinstance(index, int) else by}


def _sum(values: Sequence[JsonValue]) -> JsonValue:
    """Numbers added up, member by member; of anything else the first."""
    objects = [value for value in values if isinstance(value, dict)]
    if objects:
        names = {name: None for value in objects for name in value}
        return {name: _sum([value[name] for value in objects if name in value]) for name in names}
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return sum(numbers) if numbers else values[0]
