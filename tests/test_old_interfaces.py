"""Completions and edits through chats, and models under other names, on both fronts and real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from gateway.config import PluginsSettings
from gateway.demo import start
from gateway.plugin_loading import load_plugins
from gateway.types import Document
from tests.books import charges, check_books, database_of, rows
from tests.chaos import (
    LAST_CHUNK,
    Chaos,
    Cut,
    Exchange,
    Step,
    WaitFor,
    answer,
    chunk,
    json_answer,
    sse_answer,
    sse_head,
)
from tests.engines import engine, pretended
from tests.support import (
    UPSTREAM_KEY,
    Answer,
    Gateway,
    call,
    custom_path,
    free_port,
    gateway_before_chaos,
    gateway_process,
    native,
)
from tests.test_joining import DONE, stream
from tests.test_reshaping import USAGE, chat, piece

COMPLETIONS, EDITS, CHAT = "v1/completions", "v1/edits", "v1/chat/completions"
MAPPED = '[methods]\nthrough_chat = ["v1/completions", "v1/edits"]\n'
ALIASES = '[[alias]]\nmodel = "text-davinci-*"\nto = "m-1"\n'
QUESTION = '{"prompt": "中国队什么时候进世界杯","max_tokens":200}'
ENGINE = '[[upstream]]\nname = "engine"\nbase_url = "http://127.0.0.1:{}/v1"\n'
FORMATS = load_plugins(PluginsSettings()).formatters
RESULT_TYPES = ("json", "jsonu", "xml", "serialize", "var_export")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """Both methods are mapped, and a model has another name."""
    with gateway_before_chaos(MAPPED + ALIASES) as running:
        yield running


async def ask(gateway: Gateway, method: str, front: str = "custom", arguments: Any = None, **parameters: str) -> Answer:
    body = json.dumps(arguments).encode()
    if front == "native":
        return await native(gateway, "POST", f"/{method}?" + "&".join(f"{k}={v}" for k, v in parameters.items()), body)
    return await call(gateway, "GET", custom_path(gateway, method=method, _o_args=body.decode(), **parameters))


def payloads(answer: Answer) -> list[Any]:
    """The events' JSON, `[DONE]` left out."""
    return [json.loads(data) for data in re.findall(rb"^data: (\{.*)$", answer.body, re.MULTILINE)]


def texts(events: Sequence[Any]) -> dict[int, str]:
    said: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            said[choice["index"]] = said.get(choice["index"], "") + choice["text"]
    return said


# What goes upstream, and what comes back


async def test_a_completion_is_a_chat_upstream_and_a_completion_to_its_caller(gateway: Gateway) -> None:
    async with Chaos(answer(chat("Hello.")), port=gateway.upstream_port) as upstream:
        got = await ask(gateway, COMPLETIONS, "native", {"model": "m", "prompt": "Hi", "temperature": 0.5})
        [sent] = upstream.exchanges
    assert sent.target == "/v1/chat/completions"
    assert sent.json == {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5}
    choice = {"text": "Hello.", "index": 0, "logprobs": None, "finish_reason": "stop"}
    assert got.json == {
        "id": "cmpl-7", "object": "text_completion", "created": 5, "model": "m-1", "choices": [choice], "usage": USAGE,
    }  # fmt: skip
    assert got.headers["x-error-code"] == "0000"


async def test_an_edit_is_answered_in_its_own_form(gateway: Gateway) -> None:
    async with Chaos(answer(chat("What day?")), port=gateway.upstream_port) as upstream:
        got = await ask(gateway, EDITS, arguments={"model": "m", "input": "wat day", "instruction": "Fix"})
        assert upstream.exchanges[0].json["messages"][1]["content"] == "wat day"
    choices = [{"text": "What day?", "index": 0}]
    assert got.json["response"] == {"object": "edit", "created": 5, "choices": choices, "usage": USAGE}


