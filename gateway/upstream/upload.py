"""Sending a request's body as it arrives while its answer may already be coming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gateway.errors import GatewayError
from gateway.running import own_task
from gateway.upstream.body import LAST_CHUNK, frame
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.head import ResponseHead


async def answer_to_upload(link: UpstreamConnection, pieces: AsyncIterator[bytes], length: int | None) -> ResponseHead:
    """Sends the body and waits for the answer's head, which may come before the body's end.

    `length` in bytes is what the request's head announced; None: the body goes in chunks. Raises what either side does.
    """
    await own_task()
    sending = asyncio.ensure_future(_send(link, pieces, length))
    answering = asyncio.ensure_future(link.answer())
    try:
        await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() and link.head is None:
            await sending
        return await answering
    finally:
        for task in (sending, answering):
            task.cancel()
        await asyncio.gather(sending, answering, return_exceptions=True)


async def _send(link: UpstreamConnection, pieces: AsyncIterator[bytes], length: int | None) -> None:
    link.request_whole = False
    sent = 0
    async for piece in pieces:
        sent += len(piece)
        if length is not None and sent > length:
            raise _not_as_announced()  # the upstream would take the rest for a request
        await link.send_more(frame(piece) if length is None else piece)
    if length is None:
        await link.send_more(LAST_CHUNK)
    elif sent < length:
        raise _not_as_announced()
    link.request_whole = True


def _not_as_announced() -> GatewayError:
    return GatewayError("4003", "the request's body is not as long as its head says")
