"""Requests that two readers of HTTP could read differently are refused, and never become a second request.

Every case carries a whole valid call in its body or behind it, `GET /v1/smuggled`: the upstream is a recorder that must
not see it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from tests.chaos import Chaos, Exchange, json_answer
from tests.support import Gateway, read_to_end


@pytest.fixture
async def upstream(gateway: Gateway) -> AsyncIterator[Chaos]:
    async with Chaos(json_answer({"ok": True}), port=gateway.upstream_port) as chaos:
        yield chaos


async def talk(gateway: Gateway, request: bytes) -> bytes:
    """Everything that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(request)
        async with asyncio.timeout(5):
            return await read_to_end(reader)
    finally:
        writer.close()


def statuses(raw: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", raw)]


def auth(gateway: Gateway) -> bytes:
    return f"Authorization: Bearer {gateway.token}\r\n".encode()


def smuggled(gateway: Gateway) -> bytes:
    return b"GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b"Connection: close\r\n\r\n"


def assert_refused(raw: bytes, upstream: Chaos) -> None:
    """One 400, and the connection is closed behind it."""
    assert statuses(raw) == [400]
    head = raw.lower().partition(b"\r\n\r\n")[0]
    assert b"connection: close" in head
    assert b"x-error-code: 4003" in head
    assert b"date: " in head
    assert b"smuggled" not in raw
    for exchange in upstream.exchanges:
        assert b"smuggled" not in exchange.raw


# Where a body ends


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4",
        b"Content-Length: 0\r\ntransfer-encoding: Chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b'Transfer-Encoding: "chunked"',
        b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding: chunk",
        b"Transfer-Encoding: chunked,",
        b"Transfer-Encoding:",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\t: chunked",
        b"Transfer-Encoding\r\n : chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding:\x00chunked",
        b"Transfer-Encoding: ch\xc3\xbcnked",
        b"Transfer-Encoding: chunked\x00",
        b"Transfer-Encoding: x\r\n chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"X: y\rTransfer-Encoding: chunked",
        b"X: y\nTransfer-Encoding: chunked",
        b"X: y\r\n\tTransfer-Encoding: chunked",
        b"Transfer_Encoding: chunked\r\nTransfer-Encoding: cow",
        b"Content-Length: -1",
        b"Content-Length: +4",
        b"Content-Length: 4, 4",
        b"Content-Length: 4 4",
        b"Content-Length: 0x4",
        b"Content-Length: 1_0",
        b"Content-Length: 4.0",
        b"Content-Length: 4;",
        b"Content-Length: \xef\xbc\x94",
        b"Content-Length: \x0b4",
        b"Content-Length: ",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length: 4\r\nContent-Length: 5",
        b"Content-Length: 4\r\nContent-Length: 4",
        b"Content-Length: 0\r\nContent-Length: 4",
        b"Content-Length : 4",
        b"Content-Length\r\n: 4",
        b"Content-Length: 4\nX: y",
        b"Content-Length: 4\r\n X: y",
        b"Content-Length: 4\rX: y",
        b"Content Length: 4",
    ],
    ids=repr,
)
async def test_a_body_with_no_certain_end_is_refused(gateway: Gateway, upstream: Chaos, framing: bytes) -> None:
    head = b"POST /v1/responses HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + framing + b"\r\n\r\n"
    raw = await talk(gateway, head + b"0\r\n\r\n" + smuggled(gateway))
    assert_refused(raw, upstream)
    assert not upstream.exchanges


