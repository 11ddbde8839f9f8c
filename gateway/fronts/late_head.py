"""An answer's head that waits for its first status: a stream's translation says how it goes before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.fronts.client import Client
from gateway.progress import Progress
from gateway.translation.answers import STREAMING

WAIT_S = 1.0
"""So long a head waits at most; one that leaves then says that the translation is under way."""


HELD_BYTES = 65_536


class LateHead:
    """Writes to a client, `head` first: as soon as the translation's status is known, or WAIT_S seconds are over."""

    __slots__ = ("_client", "_head", "_held", "_held_bytes", "_progress", "_timer")

    def __init__(self, client: Client, head: Callable[[], bytes], progress: Progress) -> None:
        self._client = client
        self._head = head
        self._progress = progress
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._timer = asyncio.get_running_loop().call_later(WAIT_S, self._time_is_up)

    async def write(self, data: bytes) -> None:
        """Sends more of the answer, or keeps it until the head may go."""
        client = self._client
        if client.sent_status:
            await client.write(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._is_decided or self._held_bytes > HELD_BYTES:
            await client.write(self._opened())

    async def flush(self) -> None:
        """Sends what is held: there is nothing more to wait for."""
        if not self._client.sent_status:
            await self._client.write(self._opened())

    def write_last(self, data: bytes) -> None:
        """Sends what is held, and the last bytes of an answer that must not look whole."""
        held = b"" if self._client.sent_status else self._opened()
        self._client.write_last(held + data)

    def close(self) -> None:
        """Waits no longer."""
        self._timer.cancel()

    @property
    def _is_decided(self) -> bool:
        translating = self._progress.translating
        return translating is None or translating.status != ""

    def _opened(self) -> bytes:
        translating = self._progress.translating
        if translating is not None and not translating.status:
            translating.status = STREAMING
        data = b"".join((self._head(), *self._held))
        self._held.clear()
        return data

    def _time_is_up(self) -> None:
        transport = self._client.connection.transport
        if not self._client.sent_status and transport is not None and not transport.is_closing():
            transport.write(self._opened())
