"""The one thread that writes: it commits in groups what the event loop hands over, and tells who waits for it.

What waits for the disk (holds, settlements) is committed at once together with all else that has gathered meanwhile;
finished calls that nobody waits for gather a little longer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import apsw
from msgspec.structs import replace

from gateway.running import Waiter
from gateway.store import sqlite_ledger
from gateway.store.counting import Days
from gateway.store.interface import Extension, Hold, Settlement, StoreError
from gateway.store.sqlite_accounts import transaction
from gateway.store.sqlite_calls import correct_call, encodable, insert_calls, is_logged
from gateway.store.sqlite_jobs import Books, Finish, Step
from gateway.types import CallRecord, PerCall

log = logging.getLogger(__name__)

_IMPOSSIBLE = (apsw.ConstraintError, TypeError, ValueError, OverflowError)
"""Errors of one item, which another attempt would only meet again. Any other error is the database's."""

_CROWD = 4  # so many who wait for a commit make it worth gathering
_LONGEST_PAUSE_S = 0.25  # between two attempts, while somebody waits


class Correction(PerCall, frozen=True):
    """What of a call became known after it was logged."""

    record: CallRecord


Item: TypeAlias = "Hold | Extension | Settlement | Correction | CallRecord | threading.Event"
Waited: TypeAlias = "Hold | Extension | Settlement | Step[Any]"  # Any: whatever a step returns
Result = TypeVar("Result")


class Op:
    """An item that somebody waits for: `outcome` is there when `waiter` is done."""

    __slots__ = ("item", "loop", "outcome", "since", "waiter")

    def __init__(self, item: Waited, loop: asyncio.AbstractEventLoop) -> None:
        self.item = item
        self.loop = loop
        self.waiter = Waiter(loop=loop)
        self.since = time.monotonic()
        self.outcome: object = None


