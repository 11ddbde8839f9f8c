"""`lang` on both fronts, against a scripted upstream and a scripted engine on sockets of their own."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import phpserialize  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.books import check_books, database_of, rows
from tests.chaos import (
    LAST_CHUNK,
    Chaos,
    Close,
    Cut,
    Exchange,
    Hang,
    Script,
    chunk,
    json_answer,
    sse_answer,
    sse_head,
)
from tests.engines import completion, engine, pretended
from tests.support import (
    Answer,
    Gateway,
    call,
    custom_path,
    free_port,
    gateway_before_chaos,
    gateway_process,
    native,
    request_bytes,
)

FORMATS = ("json", "jsonu", "xml", "serialize", "var_export")
ENGLISH = "The harbour was quiet on that morning. Two boats left for the islands before the sun was up."
RUSSIAN = "В то утро в гавани было тихо. Две лодки ушли к островам ещё до восхода солнца."
CHINESE = "那天早上港口很安静。太阳升起之前，有两条船去了岛上。"
TRADITIONAL = "那天早上港口很安靜。太陽升起之前，有兩條船去了島上。"
TEXTS = {"en": ENGLISH, "ru": RUSSIAN, "cn": CHINESE}
SPOKEN = {"en": "en", "ru": "ru", "cn": "zh"}
SENTENCES = {
    "en": [ENGLISH[: ENGLISH.index(".") + 1], ENGLISH[ENGLISH.index(".") + 2 :]],
    "ru": [RUSSIAN[: RUSSIAN.index(".") + 1], RUSSIAN[RUSSIAN.index(".") + 2 :]],
    "cn": [CHINESE[: CHINESE.index("。") + 1], CHINESE[CHINESE.index("。") + 1 :]],
}


@dataclass(frozen=True, slots=True)
class Languages:
    """A gateway whose engine listens, or not, at a port of its own."""

    gateway: Gateway
    engine_port: int


def started(config: str = "", translation: str = "") -> Iterator[Languages]:
    port = free_port()
    config += f'\n[translation]\nupstream = "engine"\ntimeout_s = 2\n{translation}\n'
    second = f'[[upstream]]\nname = "engine"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
    with gateway_before_chaos(config, second) as gateway:
        yield Languages(gateway, port)


@pytest.fixture(scope="module")
def languages() -> Iterator[Languages]:
    yield from started()


@pytest.fixture
def fresh() -> Iterator[Languages]:
    """One that remembers no translation and no failure."""
    yield from started()


def chat(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def piece(text: str | None, *, role: str | None = None, finish: str | None = None) -> bytes:
    delta = {name: value for name, value in (("role", role), ("content", text)) if value is not None}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    value = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def tokens(text: str) -> list[str]:
    """The text in pieces of about a token."""
    words = text.replace(" ", "\0 ").split("\0")
    return [
        part
        for word in words
        for part in ([word] if word.isascii() else [word[at : at + 2] for at in range(0, len(word), 2)])
    ]


def pieces(text: str) -> list[bytes]:
    return [piece("", role="assistant"), *map(piece, tokens(text)), piece(None, finish="stop"), b"data: [DONE]\n\n"]


def said(body: bytes) -> str:
    """What a client reads of a stream's first choice."""
    text = ""
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", []):
                text += choice["delta"].get("content") or ""
    return text


def expected(source: str, lang: str) -> str:
    """What the scripted engine makes of a whole text: between Chinese sentences there is no space."""
    return ("" if lang == "cn" else " ").join(pretended(sentence, SPOKEN[lang]) for sentence in SENTENCES[source])


async def ask(gateway: Gateway, front: str, *, stream: bool = False, **parameters: str) -> Answer:
    arguments = {"messages": [{"role": "user", "content": "x"}], "stream": stream}
    if front == "native":
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return await native(gateway, "POST", f"/v1/chat/completions?{query}", json.dumps(arguments).encode())
    path = custom_path(gateway, method="v1/chat/completions", _o_args=json.dumps(arguments), **parameters)
    return await call(gateway, "GET", path)


