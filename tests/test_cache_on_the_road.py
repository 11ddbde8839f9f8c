"""The cache on both fronts, before a scripted upstream: what is answered again, to whom, and what is asked once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.books import check_books, database_of, rows
from tests.chaos import (
    LAST_CHUNK,
    Chaos,
    Close,
    Cut,
    Exchange,
    Script,
    WaitFor,
    answer,
    chunk,
    head,
    json_answer,
    sse_answer,
    sse_head,
)
from tests.engines import engine, pretended
from tests.support import (
    Answer,
    Gateway,
    call,
    custom_path,
    free_port,
    gateway_before_chaos,
    gateway_process,
    native,
    parse_answer,
    read_to_end,
    request_bytes,
)

CHAT = "v1/chat/completions"


def started(config: str = "", cache: str = "") -> Iterator[Gateway]:
    with gateway_before_chaos(f"{config}\n[cache]\n{cache}\n") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    yield from started()


_number = iter(range(1_000_000))


def fresh(**more: Any) -> dict[str, Any]:
    """Arguments that nobody has asked for yet."""
    return {"model": "m", "messages": [{"role": "user", "content": f"question {next(_number)}"}], **more}


def chat(text: str = "Hello.", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
        **more,
    }


def piece(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    value = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


USAGE = b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'  # noqa: E501  # as it comes
STREAM = [
    piece({"role": "assistant", "content": ""}),
    piece({"content": "Hel"}),
    piece({"content": "lo."}),
    piece({}, "stop"),
    b"data: [DONE]\n\n",
]


async def ask(gateway: Gateway, arguments: dict[str, Any], front: str = "custom", **parameters: str) -> Answer:
    body = json.dumps(arguments).encode()
    headers = {name[2:]: parameters.pop(name) for name in list(parameters) if name.startswith("h_")}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if front == "native":
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return await native(gateway, "POST", f"/v1/chat/completions?{query}", body, **headers)
    path = custom_path(gateway, method=CHAT, _o_args=body.decode(), **parameters)
    return await call(gateway, "GET", path, headers=headers)


async def test_an_answer_comes_again_in_every_format_on_both_fronts_without_the_upstream(gateway: Gateway) -> None:
    arguments = fresh()
    body = json.dumps(chat(), indent=1).encode()
    async with Chaos(answer(body), port=gateway.upstream_port) as upstream:
        first = await ask(gateway, arguments)
        second = await ask(gateway, arguments, version="2")
        others = [
            await ask(gateway, arguments, result_type=name) for name in ("jsonu", "xml", "serialize", "var_export")
        ]
        sdk = await ask(gateway, dict(reversed(arguments.items())), "native", cache="yes")
        assert len(upstream.exchanges) == 1
    assert (first.headers["x-cache"], second.headers["x-cache"], second.headers["age"]) == ("miss", "hit", "0")
    assert second.json["cache"] == 1
    assert first.json["response"] == second.json["response"]
    assert [other.headers["x-error-code"] for other in others] == ["0000"] * 4
    assert sdk.body == body


async def test_the_native_front_uses_it_only_where_that_is_asked_for(gateway: Gateway) -> None:
    arguments = fresh()
    async with Chaos(json_answer(chat()), port=gateway.upstream_port) as upstream:
        plain = [await ask(gateway, arguments, "native") for _ in range(2)]
        asked = [await ask(gateway, arguments, "native", h_X_Cache="yes") for _ in range(2)]
        assert len(upstream.exchanges) == 3
    assert [got.headers["x-cache"] for got in plain + asked] == ["off", "off", "miss", "hit"]


@pytest.mark.parametrize(
    ("parameters", "cached"),
    [
        ({"cache": "no"}, "off off"),
        ({"h_Cache_Control": "no-store"}, "off off"),
        ({"h_Cache_Control": "no-cache"}, "miss miss"),
        ({"h_Cache_Control": "max-age=0"}, "miss miss"),
        ({"h_Cache_Control": "max-age=60"}, "miss hit"),
        ({"h_Cache_Control": "private, max-age = 0"}, "miss miss"),
        ({"h_Cache_Control": "max-age=0.5"}, "miss miss"),
        ({"h_Idempotency_Key": "{}"}, "off off"),
    ],
)
async def test_what_the_client_says_of_the_cache_holds(
    gateway: Gateway, parameters: dict[str, str], cached: str
) -> None:
    arguments = fresh()
    async with Chaos(json_answer(chat()), port=gateway.upstream_port):
        got = []
        for number in range(2):
            given = {name: value.replace("{}", f"key{next(_number)}{number}") for name, value in parameters.items()}
            got.append(await ask(gateway, arguments, **given))
    assert " ".join(each.headers["x-cache"] for each in got) == cached


async def test_a_stream_comes_again_byte_for_byte(gateway: Gateway) -> None:
    arguments = fresh(stream=True)
    sent = [one.replace(b"\n", b"\r\n") for one in STREAM]
    async with Chaos(sse_answer(sent), port=gateway.upstream_port) as upstream:
        got = [await ask(gateway, arguments) for _ in range(3)]
        assert len(upstream.exchanges) == 1
    assert [each.body for each in got] == [b"".join(sent)] * 3
    assert [each.headers["x-cache"] for each in got] == ["miss", "hit", "hit"]
    assert all(each.complete and each.headers["content-type"] == "text/event-stream" for each in got)


async def test_a_stream_can_come_again_as_it_came(gateway: Gateway) -> None:
    arguments = fresh(stream=True)

    async def slow(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(sse_head())
        for one in STREAM:
            await asyncio.sleep(0.1)
            await exchange.send(chunk(one))
        await exchange.send(LAST_CHUNK)

    async with Chaos(slow, port=gateway.upstream_port):
        await ask(gateway, arguments)
        started = time.monotonic()
        at_once = await ask(gateway, arguments)
        between = time.monotonic()
        paced = await ask(gateway, arguments, cache_pace="yes")
        ended = time.monotonic()
    assert at_once.body == paced.body == b"".join(STREAM)
    assert ended - between > 0.35 > between - started


async def test_a_whole_answer_is_made_of_a_kept_stream_and_says_so(gateway: Gateway) -> None:
    arguments = fresh()
    streamed = {**arguments, "stream": True, "stream_options": {"include_usage": True}}
    async with Chaos(sse_answer([*STREAM[:-1], USAGE, STREAM[-1]]), port=gateway.upstream_port) as upstream:
        await ask(gateway, streamed)
        got = await ask(gateway, arguments)
        assert len(upstream.exchanges) == 1
    assert got.json["response"] == chat()
    assert (got.headers["x-cache"], got.headers["x-cache-made-of"]) == ("hit", "stream")


async def test_a_stream_is_made_of_a_kept_whole_answer_and_says_so(gateway: Gateway) -> None:
    arguments = fresh()
    async with Chaos(json_answer(chat("One two three.")), port=gateway.upstream_port) as upstream:
        await ask(gateway, arguments)
        got = await ask(gateway, {**arguments, "stream": True})
        assert len(upstream.exchanges) == 1
    events = [line[6:] for line in got.body.decode().split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == "One two three."
    assert (got.headers["x-cache"], got.headers["x-cache-made-of"]) == ("hit", "whole")


UNKEPT: dict[str, Script] = {
    "an error": json_answer({"error": {"message": "no"}}, 400),
    "a fault": json_answer({"error": {"message": "no"}}, 500),
    "an error in a success": json_answer({"error": {"message": "no"}}),
    "a tool call": json_answer(chat() | {"choices": [{"index": 0, "message": {"tool_calls": [{"id": "x"}]}}]}),
    "text": answer(b"hello", "text/plain"),
    "no object": json_answer([1]),
}


@pytest.mark.parametrize("what", UNKEPT)
async def test_what_is_no_whole_success_is_not_kept(gateway: Gateway, what: str) -> None:
    arguments = fresh()
    async with Chaos(UNKEPT[what], port=gateway.upstream_port) as upstream:
        got = [await ask(gateway, arguments) for _ in range(2)]
        assert len(upstream.exchanges) == 2
    assert {each.headers["x-cache"] for each in got} == {"miss"}


@pytest.mark.parametrize("cut", range(6))
async def test_a_stream_that_was_cut_is_not_kept(gateway: Gateway, cut: int) -> None:
    arguments = fresh(stream=True)
    scripts: list[Script] = [
        [sse_head() + chunk(b"".join(STREAM[:3])), Cut()],
        sse_answer(STREAM[:-1]),
        sse_answer([*STREAM[:3], b'data: {"error": {"message": "x"}}\n\n', STREAM[-1]]),
        [head(200, ("Content-Type", "text/event-stream"), ("Connection", "close")) + b"".join(STREAM[:3]), Close()],
        [sse_head() + chunk(b"".join(STREAM)), Cut()],
        sse_answer([*STREAM[:3], b"data: [DONE]"]),
    ]
    async with Chaos(scripts[cut], port=gateway.upstream_port) as upstream:
        await ask(gateway, arguments)
        await ask(gateway, arguments)
        assert len(upstream.exchanges) == (2 if cut != 5 else len(upstream.exchanges))


async def test_nobody_gets_anothers_answer(gateway: Gateway) -> None:
    other = json.loads(gateway.cli("accounts", "add", f"other{next(_number)}", "--json"))
    await asyncio.sleep(1.5)  # the server looks for new accounts once a second
    arguments = fresh()
    async with Chaos(json_answer(chat()), port=gateway.upstream_port) as upstream:
        await ask(gateway, arguments)
        path = custom_path(gateway, method=CHAT, _o_args=json.dumps(arguments))
        path = path.replace(gateway.key, other["key"]).replace(gateway.secret, other["secret"])
        got = await call(gateway, "GET", path)
        assert len(upstream.exchanges) == 2
    assert got.headers["x-cache"] == "miss"


async def test_a_group_shares_its_answers() -> None:
    for gateway in started(cache='[cache.groups]\nteam = ["tester", "mate"]'):
        mate = json.loads(gateway.cli("accounts", "add", "mate", "--json"))
        await asyncio.sleep(1.5)  # as above
        arguments = fresh()
        async with Chaos(json_answer(chat()), port=gateway.upstream_port):
            await ask(gateway, arguments)
            path = custom_path(gateway, method=CHAT, _o_args=json.dumps(arguments))
            path = path.replace(gateway.key, mate["key"]).replace(gateway.secret, mate["secret"])
            got = await call(gateway, "GET", path)
        assert got.headers["x-cache"] == "hit"


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("DELETE", "/v1/models/ft:x", b""),
        ("POST", "/v1/models", b"{}"),
        ("GET", "/v1/chat/completions", b""),
        ("POST", "/v1/chat/completions", b'{"messages":[],"store":true}'),
        ("POST", "/v1/fine_tuning/jobs", b"{}"),
    ],
)
async def test_what_does_something_is_done_every_time(method: str, target: str, body: bytes) -> None:
    for gateway in started(cache='life = {"v1/chat/*" = 60, "v1/models/*" = 60}'):
        async with Chaos(json_answer({"id": "x"}), port=gateway.upstream_port) as upstream:
            got = [await native(gateway, method, target, body, **{"X-Cache": "yes"}) for _ in range(2)]
            assert len(upstream.exchanges) == 2
        assert [each.headers["x-cache"] for each in got] == ["off", "off"]


@pytest.mark.parametrize(
    "odd",
    [
        {"stream": 1}, {"stream": "bogus"}, {"stream": None}, {"stream_options": "junk"},
        {"stream_options": {"include_usage": True}}, {"stream": True, "stream_options": {"include_usage": "junk"}},
        {"stream": True, "stream_options": {"more": 1}}, {"stream": True, "stream_options": None},
    ],
)  # fmt: skip
async def test_arguments_that_an_upstream_may_read_otherwise_have_a_key_of_their_own(
    gateway: Gateway, odd: dict[str, Any]
) -> None:
    arguments = fresh()
    plain = {**arguments, "stream": True} if odd.get("stream") is True else arguments
    async with Chaos(
        sse_answer(STREAM) if "stream" in odd else json_answer(chat()), port=gateway.upstream_port
    ) as upstream:
        await ask(gateway, {**arguments, **odd})
        await ask(gateway, plain)
        await ask(gateway, {**arguments, **odd})
        assert len(upstream.exchanges) >= 2
        assert all(exchange.json == plain or exchange.json == {**arguments, **odd} for exchange in upstream.exchanges)
        assert {**arguments, **odd} in [exchange.json for exchange in upstream.exchanges]
        assert plain in [exchange.json for exchange in upstream.exchanges]


async def test_a_call_that_is_streamed_against_its_will_is_not_kept(gateway: Gateway) -> None:
    arguments = fresh()
    async with Chaos(sse_answer(STREAM), json_answer(chat()), port=gateway.upstream_port):
        await ask(gateway, arguments)
        assert (await ask(gateway, arguments)).json["response"] == chat()


async def test_another_upstream_of_the_same_name_has_answers_of_its_own() -> None:
    for gateway in started(cache='disk_file = "cache.db"'):
        arguments = fresh()
        async with Chaos(json_answer(chat("A")), port=gateway.upstream_port):
            await ask(gateway, arguments)
            await asyncio.sleep(0.5)
        gateway.kill()
        assert gateway.config_path is not None
        port = free_port()
        text = gateway.config_path.read_text().replace(str(gateway.upstream_port), str(port))
        gateway.config_path.write_text(text)
        gateway.restart()
        async with Chaos(json_answer(chat("B")), port=port):
            await asyncio.sleep(1)
            got = await ask(gateway, arguments)
        assert got.json["response"] == chat("B")


async def test_the_spelling_of_a_path_that_goes_upstream_is_a_part_of_the_key(gateway: Gateway) -> None:
    async with Chaos(json_answer({"id": "x"}), port=gateway.upstream_port) as upstream:
        for name in ("a/b", "a%2Fb"):
            await native(gateway, "GET", f"/v1/models/{name}?cache=yes")
        assert len(upstream.exchanges) == 2


@pytest.mark.parametrize("text", [b'data: {"c":"data: [DONE]"}\n\n', b'data: {"c":"x data: [DONE]'])
async def test_a_text_that_speaks_of_the_end_is_no_end(gateway: Gateway, text: bytes) -> None:
    arguments = fresh(stream=True)
    cut: Script = [head(200, ("Content-Type", "text/event-stream"), ("Connection", "close")) + text, Close()]
    async with Chaos(cut, cut, port=gateway.upstream_port) as upstream:
        for _ in range(2):
            await ask(gateway, arguments)
        assert len(upstream.exchanges) == 2


async def test_an_answer_that_is_no_json_and_no_stream_passes_as_it_comes(gateway: Gateway) -> None:
    arguments = fresh()
    go_on = asyncio.Event()
    kind = head(200, ("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked"))
    script: Script = [kind + chunk(b"one\n"), WaitFor(go_on), chunk(b"two\n") + LAST_CHUNK]
    async with Chaos(script, port=gateway.upstream_port):
        reader, writer = await opened(gateway, arguments)
        async with asyncio.timeout(5):
            await reader.readuntil(b"one\n")
        go_on.set()
        assert (await read_to_end(reader)).endswith(b"0\r\n\r\n")
        writer.close()


async def test_an_upstream_that_cannot_even_be_named_is_told_at_once() -> None:
    with gateway_process(f"http://{'a' * 70}.example/v1", "[cache]\n") as gateway:
        got = await ask(gateway, fresh())
        assert got.json["error_code"] == "4000"


async def test_the_tools_that_an_answer_does_not_call_are_no_tools(gateway: Gateway) -> None:
    arguments = fresh()
    value = chat()
    value["choices"][0]["message"] |= {"tool_calls": [], "function_call": None}
    async with Chaos(json_answer(value | {"error": None}), port=gateway.upstream_port):
        got = [await ask(gateway, arguments) for _ in range(2)]
    assert [each.headers["x-cache"] for each in got] == ["miss", "hit"]


# One call for many


async def test_a_hundred_identical_streams_are_one_upstream_call_and_nobody_waits_for_another(gateway: Gateway) -> None:
    arguments = fresh(stream=True)
    go_on = asyncio.Event()
    script: Script = [sse_head() + chunk(STREAM[0]), WaitFor(go_on), chunk(b"".join(STREAM[1:])) + LAST_CHUNK]
    async with Chaos(script, port=gateway.upstream_port) as upstream:
        clients = [await opened(gateway, arguments) for _ in range(100)]
        begun = await asyncio.gather(*(reader.readuntil(b"assistant") for reader, _ in clients))
        go_on.set()  # everybody has had the first event before there is a second one
        got = [first + await read_to_end(reader) for first, (reader, _) in zip(begun, clients, strict=True)]
        for _, writer in clients:
            writer.close()
        assert len(upstream.exchanges) == 1
    answers = [parse_answer(raw) for raw in got]
    assert {each.body for each in answers} == {b"".join(STREAM)}
    assert all(each.complete for each in answers)
    assert [each.headers["x-cache"] for each in answers] == ["miss"] * 100
    assert sum("x-cache-shared" in each.headers for each in answers) == 99


async def test_a_shared_stream_is_held_once_and_not_a_hundred_times(gateway: Gateway) -> None:
    arguments = fresh(stream=True)
    big = piece({"content": "x" * 20_000})
    script: Script = [sse_head() + chunk(STREAM[0]), *[chunk(big) for _ in range(200)], WaitFor(asyncio.Event())]
    async with Chaos(script, port=gateway.upstream_port):
        before = gateway.resident_bytes
        clients = [
            await opened(gateway, arguments) for _ in range(100)
        ]  # none of them reads more than its socket holds
        await asyncio.sleep(2)
        assert gateway.resident_bytes - before < 100_000_000  # 4 MB, a hundred times, would be 400
        for _, writer in clients:
            writer.transport.abort()


async def test_a_late_joiner_gets_what_has_passed_at_once_and_the_rest_live(gateway: Gateway) -> None:
    arguments = fresh(stream=True)
    go_on = asyncio.Event()
    script: Script = [
        sse_head() + chunk(b"".join(STREAM[:2])),
        WaitFor(go_on),
        chunk(b"".join(STREAM[2:])) + LAST_CHUNK,
    ]
    async with Chaos(script, port=gateway.upstream_port):
        first = asyncio.create_task(ask(gateway, arguments))
        await asyncio.sleep(0.3)
        reader, writer = await opened(gateway, arguments)
        received = b""
        async with asyncio.timeout(5):
            while b'"Hel"' not in received:
                received += await reader.read(65_536)
        go_on.set()
        received += await read_to_end(reader)
        writer.close()
        assert b"[DONE]" in received
        assert (await first).body == b"".join(STREAM)


async def opened(gateway: Gateway, arguments: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    path = custom_path(gateway, method=CHAT, _o_args=json.dumps(arguments))
    writer.write(request_bytes("GET", path, headers={"Connection": "close"}))
    return reader, writer


async def test_the_first_client_may_leave_without_harm_and_the_last_ones_leaving_ends_the_call(
    gateway: Gateway,
) -> None:
    arguments = fresh(stream=True)
    go_on = asyncio.Event()
    script: Script = [sse_head() + chunk(STREAM[0]), WaitFor(go_on), chunk(STREAM[1]), WaitFor(asyncio.Event())]
    async with Chaos(script, port=gateway.upstream_port) as upstream:
        readers = [await opened(gateway, arguments) for _ in range(3)]
        for reader, _ in readers:
            await reader.readuntil(b'"assistant"')
        readers[0][1].transport.abort()
        await asyncio.sleep(0.2)
        assert not upstream.connections[0].closed.is_set()
        go_on.set()
        await readers[1][0].readuntil(b'"Hel"')
        await readers[2][0].readuntil(b'"Hel"')
        readers[1][1].transport.abort()
        await asyncio.sleep(0.2)
        assert not upstream.connections[0].closed.is_set()
        readers[2][1].transport.abort()
        async with asyncio.timeout(5):
            await upstream.connections[0].closed.wait()
    assert len(upstream.exchanges) == 1


async def test_a_shared_call_that_fails_fails_for_all(gateway: Gateway) -> None:
    arguments = fresh()
    go_on = asyncio.Event()
    async with Chaos([WaitFor(go_on), Cut()], port=gateway.upstream_port):
        calls = [asyncio.create_task(ask(gateway, arguments)) for _ in range(5)]
        await asyncio.sleep(0.3)
        go_on.set()
        got = await asyncio.gather(*calls)
    assert {each.json["error_code"] for each in got} == {"4001"}


async def test_a_slow_reader_among_them_slows_nobody_down_and_memory_stays_bounded(gateway: Gateway) -> None:
    arguments = fresh(stream=True)
    go_on = asyncio.Event()
    big = piece({"content": "x" * 30_000})
    end = STREAM[-2] + STREAM[-1]
    script: Script = [
        sse_head() + chunk(STREAM[0]), WaitFor(go_on), *[chunk(big) for _ in range(1000)], chunk(end) + LAST_CHUNK,
    ]  # fmt: skip
    async with Chaos(script, port=gateway.upstream_port) as upstream:
        reader, idle = await opened(gateway, arguments)
        await reader.readuntil(b"assistant")
        before = gateway.resident_bytes
        calls = [asyncio.create_task(ask(gateway, arguments)) for _ in range(5)]
        await asyncio.sleep(0.5)
        go_on.set()
        got = await asyncio.gather(*calls)
        assert gateway.resident_bytes - before < 100_000_000
        assert len(upstream.exchanges) == 1
        idle.transport.abort()
    assert {len(each.body) for each in got} == {len(STREAM[0]) + 1000 * len(big) + len(end)}
    assert all(each.complete for each in got)


# Money

PRICES = '[[price]]\nmethod = "v1/chat/*"\nper_call = "0.01"\nper_1k_completion = "1"\n'


@pytest.mark.parametrize(("percent", "charge"), [(100, "0.012"), (25, "0.003"), (0, "0")])
async def test_a_kept_answer_is_charged_by_the_operators_choice(percent: int, charge: str) -> None:
    for gateway in started(PRICES, f"charged_percent = {percent}"):
        gateway.cli("accounts", "topup", "tester", "1000")
        await asyncio.sleep(1.5)
        arguments = fresh(max_tokens=10)
        async with Chaos(json_answer(chat()), port=gateway.upstream_port):
            first = await ask(gateway, arguments, version="2")
            second = await ask(gateway, arguments, version="2")
        assert (first.json["charge"], second.json["charge"]) == ("0.012", charge)
        async with asyncio.timeout(5):
            while len(found := rows(database_of(gateway), "SELECT cache, charge_micros FROM calls ORDER BY id")) < 2:
                await asyncio.sleep(0.05)
        assert [cache for cache, _ in found] == ["miss", "hit"]
        check_books(database_of(gateway))


async def test_each_of_those_who_share_a_stream_pays_its_own_price() -> None:
    for gateway in started(PRICES):
        gateway.cli("accounts", "topup", "tester", "1000")
        await asyncio.sleep(1.5)
        arguments = fresh(stream=True, max_tokens=10)
        go_on = asyncio.Event()
        script: Script = [
            sse_head() + chunk(STREAM[0]),
            WaitFor(go_on),
            chunk(b"".join([*STREAM[1:-1], USAGE, STREAM[-1]])) + LAST_CHUNK,
        ]
        async with Chaos(script, port=gateway.upstream_port) as upstream:
            calls = [asyncio.create_task(ask(gateway, arguments)) for _ in range(10)]
            await upstream.exchange(0)
            await asyncio.sleep(0.5)
            go_on.set()
            got = await asyncio.gather(*calls)
        assert {each.body for each in got} == {b"".join(STREAM)}  # the usage was asked for by the gateway
        async with asyncio.timeout(5):
            while len(found := rows(database_of(gateway), "SELECT charge_micros FROM calls")) < 10:
                await asyncio.sleep(0.05)
        assert found == [(12_000,)] * 10
        check_books(database_of(gateway))


async def test_what_is_kept_survives_a_restart_on_a_disk_and_can_be_cleared() -> None:
    for gateway in started(cache='disk_file = "cache.db"'):
        arguments = fresh()
        async with Chaos(json_answer(chat()), port=gateway.upstream_port) as upstream:
            await ask(gateway, arguments)
            await asyncio.sleep(0.5)
            gateway.kill()
            gateway.restart()
            got = await ask(gateway, arguments)
            assert (got.headers["x-cache"], len(upstream.exchanges)) == ("hit", 1)


# Uploads

SOUND = b"RIFF" + bytes(range(256)) * 300


def form(boundary: str, sound: bytes = SOUND, model: str = "whisper-1") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
    part = 'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    return f"{head}--{boundary}\r\n{part}".encode() + sound + f"\r\n--{boundary}--\r\n".encode()


async def transcribe(gateway: Gateway, body: bytes, boundary: str, **headers: str) -> Answer:
    target = custom_path(gateway, method="v1/audio/transcriptions")
    return await call(
        gateway, "POST", target, body, {"Content-Type": f"multipart/form-data; boundary={boundary}", **headers}
    )


async def test_a_recording_is_told_by_what_it_holds_and_not_by_its_boundary(gateway: Gateway) -> None:
    salt = str(next(_number)).encode() * 50
    async with Chaos(json_answer({"text": "Hello."}), port=gateway.upstream_port) as upstream:
        first = await transcribe(gateway, form("abc", SOUND + salt), "abc")
        second = await transcribe(gateway, form("xyz123", SOUND + salt), "xyz123")
        other = await transcribe(gateway, form("abc", SOUND + salt + b"!"), "abc")
        model = await transcribe(gateway, form("abc", SOUND + salt, "other"), "abc")
        assert len(upstream.exchanges) == 3
        assert SOUND + salt in bytes(upstream.exchanges[0].body)
    got = [each.headers["x-cache"] for each in (first, second, other, model)]
    assert got == ["miss", "hit", "miss", "miss"]
    assert second.json["response"] == {"text": "Hello."}


async def test_a_recording_that_holds_the_boundary_is_another(gateway: Gateway) -> None:
    async with Chaos(json_answer({"text": "Hello."}), port=gateway.upstream_port) as upstream:
        for boundary in ("bnd1", "bnd2"):
            await transcribe(gateway, form(boundary, b"RIFF....--%b is spoken" % boundary.encode()), boundary)
        assert len(upstream.exchanges) == 2


async def test_a_recording_that_is_too_long_to_look_at_goes_on_whole() -> None:
    for gateway in started(cache="upload_bytes = 50000"):
        async with Chaos(json_answer({"text": "Hello."}), port=gateway.upstream_port) as upstream:
            got = [await transcribe(gateway, form("abc"), "abc") for _ in range(2)]
            assert SOUND in bytes(upstream.exchanges[1].body)
        assert [each.headers["x-cache"] for each in got] == ["off", "off"]


# Trouble


@pytest.mark.parametrize("where", ["/dev/full", "nowhere/cache.db"])
async def test_a_disk_that_cannot_be_used_costs_nothing_but_calls_upstream(where: str) -> None:
    for gateway in started(cache=f'disk_file = "{where}"'):
        async with Chaos(json_answer(chat()), port=gateway.upstream_port):
            arguments = fresh()
            got = [await ask(gateway, arguments) for _ in range(3)]
        assert [each.headers["x-cache"] for each in got] == ["miss", "hit", "hit"]
        assert gateway.log.count("cache") <= 3


async def test_what_is_damaged_on_the_disk_is_asked_anew() -> None:
    for gateway in started(cache='disk_file = "cache.db"'):
        arguments = fresh()
        async with Chaos(json_answer(chat("A text to be found in the file.")), port=gateway.upstream_port) as upstream:
            await ask(gateway, arguments)
            await asyncio.sleep(0.5)
            gateway.kill()
            for file in (gateway.directory / "cache.db", gateway.directory / "cache.db-wal"):
                if file.exists():
                    file.write_bytes(file.read_bytes().replace(b"found in the file", b"FOUND in the file"))
            gateway.restart()
            got = await ask(gateway, arguments)
            assert len(upstream.exchanges) == 2
        assert (got.headers["x-cache"], "found in" in got.body.decode()) == ("miss", True)


async def test_gateway_cache_shows_and_clears_in_memory_too() -> None:
    for gateway in started(cache='disk_file = "cache.db"'):
        arguments = fresh()
        async with Chaos(json_answer(chat()), port=gateway.upstream_port) as upstream:
            await ask(gateway, arguments)
            await asyncio.sleep(0.5)
            [row] = json.loads(gateway.cli("cache", "show", "--json"))
            assert (row["account"], row["method"], row["model"], row["form"]) == ("tester", CHAT, "m", "whole")
            assert json.loads(gateway.cli("cache", "clear", "--method", "v1/embeddings", "--json")) == {"cleared": 0}
            assert (await ask(gateway, arguments)).headers["x-cache"] == "hit"
            assert json.loads(gateway.cli("cache", "clear", "--account", "tester", "--json")) == {"cleared": 1}
            async with asyncio.timeout(10):
                while (await ask(gateway, arguments)).headers["x-cache"] == "hit":
                    await asyncio.sleep(0.2)
            assert len(upstream.exchanges) == 2


async def test_an_accounts_setting_holds_where_the_call_does_not_say(gateway: Gateway) -> None:
    arguments = fresh()
    async with Chaos(json_answer(chat()), port=gateway.upstream_port):
        gateway.cli("accounts", "set", "tester", "--cache", "no")
        await asyncio.sleep(1.5)
        off = await ask(gateway, arguments)
        gateway.cli("accounts", "set", "tester", "--cache", "yes")
        await asyncio.sleep(1.5)
        miss = await ask(gateway, arguments, "native")
        hit = await ask(gateway, arguments, "native")
        gateway.cli("accounts", "set", "tester", "--cache", "default")
        await asyncio.sleep(1.5)
    assert [each.headers["x-cache"] for each in (off, miss, hit)] == ["off", "miss", "hit"]


async def test_a_kept_answer_is_translated_anew() -> None:
    port = free_port()
    second = f'[[upstream]]\nname = "engine"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
    with gateway_before_chaos('[cache]\n[translation]\nupstream = "engine"\n', second) as gateway:
        arguments = fresh()
        text = "The harbour was quiet on that morning."
        async with Chaos(json_answer(chat(text)), port=gateway.upstream_port) as upstream, Chaos(engine(), port=port):
            plain = await ask(gateway, arguments)
            russian = await ask(gateway, arguments, lang="ru")
            streamed = await ask(gateway, {**arguments, "stream": True}, lang="ru")
            assert len(upstream.exchanges) == 1
    assert plain.json["response"]["choices"][0]["message"]["content"] == text
    assert russian.json["response"]["choices"][0]["message"]["content"] == pretended(text, "ru")
    assert russian.headers["x-cache"] == streamed.headers["x-cache"] == "hit"
    assert streamed.headers["x-translate-status"] == "translated"
