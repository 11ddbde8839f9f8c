"""Whole answers and prompts in another language: where their texts stand, and how the translations take their place."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, cast

import msgspec
import orjson

from gateway.hookspecs import TranslatorSpec
from gateway.translation.memory import Remembered
from gateway.translation.pieces import Judge, translate_pieces
from gateway.translation.prose import Protected, protect
from gateway.translation.sentences import SentenceSplitter
from gateway.translation.spacing import Spacing
from gateway.types import JsonValue, PerCall, TranslationContext

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

_SAMPLE_CHARS = 200
_TURN_CHARS = 4_096  # so much is taken apart before other calls have their turn

Path: TypeAlias = tuple[str | int, ...]
"""Where a text stands: names of members and places in lists, from the outside in."""

Part: TypeAlias = tuple[str, Protected | None]
"""A segment, and what of it is to be translated; None where it stays as it is."""


def languages(translators: Mapping[str, TranslatorSpec]) -> tuple[str, ...]:
    """Every `lang` that a call may ask for."""
    return tuple(sorted({*DOCUMENTED_LANGUAGES, *translators}))


class Outcome(PerCall, frozen=True):
    """Texts in a language, a word on how that went, and the beginning of what they said before."""

    texts: list[str]
    status: str
    sample: str = ""


async def translate_answer(
    text: bytes,
    translator: TranslatorSpec,
    context: TranslationContext,
    deadline_s: float,
    remembered: Remembered | None = None,
) -> tuple[bytes, str, str]:
    """A JSON answer with its texts in the translator's language, a word on how that went, and a sample of them.

    All else in it stays as it was written. Raises nothing but the cancellation of its own task, which it must have: the
    source is better than no answer.
    """
    places = list(_places(_read(text)))
    outcome = await translate_texts([source for _, source in places], translator, context, deadline_s, remembered)
    if outcome.status not in {TRANSLATED, PARTIAL}:
        return text, outcome.status, outcome.sample
    changes = [(path, text) for (path, _), text in zip(places, outcome.texts, strict=True)]
    return _changed(text, changes), outcome.status, outcome.sample


async def translate_texts(
    texts: Sequence[str],
    translator: TranslatorSpec,
    context: TranslationContext,
    deadline_s: float,
    remembered: Remembered | None = None,
) -> Outcome:
    """Texts in the translator's language, in one batch."""
    if sum(map(len, texts)) > MAX_CHARS:
        LOG.warning("an answer of more than %d characters is not translated", MAX_CHARS)
        return Outcome(list(texts), FAILED)
    judges = [Judge(translator) for _ in texts]
    parts = [await _parts(text, judge) for text, judge in zip(texts, judges, strict=True)]
    sample = texts[0][:_SAMPLE_CHARS] if texts else ""
    if any(judge.faulty for judge in judges):
        return Outcome(list(texts), FAILED, sample)
    wanted = [piece for text in parts for _, piece in text if piece is not None]
    if not wanted:
        return Outcome(list(texts), ALREADY, sample)
    results = await translate_pieces(wanted, translator, context, deadline_s, remembered)
    found = sum(result is not None for result in results)
    status = TRANSLATED if found == len(results) else PARTIAL if found else FAILED
    if not found:
        return Outcome(list(texts), status, wanted[0].words)
    turn = iter(results)
    return Outcome(["".join(_joined(text, turn, translator.tag)) for text in parts], status, wanted[0].words)


async def _parts(text: str, judge: Judge) -> list[Part]:
    """The text's segments. Other calls have their turn in between."""
    splitter, parts = SentenceSplitter(), []
    for at in range(0, len(text) + 1, _TURN_CHARS):
        found = splitter.feed(text[at : at + _TURN_CHARS])
        if at + _TURN_CHARS > len(text):
            found += splitter.finish()
        for segment in found:
            piece = protect(segment.text) if segment.is_prose else None
            if piece is not None and (not piece.has_words or judge.is_already(piece.words)):
                piece = None
            parts.append((segment.text, piece))
        if at + _TURN_CHARS <= len(text):
            await asyncio.sleep(0)
    return parts


def _joined(parts: Iterable[Part], results: Iterator[str | None], tag: str) -> Iterator[str]:
    spacing = Spacing(tag)
    for source, piece in parts:
        result = None if piece is None else next(results)
        if result is None or result == source:
            yield spacing.joined(source, None, is_translated=False)
        else:
            yield spacing.joined(result, piece, is_translated=True)


def _read(text: bytes) -> JsonValue:
    try:
        return cast(JsonValue, orjson.loads(text))
    except orjson.JSONDecodeError:  # half of a surrogate pair, which the grammar allows
        return cast(JsonValue, json.loads(text))


def _places(answer: JsonValue) -> Iterator[tuple[Path, str]]:
    """Where an answer holds natural-language text: choices, a transcription's text, a response's output."""
    paths: list[Path] = [("text",)]
    for number, _ in enumerate(_list(_at(answer, ("choices",)))):
        paths += [("choices", number, "text"), ("choices", number, "message", "content")]
    for number, item in enumerate(_list(_at(answer, ("output",)))):
        for place, part in enumerate(_list(_at(item, ("content",)))):
            if _at(item, ("type",)) == "message" and _at(part, ("type",)) == "output_text":
                paths.append(("output", number, "content", place, "text"))
    for path in paths:
        text = _at(answer, path)
        if isinstance(text, str) and text.strip():
            yield path, text


def _at(value: JsonValue, path: Path) -> JsonValue:
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            value = value[step]
        else:
            return None
    return value


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _changed(text: bytes, changes: Sequence[tuple[Path, str]]) -> bytes:
    """The JSON with these texts in their places; every other value as it was written."""
    try:
        return _spliced(text, changes)
    except msgspec.DecodeError:  # as in `_read`: written anew, escapes and all
        value = _read(text)
        for path, new in changes:
            holder = _at(value, path[:-1])
            if isinstance(holder, dict) and isinstance(path[-1], str):
                holder[path[-1]] = new
        return json.dumps(value).encode()


def _spliced(text: bytes, changes: Sequence[tuple[Path, str]]) -> bytes:
    if not changes[0][0]:
        return orjson.dumps(changes[0][1])
    below: dict[str | int, list[tuple[Path, str]]] = {}
    for path, new in changes:
        below.setdefault(path[0], []).append((path[1:], new))
    if isinstance(changes[0][0][0], int):
        items = list(map(bytes, msgspec.json.decode(text, type=list[msgspec.Raw])))
        for place, inner in below.items():
            items[int(place)] = _spliced(items[int(place)], inner)
        return b"[%b]" % b",".join(items)
    members = {name: bytes(raw) for name, raw in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()}
    for name, inner in below.items():
        members[str(name)] = _spliced(members[str(name)], inner)
    return b"{%b}" % b",".join(orjson.dumps(name) + b":" + raw for name, raw in members.items())
