"""The road that every call takes, from top to bottom: read this file first.

    read the call, map it -> find the account -> check method and price -> enter the limits -> hold
        -> look in the cache -> translate the prompt -> reach the upstream, or answer it ourselves
        -> reshape, translate, format, settle, answer -> record

Each stage is a module of its own and knows no other; only the road sees them all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from time import monotonic

from msgspec.structs import replace

from gateway.accounts import AccountDirectory
from gateway.billing import Billing, fingerprint, key_in_use
from gateway.caching import Cache, Plan, Wish, wish_of
from gateway.config import MethodsSettings, UpstreamSettings
from gateway.credentials import Credentials
from gateway.delivery import Delivery
from gateway.detours import Detours
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
from gateway.upstream.head import ResponseHead
from gateway.upstream.pool import Pool
from gateway.upstream.request import Target
from gateway.upstream.several import Several, several_calls
from gateway.upstream.sharing import Source, alone, upstream_call
from gateway.upstream.upload import answer_to_upload
from gateway.usage import asking_usage, tokens_used

Read = Callable[[Client, dict[str, str], Known, str, Authenticate], Awaitable[Reading]]


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where calls go, the connections that are open there, and how what comes back is delivered.

    `identity` stands for the address and the key: what models there are, and what they know, hangs on both.
    """

    settings: UpstreamSettings
    target: Target
    pool: Pool
    delivery: Delivery
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        target = self.target
        seen = b"%b%b%d" % (target.fields, target.base_path.encode(), target.tls is not None)
        object.__setattr__(self, "identity", blake2b(seen, digest_size=16).hexdigest())  # the dataclass is frozen


