"""The road that every call takes, from top to bottom: read this file first.

    read the call -> find the account -> check the method -> reach the upstream -> translate -> format and answer
    -> record

Each stage is a module of its own and knows no other; only the road sees them all.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from gateway.accounts import AccountDirectory
from gateway.config import Settings
from gateway.errors import GatewayError
from gateway.formatting import NotJson, check_json
from gateway.fronts import custom_reading, native
from gateway.fronts.client import Client
from gateway.fronts.custom_reading import Known
from gateway.fronts.reading import Reading, Upload
from gateway.fronts.writing import Whole, Writer, Writing
from gateway.hookspecs import TranslatorSpec
from gateway.ids import CallIds
from gateway.methods import is_relayed, known_method, matches_any
from gateway.progress import NO_RESULT, SUCCESS, Progress
from gateway.store.sqlite import SqliteStore
from gateway.translation import translate_answer
from gateway.types import NO_ARGUMENTS, Account, Call, RenderingRefused, TranslationContext
from gateway.upstream.body import LAST_CHUNK, frame
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.head import ResponseHead
from gateway.upstream.pool import Pool
from gateway.upstream.request import Target

LOG = logging.getLogger("gateway.route")
ACCESS = logging.getLogger("gateway.access")

JSON = b"application/json"
EVENTS = b"text/event-stream"
REFUSED_CREDENTIALS = frozenset({401, 403, 407, 408})
"""Answers that speak of the operator's own standing with the upstream, not of this request (contract, section 4)."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where calls go, and the connections that are open there."""

    target: Target
    pool: Pool
    max_answer_bytes: int
    pass_headers: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Road:
    """The stages' collaborators, put together once at start."""

    settings: Settings
    known: Known
    writing: Writing
    translators: dict[str, TranslatorSpec]
    accounts: AccountDirectory
    upstream: Upstream
    ids: CallIds
    store: SqliteStore

    def custom(self, client: Client, platform: str, api_name: str | None) -> Awaitable[None]:
        """A call of the documented API, at `/{platform}/{api_name}`."""
        progress = self._begin(client, "custom")
        if api_name is not None:
            progress.asked["api_name"] = api_name
        return self._guard(client, progress, custom_reading.read_call, platform)

    def native(self, client: Client) -> Awaitable[None]:
        """A call of OpenAI's own API, at `/v1/…`."""
        return self._guard(client, self._begin(client, "native"), native.read_call, "openai")

    async def _answer(self, client: Client, progress: Progress, read: Read, platform: str) -> None:
        """The road itself."""
        authenticate = partial(self._authenticate, client)
        reading = await read(client, progress.asked, self.known, progress.request_id, authenticate)
        call = progress.call = reading.call
        account = progress.account = authenticate(reading.key, reading.secret)
        self._admit(account, call, progress.asked.get("api_name", "custom"), platform)
        writer = Writer(self.writing, client, progress, self.accounts)
        async with self.upstream.pool.exchange(self._request(reading)) as link:
            upload = reading.upload
            head = await (link.answer() if upload is None else self._answer_to_upload(link, upload))
            progress.upstream_s = client.connection.now() - progress.started
            await self._deliver(writer, link, head, call, progress)

    def _authenticate(self, client: Client, key: str, secret: str) -> Account:
        return self.accounts.find(key, secret, client.ip, time.time())

    def _admit(self, account: Account, call: Call, api_name: str, platform: str) -> None:
        """Whether the method is there and the account may call it: 4010, 4009, 4006, 4012, in that order."""
        name, methods = call.method, self.settings.methods
        if platform != "openai" or api_name != "custom":
            raise GatewayError("4010", "there is no such platform or api_name; calls go to /openai/custom/")
        if not is_relayed(name) or (methods.closed and matches_any(name, methods.closed)):
            raise GatewayError("4010", "there is no such method", param="method")
        if methods.maintenance and matches_any(name, methods.maintenance):
            raise GatewayError("4009", "the method is in maintenance", param="method")
        self.accounts.check_method(account, name)

    def _request(self, reading: Reading) -> bytes:
        """The first bytes of the upstream's request: its head, and its body unless that is an upload."""
        call, upload = reading.call, reading.upload
        target = self.upstream.target
        if upload is not None:
            return target.request(
                call.verb, call.method, call.query, upload.content_type, upload.length, reading.headers
            )
        if call.verb in {"GET", "DELETE"} or call.arguments is NO_ARGUMENTS:
            return target.request(call.verb, call.method, call.query, "", None, reading.headers)
        body = call.arguments.text
        return target.request(call.verb, call.method, call.query, "application/json", len(body), reading.headers) + body

    async def _answer_to_upload(self, link: UpstreamConnection, upload: Upload) -> ResponseHead:
        """Sends the upload and waits for the answer's head, which may come before the upload's end."""
        sending = asyncio.ensure_future(_send(link, upload))
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

    async def _deliver(
        self, writer: Writer, link: UpstreamConnection, head: ResponseHead, call: Call, progress: Progress
    ) -> None:
        """Writes what the upstream answered, by what it is: an error, a stream, a file, JSON or text."""
        status = head.status
        media_type = head.media_type
        fields = self._passed_fields(head)
        if status in REFUSED_CREDENTIALS:
            raise GatewayError("4002", "the upstream does not accept the gateway's own request")
        if status >= 500 or 300 <= status < 400:
            raise GatewayError("4002", f"the upstream answered {status}")
        if head.get(b"content-encoding") not in {None, b"identity"}:
            raise GatewayError("4002", "the upstream compressed its answer although it was asked not to")
        if status < 300:
            method = known_method(call.method)
            if media_type == EVENTS:
                await self._deliver_stream(writer, link, head, call, progress, fields)
                return
            if (method is not None and method.binary) or not _is_text(media_type):
                await writer.file(link, head, fields)
                return
            if media_type == b"text/html":
                raise GatewayError("4002", "the upstream answered with a web page")
        body = link.whole_body(self.upstream.max_answer_bytes)
        if body is None:
            body = await link.read(self.upstream.max_answer_bytes)
        text = self._json(body, media_type, status)
        if status < 300 and text is not None and call.lang is not None and not _asks_for_json(call):
            text, progress.translate_status = await self._translate(text, call, progress)
            body = text
        code = SUCCESS if status < 300 else NO_RESULT
        content_type = head.content_type.decode("latin-1")
        await writer.whole(Whole(code, status, content_type, body, text, fields))

    async def _deliver_stream(
        self, writer: Writer, link: UpstreamConnection, head: ResponseHead, call: Call, progress: Progress, fields: str
    ) -> None:
        if call.lang is not None:
            progress.translate_status = "unavailable"  # streams are delivered as the upstream wrote them
        await writer.stream(link, head, fields)

    def _json(self, body: bytes, media_type: bytes, status: int) -> bytes | None:
        """The body as JSON text, or None where it is not JSON; 4002 for a success that says it is JSON and is not."""
        nothing = status == 204 or not (body or media_type)
        if nothing or (status < 300 and not _is_json(media_type)):
            return None
        try:
            check_json(body)
        except NotJson as error:
            if status < 300:
                raise GatewayError("4002", "the upstream's answer is not valid JSON") from error
            return None
        except RenderingRefused as error:
            raise GatewayError("5000", f"the upstream's answer cannot be rendered: {error}") from error
        return body

    async def _translate(self, text: bytes, call: Call, progress: Progress) -> tuple[bytes, str]:
        account = progress.account.name if progress.account is not None else ""
        context = TranslationContext(call.method, call.request_id, account)
        return await translate_answer(text, self.translators.get(call.lang or ""), context)

    def _passed_fields(self, head: ResponseHead) -> str:
        """The upstream's headers that a client may see, as lines."""
        allowed = self.upstream.pass_headers
        lines = ""
        for name, value in head.headers:
            if name in allowed:
                lines += f"{name.decode('latin-1')}: {value.decode('latin-1')}\r\n"
        return lines

    # the beginning and the end of every call

    def _begin(self, client: Client, front: str) -> Progress:
        request_id, row_id = self.ids.next()
        return Progress(request_id, row_id, front, client.connection.now(), time.time())

    async def _guard(self, client: Client, progress: Progress, read: Read, platform: str) -> None:
        """Walks the road; whatever happens on it, the client is told and the call is recorded, once."""
        try:
            try:
                await self._answer(client, progress, read, platform)
            except GatewayError as error:
                await self._refuse(client, progress, error)
            except (ConnectionError, asyncio.CancelledError):  # the client has left
                progress.cut = True
                if progress.streamed and client.sent_status:
                    progress.outcome = SUCCESS  # as far as it went, the upstream did its part
                raise
            except Exception as error:  # noqa: BLE001  # the outermost boundary: a client never sees a traceback
                _log_failure(error)
                await self._refuse(client, progress, GatewayError("4000", "the gateway failed to answer this call"))
        finally:
            self._record(client, progress)

    async def _refuse(self, client: Client, progress: Progress, error: GatewayError) -> None:
        if client.sent_status:  # too late to say anything: the connection must not look whole
            progress.outcome = error.code
            progress.cut = True
            client.write_last(b"")
            return
        await Writer(self.writing, client, progress, self.accounts).refuse(error)

    def _record(self, client: Client, progress: Progress) -> None:
        account = progress.account
        if account is not None:
            now = client.connection.now()
            record = progress.record(account, now, client.sent_status, client.sent_at, client.sent_bytes)
            self.accounts.count(record)
            self.store.append(record)
        if ACCESS.isEnabledFor(logging.INFO if progress.outcome.code == "0000" else logging.WARNING):
            _log_access(client, progress)


