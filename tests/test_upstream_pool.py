"""Connections to the upstream: used again when they may be, never when they may not, and over TLS."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.upstream.pool import Deadlines, Pool
from tests.chaos import (
    Chaos,
    Close,
    Cut,
    Exchange,
    Hang,
    ReadBody,
    Script,
    Set,
    WaitFor,
    answer,
    chunk,
    chunked,
    head,
    json_answer,
    sse_answer,
    sse_head,
    stalled_connect,
)
from tests.lockstep import CLOSE, upload_request
from tests.support import Answer, Gateway, call, custom_path, exchange_on, free_port, gateway_process, native

FRONTS = ("native", "custom")
REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: upstream\r\n\r\n"
PATIENT = Deadlines(connect_s=5, first_byte_s=5, idle_s=5, total_s=5, keepalive_s=60)


@asynccontextmanager
async def pool_to(chaos: Chaos, deadlines: Deadlines = PATIENT) -> AsyncIterator[Pool]:
    pool = Pool("127.0.0.1", chaos.port, None, deadlines)
    try:
        yield pool
    finally:
        pool.close()


async def body_of_answer(pool: Pool) -> bytes:
    async with exchange_on(pool, REQUEST) as link:
        await link.answer()
        return await link.read(1000)


async def test_a_connection_is_active_then_idle_then_active_again() -> None:
    async with Chaos(json_answer({})) as chaos, pool_to(chaos) as pool:
        for _ in range(3):
            async with exchange_on(pool, REQUEST) as link:
                assert (pool.active_count, pool.idle_count) == (1, 0)
                await link.answer()
                await link.read(1000)
            assert (pool.active_count, pool.idle_count) == (0, 1)
        assert len(chaos.connections) == 1


async def test_each_call_has_a_connection_of_its_own() -> None:
    go_on = asyncio.Event()
    async with Chaos([WaitFor(go_on), json_answer({})]) as chaos, pool_to(chaos) as pool:
        calls = [asyncio.create_task(body_of_answer(pool)) for _ in range(5)]
        await chaos.exchange(4)
        go_on.set()
        assert await asyncio.gather(*calls) == [b"{}"] * 5
        assert len(chaos.connections) == pool.idle_count == 5


async def test_the_connection_that_was_used_last_is_used_first() -> None:
    """So that those which are not needed grow old and are closed."""
    async with Chaos(json_answer({})) as chaos, pool_to(chaos) as pool:
        async with exchange_on(pool, REQUEST) as first, exchange_on(pool, REQUEST) as second:
            for link in (first, second):
                await link.answer()
                await link.read(1000)
        for _ in range(4):
            await body_of_answer(pool)
        assert [len(connection.exchanges) for connection in chaos.connections] == [5, 1]


async def test_an_exchange_that_is_left_early_closes_its_connection() -> None:
    async with Chaos([sse_head(), chunk(b"data: 1\n\n"), Hang()]) as chaos, pool_to(chaos) as pool:
        async with exchange_on(pool, REQUEST) as link:
            await link.answer()
        await chaos.connections[0].closed.wait()
        assert (pool.active_count, pool.idle_count) == (0, 0)


async def test_an_idle_connection_is_closed_when_it_is_old() -> None:
    deadlines = Deadlines(connect_s=5, first_byte_s=5, idle_s=5, total_s=5, keepalive_s=0.1)
    async with Chaos(json_answer({})) as chaos, pool_to(chaos, deadlines) as pool:
        await body_of_answer(pool)
        async with asyncio.timeout(5):
            await chaos.connections[0].closed.wait()
        assert pool.idle_count == 0


async def test_a_connection_whose_request_lies_unsent_is_not_used_again() -> None:
    """The upstream answered before it took the request: the next one would wait behind the rest of it."""
    size = 20_000_000
    request = b"POST /v1/files HTTP/1.1\r\nHost: upstream\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with Chaos([ReadBody(0), json_answer({"early": 1})], json_answer({})) as chaos, pool_to(chaos) as pool:
        async with exchange_on(pool, request) as link:
            await link.answer()
            assert await link.read(1000) == b'{"early": 1}'
        async with asyncio.timeout(2):
            assert await body_of_answer(pool) == b"{}"
        assert len(chaos.connections) == 2


async def test_closing_the_pool_closes_every_connection() -> None:
    async with Chaos(json_answer({}), [Hang()]) as chaos:
        async with pool_to(chaos) as pool:
            await body_of_answer(pool)
        async with asyncio.timeout(5):
            await chaos.connections[0].closed.wait()


@pytest.mark.parametrize(
    ("deadline", "script"),
    [
        ("first_byte_s", [Hang()]),
        ("idle_s", [head(200, ("Content-Length", "9")), Hang()]),
        ("total_s", [head(200, ("Content-Length", "9")), Hang()]),
    ],
)
async def test_a_deadline_ends_the_exchange_with_4017(deadline: str, script: Script) -> None:
    seconds = {"connect_s": 5.0, "first_byte_s": 5.0, "idle_s": 5.0, "total_s": 5.0, "keepalive_s": 60.0, deadline: 0.1}
    async with Chaos(script) as chaos, pool_to(chaos, Deadlines(**seconds)) as pool:
        with pytest.raises(GatewayError, match=r"0\.1 s") as caught:
            await body_of_answer(pool)
        assert caught.value.code.code == "4017"
        await chaos.connections[0].closed.wait()


async def test_a_connection_that_does_not_come_about_is_4017() -> None:
    async with stalled_connect() as base_url:
        pool = Pool("127.0.0.1", int(base_url.split(":")[2].split("/")[0]), None, Deadlines(0.1, 5, 5, 5, 60))
        with pytest.raises(GatewayError, match=r"4017.*connection within 0\.1 s"):
            await body_of_answer(pool)
        pool.close()


async def test_a_refused_connection_is_4001() -> None:
    async with Chaos() as chaos, pool_to(chaos) as pool:
        await chaos.refuse()
        with pytest.raises(GatewayError, match=r"4001.*cannot be reached"):
            await body_of_answer(pool)


# through a running gateway


async def embeddings(gateway: Gateway, front: str = "native") -> Answer:
    if front == "custom":
        return await call(gateway, "POST", custom_path(gateway, method="v1/embeddings"), {"input": "a"})
    return await native(gateway, "POST", "/v1/embeddings", {"input": "a"})


async def stream(gateway: Gateway, **query: str) -> Answer:
    suffix = "".join(f"?{name}={value}" for name, value in query.items())
    return await native(gateway, "POST", f"/v1/chat/completions{suffix}", {"messages": [], "stream": True})


async def test_a_connection_is_used_again_whatever_the_answer_was(gateway: Gateway) -> None:
    events = [b'data: {"n": 1}\n\n', b"data: [DONE]\n\n"]
    in_chunks = head(200, ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked"))
    scripts = [
        json_answer({}),
        in_chunks + chunked([b"{", b"}"]),
        json_answer({"error": {}}, 400),
        json_answer({}, 500),
        answer(b"", "text/plain", 204),
        head(204),
        sse_answer(events),
        sse_answer(events),
        json_answer({}),
    ]
    async with Chaos(*scripts, port=gateway.upstream_port) as chaos:
        for _ in range(6):
            await embeddings(gateway)
        assert (await stream(gateway)).body == b"".join(events)
        assert (await stream(gateway, result_type="jsonu")).body == b"".join(events)
        await embeddings(gateway)
        assert len(chaos.connections) == 1


LAST_ANSWERS: dict[str, Script] = {
    "a close that is announced": [json_answer({}, 200, CLOSE)],
    "HTTP/1.0": [head(200, ("Content-Type", "application/json"), ("Content-Length", "2"), version="1.0") + b"{}"],
}


@pytest.mark.parametrize("script", LAST_ANSWERS.values(), ids=LAST_ANSWERS)
async def test_a_connection_that_the_upstream_wants_closed_is_closed(gateway: Gateway, script: Script) -> None:
    async with Chaos(script, port=gateway.upstream_port) as chaos:
        for number in range(3):
            assert (await embeddings(gateway)).status == 200
            await chaos.connections[number].closed.wait()
        assert len(chaos.connections) == 3


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("ending", [Close(), Cut()], ids=["FIN", "RST"])
async def test_a_connection_that_closed_behind_its_answer_is_never_used(
    gateway: Gateway, ending: Close | Cut, front: str
) -> None:
    """An upstream that closes without a word, call after call: no request is lost, and none is sent twice."""
    async with Chaos([json_answer({}), ending], port=gateway.upstream_port) as chaos:
        for _ in range(200):
            assert (await embeddings(gateway, front)).headers["x-error-code"] == "0000"
        assert len(chaos.exchanges) == len(chaos.connections) == 200


async def test_a_connection_that_closed_while_idle_is_never_used(gateway: Gateway) -> None:
    close, closed = asyncio.Event(), asyncio.Event()
    first: Script = [json_answer({}), WaitFor(close), Close(), Set(closed)]
    async with Chaos(first, json_answer({}), port=gateway.upstream_port) as chaos:
        await embeddings(gateway)
        close.set()
        await closed.wait()
        assert (await embeddings(gateway)).status == 200
        assert [len(connection.exchanges) for connection in chaos.connections] == [1, 1]


async def test_a_request_is_not_sent_again_after_the_upstream_had_it(gateway: Gateway) -> None:
    async with Chaos(json_answer({}), [Cut()], json_answer({}), port=gateway.upstream_port) as chaos:
        codes = [(await embeddings(gateway)).headers["x-error-code"] for _ in range(3)]
        assert codes == ["0000", "4001", "0000"]
        assert len(chaos.exchanges) == 3


@pytest.mark.parametrize("result_type", ["json", "xml"])
async def test_no_connection_is_used_again_after_an_aborted_stream(gateway: Gateway, result_type: str) -> None:
    scripts: list[Script] = [[sse_head(), chunk(b'data: {"n": 1}\n\n'), Hang()], json_answer({})]
    async with Chaos(*scripts, port=gateway.upstream_port) as chaos:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        target = f"/v1/chat/completions?result_type={result_type}"
        body = b'{"messages":[],"stream":true}'
        writer.write(
            f"POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {gateway.token}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await reader.readuntil(b"\n\n")
        writer.transport.abort()
        assert (await embeddings(gateway)).status == 200
        assert [len(connection.exchanges) for connection in chaos.connections] == [1, 1]
        await chaos.connections[0].closed.wait()


@pytest.mark.parametrize("front", FRONTS)
async def test_an_answer_before_the_end_of_an_upload_ends_the_connection(gateway: Gateway, front: str) -> None:
    """The rest of the upload must not be taken for a request."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.read_body(100_000)
        await exchange.send(json_answer({"error": {"message": "too large"}}, 413))
        await exchange.read_body()

    request = upload_request(gateway, front, size=5_000_000) + bytes(1_000_000)  # the rest never comes
    async with Chaos(refuse, json_answer({}), port=gateway.upstream_port) as chaos:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request)
        assert b"X-Error-Code: 2000" in await reader.readuntil(b"too large")
        writer.transport.abort()
        await chaos.connections[0].closed.wait()
        assert (await embeddings(gateway)).status == 200
        assert [len(connection.exchanges) for connection in chaos.connections] == [1, 1]


