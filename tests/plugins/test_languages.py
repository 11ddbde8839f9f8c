"""The languages are told apart as well as was measured, on texts that were held out while the rules were made."""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from gateway_plugins import en, ru
from gateway_plugins._words import ENGLISH, LOANS, OTHER_CYRILLIC, OTHER_LATIN, RUSSIAN
from hypothesis import given
from hypothesis import strategies as st

from bench.languages import OWN_LANGUAGES, Sample, error_table, errors, recognisers, samples
from gateway.types import TranslationContext, TranslationFailed

RECOGNISERS = recognisers()
LONG = {
    "cn": "这个函数会先检查输入是否为空，然后再计算平均值。",
    "en": "This function checks whether the input is empty before it computes the average. ",
    "ru": "Эта функция сначала проверяет, не пуст ли список, а потом считает среднее. ",
}
# As measured: texts in other languages that pass, and own ones that do not.
MEASURED = {
    ("cn", "dev"): (0, 1),
    ("cn", "test"): (3, 1),
    ("en", "dev"): (1, 0),
    ("en", "test"): (2, 0),
    ("ru", "dev"): (1, 1),
    ("ru", "test"): (5, 1),
}

each_language = pytest.mark.parametrize(("name", "is_already"), RECOGNISERS.items(), ids=RECOGNISERS)


def test_the_corpus_has_enough_of_each_language_and_kind() -> None:
    corpus = [*samples("dev"), *samples("test")]
    assert len({(sample.text, sample.lang) for sample in corpus}) == len(corpus) >= 360
    for lang in ("zh-Hans", "zh-Hant", "en", "ru", "ja", "ko", "uk", "bg", "fr", "de"):
        kinds = Counter(sample.kind for sample in corpus if sample.lang == lang)
        assert kinds.total() >= 30, lang
        assert kinds["short"] >= kinds.total() / 3, lang
        assert kinds["mixed"] >= kinds.total() / 5, lang


def test_the_corpus_has_the_script_that_it_says() -> None:
    (convert,) = RECOGNISERS["cn"].args  # type: ignore[attr-defined]  # a partial: OpenCC's function
    texts = [(sample.text, sample.lang) for of_set in ("dev", "test") for sample in samples(of_set)]
    assert not [text for text, lang in texts if lang == "zh-Hant" and convert(text) == text]
    assert not [text for text, lang in texts if lang in ("zh-Hans", "zh") and convert(text) != text]


@pytest.mark.parametrize(("name", "of_set"), MEASURED)
def test_errors_are_no_more_than_measured(name: str, of_set: str) -> None:
    found = errors(name, RECOGNISERS[name], samples(of_set))
    most_already, most_not_already = MEASURED[name, of_set]
    assert len(found.false_already) <= most_already, found.false_already
    assert len(found.false_not_already) <= most_not_already, found.false_not_already


def test_the_table_of_errors_has_a_line_for_each_language_and_half() -> None:
    assert len(error_table()) == 2 + len(MEASURED)


def test_no_frequent_word_speaks_for_two_sides() -> None:
    assert not (ENGLISH | LOANS) & OTHER_LATIN
    assert not RUSSIAN & OTHER_CYRILLIC


@each_language
@pytest.mark.parametrize("text", ["", " \n", "42", "3.14 × 2 = ?", "🌻🌻", "…", "⟦1⟧ ⟦2⟧", "2026-11-25 → 12:30"])
def test_a_text_without_letters_needs_no_translation(name: str, is_already: Callable[[str], bool], text: str) -> None:
    assert is_already(text)


@each_language
@pytest.mark.parametrize("text", ["Python", "OpenAI API", "Berlin", "HTTP/2", "PostgreSQL 17", "Leonardo da Vinci"])
def test_names_alone_need_no_translation(name: str, is_already: Callable[[str], bool], text: str) -> None:
    assert is_already(text)


@each_language
def test_a_long_text_is_looked_at_at_both_ends_and_in_between(name: str, is_already: Callable[[str], bool]) -> None:
    own = LONG[name] * 40
    assert is_already(own)
    for other, text in LONG.items():
        if other != name:
            foreign = text * 6
            assert not is_already(foreign + own)
            assert not is_already(own + foreign)
            assert not is_already(own + foreign + own)


@each_language
def test_a_foreign_passage_is_met_in_a_text_that_is_sampled(name: str, is_already: Callable[[str], bool]) -> None:
    own = (LONG[name] * 100_000)[:1_000_000]
    assert is_already(own)
    foreign = LONG["ru" if name == "en" else "en"] * 500
    for place in (0, 123_456, 654_321, 1_000_000):
        assert not is_already(own[:place] + foreign + own[place:])


@each_language
def test_a_million_characters_hold_nobody_up(name: str, is_already: Callable[[str], bool]) -> None:
    for text in ((LONG[name] * 100_000)[:1_000_000], "a" * 1_000_000, "“" * 1_000_000, "'n" * 500_000, "(я(" * 333_333):
        started = time.perf_counter()
        is_already(text)
        assert time.perf_counter() - started < 0.1  # a fiftieth of it is usual


@each_language
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_gets_a_verdict_and_always_the_same(name: str, is_already: Callable[[str], bool], text: str) -> None:
    assert is_already(text) is is_already(text)


@each_language
@given(text=st.text(st.characters(categories=["N", "P", "S", "Z"])))
def test_signs_alone_are_no_language(name: str, is_already: Callable[[str], bool], text: str) -> None:
    assert is_already("".join(sign for sign in text if not sign.isalpha()))


@pytest.mark.parametrize("sample", samples("dev"), ids=lambda sample: f"{sample.lang}-{sample.text[:20]}")
def test_letters_and_signs_in_two_pieces_count_as_one(sample: Sample) -> None:
    for name, is_already in RECOGNISERS.items():
        if sample.lang in OWN_LANGUAGES[name]:
            assert is_already(unicodedata.normalize("NFD", sample.text))


@pytest.mark.parametrize(("plugin", "tag"), [(en, "en"), (ru, "ru")])
def test_english_and_russian_leave_the_translation_to_the_engine(plugin: object, tag: str) -> None:
    async def engine(texts: Sequence[str], wanted: str) -> list[str | None]:
        return [None if text == "?" else f"{wanted}:{text}" for text in texts]

    async def none(texts: Sequence[str], wanted: str) -> list[str | None]:
        raise TranslationFailed("no engine answers")

    (spec,) = plugin.gateway_translators()  # type: ignore[attr-defined]  # a plugin
    assert (spec.name, spec.tag) == (tag, tag)
    context = TranslationContext("v1/chat/completions", "1.0", "alice", engine)
    assert asyncio.run(spec.translate(["你好", "?"], context)) == [f"{tag}:你好", None]
    with pytest.raises(TranslationFailed):
        asyncio.run(spec.translate(["你好"], TranslationContext("v1/completions", "1.0", "alice", none)))