@asynccontextmanager
async def scripted(languages: Languages, upstream: Script, *engines: Script) -> AsyncIterator[tuple[Chaos, Chaos]]:
    async with (
        Chaos(upstream, port=languages.gateway.upstream_port) as first,
        Chaos(*(engines or (engine(),)), port=languages.engine_port) as second,
    ):
        yield first, second


# Formats, fronts, languages


@pytest.mark.parametrize("front", ["custom", "native"])
@pytest.mark.parametrize("result_type", FORMATS)
@pytest.mark.parametrize("lang", ["cn", "en", "ru"])
@pytest.mark.parametrize("source", ["cn", "en", "ru"])
async def test_every_format_on_both_fronts_in_each_language(
    languages: Languages, front: str, result_type: str, lang: str, source: str
) -> None:
    wanted = TEXTS[lang] if source == lang else expected(source, lang)
    async with scripted(languages, json_answer(chat(TEXTS[source]))) as (_, second):
        got = await ask(languages.gateway, front, lang=lang, result_type=result_type)
        if source == lang:
            assert not second.exchanges
    assert (got.status, got.headers["x-error-code"]) == (200, "0000")
    assert got.headers["x-translate-status"] == ("already" if source == lang else "translated")
    content = got.body.decode()
    if result_type in {"json", "jsonu"}:
        body = got.json["response"] if front == "custom" else got.json
        assert body["choices"][0]["message"]["content"] == wanted
        assert (
            content.isascii() == (result_type == "json" and front == "custom") or wanted.isascii() or front == "native"
        )
    elif result_type == "serialize":
        value = phpserialize.loads(got.body, decode_strings=True)
        body = value["response"] if front == "custom" else value
        assert body["choices"][0]["message"]["content"] == wanted
    else:
        assert wanted in content


@pytest.mark.parametrize("front", ["custom", "native"])
@pytest.mark.parametrize("result_type", FORMATS)
@pytest.mark.parametrize("lang", ["cn", "en", "ru"])
async def test_streams_in_every_format_on_both_fronts_in_each_language(
    languages: Languages, front: str, result_type: str, lang: str
) -> None:
    source = "ru" if lang == "en" else "en"
    async with scripted(languages, sse_answer(pieces(TEXTS[source]))):
        got = await ask(languages.gateway, front, stream=True, lang=lang, result_type=result_type)
    assert got.complete
    assert got.headers["x-translate-status"] == "translated"
    for sentence in SENTENCES[source]:
        assert pretended(sentence, SPOKEN[lang]) in (said(got.body) if result_type == "json" else got.body.decode())
    assert got.body.isascii() or result_type != "json"
    assert got.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("front", ["custom", "native"])
async def test_an_unknown_language_is_refused_and_those_that_exist_are_named(languages: Languages, front: str) -> None:
    got = await ask(languages.gateway, front, lang="xx", result_type="json")
    assert got.headers["x-error-code"] == "4003"
    assert "lang must be one of cn, en, ru" in got.body.decode()


@pytest.mark.parametrize("front", ["custom", "native"])
async def test_traditional_characters_need_no_engine(languages: Languages, front: str) -> None:
    async with scripted(languages, json_answer(chat(TRADITIONAL))) as (_, second):
        got = await ask(languages.gateway, front, lang="cn", result_type="jsonu")
    body = got.json["response"] if front == "custom" else got.json
    assert body["choices"][0]["message"]["content"] == CHINESE
    assert got.headers["x-translate-status"] == "translated"
    assert not second.exchanges
    async with scripted(languages, sse_answer(pieces(TRADITIONAL))) as (_, second):
        got = await ask(languages.gateway, front, stream=True, lang="cn")
    assert said(got.body) == CHINESE
    assert not second.exchanges