async def test_an_upstream_that_cannot_be_reached_is_4001_until_it_is_back(gateway: Gateway) -> None:
    async with Chaos(json_answer({}), port=gateway.upstream_port) as chaos:
        await chaos.refuse()
        for front in FRONTS:
            refused = await embeddings(gateway, front)
            assert refused.headers["x-error-code"] == "4001"
            assert b"127.0.0.1" not in refused.body
        await chaos.accept()
        assert (await embeddings(gateway)).status == 200


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `key.pem`, `certificate.pem` for 127.0.0.1, and a stranger's `other.pem`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates of the TLS tests and is not installed")
    directory = tmp_path_factory.mktemp("certificates")
    for key, certificate in (("key.pem", "certificate.pem"), ("other-key.pem", "other.pem")):
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
            f"-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
        )
        subprocess.run(command.split(), check=True, capture_output=True, cwd=directory)
    return directory


@pytest.fixture(scope="module")
def tls_context(certificates: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "certificate.pem", certificates / "key.pem")
    return context


@pytest.fixture(scope="module")
def tls_gateway(certificates: Path) -> Iterator[Gateway]:
    """A gateway that speaks TLS with its upstream and trusts the right certificate."""
    port = free_port()
    ca_file = f'ca_file = "{certificates / "certificate.pem"}"'
    with gateway_process(upstream=f"https://127.0.0.1:{port}/v1", upstream_config=ca_file) as running:
        running.upstream_port = port
        yield running


