"""The language of an answer's text: which texts are translated, and that a failure never costs the answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from gateway.hookspecs import TranslatorSpec
from gateway.translation.answers import MAX_CHARS, languages, translate_answer
from gateway.types import TranslationContext
from tests.chaos import Chaos, answer, sse_answer
from tests.support import Answer, Gateway, call, custom_path, gateway_before_chaos, native

CONTEXT = TranslationContext("v1/chat/completions", "1.0", "someone")


async def shout(texts: Sequence[str], context: TranslationContext) -> list[str]:
    return [text.upper() for text in texts]


def translator(translate: Any = shout) -> TranslatorSpec:  # Any: what a faulty plugin returns
    return TranslatorSpec("loud", "de", str.isupper, translate)


async def translated(value: object, translate: Any = shout) -> tuple[Any, str]:
    text, status, _ = await translate_answer(json.dumps(value).encode(), translator(translate), CONTEXT, 5.0)
    return json.loads(text), status


async def test_the_documented_texts_are_translated_and_nothing_else() -> None:
    source = {
        "id": "cmpl-a",
        "text": "a transcription",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "one", "refusal": "r"}, "finish_reason": "stop"},
            {"text": "two", "logprobs": None},
            {"message": {"content": None, "tool_calls": [{"function": {"arguments": "{}"}}]}},
            "odd",
        ],
        "error": {"message": "no"},
    }
    wanted = json.loads(json.dumps(source))
    wanted["text"] = "A TRANSCRIPTION"
    wanted["choices"][0]["message"]["content"] = "ONE"
    wanted["choices"][1]["text"] = "TWO"
    assert await translated(source) == (wanted, "translated")


@pytest.mark.parametrize(
    "text", [b'{"text": "LOUD",  "n": 1.0}', b'{"text": " "}', b'{"choices": "x"}', b"[1]", b'"text"']
)
async def test_what_needs_no_work_stays_as_it_was_written(text: bytes) -> None:
    assert (await translate_answer(text, translator(), CONTEXT, 5.0))[:2] == (text, "already")


async def test_of_a_response_its_output_is_translated() -> None:
    def response(text: str) -> dict[str, Any]:
        parts = [{"type": "output_text", "text": text, "annotations": []}, {"type": "refusal", "refusal": "no"}]
        item = {"type": "message", "role": "assistant", "content": parts}
        return {
            "id": "resp_1",
            "output": [{"type": "reasoning", "summary": []}, item],
            "text": {"format": {"type": "text"}},
        }

    assert await translated(response("one two")) == (response("ONE TWO"), "translated")


async def test_only_what_is_prose_and_not_in_the_language_goes_to_the_translator_and_in_one_batch() -> None:
    batches = []

    async def kept(texts: Sequence[str], context: TranslationContext) -> list[str]:
        batches.append(list(texts))
        return [text.upper() for text in texts]

    text = "## one two\n\nTHREE. See `code.x` at https://a.b/c!\n\n```py\nx = 1\n```\n- four **five** 6.5\n"
    wanted = "## ONE TWO\n\nTHREE. SEE `code.x` AT https://a.b/c!\n\n```py\nx = 1\n```\n- FOUR **FIVE** 6.5\n"
    assert await translated({"choices": [{"text": text}, {"text": "six"}]}, kept) == (
        {"choices": [{"text": wanted}, {"text": "SIX"}]},
        "translated",
    )
    assert batches == [["one two", "See \u27e61\u27e7 at \u27e62\u27e7!", "four **five** \u27e61\u27e7", "six"]]


async def test_one_piece_that_fails_leaves_its_source_and_says_so() -> None:
    async def partly(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
        return [None if "two" in text else text.upper() for text in texts]

    assert await translated({"text": "one! Two two. Three"}, partly) == ({"text": "ONE! Two two. THREE"}, "partial")


async def test_between_sentences_there_is_the_space_that_the_language_wants() -> None:
    async def chinese(texts: Sequence[str], context: TranslationContext) -> list[str]:
        return [f"{len(text)}个字。".replace(str(len(text)), "几") for text in texts]

    async def english(texts: Sequence[str], context: TranslationContext) -> list[str]:
        return ["Some words." for _ in texts]

    for tag, translate, source, wanted in [
        ("zh-Hans", chinese, "One here. Two here.\n\nThree here.", "几个字。几个字。\n\n几个字。"),
        ("en", english, "一句话。两句话。", "Some words. Some words."),
    ]:
        spec = TranslatorSpec("x", tag, lambda text: "." not in text and "\u3002" not in text, translate)
        got, _, _ = await translate_answer(json.dumps({"text": source}).encode(), spec, CONTEXT, 5.0)
        assert json.loads(got)["text"] == wanted


async def test_an_answer_that_is_too_long_stays() -> None:
    value = {"text": "a b. " * (MAX_CHARS // 5 + 1)}
    assert await translated(value) == (value, "failed")


async def raising(texts: Sequence[str], context: TranslationContext) -> list[str]:
    raise RuntimeError("a secret")


async def too_few(texts: Sequence[str], context: TranslationContext) -> list[str]:
    return []


async def nothing(texts: Sequence[str], context: TranslationContext) -> None:
    return None


async def half_a_pair(texts: Sequence[str], context: TranslationContext) -> list[str]:
    return ["\ud83d" for _ in texts]


async def exiting(texts: Sequence[str], context: TranslationContext) -> list[str]:
    raise SystemExit(1)


async def cancelling_its_own(texts: Sequence[str], context: TranslationContext) -> list[str]:
    part = asyncio.create_task(shout(texts, context))
    part.cancel()
    return await part


FAULTY = [
    raising,
    too_few,
    nothing,
    exiting,
    cancelling_its_own,
    lambda texts, context: ["not awaitable"],
]


@pytest.mark.parametrize("faulty", FAULTY)
async def test_a_faulty_translator_leaves_the_source(faulty: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert await translated({"text": "a", "choices": [{"text": "b"}]}, faulty) == (
        {"text": "a", "choices": [{"text": "b"}]},
        "failed",
    )
    assert "translation to loud failed" in caplog.text
    assert "a secret" not in caplog.text


async def test_a_translator_may_leave_every_text_as_it_is() -> None:
    async def no_texts(texts: Sequence[str], context: TranslationContext) -> list[None]:
        return [None for _ in texts]

    assert await translated({"text": "a"}, no_texts) == ({"text": "a"}, "failed")
    assert await translated({"text": "a"}, half_a_pair) == ({"text": "a"}, "failed")


async def test_all_else_in_an_answer_stays_as_it_was_written() -> None:
    text = b'{"id": 123456789012345678901234567890, "f": 1.50, "choices": [{"x": [1.0], "text": "a"}]}'
    got, status, _ = await translate_answer(text, translator(), CONTEXT, 5.0)
    assert status == "translated"
    assert got == b'{"id":123456789012345678901234567890,"f":1.50,"choices":[{"x":[1.0],"text":"A"}]}'


async def test_half_a_surrogate_pair_in_an_answer_costs_nothing() -> None:
    text = b'{"id": "\\ud83d", "choices": [{"text": "a"}, {"text": "b \\ud83d"}]}'
    got, status, _ = await translate_answer(text, translator(), CONTEXT, 5.0)
    assert status == "partial"
    assert json.loads(got) == json.loads(text.replace(b'"a"', b'"A"'))


async def test_a_translator_that_hangs_leaves_the_source_at_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    async def hang(texts: Sequence[str], context: TranslationContext) -> list[str]:
        await asyncio.Event().wait()
        return []

    text = b'{"text": "a"}'
    assert await translate_answer(text, translator(hang), CONTEXT, 0.01) == (text, "failed", "a")
    assert "translation to loud failed: TimeoutError" in caplog.text


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyError])
async def test_whatever_the_decision_raises_leaves_the_source(error: type[BaseException]) -> None:
    def decide(text: str) -> bool:
        raise error

    spec = TranslatorSpec("x", "de", decide, shout)
    assert await translate_answer(b'{"text": "a"}', spec, CONTEXT, 5.0) == (b'{"text": "a"}', "failed", "a")


async def test_the_operator_hears_of_a_slow_decision(caplog: pytest.LogCaptureFixture) -> None:
    def decide(text: str) -> bool:
        time.sleep(0.11)  # the plugin's fault
        return True

    await translate_answer(b'{"text": "a"}', TranslatorSpec("snail", "de", decide, shout), CONTEXT, 5.0)
    assert "the translator to snail held up every call" in caplog.text


@pytest.mark.parametrize(
    "text",
    ["\n" * 399_000 + "word", "\\\\begin{a}\n" * 30_000, "Да.\n" * 90_000, "ok" + "-" * 90_000, "x" + "❀" * 90_000],
)
async def test_other_calls_have_their_turn_while_a_hard_answer_is_taken_apart(text: str) -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - started)

    watching = asyncio.create_task(watch())
    await translated({"text": text})
    watching.cancel()
    assert longest < 1.5  # some hundredths, on a machine of one's own


async def test_a_client_that_leaves_ends_the_translation() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(texts: Sequence[str], context: TranslationContext) -> list[str]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return []

    task = asyncio.create_task(translated({"text": "a"}, hang))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_the_documented_languages_exist_without_any_plugin() -> None:
    assert languages({}) == ("cn", "en", "ru")
    assert languages({"ja": translator()}) == ("cn", "en", "ja", "ru")


# Through the gateway

PLUGIN = """
from gateway.hookspecs import TranslatorSpec, hookimpl


