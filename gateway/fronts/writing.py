"""How a call's outcome is written: in envelopes on the custom front, in OpenAI's shapes on the native one."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Protocol
from zoneinfo import ZoneInfo

import orjson

from gateway.amounts import amount_text
from gateway.config import FormatsSettings, StreamSettings
from gateway.errors import ErrorCode, GatewayError
from gateway.formatting import NotJson, Renderer, check_json
from gateway.fronts.client import Client
from gateway.fronts.envelope import NOT_GIVEN, Facts, envelope, extended
from gateway.fronts.keepalive import COMMENT, Keepalive
from gateway.fronts.late_head import LateHead
from gateway.fronts.native import error_object
from gateway.hookspecs import FormatterSpec
from gateway.metering import Watch
from gateway.progress import SUCCESS, Progress
from gateway.reshaping import Shape, reshaped_events
from gateway.running import own_task
from gateway.sse import Event, EventSplitter, EventTooLarge, encode_event, separator
from gateway.translation.streams import StreamTranslation
from gateway.types import Account, CallCounts, Document, PerCall, RenderingRefused
from gateway.upstream.body import LAST_CHUNK, frame
from gateway.upstream.connection import UpstreamConnection, broke_off
from gateway.upstream.head import UNTIL_CLOSE, ResponseHead
from gateway.usage import usage_of

LOG = logging.getLogger("gateway.answers")

STREAM_FIELDS = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
JSON_TYPE = "application/json"
DONE = b"[DONE]"
_DONE_LINE = re.compile(rb"(?:\A|[\r\n])data:[ \t]*\[DONE\][\r\n]")
BeforeEnd = Callable[[], Awaitable[None]]
ENDS_WITH_DONE = frozenset({"v1/chat/completions", "v1/completions", "v1/edits"})


class Whole(PerCall, frozen=True):
    """A whole answer of the upstream: `json` is its JSON text, or None where `body` is plain text or nothing."""

    code: ErrorCode
    status: int
    content_type: str
    body: bytes
    json: bytes | None
    fields: str = ""  # header lines of the upstream that are passed on


class Accounts(Protocol):
    """Where version 2 of the envelope finds how often an account has called."""

    def counts(self, account: Account) -> CallCounts: ...


@dataclass(frozen=True, slots=True)
class Writing:
    """What writing an outcome needs to know, the same for every call."""

    formatters: Mapping[str, FormatterSpec]
    formats: FormatsSettings
    renderer: Renderer
    stream: StreamSettings
    zone: ZoneInfo
    default_lang: str


class Writer:
    """Writes the outcome of one call to its client."""

    __slots__ = ("_accounts", "_client", "_progress", "_writing")

    def __init__(self, writing: Writing, client: Client, progress: Progress, accounts: Accounts) -> None:
        self._writing = writing
        self._client = client
        self._progress = progress
        self._accounts = accounts

    async def whole(self, answer: Whole) -> None:
        """An answer of the upstream's, or its error about this request."""
        progress = self._progress
        progress.outcome = answer.code
        settler = progress.settler
        if settler is not None:
            settler.reckon()
        elif answer.json is not None:
            progress.usage = usage_of(answer.json)
        if progress.front == "custom":
            await self._envelope(
                answer.json if answer.json is not None else _as_json(answer.body), answer.code, "", answer.fields
            )
            return
        spec = self._asked_format()
        body, content_type = answer.body, answer.content_type
        if spec is not None and body:
            body = await self._render(spec, answer.json if answer.json is not None else _as_json(body))
            content_type = spec.content_type
        if settler is not None:
            await settler.settle(answer.status, len(body))
        fields = progress.fields(monotonic(), answer.code) + answer.fields
        await self._client.send(answer.status, content_type, body, fields)

    async def refuse(self, error: GatewayError) -> None:
        """A failure before anything was sent."""
        self._progress.outcome = error.code
        fields = f"Retry-After: {error.retry_after_s}\r\n" if error.retry_after_s is not None else ""
        if self._progress.front == "custom":
            await self._envelope(NOT_GIVEN, error.code, error.reason, fields)
            return
        body, content_type = error_object(error.code, error.reason, error.param), JSON_TYPE
        spec = self._asked_format()
        if spec is not None:
            try:
                body, content_type = await self._render(spec, body), spec.content_type
            except GatewayError as failure:  # a formatter that fails must not hide the error itself
                LOG.warning("the format %s cannot say an error: %s", spec.name, failure.reason)
        fields += self._progress.fields(monotonic(), error.code)
        await self._client.send(error.code.native_status, content_type, body, fields)

    async def file(self, link: UpstreamConnection, head: ResponseHead, fields: str) -> None:
        """A file: relayed as it comes, on both fronts without an envelope."""
        client, progress = self._client, self._progress
        length = head.length if head.length >= 0 else None
        content_type = head.content_type.decode("latin-1")
        first = client.answer_head(head.status, content_type, length, fields + progress.fields(monotonic(), None))
        progress.outcome = SUCCESS  # unless it breaks off; a client that leaves has had the upstream's success
        if client.bodyless:
            await client.write(first)
            return
        chunked = length is None and client.http11
        settler = progress.settler
        try:
            if settler is None:
                await link.relay(client.connection, first, chunked=chunked)
            else:
                before_end = partial(self._settle, link, content_type, fields)
                watch = settler.watch_file()
                await link.relay(client.connection, first, chunked=chunked, watch=watch, before_end=before_end)
        except GatewayError as error:
            progress.outcome = error.code
            progress.cut = True
            if length is None:
                self._end_short()
            else:
                client.write_last(b"")
        finally:
            self._note(link)

    async def stream(
        self,
        link: UpstreamConnection,
        head: ResponseHead,
        fields: str,
        translation: StreamTranslation | None = None,
        shape: Shape | None = None,
    ) -> None:
        """A stream: byte for byte, or event by event in the shape, the format and the language that were asked for."""
        progress, client = self._progress, self._client
        progress.streamed = True
        spec = self._asked_format()
        status = 200 if progress.front == "custom" else head.status
        content_type = head.content_type.decode("latin-1")

        def first() -> bytes:
            own_fields = STREAM_FIELDS + progress.fields(monotonic(), None)
            return client.answer_head(status, content_type, None, fields + own_fields)

        progress.outcome = SUCCESS  # as for a file
        watch = before_end = None
        if progress.settler is not None:
            watch = progress.settler.watch_stream(link.fail)
            before_end = partial(self._settle, link, content_type, fields)
        if client.bodyless:
            await client.write(first())
        elif translation is None and shape is None and (spec is None or spec.name == "json"):
            await self._relay(link, first(), watch, before_end)
        else:
            events = self._events(link, head, watch)
            if shape is not None:
                events = reshaped_events(shape, events)
            if (translation or shape) and spec is None and progress.front == "custom":
                spec = self._writing.formatters["json"]
            if translation is not None:
                await own_task()
                late = LateHead(client, first, progress)
                await self._reformat(link, translation.events(events), spec, late, before_end)
            else:
                await client.write(first())
                await self._reformat(link, events, spec, client, before_end)

    async def _settle(self, link: UpstreamConnection, content_type: str, fields: str) -> None:
        """What comes before the end of a relay: the call is settled, or fails."""
        client, progress = self._client, self._progress
        if progress.first_byte_at is None:
            progress.first_byte_at = link.first_body_at
        if progress.settler is not None:
            await progress.settler.settle_relayed(
                client.sent_status, content_type, fields, client.sent_bytes + link.relayed_bytes
            )

    async def _relay(
        self, link: UpstreamConnection, first: bytes, watch: Watch | None, before_end: BeforeEnd | None
    ) -> None:
        client, progress = self._client, self._progress
        try:
            with self._kept_alive(link, lambda: link.stands_between_chunks and separator(link.tail) == b""):
                await link.relay(
                    client.connection,
                    first,
                    chunked=client.http11,
                    looks_whole=self._looks_whole,
                    watch=watch,
                    before_end=before_end,
                )
        except GatewayError as error:
            progress.outcome = error.code
            progress.cut = True
            before = separator(link.tail)
            if before is None:
                self._end_short()
            else:
                client.write_last(link.append(before + _error_event(error)))
        finally:
            self._note(link)

    async def _reformat(
        self,
        link: UpstreamConnection,
        events: AsyncGenerator[Event, None],
        spec: FormatterSpec | None,
        out: Client | LateHead,
        before_end: BeforeEnd | None,
    ) -> None:
        client, progress = self._client, self._progress
        try:
            with self._kept_alive(link, lambda: client.sent_status > 0):  # events are written whole
                async with aclosing(events):
                    async for event in events:
                        encoded = await self._event(spec, event)
                        if encoded:
                            await out.write(self._framed(encoded))
                            client.sent_bytes += len(encoded)
                        if progress.first_byte_at is None and client.sent_status:
                            progress.first_byte_at = monotonic()
            if isinstance(out, LateHead):
                await out.flush()
                progress.first_byte_at = progress.first_byte_at or monotonic()
            if before_end is not None:
                await before_end()
            await out.write(LAST_CHUNK if client.http11 else b"")
        except EventTooLarge:
            limit = self._writing.stream.max_event_bytes
            await self._cut(spec, GatewayError("5000", f"an event of the stream is larger than {limit} bytes"), out)
        except GatewayError as error:
            await self._cut(spec, error, out)
        finally:
            if isinstance(out, LateHead):
                out.close()

    async def _events(
        self, link: UpstreamConnection, head: ResponseHead, watch: Watch | None
    ) -> AsyncGenerator[Event, None]:
        """A stream's events. Raises what broke it off; where its framing says that it is whole, its last event is too,
        blank line or not.
        """
        splitter = EventSplitter(self._writing.stream.max_event_bytes)
        payload = last = b""
        try:
            async for piece in link.pieces():
                for event in splitter.feed(piece if watch is None else watch.feed(piece)):
                    last = event.raw
                    if event.data is not None and event.data.strip() != DONE:
                        payload = event.data  # that may tell the usage
                    yield event
            for event in splitter.feed(b"" if watch is None else watch.finish()):
                yield event
            if head.length == UNTIL_CLOSE and (splitter.rest.strip() or not self._looks_whole(last)):
                raise broke_off()
            if (rest := splitter.finish()) is not None:
                payload = rest.data or payload
                yield rest
        finally:
            if watch is None:
                self._progress.usage = usage_of(payload)

    def _kept_alive(self, link: UpstreamConnection, may_write: Callable[[], bool]) -> Keepalive:
        comment = self._framed(COMMENT)
        return Keepalive(self._client.connection, link, self._writing.stream.keepalive_s, comment, may_write)

    async def _cut(self, spec: FormatterSpec | None, error: GatewayError, out: Client | LateHead) -> None:
        self._progress.outcome = error.code
        self._progress.cut = True
        event = _error_event(error)
        if spec is not None:
            try:
                payload = await self._render(spec, error_object(error.code, error.reason, error.param))
                event = b"data: " + payload.replace(b"\n", b"\ndata: ") + b"\n\n"
            except GatewayError:
                LOG.warning("the format %s cannot say an error", spec.name)
        out.write_last(self._framed(event))

    async def _event(self, spec: FormatterSpec | None, event: Event) -> bytes:
        """An event with its payload in another format; what is not JSON (`[DONE]`, comments) stays as it is."""
        if spec is None or (spec.name == "json" and not event.is_remade):
            return event.exact
        if not event.lines:  # blank lines at the end
            return b""
        if event.data is None or event.data.strip() == DONE:
            return event.raw
        try:
            check_json(event.data)
        except NotJson:
            return event.raw
        except RenderingRefused as error:
            raise GatewayError("5000", f"an event cannot be rendered: {error}") from error
        writing = self._writing
        return encode_event(event, await writing.renderer.render_event(spec, self._document(event.data)))

    async def _envelope(self, response: bytes, code: ErrorCode, reason: str, fields: str) -> None:
        """Writes an envelope in the format that was asked for; if that fails, says so in JSON."""
        spec = self._asked_format() or self._writing.formatters["json"]
        settler = self._progress.settler
        try:
            body = await self._render(spec, self._enveloped(response, code, reason))
            if settler is not None and code.charged:
                told_micros = self._progress.charge_micros
                await settler.settle(200, len(body))
                if self._progress.charge_micros != told_micros:  # the balance fell short
                    body = await self._render(spec, self._enveloped(response, code, reason))
        except GatewayError as error:
            LOG.warning("an answer cannot be written as %s: %s", spec.name, error.reason)
            self._progress.outcome = code = error.code
            refusal = self._enveloped(NOT_GIVEN, error.code, error.reason)
            spec, body = await self._render_refusal(spec, refusal)
        fields += self._progress.fields(monotonic(), code)
        await self._client.send(200, spec.content_type, body, fields)

    async def _render_refusal(self, spec: FormatterSpec, refusal: bytes) -> tuple[FormatterSpec, bytes]:
        try:
            return spec, await self._render(spec, refusal)
        except GatewayError:
            spec = self._writing.formatters["json"]
            return spec, await self._render(spec, refusal)

    def _enveloped(self, response: bytes, code: ErrorCode, reason: str) -> bytes:
        progress = self._progress
        text = envelope(response, code, reason, *progress.ids)
        if progress.asked.get("version") != "2":
            return text
        facts = Facts(
            counts=self._accounts.counts(progress.account) if progress.account is not None else CallCounts(),
            started_at=progress.started_at,
            duration_s=monotonic() - progress.started,
            default_lang=self._writing.default_lang,
            translating=progress.translating,
            cached=progress.cache == "hit",
            charge=amount_text(progress.charge_micros),
        )
        return extended(text, code, progress.call, progress.account, facts, self._client.ip, self._writing.zone)

    async def _render(self, spec: FormatterSpec, text: bytes) -> bytes:
        return await self._writing.renderer.render(spec, self._document(text))

    def _document(self, text: bytes) -> Document:
        return Document(text, self._writing.formats.max_bytes)

    def _asked_format(self) -> FormatterSpec | None:
        """The format that the caller named, if it exists; None for the front's own."""
        return self._writing.formatters.get(self._progress.asked.get("result_type", ""))

    def _framed(self, payload: bytes) -> bytes:
        return frame(payload) if self._client.http11 else payload

    def _end_short(self) -> None:
        """Ends a body without a length so that it cannot be taken for whole, where no error event can say so."""
        if self._client.http11:
            self._client.write_last(b"")  # the last chunk is missing
        else:
            self._client.cut_off()  # HTTP/1.0: an orderly end would be the body's

    def _note(self, link: UpstreamConnection) -> None:
        progress = self._progress
        if progress.settler is None:
            progress.usage = usage_of(link.tail) if progress.streamed else None
        elif progress.settler.is_file:
            progress.settler.bill.received_bytes = link.relayed_bytes
        progress.first_byte_at = link.first_body_at
        self._client.sent_bytes += link.relayed_bytes

    def _looks_whole(self, tail: bytes) -> bool:
        """Whether a stream that ended with its connection, which a cut may do too, ended like a finished one."""
        if separator(tail) != b"":
            return False
        call = self._progress.call
        if call is not None and call.method in ENDS_WITH_DONE:
            return _DONE_LINE.search(tail) is not None
        return bool(tail)


def _error_event(error: GatewayError) -> bytes:
    return b"data: " + error_object(error.code, error.reason, error.param) + b"\n\n"


def _as_json(body: bytes) -> bytes:
    """A body that is not JSON, as a JSON string; nothing is null."""
    return orjson.dumps(body.decode("utf-8", "replace")) if body else NOT_GIVEN
