"""The client's side of HTTP: aiohttp's server with what it lacks for a relay, and before it a short way in (plain.py).

Deadlines for slow heads, slow bodies and clients that do not read; back-pressure wired straight to the upstream;
nothing of a malformed request in any log. Knows nothing of calls: its handlers are given requests and write answers.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gateway.client_side import ClientSide, WriteDeadline, has_left
from gateway.config import ServerSettings
from gateway.plain import PlainConnection
from gateway.request_head import RequestHead
from gateway.sweeping import Sweeper, sweep_period_s
from gateway.upstream.connection import UpstreamConnection

LOG = logging.getLogger("gateway.server")
HEAD_LINES = 4
"""A head may be as long as this many of the longest lines."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
PlainHandler = Callable[[PlainConnection, RequestHead, bytes], Coroutine[Any, Any, bool]]


class ClientConnection(ClientSide, web.RequestHandler):
    """One client's connection, with aiohttp to read its requests.

    `relay` is the upstream connection whose bytes are being passed on, if any.
    """

    __slots__ = (
        "_body_since",
        "_body_waited_s",
        "_head_bytes",
        "_head_since",
        "_in_request_line",
        "_last_body",
        "_read_bytes",
        "_write_deadline",
        "answer_begun",
        "client_ip",
        "relay",
        "wire",
    )

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self.relay: UpstreamConnection | None = None
        self.client_ip = ""
        self._head_since: float | None = monotonic()
        self._head_bytes = 0
        self._in_request_line = True
        self._last_body: StreamReader = EMPTY_PAYLOAD
        self._body_since: float | None = None
        self._body_waited_s = 0.0
        self._read_bytes = 0
        self._write_deadline = WriteDeadline()
        self.answer_begun = False  # to the request that is under way
        # aiohttp forgets its transport when it closes it; what is unsent then still needs its deadline.
        self.wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; it has until the header deadline to send a request's head."""
        super().connection_made(transport)
        self.wire = self.transport
        peer = transport.get_extra_info("peername")
        self.client_ip = peer[0] if isinstance(peer, tuple) else ""

    def data_received(self, data: bytes) -> None:
        """Bytes from the client: a head's clock runs from its first byte until it is whole."""
        self._read_bytes += len(data)
        if self._last_body.is_eof():  # what comes now is a head
            if self._head_since is None and self._current_request is None:
                self._head_since = monotonic()
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
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self.relay is not None:
            self.relay.resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone: its upstream exchange ends at once; aiohttp then cancels the handler."""
        if self.relay is not None:
            self.relay.client_left()
        self.wire = None
        super().connection_lost(exc)

    async def drain(self) -> None:
        """Waits until the client has read enough of what was written to it."""
        await self._drain_helper()

    def begin_body(self) -> None:
        """The handler waits for the request's body, or for more of it: its clock runs."""
        self._body_since = monotonic()

    def end_body(self) -> None:
        """Nobody waits for the body now: its clock stands still, and goes on where more of it is awaited."""
        if self._body_since is not None:
            self._body_waited_s += monotonic() - self._body_since
            self._body_since = None

    def forgo_body(self) -> None:
        """Closes right behind the answer: aiohttp would unpack the rest of a bomb for seconds, only to drop it."""
        self._lingering_time = 0.0

    @property
    def has_pipelined(self) -> bool:
        """Whether another request already waits behind the one under way."""
        return bool(self._messages)

    def late(self, now: float, settings: ServerSettings) -> bool:
        """Whether this connection has passed one of its deadlines."""
        if self._head_since is not None and now - self._head_since > settings.header_timeout_s:
            return True
        if self._body_since is not None:
            allowed = settings.body_timeout_s + self._read_bytes / settings.body_min_rate_bytes
            if self._body_waited_s + now - self._body_since > allowed:
                return True
        nothing_added = self._paused or self._current_request is None
        return self._write_deadline.has_passed(
            self.unsent_bytes, now, settings.write_timeout_s, nothing_added=nothing_added
        )

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun to come and no call has begun yet: aiohttp begins one with its head."""
        return False

    def has_left_unseen(self) -> bool:
        """Whether the client has closed while its body was not read on, so that the loop could not see it leave."""
        return self._reading_paused and self.transport is not None and has_left(self.transport)

    def _plain_request_line(self, data: bytes) -> bytes:
        """The data with a request line's raw UTF-8 percent-encoded: real clients send it, and the parser refuses it."""
        end = data.find(b"\n")
        self._in_request_line = end < 0
        line = data if end < 0 else data[:end]
        if line.isascii():
            return data
        return re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % byte[0][0], line) + data[len(line) :]

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # it quotes the request, and with it the caller's key
    ) -> web.StreamResponse:
        """Answers what aiohttp could not parse, without repeating a byte of it."""
        LOG.info("malformed request from %s: %s", self.client_ip, type(exc).__name__)
        if self.answer_begun:
            raise ConnectionError("the answer has begun")
        if status >= 500:
            status, code, text = 500, "4000", "The gateway failed to answer this request."
        elif isinstance(exc, LineTooLong):
            status, code, text = 414, "4003", "The URL or a header is too long. Long arguments go into a body."
        else:
            status, code, text = 400, "4003", "The request is not valid HTTP."
        kind = "server_error" if status == 500 else "invalid_request_error"
        response = web.json_response(
            {"error": {"message": text, "type": kind, "param": None, "code": code}}, status=status,
            headers={"X-Error-Code": code, "Server": "gateway", "Connection": "close"},
        )  # fmt: skip
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:  # as above
        """Names the failure; aiohttp's own text and the traceback's values may quote a request."""
        exc = kw.get("exc_info")
        level = logging.INFO if isinstance(exc, web.RequestPayloadError) else logging.ERROR  # INFO: the client's fault
        LOG.log(level, "a connection failed: %s", type(exc).__name__)