Read = Callable[[Client, dict[str, str], Known, str, Callable[[str, str], Account]], Awaitable[Reading]]


async def _send(link: UpstreamConnection, upload: Upload) -> None:
    """Sends an upload as it arrives, in chunks where its length is not known."""
    link.request_whole = False
    async for piece in upload.pieces:
        await link.send_more(frame(piece) if upload.length is None else piece)
    if upload.length is None:
        await link.send_more(LAST_CHUNK)
    link.request_whole = True


def _asks_for_json(call: Call) -> bool:
    """Whether the answer's text is JSON for a program to read, which no translation may touch."""
    asked = call.arguments.values.get("response_format")
    return isinstance(asked, dict) and str(asked.get("type")).startswith("json")


def _is_json(media_type: bytes) -> bool:
    """JSON by its type; an upstream that names no type means the API's own."""
    return media_type == JSON or not media_type or media_type.endswith(b"+json")


def _is_text(media_type: bytes) -> bool:
    return _is_json(media_type) or media_type.startswith(b"text/")


def _log_failure(error: BaseException) -> None:
    """Where and what kind of failure: its text and its values may hold a caller's secrets and are left out."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    LOG.error("internal error %s at %s", type(error).__name__, where)


def _shown(call: Call) -> str:
    """The interface, without what the caller wrote into its name: an id, or by mistake a secret."""
    method = known_method(call.method)
    return method.pattern if method is not None else "other"


def _log_access(client: Client, progress: Progress) -> None:
    """One line a call: the route's template and what came of it, nothing of the query."""
    account = progress.account
    code = progress.outcome.code
    ACCESS.log(
        logging.INFO if code == "0000" else logging.WARNING,
        "%s %s %s account=%s method=%s code=%s status=%d bytes=%d ms=%.1f%s",
        client.ip,
        client.request.method if client.request.method.isalpha() else "?",
        "/v1/{method}" if progress.front == "native" else "/{platform}/{api_name}/",
        account.name if account is not None else "-",
        _shown(progress.call) if progress.call is not None else "-",
        code,
        client.sent_status,
        client.sent_bytes,
        (client.connection.now() - progress.started) * 1e3,
        " cut" if progress.cut else "",
    )
