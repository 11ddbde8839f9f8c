"""A connection's plain requests are answered in order however they arrive, and an unusual one hands it to aiohttp."""

from __future__ import annotations

import asyncio
import re
import socket
import struct

import pytest

from tests.chaos import Chaos, Exchange, Hang, ReadBody, WaitFor, json_answer
from tests.support import Gateway, read_to_end, request_bytes

MEGABYTE = 1 << 20


async def echo(exchange: Exchange) -> None:
    """An upstream that answers with what it was asked."""
    await exchange.read_body()
    await exchange.send(json_answer({"target": exchange.target, "body": exchange.body.decode()}))


def post(gateway: Gateway, name: str, body: bytes = b"{}", **headers: str) -> bytes:
    fields = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/json", **headers}
    return request_bytes("POST", f"/v1/{name}", body, fields)


def targets(raw: bytes) -> list[bytes]:
    return re.findall(rb'"target": ?"/v1/([a-z0-9]+)"', raw)


async def ping(gateway: Gateway) -> None:
    """Returns once the gateway's loop has gone round: what was sent before has been read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes("GET", "/healthz"))
    await reader.readuntil(b"ok\n")
    writer.close()


async def test_a_request_in_two_pieces_is_answered_wherever_it_was_cut(gateway: Gateway) -> None:
    """Within the head it goes to aiohttp, within the body it does not."""
    async with Chaos(echo, port=gateway.upstream_port), asyncio.timeout(60):
        whole = post(gateway, "responses", b'{"input": "abc"}', Connection="close")
        for offset in range(1, len(whole)):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(whole[:offset])
            await ping(gateway)
            writer.write(whole[offset:])
            raw = await read_to_end(reader)
            assert raw.startswith(b"HTTP/1.1 200")
            assert raw.endswith(rb'"body": "{\"input\": \"abc\"}"}')
            writer.close()


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
async def test_requests_in_small_pieces_on_one_connection_are_answered_in_order(gateway: Gateway, size: int) -> None:
    names = [f"m{i}" for i in range(8)]
    requests = [post(gateway, name, b'{"a": "%b"}' % (b"x" * (i * 37))) for i, name in enumerate(names)]
    requests.append(post(gateway, "last", Connection="close"))
    async with Chaos(echo, port=gateway.upstream_port), asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for request in requests:
            # The head comes in one piece, or the connection would be aiohttp's.
            head_bytes = request.index(b"\r\n\r\n") + 4
            writer.write(request[:head_bytes])
            for start in range(head_bytes, len(request), size):
                await asyncio.sleep(0)
                writer.write(request[start : start + size])
        raw = await read_to_end(reader)
        writer.close()
    assert targets(raw) == [*(name.encode() for name in names), b"last"]


UNUSUAL = {
    "chunks": {"Transfer-Encoding": "chunked"},
    "trailers": {"TE": "trailers"},
    "an upgrade": {"Connection": "Upgrade", "Upgrade": "h2c"},
    "a long body": {},
}


@pytest.mark.parametrize(
    ("kind", "at_once"),
    # What is pipelined behind an upgrade that is declined waits for ever in aiohttp 3.14; nobody sends that.
    [(kind, at_once) for kind in UNUSUAL for at_once in (True, False) if not (kind == "an upgrade" and at_once)],
)
async def test_an_unusual_request_between_plain_ones_is_served_like_them(
    gateway: Gateway, kind: str, at_once: bool
) -> None:
    body = b'{"a":1}' if kind != "a long body" else b'{"a":"%b"}' % (b"x" * (MEGABYTE + 1))
    unusual = post(gateway, "unusual", body, **UNUSUAL[kind])
    if kind == "chunks":
        unusual = re.sub(rb"Content-Length: \d+\r\n", b"", unusual).replace(body, b"7\r\n" + body + b"\r\n0\r\n\r\n")
    requests = [
        post(gateway, "first"),
        post(gateway, "second"),
        unusual,
        post(gateway, "third"),
        post(gateway, "fourth", Connection="close"),
    ]
    async with Chaos(echo, port=gateway.upstream_port), asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=4 * MEGABYTE)
        if at_once:
            writer.write(b"".join(requests))
            raw = await read_to_end(reader)
        else:
            raw = b""
            for request in requests[:-1]:
                writer.write(request)
                raw += await reader.readuntil(b'"}')
            writer.write(requests[-1])
            raw += await read_to_end(reader)
        writer.close()
    assert raw.count(b"HTTP/1.1 200 OK") == 5
    assert targets(raw) == [b"first", b"second", b"unusual", b"third", b"fourth"]


async def test_nonsense_behind_a_plain_request_is_refused_after_its_answer(gateway: Gateway) -> None:
    async with Chaos(echo, port=gateway.upstream_port) as chaos, asyncio.timeout(20):
        for nonsense in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n", b"X" * 100 + b"\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(post(gateway, "good") + nonsense)
            raw = await read_to_end(reader)
            writer.close()
            assert re.findall(rb"HTTP/1\.[01] (\d+)", raw) == [b"200", b"400"]
        assert len(chaos.exchanges) == 3


async def test_what_was_read_of_one_head_is_not_taken_for_another(gateway: Gateway) -> None:
    """Two accounts' requests on one connection, as a careless proxy may send them, with heads of one length."""
    stranger = gateway.token[:-1] + ("x" if gateway.token[-1] != "x" else "y")
    good, bad = post(gateway, "a"), post(gateway, "b").replace(gateway.token.encode(), stranger.encode())
    assert len(good) == len(bad)
    async with Chaos(echo, port=gateway.upstream_port) as chaos, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        codes = []
        for request in (good, bad, good, good, bad, bad):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
            codes += re.findall(rb"X-Error-Code: (\d+)", head)
        writer.close()
    assert codes == [b"0000", b"4005", b"0000", b"0000", b"4005", b"4005"]
    assert [exchange.target for exchange in chaos.exchanges] == ["/v1/a"] * 3


