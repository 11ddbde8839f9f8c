"""What the embedded upstream can translate: its own phrases between Chinese, English and Russian, and nothing else.

It answers whoever tells it to translate as a chat model would; a text that stands in no phrase book comes back empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import orjson

from gateway.demo.answers import PHRASES, REMARKS, Language
from gateway.demo.shapes import text_of
from gateway.types import JsonValue

_TAGS: dict[str, Language] = {"zh": "zh", "en": "en", "ru": "ru"}
_TAG = re.compile(r"\b(zh|en|ru)(?:-[A-Za-z]+)?\)?$")
_TOPIC = "{topic}"
_PROMPTS = (
    ("向日葵", "a sunflower", "подсолнух"),
    ("月亮上的猫", "a cat on the moon", "кошка на луне"),
    ("日落时的海边小镇", "a small town by the sea at sunset", "городок у моря на закате"),
)
"""What an image may be asked for."""


def asked_translation(messages: Sequence[dict[str, JsonValue]]) -> str | None:
    """The answer to messages that want texts translated; None for any others."""
    if len(messages) != 2 or not text_of(messages[0].get("content")).startswith("You translate"):
        return None
    try:
        asked = orjson.loads(text_of(messages[1].get("content")))
    except orjson.JSONDecodeError:
        return None
    if not isinstance(asked, dict) or not isinstance(asked.get("texts"), list):
        return None
    found = _TAG.search(str(asked.get("to")))
    target = _TAGS[found[1]] if found else None
    return orjson.dumps({"texts": [_translation(str(text), target) for text in asked["texts"]]}).decode()


def _translation(text: str, target: Language | None) -> str:
    if target is None:
        return ""
    exact, patterns = _book()
    if (known := exact.get(text.strip())) is not None:
        return known[target]
    for pattern, phrases in patterns:
        if match := pattern.fullmatch(text.strip()):
            return phrases[target].replace(_TOPIC, match[1])
    return ""


@lru_cache(maxsize=1)
def _book() -> tuple[dict[str, dict[Language, str]], list[tuple[re.Pattern[str], dict[Language, str]]]]:
    """Phrases by their text in any language, and those that hold a topic by what they look like."""
    exact: dict[str, dict[Language, str]] = {}
    patterns = []
    for phrases in _parallel():
        for phrase in phrases.values():
            if _TOPIC in phrase:
                before, _, after = phrase.partition(_TOPIC)
                patterns.append((re.compile(f"{re.escape(before)}(.+){re.escape(after)}", re.DOTALL), phrases))
            else:
                exact[phrase] = phrases
    return exact, patterns


def _parallel() -> Iterator[dict[Language, str]]:
    """The same phrase in each language."""
    kinds = {
        language: (*said.openings, *said.thoughts, *said.closings, said.code) for language, said in PHRASES.items()
    }
    for zh, en, ru in zip(kinds["zh"], kinds["en"], kinds["ru"], strict=True):
        yield {"zh": zh, "en": en, "ru": ru}
    for zh, en, ru in (*REMARKS, *_PROMPTS):
        yield {"zh": zh, "en": en, "ru": ru}
