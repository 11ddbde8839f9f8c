"""Whole answers and prompts in another language: where their texts stand, and how the translations take their place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, cast

import orjson

from gateway.hookspecs import TranslatorSpec
from gateway.translation.pieces import Judge, spaced, translate_pieces
from gateway.translation.prose import Protected, protect
from gateway.translation.sentences import segments
from gateway.types import JsonValue, TranslationContext

LOG = logging.getLogger("gateway.translation")

DOCUMENTED_LANGUAGES = ("cn", "en", "ru")
"""Languages of the documented API: known even where no translator for them is loaded."""

ALREADY = "already"
TRANSLATED = "translated"
PARTIAL = "partial"
FAILED = "failed"
UNAVAILABLE = "unavailable"
STREAMING = "streaming"

MAX_CHARS = 400_000
"""Texts beyond this many characters in one answer stay as they are."""

_TURN_CHARS = 20_000  # so much is taken apart before other calls have their turn

Place: TypeAlias = tuple[dict[str, JsonValue], str]
"""Where a text stands: an object, and the name of its member."""

Part: TypeAlias = tuple[str, Protected | None]
"""A segment, and what of it is to be translated; None where it stays as it is."""


def languages(translators: Mapping[str, TranslatorSpec]) -> tuple[str, ...]:
    """Every `lang` that a call may ask for."""
    return tuple(sorted({*DOCUMENTED_LANGUAGES, *translators}))


async def translate_answer(
    text: bytes, translator: TranslatorSpec, context: TranslationContext, deadline_s: float
) -> tuple[bytes, str, str]:
    """A JSON answer in the translator's language, a word on how that went, and some of the text that was translated.

    Raises nothing but the cancellation of its own task, which it must have: the source is better than no answer.
    """
    answer = cast(JsonValue, orjson.loads(text))
    places = list(_places(answer))
    texts = [str(holder[name]) for holder, name in places]
    results, status, sample = await translate_texts(texts, translator, context, deadline_s)
    if status not in {TRANSLATED, PARTIAL}:
        return text, status, sample
    for (holder, name), result in zip(places, results, strict=True):
        holder[name] = result
    return orjson.dumps(answer), status, sample


async def translate_texts(
    texts: Sequence[str], translator: TranslatorSpec, context: TranslationContext, deadline_s: float
) -> tuple[list[str], str, str]:
    """Texts in the translator's language, in one batch, a word on how that went, and some of what was translated."""
    if sum(map(len, texts)) > MAX_CHARS:
        LOG.warning("an answer of more than %d characters is not translated", MAX_CHARS)
        return list(texts), FAILED, ""
    judges = [Judge(translator) for _ in texts]
    parts = [await _parts(text, judge) for text, judge in zip(texts, judges, strict=True)]
    if any(judge.faulty for judge in judges):
        return list(texts), FAILED, ""
    wanted = [piece for text in parts for _, piece in text if piece is not None]
    if not wanted:
        return list(texts), ALREADY, ""
    results = await translate_pieces(wanted, translator, context, deadline_s)
    found = sum(result is not None for result in results)
    status = TRANSLATED if found == len(results) else PARTIAL if found else FAILED
    turn = iter(results)
    return ["".join(_joined(text, turn)) for text in parts], status, wanted[0].words


async def _parts(text: str, judge: Judge) -> list[Part]:
    """The text's segments. Other calls have their turn in between."""
    parts: list[Part] = []
    chars = 0
    for segment in segments(text):
        piece = protect(segment.text) if segment.is_prose else None
        if piece is not None and (not piece.has_words or judge.is_already(piece.words)):
            piece = None
        if piece is not None and parts:
            piece = spaced(piece, parts[-1][0], judge.tag)
        parts.append((segment.text, piece))
        chars += len(segment.text)
        if chars > _TURN_CHARS:
            chars = 0
            await asyncio.sleep(0)
    return parts


def _joined(parts: Iterable[Part], results: Iterator[str | None]) -> Iterator[str]:
    for source, piece in parts:
        yield source if piece is None else next(results) or source


def _places(answer: JsonValue) -> Iterator[Place]:
    """Where an answer holds natural-language text: choices, a transcription's text, a response's output."""
    if not isinstance(answer, dict):
        return
    holders: list[tuple[JsonValue, str]] = [(answer, "text")]
    for choice in _objects(answer.get("choices")):
        holders += [(choice, "text"), (choice.get("message"), "content")]
    for item in _objects(answer.get("output")):
        if item.get("type") == "message":
            holders += [(part, "text") for part in _objects(item.get("content")) if part.get("type") == "output_text"]
    for holder, name in holders:
        if isinstance(holder, dict):
            text = holder.get(name)
            if isinstance(text, str) and text.strip():
                yield holder, name


def _objects(value: JsonValue) -> list[dict[str, JsonValue]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
