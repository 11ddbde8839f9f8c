"""The road that every call takes, from top to bottom: read this file first.

    read the call -> find the account -> check the method -> reach the upstream, or answer it ourselves
        -> translate, format, answer -> record

Each stage is a module of its own and knows no other; only the road sees them all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic

from gateway.accounts import AccountDirectory
from gateway.config import MethodsSettings
from gateway.credentials import Credentials
from gateway.delivery import Delivery
from gateway.errors import GatewayError
from gateway.fronts import custom_reading, native
from gateway.fronts.client import Client
from gateway.fronts.reading import Authenticate, Known, Reading
from gateway.fronts.writing import Writer, Writing
from gateway.ids import CallIds
from gateway.logs import log_access, log_failure
from gateway.methods import is_relayed, matches_any
from gateway.own_methods import OwnMethods
from gateway.progress import Progress
from gateway.store.sqlite import SqliteStore
from gateway.types import NO_ARGUMENTS, Account, Call
from gateway.upstream.pool import Pool
from gateway.upstream.request import Target
from gateway.upstream.upload import answer_to_upload

Read = Callable[[Client, dict[str, str], Known, str, Authenticate], Awaitable[Reading]]


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where calls go, and the connections that are open there."""

    target: Target
    pool: Pool


@dataclass(frozen=True, slots=True)
class Road:
    """The stages' collaborators, put together once at start."""

    known: Known
    methods: MethodsSettings
    ids: CallIds
    accounts: AccountDirectory
    upstream: Upstream
    delivery: Delivery
    writing: Writing
    own: OwnMethods
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
        authenticate = partial(self._authenticate, client, progress)
        reading = await read(client, progress.asked, self.known, progress.request_id, authenticate)
        call, upload = reading.call, reading.upload
        progress.call = call
        account = authenticate(reading.credentials)
        self._admit(account, call, progress.asked.get("api_name", "custom"), platform)
        if call.method in self.own.specs:
            answer = await self.own.answer(call, account, has_files=upload is not None)
            await Writer(self.writing, client, progress, self.accounts).whole(answer)
            progress.usage = None  # whatever a plugin's answer tells of some usage, it is not this call's
            return
        request, pool = self._request(reading), self.upstream.pool
        link = pool.take_idle() or await pool.connect()
        try:  # whatever ends it before the answer's end cancels the call upstream
            link.send(request)
            head = await (link.answer() if upload is None else answer_to_upload(link, upload.pieces, upload.length))
            progress.upstream_s = monotonic() - progress.started
            writer = Writer(self.writing, client, progress, self.accounts)
            await self.delivery.deliver(writer, link, head, call, progress)
        finally:
            pool.release(link)

    def _authenticate(self, client: Client, progress: Progress, credentials: Credentials) -> Account:
        account = progress.account = self.accounts.identify(credentials)
        self.accounts.check_access(account, client.ip, time.time())
        return account

    def _admit(self, account: Account, call: Call, api_name: str, platform: str) -> None:
        """Whether the method is there and the account may call it: 4010, 4009, 4006, 4012, in that order."""
        name, methods = call.method, self.methods
        if platform != "openai" or api_name != "custom":
            raise GatewayError("4010", "there is no such platform or api_name; calls go to /openai/custom/")
        if not (is_relayed(name) or name in self.own.specs) or (methods.closed and matches_any(name, methods.closed)):
            raise GatewayError("4010", "there is no such method", param="method")
        if methods.maintenance and matches_any(name, methods.maintenance):
            raise GatewayError("4009", "the method is in maintenance", param="method")
        self.accounts.check_method(account, name)

    def _request(self, reading: Reading) -> bytes:
        """The first bytes of the upstream's request: its head, and its body unless that is an upload."""
        call, upload = reading.call, reading.upload
        content_type, length, body = "", None, b""
        if upload is not None:
            content_type, length = upload.content_type, upload.length
        elif call.verb not in {"GET", "DELETE"} and call.arguments is not NO_ARGUMENTS:
            body = call.arguments.text
            content_type, length = "application/json", len(body)
        target, path = self.upstream.target, reading.path or call.method
        return target.request(call.verb, path, call.query, content_type, length, reading.headers) + body

    # the beginning and the end of every call

    def _begin(self, client: Client, front: str) -> Progress:
        request_id, row_id = self.ids.next()
        return Progress(request_id, row_id, front, monotonic(), time.time())

    async def _guard(self, client: Client, progress: Progress, read: Read, platform: str) -> None:
        """Walks the road; whatever happens on it, the client is told and the call is recorded, once."""
        try:
            try:
                await self._answer(client, progress, read, platform)
            except GatewayError as error:
                await self._refuse(client, progress, error)
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception as error:  # noqa: BLE001  # the outermost boundary: a client never sees a traceback
                log_failure(error)
                await self._refuse(client, progress, GatewayError("4000", "the gateway failed to answer this call"))
        except (ConnectionError, asyncio.CancelledError):  # the client has left
            progress.cut = True
            raise
        finally:
            self._record(client, progress)

    async def _refuse(self, client: Client, progress: Progress, error: GatewayError) -> None:
        if client.sent_status:  # too late to say anything: the connection must not look whole
            progress.outcome = error.code
            progress.cut = True
            client.cut_off()
            return
        await Writer(self.writing, client, progress, self.accounts).refuse(error)

    def _record(self, client: Client, progress: Progress) -> None:
        account = progress.account
        if account is not None:
            now = monotonic()
            record = progress.record(account, now, client.sent_status, client.sent_at, client.sent_bytes)
            self.accounts.count(record)
            self.store.append(record)
        log_access(client, progress)
