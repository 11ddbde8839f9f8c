"""One upstream call for many clients: its answer is read once, and each client's side takes it at its own pace.

Every taker has a connection of its own, as if the upstream had answered it alone; so whatever delivers an answer works
on it unchanged. The upstream is read as fast as the fastest taker reads; one that falls far behind is cut off. When the
last one has left, the upstream's call ends. Knows nothing of keys, accounts or what is kept.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Final

from gateway.errors import GatewayError
from gateway.upstream.body import LAST_CHUNK, frame
from gateway.upstream.connection import HELD_BYTES, UpstreamConnection
from gateway.upstream.head import UNTIL_CLOSE, ResponseHead, parse_head
from gateway.upstream.upload import answer_to_upload

LOG = logging.getLogger("gateway.upstream")

if TYPE_CHECKING:
    from gateway.upstream.pool import Pool

EVENTS: Final = b"text/event-stream"
MAX_BEHIND_BYTES: Final = 8_388_608
"""How far a taker may fall behind the fastest; so much of a shared answer is held at most, once for all of them."""

_FRAMING = (b"transfer-encoding", b"content-length", b"connection", b"keep-alive", b"trailer")


class Shared:
    """What an upstream answered: the whole body of an answer, or the pieces of a stream and when each came."""

    __slots__ = ("at_s", "body", "head", "pieces", "started_at")

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.body: bytes | None = None
        self.pieces: list[bytes] = []
        self.at_s: list[float] = []
        self.started_at = 0.0  # monotonic


Source = Callable[["Flight"], Coroutine[None, None, None]]
"""What gives a flight its answer: `begin`, then `feed` for each piece of a stream and `room` between them."""


class Flight:
    """One answer, and those who take it. `is_open`: another may still join and miss nothing.

    `ended` hears of an answer that has come to its clean end and of which every byte is still held; `over` of the end
    in any case.
    """

    def __init__(
        self,
        pool: Pool,
        source: Source,
        max_kept_bytes: int,
        ended: Callable[[Shared], None],
        over: Callable[[Flight], None],
    ) -> None:
        self._pool = pool
        self._max_kept_bytes = max_kept_bytes
        self._ended = ended
        self._over = over
        self._takers: set[_Taker] = set()
        self._shared = Shared()
        self._first = 0  # the number of the first piece that is still held
        self._held_bytes = 0
        self._head = b""
        self._is_chunked = True
        self._paused: asyncio.Event | None = None  # until somebody takes
        self._error: GatewayError | None = None
        self._is_over = False
        self._link: UpstreamConnection | None = None
        self.is_open = True
        self._task = asyncio.get_running_loop().create_task(self._run(source))
        self._task.add_done_callback(self._done)  # also of a task that was cancelled before its first step

    def _done(self, task: asyncio.Task[None]) -> None:
        self._over(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_fault(error)

    @property
    def takers(self) -> int:
        """How many take the answer."""
        return len(self._takers)

    def join(self) -> UpstreamConnection:
        """A connection on which this answer comes: what has passed at once, the rest as it comes."""
        link = UpstreamConnection(self._pool)
        taker = _Taker(self, link)
        self._takers.add(taker)
        link.connection_made(taker)
        link.expect_answer()
        asyncio.get_running_loop().call_soon(self._catch_up, taker)
        return link

    def cancel(self) -> None:
        """Ends the call, whoever takes it."""
        self._task.cancel()

    # the source's side

    def begin(self, head: ResponseHead, body: bytes | None = None) -> None:
        """The answer's head, and its body where it is no stream."""
        shared = self._shared
        shared.head, shared.body, shared.started_at = head, body, monotonic()
        if body is None:
            # What ends with its connection may have been cut: those who take it have to see that it did.
            self._is_chunked = head.length != UNTIL_CLOSE
            self._head = _head_of(head, b"Transfer-Encoding: chunked\r\n" if self._is_chunked else b"")
        self._serve_all()

    def feed(self, piece: bytes) -> None:
        """A piece of a stream: it goes at once to whoever has had all before it."""
        shared = self._shared
        shared.pieces.append(piece)
        shared.at_s.append(monotonic() - shared.started_at)
        self._held_bytes += len(piece)
        framed = self._framed(piece)
        last = self._first + len(shared.pieces)
        for taker in list(self._takers):
            if taker.at == last - 1 and not taker.paused and taker.has_head:
                taker.at = last
                taker.link.data_received(framed)
        if self._held_bytes > self._max_kept_bytes:
            self.is_open = False
            self._forget()
        self._mind_flow()

    def pour_from(self, link: UpstreamConnection) -> None:
        """What is fed comes from this connection, which is paused while nobody takes."""
        self._link = link

    async def room(self) -> None:
        """Waits until somebody takes."""
        if self._paused is not None:
            await self._paused.wait()

    async def _run(self, source: Source) -> None:
        self._error = GatewayError("4001", "the call whose answer this one shared was ended")
        try:
            await source(self)
            self._error = None  # it has come to its end: nothing less is an end
        except GatewayError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001  # nobody awaits this task: whoever takes has to hear of it
            log_fault(error)
            self._error = GatewayError("4000", "the gateway failed to answer this call")
        finally:
            self._is_over, self.is_open = True, False
            try:
                if self._error is None and not self._first:
                    self._ended(self._shared)
            finally:
                self._serve_all()

    def _framed(self, piece: bytes) -> bytes:
        return frame(piece) if self._is_chunked else piece

    def _forget(self) -> None:
        """Lets go of pieces that everyone has taken, of an answer that is too long to be kept."""
        pieces = self._shared.pieces
        least = min((taker.at for taker in self._takers), default=self._first + len(pieces))
        while self._first < least:
            self._held_bytes -= len(pieces.pop(0))
            self._shared.at_s.pop(0)
            self._first += 1
        if self._held_bytes > MAX_BEHIND_BYTES and len(self._takers) > 1:
            for taker in [taker for taker in self._takers if taker.at == least and taker.paused]:
                taker.link.fail(GatewayError("5000", "the client read too slowly for an answer that others share"))
                self.leave(taker)

    # the takers' side

    def leave(self, taker: _Taker) -> None:
        """One takes no more. The last one's leaving ends the upstream's call."""
        self._takers.discard(taker)
        if not self._takers:
            self.is_open = False
            if not self._is_over:
                self._task.cancel()
        self._mind_flow()

    def _serve_all(self) -> None:
        for taker in list(self._takers):
            self._catch_up(taker)

    def _catch_up(self, taker: _Taker) -> None:
        """Gives a taker what it has not had yet, as far as it takes it."""
        link = taker.link
        if taker.gone or not (self._head or self._is_over):
            return
        shared = self._shared
        if shared.body is not None and shared.head is not None:
            taker.gone = True
            self._takers.discard(taker)
            link.take_whole(shared.head, shared.body)
            return
        if self._head and not taker.has_head:
            taker.has_head = True
            link.data_received(self._head)
        pieces = self._shared.pieces
        while not taker.paused and not taker.gone and taker.at < self._first + len(pieces):
            index = taker.at - self._first
            batch, size = [], 0
            while index < len(pieces) and size < HELD_BYTES:
                batch.append(pieces[index])
                size += len(pieces[index])
                index += 1
            taker.at = self._first + index
            link.data_received(self._framed(b"".join(batch)))
        if self._is_over and not taker.paused and not taker.gone and taker.at == self._first + len(pieces):
            taker.gone = True
            self._takers.discard(taker)
            if self._error is not None:
                link.fail(self._error)
            elif self._is_chunked:
                link.data_received(LAST_CHUNK)
            else:
                link.connection_lost(None)
        self._mind_flow()

    def resumed(self, taker: _Taker) -> None:
        """One takes again."""
        asyncio.get_running_loop().call_soon(self._catch_up, taker)

    def _mind_flow(self) -> None:
        """The upstream is read while somebody takes, and while it is not far ahead of everyone."""
        last = self._first + len(self._shared.pieces)
        if any(not taker.paused or taker.at == last for taker in self._takers) or not self._takers:
            if self._paused is not None:
                self._paused.set()
                self._paused = None
                if self._link is not None:
                    self._link.resume()
        elif self._paused is None:
            self._paused = asyncio.Event()
            if self._link is not None:
                self._link.pause()


