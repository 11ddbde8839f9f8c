"""Events from bytes that are cut anywhere, and back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sse import Event, EventSplitter, EventTooLarge, encode_event, separator

STREAMS = [
    b'data: {"a":1}\n\ndata: [DONE]\n\n',
    b"data: a\r\n\r\ndata: b\r\n\r\n",
    b"data: a\r\rdata: b\r\r",
    b"data: a\n\rdata: b\r\n\ndata: c\r\r\n",
    b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n",
    b": idle\n\nevent: x\nid: 7\nretry: 10\ndata: a\n: between\ndata:  b\ndata\ndata:\n\n",
    "data: 你好 \U0001f30d\n\n".encode(),
    b"\n\n\r\n\r\rdata: a\n\n\n\ndata: unfinished\n",
    b"datax: no\ndat: no\nDATA: no\n data: no\n\n",
    b"\xef\xbbdata: half a byte order mark\n\ndata: a\n\n",
]
some_streams = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"data: ", b"data", b":", b"id: 1", b"\xef\xbb\xbf", "é".encode(), b"[DONE]"]
    ),
    max_size=30,
).map(b"".join)


def split(*chunks: bytes) -> tuple[list[Event], bytes]:
    splitter = EventSplitter(10_000)
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return events, splitter.rest


def reference(stream: bytes) -> list[tuple[bytes, ...]]:
    """The blocks of a whole stream, after the specification's words and with none of the splitter's state."""
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    blocks: list[tuple[bytes, ...]] = [()]
    for line in lines:
        if line:
            blocks[-1] += (line,)
        else:
            blocks.append(())
    return [block for block in blocks[:-1] if block]


@pytest.mark.parametrize("stream", STREAMS)
def test_events_are_the_same_wherever_the_stream_is_cut(stream: bytes) -> None:
    whole = split(stream)
    assert [event.lines for event in whole[0]] == reference(stream)
    assert split(*(stream[i : i + 1] for i in range(len(stream)))) == whole
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            assert split(stream[:first], stream[first:second], stream[second:]) == whole


@given(some_streams, st.integers(0, 60))
def test_the_events_as_they_came_are_the_stream(stream: bytes, cut: int) -> None:
    splitter = EventSplitter(10_000)
    events = [*splitter.feed(stream[:cut]), *splitter.feed(stream[cut:])]
    rest = splitter.finish()
    assert b"".join(event.exact for event in [*events, *([rest] if rest is not None else [])]) == stream
    assert splitter.finish() is None


def test_the_end_of_a_whole_stream_completes_its_last_event() -> None:
    splitter = EventSplitter(10_000)
    assert splitter.feed(b"data: a\n\ndata: b\nid: 1") == [Event((b"data: a",), b"a")]
    assert splitter.finish() == Event((b"data: b", b"id: 1"), b"b")


@given(some_streams, st.integers(0, 60))
def test_any_stream_gives_the_specifications_blocks(stream: bytes, cut: int) -> None:
    events, _ = split(stream[:cut], stream[cut:])
    assert [event.lines for event in events] == reference(stream)


def test_data_is_its_lines_joined_by_lf_less_one_leading_space() -> None:
    events, _ = split(STREAMS[5])
    assert events[0] == Event((b": idle",), None)
    assert events[1].data == b"a\n b\n\n"


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_comes_with_its_last_byte(end: bytes) -> None:
    splitter = EventSplitter(100)
    assert splitter.feed(b"data: a" + end) == []
    assert [event.data for event in splitter.feed(end[:1])] == [b"a"]


def test_rest_is_what_no_blank_line_has_ended() -> None:
    assert split(b"data: a\n\n")[1] == b""
    assert split(b"data: a\n\nid: 1\r\ndata: b")[1] == b"id: 1\ndata: b"
    assert split(b"data: b\r")[1] == b"data: b\n"


def test_raw_is_the_block_with_its_lines_unchanged() -> None:
    events, _ = split(b": c\r\nevent: e\r\ndata: [DONE]\r\n\r\n")
    assert events[0].raw == b": c\nevent: e\ndata: [DONE]\n\n"


def test_encoding_replaces_the_data_and_keeps_every_other_line_in_its_place() -> None:
    events, _ = split(b"event: e\ndata: a\n: c\ndata: b\nid: 7\n\n")
    assert encode_event(events[0], b"<x>\n</x>") == b"event: e\ndata: <x>\ndata: </x>\n: c\nid: 7\n\n"
    assert encode_event(events[0], b"") == b"event: e\ndata: \n: c\nid: 7\n\n"


@given(st.binary(max_size=40).map(lambda payload: payload.replace(b"\r", b"")))
def test_an_encoded_payload_is_read_back(payload: bytes) -> None:
    (event,), rest = split(encode_event(Event((b"id: 1", b"data: x"), b"x"), payload))
    assert (event.data, rest) == (payload, b"")
    assert event.lines[0] == b"id: 1"


def test_a_carriage_return_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="carriage return"):
        encode_event(Event((b"data: x",), b"x"), b"a\rb")


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_event_that_is_too_large_is_refused_before_it_is_held(step: int) -> None:
    splitter = EventSplitter(100)
    stream = b"data: " + b"x" * 200 + b"\n\n"
    with pytest.raises(EventTooLarge, match="100 bytes"):
        list(map(splitter.feed, (stream[start : start + step] for start in range(0, len(stream), step))))
    assert len(splitter.rest) <= 100


def test_empty_comments_without_end_are_too_large_as_well() -> None:
    splitter = EventSplitter(10_000)
    with pytest.raises(EventTooLarge):
        list(map(splitter.feed, [b":\n"] * 1000))


def test_the_limit_is_of_one_event_and_not_of_the_stream() -> None:
    splitter = EventSplitter(200)
    assert sum(len(splitter.feed(b"data: " + b"x" * 100 + b"\n\n")) for _ in range(50)) == 50


def test_a_large_event_in_single_bytes_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        splitter = EventSplitter(1_000_000)
        stream = b"data: " + b"x" * size + b"\n\n"
        started = time.process_time()
        events = [event for i in range(len(stream)) for event in splitter.feed(stream[i : i + 1])]
        assert len(events) == 1
        return time.process_time() - started

    assert seconds(600_000) < 40 * seconds(60_000)  # 10 where it is linear, 100 where it is quadratic


ERROR = b'data: {"error":1}\n\n'


@pytest.mark.parametrize("stream", STREAMS)
def test_after_the_separator_one_more_event_is_read_as_one_wherever_the_stream_broke_off(stream: bytes) -> None:
    for cut in range(len(stream) + 1):
        head = stream[:cut]
        between = separator(head)
        if between is None:
            assert b"[DONE]" in head
            continue
        events, rest = split(head + between + ERROR)
        assert events[-1].data == b'{"error":1}'
        assert rest == b""
        before = split(head)[0]
        assert events[: len(before)] == before


@given(some_streams)
def test_whatever_broke_off_the_separator_never_completes_a_done(stream: bytes) -> None:
    between = separator(stream)
    events, rest = split(stream)
    if between is None:
        assert b"[DONE]" in rest
    else:
        after, _ = split(stream + between + ERROR)
        assert after[-1].data == b'{"error":1}'
        assert not any((event.data or b"").startswith(b"[DONE]") for event in after[len(events) :])


@pytest.mark.parametrize(
    ("tail", "between"),
    [
        (b"", b""),
        (b"data: a\n\n", b""),
        (b"data: a\r\n\r\n", b""),
        (b"data: a\r\n\r", b""),
        (b"data: a\r\r", b""),
        (b"data: a", b"\n\n"),
        (b"data: a\n", b"\n"),
        (b"data: a\r\n", b"\n"),
        (b"data: a\r", b"\n\n"),  # "\n" would make it CRLF, the end of a line only
        (b"data: [DONE]\n\n", b""),
        (b"data: [DONE]", None),
        (b"data: [DONE]\n", None),
        (b"data: a\n\ndata:[DONE]\r", None),
        (b"event: end\ndata: [DONE]", None),
        (b"data: [DON", b"\n\n"),
        (b'data: {"text":"[DONE]"', b"\n\n"),
        (b'rest of a line that was cut: data: [DONE]"', b"\n\n"),
    ],
)
def test_the_separator_of_a_tail(tail: bytes, between: bytes | None) -> None:
    assert separator(tail) == between