class Writer:
    """Takes work from the event loop and commits it in groups.

    A database that is locked, full or failing is tried again until it works. Holds are refused meanwhile: nothing may
    cost anything that cannot be written down. A settlement that is waited for is given up after `patience_s`; what
    nobody waits for stays, up to `max_pending` finished calls. What comes beyond that is refused, rather than something
    older thrown away.
    """

    def __init__(
        self,
        connect: Callable[[], apsw.Connection],
        days: Days,
        *,
        max_pending: int = 100_000,
        max_batch: int = 2_000,
        gather_s: float = 0.05,
        crowd_gather_s: float = 0.001,
        retry_s: tuple[float, float] = (0.05, 2.0),
        busy_patience_s: float = 1.0,
        patience_s: float = 30.0,
        close_timeout_s: float = 10.0,
        upkeep: Callable[[apsw.Connection], float] | None = None,
    ) -> None:
        self._connect = connect
        self._connection: apsw.Connection | None = None  # the thread's own
        self._days = days
        self._max_pending = max_pending
        self._max_batch = max_batch
        self._gather_s = gather_s
        self._crowd_gather_s = crowd_gather_s
        self._crowded = False  # several waited for the last commit
        self._retry_s = retry_s
        self._busy_patience_s = busy_patience_s
        self._patience_s = patience_s
        self._close_timeout_s = close_timeout_s
        self._upkeep = upkeep
        self._upkeep_at = time.monotonic() + 10.0  # a start has better things to do
        self._pending: deque[Item | Op] = deque()
        self._kept: list[Item | Op] = []  # the thread's own: what an attempt could not write
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._closing = False
        self._give_up_at = float("inf")
        self._refused = self._dropped = 0  # one counter for each thread
        self._refusal_logged_at = float("-inf")
        self._failing_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many records never reached the database."""
        return self._refused + self._dropped

    @property
    def failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._failing_since is not None

    # the event loop's side

    def append(self, item: CallRecord | Settlement | Correction) -> None:
        """Hands over what nobody waits for; never blocks and never raises."""
        if len(self._pending) >= self._max_pending and isinstance(item, CallRecord):
            self._refuse()
            return
        self._pending.append(item)
        if isinstance(item, Settlement):  # a hold that is over must not keep the next call out
            self._urgent.set()
        if not self._wake.is_set():  # asking costs a tenth of setting
            self._wake.set()

    async def perform(self, item: Hold | Extension | Settlement) -> CallRecord | None:
        """Waits until an item is committed; of a settlement, the record as it was logged. Raises StoreError.

        Whoever is cancelled meanwhile does not take the item back: it is performed all the same.
        """
        return cast("CallRecord | None", await self._outcome(item))

    async def step(self, step: Step[Result]) -> Result:
        """Waits until a step is committed; what it returned. Raises StoreError, and what it refuses with."""
        return cast(Result, await self._outcome(step))

    async def _outcome(self, item: Waited) -> object:
        op = Op(item, asyncio.get_running_loop())
        self._pending.append(op)
        if not self._urgent.is_set():
            self._urgent.set()
        if not self._wake.is_set():  # asked apart: the thread clears one after the other
            self._wake.set()
        try:
            await op.waiter
        except asyncio.CancelledError:
            if not op.waiter.cancelled():
                self._take_back(op)
            raise
        if isinstance(op.outcome, StoreError):
            raise op.outcome
        return op.outcome

    def _wake_all(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if op.waiter.cancelled():
                self._take_back(op)
            else:
                op.waiter.wake()

    def _take_back(self, op: Op) -> None:
        """What was refused in the moment in which its caller was cancelled: a settlement still has to be made."""
        if isinstance(op.outcome, StoreError) and isinstance(op.item, Settlement):
            self.append(op.item)

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything handed over before is committed; False if that took too long."""
        committed = threading.Event()
        self._pending.append(committed)
        self._urgent.set()
        self._wake.set()
        return committed.wait(timeout_s)

    def close(self) -> None:
        """Writes what is pending, for `close_timeout_s` at most if the database resists, and ends the thread."""
        self._give_up_at = time.monotonic() + self._close_timeout_s
        self._closing = True
        self._urgent.set()
        self._wake.set()
        self._thread.join()

    def _refuse(self) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._refusal_logged_at >= 10:
            self._refusal_logged_at = now
            log.error("too many calls wait for the database: %d are missing in the call log", self._refused)

    # the thread's side

    def _run(self) -> None:
        pause_s, longest_s = self._retry_s
        while True:
            if self._kept:
                waited_for = any(isinstance(item, Op) for item in self._kept)
                patience_s = min(pause_s, _LONGEST_PAUSE_S) if waited_for else pause_s
                self._urgent.wait(min(patience_s, max(self._give_up_at - time.monotonic(), 0.05)))
                pause_s = min(pause_s * 2, longest_s)
            else:
                pause_s = self._retry_s[0]
                if not self._await_work():
                    break
            if self._crowded and not self._closing:
                # A commit costs some 0.2 ms of processor time, what it holds next to nothing: fewer are cheaper, and
                # where many wait there is always somebody who had to wait for the commit before.
                time.sleep(self._crowd_gather_s)
            self._urgent.clear()  # before the look: what is handed over after it sets the events again
            self._wake.clear()
            room = max(self._max_batch - len(self._kept), 1)
            batch = self._kept + [self._pending.popleft() for _ in range(min(len(self._pending), room))]
            self._kept = []
            if self._pending:
                self._urgent.set()
            self._crowded = len(batch) >= _CROWD and sum(isinstance(item, Op) for item in batch) >= _CROWD
            self._attempt(batch)
            self._do_upkeep()
            if self._kept and time.monotonic() >= self._give_up_at:
                self._give_up()
                break
        if self._connection is not None:
            self._connection.close()

    def _await_work(self) -> bool:
        """Waits for something to do, upkeep included; False when there will be nothing more."""
        while not self._pending:
            if self._closing:
                return False
            self._wake.wait(self._until_upkeep())
            self._wake.clear()  # it may stand for what was taken already; whoever hands over more sets it again
            if not self._pending:
                self._do_upkeep()
        if len(self._pending) < self._max_batch:
            self._urgent.wait(self._gather_s)  # more calls end meanwhile, and share one commit
        return True

    def _until_upkeep(self) -> float | None:
        return None if self._upkeep is None else max(self._upkeep_at - time.monotonic(), 0.0)

    def _do_upkeep(self) -> None:
        """Runs the next small step of what has to be done from time to time, when it is due."""
        if self._upkeep is None or self._closing or time.monotonic() < self._upkeep_at:
            return
        try:
            self._connection = self._connection or self._connect()
            self._upkeep_at = time.monotonic() + self._upkeep(self._connection)
        except apsw.Error as error:
            self._upkeep_at = time.monotonic() + 60.0
            log.warning("the store's upkeep waits: %s", error)

    def _attempt(self, batch: list[Item | Op]) -> None:
        """Writes a batch, or sorts out what becomes of each of its items."""
        try:
            self._connection = self._connection or self._connect()
            self._write(self._connection, batch)
        except apsw.Error as error:
            self._failed(batch, error)
        else:
            if self._failing_since is not None:
                log.warning("the store is written again after %.1f s", time.monotonic() - self._failing_since)
                self._failing_since = None
            self._tell(batch)

    def _failed(self, batch: list[Item | Op], error: apsw.Error) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            log.error(
                "the store cannot be written: finished calls wait in memory, and priced ones are refused: %s", error
            )
        told = []
        for item in batch:
            if isinstance(item, Op) and item.waiter.cancelled() and isinstance(item.item, Settlement):
                self._kept.append(item.item)  # nobody is left to whom it could be refused
            elif isinstance(item, Op) and now - item.since >= self._patience_with(item, error):
                item.outcome = StoreError(f"the store cannot be written: {error}")
                told.append(item)
            else:
                self._kept.append(item)
        self._tell(told)

    def _patience_with(self, op: Op, error: apsw.Error) -> float:
        if isinstance(op.item, Settlement | Finish):
            return self._patience_s
        return self._busy_patience_s if isinstance(error, apsw.BusyError) else 0.0

    def _give_up(self) -> None:
        lost = [*self._kept, *self._pending]
        self._dropped += sum(isinstance(item, CallRecord | Settlement) for item in lost)
        log.error("the process ends without a database: %d calls are missing in the call log", self.lost)
        for item in lost:
            if isinstance(item, Op):
                item.outcome = StoreError("the process ends without a database")
        self._tell([item for item in lost if isinstance(item, Op)])

    def _tell(self, batch: Sequence[Item | Op]) -> None:
        """Wakes whoever waits for a part of the batch."""
        ops = []
        for item in batch:
            if isinstance(item, Op):
                ops.append(item)
            elif isinstance(item, threading.Event):
                item.set()
        if ops:
            try:
                ops[0].loop.call_soon_threadsafe(self._wake_all, ops)
            except RuntimeError:  # the loop is closed: nobody waits any more
                log.debug("nobody waits for what was written")

    def _write(self, connection: apsw.Connection, batch: Sequence[Item | Op]) -> None:
        """Writes all items together, or, if one of them is impossible, each alone and without that one."""
        try:
            self._write_together(connection, batch)
        except _IMPOSSIBLE as error:
            if len(batch) > 1:
                for item in batch:
                    self._write(connection, [item])
            else:
                self._write_impossible(connection, batch[0], error)

    def _write_impossible(self, connection: apsw.Connection, item: Item | Op, error: Exception) -> None:
        plain = item.item if isinstance(item, Op) else item
        record = plain.record if isinstance(plain, Settlement | Correction) else plain
        if isinstance(record, CallRecord):
            if isinstance(error, UnicodeEncodeError) and encodable(record) != record:
                self._write(connection, [_encodable(item)])
                return
            if is_logged(connection, record):  # an earlier attempt came this far
                return
            self._dropped += 1
            log.error("call %s cannot be stored and is dropped: %s", record.request_id, error)
        if isinstance(item, Op):
            item.outcome = StoreError(f"it cannot be stored: {error}")

    def _write_together(self, connection: apsw.Connection, batch: Sequence[Item | Op]) -> None:
        """One transaction. What was settled makes room for what is to be held, so it comes first."""
        work = _Work(batch)
        if work.is_empty:
            return
        with transaction(connection):
            if work.touches_balances:
                self._keep_books(connection, work)
            insert_calls(connection, work.records, self._days)
            for correction in work.corrections:
                correct_call(connection, correction)

    def _keep_books(self, connection: apsw.Connection, work: _Work) -> None:
        balances = sqlite_ledger.Balances(connection, work.account_ids)
        late = {each.record.id for each, _ in work.settlements} & {each.call_id for each, _ in work.holds}
        at_us = time.time_ns() // 1000
        early = [pair for pair in work.settlements if pair[0].record.id not in late]
        work.settle(sqlite_ledger.settle(connection, balances, [each for each, _ in early], at_us), early)
        for extension, op in work.extensions:
            op.outcome = sqlite_ledger.extend(connection, balances, extension)
        if work.holds:
            results = sqlite_ledger.hold(connection, balances, [each for each, _ in work.holds])
            for (_, op), refusal in zip(work.holds, results, strict=True):
                op.outcome = refusal
        books = Books(balances, self._days, at_us)
        for step, op in work.steps:
            op.outcome = step.apply(connection, books)
        if late:  # cancelled right after they began
            rest = [pair for pair in work.settlements if pair[0].record.id in late]
            work.settle(sqlite_ledger.settle(connection, balances, [each for each, _ in rest], at_us), rest)
        balances.write()


