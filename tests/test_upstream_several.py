"""Several chats at a scripted upstream whose answers are taken as one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.chat_arguments import AT_ONCE
from gateway.errors import GatewayError
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.pool import Pool
from gateway.upstream.several import Several, several_calls
from gateway.upstream.sharing import Flight, alone
from tests.chaos import Chaos, Exchange, answer, chunk, chunked, head, json_answer, sse_answer, sse_head
from tests.test_joining import DONE, TWICE, stream
from tests.test_reshaping import chat, piece
from tests.test_upstream_pool import PATIENT

Script = Callable[[Exchange], Awaitable[None]]


def request(name: str) -> bytes:
    body = json.dumps({"name": name}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def by_name(scripts: Mapping[str, bytes | Script]) -> Script:
    """Each request gets what its name says, whenever it comes."""

    async def play(exchange: Exchange) -> None:
        await exchange.read_body()
        script = scripts[exchange.json["name"]]
        if isinstance(script, bytes):
            await exchange.send(script)
        else:
            await script(exchange)

    return play


@asynccontextmanager
async def asked(chaos: Chaos, *names: str, streamed: bool = False, **more: Any) -> AsyncIterator[UpstreamConnection]:
    pool = Pool("127.0.0.1", chaos.port, None, PATIENT)
    settings: dict[str, Any] = {"max_answer_bytes": 10**6, "max_event_bytes": 10**5, "with_usage": True, **more}
    several = Several([request(name) for name in names], 1, streamed, **settings)
    link = alone(pool, several_calls(pool, several))
    try:
        yield link
    finally:
        pool.release(link)
        await asyncio.sleep(0.01)
        assert pool.active_count == 0
        pool.close()


async def read(link: UpstreamConnection) -> bytes:
    return b"".join([piece async for piece in link.pieces()])


async def hang(exchange: Exchange) -> None:
    await asyncio.Event().wait()


async def test_whole_answers_come_as_one() -> None:
    scripts = by_name({name: answer(chat(name)) for name in "abc"})
    async with Chaos(scripts) as chaos, asked(chaos, "a", "b", "c") as link:
        assert (await link.answer()).status == 200
        found = json.loads(await link.read(10**6))
    assert [each["message"]["content"] for each in found["choices"]] == ["a", "b", "c"]


async def test_no_more_than_so_many_are_under_way_at_once() -> None:
    under_way = most = 0

    async def slow(exchange: Exchange) -> None:
        nonlocal under_way, most
        await exchange.read_body()
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        await exchange.send(answer(chat("a")))

    async with Chaos(slow) as chaos, asked(chaos, *"a" * 50) as link:
        await link.answer()
        assert len(json.loads(await link.read(10**6))["choices"]) == 50
        assert len(chaos.exchanges) == 50
    assert most == AT_ONCE


async def test_a_refusal_of_one_is_the_answer_and_ends_the_others() -> None:
    refused = json_answer({"error": {"message": "too much"}}, 429, ("Retry-After", "7"))
    async with Chaos(by_name({"a": hang, "b": refused})) as chaos, asked(chaos, "a", "b") as link:
        head = await link.answer()
        assert (head.status, head.get(b"retry-after")) == (429, b"7")
        assert json.loads(await link.read(1000))["error"]["message"] == "too much"
        async with asyncio.timeout(5):
            left = next(each for each in chaos.exchanges if each.json["name"] == "a").connection
            await left.closed.wait()


async def test_what_breaks_off_breaks_all_off() -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.send(head(200, ("Content-Type", "application/json"), ("Content-Length", "500")) + b"{")
        exchange.connection.cut()

    async with Chaos(by_name({"a": answer(chat("a")), "b": cut})) as chaos, asked(chaos, "a", "b") as link:
        with pytest.raises(GatewayError) as caught:
            await link.answer()
    assert caught.value.code.code == "5000"


async def test_what_is_no_chat_is_4002() -> None:
    async with Chaos(by_name({"a": answer(chat("a")), "b": answer(b"[]")})) as chaos, asked(chaos, "a", "b") as link:
        with pytest.raises(GatewayError) as caught:
            await link.answer()
    assert caught.value.code.code == "4002"


async def test_streams_come_as_one_with_the_usage_of_all() -> None:
    scripts = by_name({name: sse_answer(stream(name)) for name in "ab"})
    async with Chaos(scripts) as chaos, asked(chaos, "a", "b", streamed=True) as link:
        assert (await link.answer()).media_type == b"text/event-stream"
        sent = await read(link)
    events = [json.loads(line[6:]) for line in sent.split(b"\n\n") if line.startswith(b"data: {")]
    said = {each["choices"][0]["index"]: "" for each in events[:-1]}
    for each in events[:-1]:
        said[each["choices"][0]["index"]] += each["choices"][0]["delta"].get("content", "")
    assert said == {0: "a", 1: "b"}
    assert (events[-1]["choices"], events[-1]["usage"]) == ([], TWICE)
    assert sent.endswith(DONE)
    assert sent.count(DONE) == 1


async def test_an_event_of_one_does_not_wait_for_another() -> None:
    go_on = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await exchange.send(sse_head())
        await go_on.wait()
        await exchange.send(chunked(stream("b")))

    scripts = by_name({"a": sse_answer(stream("a")), "b": waits})
    async with Chaos(scripts) as chaos, asked(chaos, "a", "b", streamed=True) as link:
        await link.answer()
        pieces = link.pieces()
        first = await anext(pieces)
        assert b'"index":0' in first
        go_on.set()
        rest = b"".join([piece async for piece in pieces])
    assert b'"index":1' in rest
    assert rest.endswith(DONE)


async def test_a_refusal_of_one_stream_is_the_answer() -> None:
    refused = json_answer({"error": {"message": "no"}}, 400)
    scripts = by_name({"a": sse_answer(stream("a")), "b": refused})
    async with Chaos(scripts) as chaos, asked(chaos, "a", "b", streamed=True) as link:
        assert (await link.answer()).status == 400
        assert json.loads(await link.read(1000))["error"]["message"] == "no"


async def test_a_stream_that_breaks_off_never_looks_finished() -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.send(sse_head() + chunk(piece({"content": "b"})))
        exchange.connection.cut()

    scripts = by_name({"a": sse_answer(stream("a")), "b": cut})
    async with Chaos(scripts) as chaos, asked(chaos, "a", "b", streamed=True) as link:
        await link.answer()
        sent = b""
        with pytest.raises(GatewayError) as caught:  # noqa: PT012  # what came before is looked at too
            async for each in link.pieces():
                sent += each
    assert caught.value.code.code == "5000"
    assert DONE not in sent


async def test_a_stream_that_ends_with_its_connection_must_say_that_it_has_ended() -> None:
    async def ends(exchange: Exchange) -> None:
        await exchange.send(head(200, ("Content-Type", "text/event-stream")) + piece({"content": "b"}))
        exchange.connection.close()

    async with Chaos(by_name({"a": ends, "b": ends})) as chaos, asked(chaos, "a", "b", streamed=True) as link:
        await link.answer()
        with pytest.raises(GatewayError):
            await read(link)


async def test_an_answer_that_should_have_been_a_stream_is_4002() -> None:
    scripts = by_name({"a": sse_answer(stream("a")), "b": answer(chat("b"))})
    async with Chaos(scripts) as chaos, asked(chaos, "a", "b", streamed=True) as link:
        with pytest.raises(GatewayError) as caught:
            await link.answer()
    assert caught.value.code.code == "4002"


async def test_an_event_that_is_too_large_is_5000() -> None:
    scripts = by_name({"a": sse_answer(stream("a")), "b": sse_answer(stream("b" * 2000))})
    async with Chaos(scripts) as chaos, asked(chaos, "a", "b", streamed=True, max_event_bytes=1000) as link:
        with pytest.raises(GatewayError) as caught:  # noqa: PT012  # before or behind the head
            await link.answer()
            await read(link)
    assert caught.value.code.code == "5000"


async def test_a_fault_of_ours_is_no_end_of_an_answer() -> None:
    async def broken(flight: Flight) -> None:
        raise KeyError(flight.takers)

    async with Chaos() as chaos:
        pool = Pool("127.0.0.1", chaos.port, None, PATIENT)
        with pytest.raises(GatewayError) as caught:
            await alone(pool, broken).answer()
        pool.close()
    assert caught.value.code.code == "4000"


async def test_who_leaves_ends_all_of_them() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(sse_head())
        while True:
            await exchange.send(chunk(piece({"content": "a"})))
            await asyncio.sleep(0.01)

    async with Chaos(endless) as chaos:
        async with asked(chaos, "a", "b", "c", streamed=True) as link:
            await link.answer()
        async with asyncio.timeout(5):
            for connection in chaos.connections:
                await connection.closed.wait()
        assert len(chaos.connections) == 3


async def test_nothing_is_read_ahead_of_a_reader_that_stops() -> None:
    async def flood(exchange: Exchange) -> None:
        await exchange.send(sse_head())
        while True:
            await exchange.send(chunk(piece({"content": "a" * 10_000})))

    async with Chaos(flood) as chaos, asked(chaos, "a", "b", streamed=True) as link:
        await link.answer()
        link.pause()
        await asyncio.sleep(0.5)
        before = sum(connection.sent_bytes for connection in chaos.connections)
        await asyncio.sleep(0.5)
        assert sum(connection.sent_bytes for connection in chaos.connections) == before < 50_000_000