async def test_uploads_of_different_lengths_on_one_connection_stay_apart(gateway: Gateway) -> None:
    """Their heads differ in the length alone, and the upstream must be told each one's own."""
    fields = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/sdp"}
    bodies = [b"A" * 10, b"B" * 10 + request_bytes("GET", "/v1/smuggled"), b"C" * 5, b"", b"D" * 70_000]
    async with Chaos(echo, port=gateway.upstream_port) as chaos, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=MEGABYTE)
        for body in bodies:
            writer.write(
                request_bytes("POST", "/v1/realtime/calls", body, {**fields, "Content-Length": str(len(body))})
            )
            assert (await reader.readuntil(b'"}')).startswith(b"HTTP/1.1 200")
        writer.close()
    assert [bytes(exchange.body) for exchange in chaos.exchanges] == bodies
    assert {exchange.target for exchange in chaos.exchanges} == {"/v1/realtime/calls"}


async def test_a_stopped_account_is_refused_on_a_connection_that_it_has_used(gateway: Gateway) -> None:
    added = gateway.cli("accounts", "add", "stopped-soon", "--key", "soon", "--secret", "soon-secret")
    assert "soon-secret" in added
    request = request_bytes("POST", "/v1/responses", b"{}", {"Authorization": "Bearer soon:soon-secret"})
    async with Chaos(echo, port=gateway.upstream_port), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        seen: list[bytes] = []
        stopped = False
        while not seen or seen[-1] != b"4007":
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
            seen += re.findall(rb"X-Error-Code: (\d+)", head)
            if seen[-1] == b"0000" and not stopped:
                stopped = True
                await asyncio.to_thread(gateway.cli, "accounts", "stop", "stopped-soon")
            await asyncio.sleep(0.02)
        writer.close()
    gateway.cli("accounts", "delete", "stopped-soon", "--yes")
    assert set(seen) - {b"4004"} == {b"0000", b"4007"}  # 4004 until the new account was seen


async def test_a_flood_of_requests_behind_a_slow_one_is_held_back_and_answered(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    request = post(gateway, "more", b'{"a":"%b"}' % (b"x" * 10_000))
    count = 3000  # 30 MB
    async with (
        Chaos([ReadBody(), WaitFor(go_on), json_answer({"target": "/v1/first"})], echo, port=gateway.upstream_port),
        asyncio.timeout(60),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        before = gateway.resident_bytes
        writer.write(post(gateway, "first"))
        sent = 0
        while sent < count:
            writer.write(request)
            sent += 1
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                break
        assert sent < count, "the gateway took everything"
        assert gateway.resident_bytes - before < 4 * MEGABYTE
        go_on.set()
        writer.write(post(gateway, "last", Connection="close"))
        raw = await read_to_end(reader)
        writer.close()
    assert targets(raw) == [b"first", *[b"more"] * sent, b"last"]


@pytest.mark.parametrize("linger", [True, False], ids=["RST", "FIN"])
async def test_a_client_that_leaves_a_held_up_connection_is_noticed(gateway: Gateway, linger: bool) -> None:
    """The gateway does not read from it then, and asks the kernel instead."""
    async with Chaos([ReadBody(), Hang()], port=gateway.upstream_port) as chaos, asyncio.timeout(30):
        client = socket.create_connection(("127.0.0.1", gateway.port))
        client.sendall(post(gateway, "first") + post(gateway, "more", b'{"a":"%b"}' % (b"x" * 100_000)) * 2)
        await chaos.exchange(0)
        if linger:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await chaos.connections[0].closed.wait()
        assert len(chaos.exchanges) == 1


async def test_requests_that_are_refused_at_once_let_others_in(gateway: Gateway) -> None:
    """A thousand refusals in one read do not nest, and are answered each."""
    refused = request_bytes("GET", "/v1/models")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(30):
        writer.write(refused * 1000 + request_bytes("GET", "/healthz", headers={"Connection": "close"}))
        raw = await read_to_end(reader)
    writer.close()
    assert re.findall(rb"HTTP/1\.1 (\d+)", raw) == [b"400"] * 1000 + [b"200"]
