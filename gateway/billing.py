"""The bill of a call: what is held for it before the upstream is touched, and what it comes to when it has ended.

Knows the price list and the store's holds; how an answer is delivered is others' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from gateway.amounts import amount_text
from gateway.charging import MAX_COST, NOTHING, Price, Prices, Use, greatest_translation, greatest_use
from gateway.config import ChargingSettings, IdempotencySettings, UpstreamSettings
from gateway.detours import Detour
from gateway.errors import GatewayError
from gateway.form_model import FormModel
from gateway.metering import GATHER_BYTES, RUNNING_GATHER_BYTES, Meter, Watch
from gateway.methods import is_relayed
from gateway.store.interface import (
    Charged,
    Extension,
    Hold,
    InsufficientBalanceError,
    KeptAnswer,
    KeyTakenError,
    Settlement,
    StoreError,
)
from gateway.tokens import TokenCounter, completion_tokens, prompt_tokens
from gateway.types import Account, Call, CallRecord, Settled, Usage
from gateway.usage import whole_usage

FREE_STATUSES = frozenset({402, 429})
"""Answers that are 2000 but speak of the operator's own standing with the upstream: nobody is charged for them."""

_READING = frozenset({"GET", "DELETE"})
_STREAMED_USAGE = frozenset({"v1/chat/completions", "v1/completions"})
_SOUND_BYTES_PER_S = 16_000  # 128 kbit/s: of sound whose length nobody tells


class Books(Protocol):
    """What a bill asks of the store."""

    async def hold(self, hold: Hold) -> None: ...

    async def extend(self, extension: Extension) -> None: ...

    async def settle(self, settlement: Settlement) -> Charged: ...