def upstream_call(
    pool: Pool,
    request: bytes,
    max_answer_bytes: int,
    upload: tuple[Callable[[], AsyncIterator[bytes]], int | None] | None = None,
) -> Source:
    """A source: the answer of the upstream to this request. `upload`: its body, and how long it was said to be."""

    async def call(flight: Flight) -> None:
        link = pool.take_idle() or await pool.connect()
        try:  # whatever ends it before the answer's end cancels the call upstream
            link.send(request)
            head = await (link.answer() if upload is None else answer_to_upload(link, upload[0](), upload[1]))
            if head.status >= 300 or is_whole_type(head.media_type):
                flight.begin(head, await link.read(max_answer_bytes))
                return
            flight.begin(head)
            flight.pour_from(link)
            await link.pour(flight.feed)
        finally:
            pool.release(link)

    return call


def is_whole_type(media_type: bytes) -> bool:
    """Whether an answer is of a kind that is taken whole: JSON and text, but for streams of events."""
    if media_type == EVENTS:
        return False
    return media_type in {b"", b"application/json"} or media_type.endswith(b"+json") or media_type.startswith(b"text/")


def sliced_body(head_fields: bytes, body: bytes) -> Source:
    """A source: a body that is here, no more of it at once than is taken."""

    async def play(flight: Flight) -> None:
        flight.begin(parse_head(b"HTTP/1.1 200 Kept\r\n%bTransfer-Encoding: chunked\r\n\r\n" % head_fields))
        for start in range(0, len(body), HELD_BYTES):
            flight.feed(body[start : start + HELD_BYTES])
            await flight.room()
            await asyncio.sleep(0)  # other calls have their turn

    return play


