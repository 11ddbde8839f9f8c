"""The road that every call takes, from top to bottom: read this file first.

    read the call -> find the account -> check method and price -> enter the limits -> hold
        -> look in the cache -> translate the prompt -> reach the upstream, or answer it ourselves
        -> translate, format, settle, answer -> record

Each stage is a module of its own and knows no other; only the road sees them all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from gateway.accounts import AccountDirectory
from gateway.billing import Billing, fingerprint, key_in_use
from gateway.caching import Cache, Plan, Wish, wish_of
from gateway.config import MethodsSettings
from gateway.credentials import Credentials
from gateway.delivery import Delivery
from gateway.errors import ERROR_CODES, GatewayError
from gateway.fronts import custom_reading, native
from gateway.fronts.client import Client
from gateway.fronts.reading import Authenticate, Known, Reading, Upload
from gateway.fronts.writing import Writer, Writing
from gateway.ids import CallIds
from gateway.job_opening import JobOpening, opening_of
from gateway.limits import Limits
from gateway.login_guard import LoginGuard
from gateway.logs import log_access, log_failure
from gateway.methods import is_counted, is_relayed, matches_any
from gateway.own_methods import OwnMethods, refuse_files
from gateway.progress import SUCCESS, Progress
from gateway.settling import Settler, raw_answer
from gateway.spooling import Spool
from gateway.store.interface import StoreError
from gateway.store.sqlite import SqliteStore
from gateway.translation.stage import Translation
from gateway.types import NO_ARGUMENTS, Account, Arguments, Call
from gateway.upstream.connection import UpstreamConnection, recorded
from gateway.upstream.pool import Pool
from gateway.upstream.request import Target
from gateway.upstream.sharing import Flight
from gateway.upstream.upload import answer_to_upload
from gateway.usage import asking_usage, tokens_used

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
    translation: Translation
    cache: Cache
    delivery: Delivery
    writing: Writing
    own: OwnMethods
    store: SqliteStore
    guard: LoginGuard
    limits: Limits
    billing: Billing
    reading_on: set[asyncio.Task[None]] = field(default_factory=set)  # for clients that have left

    def custom(self, client: Client, platform: str, api_name: str | None) -> Awaitable[None]:
        """A call of the documented API, at `/{platform}/{api_name}`."""
        progress = self._begin(client, "custom")
        if api_name is not None:
            progress.asked["api_name"] = api_name
        return self._guard(client, progress, custom_reading.read_call, platform)

    def native(self, client: Client) -> Awaitable[None]:
        """A call of OpenAI's own API, at `/v1/…`."""
        return self._guard(client, self._begin(client, "native"), native.read_call, "openai")

    @property
    def takes_calls(self) -> bool:
        """Whether a call with a price would be taken: not while the books cannot be written."""
        return not (self.billing.prices and self.store.failing)

    async def _answer(self, client: Client, progress: Progress, read: Read, platform: str) -> None:
        """The road itself."""
        authenticate = partial(self._authenticate, client, progress)
        reading = await read(client, progress.asked, self.known, progress.request_id, authenticate)
        call, upload = reading.call, reading.upload
        progress.call = call
        account = authenticate(reading.credentials)
        self._admit(account, call, progress.asked.get("api_name", "custom"), platform)
        if call.method in self.own.specs and not is_counted(call.method):
            await self._answer_ourselves(client, progress, account, reading)
            return
        settler = self._open_bill(progress, account, reading)
        if call.lang is None and await self._repeat(client, progress, account, reading):
            return
        progress.slot = await self.limits.enter(account, progress.started_at)
        if call.lang is not None and await self._repeat(client, progress, account, reading):
            return  # which may have been translated, and so takes its turn
        wish = self._wish(client, account, reading)
        if upload is not None and self.cache.takes_upload(call, wish):
            with Spool(upload.content_type, self.cache.settings.upload_bytes) as spool:
                await spool.fill(self._upload_pieces(upload, settler))
                await self._fetch(client, progress, account, reading, settler, wish, spool)
        else:
            await self._fetch(client, progress, account, reading, settler, wish, None)

    async def _fetch(
        self,
        client: Client,
        progress: Progress,
        account: Account,
        reading: Reading,
        settler: Settler | None,
        wish: Wish | None,
        spool: Spool | None,
    ) -> None:
        """The road's second half: from the cache to the answer."""
        call, upload = reading.call, reading.upload
        plan = self._plan(account, reading, wish, settler, spool)
        kept = await self.cache.find(plan) if plan is not None else None
        if kept is not None:
            progress.cache, progress.age_s, progress.made_of = "hit", kept.age_s, kept.made_of
            if settler is not None:
                settler.bill.discount(self.cache.settings.charged_percent)
        own = call.method in self.own.specs
        if own and self.own.opens_job(call.method):
            progress.opening = await self._opening(account, call, settler, progress)
        elif settler is not None and settler.bill.holds:
            await self.billing.hold(settler.bill, progress.started_at)
        if own:
            await self._answer_ourselves(client, progress, account, reading)
            return
        arguments = call.arguments
        if self.translation.wants_prompt(account, call):
            arguments = await self.translation.prompt(call, progress)
        pool = self.upstream.pool
        if kept is not None:
            link = self.cache.replay(kept, at_its_pace=self._keeps_pace(call))
        elif plan is not None:
            body = None if upload is None or spool is None else (spool.lent(), upload.length)
            link, shares = self.cache.shared(plan, self._request(reading, arguments, settler), body)
            progress.cache = "shared" if shares else "miss"
        else:
            request = self._request(reading, arguments, settler)
            link = pool.take_idle() or await pool.connect()
        try:  # whatever ends it before the answer's end cancels the call upstream
            if plan is None:
                link.send(request)
            link.outlives_client = settler is not None and self.billing.reads_on(settler.bill)
            if upload is None or plan is not None:
                head = await link.answer()
            else:
                pieces = self._upload_pieces(upload, settler) if spool is None else spool.pieces()
                head = await answer_to_upload(link, pieces, upload.length)
            progress.upstream_s = monotonic() - progress.started
            writer = Writer(self.writing, client, progress, self.accounts)
            await self.delivery.deliver(writer, link, head, call, progress)
        except (ConnectionError, asyncio.CancelledError):
            if settler is not None:
                self._read_on(client, progress, settler, link)
            raise
        finally:
            if not progress.detached:
                pool.release(link)

    def _authenticate(self, client: Client, progress: Progress, credentials: Credentials) -> Account:
        guard = self.guard
        guard.check(client.ip, credentials.key)
        try:
            account = progress.account = self.accounts.identify(credentials)
        except GatewayError:
            guard.failed(client.ip, credentials.key)
            raise
        guard.succeeded(client.ip, credentials.key)
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

    def _open_bill(self, progress: Progress, account: Account, reading: Reading) -> Settler | None:
        """What will settle the call; None where nothing is to be paid, measured or kept. GatewayError 4010, 4003."""
        call, key, upload = reading.call, reading.idempotency_key, reading.upload
        if key is not None and upload is not None:
            raise GatewayError("4003", "an upload cannot have an idempotency key", param="idempotency_key")
        bill = self.billing.open(
            progress.row_id,
            account,
            call,
            key,
            upload=upload is not None,
            with_answer=self.translation.may_translate(call),
            with_prompt=self.translation.wants_prompt(account, call),
            opens_job=self.own.opens_job(call.method),
        )
        if bill is None:
            return None
        settler = progress.settler = Settler(self.billing, bill, progress)
        return settler

    async def _repeat(self, client: Client, progress: Progress, account: Account, reading: Reading) -> bool:
        """Gives the first answer again where the call repeats an idempotency key; False where it is the first, or
        there is no key.

        GatewayError 4003 for another request under the key, 4008 while the first call runs.
        """
        key, call = reading.idempotency_key, reading.call
        if key is None:
            return False
        try:
            first = await asyncio.get_running_loop().run_in_executor(None, self.store.keyed, account.id, key)
        except StoreError as error:
            raise GatewayError("4000", "the idempotency keys cannot be read") from error
        if first is None:
            return False
        progress.settler = None  # nothing is held, and nothing to pay
        if first.fingerprint != fingerprint(call):
            raise GatewayError("4003", "this idempotency key belongs to another request", param="idempotency_key")
        if first.running:
            raise key_in_use()
        if first.answer is None:
            raise GatewayError(
                "4003", "the answer under this idempotency key was not kept: it was cut, or too long",
                param="idempotency_key",
            )  # fmt: skip
        progress.memory_only = self.billing.translations is not None
        progress.replayed, progress.cache = (first.request_id, first.call_id), "replay"
        link = recorded(self.upstream.pool, raw_answer(first.answer))
        writer = Writer(self.writing, client, progress, self.accounts)
        await self.delivery.deliver(writer, link, await link.answer(), call, progress)
        return True

    async def _answer_ourselves(self, client: Client, progress: Progress, account: Account, reading: Reading) -> None:
        if self.own.streams(reading.call):
            await self._stream_ourselves(client, progress, account, reading)
            return
        answer = await self.own.answer(
            reading.call, account, has_files=reading.upload is not None, opening=progress.opening
        )
        if progress.settler is not None:
            progress.settler.keep(answer.status, answer.content_type, answer.fields, answer.body)
        await Writer(self.writing, client, progress, self.accounts).whole(answer)
        if progress.settler is None:
            progress.usage = None  # whatever a plugin's answer tells of some usage, it is not this call's

    async def _stream_ourselves(self, client: Client, progress: Progress, account: Account, reading: Reading) -> None:
        refuse_files(reading.call, has_files=reading.upload is not None)
        pool = self.upstream.pool
        link = Flight(pool, self.own.events(reading.call, account), 0, _ignore, _ignore).join()
        try:
            head = await link.answer()
            writer = Writer(self.writing, client, progress, self.accounts)
            await self.delivery.deliver(writer, link, head, reading.call, progress)
        finally:
            pool.release(link)

    async def _opening(self, account: Account, call: Call, settler: Settler | None, progress: Progress) -> JobOpening:
        """What a job of this call will be made with, its prompt translated where that is wanted. GatewayError 4016."""
        bill, prompt = None if settler is None else settler.bill, None
        if self.translation.wants_prompt(account, call):
            if bill is not None:
                await self.billing.check_covered(bill, self.store.account)
            prompt = str((await self.translation.prompt(call, progress)).values["prompt"])
        return opening_of(self.billing, bill, account, call, progress, prompt)

    def _wish(self, client: Client, account: Account, reading: Reading) -> Wish | None:
        """What a call may have of the cache. One that is told apart by its key has a memory of its own."""
        call = reading.call
        if reading.idempotency_key is not None or not is_relayed(call.method):
            return None
        if self.translation.wants_prompt(account, call):
            return None
        wanted = call.cache if call.cache is not None else account.cache
        if wanted is None:
            wanted = call.front == "custom"
        return wish_of(wanted, client.head.headers.get("Cache-Control"))

    def _plan(
        self, account: Account, reading: Reading, wish: Wish | None, settler: Settler | None, spool: Spool | None
    ) -> Plan | None:
        """The cache's part in a call; None where it has none."""
        call, content = reading.call, b""
        if reading.upload is not None:
            if spool is None or not spool.is_whole:
                return None
            content = spool.digest
        options = call.arguments.values.get("stream_options")
        asks_usage = isinstance(options, dict) and options.get("include_usage") is True
        with_usage = asks_usage or (settler is not None and settler.asks_usage)
        return self.cache.plan(call, account, wish, reading.headers, with_usage=with_usage, content=content)

    def _keeps_pace(self, call: Call) -> bool:
        return self.cache.settings.pace if call.cache_pace is None else call.cache_pace

    def _upload_pieces(self, upload: Upload, settler: Settler | None) -> AsyncIterator[bytes]:
        if settler is None:
            return upload.pieces
        return self.billing.uploading(settler.bill, upload.content_type, upload.pieces)

    def _request(self, reading: Reading, arguments: Arguments, settler: Settler | None) -> bytes:
        """The first bytes of the upstream's request: its head, and its body unless that is an upload."""
        call, upload = reading.call, reading.upload
        content_type, length, body = "", None, b""
        if upload is not None:
            content_type, length = upload.content_type, upload.length
        elif call.verb not in {"GET", "DELETE"} and call.arguments is not NO_ARGUMENTS:
            body = arguments.text
            if settler is not None and settler.asks_usage:
                body = asking_usage(arguments)
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
        progress.outcome = error.code
        if progress.settler is not None and error.code.code != "4000" and not self.store.failing:
            with suppress(GatewayError):  # then what was held comes back later
                status = 200 if progress.front == "custom" else error.code.native_status
                await progress.settler.settle(client.sent_status or status, client.sent_bytes)
        if client.sent_status:  # too late to say anything: the connection must not look whole
            progress.cut = True
            client.cut_off()
            return
        await Writer(self.writing, client, progress, self.accounts).refuse(error)

    def _read_on(self, client: Client, progress: Progress, settler: Settler, link: UpstreamConnection) -> None:
        """Reads the answer of a call whose client has left to its end, in a task of its own, where that is wanted."""
        if settler.bill.settled or not (link.outlives_client and link.is_answering):
            return
        progress.detached = True
        progress.cut = True
        link.detach()
        task = asyncio.get_running_loop().create_task(self._absorb(client, progress, settler, link))
        self.reading_on.add(task)
        task.add_done_callback(self.reading_on.discard)

    async def _absorb(self, client: Client, progress: Progress, settler: Settler, link: UpstreamConnection) -> None:
        assert progress.call is not None  # noqa: S101  # it was sent upstream
        upstream = self.billing.upstream
        try:
            async with asyncio.timeout(upstream.drain_s):
                progress.outcome = await self.delivery.absorb(link, progress.call, settler, upstream.drain_bytes)
        except GatewayError as error:
            progress.outcome = error.code
        except TimeoutError:  # what came until then is what it used
            progress.outcome = SUCCESS if settler.has_begun else ERROR_CODES["4017"]
        finally:
            self.upstream.pool.release(link)
            progress.detached = False
            self._record(client, progress)

    async def finish_reading_on(self) -> None:
        """Cuts short what is still read for clients that have left, and settles it."""
        await asyncio.sleep(0)  # a task that is cancelled before its first step would settle nothing
        for task in (tasks := list(self.reading_on)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _record(self, client: Client, progress: Progress) -> None:
        if progress.detached:
            return
        account = progress.account
        if account is not None:
            settler = progress.settler
            if settler is not None:
                settler.reckon()
            if progress.opening is not None and progress.opening.opened:  # its row is written when the job has ended
                record = progress.record(account, monotonic(), client.sent_status, client.sent_at, client.sent_bytes)
            elif settler is None or settler.bill.held_micros is None:
                record = progress.record(account, monotonic(), client.sent_status, client.sent_at, client.sent_bytes)
                self.store.append(record)
            else:
                record = settler.end(self.store, client.sent_status, client.sent_at, client.sent_bytes)
            self.accounts.count(record)
            if progress.slot is not None:
                progress.slot.leave(tokens_used(progress.usage))
        log_access(client, progress)


def _ignore(_: object) -> None:
    """What hears of the end of a stream of our own."""
