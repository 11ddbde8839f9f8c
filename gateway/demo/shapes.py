"""What the text interfaces have in common: identity, usage, inputs and stop sequences of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import orjson

from gateway.demo.answers import Text, digest, tokens_of
from gateway.demo.wire import Body, RefusalError, missing, object_of, string_of
from gateway.types import JsonValue

_EPOCH = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What identifies an answer, the same in all its chunks; the same request has the same."""

    id: str
    created: int
    model: str

    @classmethod
    def to(cls, body: Body, prefix: str, model: str) -> Answer:
        seed = digest(orjson.dumps(body.values, option=orjson.OPT_SORT_KEYS).hex())
        return cls(f"{prefix}{seed[:12].hex()}", _EPOCH + int.from_bytes(seed[12:15], "big"), model)

    def wrapped(self, kind: str, choices: Sequence[JsonValue], **more: JsonValue) -> dict[str, JsonValue]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
            **more,
        }


def text_of(content: JsonValue) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, list):
        return "\n".join(string_of(object_of(part).get("text")) for part in content)
    return string_of(content)


def inputs_of(body: Body, name: str) -> list[str]:
    """The texts of an argument that is a string, several strings, a list of tokens or several such lists."""
    value = body.values.get(name)
    match value:
        case str(text):
            return [text]
        case [int(), *_]:
            return [_tokens_text(value)]
        case [str() | list(), *_]:
            return [item if isinstance(item, str) else _tokens_text(item) for item in value]
        case None:
            raise missing(name)
    raise RefusalError(400, f"Invalid '{name}': expected a string or an array.", param=name, code="invalid_type")


def _tokens_text(tokens: JsonValue) -> str:
    return " ".join(map(str, tokens)) if isinstance(tokens, list) else ""


def stops_of(body: Body) -> list[str]:
    """The stop sequences, given as one string or as several."""
    stop = body.values.get("stop")
    given = stop if isinstance(stop, list) else [stop]
    return [each for each in given if isinstance(each, str)]


def streamed_usage(body: Body, usage: dict[str, JsonValue]) -> dict[str, JsonValue] | None:
    """The usage if a stream is to report it, or else None."""
    return usage if object_of(body.values.get("stream_options")).get("include_usage") is True else None


def usage_of(prompt_tokens: int, *texts: str) -> dict[str, JsonValue]:
    """Usage as the chat and completion interfaces report it."""
    completion_tokens = sum(len(tokens_of(text)) for text in texts)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def interleaved(texts: Sequence[Text]) -> Iterator[tuple[int, str]]:
    """The tokens of several answers in turn, each with the number of its answer."""
    for row in zip_longest(*(text.tokens for text in texts)):
        for number, token in enumerate(row):
            if token is not None:
                yield number, token