# Without a language


@pytest.mark.parametrize("front", ["custom", "native"])
async def test_without_a_language_no_engine_is_called_and_streams_are_exact(languages: Languages, front: str) -> None:
    sent = pieces(ENGLISH)
    async with scripted(languages, sse_answer(sent)) as (_, second):
        got = await ask(languages.gateway, front, stream=True)
    assert got.body == b"".join(sent)
    assert "x-translate-status" not in got.headers
    assert not second.exchanges


@pytest.mark.parametrize("lang", ["cn", "en", "ru"])
async def test_a_stream_in_the_language_already_is_exact(languages: Languages, lang: str) -> None:
    sent = [one.replace(b"\n", b"\r\n") for one in pieces(TEXTS[lang])] + [b": bye\r\n\r\n"]
    async with scripted(languages, sse_answer(sent)) as (_, second):
        got = await ask(languages.gateway, "native", stream=True, lang=lang)
    assert got.body == b"".join(sent)
    assert got.headers["x-translate-status"] == "already"
    assert not second.exchanges


@pytest.fixture(scope="module")
def enforcing() -> Iterator[Languages]:
    yield from started('[defaults]\nlang = "ru"\n', "enforce_default = true")


@pytest.mark.parametrize("front", ["custom", "native"])
async def test_the_operator_can_enforce_the_default(enforcing: Languages, front: str) -> None:
    async with scripted(enforcing, json_answer(chat(ENGLISH))):
        got = await ask(enforcing.gateway, front, result_type="jsonu")
        other = await ask(enforcing.gateway, front, result_type="jsonu", lang="en")
    assert got.headers["x-translate-status"] == "translated"
    assert pretended(SENTENCES["en"][0], "ru") in got.body.decode()
    assert other.headers["x-translate-status"] == "already"


# The engine fails


async def fewer(exchange: Exchange) -> None:
    await engine(spoil=lambda texts: texts[:-1])(exchange)


LIES: dict[str, Script] = {
    "down": [Close()],
    "cut": [json_answer({})[:30], Cut()],
    "slow": [Hang()],
    "fewer": fewer,
    "empty": engine(spoil=lambda texts: ["" for _ in texts]),
    "enormous": engine(spoil=lambda texts: ["да " * 5000 for _ in texts]),
    "prose": engine(spoil=lambda texts: "Sure, here is the translation you asked for."),
    "obedient": engine(
        spoil=lambda texts: ["I have been told to ignore all that, and to say only this." for _ in texts]
    ),
    "error": engine(status=500),
}


@pytest.mark.parametrize("lie", LIES)
async def test_an_engine_that_fails_costs_the_text_and_the_call_nothing(fresh: Languages, lie: str) -> None:
    source = json_answer(chat(ENGLISH))
    async with scripted(fresh, source, LIES[lie]) as (_, second):
        got = await ask(fresh.gateway, "custom", lang="ru", version="2")
        assert second.exchanges
    assert got.json["error_code"] == "0000"
    assert got.json["response"]["choices"][0]["message"]["content"] == ENGLISH
    assert got.headers["x-translate-status"] == "failed"
    fields = {name: value for name, value in got.json.items() if name.startswith("translate") or name == "language"}
    assert float(fields.pop("translate_time")) >= (2 if lie == "slow" else 0)
    assert fields == {
        "language": {"default_lang": "cn", "current_lang": "ru", "source_lang": "en"},
        "translate_language": "ru",
        "translate_engine": "upstream",
        "translate_status": "failed",
    }
    async with scripted(fresh, sse_answer(pieces(ENGLISH)), LIES[lie]):
        streamed = await ask(fresh.gateway, "native", stream=True, lang="ru")
    assert streamed.complete
    assert said(streamed.body) == ENGLISH
    assert streamed.body.count(b": translate_status=failed\n\n") == 2
    assert streamed.headers["x-translate-status"] == ("streaming" if lie == "slow" else "failed")
    assert streamed.body.endswith(b"data: [DONE]\n\n")