async def test_calls_and_streams_pass_over_tls(tls_gateway: Gateway, tls_context: ssl.SSLContext) -> None:
    events = [b"data: %d\n\n" % number for number in range(1000)] + [b"data: [DONE]\n\n"]
    scripts = [json_answer({"n": 1}), sse_answer(events), sse_answer(events), json_answer({"n": 2})]
    async with Chaos(*scripts, tls=tls_context, port=tls_gateway.upstream_port) as chaos:
        assert (await embeddings(tls_gateway)).json == {"n": 1}
        for query in ({}, {"result_type": "jsonu"}):
            answered = await stream(tls_gateway, **query)
            assert answered.complete
            assert answered.body == b"".join(events)
        assert (await embeddings(tls_gateway)).json == {"n": 2}
        assert len(chaos.connections) == 1


async def test_a_stream_cut_over_tls_does_not_look_finished(tls_gateway: Gateway, tls_context: ssl.SSLContext) -> None:
    for ending in (Close(), Cut()):
        script: Script = [sse_head(), chunk(b"data: 1\n\n"), ending]
        async with Chaos(script, tls=tls_context, port=tls_gateway.upstream_port):
            cut = await stream(tls_gateway)
            assert not cut.complete
            assert b'"code":"5000"' in cut.body


async def test_a_client_that_leaves_ends_the_tls_connection(tls_gateway: Gateway, tls_context: ssl.SSLContext) -> None:
    script: Script = [sse_head(), chunk(b"data: 1\n\n"), Hang()]
    async with asyncio.timeout(5), Chaos(script, tls=tls_context, port=tls_gateway.upstream_port) as chaos:
        streaming = asyncio.create_task(stream(tls_gateway))
        await chaos.exchange(0)
        streaming.cancel()
        await chaos.connections[0].closed.wait()


async def test_an_upstream_that_cannot_prove_who_it_is_is_4001(tls_gateway: Gateway, certificates: Path) -> None:
    stranger = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    stranger.load_cert_chain(certificates / "other.pem", certificates / "other-key.pem")
    async with Chaos(json_answer({}), tls=stranger, port=tls_gateway.upstream_port) as chaos:
        for front in FRONTS:
            assert (await embeddings(tls_gateway, front)).headers["x-error-code"] == "4001"
        assert not chaos.exchanges
    async with Chaos(json_answer({}), at_connect=True, port=tls_gateway.upstream_port):  # speaks no TLS at all
        assert (await embeddings(tls_gateway)).headers["x-error-code"] == "4001"
