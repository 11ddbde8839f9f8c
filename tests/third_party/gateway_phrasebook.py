"""Two things in one plugin: `result_type=upper` shouts the answer, `lang=ja` knows some Japanese phrases."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.hookspecs import FormatterSpec, TranslatorSpec, hookimpl
from gateway.types import Document, TranslationContext

PHRASES = {"Hello": "こんにちは", "Thank you": "ありがとう", "Goodbye": "さようなら"}


def shout(document: Document) -> bytes:
    return document.text.decode().upper().encode()


def is_japanese(text: str) -> bool:
    """Hiragana and katakana stand in no other language's text."""
    return any("\u3040" <= character <= "\u30ff" for character in text)


async def translate(texts: Sequence[str], context: TranslationContext) -> list[str]:
    return [PHRASES.get(text, text) for text in texts]


@hookimpl
def gateway_formatters() -> list[FormatterSpec]:
    return [FormatterSpec("upper", "text/plain; charset=utf-8", shout)]


@hookimpl
def gateway_translators() -> list[TranslatorSpec]:
    return [TranslatorSpec("ja", "ja", is_japanese, translate)]