class Server(web.Server):
    """Makes the clients' connections and ends the late ones.

    `plain_handler` answers plain requests, `handler` those that aiohttp read.
    """

    def __init__(self, handler: Handler, plain_handler: PlainHandler, settings: ServerSettings) -> None:
        super().__init__(
            cast(Any, handler),
            handler_cancellation=True,  # off by default: a client that leaves would not be noticed
            access_log=None,
            keepalive_timeout=settings.keepalive_timeout_s,
            max_line_size=settings.max_line_bytes,
            max_field_size=settings.max_line_bytes,
            logger=logging.getLogger("gateway.aiohttp"),
        )
        self.answer = plain_handler
        self.plain: set[PlainConnection] = set()
        self._settings = settings
        period_s = sweep_period_s(
            settings.header_timeout_s,
            settings.body_timeout_s,
            settings.write_timeout_s,
            settings.keepalive_timeout_s,
        )
        self._sweeper = Sweeper(period_s, self.clients, self._look)

    def __call__(self) -> PlainConnection:  # type: ignore[override]  # the loop wants a protocol, no more
        """A protocol for a new connection."""
        return PlainConnection(self, self._settings, self._loop)

    def take_over(self, connection: PlainConnection, data: bytes) -> None:
        """Makes a connection aiohttp's, and `data` the first that aiohttp reads of it."""
        transport = cast(asyncio.Transport, connection.transport)
        protocol = ClientConnection(self, loop=self._loop, **self._kwargs)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if connection.writing_paused:  # by what the answers before left unsent
            protocol.pause_writing()
        protocol.data_received(data)

    def clients(self) -> list[ClientConnection | PlainConnection]:
        """The open connections."""
        return [*self.plain, *cast("list[ClientConnection]", self.connections)]

    def stop_sweeping(self) -> None:
        """Ends the deadlines' timer."""
        self._sweeper.stop()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # aiohttp's own signature
        """Ends every connection, with whatever is under way on it."""
        for connection in self.plain:
            self._loop.call_soon(connection.end)  # not here: this is a task, and no call's own
        await asyncio.sleep(0)
        await super().shutdown(timeout)

    def _look(self, client: ClientConnection | PlainConnection, now: float) -> None:
        if client.wire is not None and (client.late(now, self._settings) or client.has_left_unseen()):
            client.wire.abort()


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
