"""What a client does not read has its deadline, whatever state its connection is in; and a drain waits for it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.chaos import LAST_CHUNK, Chaos, answer, chunk, sse_head
from tests.support import Gateway, custom_path, free_port, gateway_process, parse_answer, request_bytes

SIZE = 4_000_000  # more than both kernels' buffers take
BIG = b'"' + b"x" * SIZE + b'"'


@pytest.fixture(scope="module")
def impatient() -> Iterator[Gateway]:
    """A gateway that gives its clients a second to read."""
    port = free_port()
    config = "[server]\nwrite_timeout_s = 1\nkeepalive_timeout_s = 0.5\n[log]\naccess = 'all'"
    with gateway_process(f"http://127.0.0.1:{port}/v1", config=config) as gateway:
        gateway.upstream_port = port
        yield gateway


def deaf_client(gateway: Gateway, request: bytes) -> socket.socket:
    """A client that has sent a request and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", gateway.port))
    sock.sendall(request)
    return sock


@pytest.mark.parametrize(
    "closing",
    [{"Connection": "close"}, {}, {"Connection": "close", "TE": "trailers"}, {"TE": "trailers"}],
    ids=["close", "keep-alive", "close, read by aiohttp", "keep-alive, read by aiohttp"],
)
@pytest.mark.parametrize("kind", ["whole", "stream"])
async def test_a_client_that_reads_nothing_is_cut_off(impatient: Gateway, kind: str, closing: dict[str, str]) -> None:
    """Also when the upstream has long ended, and when aiohttp has closed the connection on its side."""
    whole = answer(BIG)
    stream = sse_head() + chunk(b"data: " + BIG + b"\n\n") + chunk(b"data: [DONE]\n\n") + LAST_CHUNK
    target = custom_path(impatient, method="v1/chat/completions", messages="[]", stream="true")
    async with Chaos(whole if kind == "whole" else stream, port=impatient.upstream_port) as chaos:
        before = impatient.sockets
        deaf = [deaf_client(impatient, request_bytes("GET", target, headers=closing)) for _ in range(5)]
        await chaos.exchange(4)
        async with asyncio.timeout(20):
            while impatient.sockets > before + len(deaf):  # the upstream's connections stay for other calls
                await asyncio.sleep(0.05)
        for client in deaf:
            client.close()


async def test_a_drain_waits_until_clients_have_read_their_answers(impatient: Gateway) -> None:
    """A slow client gets the whole of an answer that the upstream had ended before SIGTERM."""
    port = free_port()
    with gateway_process(f"http://127.0.0.1:{port}/v1") as gateway:
        stream = sse_head() + chunk(b"data: " + BIG + b"\n\n") + chunk(b"data: [DONE]\n\n") + LAST_CHUNK
        target = custom_path(gateway, method="v1/chat/completions", messages="[]", stream="true")
        async with Chaos(stream, port=port) as chaos, asyncio.timeout(30):
            client = deaf_client(gateway, request_bytes("GET", target))
            await chaos.exchange(0)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            received = bytearray(await loop.sock_recv(client, 65_536))
            gateway.process.send_signal(signal.SIGTERM)
            while data := await loop.sock_recv(client, 65_536):
                received += data
                await asyncio.sleep(0.002)
            client.close()
    got = parse_answer(bytes(received))
    assert got.complete
    assert got.body.endswith(b"data: [DONE]\n\n")
    assert gateway.process.returncode == 0


async def test_what_a_stranger_sends_is_in_no_warning(impatient: Gateway) -> None:
    """Libraries warn with the text that they read; none of it reaches the log."""
    part = b'--b\r\nContent-Disposition: form-data; name="secret"; x CANARY-IN-A-PART\r\n\r\n1\r\n--b--\r\n'
    request = request_bytes("POST", "/openai/custom/", part, {"Content-Type": "multipart/form-data; boundary=b"})
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(request)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert "CANARY" not in impatient.log
    assert "Warning" not in impatient.log


async def test_many_pipelined_refusals_let_others_in(impatient: Gateway) -> None:
    """Requests in a row that are refused at once are answered in order, each of them."""
    count = 500
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(request_bytes("GET", "/a/b/c") * count)
    async with asyncio.timeout(20):
        received = b""
        while received.count(b"HTTP/1.1 404") < count:
            data = await reader.read(65_536)
            assert data
            received += data
    writer.close()
