"""The language of an answer's text (contract, section 2): which languages there are, and a whole answer in one of them.

Text that is already in the language is left alone; a translation that fails leaves the source and says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import cast

import orjson

from gateway.hookspecs import TranslatorSpec
from gateway.running import is_cancelled, own_task
from gateway.types import JsonValue, TranslationContext

LOG = logging.getLogger("gateway.translation")

DOCUMENTED_LANGUAGES = ("cn", "en", "ru")
"""Languages of the documented API: known even where no translator for them is loaded."""

DEADLINE_S = 30.0
_SLOW_S = 0.1

ALREADY = "already"
TRANSLATED = "translated"
FAILED = "failed"
UNAVAILABLE = "unavailable"


def languages(translators: Mapping[str, TranslatorSpec]) -> tuple[str, ...]:
    """Every `lang` that a call may ask for."""
    return tuple(sorted({*DOCUMENTED_LANGUAGES, *translators}))


async def translate_answer(
    text: bytes, translator: TranslatorSpec | None, context: TranslationContext, deadline_s: float = DEADLINE_S
) -> tuple[bytes, str]:
    """A JSON answer with its natural-language text in the translator's language, and a word on how that went.

    Raises nothing but the cancellation of its own task: the source text is better than no answer.
    """
    if translator is None:
        return text, UNAVAILABLE
    await own_task()
    try:
        answer = cast(JsonValue, orjson.loads(text))
        places = _places(answer, translator)
        if not places:
            return text, ALREADY
        sources = [source for source, _ in places]
        async with asyncio.timeout(deadline_s):
            results = list(await translator.translate(sources, context))
        if len(results) != len(sources) or not all(isinstance(result, str | None) for result in results):
            raise ValueError("the translator did not return one text for each")
        for (_, put), result in zip(places, results, strict=True):
            if result is not None:
                put(result)
        if all(result is None for result in results):
            return text, FAILED
        return orjson.dumps(answer), TRANSLATED
    except (Exception, SystemExit, asyncio.CancelledError) as error:  # a plugin: whatever it does, the answer goes out
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            raise
        LOG.warning("translation to %s failed: %s", translator.name, type(error).__name__)
        return text, FAILED


def _places(answer: JsonValue, translator: TranslatorSpec) -> list[tuple[str, Callable[[str], None]]]:
    """The texts that need translation. Nothing else runs while the translator decides: the operator hears of delay."""
    texts = _texts(answer)
    started = time.perf_counter()
    places = [place for place in texts if not translator.is_already(place[0])]
    if time.perf_counter() - started > _SLOW_S:
        LOG.warning("the translator to %s held up every call: its is_already() is slow", translator.name)
    return places


def _texts(answer: JsonValue) -> list[tuple[str, Callable[[str], None]]]:
    """The natural-language texts of an answer, each with the way to put another in its place."""
    found: list[tuple[str, Callable[[str], None]]] = []
    if not isinstance(answer, dict):
        return found
    holders: list[tuple[JsonValue, str]] = [(answer, "text")]
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            holders += [(choice, "text"), (choice.get("message"), "content")]
    for holder, name in holders:
        if isinstance(holder, dict):
            text = holder.get(name)
            if isinstance(text, str) and text.strip():
                found.append((text, _putter(holder, name)))
    return found


def _putter(holder: dict[str, JsonValue], name: str) -> Callable[[str], None]:
    def put(text: str) -> None:
        holder[name] = text

    return put
