"""The row that each kind of end leaves in the call log, and what its numbers count."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.chaos import LAST_CHUNK, Chaos, Close, Hang, Script, Step, answer, chunk, head, json_answer, sse_head
from tests.lockstep import CLOSE, Lockstep, call_request, chat_request
from tests.support import Gateway, custom_path, exchange, request_bytes
from tests.test_relay_cuts import break_off
from tests.test_streams import EVENTS, FRONTS

EVENT = b'data: {"n":1}\n\n'
AUDIO_HEAD = head(200, ("Content-Type", "audio/mpeg"), ("Transfer-Encoding", "chunked"))
FORMATS = ("json", "jsonu")


def row_of(gateway: Gateway, answer_head: bytes) -> dict[str, Any]:
    """The row of the call that this head answers, as soon as it is written."""
    found = re.search(rb"X-Last-Id: (\d+)", answer_head)
    assert found is not None
    while True:
        rows: list[dict[str, Any]] = json.loads(gateway.cli("calls", "--json"))
        for row in rows:
            if row["last_id"] == found[1].decode():
                return row


async def row_of_call(gateway: Gateway, script: Script, request: bytes) -> dict[str, Any]:
    """The row of a call that is read to its end."""
    request = request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    async with Chaos(script, port=gateway.upstream_port):
        got = await exchange(gateway, request)
    return row_of(gateway, got.raw)


async def row_of_left_call(
    gateway: Gateway, sent: Sequence[bytes | Step], request: bytes, seen: bytes
) -> dict[str, Any]:
    """The row of a call that its client leaves once it has `seen` something."""
    async with asyncio.timeout(20), Chaos([*sent, Hang()], port=gateway.upstream_port) as chaos:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request)
        got = await reader.readuntil(seen)
        writer.transport.abort()
        await chaos.connections[0].closed.wait()
    return row_of(gateway, got)


def facts(row: dict[str, Any]) -> tuple[str, int, bool, bool, int]:
    return row["outcome"], row["status"], row["streamed"], row["cut"], row["sent_bytes"]


@pytest.mark.parametrize("front", FRONTS)
async def test_a_whole_answer(gateway: Gateway, front: str) -> None:
    request = call_request(gateway, "v1/embeddings", {"input": "a"}, front)
    row = await row_of_call(gateway, json_answer({"ok": True}), request)
    sent_bytes = row.pop("sent_bytes")
    assert facts({**row, "sent_bytes": 0}) == ("0000", 200, False, False, 0)
    assert (row["front"], row["method"]) == (front, "v1/embeddings")
    assert sent_bytes == len(b'{"ok": true}') if front == "native" else sent_bytes > 100


@pytest.mark.parametrize("result_type", FORMATS)
@pytest.mark.parametrize("front", FRONTS)
async def test_a_stream_that_came_to_its_end(gateway: Gateway, front: str, result_type: str) -> None:
    script: Script = [sse_head(), chunk(EVENT), chunk(EVENT), LAST_CHUNK]
    row = await row_of_call(gateway, script, chat_request(gateway, front, result_type=result_type))
    assert facts(row) == ("0000", 200, True, False, 2 * len(EVENT))


@pytest.mark.parametrize("result_type", FORMATS)
@pytest.mark.parametrize("front", FRONTS)
async def test_a_stream_that_the_upstream_breaks_off(gateway: Gateway, front: str, result_type: str) -> None:
    """The error event is the gateway's own and not counted."""
    script: Script = [sse_head(), chunk(EVENT), Close()]
    row = await row_of_call(gateway, script, chat_request(gateway, front, result_type=result_type))
    assert facts(row) == ("5000", 200, True, True, len(EVENT))


async def test_a_file_that_the_upstream_breaks_off(gateway: Gateway) -> None:
    request = call_request(gateway, "v1/audio/speech", {"input": "a"}, "native")
    row = await row_of_call(gateway, [AUDIO_HEAD, chunk(b"ID3"), Close()], request)
    assert facts(row) == ("5000", 200, False, True, 3)


@pytest.mark.parametrize("result_type", FORMATS)
@pytest.mark.parametrize("front", FRONTS)
async def test_a_stream_that_its_client_leaves(gateway: Gateway, front: str, result_type: str) -> None:
    """As far as it went the upstream did its part: that is a success."""
    request = chat_request(gateway, front, result_type=result_type)
    row = await row_of_left_call(gateway, [sse_head(), chunk(EVENT)], request, EVENT)
    assert facts(row) == ("0000", 200, True, True, len(EVENT))


@pytest.mark.parametrize("front", FRONTS)
async def test_a_file_that_its_client_leaves(gateway: Gateway, front: str) -> None:
    """The same event has the same outcome as in a stream."""
    request = call_request(gateway, "v1/audio/speech", {"input": "a"}, front)
    row = await row_of_left_call(gateway, [AUDIO_HEAD, chunk(b"ID3")], request, b"ID3")
    assert facts(row) == ("0000", 200, False, True, 3)


@pytest.mark.parametrize(
    ("method", "script", "streamed"),
    [
        ("v1/chat/completions", [sse_head(), chunk(EVENT), LAST_CHUNK], True),
        ("v1/audio/speech", answer(b"ID3", "audio/mpeg"), False),
    ],
)
async def test_a_head_request_is_a_served_call(gateway: Gateway, method: str, script: Script, streamed: bool) -> None:
    target = custom_path(gateway, method=method, input="a", messages="[]", stream="true")
    row = await row_of_call(gateway, script, request_bytes("HEAD", target))
    assert facts(row) == ("0000", 200, streamed, False, 0)


async def test_a_call_that_is_refused(gateway: Gateway) -> None:
    request = call_request(gateway, "v1/embeddings", {"input": "a"}, "native")
    row = await row_of_call(gateway, json_answer({}, 500), request)
    assert (row["outcome"], row["status"], row["streamed"], row["cut"]) == ("4002", 502, False, False)
    row = await row_of_call(gateway, b"", call_request(gateway, "account/nothing", {}, "custom"))
    assert (row["outcome"], row["status"], row["streamed"], row["cut"]) == ("4010", 200, False, False)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_what_was_sent_is_counted_in_payload_however_it_was_read(gateway: Gateway, version: str) -> None:
    pieces = [event for event in EVENTS[:30] if len(event) > 150]
    wire = b"".join(map(chunk, pieces))
    cuts = ([wire], list(map(chunk, pieces)), [wire[:100], wire[100:101], wire[101:]])
    with Lockstep(gateway) as lockstep:
        for reads in cuts:
            with lockstep.begin(chat_request(gateway, version=version)) as call:
                call.upstream.sendall(sse_head(CLOSE))
                call.read_head()
                for read in reads:
                    call.upstream.sendall(read)
                    call.settle()
                call.upstream.sendall(LAST_CHUNK)
                call.read_end()
                assert facts(row_of(gateway, call.head)) == ("0000", 200, True, False, sum(map(len, pieces)))


@pytest.mark.parametrize("result_type", FORMATS)
def test_the_first_byte_is_the_first_of_the_body(gateway: Gateway, result_type: str) -> None:
    with Lockstep(gateway) as lockstep, lockstep.begin(chat_request(gateway, result_type=result_type)) as call:
        call.upstream.sendall(sse_head(CLOSE))
        call.read_head()
        answered_at = time.monotonic()
        time.sleep(0.2)  # far more than the head took
        waited_s = time.monotonic() - answered_at
        break_off(call, chunk(EVENT) + LAST_CHUNK, "FIN")
        assert call.ended
    assert row_of(gateway, call.head)["first_byte_s"] >= waited_s