async def test_several_prompts_are_several_chats_and_one_answer(gateway: Gateway) -> None:
    async def say(exchange: Exchange) -> None:
        await exchange.read_body()
        prompt = exchange.json["messages"][0]["content"]
        await exchange.send(answer(chat(f"{prompt}0", f"{prompt}1")))

    async with Chaos(say, port=gateway.upstream_port) as upstream:
        got = await ask(gateway, COMPLETIONS, arguments={"model": "m", "prompt": ["a", "b"], "n": 2, "echo": True})
        assert len(upstream.exchanges) == 2
    found = got.json["response"]
    assert [(each["index"], each["text"]) for each in found["choices"]] == [
        (0, "aa0"), (1, "aa1"), (2, "bb0"), (3, "bb1"),
    ]  # fmt: skip
    assert found["usage"]["total_tokens"] == 2 * USAGE["total_tokens"]  # type: ignore[operator]  # a number


@pytest.mark.parametrize("front", ["native", "custom"])
async def test_a_stream_is_a_stream_of_its_own_form(gateway: Gateway, front: str) -> None:
    asked = {"model": "m", "prompt": "p", "stream": True, "echo": True, "stream_options": {"include_usage": True}}
    async with Chaos(sse_answer(stream("é")), port=gateway.upstream_port):
        got = await ask(gateway, COMPLETIONS, front, asked)
    events = payloads(got)
    assert {(each["id"], each["object"]) for each in events[:-1]} == {("cmpl-7", "text_completion")}
    assert texts(events) == {0: "pé"}
    assert [each["choices"][0]["finish_reason"] for each in events[:-1]] == [None, None, "stop"]
    assert events[-1]["usage"] == USAGE
    assert got.body.endswith(DONE)
    assert got.complete
    assert (rb"\u00e9" in got.body) == (front == "custom")  # which has promised ASCII
    assert got.headers["content-type"] == "text/event-stream"


