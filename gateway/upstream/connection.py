"""One connection to an upstream: an asyncio protocol that sends a request and hands its answer on.

The hot path of the gateway. An answer's body goes one of three ways: collected whole (JSON), relayed to the client's
transport from `data_received` without waking any task (streams, downloads), or pulled piece by piece (streams that are
re-formatted). It knows nothing of accounts, formats or error envelopes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol, cast

from gateway.errors import GatewayError
from gateway.running import Waiter
from gateway.upstream.body import LAST_CHUNK, WHOLE, Body, ChunkedBody, CloseBody, LengthBody, body_of, frame
from gateway.upstream.head import CHUNKED, MAX_HEAD_BYTES, ResponseHead, nonsense, parse_head

if TYPE_CHECKING:
    from gateway.upstream.pool import Pool

HELD_BYTES: Final = 65_536
"""How much of a body waits for its reader before the upstream is read no further."""

_SMALL_BYTES: Final = 4096  # what is collected is joined up to this: an object a chunk would cost more than its bytes
_TAIL_BYTES: Final = 4096
_WHOLE_TAIL_BYTES: Final = 128  # a read of this size or more is tail enough on its own

# What the next bytes from the upstream are. Plain integers: an enum's members cost a look-up on every read.
IDLE: Final = 0  # nothing is due
HEAD: Final = 1
COLLECT: Final = 2  # body, kept for `read`
HOLD: Final = 3  # body, kept as payload and as framed, until a reader decides
RELAY_CHUNKS: Final = 4  # body, passed on with its own chunks
RELAY: Final = 5  # body, unframed and passed on
PULL: Final = 6  # body, kept for `pieces`
ENDED: Final = 7  # the body is whole
BROKEN: Final = 8
WATCH: Final = 9  # body, shown to a watch and passed on
POUR: Final = 10  # body, handed to a sink


class ClientSide(Protocol):
    """What a relay needs of the client's connection."""

    relay: UpstreamConnection | None
    transport: asyncio.Transport | None

    @property
    def writing_paused(self) -> bool:
        """Whether the client's transport has asked for no more."""


class Watch(Protocol):
    """What sees a relay's payload on its way, and may keep a part of it back."""

    def feed(self, payload: bytes) -> bytes:
        """What of a piece goes on: `payload` itself where that is all of it."""

    def finish(self) -> bytes:
        """What goes on now that the body has ended."""


def recorded(pool: Pool, answer: bytes) -> UpstreamConnection:
    """A connection on which this whole answer, head included, has just come: it is delivered like any other."""
    link = UpstreamConnection(pool)
    link.expect_answer()
    link.data_received(answer)
    return link


def broke_off() -> GatewayError:
    """The upstream's answer ended before its end."""
    return GatewayError("5000", "the upstream's answer broke off in the middle")


class UpstreamConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    `started_at` and `read_at` (monotonic seconds) are what the pool's sweeper judges deadlines by.
    """

    __slots__ = (
        "_body",
        "_collect_limit",
        "_collected",
        "_drain_waiter",
        "_error",
        "_framed",
        "_framed_relay",
        "_framing_kept",
        "_head_bytes",
        "_own_chunks",
        "_pieces",
        "_pool",
        "_sink",
        "_tail",
        "_tail_is_chunk",
        "_taken",
        "_target",
        "_waiter",
        "_watch",
        "_withheld",
        "first_body_at",
        "head",
        "idle_since",
        "outlives_client",
        "read_at",
        "reading_paused",
        "relayed_bytes",
        "request_whole",
        "started_at",
        "state",
        "transport",
        "writing_paused",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self._waiter: Waiter | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self.writing_paused = False
        self.reading_paused = False
        self._reset()

    def _reset(self) -> None:
        """The state between two exchanges."""
        self.state = IDLE
        self.request_whole = True  # an answer may come before the end of its request
        self.head: ResponseHead | None = None
        self.started_at = self.read_at = 0.0
        self.first_body_at: float | None = None
        self.relayed_bytes = 0
        self._body: Body | None = None
        self._error: GatewayError | None = None
        self._head_bytes = b""
        self._pieces: list[bytes] = []
        self._taken: deque[bytes] | None = None  # of them, for `pieces` to give
        self._framed: list[bytes] = []
        self._collected = 0
        self._collect_limit = HELD_BYTES
        self._target: asyncio.Transport | None = None
        self._framed_relay = False
        self._framing_kept = False
        self._own_chunks = False
        self._tail = b""
        self._tail_is_chunk = False
        self._watch: Watch | None = None
        self._sink: Callable[[bytes], None] | None = None
        self.outlives_client = False  # the answer is read to its end though its client leaves
        self._withheld = b""  # the last byte of a body with a length, until its end may be told

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there; TCP_NODELAY is the default of asyncio and of uvloop."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Bytes from the upstream."""
        state = self.state
        if state == HEAD:
            try:  # interim answers and a head in drops do not put off the first byte's deadline
                self._read_head(data)
            except GatewayError as error:
                self.fail(error)
            return
        self.read_at = monotonic()
        if state == RELAY_CHUNKS and len(data) >= _WHOLE_TAIL_BYTES:
            body, target = self._body, self._target
            assert isinstance(body, ChunkedBody)  # noqa: S101  # set together with the state; cheaper than a cast
            assert target is not None  # noqa: S101
            if size := body.one_chunk(data):  # the shortest path: most events are one chunk in a read of its own
                try:
                    target.write(data)
                except RuntimeError:  # as in _pass_on
                    self.client_left()
                self._tail = data
                self._tail_is_chunk = True
                self.relayed_bytes += size
                if self.first_body_at is None:
                    self.first_body_at = self.read_at
                return
        try:
            if state == RELAY_CHUNKS:
                self._relay_chunks(data)
            elif state == RELAY:
                self._relay_payload(cast(Body, self._body).feed(data))
            elif state == WATCH:
                self._relay_watched(data)
            elif state == POUR:
                self._hand_on(data)
            elif state in {COLLECT, HOLD, PULL}:
                self._keep(data)
            else:  # an upstream that speaks out of turn cannot be trusted with another request
                self.abort()
        except GatewayError as error:
            self.fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: the end of a body that lasts until then, otherwise a failure."""
        self.transport = None
        self._pool.forget(self)
        self._wake_writer()
        if self.state in {IDLE, ENDED, BROKEN}:
            return
        if self.state == HEAD:
            self._break(GatewayError("4001", "the upstream closed the connection before it answered"))
        elif exc is None and self._body is not None and self._body.end_of_stream():
            self.state = ENDED
        else:
            self._break(broke_off())
        self._wake()

    def pause_writing(self) -> None:
        """The upstream reads a request's body more slowly than it is sent."""
        self.writing_paused = True

    def resume_writing(self) -> None:
        """The upstream reads again."""
        self.writing_paused = False
        self._wake_writer()

    # the request

    def expect_answer(self) -> None:
        """Begins an exchange whose request somebody else sends, or has sent."""
        self.state = HEAD
        self.started_at = self.read_at = monotonic()

    def take_whole(self, head: ResponseHead, body: bytes) -> None:
        """A whole answer that was read elsewhere, as if it had just come here."""
        self.head, self.state, self._body = head, ENDED, WHOLE
        self.read_at = monotonic()
        self._pieces.append(body)
        self._collected = len(body)
        self._wake()

    def send(self, data: bytes) -> None:
        """Begins an exchange: `data` is a request's head and as much of its body as is at hand."""
        if self.transport is None:
            raise GatewayError("4001", "the upstream closed the connection")
        self.state = HEAD
        self.started_at = self.read_at = monotonic()
        self.transport.write(data)

    async def send_more(self, data: bytes) -> None:
        """Sends more of a request's body, no faster than the upstream takes it."""
        if self.transport is None or self.transport.is_closing():
            raise GatewayError("4001", "the upstream closed the connection while it was sent the request")
        self.transport.write(data)
        self.read_at = monotonic()  # while a body is sent, its progress is what counts
        if self.writing_paused:
            self._drain_waiter = self._pool.loop.create_future()
            await self._drain_waiter

    # the answer

    async def answer(self) -> ResponseHead:
        """Waits for the answer's head; of a JSON answer also for its body, as long as it is small."""
        while self.head is None or (self.state == COLLECT and self._collected <= self._collect_limit):
            if self._error is not None:
                raise self._error
            self._waiter = Waiter(loop=self._pool.loop)
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.head

    def whole_body(self, limit_bytes: int) -> bytes | None:
        """The whole body where it is already here, as most are; None where `read` must wait for it, or refuse it."""
        if self.state != ENDED or self._collected > limit_bytes:
            return None
        pieces, self._pieces = self._pieces, []
        return _joined(pieces)

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises 5000 when it is larger than `limit_bytes` or breaks off."""
        if self.state == HOLD:
            self.state = COLLECT
            self._framed = []
        self._collect_limit = limit_bytes
        while self.state != ENDED and self._collected <= limit_bytes:
            self.resume()
            await self._wait()
        if self._collected > limit_bytes:
            raise GatewayError("5000", f"the upstream's answer is larger than {limit_bytes} bytes")
        pieces, self._pieces = self._pieces, []
        return _joined(pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body's payload as it arrives; the upstream is read no faster than this is.

        Who stops in the middle loses nothing: a second call goes on with the piece behind the last that was given.
        """
        if self.state in {HOLD, COLLECT, WATCH}:
            self.state = PULL
            self._framed = []
        taken = self._taken = self._taken or deque()
        while True:
            taken += self._pieces
            self._pieces.clear()
            self._collected = 0
            self.resume()
            while taken:
                yield taken.popleft()
            if not self._pieces:
                if self.state == ENDED:
                    return
                if self._error is not None:
                    raise self._error
                await self._sleep()

    async def pour(self, sink: Callable[[bytes], None]) -> None:
        """Hands the body's payload to `sink` as it arrives, without waking any task, until its clean end.

        Who takes it pauses and resumes the connection.
        """
        self._sink = sink
        held, self._pieces, self._framed = self._pieces, [], []
        self._collected = 0
        if self.state in {HOLD, COLLECT}:
            self.state = POUR
        self.resume()
        for piece in held:
            sink(piece)
        while self.state != ENDED:
            await self._wait()

    async def relay(
        self,
        client: ClientSide,
        head: bytes,
        *,
        chunked: bool,
        looks_whole: Callable[[bytes], bool] | None = None,
        watch: Watch | None = None,
        before_end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Writes `head` and then the body to the client as it arrives, until its clean end.

        `chunked`: the client is sent chunks, the upstream's own where it sends chunks too, one for each read otherwise;
        without it the payload is written bare. `looks_whole` judges the tail of a body that ended with its connection,
        which a cut may do too. `watch` sees the payload on its way; `before_end`, given with a watch, is awaited when
        all of the body is there, before the client can know it. Raises what broke the body off; `append` then says how
        a last payload may be added.
        """
        transport = client.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._target = transport
        self._framed_relay = chunked
        self._own_chunks = chunked and self._framing_kept and watch is None
        self._watch = watch
        if watch is not None:
            self._pieces = [passed for piece in self._pieces if (passed := watch.feed(piece))]
            if self.state == ENDED:
                self._withhold_last(self._pieces)
        if self.state in {HOLD, COLLECT}:
            self.state = WATCH if watch is not None else RELAY_CHUNKS if self._own_chunks else RELAY
        held = self._framed if self._own_chunks else self._dressed(self._pieces)
        if self._collected < HELD_BYTES:  # head and first bytes leave in one packet
            transport.write(b"".join((head, *held)))
        else:
            transport.writelines((head, *held))
        self._note(self._pieces)
        self._pieces, self._framed = [], []
        client.relay = self
        try:
            if client.writing_paused:
                self.pause()
            else:
                self.resume()
            while self.state != ENDED:
                await self._wait()
            if looks_whole is not None and isinstance(self._body, CloseBody) and not looks_whole(self.tail):
                raise broke_off()
            if before_end is not None:
                await before_end()
            if transport.is_closing():
                raise ConnectionResetError("the client has gone")
            rest = self._withheld if watch is None else self._withheld + watch.finish()
            if rest:
                transport.write(frame(rest) if chunked else rest)
                self._note([rest])
            if chunked and not self._own_chunks:
                transport.write(LAST_CHUNK)
        finally:
            client.relay = None
            self._target = None

    @property
    def is_answering(self) -> bool:
        """Whether the whole request was sent and its answer is still to come, or to be taken to its end."""
        if self.state == ENDED:  # and whoever relays it or takes its pieces was stopped before they could see that
            return bool(self._pieces) or self._taken is not None or self._watch is not None
        return self.request_whole and self.transport is not None and self.state not in {IDLE, BROKEN}

    def detach(self) -> None:
        """Sends nothing more of a relay to its client: what is still to come is for `pieces`."""
        if self.state == WATCH:
            self.state = PULL

    def append(self, payload: bytes) -> bytes:
        """The bytes that add a payload to a relay that broke off, in the framing in which it stopped."""
        if not self._framed_relay:
            return payload
        return cast(ChunkedBody, self._body).append(payload) if self._own_chunks else frame(payload)

    @property
    def stands_between_chunks(self) -> bool:
        """Whether a relay could add a chunk of its own just here."""
        return not self._own_chunks or cast(ChunkedBody, self._body).left == 0

    @property
    def tail(self) -> bytes:
        """The last payload that was relayed: at least some 120 bytes of it, where there were as many.

        That is enough for `separator`: the boundary shows in the last four, and an unfinished `data: [DONE]` takes a
        dozen. One that lies further back has other lines behind it, which no API sends. What comes in smaller reads,
        as a `[DONE]` does, stands here with up to 4 KB of what came before it: the event that tells the usage, say.
        """
        if self._tail_is_chunk:
            return self._tail[self._tail.index(b"\n") + 1 : -2]
        return self._tail

    # flow and end

    def pause(self) -> None:
        """Reads no further: whoever takes the bytes is slower."""
        if not self.reading_paused and self.transport is not None and not self.transport.is_closing():
            self.reading_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Reads on after `pause`."""
        if self.reading_paused:
            self.reading_paused = False
            self.read_at = monotonic()
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    def client_left(self) -> None:
        """The client of a relay is gone: the upstream is told at once, unless the rest of its answer is wanted too."""
        if not self.outlives_client:
            self.abort()

    def abort(self) -> None:
        """Ends the connection at once, whatever is under way: the upstream sees it close."""
        if self.transport is not None:
            self.transport.abort()

    def fail(self, error: GatewayError) -> None:
        """Ends the exchange with an error: the upstream's nonsense, or a deadline."""
        self._break(error)
        self.abort()
        self._wake()

    def reusable(self) -> bool:
        """Whether the exchange ended so that the connection may carry another."""
        return (
            self.state == ENDED
            and self.request_whole
            and self.transport is not None
            and not self.transport.is_closing()
            # An answer may come before the request was taken: the next one would wait behind the rest of it.
            and self.transport.get_write_buffer_size() == 0
            and self.head is not None
            and self.head.keep_alive
            and self._body is not None
            and not self._body.surplus
        )

    def make_idle(self) -> None:
        """Forgets the exchange; the connection waits for another."""
        self._reset()
        self.idle_since = monotonic()
        self.resume()

    # inside

    def _read_head(self, data: bytes) -> None:
        if self._head_bytes:
            data = self._head_bytes + data
        while self.state == HEAD:
            end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
            if end < 0:
                if len(data) > MAX_HEAD_BYTES:
                    raise nonsense(f"its head is larger than {MAX_HEAD_BYTES} bytes")
                self._head_bytes = data
                return
            head = parse_head(data[: end + 4])
            data = data[end + 4 :]
            if head.status == 101:
                raise nonsense("it switches protocols")
            if head.status >= 200:  # the others are interim
                self.state = COLLECT if head.media_type == b"application/json" else HOLD
                self.head = head
                self.read_at = monotonic()
                self._body = body_of(head)
                self._framing_kept = self.state == HOLD and head.length == CHUNKED
                self._head_bytes = b""
                if self.state == COLLECT and len(data) == head.length:  # the whole answer in one read, as most are
                    self._body = WHOLE
                    self._pieces.append(data)
                    self._collected = head.length
                    self.state = ENDED
                    self._wake()
                    return
        self._keep(data)
        if self.state == HOLD:
            self._wake()

    def _keep(self, data: bytes) -> None:
        """Keeps a read's payload for whoever will take it, and wakes them when there is something to do."""
        body = self._body
        assert body is not None  # noqa: S101  # set together with the state; a cast would cost a call on every read
        if self._framing_kept and self.state == HOLD:
            pieces = cast(ChunkedBody, body).feed(data, self._framed)
        else:
            pieces = body.feed(data)
        for piece in pieces:
            self._collected += len(piece)
        if self.state == COLLECT and pieces:
            kept = self._pieces
            if kept and len(kept[-1]) < _SMALL_BYTES:
                pieces.insert(0, kept.pop())
            kept.append(_joined(pieces))
        else:
            self._pieces += pieces
        if body.done:
            self.state = ENDED
            self._wake()
        elif body.fault is not None:
            self.fail(body.fault)
        elif self.state == COLLECT:
            if self._collected > self._collect_limit:
                self.pause()
                self._wake()
        else:
            if self._collected > HELD_BYTES:
                self.pause()
            if self.state == PULL and pieces:
                self._wake()

    def _relay_chunks(self, data: bytes) -> None:
        body = self._body
        assert isinstance(body, ChunkedBody)  # noqa: S101  # set together with the state; cheaper than a cast
        framed: list[bytes] = []
        self._note(body.feed(data, framed))
        if framed:
            self._pass_on(_joined(framed))
        self._end_if_over(body)

    def _relay_payload(self, pieces: list[bytes]) -> None:
        self._note(pieces)
        if pieces:
            piece = _joined(pieces)
            self._pass_on(frame(piece) if self._framed_relay else piece)
        self._end_if_over(cast(Body, self._body))

    def _relay_watched(self, data: bytes) -> None:
        body, watch = self._body, self._watch
        assert body is not None  # noqa: S101  # set together with the state; cheaper than a cast
        assert watch is not None  # noqa: S101
        if self._framed_relay and type(body) is ChunkedBody and body.one_chunk(data):
            payload = data[data.index(b"\n") + 1 : -2]
            passed = watch.feed(payload)
            if passed is payload:  # the chunk goes on as it came
                self._pass_on(data)
            elif passed:
                self._pass_on(frame(passed))
            if passed:
                self._note([passed])
            return
        pieces = [passed for piece in body.feed(data) if (passed := watch.feed(piece))]
        if body.done:
            self._withhold_last(pieces)
        self._note(pieces)
        if pieces:
            piece = _joined(pieces)
            self._pass_on(frame(piece) if self._framed_relay else piece)
        self._end_if_over(body)

    def _hand_on(self, data: bytes) -> None:
        body, sink = self._body, self._sink
        assert body is not None  # noqa: S101  # set together with the state; cheaper than a cast
        assert sink is not None  # noqa: S101
        for piece in body.feed(data):
            sink(piece)
        self._end_if_over(body)

    def _pass_on(self, data: bytes) -> None:
        """Writes to the client. uvloop refuses that once the client has gone, a moment before it tells anyone; and the
        answer goes on where it outlives its client.
        """
        target = self._target
        assert target is not None  # noqa: S101  # set together with the state
        try:
            target.write(data)
        except RuntimeError:
            self.client_left()

    def _withhold_last(self, pieces: list[bytes]) -> None:
        """Takes the last byte off where the client would know by it that the body is whole."""
        if pieces and not self._framed_relay and isinstance(self._body, LengthBody):
            last = pieces.pop()
            self._withheld = last[-1:]
            if len(last) > 1:
                pieces.append(last[:-1])

    def _dressed(self, pieces: list[bytes]) -> list[bytes]:
        """Payload as a relay without the upstream's own chunks sends it."""
        return [frame(piece) for piece in pieces] if self._framed_relay else pieces

    def _note(self, pieces: list[bytes]) -> None:
        """Remembers the end of what was relayed, and when its beginning came."""
        if not pieces:
            return
        if self.first_body_at is None:
            self.first_body_at = self.read_at
        self.relayed_bytes += sum(map(len, pieces))
        last = pieces[-1]
        if len(last) < _WHOLE_TAIL_BYTES:
            last = b"".join((self.tail, *pieces))[-_TAIL_BYTES:]
        self._tail = last
        self._tail_is_chunk = False

    def _end_if_over(self, body: Body) -> None:
        if body.done:
            self.state = ENDED
            self._wake()
        elif body.fault is not None:
            self.fail(body.fault)

    def _break(self, error: GatewayError) -> None:
        if self._error is None:
            self._error = error
        self.state = BROKEN

    async def _wait(self) -> None:
        """Waits for the next change; raises what broke the exchange."""
        if self._error is None:
            await self._sleep()
        if self._error is not None:
            raise self._error

    async def _sleep(self) -> None:
        self._waiter = Waiter(loop=self._pool.loop)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        """Lets whoever waits go on, as a rule at once. The last thing to do: another exchange may begin meanwhile."""
        if self._waiter is not None:
            self._waiter.wake()

    def _wake_writer(self) -> None:
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        self._drain_waiter = None


def _joined(pieces: list[bytes]) -> bytes:
    """The pieces as one; a single piece is not copied."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
