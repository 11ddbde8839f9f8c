"""Chinese is known in either script, written in Simplified characters here, and everything else is the engine's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from gateway_plugins.cn import gateway_translators
from hypothesis import given
from hypothesis import strategies as st

from bench.languages import samples
from gateway.types import TranslationContext, TranslationFailed

(SPEC,) = gateway_translators()
TRADITIONAL = [sample.text for of_set in ("dev", "test") for sample in samples(of_set) if sample.lang == "zh-Hant"]


class Engine:
    """Answers each text from a table, and remembers what it was asked."""

    def __init__(self, answers: dict[str, str | None] | None) -> None:
        self.answers = answers
        self.asked: list[tuple[Sequence[str], str]] = []

    async def __call__(self, texts: Sequence[str], tag: str) -> list[str | None]:
        self.asked.append((list(texts), tag))
        if self.answers is None:
            raise TranslationFailed("no engine answers")
        return [self.answers[text] for text in texts]


def translated(texts: Sequence[str], engine: Engine) -> list[str | None]:
    async def run() -> list[str | None]:
        return list(await SPEC.translate(texts, TranslationContext("v1/chat/completions", "1.0", "alice", engine)))

    return asyncio.run(run())


def test_is_simplified_chinese() -> None:
    assert (SPEC.name, SPEC.tag) == ("cn", "zh-Hans")


@pytest.mark.parametrize(
    "text",
    [
        "好",
        "请运行 docker compose up，再看日志。",
        "这是 Kubernetes Deployment 与 Service 的区别",
        "日语的「おはよう」是早上好的意思。",
        "圆的面积是 πr²",
        "乾隆皇帝很著名，他的著作显著。",  # characters that are Traditional elsewhere
    ],
)
def test_chinese_with_foreign_words_is_chinese(text: str) -> None:
    assert SPEC.is_already(text)


@pytest.mark.parametrize(
    "text",
    [
        "這個問題很簡單",
        "这個问题",  # mixed
        "東京の天気",
        "営業時間",  # Japanese without kana
        "안녕하세요",
        "The word 你好 means hello.",
        "Hello!",
        "Bonjour",
        "Да.",
        "สวัสดี",
    ],
)
def test_other_scripts_and_languages_are_not(text: str) -> None:
    assert not SPEC.is_already(text)


def test_traditional_characters_become_simplified_without_the_engine() -> None:
    engine = Engine(None)
    assert translated(["軟體的說明", "这個问题", "好"], engine) == ["软体的说明", "这个问题", "好"]
    assert engine.asked == []


@pytest.mark.parametrize(
    ("text", "simplified"),
    [
        ("他看著書，接著說話", "他看着书，接着说话"),
        ("這部著作很著名，效果顯著", "这部著作很著名，效果显著"),
        ("乾淨的乾隆瓷器", "干净的乾隆瓷器"),
        ("頭髮發亮", "头发发亮"),
        ("皇后在後面", "皇后在后面"),
        ("程式與網路", "程式与网路"),  # characters, and not vocabulary
    ],
)
def test_one_character_for_many_is_chosen_by_the_word(text: str, simplified: str) -> None:
    assert translated([text], Engine(None)) == [simplified]


@pytest.mark.parametrize("text", TRADITIONAL)
def test_what_was_converted_needs_no_more_work(text: str) -> None:
    (result,) = translated([text], Engine(None))
    assert result is not None
    assert SPEC.is_already(result)


@given(text=st.text(alphabet="著看接說這個的是一不了人我在有他为为么干后里面"))
def test_simplified_text_is_left_as_it_is(text: str) -> None:
    (once,) = translated([text], Engine({text: text}))
    assert once is not None
    assert translated([once], Engine({once: once})) == [once]


def test_the_others_go_to_the_engine_in_one_batch_and_keep_their_places() -> None:
    engine = Engine({"Hello!": "您好！", "Good night": None, "Bonjour": "你好，這裡"})
    texts = ["Hello!", "謝謝", "Good night", "Bonjour"]
    assert translated(texts, engine) == ["您好！", "谢谢", None, "你好，这里"]
    assert engine.asked == [(["Hello!", "Good night", "Bonjour"], "zh-Hans")]


def test_what_was_converted_is_kept_where_the_engine_fails() -> None:
    assert translated(["Hello!", "謝謝"], Engine(None)) == [None, "谢谢"]


def test_the_failure_is_told_where_nothing_could_be_done() -> None:
    with pytest.raises(TranslationFailed):
        translated(["Hello!", "Bonjour"], Engine(None))


def test_no_texts_ask_for_nothing() -> None:
    engine = Engine(None)
    assert translated([], engine) == []
    assert engine.asked == []
