"""Latin letters pass for English until something speaks for another language."""

from __future__ import annotations

import pytest
from gateway_plugins.en import is_already


@pytest.mark.parametrize(
    "text",
    [
        "OK",
        "Hello!",
        "Don't panic.",
        "The word 你好 means hello.",
        "Привет is Russian for hello, and we like it.",
        'The German word "Schadenfreude" has come into English.',
        "We had a crème brûlée at the café.",
        "Ludwig van Beethoven was born in Bonn.",
        "The area is πr².",
        "It is pronounced /ˈwɔːtə/.",
    ],
)
def test_english_with_foreign_words_and_names_is_english(text: str) -> None:
    assert is_already(text)


@pytest.mark.parametrize(
    "text",
    [
        "Bonjour",
        "Danke!",
        "Gracias, muy bien.",
        "Übersicht und Einleitung",
        "Peitä taikina kostealla liinalla",
        "你好",
        "Да.",
        "नमस्ते",
        "Ja, maar ik weet het niet.",
    ],
)
def test_other_languages_are_not(text: str) -> None:
    assert not is_already(text)
