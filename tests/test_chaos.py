"""The chaos upstream does what its scripts say, seen from a plain socket."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos import (
    LAST_CHUNK,
    RECORDED_STREAM,
    Chaos,
    Close,
    Cut,
    Exchange,
    Flood,
    Hang,
    ReadBody,
    ReadHead,
    Send,
    Set,
    Trickle,
    Wait,
    WaitFor,
    answer,
    chunk,
    chunked,
    head,
    json_answer,
    recorded_stream,
    sse_answer,
    sse_head,
    stalled_connect,
)
from tests.data import make_stream

GET = b"GET /v1/models HTTP/1.1\r\nHost: chaos\r\n\r\n"
POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: chaos\r\nContent-Length: 13\r\n\r\n"
BODY = b'{"input": ""}'
EMPTY = head(200, ("Content-Length", "0"))

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connect(chaos: Chaos, receive_buffer_bytes: int | None = None) -> AsyncIterator[Streams]:
    with ExitStack() as on_refusal:
        sock = on_refusal.enter_context(socket.socket())
        sock.setblocking(False)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", chaos.port))
        on_refusal.pop_all()
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    try:
        yield reader, writer
    finally:
        writer.close()


async def asked(chaos: Chaos, request: bytes = GET) -> bytes:
    """All that comes back until the server closes."""
    async with connect(chaos) as (reader, writer):
        writer.write(request)
        return await reader.read()


async def test_a_script_of_bytes_is_the_answer() -> None:
    async with Chaos(EMPTY) as chaos, connect(chaos) as (reader, writer):
        writer.write(GET)
        assert await reader.readexactly(len(EMPTY)) == EMPTY


async def test_steps_are_played_in_order_and_close_ends_cleanly() -> None:
    async with Chaos([b"a", Send(b"b"), Wait(0), Trickle(b"cdef", size=3), Close()]) as chaos:
        assert await asked(chaos) == b"abcdef"
        assert chaos.connections[0].sent_bytes == 6


async def test_each_request_gets_the_next_script_and_the_last_one_serves_the_rest() -> None:
    async with Chaos([b"1"], [b"2", Close()]) as chaos:
        assert await asked(chaos, GET + GET) == b"12"
        assert await asked(chaos) == b"2"
        assert [len(connection.exchanges) for connection in chaos.connections] == [2, 1]


async def test_wait_for_holds_the_answer_until_the_test_says_so() -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    async with Chaos([b"1", Set(reached), WaitFor(go_on), b"2", Close()]) as chaos, connect(chaos) as (reader, writer):
        writer.write(GET)
        await reached.wait()
        assert await reader.readexactly(1) == b"1"
        go_on.set()
        assert await reader.read() == b"2"


async def test_a_request_is_recorded_as_it_came() -> None:
    async with Chaos([EMPTY, Close()]) as chaos:
        await asked(chaos, POST.replace(b"Host:", b"X-One: a\r\nx-one:b\r\nHost:") + BODY)
        exchange = chaos.exchanges[0]
        assert (exchange.method, exchange.target) == ("POST", "/v1/embeddings")
        assert exchange.headers[:3] == [("X-One", "a"), ("x-one", "b"), ("Host", "chaos")]
        assert exchange.header("X-ONE") == "a, b"
        assert exchange.header("Authorization") is None
        assert exchange.body == BODY
        assert exchange.json == {"input": ""}
        assert exchange.raw == chaos.connections[0].received == exchange.head + BODY


async def test_a_chunked_request_body_is_recorded_with_and_without_its_framing() -> None:
    request = b'POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4;x=y\r\n: 1}\r\n0\r\nT: 1\r\n\r\n'
    async with Chaos([EMPTY], [b"next", Close()]) as chaos:
        assert await asked(chaos, request + GET) == EMPTY + b"next"
        assert chaos.exchanges[0].json == {"a": 1}
        assert chaos.exchanges[0].raw == request
        assert chaos.exchanges[1].head == GET


@pytest.mark.parametrize("cut_at", range(1, len(POST + BODY)))
async def test_a_request_may_arrive_in_any_two_parts(cut_at: int) -> None:
    request = POST + BODY
    async with Chaos([EMPTY, Close()]) as chaos, connect(chaos) as (reader, writer):
        writer.write(request[:cut_at])
        while not (chaos.connections and len(chaos.connections[0].received) == cut_at):
            await asyncio.sleep(0)
        writer.write(request[cut_at:])
        assert await reader.read() == EMPTY
        assert chaos.exchanges[0].raw == request


async def test_the_answer_may_come_before_the_body_is_read() -> None:
    async with Chaos([ReadBody(0), b"early", ReadBody(4), b"later", ReadBody(), Close()]) as chaos:
        async with connect(chaos) as (reader, writer):
            writer.write(POST)
            assert await reader.readexactly(5) == b"early"
            assert chaos.exchanges[0].body == b""
            writer.write(BODY[:4])
            assert await reader.readexactly(5) == b"later"
            assert chaos.exchanges[0].body == BODY[:4]
            writer.write(BODY[4:])
            assert await reader.read() == b""
        assert chaos.exchanges[0].body == BODY


async def test_an_unread_upload_stalls_its_client() -> None:
    size_bytes = 64 * 1024 * 1024
    release = asyncio.Event()
    async with Chaos([ReadBody(0), WaitFor(release), ReadBody(), Close()]) as chaos:
        async with connect(chaos) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size_bytes)
            writer.write(bytes(size_bytes))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.2)
            assert len(chaos.connections[0].received) < 2 * 1024 * 1024
            release.set()
            assert await reader.read() == b""
        assert len(chaos.exchanges[0].body) == size_bytes


async def test_cut_is_a_reset_after_what_was_sent() -> None:
    async with Chaos([sse_head(), Cut()]) as chaos, connect(chaos) as (reader, writer):
        writer.write(GET)
        assert await reader.readexactly(len(sse_head())) == sse_head()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert not chaos.connections[0].closed.is_set()


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_leaves_is_noticed_and_ends_the_script(reset: bool) -> None:
    ended = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        try:
            await Hang().play(exchange)
        finally:
            ended.set()

    async with Chaos(script) as chaos, connect(chaos) as (_, writer):
        writer.write(GET)
        exchange = await chaos.exchange()
        if reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        await exchange.connection.closed.wait()
        await ended.wait()
        assert exchange.arrived_at is not None
        assert exchange.connection.closed_at is not None
        assert exchange.connection.connected_at <= exchange.arrived_at <= exchange.connection.closed_at


async def test_a_client_that_leaves_an_idle_connection_is_noticed() -> None:
    async with Chaos(EMPTY) as chaos:
        async with connect(chaos) as (reader, writer):
            writer.write(GET)
            await reader.readexactly(len(EMPTY))
        await chaos.connections[0].closed.wait()


async def test_a_flood_goes_no_faster_than_its_client_reads() -> None:
    async with Chaos([Flood(None, b"x" * 1000)], buffer_bytes=4096) as chaos:
        async with connect(chaos, receive_buffer_bytes=4096) as (reader, writer):
            writer.write(GET)
            connection = (await chaos.exchange()).connection
            await reader.readexactly(10_000)
            await asyncio.sleep(0.2)  # nothing tells that a sender has stopped; only that it had the time not to
            assert 10_000 <= connection.sent_bytes < 200_000
        await connection.closed.wait()


async def test_a_flood_ends_at_its_total() -> None:
    async with Chaos([Flood(10_000_000, b"x" * 65_536), Close()]) as chaos:
        assert len(await asked(chaos)) == chaos.connections[0].sent_bytes == 153 * 65_536


async def test_a_script_at_the_connection_speaks_first() -> None:
    async with Chaos([b"hello", ReadHead(), b"again", ReadBody(), Close()], at_connect=True) as chaos:
        async with connect(chaos) as (reader, writer):
            assert await reader.readexactly(5) == b"hello"
            writer.write(POST)
            assert await reader.readexactly(5) == b"again"
            writer.write(BODY)
            assert await reader.read() == b""
        assert chaos.exchanges[0].body == BODY


async def test_refused_connections_are_accepted_again_on_the_same_port() -> None:
    async with Chaos([EMPTY, Close()]) as chaos:
        for _ in range(2):
            await chaos.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asked(chaos)
            await chaos.accept()
            assert await asked(chaos) == EMPTY


async def test_a_stalled_connect_neither_succeeds_nor_fails() -> None:
    async with stalled_connect() as base_url:
        port = int(base_url.removesuffix("/v1").rpartition(":")[2])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 0.2)


async def test_what_a_script_raises_reaches_the_test() -> None:
    async def script(exchange: Exchange) -> None:
        assert exchange.target == "/v1/other"

    async def test() -> None:
        async with Chaos(script) as chaos:
            with pytest.raises(ConnectionResetError):
                await asked(chaos)

    with pytest.raises(AssertionError, match="/v1/other"):
        await test()


async def test_a_script_that_sends_after_its_own_end_just_ends() -> None:
    async with Chaos([Close(), b"late"]) as chaos:
        assert await asked(chaos) == b""


async def test_open_scripts_and_connections_end_with_the_test() -> None:
    async with Chaos() as chaos:
        reader, writer = await asyncio.open_connection("127.0.0.1", chaos.port)
        writer.write(GET)
        await chaos.exchange()
    assert await reader.read() == b""
    writer.close()


async def test_it_speaks_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out certificate.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with Chaos([b"secret"], [b"!", Hang()], tls=context) as chaos:
        assert chaos.base_url == f"https://127.0.0.1:{chaos.port}/v1"
        trust = ssl.create_default_context(cafile=str(certificate))
        reader, writer = await asyncio.open_connection("127.0.0.1", chaos.port, ssl=trust)
        writer.write(GET + GET)
        assert await reader.readexactly(7) == b"secret!"
        writer.close()
        await chaos.connections[0].closed.wait()


def test_helpers_write_what_http_says() -> None:
    assert head(404, ("A", "b"), version="1.0") == b"HTTP/1.0 404 Not Found\r\nA: b\r\n\r\n"
    assert head(103) == b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert chunked([b"x" * 17, b"y"]) == b"11\r\n" + b"x" * 17 + b"\r\n1\r\ny\r\n0\r\n\r\n"
    assert sse_answer([b"data: 1\n\n"]) == sse_head() + chunk(b"data: 1\n\n") + LAST_CHUNK
    assert json_answer({"a": "é"}, 500).endswith(b'Content-Length: 11\r\n\r\n{"a": "\xc3\xa9"}')
    assert answer(b"", "audio/wav") == head(200, ("Content-Type", "audio/wav"), ("Content-Length", "0"))
    with pytest.raises(ValueError, match="LAST_CHUNK"):
        chunk(b"")


def test_the_recorded_stream_is_what_its_script_makes_and_holds_what_it_says() -> None:
    stream = recorded_stream()
    assert stream == gzip.decompress(RECORDED_STREAM.read_bytes()) == make_stream.stream()
    events = stream.decode().replace("\r\n", "\n").split("\n\n")
    payloads = ["\n".join(line[5:] for line in event.split("\n") if line.startswith("data:")) for event in events]
    data = [payload for payload in payloads if payload]
    assert data.pop().strip() == "[DONE]"
    chunks = [json.loads(each) for each in data]
    assert len(chunks) > 300
    assert {each["object"] for each in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 300
    text = "".join(each["choices"][0]["delta"].get("content", "") for each in chunks[:-1])
    assert all(part in text for part in ("向日葵", "Подсолнух", "👩‍🌾", "繁體字"))
    assert max(map(len, events)) > 600_000
    for feature in (b"\r\n\r\n", b": ping", b"id: ", b"event: ", b"retry: ", b"data: {\n", b"data: {\r\n", b"data:{"):
        assert feature in stream, feature