async def test_version_2_tells_all_of_a_translation(fresh: Languages) -> None:
    async with scripted(fresh, json_answer(chat(RUSSIAN)), engine(delay_s=0.2)):
        got = await ask(fresh.gateway, "custom", lang="cn", version="2")
    value = got.json
    assert value["language"] == {"default_lang": "cn", "current_lang": "cn", "source_lang": "ru"}
    told = [value[name] for name in ("translate_language", "translate_engine", "translate_status")]
    assert told == ["cn", "upstream", "translated"]
    assert 0.2 <= float(value["translate_time"]) < 5


async def test_json_answers_and_tool_calls_are_not_translated(languages: Languages) -> None:
    arguments = {"messages": [], "response_format": {"type": "json_object"}}
    content = json.dumps({"answer": ENGLISH})
    async with scripted(languages, json_answer(chat(content))) as (_, second):
        asked = await native(languages.gateway, "POST", "/v1/chat/completions?lang=ru", json.dumps(arguments).encode())
        unasked = await ask(languages.gateway, "native", lang="ru")
    assert asked.json["choices"][0]["message"]["content"] == content
    assert unasked.json["choices"][0]["message"]["content"] == content
    assert not second.exchanges


# Streams in time


def paced(text: str, stamps: dict[str, float], pace_s: float = 0.025) -> Script:
    """A stream of 40 tokens a second; when the first sentence's last token left, and when the stream ended."""

    async def play(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(sse_head() + chunk(piece("", role="assistant")))
        due = time.monotonic()
        sent = ""
        for token in tokens(text):
            due += pace_s
            await asyncio.sleep(due - time.monotonic())
            sent += token
            if "." in token and "first" not in stamps:
                stamps["first"] = time.monotonic()
            await exchange.send(chunk(piece(token)))
        stamps["end"] = time.monotonic()
        await exchange.send(chunk(piece(None, finish="stop")) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK)

    return play


async def timed(gateway: Gateway, target: str) -> tuple[float, float, bytes]:
    """When the first chunk with text came, when all was there, and all of it."""
    body = json.dumps({"messages": [], "stream": True}).encode()
    fields = {"Authorization": f"Bearer {gateway.token}", "Connection": "close"}
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(request_bytes("POST", target, body, fields))
        received, first_at = b"", 0.0
        while data := await reader.read(65_536):
            received += data
            if not first_at and "это".encode() in received.lower():
                first_at = time.monotonic()
        return first_at, time.monotonic(), received
    finally:
        writer.close()


LONG = " ".join(
    f"Now comes a sentence with {word} for its subject." for word in ["apples", "bread", "cheese", "dates", "eggs"]
)


async def test_a_sentence_leaves_as_soon_as_it_is_translated_and_the_end_soon_after_the_upstreams(
    languages: Languages,
) -> None:
    """With an engine of 300 ms: 350 ms after a sentence's last token, 700 ms after the end. Best of five: the machine
    is not ours alone.
    """
    firsts, ends = [], []
    for turn in range(5):
        stamps: dict[str, float] = {}
        text = LONG.replace("subject", f"subject {'abcde'[turn]}")
        async with scripted(languages, paced(text, stamps), engine(delay_s=0.3)):
            first_at, end_at, body = await timed(languages.gateway, "/v1/chat/completions?lang=ru")
        assert body.count("это".encode()) >= 5
        firsts.append(first_at - stamps["first"])
        ends.append(end_at - stamps["end"])
        if min(firsts) < 0.35 and min(ends) < 0.7:
            break
    assert min(firsts) < 0.35, firsts
    assert min(ends) < 0.7, ends


async def test_order_is_kept_whatever_the_engine_takes(languages: Languages) -> None:
    pick = random.Random(3)
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    sentences = [f"Here we count the number {word} of them all." for word in numbers]
    script = engine(delay_s=lambda: pick.random() / 3)
    async with scripted(languages, sse_answer(pieces(" ".join(sentences))), script):
        got = await ask(languages.gateway, "native", stream=True, lang="ru")
    assert said(got.body) == " ".join(pretended(sentence, "ru") for sentence in sentences)


async def test_a_client_that_leaves_ends_the_upstreams_call_and_the_engines(fresh: Languages) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(sse_head())
        while True:
            await exchange.send(chunk(piece(" This goes on and on without an end.")))
            await asyncio.sleep(0.02)

    gateway = fresh.gateway
    async with scripted(fresh, endless, [Hang()]) as (first, second):
        body = b'{"messages":[],"stream":true}'
        fields = {"Authorization": f"Bearer {gateway.token}"}
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes("POST", "/v1/chat/completions?lang=ru", body, fields))
        await second.exchange(1)
        writer.transport.abort()
        async with asyncio.timeout(5):
            await first.connections[0].closed.wait()
            for connection in second.connections:
                await connection.closed.wait()


