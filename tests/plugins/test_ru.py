"""Cyrillic passes for Russian until something speaks for a neighbour."""

from __future__ import annotations

import pytest
from gateway_plugins.ru import is_already


@pytest.mark.parametrize(
    "text",
    [
        "Да.",
        "Объявление и подъезд",  # the hard sign where Russian has it
        "Выполните npm install и откройте терминал.",
        "Слово «дякую» украинское.",
        "Город Київ стоит на Днепре, и это очень красивый город.",
        "По-китайски «你好» значит привет.",
    ],
)
def test_russian_with_foreign_words_is_russian(text: str) -> None:
    assert is_already(text)


@pytest.mark.parametrize(
    "text",
    [
        "Дякую!",
        "Де ти був?",
        "Благодаря!",
        "Това е много добре.",
        "Хвала, добро јутро",
        "Дзень добры, дзякуй",
        "Қайырлы таң",
        "The word спасибо means thank you.",
        "Hello!",
        "你好",
        "日本語です",
        "Γειά σου",
    ],
)
def test_its_neighbours_and_others_are_not(text: str) -> None:
    assert not is_already(text)
