"""A chat's answer in the form of the old interface that was called, whole or as a stream runs.

Pure: JSON and events in, the same out. What is no answer of a chat, such as an error, stays as it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.chat_arguments import EDITS
from gateway.errors import GatewayError
from gateway.json_text import read_json, write_json
from gateway.sse import Event, with_data
from gateway.types import JsonValue, PerCall


class Shape(PerCall, frozen=True):
    """The form that an answer is to have. `fallback_id` is a completion's whose upstream gives it none.

    `prompts` stand before the texts, `choices` answers for each; empty where the caller wants none of that.
    """

    method: str
    fallback_id: str
    prompts: tuple[str, ...] = ()
    choices: int = 1

    def prompt(self, index: int) -> str:
        """What stands before the text of this choice."""
        number = 0 if len(self.prompts) == 1 else index // self.choices
        return self.prompts[number] if 0 <= number < len(self.prompts) else ""


def reshaped(shape: Shape, answer: bytes) -> bytes:
    """A chat completion as the answer of the method that was called. 4002 for what is none."""
    try:
        value = read_json(answer)
        if isinstance(value, dict) and isinstance(choices := value.get("choices"), list):
            return write_json(_answer(shape, value, choices, set()))
    except ValueError as error:  # both ways: it nests too deep, for one
        raise GatewayError("4002", "the upstream's answer cannot be read as a chat completion") from error
    raise GatewayError("4002", "the upstream's answer is not a chat completion")


async def reshaped_events(shape: Shape, source: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """A chat's stream as that of the method that was called: one event in, one event out."""
    begun: set[int] = set()
    async with aclosing(source):
        async for event in source:
            yield _event(shape, event, begun)


def _event(shape: Shape, event: Event, begun: set[int]) -> Event:
    """`begun` are the choices that have been heard of: their prompts have gone."""
    if event.data is None:
        return event
    try:
        value = read_json(event.data)
        if isinstance(value, dict) and isinstance(choices := _choices(value), list):
            return with_data(event, write_json(_answer(shape, value, choices, begun)))
    except ValueError:  # [DONE], as a rule
        pass
    return event


def _choices(value: dict[str, JsonValue]) -> JsonValue:
    """An event's choices; none where it only tells a usage, which some upstreams do without any."""
    choices = value.get("choices")
    return [] if choices is None and isinstance(value.get("usage"), dict) else choices


def _answer(shape: Shape, value: dict[str, JsonValue], given: list[JsonValue], begun: set[int]) -> JsonValue:
    """The whole, or a chunk of it."""
    choices: list[JsonValue] = [_choice(shape, choice, begun) for choice in given if isinstance(choice, dict)]
    created = value.get("created", 0)
    if shape.method == EDITS:
        usage = {"usage": value["usage"]} if "usage" in value else {}
        return {"object": "edit", "created": created, "choices": choices, **usage}
    chat_id = value.get("id")
    return {
        "id": f"cmpl-{chat_id.removeprefix('chatcmpl-')}"
        if isinstance(chat_id, str) and chat_id
        else shape.fallback_id,
        "object": "text_completion",
        "created": created,
        "model": value.get("model"),
        "choices": choices,
        **{name: value[name] for name in ("usage", "system_fingerprint") if name in value},
    }


def _choice(shape: Shape, choice: dict[str, JsonValue], begun: set[int]) -> JsonValue:
    index, text = choice.get("index", 0), _text(choice)
    if shape.prompts and isinstance(index, int) and index not in begun:
        begun.add(index)
        text = shape.prompt(index) + text
    if shape.method == EDITS:
        return {"text": text, "index": index}
    return {"text": text, "index": index, "logprobs": None, "finish_reason": choice.get("finish_reason")}


def _text(choice: dict[str, JsonValue]) -> str:
    """What a choice says, or adds; a refusal is what it says then."""
    said = choice.get("message") or choice.get("delta")
    if not isinstance(said, dict):
        return ""
    content = said.get("content") or said.get("refusal")
    if isinstance(content, list):  # in parts, as some models have it
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