async def test_an_upstream_that_breaks_off_is_told_after_what_it_said(languages: Languages) -> None:
    script: Script = [sse_head() + chunk(b"".join(pieces(ENGLISH)[:-3])), Cut()]
    async with scripted(languages, script):
        got = await ask(languages.gateway, "native", stream=True, lang="ru")
    assert not got.complete
    assert b"[DONE]" not in got.body
    events = [json.loads(line[6:]) for line in got.body.split(b"\n") if line.startswith(b"data: ")]
    assert events[-1]["error"]["code"] == "5000"
    assert pretended(SENTENCES["en"][0], "ru") in said(got.body.partition(b'data: {"error"')[0])


# Money

PRICES = """
[[price]]
method = "v1/chat/completions"
per_call = "0.01"

[[price]]
method = "v1/images/*"
per_image = "0.04"
"""
COST = 'per_call = "0.001"\nper_1k_prompt = "0.01"\nper_1k_completion = "0.02"\n'
REQUEST_MICROS = 1000 + 1000 + 1000  # of the scripted engine's 100 and 50 tokens


@pytest.fixture(scope="module")
def charging() -> Iterator[Languages]:
    for languages in started(PRICES, COST + "charged = true"):
        languages.gateway.cli("accounts", "topup", "tester", "1000")
        yield languages


@pytest.fixture(scope="module")
def noting() -> Iterator[Languages]:
    for languages in started(PRICES, COST):
        languages.gateway.cli("accounts", "topup", "tester", "1000")
        yield languages


async def logged(languages: Languages, last_id: str) -> tuple[int, int, str]:
    """Charge, what its translations cost, and their status, of one call."""
    query = "SELECT charge_micros, translation_micros, translate_status FROM calls WHERE id = ?"
    async with asyncio.timeout(10):
        while not (found := rows(database_of(languages.gateway), query, int(last_id))):
            await asyncio.sleep(0.02)
    charge, translation, status = found[0]
    return charge, translation, status


async def test_what_a_translation_costs_is_on_the_calls_record_and_not_charged_unless_asked(noting: Languages) -> None:
    async with scripted(noting, json_answer(chat(ENGLISH))):
        got = await ask(noting.gateway, "custom", lang="ru", version="2")
        again = await ask(noting.gateway, "custom", lang="ru", version="2")
    assert got.json["charge"] == "0.01"
    assert await logged(noting, got.json["last_id"]) == (10_000, REQUEST_MICROS, "translated")
    assert await logged(noting, again.json["last_id"]) == (10_000, 0, "translated")
    [row] = [row for row in json.loads(noting.gateway.cli("calls", "--json")) if row["last_id"] == got.json["last_id"]]
    assert (row["translate_status"], row["translation_cost"]) == ("translated", "0.003")


