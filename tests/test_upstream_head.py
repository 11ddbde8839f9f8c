"""The head of an upstream's answer: what is read of it, and that a hostile one costs one call an error and no more."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from gateway.errors import GatewayError
from gateway.upstream.head import CHUNKED, MAX_HEADERS, UNTIL_CLOSE, lines_named, parse_head
from tests.chaos import Chaos, Flood, Hang, Script, WaitFor, answer, head, json_answer, sse_head
from tests.support import Answer, Gateway, call, custom_path, native

FRONTS = ("native", "custom")


def test_status_headers_and_framing_are_read() -> None:
    read = parse_head(head(201, ("Content-TYPE", 'Text/Event-Stream; charset="UTF-8"'), ("X-A", "1"), ("x-a", "2")))
    assert read.status == 201
    assert read.lines(lines_named([b"x-A", b"x-c"])) == [b"X-A: 1", b"x-a: 2"]
    assert read.lines(lines_named([b"x-b", b"a"])) == []
    assert read.get(b"x-a") == b"1"
    assert read.get(b"x-b") is None
    assert read.content_type == b'Text/Event-Stream; charset="UTF-8"'
    assert read.media_type == b"text/event-stream"
    assert read.length == UNTIL_CLOSE


@pytest.mark.parametrize(
    ("raw", "length", "keep_alive"),
    [
        (head(200, ("Content-Length", "12")), 12, True),
        (head(200, ("Content-Length", "12"), ("Connection", "close")), 12, False),
        (head(200, ("Transfer-Encoding", "chunked")), CHUNKED, True),
        (head(200, ("Transfer-Encoding", "Chunked")), CHUNKED, True),
        (head(200), UNTIL_CLOSE, False),
        (head(200, ("Connection", "keep-alive")), UNTIL_CLOSE, False),
        (head(204), 0, True),
        (head(304, ("Content-Length", "12")), 0, True),
        (head(200, ("Content-Length", "12"), version="1.0"), 12, False),
        (head(200, ("Content-Length", "12"), ("Connection", "keep-alive"), version="1.0"), 12, True),
    ],
)
def test_where_the_body_ends_and_whether_the_connection_lasts(raw: bytes, length: int, keep_alive: bool) -> None:
    read = parse_head(raw)
    assert (read.length, read.keep_alive) == (length, keep_alive)


NONSENSE = {
    "switched protocols": head(101, ("Upgrade", "websocket"), ("Connection", "Upgrade")),
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "status 99": b"HTTP/1.1 099 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\n\r\n",
    "status of words": b"HTTP/1.1 OK\r\n\r\n",
    "both framings": head(200, ("Content-Length", "2"), ("Transfer-Encoding", "chunked")),
    "both framings, swapped": head(200, ("Transfer-Encoding", "chunked"), ("Content-Length", "2")),
    "a repeated length": head(200, ("Content-Length", "2"), ("Content-Length", "2")),
    "two lengths": head(200, ("Content-Length", "2"), ("Content-Length", "3")),
    "a list of lengths": head(200, ("Content-Length", "2, 2")),
    "a negative length": head(200, ("Content-Length", "-2")),
    "a length with a sign": head(200, ("Content-Length", "+2")),
    "a length without digits": head(200, ("Content-Length", "")),
    "a length beyond all bounds": head(200, ("Content-Length", "9" * 30)),
    "another coding": head(200, ("Transfer-Encoding", "gzip, chunked")),
    "chunked twice": head(200, ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")),
    "an unknown coding": head(200, ("Transfer-Encoding", "xchunked")),
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n",
    "a bare CR": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n",
    "a bare LF": b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: b\r\n\r\n",
    "a bare LF before the framing": b"HTTP/1.1 200 OK\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    "a folded length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n\r\n",
    "a bare LF behind the status": b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\r\n\r\n",
    "a bare CR behind the status": b"HTTP/1.1 200 OK\rTransfer-Encoding: chunked\r\n\r\n",
    "a value behind a bare LF": b"HTTP/1.1 200 OK\r\nX:\nTransfer-Encoding: chunked\r\n\r\n",
    "a fold at the beginning": b"HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\0\r\n\r\n",
    "too many headers": head(200, *[("X", "1")] * (MAX_HEADERS + 1)),
}


@pytest.mark.parametrize("raw", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_4002_and_not_quoted(raw: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        parse_head(raw)
    assert caught.value.code.code == "4002"
    assert not {"OpenSSH", "Set-Cookie", "gzip"} & set(caught.value.reason.split())


# through a running gateway


async def embeddings(gateway: Gateway, front: str) -> Answer:
    if front == "custom":
        return await call(gateway, "POST", custom_path(gateway, method="v1/embeddings"), {"input": "a"})
    return await native(gateway, "POST", "/v1/embeddings", {"input": "a"})


async def assert_refused(gateway: Gateway, script: Script, front: str) -> None:
    """An upstream that plays this script is 4002 to the client, and a sane one is served next."""
    async with Chaos(script, json_answer({"healthy": 1}), port=gateway.upstream_port) as chaos:
        refused = await embeddings(gateway, front)
        assert refused.complete
        assert refused.status == (200 if front == "custom" else 502)
        assert refused.headers["x-error-code"] == "4002"
        assert b"4002" in refused.body
        served = await embeddings(gateway, front)
        assert served.headers["x-error-code"] == "0000"
        assert b'"healthy": 1' in served.body
        assert len(chaos.exchanges) == 2


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("raw", NONSENSE.values(), ids=NONSENSE)
async def test_an_upstream_of_nonsense_is_refused(gateway: Gateway, raw: bytes, front: str) -> None:
    await assert_refused(gateway, raw + b"{}", front)


HOSTILE: dict[str, Script] = {
    "an endless line": [b"HTTP/1.1 200 OK\r\nX: ", Flood(None, b"x" * 65_536)],
    "endless headers": [b"HTTP/1.1 200 OK\r\n", Flood(None, b"X: 1\r\n" * 8192)],
    "an endless status": [b"HTTP/1.1 200 ", Flood(None, b"x" * 65_536)],
    "blank lines without end": [Flood(None, b"\n" * 65_536)],
    "switched protocols": [head(101, ("Upgrade", "websocket"), ("Connection", "Upgrade")), Hang()],
    "switched protocols without a word": [head(101), Hang()],
    "a redirect": [json_answer({}, 307, ("Location", "/elsewhere"))],
    "gzip": [answer(gzip.compress(b"{}"), "application/json", 200, ("Content-Encoding", "gzip"))],
    "gzip on a stream": [sse_head(("Content-Encoding", "gzip")), Hang()],
    "two codings": [answer(b"{}", "application/json", 200, ("Content-Encoding", "identity, br"))],
    "a page": [answer(b"<html>", "text/html")],
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_upstream_is_refused_in_bounded_memory(gateway: Gateway, script: Script, front: str) -> None:
    before = gateway.resident_bytes
    await assert_refused(gateway, script, front)
    assert gateway.resident_bytes - before < 4_000_000


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(gateway: Gateway, status: int, front: str) -> None:
    async with Chaos(json_answer({})) as elsewhere:
        await assert_refused(gateway, json_answer({}, status, ("Location", f"{elsewhere.base_url}/embeddings")), front)
        assert not elsewhere.connections


@pytest.mark.parametrize("front", FRONTS)
async def test_interim_answers_are_passed_over(gateway: Gateway, front: str) -> None:
    interim = head(100) + head(103, ("Link", "</a>")) + head(102)
    async with Chaos(interim + json_answer({"n": 1}), port=gateway.upstream_port) as chaos:
        for _ in range(2):
            served = await embeddings(gateway, front)
            assert b'"n": 1' in served.body
        assert len(chaos.connections) == 1


@pytest.mark.parametrize("front", FRONTS)
async def test_bytes_behind_an_answer_are_nobodys(gateway: Gateway, front: str) -> None:
    """A second answer that nobody asked for must not become the next caller's."""
    planted = json_answer({"n": 1}) + json_answer({"planted": 1})
    async with Chaos(planted, json_answer({"n": 2}), port=gateway.upstream_port) as chaos:
        assert b'"n": 1' in (await embeddings(gateway, front)).body
        assert b'"n": 2' in (await embeddings(gateway, front)).body
        assert len(chaos.connections) == 2


@pytest.mark.parametrize("front", FRONTS)
async def test_an_answer_on_an_idle_connection_is_nobodys(gateway: Gateway, front: str) -> None:
    plant = asyncio.Event()
    script: Script = [json_answer({"n": 1}), WaitFor(plant), json_answer({"planted": 1})]
    async with Chaos(script, json_answer({"n": 2}), port=gateway.upstream_port) as chaos:
        assert b'"n": 1' in (await embeddings(gateway, front)).body
        plant.set()
        await chaos.connections[0].closed.wait()
        assert b'"n": 2' in (await embeddings(gateway, front)).body
