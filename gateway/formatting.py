"""JSON comes in strictly and goes out rendered: what may be read, how deep it may nest, and where a formatter runs.

Formatters are plugins: whatever one does becomes a clear error of its own call. Knows nothing of envelopes or HTTP.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import accumulate
from time import monotonic
from typing import TypeVar

import msgspec
import orjson

from gateway.config import FormatsSettings
from gateway.errors import GatewayError
from gateway.hookspecs import FormatterSpec
from gateway.running import own_task
from gateway.types import MAX_DEPTH, Document, JsonValue, RenderingRefused

LOG = logging.getLogger("gateway.formatting")

Value = TypeVar("Value")

MAX_VALUES = 500_000
"""How many values a client's arguments may hold, containers included. OpenAI takes 300,000 tokens in one call."""

MAX_CONTAINERS = 1_000_000
"""How many arrays and objects an answer may hold."""

_INLINE_WORK_FACTOR = 16
_SLOW_S = 0.1
_COLLECTED_BYTES = 65_536
_TOO_DEEP = f"it nests deeper than {MAX_DEPTH} levels"

_SKIM = msgspec.json.Decoder(msgspec.Raw).decode
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one level down, one level up


class NotJson(ValueError):  # noqa: N818  # a finding about the text, not a fault of ours
    """A text is not JSON. Its own text says where."""


def check_json(text: bytes) -> None:
    """Raises NotJson unless `text` is JSON (RFC 8259, in UTF-8), and RenderingRefused where it nests too deep or
    holds more than MAX_CONTAINERS.

    No objects are made of it: the event loop stands still for some 8 ns a byte at the worst, and mostly 1.
    """
    try:
        if not text.isascii():
            text.decode()  # msgspec takes the bytes of a string as they are
        try:
            _SKIM(text)
        except msgspec.DecodeError:
            # msgspec refuses half of a surrogate pair, which the grammar allows: here any other escape is as good.
            _SKIM(text.replace(rb"\ud", rb"\u0").replace(rb"\uD", rb"\u0"))
    except RecursionError as error:
        raise RenderingRefused(_TOO_DEEP) from error
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise NotJson(str(error)) from error
    if _bracket_count(text) > MAX_DEPTH:
        _check_depth(text)


def read_object(text: bytes) -> dict[str, JsonValue]:
    """A client's arguments. Raises GatewayError 4003 unless `text` is a JSON object that every reader reads alike.

    No more than MAX_VALUES are made objects of, since the event loop stands still meanwhile: some 20 ns a byte at the
    worst (32 MB of brackets in a string), and mostly 4.
    """
    try:
        if len(text) >= _COLLECTED_BYTES:
            _check_number(text)
        value: JsonValue = uncollected(orjson.loads, text)
        if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
            _check_depth(text)
    except orjson.JSONDecodeError as error:
        raise GatewayError("4003", f"the arguments are not valid JSON: {error}") from error
    except RenderingRefused as error:
        raise GatewayError("4003", f"the arguments' JSON is refused: {error}") from error
    if not isinstance(value, dict):
        raise GatewayError("4003", "the arguments are not a JSON object")
    # A repeated key is lost in parsing, and its quotes with it.
    if orjson.dumps(value).count(b'"') != _quote_count(text):
        # The numbers' texts are of no interest here, and a million digits cost no time.
        json.loads(text, object_pairs_hook=_refuse_repeated_keys, parse_int=len, parse_float=len)
    return value