async def shout(texts, context):
    return [f"{text.upper()} ({context.method}, {context.account})" for text in texts]


async def fail(texts, context):
    raise RuntimeError("no")


@hookimpl
def gateway_translators():
    return [TranslatorSpec("loud", "de", str.isupper, shout), TranslatorSpec("broken", "da", str.isupper, fail)]
"""
SOURCE = '{"choices": [{"message": {"content": "Grüße 你好"}}],  "n": 1.0}'.encode()


@pytest.fixture(scope="module")
def translating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a translator that works and one that fails."""
    directory = tmp_path_factory.mktemp("plugins")
    (directory / "translating.py").write_text(PLUGIN)
    with gateway_before_chaos(
        config='[plugins]\noff = ["ru"]\n', arguments=("--plugins-dir", str(directory))
    ) as gateway:
        yield gateway


async def ask(gateway: Gateway, front: str, lang: str) -> Answer:
    if front == "native":
        return await native(gateway, "POST", f"/v1/chat/completions?lang={lang}", b'{"messages":[]}')
    path = custom_path(
        gateway, method="v1/chat/completions", messages="[]", lang=lang, version="2", result_type="jsonu"
    )
    return await call(gateway, "GET", path)


@pytest.mark.parametrize("front", ["custom", "native"])
@pytest.mark.parametrize(
    ("lang", "content", "status"),
    [
        ("", "Grüße 你好", None),
        ("loud", "GRÜSSE 你好 (v1/chat/completions, tester)", "translated"),
        ("broken", "Grüße 你好", "failed"),
        ("ru", "Grüße 你好", "unavailable"),
    ],
)
async def test_the_answer_says_how_its_translation_went(
    translating: Gateway, front: str, lang: str, content: str, status: str | None
) -> None:
    async with Chaos(answer(SOURCE), port=translating.upstream_port):
        got = await ask(translating, front, lang)
    body = got.json["response"] if front == "custom" else got.json
    assert body["choices"][0]["message"]["content"] == content
    assert got.headers.get("x-translate-status") == status
    if front == "custom":
        assert (got.json["translate_status"], got.json["translate_language"]) == (status or "", lang)
    if status != "translated":
        assert SOURCE in got.body  # not a byte of it is touched


@pytest.mark.parametrize("lang", ["", "ru"])
async def test_a_stream_that_is_not_translated_is_untouched_and_says_so(translating: Gateway, lang: str) -> None:
    events = [b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n', b"data: [DONE]\n\n"]
    async with Chaos(sse_answer(events), port=translating.upstream_port):
        body = b'{"messages":[],"stream":true}'
        got = await native(translating, "POST", f"/v1/chat/completions?lang={lang}", body)
    assert got.body == b"".join(events)
    assert got.headers.get("x-translate-status") == ("unavailable" if lang else None)


async def test_an_error_is_not_translated(translating: Gateway) -> None:
    body = b'{"text": "quiet"}'
    async with Chaos(answer(body, "application/json", 404), port=translating.upstream_port):
        got = await native(translating, "GET", "/v1/models/x?lang=loud")
    assert (got.body, got.headers.get("x-translate-status")) == (body, None)
