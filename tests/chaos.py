"""A scripted upstream on a raw socket: it sends the very bytes a test wants, when the test wants, and breaks as told.

    async with Chaos([sse_head(), chunk(b"data: 1\\n\\n"), WaitFor(go_on), Cut()]) as chaos:
        ...call the gateway with chaos.base_url as its upstream...
        assert chaos.exchanges[0].header("authorization") == "Bearer upstream-key"

Scripts: `Chaos(first, second, ...)` plays one script for each request, in the order the requests arrive on whatever
connections; the last script serves all later requests, and without any script no request is ever answered. A script is

* bytes: they are the whole answer; or
* a list of steps and bytes (bytes are a Send), played in order once head and body of the request have been read. A
  list that holds a ReadBody reads the body only there: `[ReadBody(0), json_answer({})]` answers before the body; or
* an async function that is given the Exchange, once the head has been read, and does what it likes with it.

When a script ends, the connection stays open for the next request; Close, Cut or Hang as the last step changes that. A
client that goes away cancels the script; it is noticed as long as less than 256 KB of its bytes lie unread. What a
function raises comes out of `async with`.

Steps: Send, Trickle, Flood, Wait, WaitFor, Set, ReadHead, ReadBody, Hang, Close (FIN) and Cut (RST).

Records: `chaos.exchanges` (one a request: `head`, `method`, `target`, `headers`, `header()`, `body`, `json`, `raw`) and
`chaos.connections` (one a connection: `received`, `sent_bytes`, `closed`, `closed_at`). `await chaos.exchange(2)` waits
for the third request, `await chaos.connections[0].closed.wait()` for the client to leave. Times are time.monotonic().

Before the request: `Chaos(..., at_connect=True)` starts a script as soon as there is a connection, with nothing read;
ReadHead and ReadBody are then steps like any other. `refuse()` makes the port refuse connections until `accept()`;
`stalled_connect()` is an address whose connections never come about.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, cast

LAST_CHUNK = b"0\r\n\r\n"
RECORDED_STREAM = Path(__file__).parent / "data" / "stream.sse.gz"

_PAUSE_READING_ABOVE_BYTES = 256 * 1024


# Bytes of an answer


def head(status: int = 200, *headers: tuple[str, str], version: str = "1.1") -> bytes:
    """A response's head with exactly these headers; no length and no framing unless they say so."""
    lines = [f"HTTP/{version} {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def sse_head(*headers: tuple[str, str]) -> bytes:
    """The head of a chunked event stream."""
    return head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"), *headers)


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding. Empty data would end the body and is refused: LAST_CHUNK says that."""
    if not data:
        raise ValueError("an empty chunk is LAST_CHUNK")
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(pieces: Iterable[bytes]) -> bytes:
    """A whole chunked body: one chunk a piece, and the last chunk."""
    return b"".join([*map(chunk, pieces), LAST_CHUNK])


def answer(body: bytes, content_type: str = "application/json", status: int = 200, *headers: tuple[str, str]) -> bytes:
    """A whole answer with a Content-Length."""
    return head(status, ("Content-Type", content_type), ("Content-Length", str(len(body))), *headers) + body


def json_answer(value: object, status: int = 200, *headers: tuple[str, str]) -> bytes:
    """A whole JSON answer with a Content-Length."""
    return answer(json.dumps(value, ensure_ascii=False).encode(), "application/json", status, *headers)


def sse_answer(pieces: Iterable[bytes]) -> bytes:
    """A whole event stream, one chunk a piece."""
    return sse_head() + chunked(pieces)


def recorded_stream() -> bytes:
    """A chat completion's event stream with all that makes streams hard; see data/make_stream.py."""
    return gzip.decompress(RECORDED_STREAM.read_bytes())


# Steps


class Step(Protocol):
    """Anything that can be played; a test may bring its own."""

    async def play(self, exchange: Exchange) -> None: ...


Script: TypeAlias = "bytes | Sequence[bytes | Step] | Callable[[Exchange], Awaitable[None]]"


@dataclass(frozen=True, slots=True)
class Send:
    """Sends, and waits until the socket has taken all of it."""

    data: bytes

    async def play(self, exchange: Exchange) -> None:
        await exchange.send(self.data)


@dataclass(frozen=True, slots=True)
class Trickle:
    """Sends `data` in pieces of `size` bytes, each its own TCP segment, with a pause after each."""

    data: bytes
    size: int = 1
    pause_s: float = 0.0

    async def play(self, exchange: Exchange) -> None:
        for start in range(0, len(self.data), self.size):
            await exchange.send(self.data[start : start + self.size])
            await asyncio.sleep(self.pause_s)


@dataclass(frozen=True, slots=True)
class Flood:
    """Sends `piece` again and again, as fast as the client takes it, until `total_bytes` are out (None: for ever).

    The piece is sent as it is: `Flood(10**9, chunk(b"x" * 65536))` floods a chunked body.
    """

    total_bytes: int | None
    piece: bytes

    async def play(self, exchange: Exchange) -> None:
        sent_bytes = 0
        while self.total_bytes is None or sent_bytes < self.total_bytes:
            await exchange.send(self.piece)
            sent_bytes += len(self.piece)


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleeps. Prefer WaitFor wherever a test can know what it waits for."""

    seconds: float

    async def play(self, exchange: Exchange) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Waits until the test sets the event."""

    event: asyncio.Event

    async def play(self, exchange: Exchange) -> None:
        await self.event.wait()


@dataclass(frozen=True, slots=True)
class Set:
    """Tells the test that the script has come this far."""

    event: asyncio.Event

    async def play(self, exchange: Exchange) -> None:
        self.event.set()


@dataclass(frozen=True, slots=True)
class ReadHead:
    """Reads the request's head: a step for scripts that start at the connection."""

    async def play(self, exchange: Exchange) -> None:
        await exchange.read_head()


@dataclass(frozen=True, slots=True)
class ReadBody:
    """Reads the request's body, or only its first `limit_bytes`; 0 leaves it in the socket."""

    limit_bytes: int | None = None

    async def play(self, exchange: Exchange) -> None:
        await exchange.read_body(self.limit_bytes)


@dataclass(frozen=True, slots=True)
class Hang:
    """Does nothing until the client leaves."""

    async def play(self, exchange: Exchange) -> None:
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class Close:
    """Closes with a FIN once everything is sent. (A request left unread makes the kernel send an RST instead.)"""

    async def play(self, exchange: Exchange) -> None:
        exchange.connection.close()


@dataclass(frozen=True, slots=True)
class Cut:
    """Breaks the connection off with an RST. The client can still read what its kernel has received before."""

    async def play(self, exchange: Exchange) -> None:
        exchange.connection.cut()


# Records


class Connection(asyncio.Protocol):
    """One connection: what came in, what went out, and when the client left."""

    def __init__(self, chaos: Chaos) -> None:
        self.received = bytearray()
        self.sent_bytes = 0
        self.connected_at = time.monotonic()
        self.closed = asyncio.Event()
        self.closed_at: float | None = None
        self.exchanges: list[Exchange] = []
        self._chaos = chaos
        self._read_to = 0
        self._ended_here = False
        self._input = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport
        self._conversation: asyncio.Task[None]

    async def send(self, data: bytes) -> None:
        """Returns when the kernel has taken all of it; only then does it count as sent."""
        if self.is_closing:
            raise ConnectionAbortedError("the connection is closed")
        self._transport.write(data)
        await asyncio.sleep(0)  # uvloop writes at the end of the loop's turn, and only then knows what is left
        await self._writable.wait()
        self.sent_bytes += len(data)

    async def read(self, limit_bytes: int) -> bytes:
        """The next bytes of the client, at least one."""
        while self._read_to == len(self.received):
            self._resume()
            self._input.clear()
            await self._input.wait()
        return self._take(min(len(self.received), self._read_to + limit_bytes))

    async def read_until(self, end: bytes) -> bytes:
        """All up to and including `end`."""
        search_from = self._read_to
        while (found := self.received.find(end, search_from)) < 0:
            search_from = max(self._read_to, len(self.received) - len(end) + 1)
            self._resume()
            self._input.clear()
            await self._input.wait()
        return self._take(found + len(end))

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        """FIN, after everything that was sent."""
        self._ended_here = True
        self._transport.close()

    def cut(self) -> None:
        """RST: a zero linger time makes the kernel drop the connection instead of ending it."""
        self._ended_here = True
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()

    async def stop(self) -> None:
        """Ends script and connection, whatever state they are in."""
        self._ended_here = True
        self._conversation.cancel()
        await asyncio.wait([self._conversation])
        self._transport.abort()

    def _take(self, to: int) -> bytes:
        data = bytes(self.received[self._read_to : to])
        self._read_to = to
        return data

    def _resume(self) -> None:
        if not self._transport.is_reading() and not self.is_closing:
            self._transport.resume_reading()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # "Writable" is to mean "the kernel has it all"; TLS pauses at its limit already, plain TCP above it.
        self._transport.set_write_buffer_limits(high=0 if transport.get_extra_info("ssl_object") is None else 1)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._conversation = asyncio.get_running_loop().create_task(self._converse())
        self._chaos.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._input.set()
        if len(self.received) - self._read_to > _PAUSE_READING_ABOVE_BYTES:
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._client_left()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or not self._ended_here:
            self._client_left()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _client_left(self) -> None:
        if self.closed_at is None:
            self.closed_at = time.monotonic()
            self.closed.set()
            self._conversation.cancel()
            self._transport.abort()

    async def _converse(self) -> None:
        try:
            while not self.is_closing:
                await self._chaos.serve(Exchange(self))
        except ConnectionAbortedError:
            return  # the script sent after its own Close or Cut
        except Exception as error:  # noqa: BLE001 – handed to the test by __aexit__
            self._chaos.failures.append(error)
            self.cut()


class Exchange:
    """One request, as far as it has been read, and the way to answer it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.head = b""  # up to and including the empty line
        self.raw = bytearray()  # head and body as they came
        self.body = bytearray()  # without the chunked coding
        self.arrived_at: float | None = None  # when the head was complete
        self.body_complete = False
        self._left_in_piece = 0
        self._is_chunked = False

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode("latin-1")

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names as they came."""
        lines = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:-2])
        return [(name, value.strip()) for name, _, value in lines]

    def header(self, name: str) -> str | None:
        """The header's value, in whatever case its name came; several values are joined by commas."""
        values = [value for each, value in self.headers if each.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        await self.connection.send(data)

    async def read_head(self) -> None:
        """Reads the head, once."""
        if self.head:
            return
        self.head = await self.connection.read_until(b"\r\n\r\n")
        self.raw += self.head
        self.arrived_at = time.monotonic()
        self._is_chunked = "chunked" in (self.header("transfer-encoding") or "")
        self._left_in_piece = 0 if self._is_chunked else int(self.header("content-length") or 0)
        self.body_complete = not self._is_chunked and self._left_in_piece == 0

    async def read_body(self, limit_bytes: int | None = None) -> None:
        """Reads on until the body is complete, or `limit_bytes` of it are there."""
        while not self.body_complete and (limit_bytes is None or len(self.body) < limit_bytes):
            if self._left_in_piece == 0:
                await self._next_chunk()
                continue
            wanted = (
                self._left_in_piece if limit_bytes is None else min(self._left_in_piece, limit_bytes - len(self.body))
            )
            data = await self.connection.read(wanted)
            self.raw += data
            self.body += data
            self._left_in_piece -= len(data)
            if self._left_in_piece == 0:
                await self._end_of_piece()

    async def _next_chunk(self) -> None:
        line = await self.connection.read_until(b"\r\n")
        self.raw += line
        self._left_in_piece = int(line.split(b";")[0], 16)
        if self._left_in_piece == 0:
            while line != b"\r\n":  # trailers, and the empty line that ends the body
                line = await self.connection.read_until(b"\r\n")
                self.raw += line
            self.body_complete = True

    async def _end_of_piece(self) -> None:
        if self._is_chunked:
            self.raw += await self.connection.read_until(b"\r\n")
        else:
            self.body_complete = True


# The server


class Chaos:
    """The upstream; see the module's text.

    `buffer_bytes` sets the kernel's buffers, for tests of backpressure. `tls` is a server-side context. `port` is one
    that a gateway already knows for its upstream; by default any free one.
    """

    def __init__(
        self,
        *scripts: Script,
        at_connect: bool = False,
        buffer_bytes: int | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.connections: list[Connection] = []
        self.exchanges: list[Exchange] = []
        self.failures: list[Exception] = []
        self._scripts: Sequence[Script] = scripts or ([Hang()],)
        self._at_connect = at_connect
        self._buffer_bytes = buffer_bytes
        self._tls = tls
        self._port = port
        self._arrived = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._refusal: socket.socket | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """As the SDKs and the configuration write it."""
        return f"{self.origin}/v1"

    async def exchange(self, number: int = 0) -> Exchange:
        """The exchange with this number (the first is 0), as soon as its head has arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.exchanges) > number)
        return self.exchanges[number]

    async def refuse(self) -> None:
        """From now on connections are refused; open ones go on."""
        await self._stop_listening()
        self._refusal = self._bound_socket()  # bound and not listening: refused, and the port stays ours

    async def accept(self) -> None:
        """From now on connections are accepted, as at the start."""
        if self._refusal is not None:
            self._refusal.close()
            self._refusal = None
        listener = self._bound_socket()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=listener, ssl=self._tls)

    async def serve(self, exchange: Exchange) -> None:
        """Plays the next script for one request of a connection."""
        if not self._at_connect:
            await exchange.read_head()
        script = self._scripts[min(len(self.exchanges), len(self._scripts) - 1)]
        exchange.connection.exchanges.append(exchange)
        self.exchanges.append(exchange)
        async with self._arrived:
            self._arrived.notify_all()
        await self._play(script, exchange)
        if not exchange.connection.is_closing:
            await exchange.read_head()
            await exchange.read_body()

    async def _play(self, script: Script, exchange: Exchange) -> None:
        if callable(script):
            await script(exchange)
            return
        steps: Sequence[bytes | Step] = [script] if isinstance(script, bytes) else script
        if not self._at_connect and not any(isinstance(step, ReadBody) for step in steps):
            await exchange.read_body()
        for step in steps:
            await (Send(step) if isinstance(step, bytes) else step).play(exchange)

    def _bound_socket(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer_bytes)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
        sock.bind(("127.0.0.1", self._port))
        self._port = sock.getsockname()[1]
        return sock

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()  # not wait_closed(), which waits for open connections too
            self._server = None
            await asyncio.sleep(0)  # the listening socket closes in the loop's next turn

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop_listening()
        if self._refusal is not None:
            self._refusal.close()
        for connection in self.connections:
            await connection.stop()
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn
        if self.failures and error is None:
            raise self.failures[0]


@asynccontextmanager
async def stalled_connect() -> AsyncIterator[str]:
    """The base URL of an address that answers no connection attempt: its queue is full and nobody accepts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            for filler in fillers:
                filler.close()