@dataclass(frozen=True, slots=True)
class Road:
    """The stages' collaborators, put together once at start.

    `upstream` is the first, `others` those that calls may be routed to. `detours` None: every call goes as it is.
    """

    known: Known
    methods: MethodsSettings
    ids: CallIds
    accounts: AccountDirectory
    upstream: Upstream
    others: Mapping[str, Upstream]
    detours: Detours | None
    translation: Translation
    cache: Cache
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
        progress.call = reading.call
        if self.detours is not None and reading.upload is None:
            reading = self._mapped(progress, reading, self.detours)
        call, upload = progress.call, reading.upload
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
            if settler is not None and settler.bill.holds:  # before anything is taken in
                await self.billing.hold(settler.bill, progress.started_at)
            with Spool(upload.content_type, self.cache.settings.upload_bytes) as spool:
                await spool.fill(self._upload_pieces(upload, settler))
                await self._fetch(client, progress, account, reading, settler, wish, spool)
        else:
            await self._fetch(client, progress, account, reading, settler, wish, None)

    @staticmethod
    def _mapped(progress: Progress, reading: Reading, detours: Detours) -> Reading:
        """The reading of a call that goes upstream as another, or elsewhere. Raises 4003."""
        detour = detours.of(reading.call)
        if detour is None:
            return reading
        progress.call = detour.called
        path = reading.path if detour.sent.method == reading.call.method else ""
        return replace(reading, call=detour.sent, path=path, detour=detour)

    def _upstream(self, reading: Reading) -> Upstream:
        """Where a call goes."""
        detour = reading.detour
        return self.upstream if detour is None or not detour.upstream else self.others[detour.upstream]

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
        call, upload, upstream = reading.call, reading.upload, self._upstream(reading)
        plan = self._plan(account, reading, wish, settler, spool)
        kept = await self.cache.find(plan) if plan is not None else None
        if kept is not None:
            progress.cache, progress.age_s, progress.made_of = "hit", kept.age_s, kept.made_of
            if settler is not None:
                settler.bill.discount(self.cache.settings.charged_percent)
        own = call.method in self.own.specs
        if own and self.own.opens_job(call.method):
            progress.opening = self._opening(account, call, settler, progress)
        elif settler is not None and settler.bill.holds and settler.bill.held_micros is None:
            await self.billing.hold(settler.bill, progress.started_at)
        if own:
            await self._answer_ourselves(client, progress, account, reading)
            return
        arguments = call.arguments
        if self.translation.wants_prompt(account, call):
            arguments = await self.translation.prompt(call, progress)
        pool, request = upstream.pool, b""
        if kept is not None:
            link = self.cache.replay(kept, at_its_pace=self._keeps_pace(call))
        elif plan is not None:
            link, shares = self.cache.shared(plan, self._source(reading, arguments, settler, spool))
            progress.cache = "shared" if shares else "miss"
        elif reading.detour is not None and reading.detour.each:
            link = alone(pool, self._source(reading, arguments, settler, None))
        else:
            request = self._request(reading, arguments, settler)
            link = pool.take_idle() or await pool.connect()
        try:  # whatever ends it before the answer's end cancels the call upstream
            if request:
                link.send(request)
            link.outlives_client = settler is not None and self.billing.reads_on(settler.bill)
            if upload is None or plan is not None:
                head = await link.answer()
            else:
                pieces = self._upload_pieces(upload, settler) if spool is None else spool.pieces()
                head = await answer_to_upload(link, pieces, upload.length)
            progress.upstream_s = monotonic() - progress.started
            await self._deliver(client, progress, reading, link, head)
        except (ConnectionError, asyncio.CancelledError):
            if settler is not None:
                self._read_on(client, progress, settler, link, upstream)
            raise
        finally:
            if not progress.detached:
                pool.release(link)

    def _deliver(
        self, client: Client, progress: Progress, reading: Reading, link: UpstreamConnection, head: ResponseHead
    ) -> Awaitable[None]:
        """What writes an answer to the client."""
        detour, call = reading.detour, progress.call or reading.call
        shape = detour.shape if detour is not None else None
        writer = Writer(self.writing, client, progress, self.accounts)
        return self._upstream(reading).delivery.deliver(writer, link, head, call, progress, shape)

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
            upstream=self._upstream(reading).settings,
            detour=reading.detour,
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
        if first.fingerprint != fingerprint(call, reading.detour):
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
        await self._deliver(client, progress, reading, link, await link.answer())
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
        link = alone(pool, self.own.events(reading.call, account))
        try:
            await self._deliver(client, progress, reading, link, await link.answer())
        finally:
            pool.release(link)

    def _opening(self, account: Account, call: Call, settler: Settler | None, progress: Progress) -> JobOpening:
        """What a job of this call will be made with."""
        bill = None if settler is None else settler.bill

        async def translated() -> str:
            if bill is not None:
                await self.billing.check_covered(bill, self.store.account)
            return str((await self.translation.prompt(call, progress)).values["prompt"])

        wanted = translated if self.translation.wants_prompt(account, call) else None
        return opening_of(self.billing, bill, account, call, progress, wanted)

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
        if reading.detour is not None and reading.detour.each:
            content = b"%d chats" % len(reading.detour.each)
        identity = self._upstream(reading).identity
        with_usage = _asks_usage(call) or (settler is not None and settler.asks_usage)
        return self.cache.plan(
            call,
            account,
            wish,
            reading.headers,
            identity,
            with_usage=with_usage,
            content=content,
            path=reading.path,
        )

    def _keeps_pace(self, call: Call) -> bool:
        return self.cache.settings.pace if call.cache_pace is None else call.cache_pace

    def _upload_pieces(self, upload: Upload, settler: Settler | None) -> AsyncIterator[bytes]:
        if settler is None:
            return upload.pieces
        return self.billing.uploading(settler.bill, upload.content_type, upload.pieces)

    def _source(self, reading: Reading, arguments: Arguments, settler: Settler | None, spool: Spool | None) -> Source:
        """What gives a call its answer: one exchange, or several that are joined."""
        upstream, detour, upload = self._upstream(reading), reading.detour, reading.upload
        limit = upstream.settings.max_answer_bytes
        if detour is None or not detour.each:
            body = None if upload is None or spool is None else (spool.lent(), upload.length)
            return upstream_call(upstream.pool, self._request(reading, arguments, settler), limit, body)
        several = Several(
            requests=[self._request(reading, each, settler) for each in detour.each],
            choices=detour.choices,
            stream=reading.call.stream,
            with_usage=_asks_usage(reading.call) or (settler is not None and settler.asks_usage),
            max_answer_bytes=limit,
            max_event_bytes=self.writing.stream.max_event_bytes,
        )
        return several_calls(upstream.pool, several)

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
        target, path = self._upstream(reading).target, reading.path or call.method
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

    def _read_on(
        self, client: Client, progress: Progress, settler: Settler, link: UpstreamConnection, upstream: Upstream
    ) -> None:
        """Reads the answer of a call whose client has left to its end, in a task of its own, where that is wanted."""
        if settler.bill.settled or not (link.outlives_client and link.is_answering):
            return
        progress.detached = True
        progress.cut = True
        link.detach()
        task = asyncio.get_running_loop().create_task(self._absorb(client, progress, settler, link, upstream))
        self.reading_on.add(task)
        task.add_done_callback(self.reading_on.discard)

    async def _absorb(
        self, client: Client, progress: Progress, settler: Settler, link: UpstreamConnection, upstream: Upstream
    ) -> None:
        settings, call = upstream.settings, settler.bill.call
        try:
            async with asyncio.timeout(settings.drain_s):
                progress.outcome = await upstream.delivery.absorb(link, call, settler, settings.drain_bytes)
        except GatewayError as error:
            progress.outcome = error.code
        except TimeoutError:  # what came until then is what it used
            progress.outcome = SUCCESS if settler.has_begun else ERROR_CODES["4017"]
        finally:
            upstream.pool.release(link)
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


def _asks_usage(call: Call) -> bool:
    """Whether the caller wants a stream's usage."""
    options = call.arguments.values.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
