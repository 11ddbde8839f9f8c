"""The end of a call that holds something or is measured: what it used is reckoned, and settled before its client can
know that the answer is whole. A charge that a client was told of is on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from gateway.billing import Bill, Billing, settled_as
from gateway.errors import ErrorCode, GatewayError
from gateway.metering import Watch
from gateway.progress import Progress
from gateway.store.interface import KeptAnswer, Settlement, StoreError
from gateway.types import CallRecord


class Log(Protocol):
    """Where a call ends that nobody waits for."""

    def settle_later(self, settlement: Settlement) -> None: ...

    def correct(self, record: CallRecord) -> None: ...


def raw_answer(answer: KeptAnswer) -> bytes:
    """A kept answer as its upstream would send it."""
    kind = f"Content-Type: {answer.content_type}\r\n" if answer.content_type else ""
    head = f"HTTP/1.1 {answer.status} Kept\r\n{kind}{answer.fields}Content-Length: {len(answer.body)}\r\n\r\n"
    return head.encode("latin-1") + answer.body


class Settler:
    """Settles one call, once. `is_file`: its answer is a file that is relayed."""

    __slots__ = ("_billing", "_progress", "_reckoned", "bill", "is_file")

    def __init__(self, billing: Billing, bill: Bill, progress: Progress) -> None:
        self._billing = billing
        self._progress = progress
        self.bill = bill
        self.is_file = False
        self._reckoned: ErrorCode | None = None  # the outcome of a whole answer that was reckoned

    @property
    def has_begun(self) -> bool:
        """Whether something of an answer that comes in pieces has come."""
        return self._progress.streamed or self.is_file

    @property
    def asks_usage(self) -> bool:
        """Whether the upstream is to be asked for the usage of the stream."""
        return self._billing.asks_usage(self.bill)

    # while the answer is delivered

    def note_whole(self, status: int, content_type: str, fields: str, body: bytes, json: bytes | None) -> None:
        """Takes a whole answer to account; `fields` are header lines of the upstream that clients see."""
        self.bill.note_whole(status, body, json)
        self.keep(status, content_type, fields, body)

    def watch_stream(self, stop: Callable[[GatewayError], None]) -> Watch:
        """What a stream is shown to; `stop` ends it where the balance does not cover more."""
        self._progress.streamed = True  # also where its client left before its head came
        return self._billing.watch(self.bill, asked=self.asks_usage, stop=stop)

    def watch_file(self) -> Watch:
        """What a file is shown to."""
        self.is_file = True
        return self._billing.watch_file(self.bill)

    async def settle_relayed(self, status: int, content_type: str, fields: str, sent_bytes: int) -> None:
        """Settles a stream or a file whose last byte is here and has not been sent. Raises 4000."""
        bill = self.bill
        if self.is_file:
            bill.received_bytes = sent_bytes
        if bill.watch is not None:
            self.keep(status, content_type, fields, bill.watch.kept)
        await self.settle(status, sent_bytes)

    def keep(self, status: int, content_type: str, fields: str, body: bytes | None) -> None:
        """Keeps a whole answer for whoever repeats the call's idempotency key; None: it was too long."""
        self._billing.keep(self.bill, status, content_type, fields, body)

    async def settle(self, status: int, sent_bytes: int) -> None:
        """Settles the call as it stands, its answer being about to be sent whole. Raises 4000: nothing is charged."""
        progress, bill = self._progress, self.bill
        self.reckon()
        if bill.held_micros is None or bill.settled:
            return
        now = monotonic()
        record = self.record(now, status, progress.first_byte_at or now, sent_bytes)
        bill.settled = True  # before it is: whoever is cancelled meanwhile has settled all the same
        progress.logged = record
        try:
            charged = await self._billing.books.settle(self.settlement(record))
        except StoreError as error:
            bill.settled = False
            progress.logged = None
            raise GatewayError("4000", "the books cannot be written, so the call is not charged") from error
        progress.charge_micros = charged.charge_micros

    # at the end of any call

    def reckon(self) -> None:
        """Notes what the call has used and what it costs, by how it stands now."""
        progress, bill = self._progress, self.bill
        begun = self.has_begun
        if bill.settled or (self._reckoned is progress.outcome and not begun):
            return
        self._reckoned = progress.outcome
        translation = progress.translating.charged_micros if progress.translating is not None else 0
        use, total = self._billing.total(
            bill, progress.outcome.code, streamed=progress.streamed, begun=begun, translation=translation
        )
        progress.usage = use.usage
        progress.charge_micros = total if bill.held_micros is not None else 0
        progress.settled = settled_as(use, bill) if bill.held_micros is not None else "free"

    def settlement(self, record: CallRecord) -> Settlement:
        """How the hold ends."""
        return self._billing.settlement(self.bill, record)

    def end(self, log: Log, status: int, sent_at: float | None, sent_bytes: int) -> CallRecord:
        """Settles a held call that is not settled yet, or takes up how its answer's delivery ended. Returns its row."""
        logged, cut = self._progress.logged, self._progress.cut
        if logged is not None and self.bill.settled and (logged.status, logged.sent_bytes, logged.cut) == (
            status, sent_bytes, cut,
        ):  # fmt: skip
            return logged
        record = self.record(monotonic(), status, sent_at, sent_bytes)
        if not self.bill.settled:
            self.bill.settled = True
            log.settle_later(self.settlement(record))
        else:
            log.correct(record)
        return record

    def record(self, now: float, status: int, sent_at: float | None, sent_bytes: int) -> CallRecord:
        """The row of the call log as it stands."""
        progress = self._progress
        assert progress.account is not None  # noqa: S101  # whose call is billed
        return progress.record(progress.account, now, status, sent_at, sent_bytes)
