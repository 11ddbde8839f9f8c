"""The kept-alive connections to one upstream, and the deadlines of what is under way on them.

Times are monotonic seconds. One sweep judges every deadline, so that a call arms no timer of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import ssl
from dataclasses import dataclass
from time import monotonic

from gateway.errors import GatewayError
from gateway.running import own_task
from gateway.sweeping import Sweeper, sweep_period_s
from gateway.upstream import connection
from gateway.upstream.connection import UpstreamConnection

_TRUSTED_IDLE_S = 0.05  # an idle connection younger than this is not asked whether it still lives


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long an upstream may take, in seconds: to connect, to the first byte of the answer, between bytes, in all."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float
    keepalive_s: float


class Pool:
    """Connections to one origin. An exchange takes one, which `release` keeps or, before its answer's end, closes."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, deadlines: Deadlines) -> None:
        self.loop = asyncio.get_running_loop()
        self.deadlines = deadlines
        self._host = host
        self._port = port
        self._tls = tls
        self._idle: list[UpstreamConnection] = []
        self._active: set[UpstreamConnection] = set()
        period_s = sweep_period_s(deadlines.first_byte_s, deadlines.idle_s, deadlines.total_s)
        self._sweeper = Sweeper(period_s, self._links, self._look)

    @property
    def active_count(self) -> int:
        """Exchanges under way."""
        return len(self._active)

    @property
    def idle_count(self) -> int:
        """Connections that wait for an exchange."""
        return len(self._idle)

    def take_idle(self) -> UpstreamConnection | None:
        """A connection that is at hand, the caller's until `release`."""
        link = self._live_idle()
        if link is not None:
            self._active.add(link)
        return link

    async def connect(self) -> UpstreamConnection:
        """A new connection, the caller's until `release`. Raises 4001 and 4017."""
        await own_task()
        link = await self._connect()
        self._active.add(link)
        return link

    def release(self, link: UpstreamConnection) -> None:
        """Gives a connection back if its answer was read to the end, and ends it at once if not."""
        self._active.discard(link)
        if link.reusable():
            link.make_idle()
            self._idle.append(link)
        else:
            link.abort()

    def forget(self, link: UpstreamConnection) -> None:
        """A connection is gone."""
        with contextlib.suppress(ValueError):
            self._idle.remove(link)

    def close(self) -> None:
        """Ends every connection."""
        self._sweeper.stop()
        for link in (*self._idle, *self._active):
            link.abort()

    def _live_idle(self) -> UpstreamConnection | None:
        """The connection that was used last and still lives.

        A request is never sent twice: one that was written to a connection which the upstream was just closing may have
        been served. So whether it lives is asked before, of the kernel.
        """
        while self._idle:
            link = self._idle.pop()
            transport = link.transport
            if transport is None or transport.is_closing():
                continue
            if monotonic() - link.idle_since < _TRUSTED_IDLE_S or not _has_input(transport):
                return link
            link.abort()
        return None

    async def _connect(self) -> UpstreamConnection:
        try:
            async with asyncio.timeout(self.deadlines.connect_s):
                _, link = await self.loop.create_connection(
                    lambda: UpstreamConnection(self),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError:
            raise GatewayError(
                "4017", f"the upstream did not accept a connection within {self.deadlines.connect_s:g} s"
            ) from None
        except ssl.SSLError as error:
            raise GatewayError("4001", f"TLS with the upstream failed: {error.reason or 'handshake'}") from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise GatewayError("4001", f"the upstream cannot be reached: {reason}") from error
        return link

    def _links(self) -> list[UpstreamConnection]:
        return [*self._idle, *self._active]

    def _look(self, link: UpstreamConnection, now: float) -> None:
        """Ends what has passed a deadline, and an idle connection that is too old to be trusted."""
        if link.state == connection.IDLE:
            if now - link.idle_since > self.deadlines.keepalive_s:
                link.abort()
        elif (late := self._late(link, now)) is not None:
            link.fail(GatewayError("4017", late))

    def _late(self, link: UpstreamConnection, now: float) -> str | None:
        """Which deadline a connection has passed, in words, or None."""
        deadlines = self.deadlines
        if link.state in {connection.ENDED, connection.BROKEN}:
            return None
        if now - link.started_at > deadlines.total_s:
            return f"the upstream's answer took longer than {deadlines.total_s:g} s in all"
        if link.state == connection.HEAD:
            if now - link.read_at > deadlines.first_byte_s:
                return f"the upstream did not answer within {deadlines.first_byte_s:g} s"
        elif not link.reading_paused and now - link.read_at > deadlines.idle_s:
            return f"the upstream sent nothing for {deadlines.idle_s:g} s"
        return None


def _has_input(transport: asyncio.Transport) -> bool:
    """Whether a connection on which nothing is due has something to read: its end, as a rule."""
    socket = transport.get_extra_info("socket")
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))
