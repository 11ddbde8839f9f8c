"""Comments on an idle stream, so that nothing on the way to the client takes it for dead (contract, section 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from gateway.plain import PlainConnection
from gateway.server import ClientConnection
from gateway.upstream.connection import UpstreamConnection

COMMENT = b": keepalive\n\n"


class Keepalive:
    """While it is entered, `comment` goes to the client whenever nothing has passed for `pause_s` seconds (0: never).

    `may_write` tells whether the stream stands between two events.
    """

    __slots__ = ("_client", "_comment", "_link", "_may_write", "_pause_s", "_timer", "_written_at")

    def __init__(
        self,
        client: ClientConnection | PlainConnection,
        link: UpstreamConnection,
        pause_s: float,
        comment: bytes,
        may_write: Callable[[], bool],
    ) -> None:
        self._client = client
        self._link = link
        self._pause_s = pause_s
        self._comment = comment
        self._may_write = may_write
        self._written_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        if self._pause_s:
            self._wait(self._pause_s)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        now = monotonic()
        left_s = max(self._link.read_at, self._written_at) + self._pause_s - now
        if left_s > 0:
            self._wait(left_s)
            return
        transport = self._client.transport
        if transport is None or transport.is_closing():
            return  # the client has gone, which its call is about to hear
        if not self._client.writing_paused and self._may_write():
            transport.write(self._comment)
            self._written_at = now
        self._wait(self._pause_s)
