"""What is read along with a stream, and the one event that stays here, however the stream is cut."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.metering import Meter, Sieve, Watch, tells_usage_only
from gateway.types import Usage
from tests.chaos import recorded_stream

USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


def event(choices: object, usage: object = None, end: str = "\n\n") -> bytes:
    return f"data: {json.dumps({'id': 'x', 'choices': choices, 'usage': usage})}{end}".encode()


TEXTS = [event([{"index": 0, "delta": {"content": text}}]) for text in ('"choices":[] "usage":{', "a\nb", "向日葵", "")]
OWN = event([], USAGE)
DONE = b"data: [DONE]\n\n"
STREAM = b"".join([*TEXTS[:2], b": ping\n\n", b"event: x\nid: 7\n" + TEXTS[2], event([]), TEXTS[3], OWN, DONE])
PASSED = STREAM.replace(OWN, b"")


def words(text: str) -> int:
    return len(text)


def sifted(pieces: list[bytes]) -> bytes:
    sieve = Sieve()
    return b"".join([*map(sieve.feed, pieces), sieve.finish()])


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\n\r\n"])
def test_the_event_is_taken_out_wherever_the_stream_is_cut(end: str) -> None:
    stream = STREAM.replace(b"\n", end[: len(end) // 2].encode()) if end != "\n\r\n" else STREAM
    passed = PASSED.replace(b"\n", end[: len(end) // 2].encode()) if end != "\n\r\n" else PASSED
    assert sifted([stream]) == passed
    for cut in range(1, len(stream)):
        assert sifted([stream[:cut], stream[cut:]]) == passed
    assert sifted([stream[i : i + 1] for i in range(len(stream))]) == passed


@given(st.lists(st.sampled_from([*TEXTS, OWN, DONE, b": c\n\n", b"data: [1]\n\n", b"x\n", b"\n"])), st.data())
@settings(max_examples=300)
def test_nothing_but_that_event_is_ever_missing(events: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(events)
    pieces = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        pieces.append(stream[:size])
        stream = stream[size:]
    assert sifted(pieces).replace(OWN, b"") == b"".join(events).replace(OWN, b"")


def test_whole_events_go_on_as_the_very_bytes_that_came() -> None:
    sieve = Sieve()
    assert all(sieve.feed(text) is text for text in TEXTS)


def test_the_beginning_of_an_event_goes_on_as_soon_as_its_choices_are_seen() -> None:
    text, sieve = TEXTS[0], Sieve()
    decided = text.index(b'"choices": [{') + len(b'"choices": [{')
    assert sieve.feed(text[: decided - 1]) == b""
    assert sieve.feed(text[decided - 1 : decided]) == text[:decided]
    assert sieve.feed(text[decided : decided + 3]) == text[decided : decided + 3]


def test_what_may_be_the_event_waits_within_bounds() -> None:
    sieve = Sieve()
    beginning = b'data: {"id": "' + b"x" * 4000
    assert sieve.feed(beginning) == b""
    assert sieve.feed(b"x" * 200) == beginning + b"x" * 200


def test_a_recorded_stream_passes_to_the_byte_but_for_that_event() -> None:
    stream = recorded_stream()
    own = re.search(rb'data: [^\n]*"choices":\[\],"usage":\{[^\n]*\n\n', stream)
    assert own is not None
    for size in (1000, 1460, 65_536):
        assert sifted([stream[i : i + size] for i in range(0, len(stream), size)]) == stream.replace(own[0], b"")


@pytest.mark.parametrize(
    "other",
    [event([]), event([{"index": 0}], USAGE), b'data: "choices":[] "usage":{}\n\n', DONE, b"", b"\n\n",
     b": " + OWN, b'data: {"x": {"choices": [], "usage": {}}}\n\n'],
)  # fmt: skip
def test_other_events_are_not_that_event(other: bytes) -> None:
    assert not tells_usage_only(other)
    assert tells_usage_only(OWN)


def test_a_meter_finds_the_last_usage_and_the_text() -> None:
    meter = Meter("v1/chat/completions", words)
    for text in TEXTS:
        meter.feed(text)
    assert meter.usage is None
    assert meter.delivered_tokens == len('"choices":[] "usage":{' + "a\nb" + "向日葵")
    meter.feed(OWN.rstrip())
    assert meter.finish() == Usage(5, 7)
    assert meter.finish() == Usage(5, 7)


def test_a_usage_that_the_caller_wrote_is_not_the_upstreams() -> None:
    meter = Meter("v1/responses", words)
    lie = {"usage": {"input_tokens": 0, "output_tokens": 0}}
    meter.feed(
        b"data: " + json.dumps({"type": "response.created", "response": {"tools": [lie], "usage": None}}).encode()
    )
    meter.feed(b"\n\n")
    assert meter.finish() is None
    told = {"usage": {"input_tokens": 3, "output_tokens": 4}, "tools": [lie]}
    meter.feed(b"data: " + json.dumps({"type": "response.completed", "response": told}).encode() + b"\n\n")
    assert meter.finish() == Usage(3, 4)


def test_only_what_is_new_counts_in_responses() -> None:
    meter = Meter("v1/responses", words)
    meter.feed(b'data: {"type":"response.output_text.delta","delta":"abc"}\n\n')
    meter.feed(b'data: {"type":"response.output_text.done","text":"abc"}\n\n')
    assert meter.delivered_tokens == 3


@given(st.lists(st.binary(max_size=300)))
def test_a_meter_bears_any_bytes(pieces: list[bytes]) -> None:
    watch = Watch(Meter("v1/chat/completions", words), sieves=True, keep_limit_bytes=1000)
    passed = b"".join([*map(watch.feed, pieces), watch.finish()])
    assert passed == b"".join(pieces)
    assert watch.meter is not None
    assert watch.meter.delivered_tokens >= 0
    assert watch.kept == (passed if 0 < len(passed) <= 1000 else None)


def test_memory_does_not_grow_with_the_stream() -> None:
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return len(text)

    meter = Meter("v1/chat/completions", count)
    for _ in range(50_000):
        meter.feed(TEXTS[2])
    assert max(counted) < 600_000
    assert meter.delivered_tokens == 150_000
    meter = Meter("v1/chat/completions", count)
    for _ in range(2000):
        meter.feed(b"x" * 1000)  # one endless line
    assert meter.delivered_tokens >= 400_000


@pytest.mark.parametrize("method", ["v1/responses", "v1/images/generations"])
@pytest.mark.parametrize("size", [1_000, 300_000, 3_000_000])
def test_the_usage_at_the_end_of_a_line_too_long_to_keep_is_found(method: str, size: int) -> None:
    told = {"input_tokens": 5, "output_tokens": 7}
    body = {"type": "response.completed", "response": {"result": "a" * size, "usage": told, "metadata": {"k": "v"}}}
    line = f"event: response.completed\ndata: {json.dumps(body)}\n\n".encode()
    for step in (1_000, 65_536):
        meter = Meter(method, words)
        for start in range(0, len(line), step):
            meter.feed(line[start : start + step])
            assert len(meter._rest) <= 262_144 + 65_536
        meter.feed(b'data: {"delta": "four"}\n\n')
        assert (meter.finish(), meter.delivered_tokens) == (Usage(5, 7), 4)
        assert meter.read_bytes == len(line) + 25


@pytest.mark.parametrize("size", [100, 400_000])
def test_the_finished_images_of_a_stream_are_counted_and_no_others(size: int) -> None:
    def image(kind: str) -> bytes:
        return b"data: " + json.dumps({"type": f"image_generation.{kind}", "b64_json": "a" * size}).encode() + b"\n\n"

    meter = Meter("v1/images/generations", words)
    assert meter.images is None
    for kind, images in (("partial_image", 0), ("completed", 1), ("partial_image", 1), ("completed", 2)):
        text = image(kind)
        for start in range(0, len(text), 50_000):
            meter.feed(text[start : start + 50_000])
        meter.finish()
        assert meter.images == images