@pytest.mark.parametrize(
    "body",
    [
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"+2\r\n{}\r\n0\r\n\r\n",
        b" 2\r\n{}\r\n0\r\n\r\n",
        b"2_\r\n{}\r\n0\r\n\r\n",
        b"g\r\n{}\r\n0\r\n\r\n",
        b"\r\n{}\r\n0\r\n\r\n",
        b"2\n{}\n0\n\n",
        b"2\r{}\r\n0\r\n\r\n",
        b"2;\n{}\r\n0\r\n\r\n",
        b"2;a\nb\r\n{}\r\n0\r\n\r\n",
        b'2;a="\n"\r\n{}\r\n0\r\n\r\n',
        b"2;a\x00\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}0\r\n\r\n",
        b"2\r\n{}XX0\r\n\r\n",
        b"2\r\n{}\n0\r\n\r\n",
        b"1\r\n{}\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
        b"10000000000000002\r\n{}\r\n0\r\n\r\n",
        b"\xef\xbc\x92\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}\r\n0\r\nbroken trailer\r\n\r\n",
        b"2\r\n{}\r\n0\r\nX : y\r\n\r\n",
        b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n",
        b"2\r\n{}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"2\r\n{}\r\n0\r\nX: y\nZ: z\r\n\r\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("path", [b"/v1/responses", b"/openai/custom/?key=%b&secret=%b&method=v1/responses"])
async def test_broken_chunks_are_refused(gateway: Gateway, upstream: Chaos, body: bytes, path: bytes) -> None:
    """The head was whole: the refusal is an ordinary one of the front, and the connection ends with it."""
    if b"%b" in path:
        path %= gateway.key.encode(), gateway.secret.encode()
    head = b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b"Transfer-Encoding: chunked\r\n\r\n"
    raw = await talk(gateway, head + body + smuggled(gateway))
    assert statuses(raw) in ([400], [200])
    assert b"X-Error-Code: 4003\r\n" in raw
    assert b"\r\nConnection: close\r\n" in raw
    assert not upstream.exchanges


@pytest.mark.parametrize(
    "body",
    [
        b"2;extension=value\r\n{}\r\n0;last\r\n\r\n",
        b'2;quoted="a;b\\"c"\r\n{}\r\n0\r\n\r\n',
        b"002\r\n{}\r\n000\r\n\r\n",
        b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"2\r\n{}\r\n0\r\nX-Trailer: smuggled\r\n\r\n",
    ],
    ids=repr,
)
async def test_extensions_and_trailers_are_read_and_dropped(gateway: Gateway, upstream: Chaos, body: bytes) -> None:
    head = b"POST /v1/responses HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b"Transfer-Encoding: chunked\r\n\r\n"
    last = b"GET /v1/last HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b"Connection: close\r\n\r\n"
    raw = await talk(gateway, head + body + last)
    assert statuses(raw) == [200, 200]
    first, second = upstream.exchanges
    assert (bytes(first.body), first.header("content-length"), first.header("transfer-encoding")) == (b"{}", "2", None)
    assert (second.method, second.target) == ("GET", "/v1/last")
    assert b"extension" not in first.raw
    assert b"railer" not in first.raw


# Lines of a head


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: a\nX: y\r\n",
        b"Host: a\rX: y\r\n",
        b"Host: a\r\nX: y\r\n folded\r\n",
        b"Host: a\r\nX: y\r\n\tfolded\r\n",
        b" Host: a\r\n",
        b"Host : a\r\n",
        b"Host: a\r\nX : y\r\n",
        b"Host: a\r\nno colon\r\n",
        b"Host: a\r\n: no name\r\n",
        b"Host: a\r\nX Y: z\r\n",
        b"Host: a\r\nX(Y): z\r\n",
        b"Host: a\r\nX\x00: z\r\n",
        b"Host: a\r\nX\xc3\xa9: z\r\n",
        b"Host: a\r\nX: \x00\r\n",
        b"Host: a\r\nX: a\x01b\r\n",
        b"Host: a\r\nX: a\x7fb\r\n",
        # Host
        b"",
        b"X: y\r\n",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nhost: b\r\n",
        b"Host: a b\r\n",
        b"Host: a/b\r\n",
        b"Host: a?b\r\n",
        b"Host: a#b\r\n",
        b"Host: a@b\r\n",
        b"Host: a,b\r\n",
        b"Host: a\\b\r\n",
        b"Host: http://a\r\n",
        b"Host: a:port\r\n",
        b"Host: a:80:80\r\n",
        b"Host: [::1\r\n",
        b"Host: <a>\r\n",
        b"Host: \xc3\xa9\r\n",
        b"Host: %zz\r\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("path", [b"/v1/models", b"/openai/custom/", b"/healthz"])
async def test_a_head_that_breaks_the_grammar_is_refused(
    gateway: Gateway, upstream: Chaos, lines: bytes, path: bytes
) -> None:
    raw = await talk(gateway, b"GET " + path + b" HTTP/1.1\r\n" + lines + auth(gateway) + b"\r\n" + smuggled(gateway))
    assert_refused(raw, upstream)


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://a/v1/models HTTP/1.1",
        b"GET https://a/v1/models HTTP/1.1",
        b"GET //a/v1/models HTTP/3.1",
        b"GET v1/models HTTP/1.1",
        b"GET * HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT a:80 HTTP/1.1",
        b"GET a:80 HTTP/1.1",
        b"GET ?method=v1/models HTTP/1.1",
        b"GET /v1/models",
        b"GET /v1/models HTTP/0.9",
        b"GET /v1/models HTTP/1.2",
        b"GET /v1/models HTTP/2.0",
        b"GET /v1/models HTTP/3.0",
        b"GET /v1/models HTTP/9.9",
        b"GET /v1/models HTTP/1",
        b"GET /v1/models HTTP/1.",
        b"GET /v1/models HTTP/1.10",
        b"GET /v1/models HTTP/11",
        b"GET /v1/models HTTP/ 1.1",
        b"GET /v1/models http/1.1",
        b"GET /v1/models HTTPS/1.1",
        b"GET /v1/models FTP/1.1",
        b"GET /v1/models HTTP/1.1 x",
        b"GET /v1/models x HTTP/1.1",
        b"GET\t/v1/models\tHTTP/1.1",
        b"GET /v1/mo\x00dels HTTP/1.1",
        b"GET /v1/mo\tdels HTTP/1.1",
        b"GET /v1/mo\rdels HTTP/1.1",
        b"get /v1/models HTTP/1.1",
        b"G@T /v1/models HTTP/1.1",
        b"FOO /v1/models HTTP/1.1",
        b"X" * 1000 + b" /v1/models HTTP/1.1",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00",
        b"SSH-2.0-OpenSSH_9.2",
        b"",
    ],
    ids=repr,
)
async def test_a_request_line_that_breaks_the_grammar_is_refused(
    gateway: Gateway, upstream: Chaos, line: bytes
) -> None:
    raw = await talk(gateway, line + b"\r\nHost: a\r\n" + auth(gateway) + b"\r\n" + smuggled(gateway))
    assert_refused(raw, upstream)
    assert not upstream.exchanges


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: gateway.test:8080\r\n",
        b"Host: 127.0.0.1\r\n",
        b"Host: [::1]:8080\r\n",
        b"Host: a_b-c.d\r\n",
        b"Host:\ta \t\r\n",
        b"hOST: a\r\nX:\r\nY: \xff\xfe\r\n",
    ],
    ids=repr,
)
async def test_what_the_grammar_allows_is_served(gateway: Gateway, upstream: Chaos, lines: bytes) -> None:
    raw = await talk(gateway, b"\r\nGET /v1/models HTTP/1.1\r\nConnection: close\r\n" + lines + auth(gateway) + b"\r\n")
    assert statuses(raw) == [200]
    assert len(upstream.exchanges) == 1