def _encodable(item: Item | Op) -> Item | Op:
    """A settlement or a finished call whose record can be written; whoever waits for it still does."""
    if isinstance(item, Op) and isinstance(item.item, Settlement):
        item.item = replace(item.item, record=encodable(item.item.record))
    elif isinstance(item, Settlement | Correction):
        return replace(item, record=encodable(item.record))
    elif isinstance(item, CallRecord):
        return encodable(item)
    return item


class _Work:
    """A batch by what is to be done."""

    __slots__ = ("corrections", "extensions", "holds", "records", "settlements", "steps")

    def __init__(self, batch: Sequence[Item | Op]) -> None:
        self.holds: list[tuple[Hold, Op]] = []
        self.extensions: list[tuple[Extension, Op]] = []
        self.settlements: list[tuple[Settlement, Op | None]] = []
        self.records: list[CallRecord] = []
        self.corrections: list[CallRecord] = []
        self.steps: list[tuple[Step[Any], Op]] = []  # Any: as above
        for item in batch:
            if isinstance(item, CallRecord):
                self.records.append(item)
            elif isinstance(item, Op):
                plain = item.item
                if isinstance(plain, Hold):
                    self.holds.append((plain, item))
                elif isinstance(plain, Settlement):
                    self.settlements.append((plain, item))
                elif isinstance(plain, Extension):
                    self.extensions.append((plain, item))
                else:
                    self.steps.append((plain, item))
            elif isinstance(item, Settlement):
                self.settlements.append((item, None))
            elif isinstance(item, Correction):
                self.corrections.append(item.record)

    @property
    def touches_balances(self) -> bool:
        return bool(self.holds or self.settlements or self.extensions or self.steps)

    @property
    def is_empty(self) -> bool:
        return not (self.touches_balances or self.records or self.corrections)

    @property
    def account_ids(self) -> set[int]:
        ids = {hold.account_id for hold, _ in self.holds}
        ids.update(settlement.record.account_id for settlement, _ in self.settlements)
        ids.update(extension.account_id for extension, _ in self.extensions)
        for step, _ in self.steps:
            ids.update(step.account_ids)
        return ids

    def settle(self, records: Sequence[CallRecord], pairs: Sequence[tuple[Settlement, Op | None]]) -> None:
        """Notes what settlements came to."""
        self.records += records
        for record, (_, op) in zip(records, pairs, strict=True):
            if op is not None:
                op.outcome = record
