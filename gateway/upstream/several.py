"""Several chats at an upstream whose answers are taken as that of one. Knows nothing of who asked, or why so many."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from gateway.chat_arguments import AT_ONCE
from gateway.errors import GatewayError
from gateway.joining import Joiner, joined
from gateway.sse import EventSplitter, EventTooLarge
from gateway.types import PerCall
from gateway.upstream.connection import UpstreamConnection, broke_off
from gateway.upstream.head import UNTIL_CLOSE, ResponseHead
from gateway.upstream.pool import Pool
from gateway.upstream.sharing import EVENTS, Flight, Source

Result = TypeVar("Result")

_LARGE_BYTES = 262_144  # answers above that are joined in a thread


class Several(PerCall, frozen=True):
    """The requests, and how their answers become one: `choices` are in each, `with_usage` says what was used.

    `stream`: they were asked for streams, which may be only AT_ONCE of them.
    """

    requests: Sequence[bytes]
    choices: int
    stream: bool
    with_usage: bool
    max_answer_bytes: int
    max_event_bytes: int


def several_calls(pool: Pool, several: Several) -> Source:
    """A source: the joined answer. Where the upstream refuses one, its answer to that one; the others are ended."""

    async def call(flight: Flight) -> None:
        links: list[UpstreamConnection] = []
        try:  # whatever ends it before the answers' ends cancels them upstream
            await (_streams(flight, pool, several, links) if several.stream else _wholes(flight, pool, several, links))
        finally:
            for link in links:
                pool.release(link)

    return call


async def _wholes(flight: Flight, pool: Pool, several: Several, links: list[UpstreamConnection]) -> None:
    room = asyncio.Semaphore(AT_ONCE)
    left_bytes = several.max_answer_bytes  # for all of them together

    async def ask(request: bytes) -> tuple[ResponseHead, bytes]:
        async with room:
            link, head = await _asked(pool, request, links)
            nonlocal left_bytes
            body = await link.read(max(left_bytes, 0))
            left_bytes -= len(body)
            if left_bytes < 0:
                raise GatewayError("5000", f"the answers together are larger than {several.max_answer_bytes} bytes")
            links.remove(link)
            pool.release(link)
            if head.status >= 300:
                raise _RefusedError(head, body)
            return head, body

    try:
        answers = await _all(ask(request) for request in several.requests)
    except _RefusedError as refused:
        flight.begin(refused.head, refused.body)
        return
    bodies = [body for _, body in answers]
    if sum(map(len, bodies)) > _LARGE_BYTES:
        body = await asyncio.to_thread(joined, bodies, several.choices)
    else:
        body = joined(bodies, several.choices)
    flight.begin(answers[0][0], body)


async def _streams(flight: Flight, pool: Pool, several: Several, links: list[UpstreamConnection]) -> None:
    async def begun(request: bytes) -> tuple[UpstreamConnection, ResponseHead]:
        link, head = await _asked(pool, request, links)
        if head.status >= 300:
            raise _RefusedError(head, await link.read(several.max_answer_bytes))
        return link, head

    try:
        opened = await _all(begun(request) for request in several.requests)
    except _RefusedError as refused:
        flight.begin(refused.head, refused.body)
        return
    for _, head in opened:
        if head.media_type != EVENTS:
            raise GatewayError("4002", "the upstream was asked for a stream and answered with none")
    flight.begin(opened[0][1])
    joiner = Joiner(len(opened), several.choices)

    async def pump(number: int, link: UpstreamConnection, head: ResponseHead) -> None:
        splitter = EventSplitter(several.max_event_bytes)
        async for piece in link.pieces():
            for event in splitter.feed(piece):
                if data := joiner.event(number, event):
                    flight.feed(data)
            await flight.room()
        if (rest := splitter.finish()) is not None and (data := joiner.event(number, rest)):
            flight.feed(data)
        if head.length == UNTIL_CLOSE and not joiner.is_done(number):
            raise broke_off()

    await _all(pump(number, link, head) for number, (link, head) in enumerate(opened))
    if end := joiner.end(with_usage=several.with_usage):
        flight.feed(end)


class _RefusedError(Exception):
    """The upstream's answer to one request is no success."""

    def __init__(self, head: ResponseHead, body: bytes) -> None:
        super().__init__(head.status)
        self.head = head
        self.body = body


async def _asked(
    pool: Pool, request: bytes, links: list[UpstreamConnection]
) -> tuple[UpstreamConnection, ResponseHead]:
    """A request that was sent, and the head of its answer; its connection is put among `links`."""
    link = pool.take_idle() or await pool.connect()
    links.append(link)
    link.send(request)
    return link, await link.answer()


async def _all(coroutines: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Their results. The first failure ends all others, and is raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except EventTooLarge as error:
        raise GatewayError("5000", "an event of the stream is too large to be joined with others") from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