# What a connection carries


async def test_a_body_is_never_taken_for_a_request(gateway: Gateway, upstream: Chaos) -> None:
    """Neither that of a GET, nor one that is not read because its call is refused."""
    inner = smuggled(gateway)
    length = b"Content-Length: %d\r\n\r\n" % len(inner)
    for head in (
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b"Connection: close\r\n",
        b"DELETE /v1/models/x HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b"Connection: close\r\n",
        b"OPTIONS /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
        b"POST /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
    ):
        assert len(statuses(await talk(gateway, head + length + inner))) == 1
    for exchange in upstream.exchanges:
        assert b"smuggled" not in exchange.raw


async def test_http_1_0_with_chunks_smuggles_nothing(gateway: Gateway, upstream: Chaos) -> None:
    head = b"POST /v1/responses HTTP/1.0\r\n" + auth(gateway) + b"Transfer-Encoding: chunked\r\n\r\n"
    raw = await talk(gateway, head + b"0\r\n\r\n" + smuggled(gateway))
    assert len(statuses(raw)) == 1
    assert not [exchange for exchange in upstream.exchanges if b"smuggled" in exchange.raw]


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.0", b"HTTP/3.0"])
@pytest.mark.parametrize("verb", [b"GET", b"POST"])
async def test_an_upgrade_is_declined_and_the_next_request_is_served(
    gateway: Gateway, upstream: Chaos, protocol: bytes, verb: bytes
) -> None:
    """Java's client asks for h2c on every first request of a connection."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\nHTTP2-Settings: AAMAAABk\r\n"
    upgrade += b"Content-Length: 2\r\n\r\n{}" if verb == b"POST" else b"\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for path, fields in ((b"first", upgrade), (b"last", b"Connection: close\r\n\r\n")):
        writer.write(verb + b" /v1/" + path + b" HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + fields)
        assert statuses(await reader.readuntil(b"}")) == [200]
    assert await reader.read() == b""
    writer.close()
    assert [exchange.target for exchange in upstream.exchanges] == ["/v1/first", "/v1/last"]
    assert all(exchange.header("upgrade") is None for exchange in upstream.exchanges)


async def test_pipelined_requests_are_answered_in_their_order(gateway: Gateway) -> None:
    """However their answers come about: some wait for the upstream, some are refused at once."""

    async def echo(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(json_answer({"target": exchange.target, "body": exchange.body.decode()}))

    async with Chaos(echo, port=gateway.upstream_port):
        requests = [
            b"GET /v1/models/1 HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b"\r\n",
            b"GET /v1/models/2 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /v1/responses HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b'Content-Length: 7\r\n\r\n{"a":3}',
            b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /v1/responses HTTP/1.1\r\nHost: a\r\n" + auth(gateway)
            + b'Transfer-Encoding: chunked\r\n\r\n7\r\n{"a":5}\r\n0\r\n\r\n',
            b"HEAD /v1/models/6 HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b"\r\n",
            *[b"GET /v1/models/%d HTTP/1.1\r\nHost: a\r\n%b\r\n" % (i, auth(gateway)) for i in range(7, 40)],
            b"GET /v1/models/40 HTTP/1.1\r\nHost: a\r\n" + auth(gateway) + b"Connection: close\r\n\r\n",
        ]  # fmt: skip
        raw = await talk(gateway, b"".join(requests))
    assert statuses(raw) == [200, 400, *[200] * 38]
    marks = re.findall(rb"/v1/models/(\d+)|\{\\\"a\\\":(\d)\}|(ok)\n", raw)
    assert [b"".join(mark) for mark in marks] == [b"1", b"3", b"ok", b"5", *[b"%d" % i for i in range(7, 41)]]