async def test_the_operator_can_charge_it(charging: Languages) -> None:
    async with scripted(charging, json_answer(chat(ENGLISH))):
        got = await ask(charging.gateway, "custom", lang="ru", version="2")
        plain = await ask(charging.gateway, "custom", version="2")
    assert (got.json["charge"], plain.json["charge"]) == ("0.013", "0.01")
    assert await logged(charging, got.json["last_id"]) == (10_000 + REQUEST_MICROS, REQUEST_MICROS, "translated")
    async with scripted(charging, sse_answer(pieces(RUSSIAN))):
        streamed = await ask(charging.gateway, "native", stream=True, lang="en")
    assert await logged(charging, streamed.headers["x-last-id"]) == (
        10_000 + 2 * REQUEST_MICROS, 2 * REQUEST_MICROS, "translated",
    )  # fmt: skip
    check_books(database_of(charging.gateway))


async def test_a_call_whose_translation_the_balance_does_not_cover_is_refused(charging: Languages) -> None:
    gateway = charging.gateway
    made = json.loads(gateway.cli("accounts", "add", "poor", "--balance", "0.0125", "--json"))
    fields = {"Authorization": f"Bearer {made['key']}:{made['secret']}"}
    await asyncio.sleep(1.5)  # the server looks for new accounts once a second
    async with scripted(charging, json_answer(chat(ENGLISH))):
        body = b'{"messages":[],"max_tokens":10}'
        plain = await call(gateway, "POST", "/v1/chat/completions", body, fields)
        lang = await call(gateway, "POST", "/v1/chat/completions?lang=ru", body, fields)
    assert (plain.status, lang.headers["x-error-code"]) == (200, "4016")


@pytest.fixture(scope="module")
def strict() -> Iterator[Languages]:
    config = PRICES + '[[price]]\nmethod = "*"\n[defaults]\nlang = "ru"\n'
    yield from started(config, COST + "charged = true\nenforce_default = true")


async def test_a_call_without_text_holds_nothing_for_a_translation(strict: Languages) -> None:
    """The account has no money at all."""
    gateway = strict.gateway
    as_json = b'{"messages":[],"response_format":{"type":"json_object"}}'
    async with scripted(strict, json_answer({"data": []})):
        models = await native(gateway, "GET", "/v1/models")
        vectors = await native(gateway, "POST", "/v1/embeddings", b'{"input":"x"}')
        chatted = await native(gateway, "POST", "/v1/chat/completions", as_json)
    assert (models.status, vectors.status) == (200, 200)
    assert "cost 0.01," in chatted.json["error"]["message"]


async def test_a_client_that_leaves_while_its_answer_is_translated_has_had_the_answer(charging: Languages) -> None:
    gateway = charging.gateway
    key = {"Idempotency-Key": f"leaving-{time.monotonic_ns()}"}
    async with scripted(charging, json_answer(chat(ENGLISH)), engine(delay_s=0.5)) as (first, second):
        request = request_bytes(
            "POST",
            "/v1/chat/completions?lang=cn",
            b'{"messages":[]}',
            {"Authorization": f"Bearer {gateway.token}", **key},
        )
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request)
        await second.exchange(0)
        writer.transport.abort()
        await asyncio.sleep(0.3)
        again = await native(gateway, "POST", "/v1/chat/completions", b'{"messages":[]}', **key)
        assert len(first.exchanges) == 1
    assert again.headers["idempotent-replayed"] == "true"
    charge, _, _ = await logged(charging, again.headers["x-last-id"])
    assert charge >= 10_000
    check_books(database_of(gateway))


