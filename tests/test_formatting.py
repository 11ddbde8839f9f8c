"""What JSON is accepted, and that a formatter harms no call but its own."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import FormatsSettings
from gateway.errors import GatewayError
from gateway.formatting import MAX_CONTAINERS, MAX_VALUES, NotJson, Renderer, check_json, read_object
from gateway.hookspecs import FormatterSpec
from gateway.types import MAX_DEPTH, Document, RenderingRefused


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b' {"a": [1, 2.50, "\xc3\xa9"]}\n',
        b'"\\ud83d"',  # half of a pair: the grammar allows it
        b'["\\uDE00","\\ud83dx","\\ud83d\\ud83d\\ude00"]',
        b"1e999",
        b"9" * 1_000_000,
        nested(MAX_DEPTH),
        b'["' + b"[" * 1000 + b'"]',
        b"[" + b"[]," * 1000 + b"[]]",
        b'["\\\\",' + b'"\\"[",["\\\\"],' * 1000 + b'"{"]',
    ],
)
def test_json_is_what_the_grammar_says(text: bytes) -> None:
    check_json(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b"[-Infinity]",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'{"\xc0\x80":1}',
        b"\xef\xbb\xbf1",
        b"01",
        b"1 1",
        b"[1,]",
        b'"\x1f"',
        b'"\\x"',
        b'"\\ud83"',
        b"\\ud83d",
        b"<html>",
        b"\xd8\x00",
    ],
)
def test_anything_else_is_not_json(text: bytes) -> None:
    with pytest.raises(NotJson):
        check_json(text)


@pytest.mark.parametrize(
    "text", [nested(MAX_DEPTH + 1), nested(1024), nested(5000), b"[" * 1_000_000, b'{"a":' * 251 + b"1" + b"}" * 251]
)
def test_deeper_nesting_is_refused_in_no_time(text: bytes) -> None:
    started = time.process_time()
    with pytest.raises(RenderingRefused, match="250"):
        check_json(text)
    assert time.process_time() - started < 1


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def is_json(text: bytes) -> bool:
    """By the standard library, which is as strict as the grammar but for NaN and its kind."""
    try:
        json.loads(text.decode(), parse_int=len, parse_float=len, parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return False
    return True


SPLINTERS = [
    b"\\u",
    b"\\ud83d",
    b"\\uDE00",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf",
    b"NaN",
    b"1e999",
]
splinters = st.sampled_from(SPLINTERS) | st.sampled_from(list(b'"\\[]{}:,-+.eE019tu \x00\x1f\x7f\x80\xff')).map(
    lambda byte: bytes([byte])
)


@given(values, st.booleans(), st.data())
def test_a_damaged_text_is_json_only_where_the_grammar_says_so(
    value: object, ascii_only: bool, data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    at, gone = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 2))
    text = text[:at] + data.draw(st.lists(splinters, max_size=4).map(b"".join)) + text[at + gone :]
    try:
        check_json(text)
    except NotJson:
        assert not is_json(text)
    else:
        assert is_json(text)


brackets_and_quotes = st.recursive(
    st.text(alphabet='[]{}"\\,u0', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='[]{}"\\', max_size=4), inner, max_size=4)
    ),
    max_leaves=30,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(st.lists(brackets_and_quotes, max_size=5))
def test_the_depth_is_that_of_the_deepest_value_whatever_stands_in_strings(value: list[object]) -> None:
    room = MAX_DEPTH - depth_of(value)
    text = json.dumps(value).encode()
    check_json(b'["",' * room + text + b"]" * room)
    with pytest.raises(RenderingRefused, match="250"):
        check_json(b'["",' * (room + 1) + text + b"]" * (room + 1))


@given(st.dictionaries(st.text(max_size=5), values, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_any_object_is_read_however_it_is_spelled(
    value: dict[str, object], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert read_object(text) == orjson.loads(text)


@given(st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=5), st.data())
def test_any_repeated_key_is_refused_wherever_it_is(value: dict[str, object], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    inner = f"{json.dumps(value)[:-1]}, {json.dumps(key, ensure_ascii=data.draw(st.booleans()))}: 1}}"
    text = data.draw(st.sampled_from([inner, f'{{"outer": [1, {inner}]}}'])).encode()
    with pytest.raises(GatewayError, match=r"4003 .* twice"):
        read_object(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":1e999}', "infinity"),
        (b'{"a":"\\ud83d"}', "surrogate"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":1,"\\u0061":2}', "'a' twice"),
        (b'{"\\u0022":1,"\\"":2}', "twice"),
        (b'{"x":"\\u0022\\u0022","a":1,"a":2}', "'a' twice"),  # the escapes hide the lost quotes
        (b'{"a":' + nested(MAX_DEPTH) + b"}", "deeper than 250"),
        (b'{"a":' * 90_000, "depth"),
        (b"[" * 400_000, "depth"),
        (b'{"a":' * 1_000_000, "more than 500000 values"),
        (b"[" * 1_000_000, "more than 500000 values"),
        (b'{"a":' + b"9" * 1_000_000 + b"}", "infinity"),
        (b'{"a":-' + b"9" * 1_000_000, "not valid JSON"),
    ],
)
def test_arguments_that_two_readers_could_read_differently_are_a_param_error(text: bytes, reason: str) -> None:
    started = time.process_time()
    with pytest.raises(GatewayError, match=reason) as caught:
        read_object(text)
    assert caught.value.code.code == "4003"
    assert time.process_time() - started < 1


SIZE = 16_000_000
LARGE_TEXTS = {
    "containers": b"[" + b"{}," * (SIZE // 3) + b"{}]",
    "deep containers": b"[" * 240 + b"[]," * (SIZE // 3) + b"[]" + b"]" * 240,
    "numbers": b"[" + b"1," * (SIZE // 2) + b"1]",
    "empty strings": b"[" + b'"",' * (SIZE // 3) + b'""]',
    "strings with brackets": b"[" + b'["["],' * (SIZE // 6) + b'""]',
    "strings with commas": b"[" + b'",",' * (SIZE // 4) + b'""]',
    "one string": b'{"a":"' + b"[,{" * (SIZE // 3) + b'"}',
    "escaped quotes": b'{"a":"' + b'\\"' * (SIZE // 2) + b'"}',
    "quotes by number": b'{"a":"' + b"\\u0022" * (SIZE // 6) + b'"}',
    "half pairs": b'{"a":"' + b"\\ud83d" * (SIZE // 6) + b'"}',
    "not JSON": b"[" + b"{}," * (SIZE // 3),
}


@pytest.mark.parametrize("read", [check_json, read_object])
@pytest.mark.parametrize("kind", LARGE_TEXTS)
def test_no_large_text_stalls_the_loop(read: Callable[[bytes], object], kind: str) -> None:
    started = time.process_time()
    with suppress(NotJson, RenderingRefused, GatewayError):
        read(LARGE_TEXTS[kind])
    assert time.process_time() - started < 1


def test_arguments_hold_a_bounded_number_of_values() -> None:
    """Names are not counted, nor is what stands in a string."""
    most = b'{"a,[":[' + b'{"b":1},' * (MAX_VALUES // 4 - 1) + b'{}],"c":"' + b",[{" * MAX_VALUES + b'"}'
    assert len(read_object(most)) == 2
    with pytest.raises(GatewayError, match=f"4003 .* more than {MAX_VALUES} values"):
        read_object(b'{"a":[' + b"1," * MAX_VALUES + b"1]}")
    with pytest.raises(GatewayError, match=f"4003 .* more than {MAX_VALUES} values"):
        read_object(b'{"a":[' + b"[[]]," * (MAX_VALUES // 3) + b"[]]}")


@pytest.mark.parametrize("end", [b"]}", b""])
def test_reading_leaves_the_garbage_collector_as_it_was(end: bytes) -> None:
    """Though it rests meanwhile, and however the reading ends."""
    text = b'{"a":[' + b"[]," * 100_000 + b"1" + end
    rounds: list[str] = []

    def count(phase: str, info: dict[str, int]) -> None:
        rounds.append(phase)

    for on in (False, True):
        (gc.enable if on else gc.disable)()
        try:
            gc.callbacks.append(count)
            with suppress(GatewayError):
                read_object(text)
            assert gc.isenabled() == on
        finally:
            gc.callbacks.remove(count)
            gc.enable()
    assert len(rounds) < 20  # a round for each 700 lists would be 140 of them


def test_an_answer_holds_a_bounded_number_of_containers_and_any_number_of_others() -> None:
    check_json(b"[" + b'{"[":0},' * (MAX_CONTAINERS - 2) + b"{}]")
    check_json(b"[" * 200 + b"0.5," * (2 * MAX_CONTAINERS) + b"0" + b"]" * 200)
    with pytest.raises(RenderingRefused, match=f"more than {MAX_CONTAINERS}"):
        check_json(b"[" + b"[]," * MAX_CONTAINERS + b"[]]")


def test_a_quote_by_its_number_is_no_repetition() -> None:
    assert read_object(b'{"\\u0022":"\\\\u0022","a":0.' + b"3" * 1_000_000 + b"}")['"'] == "\\u0022"


def formatter(render: Callable[[Document], bytes]) -> FormatterSpec:
    return FormatterSpec("x", "text/plain", render)


def thread_name(_: Document) -> bytes:
    return threading.current_thread().name.encode()


LARGE = Document(b'"' + b"x" * 2000 + b'"')
SETTINGS = FormatsSettings(thread_above_bytes=1000, threads=2, timeout_s=0.5)


async def refusal(renderer: Renderer, spec: FormatterSpec, document: Document = LARGE) -> str:
    with pytest.raises(GatewayError) as caught:
        await renderer.render(spec, document)
    assert caught.value.code.code == "5000"
    return caught.value.reason


async def test_small_documents_are_rendered_where_they_are_and_others_in_a_thread() -> None:
    renderer = Renderer(FormatsSettings(thread_above_bytes=1000))
    spec = formatter(thread_name)
    here = threading.current_thread().name.encode()
    assert await renderer.render(spec, Document(b'{"choices":[{"message":{"content":"hi"}}]}')) == here
    assert await renderer.render(spec, LARGE) == b"format-x"
    deep = b"[" * 100 + b"0," * 50 + b"0" + b"]" * 100
    assert len(deep) < 1000
    assert await renderer.render(spec, Document(deep)) == b"format-x"


@pytest.mark.parametrize("document", [Document(b"1"), LARGE])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RenderingRefused("too odd"), "too odd"),
        (RecursionError(), "too deep"),
        (MemoryError(), "memory"),
        (KeyError("the client's text"), "the formatter raised KeyError"),
        (SystemExit(1), "the formatter raised SystemExit"),
    ],
)
async def test_whatever_a_formatter_raises_is_an_error_of_its_call(
    document: Document, error: BaseException, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def render(_: Document) -> bytes:
        raise error

    said = await refusal(Renderer(SETTINGS), formatter(render), document)
    assert said.startswith("the answer cannot be rendered as x: ")
    assert reason in said
    assert "the client's text" not in said + caplog.text


async def test_the_operators_log_says_where_a_formatter_raised(caplog: pytest.LogCaptureFixture) -> None:
    def render(_: Document) -> bytes:
        raise ZeroDivisionError

    await refusal(Renderer(SETTINGS), formatter(render))
    assert f"formatter x raised ZeroDivisionError at {__file__}:" in caplog.text


@pytest.mark.parametrize("rendering", [None, "text", bytearray(b"x")])
async def test_a_formatter_must_return_bytes(rendering: object) -> None:
    def render(_: Document) -> bytes:
        return rendering  # type: ignore[return-value]  # that is what is tested

    assert "returned" in await refusal(Renderer(SETTINGS), formatter(render))


async def test_a_rendering_beyond_the_limit_is_refused() -> None:
    renderer = Renderer(FormatsSettings(max_bytes=10))
    assert await renderer.render(formatter(lambda _: b"x" * 10), Document(b"1")) == b"x" * 10
    assert "larger than 10 bytes" in await refusal(renderer, formatter(lambda _: b"x" * 11), Document(b"1"))


async def test_a_formatter_that_never_returns_harms_neither_the_loop_nor_other_formats() -> None:
    release = threading.Event()
    renderer = Renderer(SETTINGS)

    def render(_: Document) -> bytes:
        release.wait()
        return b""

    stuck = FormatterSpec("stuck", "text/plain", render)
    try:
        calls = [asyncio.create_task(refusal(renderer, stuck)) for _ in range(5)]
        await asyncio.sleep(0)
        assert await renderer.render(formatter(thread_name), LARGE) == b"format-x"
        assert {"longer than 0.5 s" in reason for reason in await asyncio.gather(*calls)} == {True}
        running = [thread for thread in threading.enumerate() if thread.name == "format-stuck"]
        assert len(running) == SETTINGS.threads
        assert all(thread.daemon for thread in running)
    finally:
        release.set()
    for thread in running:
        thread.join()
    assert await renderer.render(stuck, LARGE) == b""


async def test_the_result_of_a_call_that_is_gone_is_dropped_and_its_thread_is_free_again() -> None:
    started, release = threading.Event(), threading.Event()
    renderer = Renderer(FormatsSettings(thread_above_bytes=1, threads=1))

    def render(_: Document) -> bytes:
        started.set()
        release.wait()
        return b"done"

    call = asyncio.create_task(renderer.render(formatter(render), LARGE))
    await asyncio.to_thread(started.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    release.set()
    assert await renderer.render(formatter(render), LARGE) == b"done"


async def test_a_formatter_that_was_slow_on_a_small_document_gets_threads(caplog: pytest.LogCaptureFixture) -> None:
    def render(document: Document) -> bytes:
        time.sleep(0.11)  # the plugin's fault
        return thread_name(document)

    renderer = Renderer(FormatsSettings())
    with caplog.at_level(logging.WARNING):
        assert await renderer.render(formatter(render), Document(b"1")) == threading.current_thread().name.encode()
    assert "formatter x was slow" in caplog.text
    assert await renderer.render(formatter(render), Document(b"1")) == b"format-x"


async def test_an_event_with_a_carriage_return_is_rendered_the_other_way_or_refused() -> None:
    renderer = Renderer(SETTINGS)
    spec = FormatterSpec("x", "text/plain", lambda _: b"a\rb", lambda _: b"a&#13;b")
    assert await renderer.render(spec, LARGE) == b"a\rb"
    assert await renderer.render_event(spec, LARGE) == b"a&#13;b"
    assert await renderer.render_event(formatter(lambda _: b"ab"), LARGE) == b"ab"
    with pytest.raises(GatewayError, match="carriage return"):
        await renderer.render_event(formatter(lambda _: b"a\rb"), LARGE)
