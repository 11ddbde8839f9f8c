"""Three things in one plugin: `result_type=upper` shouts the answer, `lang=ja` knows some Japanese phrases, and the
method `phrases/get` gives them one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.hookspecs import FormatterSpec, MethodContext, MethodSpec, TranslatorSpec, hookimpl
from gateway.types import Call, Document, JsonValue, MethodRefused, TranslationContext

PHRASES = {"Hello": "こんにちは", "Thank you": "ありがとう", "Goodbye": "さようなら"}


def shout(document: Document) -> bytes:
    return document.text.decode().upper().encode()


def is_japanese(text: str) -> bool:
    """Hiragana and katakana stand in no other language's text."""
    return any("\u3040" <= character <= "\u30ff" for character in text)


async def translate(texts: Sequence[str], context: TranslationContext) -> list[str]:
    return [PHRASES.get(text, text) for text in texts]


async def phrase(call: Call, context: MethodContext) -> JsonValue:
    asked = call.arguments.values.get("prompt")
    if not isinstance(asked, str):
        raise MethodRefused("4014", "phrases/get needs the argument prompt", "prompt")
    if asked not in PHRASES:
        raise MethodRefused("2000", "")
    return {"phrase": PHRASES[asked], "for": context.account.name, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


@hookimpl
def gateway_formatters() -> list[FormatterSpec]:
    return [FormatterSpec("upper", "text/plain; charset=utf-8", shout)]


@hookimpl
def gateway_translators() -> list[TranslatorSpec]:
    return [TranslatorSpec("ja", "ja", is_japanese, translate)]


@hookimpl
def gateway_methods() -> list[MethodSpec]:
    return [MethodSpec("phrases/get", phrase)]