class Renderer:
    """Runs formatters: small documents where they are, others in a thread, so that no rendering stalls other calls.

    Each format has its own few threads, and a rendering its deadline: a formatter that never returns keeps its
    threads, and from then on its calls fail at the deadline, while every other format goes on. The threads are
    daemons, since one that never ends must not keep the process from ending.
    """

    def __init__(self, settings: FormatsSettings) -> None:
        self._settings = settings
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(settings.threads))
        self._slow: set[str] = set()

    async def render(self, spec: FormatterSpec, document: Document) -> bytes:
        """The document in the spec's format. Raises GatewayError 5000 with the reason where there is none."""
        if spec.name in self._slow or not self._is_light(document):
            rendering = await self._render_in_thread(spec, document)
        else:
            started = monotonic()
            rendering = _render(spec, document)
            if monotonic() - started > _SLOW_S:
                self._slow.add(spec.name)
                LOG.warning("formatter %s was slow on a small document; it runs in threads from now on", spec.name)
        if len(rendering) > self._settings.max_bytes:
            raise _refusal(spec, f"it is larger than {self._settings.max_bytes} bytes")
        return rendering

    async def render_event(self, spec: FormatterSpec, document: Document) -> bytes:
        """As `render`, for the data of a streamed event, which cannot hold a carriage return."""
        rendering = await self.render(spec, document)
        if b"\r" not in rendering:
            return rendering
        if spec.render_event is None:
            raise _refusal(spec, "an event cannot hold the carriage return in it")
        return await self.render_event(replace(spec, render=spec.render_event, render_event=None), document)

    def _is_light(self, document: Document) -> bool:
        """Whether it is quickly rendered in any format: an indenting one can repeat the depth for each few bytes."""
        size = len(document.text)
        limit = self._settings.thread_above_bytes
        if size > limit:
            return False
        work = limit * _INLINE_WORK_FACTOR
        return size * MAX_DEPTH <= work or size * min(_bracket_count(document.text), MAX_DEPTH) <= work

    async def _render_in_thread(self, spec: FormatterSpec, document: Document) -> bytes:
        await own_task()
        slots = self._slots[spec.name]
        loop = asyncio.get_running_loop()
        result: Future[bytes] = Future()
        result.set_running_or_notify_cancel()  # nobody can take back what a thread has begun

        def work() -> None:
            try:
                result.set_result(_render(spec, document))
            except BaseException as error:  # noqa: BLE001  # the waiting call must hear of it
                result.set_exception(error)

        def give_back(_: Future[bytes]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(slots.release)

        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await slots.acquire()
                try:
                    threading.Thread(target=work, name=f"format-{spec.name}", daemon=True).start()
                except RuntimeError as error:
                    slots.release()
                    raise _refusal(spec, "no thread could be started") from error
                result.add_done_callback(give_back)
                return await asyncio.wrap_future(result)
        except TimeoutError as error:
            raise _refusal(spec, f"it took longer than {self._settings.timeout_s:g} s") from error


def _render(spec: FormatterSpec, document: Document) -> bytes:
    """Calls the plugin; whatever it raises becomes a GatewayError, and the operator's log says where."""
    try:
        rendering: object = spec.render(document)
    except RenderingRefused as error:
        raise _refusal(spec, str(error)) from error
    except RecursionError as error:
        raise _refusal(spec, "it nests too deep") from error
    except MemoryError as error:
        raise _refusal(spec, "it does not fit into memory") from error
    except (Exception, SystemExit) as error:  # a plugin is a boundary
        # Neither the message nor the traceback's lines: both may hold the call's text.
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        LOG.error("formatter %s raised %s at %s:%d", spec.name, type(error).__name__, frame.f_code.co_filename, line)
        raise _refusal(spec, f"the formatter raised {type(error).__name__}") from error
    if not isinstance(rendering, bytes):
        raise _refusal(spec, f"the formatter returned {type(rendering).__name__}, not bytes")
    return rendering


def _refusal(spec: FormatterSpec, why: str) -> GatewayError:
    return GatewayError("5000", f"the answer cannot be rendered as {spec.name}: {why}")


def uncollected(parse: Callable[[bytes], Value], text: bytes) -> Value:
    """Parses a large text without the garbage collector, which makes a text of brackets take ten times as long."""
    if len(text) < _COLLECTED_BYTES or not gc.isenabled():
        return parse(text)
    gc.disable()
    try:
        return parse(text)
    finally:
        gc.enable()


def _refuse_repeated_keys(pairs: list[tuple[str, object]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise GatewayError("4003", f"the arguments name {key[:80]!r} twice")
        seen.add(key)


def _quote_count(text: bytes) -> int:
    """How many quotes a valid JSON text holds, those spelled by their number included."""
    count = text.count(b'"')
    if b"\\u0022" in text:
        count += text.replace(b"\\\\", b"").count(b"\\u0022")
    return count


def _bracket_count(text: bytes) -> int:
    """No less than the depth, and at the speed of memchr."""
    return text.count(b"[") + text.count(b"{")


def _check_number(text: bytes) -> None:
    """Raises RenderingRefused for more than MAX_VALUES: a value stands behind a bracket or a comma."""
    if _bracket_count(text) + text.count(b",") <= MAX_VALUES:
        return
    if len(_outside_strings(text, b"[{,", MAX_VALUES)) > MAX_VALUES:
        raise _too_many(MAX_VALUES)


def _check_depth(text: bytes) -> None:
    """Raises RenderingRefused for valid JSON that nests deeper than MAX_DEPTH or holds more than MAX_CONTAINERS."""
    brackets = _outside_strings(text, b"[{]}", MAX_CONTAINERS)
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise _too_many(MAX_CONTAINERS)
    if max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b")), default=0) > MAX_DEPTH:
        raise RenderingRefused(_TOO_DEEP)


def _outside_strings(text: bytes, kept: bytes, limit: int) -> bytes:
    """The bytes of a JSON text that are in `kept` and in no string.

    Raises RenderingRefused where so many strings hold such bytes that there must be more than `limit` values.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    other = bytes(set(range(256)).difference(kept, b'"'))
    # Two quotes side by side open and close nothing. Between the strings that remain there is a kept byte.
    marks = text.translate(None, other).replace(b'""', b"")
    if marks.count(b'"') > 4 * limit + 2:
        raise _too_many(limit)
    return b"".join(marks.split(b'"')[::2])


def _too_many(limit: int) -> RenderingRefused:
    return RenderingRefused(f"it holds more than {limit} values")