def alone(pool: Pool, source: Source, max_kept_bytes: int = 0) -> UpstreamConnection:
    """A connection on which the source's answer comes, for one taker."""
    return Flight(pool, source, max_kept_bytes, _nothing, _nothing).join()


def _nothing(_: object) -> None:
    """What hears of an answer's end that nobody waits for."""


def paced(head_fields: bytes, pieces: Iterable[tuple[float, bytes]]) -> Source:
    """A source: a stream as it came once, each piece so many seconds after the beginning."""

    async def play(flight: Flight) -> None:
        flight.begin(parse_head(b"HTTP/1.1 200 Kept\r\n%bTransfer-Encoding: chunked\r\n\r\n" % head_fields))
        started = monotonic()
        for at_s, piece in pieces:
            await asyncio.sleep(max(0.0, started + at_s - monotonic()))
            flight.feed(piece)
            await flight.room()

    return play


class _Taker(asyncio.Transport):
    """What a taker's connection has for a transport: its reading can be paused, and its end is its leaving."""

    def __init__(self, flight: Flight, link: UpstreamConnection) -> None:
        super().__init__()
        self._flight = flight
        self.link = link
        self.at = 0  # the number of the next piece
        self.has_head = False
        self.paused = False
        self.gone = False

    def pause_reading(self) -> None:
        self.paused = True
        self._flight._mind_flow()  # noqa: SLF001  # one of two halves

    def resume_reading(self) -> None:
        self.paused = False
        self._flight.resumed(self)

    def is_closing(self) -> bool:
        return self.gone

    def get_write_buffer_size(self) -> int:
        return 1  # it carries no other call: the pool does not keep it

    def abort(self) -> None:
        if not self.gone:
            self.gone = True
            self._flight.leave(self)

    def close(self) -> None:
        self.abort()


def log_fault(error: BaseException) -> None:
    """What kind of fault and where, without its text: that may hold what a caller wrote."""
    frames = traceback.extract_tb(error.__traceback__)
    LOG.error("a shared call failed: %s at %s:%d", type(error).__name__, frames[-1].name, frames[-1].lineno or 0)


def _head_of(head: ResponseHead, framing: bytes) -> bytes:
    """The upstream's head with a framing of ours."""
    kept = head.lines_without(_FRAMING)
    return b"HTTP/1.1 %d Shared\r\n%b%b\r\n" % (head.status, b"".join(line + b"\r\n" for line in kept), framing)