async def test_a_replay_is_translated_from_memory_only_where_translations_are_charged(charging: Languages) -> None:
    key = {"Idempotency-Key": f"replay-{time.monotonic_ns()}"}
    async with scripted(charging, json_answer(chat("A sentence that nobody else has asked for so far."))) as (
        _,
        second,
    ):
        target = "/v1/chat/completions"
        await native(charging.gateway, "POST", f"{target}?lang=ru", b'{"messages":[]}', **key)
        asked = len(second.exchanges)
        same = await native(charging.gateway, "POST", f"{target}?lang=ru", b'{"messages":[]}', **key)
        other = await native(charging.gateway, "POST", f"{target}?lang=cn", b'{"messages":[]}', **key)
        assert len(second.exchanges) == asked == 1
    assert (same.headers["x-translate-status"], other.headers["x-translate-status"]) == ("translated", "failed")


async def test_an_absurd_usage_of_the_engine_breaks_nothing(charging: Languages) -> None:
    async def absurd(exchange: Exchange) -> None:
        await exchange.read_body()
        texts = json.loads(exchange.json["messages"][1]["content"])["texts"]
        value = completion(json.dumps({"texts": [pretended(text, "ru") for text in texts]}))
        value["usage"] = {"prompt_tokens": 9 * 10**18, "completion_tokens": 9 * 10**18}
        await exchange.send(json_answer(value))

    sentences = " ".join(f"This is the sentence number {word}." for word in ["one", "two", "three", "four", "five"])
    async with scripted(charging, sse_answer(pieces(sentences)), absurd):
        got = await ask(charging.gateway, "native", stream=True, lang="ru")
    assert got.complete
    assert b"error" not in got.body
    await logged(charging, got.headers["x-last-id"])
    check_books(database_of(charging.gateway))


async def test_what_came_to_nothing_is_not_charged(charging: Languages) -> None:
    charging.gateway.cli("accounts", "topup", "tester", "1000000")
    text = "Another sentence which has never been sent to the engine before."
    async with scripted(charging, json_answer(chat(text)), engine(spoil=lambda texts: ["" for _ in texts])):
        got = await ask(charging.gateway, "custom", lang="ru", version="2")
    assert (got.json["translate_status"], got.json["charge"]) == ("failed", "0.01")
    charge, translation, _ = await logged(charging, got.json["last_id"])
    assert (charge, translation) == (10_000, REQUEST_MICROS)


# Prompts

IMAGES = {"created": 1, "data": [{"url": "https://example.test/1.png"}]}
PROMPT = "Подсолнухи на закате, масло, широкие мазки."


@pytest.mark.parametrize("front", ["custom", "native"])
async def test_an_image_prompt_goes_upstream_in_english_where_that_is_asked_for(
    languages: Languages, front: str
) -> None:
    arguments = {"prompt": PROMPT, "n": 1.0, "size": "512x512"}
    async with scripted(languages, json_answer(IMAGES)) as (first, _):
        if front == "native":
            target = "/v1/images/generations?lang_prompt=yes"
            got = await native(languages.gateway, "POST", target, json.dumps(arguments).encode())
        else:
            path = custom_path(
                languages.gateway, method="v1/images/generations", lang_prompt="yes", _o_args=json.dumps(arguments)
            )
            got = await call(languages.gateway, "GET", path)
        sent = first.exchanges[0]
    assert sent.json == {**arguments, "prompt": pretended(PROMPT, "en")}
    assert b'"n":1.0' in sent.body
    assert got.headers["x-prompt-translate-status"] == "translated"
    assert "x-translate-status" not in got.headers


async def test_a_prompt_is_left_alone_unless_asked_for_and_where_it_is_english(languages: Languages) -> None:
    english = json.dumps({"prompt": "A field of sunflowers at dusk, painted in oil with a broad brush."}).encode()
    async with scripted(languages, json_answer(IMAGES)) as (first, second):
        plain = await native(
            languages.gateway, "POST", "/v1/images/generations", json.dumps({"prompt": PROMPT}).encode()
        )
        already = await native(languages.gateway, "POST", "/v1/images/generations?lang_prompt=yes", english)
        chat_call = await native(languages.gateway, "POST", "/v1/chat/completions?lang_prompt=yes", b'{"messages":[]}')
    assert first.exchanges[0].json["prompt"] == PROMPT
    assert first.exchanges[1].body == english
    assert "x-prompt-translate-status" not in plain.headers | chat_call.headers
    assert already.headers["x-prompt-translate-status"] == "already"
    assert not second.exchanges


