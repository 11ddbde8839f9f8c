"""The short way in: a connection whose requests are read here as long as they are plain.

A request is plain when its head came in one read, says nothing unusual (request_head.py), and has a short body of known
length, as nearly every call has. The first one that is not is aiohttp's, and so is the connection from then on: it is
handed over with what was not read of it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final, Protocol, cast

from gateway.client_side import ClientSide, WriteDeadline, has_left
from gateway.config import ServerSettings
from gateway.request_head import PLAIN_HEAD_BYTES, PlainHeads, RequestHead
from gateway.running import Runner
from gateway.upstream.connection import UpstreamConnection

_AHEAD_BYTES: Final = 65_536
"""How much of the requests behind the one under way is read before the client is read no further."""


class PlainServer(Protocol):
    """What a plain connection needs of its server. `answer` tells whether the connection may carry another request."""

    answer: Callable[[PlainConnection, RequestHead, bytes], Coroutine[Any, Any, bool]]
    plain: set[PlainConnection]

    def take_over(self, connection: PlainConnection, data: bytes) -> None:
        """Makes the connection aiohttp's, and `data` the first that aiohttp reads of it."""


class PlainConnection(ClientSide, Runner, asyncio.Protocol):
    """One client's connection. `relay` is the upstream connection whose bytes are being passed on, if any.

    `waiting_since` (monotonic seconds) is when the client began to owe something: a request's head, or the rest of its
    body; None while the gateway owes the answer.
    """

    __slots__ = (
        "_busy",
        "_drain_waiter",
        "_heads",
        "_held",
        "_held_bytes",
        "_needed_bytes",
        "_reading_paused",
        "_served",
        "_server",
        "_write_deadline",
        "client_ip",
        "relay",
        "transport",
        "waiting_since",
        "wire",
        "writing_paused",
    )

    def __init__(self, server: PlainServer, settings: ServerSettings, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._server = server
        self._heads = PlainHeads(min(PLAIN_HEAD_BYTES, settings.max_line_bytes))
        self._held: list[bytes] = []  # what came and is not read yet
        self._held_bytes = 0
        self._needed_bytes = 0  # how much of it makes a whole request, where its head is known
        self._busy = False  # with a call
        self._served = False
        self._reading_paused = False
        self._drain_waiter: asyncio.Future[None] | None = None
        self._write_deadline = WriteDeadline()
        self.waiting_since: float | None = monotonic()
        self.relay: UpstreamConnection | None = None
        self.transport: asyncio.Transport | None = None
        self.wire: asyncio.Transport | None = None
        self.client_ip = ""
        self.writing_paused = False

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; it has until the header deadline to send a request's head."""
        self.transport = self.wire = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer = transport.get_extra_info("peername")
        self.client_ip = peer[0] if isinstance(peer, tuple) else ""
        self._server.plain.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client: a request, as a rule."""
        if not self._busy and not self._held:
            self._read(data)
            return
        self._hold(data)
        if not self._busy:
            if self._held_bytes >= self._needed_bytes:
                self._read_held()
        elif self._held_bytes > _AHEAD_BYTES and not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """The client reads too slowly: the upstream is read no further."""
        self.writing_paused = True
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.writing_paused = False
        if self.relay is not None:
            self.relay.resume()
        self._wake_writer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: its upstream exchange ends at once, and then its call."""
        self.transport = self.wire = None
        self._server.plain.discard(self)
        if self.relay is not None:
            self.relay.client_left()
        self.cancel()
        self._held.clear()
        self._wake_writer()

    # the answer's side

    async def drain(self) -> None:
        """Waits until the client has read enough of what was written to it."""
        if self.writing_paused and self.transport is not None:
            self._drain_waiter = self._loop.create_future()
            await self._drain_waiter
        if self.transport is None:
            raise ConnectionResetError("the client has gone")

    def late(self, now: float, settings: ServerSettings) -> bool:
        """Whether this connection has passed one of its deadlines."""
        if self.waiting_since is not None:
            if self.unsent_bytes:  # it owes us that before anything else
                self.waiting_since = now
            if self._held:
                # In the first read was at least the head; of the body, so much is owed a second.
                allowed_s = settings.body_timeout_s + self._held_bytes / settings.body_min_rate_bytes
            else:
                allowed_s = settings.keepalive_timeout_s if self._served else settings.header_timeout_s
            if now - self.waiting_since > allowed_s:
                return True
        nothing_added = self.writing_paused or not self._busy
        return self._write_deadline.has_passed(
            self.unsent_bytes, now, settings.write_timeout_s, nothing_added=nothing_added
        )

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun to come and no call has begun yet."""
        return bool(self._held) and not self._busy

    def has_left_unseen(self) -> bool:
        """Whether the client has closed while it was not read on, so that the loop could not see it leave."""
        return self._reading_paused and self.transport is not None and has_left(self.transport)

    def end(self) -> None:
        """Ends the connection, and the call that is under way on it."""
        self.cancel()
        if self.wire is not None:
            self.wire.abort()

    # inside

    def _read(self, data: bytes) -> None:
        """Begins the call that `data` begins with, waits for the rest of it, or leaves it to aiohttp."""
        plain = self._heads.read(data)
        if plain is None:
            self._hand_over(data)
            return
        head, head_bytes, body_bytes = plain
        size = head_bytes + body_bytes
        if len(data) < size:
            self._hold(data)
            self._needed_bytes = size
            self.waiting_since = monotonic()
            return
        if len(data) > size:
            self._hold(data[size:])
        self.waiting_since = None
        self._busy = True
        self.run(self._server.answer(self, head, data[head_bytes:size]))

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)

    def _read_held(self) -> None:
        if self._busy or not self._held:  # more came, and it has begun already
            return
        data = b"".join(self._held)
        self._held.clear()
        self._held_bytes = self._needed_bytes = 0
        self._read(data)

    def _hand_over(self, data: bytes) -> None:
        self._server.plain.discard(self)
        self._server.take_over(self, data)

    def ended(self, *, well: bool) -> None:
        """A request is answered, and `well` so that the connection may carry another."""
        self._busy = False
        transport = self.transport
        if transport is None:
            return
        if not well or transport.is_closing():
            transport.close()
            return
        self._served = True
        self.waiting_since = monotonic()
        if self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()
        if self._held:  # not here: a row of refusals would not let anyone else in
            self._loop.call_soon(self._read_held)

    def _wake_writer(self) -> None:
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        self._drain_waiter = None
