"""What every connection of a client has, whoever reads its requests: its end, and its write deadline."""

from __future__ import annotations

import asyncio
import select
import socket
import struct

_NO_LINGER = struct.pack("ii", 1, 0)


class ClientSide:
    """A mixin whose state its classes declare, so that it fits onto any protocol.

    `wire` is the transport until the connection is lost, even where it is closing already.
    """

    __slots__ = ()

    wire: asyncio.Transport | None

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""
        return 0 if self.wire is None else self.wire.get_write_buffer_size()

    def reset(self) -> None:
        """Ends the connection with an RST; what is unsent is lost."""
        if self.wire is not None:
            socket_ = self.wire.get_extra_info("socket")
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.wire.abort()


class WriteDeadline:
    """Judges by what is unsent whether a client still reads."""

    __slots__ = ("_mark", "_since")

    def __init__(self) -> None:
        self._since: float | None = None
        self._mark = 0

    def has_passed(self, unsent_bytes: int, now: float, timeout_s: float, *, nothing_added: bool) -> bool:
        """Whether the client has taken nothing of what waits for it for so long, while nothing was added to it."""
        if not unsent_bytes or not nothing_added:
            self._since = None
        elif self._since is None or unsent_bytes < self._mark:  # from now on; or slow, but reading
            self._since, self._mark = now, unsent_bytes
        else:
            return now - self._since > timeout_s
        return False


def has_left(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed, asked of the kernel: a loop that does not read cannot see it."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