async def test_a_stream_of_several_prompts_has_one_end(gateway: Gateway) -> None:
    async def say(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(sse_answer(stream(exchange.json["messages"][0]["content"].upper())))

    asked = {"model": "m", "prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}}
    async with Chaos(say, port=gateway.upstream_port):
        got = await ask(gateway, COMPLETIONS, "native", asked)
    assert texts(payloads(got)) == {0: "A", 1: "B"}
    assert payloads(got)[-1]["usage"]["total_tokens"] == 2 * USAGE["total_tokens"]  # type: ignore[operator]  # a number
    assert got.body.endswith(DONE)
    assert got.body.count(DONE) == 1


async def test_an_edits_stream_has_its_form_too(gateway: Gateway) -> None:
    async with Chaos(sse_answer(stream("a")), port=gateway.upstream_port):
        got = await ask(gateway, EDITS, "native", {"model": "m", "instruction": "i", "stream": True})
    assert {each["object"] for each in payloads(got)} == {"edit"}
    assert got.body.endswith(DONE)


async def test_an_event_goes_on_as_soon_as_it_is_there(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    script: list[bytes | Step] = [sse_head(), chunk(piece({"content": "a"})), WaitFor(go_on), chunk(DONE), LAST_CHUNK]
    async with Chaos(script, port=gateway.upstream_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        body = b'{"model":"m","prompt":"p","stream":true}'
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        async with asyncio.timeout(5):
            await reader.readuntil(b'"text":"a"')
        go_on.set()
        assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")
        writer.close()


async def test_a_cut_stream_ends_with_an_error_event(gateway: Gateway) -> None:
    script: list[bytes | Step] = [sse_head(), chunk(piece({"content": "a"})), Cut()]
    async with Chaos(script, port=gateway.upstream_port):
        got = await ask(gateway, COMPLETIONS, "native", {"model": "m", "prompt": "p", "stream": True})
    assert payloads(got)[-1]["error"]["code"] == "5000"
    assert DONE not in got.body
    assert not got.complete


@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upstreams_error_passes_as_it_is(gateway: Gateway, prompt: Any, streamed: bool) -> None:
    error = json.dumps({"error": {"message": "no such model", "code": "model_not_found"}}, indent=1).encode()
    async with Chaos(answer(error, "application/json", 404), port=gateway.upstream_port):
        asked = {"model": "m", "prompt": prompt, "stream": streamed}
        plain = await ask(gateway, COMPLETIONS, "native", asked)
        custom = await ask(gateway, COMPLETIONS, arguments=asked)
    assert (plain.status, plain.body, plain.headers["x-error-code"]) == (404, error, "2000")
    assert (custom.json["error_code"], custom.json["response"]) == ("2000", json.loads(error))


async def test_an_answer_that_is_no_chat_is_4002(gateway: Gateway) -> None:
    async with Chaos(json_answer({"object": "list"}), port=gateway.upstream_port):
        got = await ask(gateway, COMPLETIONS, arguments={"model": "m", "prompt": "p"})
    assert got.json["error_code"] == "4002"


async def test_what_a_chat_cannot_do_is_refused_before_anyone_is_asked(gateway: Gateway) -> None:
    async with Chaos(answer(chat("a")), port=gateway.upstream_port) as upstream:
        for wrong in ({"prompt": [1, 2]}, {"prompt": "a", "logprobs": 3}, {"prompt": "a", "best_of": 4}):
            got = await ask(gateway, COMPLETIONS, arguments={"model": "m", **wrong})
            assert (got.json["error_code"], got.json["last_id"]) == ("4003", "")
        path = custom_path(gateway, method=COMPLETIONS, prompt="p", logprobs="3").replace(gateway.secret, "wrong")
        assert (await call(gateway, "GET", path)).json["error_code"] == "4003"  # before 4005, as any 4003
        assert upstream.exchanges == []


async def test_translation_takes_the_texts_of_the_old_form() -> None:
    said = "The sea is salty because of rivers."
    with gateway_before_chaos(
        f'{MAPPED}[translation]\nupstream = "engine"\n', ENGINE.format(port := free_port())
    ) as gateway:
        async with (
            Chaos(engine(), port=port),
            Chaos(answer(chat(said)), sse_answer(stream(said)), port=gateway.upstream_port),
        ):
            asked = {"model": "m", "prompt": "p"}
            whole = await ask(gateway, COMPLETIONS, arguments=asked, lang="cn")
            streamed = await ask(gateway, COMPLETIONS, arguments={**asked, "stream": True}, lang="cn")
    wanted = pretended(said, "zh")
    assert [each.headers["x-translate-status"] for each in (whole, streamed)] == ["translated"] * 2
    assert whole.json["response"]["choices"][0]["text"] == wanted
    assert texts(payloads(streamed)) == {0: wanted}
    assert {each["object"] for each in payloads(streamed)} == {"text_completion"}


# Money, log, cache, keys

PRICES = """
[[price]]
method = "v1/chat/completions"
model = "m-1"
per_call = "0.001"
per_1k_prompt = "1"
per_1k_completion = "2"
"""


@contextmanager
def priced(more: str = "") -> Iterator[Gateway]:
    with gateway_before_chaos(MAPPED + ALIASES + PRICES + more) as gateway:
        gateway.cli("accounts", "topup", "tester", "1000")
        yield gateway
        check_books(database_of(gateway))


def logged(gateway: Gateway) -> list[dict[str, Any]]:
    return list(reversed(json.loads(gateway.cli("calls", "--json"))))


async def test_what_goes_upstream_is_what_costs_and_the_log_has_the_method_that_was_called() -> None:
    say = answer(chat("a"))
    with priced() as gateway:
        async with Chaos(say, say, say, sse_answer(stream("a")), port=gateway.upstream_port) as upstream:
            got = await ask(gateway, COMPLETIONS, arguments={"model": "text-davinci-003", "prompt": "p"}, version="2")
            await ask(gateway, COMPLETIONS, arguments={"model": "text-davinci-003", "prompt": ["p", "q"]})
            asked = {"model": "text-davinci-003", "prompt": "p", "stream": True}
            unasked = await ask(gateway, COMPLETIONS, "native", asked)
            assert upstream.exchanges[3].json["stream_options"] == {"include_usage": True}
        unpriced = await ask(gateway, COMPLETIONS, arguments={"model": "m-2", "prompt": "p"})
        await asyncio.sleep(0.2)
        calls = logged(gateway)
        assert charges(gateway) == [6_000, 11_000, 6_000]  # 1 + 2 * 2 tokens a chat, and the call once
    assert unpriced.json["error_code"] == "4010"
    assert (got.json["charge"], got.json["call_args"]) == ("0.006", {"model": "m-1", "prompt": "p"})
    assert [(each["method"], each["model"], each["settled"]) for each in calls[:3]] == [
        (COMPLETIONS, "m-1", "exact")
    ] * 3
    assert b"usage" not in unasked.body
    assert unasked.body.endswith(DONE)


async def test_a_hold_is_for_all_prompts_and_says_the_method_that_was_called() -> None:
    go_on = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await exchange.read_body()
        await go_on.wait()
        await exchange.send(answer(chat("a")))

    with priced() as gateway:
        async with Chaos(wait, port=gateway.upstream_port) as upstream:
            asked = {"model": "m-1", "prompt": ["p", "q", "r"], "max_tokens": 100}
            task = asyncio.create_task(ask(gateway, COMPLETIONS, arguments=asked))
            await upstream.exchange(2)
            [(method, model, held)] = rows(database_of(gateway), "SELECT method, model, amount_micros FROM holds")
            go_on.set()
            await task
    assert (method, model) == (COMPLETIONS, "m-1")
    assert 600_000 < held < 1_100_000


async def test_a_client_that_leaves_several_ends_them_all_and_pays_for_what_came() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(sse_head())
        while True:
            await exchange.send(chunk(piece({"content": "word "})))
            await asyncio.sleep(0.01)

    with priced() as gateway:
        async with Chaos(endless, port=gateway.upstream_port) as upstream:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            body = b'{"model":"m-1","prompt":["p","q"],"stream":true,"max_tokens":100}'
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await reader.readuntil(b'"index":1')
            writer.close()
            async with asyncio.timeout(5):
                for connection in upstream.connections:
                    await connection.closed.wait()
        await asyncio.sleep(0.3)
        [only] = logged(gateway)
    assert (only["cut"], only["settled"]) == (True, "estimated")
    assert float(only["charge"]) > 0


async def test_a_mapped_call_and_the_same_chat_are_one_entry_of_the_cache() -> None:
    with gateway_before_chaos(MAPPED + ALIASES + "[cache]\n") as gateway:
        async with Chaos(answer(chat("a")), port=gateway.upstream_port) as upstream:
            first = await ask(gateway, COMPLETIONS, arguments={"model": "text-davinci-003", "prompt": "p"})
            again = await ask(gateway, COMPLETIONS, arguments={"prompt": "p", "model": "text-davinci-002"})
            messages = [{"role": "user", "content": "p"}]
            plain = await ask(gateway, CHAT, arguments={"model": "m-1", "messages": messages})
            echo = await ask(gateway, COMPLETIONS, arguments={"model": "m-1", "prompt": "p", "echo": True})
            asked = {"model": "m-1", "prompt": "p", "stream": True}
            streamed = await ask(gateway, COMPLETIONS, "native", asked, cache="yes")
            assert len(upstream.exchanges) == 1
    assert [each.headers["x-cache"] for each in (first, again, plain, echo, streamed)] == ["miss", *["hit"] * 4]
    assert first.json["response"] == again.json["response"]
    assert plain.json["response"] == json.loads(chat("a"))
    assert echo.json["response"]["choices"][0]["text"] == "pa"
    assert texts(payloads(streamed)) == {0: "a"}


async def test_several_prompts_are_kept_and_are_no_others_entry() -> None:
    with gateway_before_chaos(MAPPED + "[cache]\n") as gateway:
        async with Chaos(answer(chat("a")), port=gateway.upstream_port) as upstream:
            asked = {"model": "m-1", "prompt": ["p", "q"]}
            got = [await ask(gateway, COMPLETIONS, arguments=asked) for _ in range(2)]
            messages = [{"role": "user", "content": text} for text in "pq"]
            chats = await ask(gateway, CHAT, arguments={"model": "m-1", "messages": messages, "n": 2})
            assert len(upstream.exchanges) == 3
    assert [each.headers["x-cache"] for each in (*got, chats)] == ["miss", "hit", "miss"]
    assert got[0].json["response"] == got[1].json["response"]
    assert len(got[0].json["response"]["choices"]) == 2


@pytest.mark.parametrize("prompt", ["p", ["p", "q"]])
async def test_a_repeated_key_gives_the_first_answer_in_the_form_that_was_called(prompt: Any) -> None:
    with priced() as gateway:
        async with Chaos(answer(chat("a")), port=gateway.upstream_port) as upstream:
            asked = {"model": "m-1", "prompt": prompt}
            got = [await ask(gateway, COMPLETIONS, arguments=asked, idempotency_key="k") for _ in range(2)]
            messages = [{"role": "user", "content": "p"}]
            other = await ask(gateway, CHAT, arguments={"model": "m-1", "messages": messages}, idempotency_key="k")
            assert len(upstream.exchanges) == (1 if prompt == "p" else 2)
        assert len(charges(gateway)) == 1
    assert got[0].json == got[1].json
    assert got[1].headers["idempotent-replayed"] == "true"
    assert other.json["error_code"] == "4003"


async def test_several_chats_with_a_key_are_read_to_their_end_though_their_client_leaves() -> None:
    go_on = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await exchange.read_body()
        await go_on.wait()
        await exchange.send(answer(chat("a")))

    with priced() as gateway:
        async with Chaos(wait, port=gateway.upstream_port) as upstream:
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            body = b'{"model":"m-1","prompt":["p","q"]}'
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
            head += f"Idempotency-Key: k\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await upstream.exchange(1)
            writer.close()
            await asyncio.sleep(0.2)
            go_on.set()
            await asyncio.sleep(0.5)
            again = await native(gateway, "POST", "/v1/completions", body, **{"Idempotency-Key": "k"})
            assert len(upstream.exchanges) == 2
        assert charges(gateway) == [11_000]
    assert again.headers["idempotent-replayed"] == "true"
    assert [choice["text"] for choice in again.json["choices"]] == ["a", "a"]


async def test_the_account_needs_the_method_that_it_calls() -> None:
    with gateway_before_chaos(MAPPED) as gateway:
        gateway.cli("accounts", "set", "tester", "--methods", CHAT)
        await asyncio.sleep(1.5)
        refused = await ask(gateway, COMPLETIONS, arguments={"model": "m", "prompt": "p"})
        gateway.cli("accounts", "set", "tester", "--methods", COMPLETIONS)
        await asyncio.sleep(1.5)
        async with Chaos(answer(chat("a")), port=gateway.upstream_port):
            taken = await ask(gateway, COMPLETIONS, arguments={"model": "m", "prompt": "p"})
    assert (refused.json["error_code"], taken.json["error_code"]) == ("4012", "0000")


# Models and upstreams


async def test_a_model_is_routed_to_its_upstream_under_its_name_there() -> None:
    async with Chaos(json_answer({"who": "second"}), json_answer({"who": "second"})) as second:
        more = (
            f'[[upstream]]\nname = "second"\nbase_url = "{second.base_url}"\napi_key_env = "SECOND_KEY"\n'
            'pass_headers = ["X-Second"]\n'
        )
        config = '[[alias]]\nmodel = "qwen-*"\nto = "q"\nupstream = "second"\n[cache]\n'
        environ = {"SECOND_KEY": "sk-second"}
        with gateway_before_chaos(config, more, environ=environ) as gateway:
            async with Chaos(json_answer({"who": "first"}), port=gateway.upstream_port) as first:
                messages = [{"role": "user", "content": "Hi"}]
                routed = await ask(gateway, CHAT, arguments={"model": "qwen-max", "messages": messages})
                same = await ask(gateway, CHAT, arguments={"model": "q", "messages": messages})
                models = await call(gateway, "GET", custom_path(gateway, method="v1/models"))
                again = await ask(gateway, CHAT, arguments={"model": "qwen-min", "messages": messages})
                assert [each.target for each in first.exchanges] == ["/v1/chat/completions", "/v1/models"]
    [sent] = second.exchanges
    assert (sent.json["model"], sent.header("authorization")) == ("q", "Bearer sk-second")
    assert [each.json["response"]["who"] for each in (routed, same, models, again)] == [
        "second", "first", "first", "second",
    ]  # fmt: skip
    assert again.headers["x-cache"] == "hit"
    assert same.headers["x-cache"] == "miss"


async def test_a_renamed_models_answer_is_the_upstreams_byte_for_byte(gateway: Gateway) -> None:
    body = b'{ "model" : "m-1-2026" , "choices":[ ] }'
    sent = b"".join(stream("a"))
    async with Chaos(answer(body), sse_answer([sent]), port=gateway.upstream_port) as upstream:
        asked = {"model": "text-davinci-003", "messages": []}
        whole = await ask(gateway, CHAT, "native", asked)
        streamed = await ask(gateway, CHAT, "native", {**asked, "stream": True})
        assert [each.json["model"] for each in upstream.exchanges] == ["m-1", "m-1"]
    assert (whole.body, streamed.body) == (body, sent)


async def test_an_uploads_model_goes_as_it_came(gateway: Gateway) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntext-davinci-003\r\n'
    form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    async with Chaos(json_answer({"text": "a"}), port=gateway.upstream_port) as upstream:
        path = custom_path(gateway, method="v1/audio/transcriptions", response_format="json")
        await call(gateway, "POST", path, form, {"Content-Type": "multipart/form-data; boundary=b"})
        assert b"text-davinci-003" in upstream.exchanges[0].body


def test_an_upstream_that_is_routed_to_needs_its_key() -> None:
    config = '[[alias]]\nmodel = "a"\nupstream = "second"\n'
    more = '[[upstream]]\nname = "second"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "NO_SUCH_KEY"\n'
    with pytest.raises(RuntimeError, match="NO_SUCH_KEY"), gateway_before_chaos(config, more):
        pass


# The documentation's own example, and the official SDK, before the embedded upstream


@pytest_asyncio.fixture
async def embedded() -> AsyncIterator[str]:
    runner, base_url = await start("127.0.0.1", 0, UPSTREAM_KEY, pace_s=0)
    yield base_url
    await runner.cleanup()


@pytest.mark.parametrize("mapped", [False, True], ids=["upstream", "through chat"])
async def test_the_documented_example_works_in_all_five_formats(embedded: str, mapped: bool) -> None:
    config = f'{MAPPED if mapped else ""}[defaults.model]\n"v1/completions" = "text-davinci-003"\n[cache]\n'
    with gateway_process(embedded, config) as gateway:
        plain = await call(gateway, "GET", custom_path(gateway, method=COMPLETIONS, _o_args=QUESTION))
        response = plain.json["response"]
        assert (plain.json["error_code"], plain.json["error"], plain.json["reason"]) == ("0000", "", "")
        assert response["object"] == "text_completion"
        assert re.fullmatch("cmpl-[0-9a-f]{24}", response["id"])
        assert "世界杯" in response["choices"][0]["text"]
        assert response["choices"][0].keys() == {"text", "index", "logprobs", "finish_reason"}
        for result_type in RESULT_TYPES:
            parameters = {"method": COMPLETIONS, "_o_args": QUESTION, "result_type": result_type}
            got = await call(gateway, "GET", custom_path(gateway, **parameters))
            spec = FORMATS[result_type]
            ids = {"request_id": got.headers["x-request-id"], "last_id": got.headers["x-last-id"]}
            assert got.headers["content-type"] == spec.content_type
            text = json.dumps({**plain.json, **ids}).encode()
            if result_type in {"json", "jsonu"}:
                assert got.json == json.loads(text)
            else:
                assert got.body == spec.render(Document(text))
            streamed = {**parameters, "_o_args": QUESTION[:-1] + ',"stream":true}'}
            events = await call(gateway, "GET", custom_path(gateway, **streamed))
            assert events.body.endswith(DONE)
            if result_type in {"json", "jsonu"}:
                assert texts(payloads(events))[0] == response["choices"][0]["text"]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_the_official_sdk_takes_answers_and_streams(embedded: str) -> None:
    with gateway_process(embedded, MAPPED) as gateway:
        async with AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.token, max_retries=0) as client:
            asked: Any = {"model": "gpt-4o-mini", "prompt": ["向日葵", "Why is the sea salty?"], "n": 2}
            whole = await client.completions.create(**asked)
            said = dict.fromkeys(range(4), "")
            usage = None
            streaming = await client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
            async for event in streaming:
                usage = event.usage or usage
                for choice in event.choices:
                    said[choice.index] += choice.text
    assert [choice.text for choice in whole.choices] == list(said.values())
    assert usage == whole.usage
    assert whole.choices[0].text.startswith("向日葵")


# Cut anywhere


async def test_the_bytes_of_a_stream_may_be_cut_anywhere(gateway: Gateway) -> None:
    sent = b"".join(stream("é 🌻"))
    async with Chaos(
        *([sse_head(), *(chunk(sent[at : at + 7]) for at in range(0, len(sent), 7)), LAST_CHUNK], sse_answer([sent])),
        port=gateway.upstream_port,
    ):
        asked = {"model": "m", "prompt": "p", "stream": True}
        got = [await ask(gateway, COMPLETIONS, "native", asked) for _ in range(2)]
    assert got[0].body == got[1].body
    assert texts(payloads(got[0])) == {0: "é 🌻"}
