"""A scripted engine of translations: an upstream that translates by the letter, late or wrongly as a test wants it.

    async with Chaos(engine(delay_s=0.3), port=port) as engine: ...

What it makes of a text is made of words of the language that is wanted, as many as it was given; marks, Markdown and
punctuation stay where they stand. `pretended` says what that is.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Any

from tests.chaos import Exchange, json_answer

WORDS = {
    "zh": ("这个", "问题", "的", "答案", "其实", "非常", "简单", "我们", "一起", "来看"),
    "en": ("this", "is", "what", "the", "good", "people", "of", "the", "town", "would", "often", "say", "about", "it"),
    "ru": ("это", "то", "что", "добрые", "люди", "нашего", "города", "часто", "говорят", "друг", "другу"),
}
_MARK_OR_WORD = re.compile("(\u27e6[0-9]+\u27e7)|[^\\W\\d_]+")

Spoil = Callable[[list[str]], Any]
"""What becomes of the translations before they are sent."""


def pretended(text: str, to: str) -> str:
    """The scripted translation of a text; of Chinese every two characters are a word."""
    words = cycle(WORDS[to])

    def word(match: re.Match[str]) -> str:
        return match[0] if match[1] else next(words)

    return _MARK_OR_WORD.sub(word, text)


def engine(
    *, delay_s: float | Callable[[], float] = 0.0, spoil: Spoil = list, status: int = 200
) -> Callable[[Exchange], Awaitable[None]]:
    """A script for Chaos: chat completions that translate, and LibreTranslate's `/translate`."""

    async def play(exchange: Exchange) -> None:
        asked = await body_of(exchange)
        await asyncio.sleep(delay_s() if callable(delay_s) else delay_s)
        if "q" in asked:
            texts = [pretended(text, asked["target"]) for text in asked["q"]]
            await exchange.send(json_answer({"translatedText": spoil(texts)}, status))
            return
        wanted = json.loads(asked["messages"][1]["content"])
        to = next(tag for tag in WORDS if re.search(rf"\b{tag}\b", wanted["to"]))
        spoilt = spoil([pretended(text, to) for text in wanted["texts"]])
        content = spoilt if isinstance(spoilt, str) else json.dumps({"texts": spoilt}, ensure_ascii=False)
        await exchange.send(json_answer(completion(content), status))

    return play


async def body_of(exchange: Exchange) -> dict[str, Any]:
    """The request's JSON, once all of it is here."""
    await exchange.read_body()
    value: dict[str, Any] = exchange.json
    return value


def completion(content: str | None) -> dict[str, Any]:
    """A chat completion that says this; it used 100 and 50 tokens."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return {
        "id": "chatcmpl-e",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