async def test_a_prompt_that_cannot_be_translated_goes_as_it_is(fresh: Languages) -> None:
    body = json.dumps({"prompt": PROMPT}).encode()
    async with scripted(fresh, json_answer(IMAGES), LIES["down"]) as (first, _):
        got = await native(fresh.gateway, "POST", "/v1/images/generations?lang_prompt=yes", body)
    assert first.exchanges[0].body == body
    assert (got.status, got.headers["x-prompt-translate-status"]) == (200, "failed")


async def test_an_accounts_prompts_are_translated_where_the_operator_says_so(fresh: Languages) -> None:
    gateway = fresh.gateway
    assert '"lang_prompt": true' in gateway.cli("accounts", "set", "tester", "--lang-prompt", "yes", "--json")
    await asyncio.sleep(1.5)  # as above
    body = json.dumps({"prompt": PROMPT}).encode()
    async with scripted(fresh, json_answer(IMAGES)) as (first, _):
        await native(gateway, "POST", "/v1/images/generations", body)
        await native(gateway, "POST", "/v1/images/generations?lang_prompt=no", body)
    assert first.exchanges[0].json["prompt"] == pretended(PROMPT, "en")
    assert first.exchanges[1].body == body


# LibreTranslate, and the demonstration


async def test_libretranslate_can_be_the_engine() -> None:
    port = free_port()
    config = f'[translation]\nengine = "libretranslate"\nurl = "http://127.0.0.1:{port}"\n'
    with gateway_before_chaos(config) as gateway:
        async with scripted(Languages(gateway, port), json_answer(chat(ENGLISH))) as (_, second):
            got = await ask(gateway, "custom", lang="cn", version="2")
    assert second.exchanges[0].target == "/translate"
    assert got.json["response"]["choices"][0]["message"]["content"] == expected("en", "cn")
    assert got.json["translate_engine"] == "libretranslate"


async def test_without_an_engine_only_what_needs_none_is_done() -> None:
    with gateway_before_chaos('[translation]\nengine = "none"\n') as gateway:
        languages = Languages(gateway, free_port())
        async with scripted(languages, json_answer(chat(ENGLISH))):
            got = await ask(gateway, "native", lang="cn")
        async with scripted(languages, json_answer(chat(TRADITIONAL))):
            local = await ask(gateway, "native", lang="cn")
    assert got.json["choices"][0]["message"]["content"] == ENGLISH
    assert got.headers["x-translate-status"] == "failed"
    assert local.json["choices"][0]["message"]["content"] == CHINESE


async def test_the_demonstration_translates_its_phrases_in_a_stream() -> None:
    with gateway_process() as gateway:
        arguments = {"messages": [{"role": "user", "content": "向日葵"}], "stream": True}
        path = custom_path(gateway, method="v1/chat/completions", lang="ru", _o_args=json.dumps(arguments))
        got = await call(gateway, "GET", path)
        arguments["messages"] = [{"role": "user", "content": "Why is the sea salty?"}]
        path = custom_path(gateway, method="v1/chat/completions", lang="cn", _o_args=json.dumps(arguments))
        other = await call(gateway, "GET", path)
    assert said(got.body).startswith("Подсолнух — однолетнее растение семейства астровых. Молодой")
    assert (got.headers["x-translate-status"], b"translate_status=failed" in got.body) == ("translated", False)
    assert "Why is the sea salty" in said(other.body)
    assert "translate_status=failed" not in other.body.decode()
