"""The client's side of HTTP: aiohttp's server with what it lacks for a relay.

Deadlines for slow heads, slow bodies and clients that do not read; back-pressure wired straight to the upstream;
nothing of a malformed request in any log. Knows nothing of calls: `handler` is given requests and writes answers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import select
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gateway.config import ServerSettings
from gateway.upstream.connection import UpstreamConnection

LOG = logging.getLogger("gateway.server")
SWEEP_S = 0.5
HEAD_LINES = 4
"""A head may be as long as this many of the longest lines."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_MALFORMED = (
    b'{"error":{"message":"The request is not valid HTTP.","type":"invalid_request_error","param":null,"code":"4003"}}'
)


class ClientConnection(web.RequestHandler):
    """One client's connection. `relay` is the upstream connection whose bytes are being passed on, if any."""

    __slots__ = (
        "_body_since",
        "_body_waited_s",
        "_head_bytes",
        "_head_since",
        "_in_request_line",
        "_last_body",
        "_read_bytes",
        "_write_paused_since",
        "_written_mark",
        "client_ip",
        "now",
        "relay",
    )

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self.now = loop.time  # in seconds
        self.relay: UpstreamConnection | None = None
        self.client_ip = ""
        self._head_since: float | None = loop.time()
        self._head_bytes = 0
        self._in_request_line = True
        self._last_body: StreamReader = EMPTY_PAYLOAD
        self._body_since: float | None = None
        self._body_waited_s = 0.0
        self._read_bytes = 0
        self._write_paused_since: float | None = None
        self._written_mark = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; it has until the header deadline to send a request's head."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.client_ip = peer[0] if isinstance(peer, tuple) else ""

    def data_received(self, data: bytes) -> None:
        """Bytes from the client: a head's clock runs from its first byte until it is whole."""
        self._read_bytes += len(data)
        if self._last_body.is_eof():  # what comes now is a head
            if self._head_since is None and self._current_request is None:
                self._head_since = self._loop.time()
            if self._in_request_line:
                data = self._plain_request_line(data)
            self._head_bytes += len(data)
        super().data_received(data)
        if self._messages:
            self._last_body = self._messages[-1][1]
            self._in_request_line = True
            self._head_since = None
            self._head_bytes = self._read_bytes = 0
            self._body_waited_s = 0.0
        elif self._head_bytes > self.max_line_size * HEAD_LINES:
            self.force_close()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Reads on, if reading was paused: aiohttp asks after every body, and would parse nothing for some 3 µs."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        """The client reads too slowly: the upstream is read no further."""
        super().pause_writing()
        self._write_paused_since = self._loop.time()
        self._written_mark = self._unsent_bytes()
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._write_paused_since = None
        if self.relay is not None:
            self.relay.resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone: its upstream exchange ends at once; aiohttp then cancels the handler."""
        if self.relay is not None:
            self.relay.abort()
        super().connection_lost(exc)

    async def drain(self) -> None:
        """Waits until the client has read enough of what was written to it."""
        await self._drain_helper()

    def begin_body(self) -> None:
        """The handler waits for the request's body, or for more of it: its clock runs."""
        self._body_since = self._loop.time()

    def end_body(self) -> None:
        """Nobody waits for the body now: its clock stands still, and goes on where more of it is awaited."""
        if self._body_since is not None:
            self._body_waited_s += self._loop.time() - self._body_since
            self._body_since = None

    def forgo_body(self) -> None:
        """Closes right behind the answer: aiohttp would unpack the rest of a bomb for seconds, only to drop it."""
        self._lingering_time = 0.0

    @property
    def waiting_for_request(self) -> bool:
        """Whether the connection is open and no request is being answered on it."""
        return self._current_request is None and not self._messages

    def late(self, now: float, settings: ServerSettings) -> bool:
        """Whether this connection has passed one of its deadlines."""
        if self._head_since is not None and now - self._head_since > settings.header_timeout_s:
            return True
        if self._body_since is not None:
            allowed = settings.body_timeout_s + self._read_bytes / settings.body_min_rate_bytes
            if self._body_waited_s + now - self._body_since > allowed:
                return True
        if self._write_paused_since is not None:
            unsent = self._unsent_bytes()
            if unsent < self._written_mark:  # slow, but reading
                self._written_mark = unsent
                self._write_paused_since = now
            return now - self._write_paused_since > settings.write_timeout_s
        return False

    def has_left_unseen(self) -> bool:
        """Whether the client has closed while its body was not read on, so that the loop could not see it leave."""
        if not self._reading_paused or self.transport is None:
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def _plain_request_line(self, data: bytes) -> bytes:
        """The data with a request line's raw UTF-8 percent-encoded: real clients send it, and the parser refuses it."""
        end = data.find(b"\n")
        self._in_request_line = end < 0
        line = data if end < 0 else data[:end]
        if line.isascii():
            return data
        return re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % byte[0][0], line) + data[len(line) :]

    def _unsent_bytes(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # it quotes the request, and with it the caller's key
    ) -> web.StreamResponse:
        """Answers what aiohttp could not parse, without repeating a byte of it."""
        LOG.info("malformed request from %s: %s", self.client_ip, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        response = web.Response(
            status=400 if status < 500 else 500, body=_MALFORMED, content_type="application/json",
            headers={"X-Error-Code": "4003", "Server": "gateway", "Connection": "close"},
        )  # fmt: skip
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:  # as above
        """Names the failure; aiohttp's own text and the traceback's values may quote a request."""
        exc = kw.get("exc_info")
        level = logging.INFO if isinstance(exc, web.RequestPayloadError) else logging.ERROR  # INFO: the client's fault
        LOG.log(level, "a connection failed: %s", type(exc).__name__)


class Server(web.Server):
    """Makes ClientConnections and ends the late ones."""

    def __init__(self, handler: Handler, settings: ServerSettings) -> None:
        super().__init__(
            cast(Any, handler),
            handler_cancellation=True,  # off by default: a client that leaves would not be noticed
            access_log=None,
            keepalive_timeout=settings.keepalive_timeout_s,
            max_line_size=settings.max_line_bytes,
            max_field_size=settings.max_line_bytes,
            logger=logging.getLogger("gateway.aiohttp"),
        )
        self._settings = settings
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def __call__(self) -> ClientConnection:
        """A protocol for a new connection."""
        return ClientConnection(self, loop=self._loop, **self._kwargs)

    def clients(self) -> list[ClientConnection]:
        """The open connections."""
        return cast("list[ClientConnection]", self.connections)

    def stop_sweeping(self) -> None:
        """Ends the deadlines' timer."""
        self._sweeper.cancel()

    def _sweep(self) -> None:
        now = self._loop.time()
        for client in self.clients():
            if (client.late(now, self._settings) or client.has_left_unseen()) and client.transport is not None:
                client.transport.abort()
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer has already been written to the transport."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Writes nothing."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Writes nothing."""


SENT = Sent(keep_alive=True)
SENT_LAST = Sent(keep_alive=False)
