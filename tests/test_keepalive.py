"""An idle stream is kept alive by comments, where the operator asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.chaos import LAST_CHUNK, Chaos, Step, WaitFor, chunk, sse_head
from tests.support import Gateway, custom_path, dechunk, gateway_before_chaos, request_bytes

COMMENT = b": keepalive\n\n"


@pytest.fixture(scope="module")
def chatty() -> Iterator[Gateway]:
    """A gateway that writes a comment after 0.2 s of silence."""
    with gateway_before_chaos(config="[stream]\nkeepalive_s = 0.2") as gateway:
        yield gateway


@pytest.mark.parametrize("result_type", ["json", "xml"])
async def test_comments_come_between_events_only(chatty: Gateway, result_type: str) -> None:
    """Comments while the upstream is silent between two events, none inside one, and the events stay as they were."""
    between, inside = asyncio.Event(), asyncio.Event()
    script: list[bytes | Step] = [
        sse_head(), chunk(b'data: {"a":1}\n\n'), WaitFor(between), chunk(b'data: {"b"'), WaitFor(inside),
        chunk(b":2}\n\n"), chunk(b"data: [DONE]\n\n"), LAST_CHUNK,
    ]  # fmt: skip
    target = custom_path(chatty, method="v1/chat/completions", messages="[]", stream="true", result_type=result_type)
    async with Chaos(script, port=chatty.upstream_port), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", chatty.port)
        writer.write(request_bytes("GET", target, headers={"Connection": "close"}))
        received = bytearray()

        async def read_until(condition: bytes, count: int) -> None:
            while received.count(condition) < count:
                data = await reader.read(65_536)
                assert data, received
                received.extend(data)

        await read_until(COMMENT, 2)
        seen = received.count(COMMENT)
        between.set()
        if result_type == "json":
            await read_until(b'data: {"b"', 1)
        await asyncio.sleep(0.7)  # more than three silences
        inside.set()
        while data := await reader.read(65_536):
            received.extend(data)
        writer.close()
    payload, complete = dechunk(bytes(received).partition(b"\r\n\r\n")[2])
    assert complete
    events = payload.replace(COMMENT, b"")
    if result_type == "json":
        assert payload.count(COMMENT) <= seen + 1  # one may have left just before the second event began
        assert events == b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n'
    else:
        assert events.count(b"data: ") == 5  # two documents of two lines each, and [DONE]
        assert events.endswith(b"data: [DONE]\n\n")