class Bill:
    """What one call has to pay. Changes as the call goes on; settled once.

    `price` None: nothing, but its tokens count or its answer is kept. `at_most_micros` is what it may come to as far as
    one knows at its start. `held_micros` None: nothing was held yet, and nothing has to be settled. `call` is what the
    `upstream` is asked, which is what costs; `called` what the caller asked.
    """

    __slots__ = (
        "_images",
        "_milliseconds",
        "_told",
        "_whole",
        "account",
        "answer",
        "at_most_micros",
        "call",
        "call_id",
        "called",
        "fingerprint",
        "held_micros",
        "key",
        "model",
        "percent",
        "price",
        "received_bytes",
        "settled",
        "status",
        "translation_micros",
        "uploaded_bytes",
        "upstream",
        "watch",
    )

    def __init__(
        self,
        call_id: int,
        account: Account,
        call: Call,
        price: Price | None,
        key: str | None,
        upstream: UpstreamSettings,
        detour: Detour | None,
    ) -> None:
        self.call_id = call_id
        self.account = account
        self.call = call
        self.called = call if detour is None else detour.called
        self.upstream = upstream
        self.fingerprint = fingerprint(call, detour) if key is not None else b""
        self.price = price
        self.key = key
        self.at_most_micros = 0
        self.model: str | None = None  # that an upload's form names
        self.held_micros: int | None = None
        self.settled = False  # or about to be
        self.watch: Watch | None = None
        self.uploaded_bytes = 0
        self.received_bytes = 0  # of an answer that is a file
        self.answer: KeptAnswer | None = None
        self._told: Usage | None = None
        self._images = 0
        self._milliseconds = 0
        self._whole: bytes | None = None
        self.status = 0
        self.translation_micros = 0  # of what it may come to
        self.percent = 100  # of the price: less for an answer that was kept

    def discount(self, percent: int) -> None:
        """Lets the call pay no more than so much of its price; what its translation costs stays."""
        self.percent = percent
        self.at_most_micros = self.discounted(self.at_most_micros - self.translation_micros) + self.translation_micros
        if not self.at_most_micros:
            self.price = None

    def discounted(self, micros: int) -> int:
        """What is left of a price."""
        return -(-micros * self.percent // 100)

    @property
    def holds(self) -> bool:
        """Whether something has to be written down before the upstream is touched."""
        return self.price is not None or self.key is not None

    @property
    def counts_tokens(self) -> bool:
        """Whether somebody wants to know of the call's tokens."""
        return self.account.tokens_per_minute is not None or (self.price is not None and self.price.counts_tokens)

    def note_whole(self, status: int, body: bytes, json: bytes | None) -> None:
        """Takes a whole answer to account."""
        self.status = status
        if json is not None and status < 300:
            self._whole = body
            self._told, self._images, self._milliseconds = whole_usage(json)

    def use(self, counter: TokenCounter, *, streamed: bool) -> Use:
        """What the call has used, as far as it was delivered; counted by us where the upstream does not tell."""
        price, usage, images, estimated = self.price, self._told, self._images, False
        heard = self.received_bytes or self.uploaded_bytes
        meter = self.watch.meter if streamed and self.watch is not None else None
        if meter is not None:
            usage = meter.finish()
            heard = self.uploaded_bytes or meter.read_bytes * 3 // 4  # sound in a stream is base64
            if price is not None and price.per_image and meter.read_bytes:
                images = greatest_use(price, self.call).images if meter.images is None else meter.images
                estimated = meter.images is None
        if usage is None and self.counts_tokens:
            usage = self._estimate(counter, meter)
            estimated = estimated or (price is not None and price.counts_tokens)
        milliseconds = self._milliseconds
        if price is not None and price.per_second and not milliseconds:
            milliseconds = min(heard * 1000 // _SOUND_BYTES_PER_S, price.max_seconds * 1000)
            estimated = True
        return Use(usage, images, milliseconds, estimated)

    def _estimate(self, counter: TokenCounter, meter: Meter | None) -> Usage:
        completion = 0
        if meter is not None:
            completion = meter.delivered_tokens
        elif self._whole is not None:
            completion = completion_tokens(counter, self.call.method, self._whole)
        return Usage(prompt_tokens(counter, self.call.method, self.call.arguments), completion)


@dataclass(frozen=True, slots=True)
class Billing:
    """Makes bills, holds what they may come to, and says what they came to."""

    prices: Prices
    charging: ChargingSettings
    idempotency: IdempotencySettings
    upstream: UpstreamSettings  # the first one
    counter: TokenCounter
    books: Books
    translations: Price | None = None  # what translating costs, where that is charged

    def open(
        self,
        call_id: int,
        account: Account,
        call: Call,
        key: str | None,
        *,
        upload: bool,
        upstream: UpstreamSettings | None = None,
        detour: Detour | None = None,
        with_answer: bool = False,
        with_prompt: bool = False,
        opens_job: bool = False,
    ) -> Bill | None:
        """The bill of a call; None for one that pays nothing and is not watched. 4010 for one without a price.

        `call` goes to `upstream` (None: the first), on a `detour` perhaps. `with_answer`, `with_prompt`: whether those
        may be translated. `opens_job`: it may submit an image job, which is paid for whatever the call's verb is.
        """
        price = self._price(account, call, upload=upload, opens_job=opens_job) if self.prices else None
        at_most_micros = translation_micros = 0
        if price is not None:
            running = self.charging.running_tokens if self._holds_running(call) else None
            at_most_micros = price.cost(greatest_use(price, call, running_tokens=running, upload=upload))
            if not at_most_micros:
                price = None
        if self.prices and self.translations is not None and (with_answer or with_prompt):
            translation_micros = greatest_translation(
                self.translations, call, with_answer=with_answer, with_prompt=with_prompt
            )
            at_most_micros = min(at_most_micros + translation_micros, MAX_COST)
            price = price or (Price() if at_most_micros else None)
        if price is None and key is None and account.tokens_per_minute is None:
            return None
        bill = Bill(call_id, account, call, price, key, upstream or self.upstream, detour)
        bill.at_most_micros = at_most_micros
        bill.translation_micros = min(translation_micros, at_most_micros)
        return bill

    def _price(self, account: Account, call: Call, *, upload: bool, opens_job: bool) -> Price | None:
        """The call's price; of an upload that does not tell its model, the highest that it may have."""
        model = call.arguments.model
        if upload and model is None:
            possible = self.prices.possible(account.price_list, call.method)
            price = max(possible, key=lambda each: each.cost(greatest_use(each, call, upload=True)), default=None)
        else:
            price = self.prices.find(account.price_list, call.method, model)
        if price is None and self.charging.unpriced == "refused" and (opens_job or _costs_upstream(call)):
            of = f" of the model {model}" if model is not None else ""
            raise GatewayError("4010", f"the operator has set no price for this method{of}", param="model")
        if price is not None and call.verb in _READING and not opens_job:
            return Price(per_call=price.per_call)
        if price is not None and price.counts_tokens and call.arguments.values.get("background") not in (None, False):
            # Its usage would be told to whoever asks for it later, and to nobody else.
            raise GatewayError("4003", "what runs in the background cannot be charged", param="background")
        return price

    async def uploading(self, bill: Bill, content_type: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces of an upload, unchanged. What they name and measure goes into the bill."""
        form = FormModel(content_type)
        async for piece in pieces:
            form.feed(piece)
            bill.uploaded_bytes += len(piece)
            yield piece
        if bill.price is not None and bill.call.arguments.model is None and form.model is not None:
            named = self.prices.find(bill.account.price_list, bill.call.method, form.model)
            bill.price = named or bill.price
            bill.model = form.model

    async def hold(self, bill: Bill, started_at: float) -> None:
        """Holds the greatest cost of a call, durably. Raises 4016, 4008 for a key in use, 4000."""
        call, amount = bill.call, bill.at_most_micros
        hold = Hold(
            bill.call_id, bill.account.id, amount, call.request_id, call.front, bill.called.method,
            call.arguments.model, started_at, call.client_ip, bill.key, bill.fingerprint,
        )  # fmt: skip
        bill.held_micros = amount  # before it is: whoever is cancelled meanwhile has to settle
        try:
            await self.books.hold(hold)
        except InsufficientBalanceError:
            bill.held_micros = None
            raise not_covered(amount, "; a lower max_tokens holds less") from None
        except KeyTakenError:
            bill.held_micros = None
            raise key_in_use() from None
        except StoreError as error:
            raise GatewayError("4000", "the books cannot be written, so that nothing can be charged") from error

    @staticmethod
    async def check_covered(bill: Bill, account_now: Callable[[int], Account]) -> None:
        """Raises 4016 where the balance does not cover a call by far; `account_now` may block."""
        try:
            now = await asyncio.to_thread(account_now, bill.account.id)
        except StoreError as error:
            raise GatewayError("4000", "the books cannot be read") from error
        if bill.at_most_micros > max(now.balance_micros - now.held_micros, 0):
            raise not_covered(bill.at_most_micros)

    def asks_usage(self, bill: Bill) -> bool:
        """Whether the upstream is asked for the usage of a stream on our own account."""
        call = bill.call
        if not (call.stream and bill.upstream.ask_usage and call.method in _STREAMED_USAGE and bill.counts_tokens):
            return False
        options = call.arguments.values.get("stream_options")
        if options is not None and not isinstance(options, dict):
            return False  # wrong: the upstream says so
        return not (isinstance(options, dict) and options.get("include_usage") is True)

    def watch(self, bill: Bill, *, asked: bool, stop: Callable[[GatewayError], None]) -> Watch:
        """What a stream is shown to on its way. `stop` ends it when the balance has run out."""
        running = bill.price is not None and self._holds_running(bill.call)
        meter = Meter(
            bill.call.method, self.counter.count, gather_bytes=RUNNING_GATHER_BYTES if running else GATHER_BYTES
        )
        watch = bill.watch = Watch(meter, sieves=asked, keep_limit_bytes=self._keep_limit(bill))
        if running:
            watch.noted = _Running(self, bill, meter, stop).look
        return watch

    def watch_file(self, bill: Bill) -> Watch:
        """What a file is shown to on its way."""
        watch = bill.watch = Watch(None, sieves=False, keep_limit_bytes=self._keep_limit(bill))
        return watch

    def _keep_limit(self, bill: Bill) -> int:
        return self.idempotency.max_answer_bytes if bill.key is not None else 0

    def reads_on(self, bill: Bill) -> bool:
        """Whether an answer is read to its end though its client has left: one that is kept is still wanted."""
        return bill.holds and (bill.upstream.client_left == "drain" or bill.key is not None)

    def keep(self, bill: Bill, status: int, content_type: str, fields: str, body: bytes | None) -> None:
        """Keeps a whole answer for whoever repeats the call's idempotency key."""
        if bill.key is not None and body is not None and len(body) <= self.idempotency.max_answer_bytes:
            bill.answer = KeptAnswer(status, content_type, fields, body)

    def _holds_running(self, call: Call) -> bool:
        return call.stream and self.charging.stream_hold == "running"

    def total(self, bill: Bill, code: str, *, streamed: bool, begun: bool, translation: int) -> tuple[Use, int]:
        """What a call used and what it costs in millionths, by how it has ended (contract, sections 4 and 6).

        `translation` is what that cost in millionths. `begun`: something of an answer was delivered, so that a code
        other than 0000 means that it broke off.
        """
        price = bill.price
        translation = translation if self.translations is not None else 0
        if code == "2000":
            pays = price is not None and "2000" in self.charging.charged and bill.status not in FREE_STATUSES
            if not pays or price is None:
                return NOTHING, 0
            return NOTHING, min(bill.discounted(price.per_call) + translation, MAX_COST)
        cut_off = begun and code != "0000"
        if code == "4000" or (code != "0000" and not cut_off):  # a fault of ours is nobody else's cost
            return NOTHING, 0
        use = bill.use(self.counter, streamed=streamed)
        if price is None or (code == "0000" and "0000" not in self.charging.charged):
            return use, 0
        if cut_off and code != "4016" and bill.upstream.upstream_cut == "nothing":
            return use, 0
        return use, min(bill.discounted(price.cost(use)) + translation, MAX_COST)

    def settlement(self, bill: Bill, record: CallRecord) -> Settlement:
        """How a held call ends. What was charged keeps its key; a call that failed may be made again under it."""
        answered = record.outcome == "0000" or (record.outcome == "2000" and bill.status not in FREE_STATUSES)
        keeps = answered or record.charge_micros > 0
        return Settlement(record, bill.answer, keyed=bill.key is not None, keeps_key=keeps)


class _Running:
    """Holds more for a stream as it runs, up to what it may cost at most; ends it when the balance does not cover that.

    Once the call is settled nothing is ended: its connection may already carry another's.
    """

    __slots__ = ("_at_tokens", "_bill", "_billing", "_left_tokens", "_meter", "_stop", "_task")

    def __init__(self, billing: Billing, bill: Bill, meter: Meter, stop: Callable[[GatewayError], None]) -> None:
        self._billing = billing
        self._bill = bill
        self._meter = meter
        self._stop = stop
        self._at_tokens = billing.charging.running_tokens // 2
        self._left_tokens = _completion(bill, None) - _completion(bill, billing.charging.running_tokens)  # not held yet
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Called after each piece of the stream."""
        if self._task is None and self._meter.running_tokens >= self._at_tokens and self._left_tokens > 0:
            self._task = asyncio.get_running_loop().create_task(self._extend())

    async def _extend(self) -> None:
        bill, more = self._bill, min(self._billing.charging.running_tokens, self._left_tokens)
        assert bill.price is not None  # noqa: S101  # only such bills run
        amount = bill.price.cost(Use(Usage(0, more))) - bill.price.per_call
        error = None
        try:
            if not bill.settled:
                await self._billing.books.extend(Extension(bill.call_id, bill.account.id, amount))
        except InsufficientBalanceError:
            error = GatewayError("4016", "the balance ran out in the middle of the stream")
        except StoreError:
            error = GatewayError("4000", "the books cannot be written, so that nothing more can be charged")
        if error is None:
            self._at_tokens += more
            self._left_tokens -= more
            self._task = None
        elif not bill.settled:
            self._stop(error)


def _completion(bill: Bill, running_tokens: int | None) -> int:
    """How many completion tokens a call may use at most, or are held for it at first."""
    if bill.price is None:
        return 0
    usage = greatest_use(bill.price, bill.call, running_tokens=running_tokens).usage
    return usage.completion_tokens or 0 if usage is not None else 0


def _costs_upstream(call: Call) -> bool:
    """Whether the operator has to pay for a call: what only reads is free, and so is what never gets to an upstream."""
    return is_relayed(call.method) and call.verb not in _READING


def settled_as(use: Use, bill: Bill) -> Settled:
    """How a charge came about, for the log."""
    if bill.price is None:
        return "free"
    return "estimated" if use.estimated else "exact"


def fingerprint(call: Call, detour: Detour | None = None) -> bytes:
    """Tells one request under an idempotency key from another: method and arguments, not how it wants its answer.

    Of one on a detour both as it was called and as it goes upstream, and where to.
    """
    digest = blake2b(digest_size=16)
    parts = [call.method.encode(), call.verb.encode(), call.query.encode(), call.arguments.text]
    if detour is not None:
        parts += [detour.called.method.encode(), detour.called.arguments.text, detour.upstream.encode()]
    for part in parts:
        digest.update(b"%d:%b" % (len(part), part))
    return digest.digest()


def not_covered(amount_micros: int, hint: str = "") -> GatewayError:
    """The refusal of a call that may cost more than there is."""
    most = amount_text(amount_micros)
    return GatewayError("4016", f"the call may cost {most}, which the balance does not cover{hint}")


def key_in_use() -> GatewayError:
    """The refusal of a call whose idempotency key belongs to one that runs."""
    return GatewayError(
        "4008", "a call with this idempotency key is still running", param="idempotency_key", retry_after_s=1
    )
