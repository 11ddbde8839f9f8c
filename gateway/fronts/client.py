"""One request of a client and the way back to it: reading its body within bounds, writing its answer.

HTTP only; what a call means is the fronts' business.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address
from time import monotonic
from typing import Protocol, TypeAlias

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway import __version__
from gateway.config import ServerSettings
from gateway.errors import GatewayError
from gateway.plain import PlainConnection
from gateway.request_head import PLAIN_BODY_BYTES, RequestHead
from gateway.server import ClientConnection

SMALL_BODY_BYTES = PLAIN_BODY_BYTES  # a plain request's body is read before anything else is known
"""A body up to this size is read before the account is known; a larger one only after (contract, section 1)."""

DAMAGED_BODY = (web.RequestPayloadError, web.HTTPException, HttpProcessingError)
"""What aiohttp raises for a body that is not what its headers say."""

Networks: TypeAlias = tuple[IPv4Network | IPv6Network, ...]

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Incoming(Protocol):
    """The connection of a request that aiohttp read, whose body may still be on its way: its clock and its end."""

    answer_begun: bool

    def begin_body(self) -> None: ...
    def end_body(self) -> None: ...
    def forgo_body(self) -> None: ...


class Client:
    """A request, and what has been sent in answer to it.

    Its body is either all here, in `body`, or read from `content`, whose clock is `incoming`'s. `sent_status` is 0
    until a head was sent. `keep_alive` tells whether the connection may carry another request.
    """

    __slots__ = (
        "body",
        "bodyless",
        "connection",
        "content",
        "cors",
        "head",
        "http11",
        "incoming",
        "ip",
        "keep_alive",
        "sent_at",
        "sent_bytes",
        "sent_status",
        "settings",
    )

    def __init__(
        self,
        head: RequestHead,
        connection: ClientConnection | PlainConnection,
        settings: ServerSettings,
        *,
        body: bytes = b"",
        content: StreamReader | None = None,
        incoming: Incoming | None = None,
    ) -> None:
        self.head = head
        self.connection = connection
        self.settings = settings
        self.body = body
        self.content = content
        self.incoming = incoming
        self.ip = connection.client_ip
        self.http11 = head.http11
        self.keep_alive = head.keep_alive
        self.bodyless = head.method == "HEAD"
        self.cors = ""
        self.sent_status = 0
        self.sent_bytes = 0
        self.sent_at: float | None = None

    def trust(self, networks: Networks) -> None:
        """Takes the caller's address from `X-Forwarded-For` where the peer is a proxy within these networks."""
        self.ip = _forwarded_for(self.ip, self.head.headers.getall("X-Forwarded-For", ()), networks)

    # the request's body

    def body_with_head(self) -> bytes | None:
        """The whole body where it came together with the head, as most do; None where `read_body` must wait for it."""
        if self.content is None:
            return self.body
        return self.content.read_nowait(-1) if self.content.is_eof() else None

    async def read_body(self, limit_bytes: int) -> bytes | None:
        """The whole body, or None once it has proved longer than `limit_bytes`; then what was read is lost.

        Raises 4003 for a body that is not what its headers say.
        """
        body = self.body_with_head()
        if body is not None:
            return body if len(body) <= limit_bytes else None
        if self.content_length is not None and self.content_length > limit_bytes:
            return None
        self.ask_for_body()
        pieces: list[bytes] = []
        size = 0
        while piece := await self._piece():
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                return None
        return b"".join(pieces)

    async def body_pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives, read no faster than it is taken; 4003 past the operator's limit of uploads."""
        if self.content is None:
            if self.body:
                yield self.body
            return
        self.ask_for_body()
        size = 0
        while piece := await self._piece():
            size += len(piece)
            if size > self.settings.max_upload_bytes:
                raise GatewayError("4003", f"an upload may hold {self.settings.max_upload_bytes} bytes")
            yield piece

    async def _piece(self) -> bytes:
        """What has come of the body, once something has; nothing at its end. The body's clock runs meanwhile."""
        content, incoming = self.content, self.incoming
        if content is None or incoming is None or content.at_eof():
            return b""
        incoming.begin_body()
        try:
            return await content.readany()
        except DAMAGED_BODY as error:
            raise GatewayError("4003", "the request's body is damaged") from error
        finally:
            incoming.end_body()

    @property
    def content_length(self) -> int | None:
        """The body's announced length in bytes; None for a chunked one, and for one that arrives compressed."""
        if self.content is None:
            return len(self.body)
        # aiohttp decompresses on the way in: of such a body only the packed length is announced.
        if "Content-Encoding" in self.head.headers:
            return None
        length = self.head.headers.get("Content-Length")
        return None if length is None else int(length)

    @property
    def body_in_hand(self) -> bool:
        """Whether the body is short or already here, so that reading it costs a stranger's call little."""
        if self.content is None or self.content.is_eof():
            return True
        length = self.content_length
        return length is not None and length <= SMALL_BODY_BYTES

    @property
    def has_body(self) -> bool:
        """Whether the request carries a body at all."""
        return bool(self.body) or self.content is not None

    def ask_for_body(self) -> None:
        """Tells a client that waits for it to go on with its body (RFC 9110, section 10.1.1)."""
        expect = self.head.headers.get("Expect")
        if expect is not None and self.http11 and expect.lower() == "100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # the answer

    def answer_head(self, status: int, content_type: str, length: int | None, fields: str) -> bytes:
        """An answer's head. `length` None: the body is chunked, or ends with the connection on HTTP/1.0.

        `fields` are further header lines, each ended by CRLF; their values must not come from a caller unchecked.
        """
        if self.content is not None and not self.content.is_eof():
            self.keep_alive = False  # the rest of the body would be taken for a request
            if self.incoming is not None and "Content-Encoding" in self.head.headers:
                self.incoming.forgo_body()
        if status == 204:  # RFC 9110, section 8.6: no length, for there is no body
            framing = ""
        elif length is not None:
            framing = f"Content-Length: {length}\r\n"
        elif self.http11:
            framing = "Transfer-Encoding: chunked\r\n"
        else:
            framing = ""
        closing = "" if self.keep_alive else "Connection: close\r\n"
        kind = f"Content-Type: {content_type}\r\n" if content_type else ""
        head = f"{_opening(status, int(time.time()))}{kind}{framing}{closing}{fields}{self.cors}\r\n"
        self.sent_status = status
        if self.incoming is not None:
            self.incoming.answer_begun = True
        self.sent_at = monotonic()
        return head.encode("latin-1")

    async def send(self, status: int, content_type: str, body: bytes, fields: str = "") -> None:
        """Sends a whole answer and waits until the client has read enough of it."""
        head = self.answer_head(status, content_type, len(body), fields)
        if self.bodyless:
            self._write(head)
        elif len(body) < SMALL_BODY_BYTES:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)
        if not self.bodyless:
            self.sent_bytes += len(body)
        if self.connection.writing_paused:
            await self.connection.drain()

    async def write(self, data: bytes) -> None:
        """Sends more of an answer's body, already framed, no faster than the client reads."""
        self._write(data)
        if self.connection.writing_paused:
            await self.connection.drain()

    def cut_off(self) -> None:
        """Ends the connection with a reset: an orderly end could be taken for the end of the answer."""
        self.keep_alive = False
        self.connection.reset()

    def write_last(self, data: bytes) -> None:
        """Sends the last bytes of an answer that must not look whole: the connection closes behind them."""
        self.keep_alive = False
        transport = self.connection.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def _write(self, data: bytes) -> None:
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        transport.write(data)


@lru_cache(maxsize=8)
def _opening(status: int, second: int) -> str:
    """How every head begins: the status line, and the fields that change once a second at most."""
    return (
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}\r\nServer: gateway\r\n"
        f"Date: {formatdate(second, usegmt=True)}\r\nVersion: {__version__}\r\n"
    )


def _forwarded_for(peer: str, lines: Iterable[str], trusted: Networks) -> str:
    """The nearest address in X-Forwarded-For that is not a trusted proxy's own."""
    hops = [hop.strip() for line in lines for hop in line.split(",")]
    address = peer
    while hops and _is_within(address, trusted):
        address = hops.pop()
    return address


def _is_within(address: str, networks: Networks) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in networks)
