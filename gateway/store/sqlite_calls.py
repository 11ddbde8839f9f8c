"""The call log's writing side: one thread that writes, in groups.

The thread writes many rows with one statement. A statement for each row would give up the GIL and fight for it again
at each row, against an event loop that never rests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from itertools import chain

import apsw
import orjson
from msgspec.structs import astuple, replace

from gateway.store.counting import Days, counted_as
from gateway.store.sqlite_accounts import transaction
from gateway.types import CallRecord

log = logging.getLogger(__name__)

_COLUMNS = (
    "id, request_id, account_id, front, method, model, outcome, status, streamed, cut,"
    " started_us, duration_us, first_byte_us, sent_bytes, cache, client_ip,"
    " prompt_tokens, completion_tokens, cached_tokens"
)
_ROWS = (128, 16, 4, 1)  # a few sizes only: each of their statements is prepared once
_MICROSECONDS = "round(? * 1e6)"  # of a record's seconds; a column of integers takes it as one
_ROW = ", ".join(["?"] * 10 + [_MICROSECONDS] * 3 + ["?"] * 6)
_INSERT_CALLS = {
    rows: f"INSERT INTO calls ({_COLUMNS}) VALUES {', '.join([f'({_ROW})'] * rows)}"  # noqa: S608  # all of it is ours
    for rows in _ROWS
}
# WHERE true: without it SQLite reads ON CONFLICT as a join's ON.
_ADD_COUNTS = (
    "INSERT INTO call_counts (account_id, day, succeeded, empty, failed)"
    " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?) WHERE true"
    " ON CONFLICT DO UPDATE SET succeeded = succeeded + excluded.succeeded,"
    " empty = empty + excluded.empty, failed = failed + excluded.failed"
)
_IMPOSSIBLE_RECORD = (apsw.ConstraintError, TypeError, ValueError, OverflowError)
"""Errors of one record, which another attempt would only meet again. Any other error is the database's."""


class CallWriter:
    """Takes finished calls from the event loop and commits them in groups.

    A database that is locked, full or failing is tried again until it works; meanwhile up to `max_pending` records wait
    in memory. What comes beyond that is refused, rather than something older thrown away.
    """

    def __init__(
        self,
        connect: Callable[[], apsw.Connection],
        days: Days,
        *,
        max_pending: int = 100_000,
        max_batch: int = 2_000,
        gather_s: float = 0.05,
        retry_s: tuple[float, float] = (0.05, 2.0),
        close_timeout_s: float = 10.0,
    ) -> None:
        self._connect = connect
        self._connection: apsw.Connection | None = None  # the thread's own
        self._days = days
        self._max_pending = max_pending
        self._max_batch = max_batch
        self._gather_s = gather_s
        self._retry_s = retry_s
        self._close_timeout_s = close_timeout_s
        self._pending: deque[CallRecord | threading.Event] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._give_up_at = float("inf")
        self._refused = self._dropped = 0  # one counter for each thread
        self._refusal_logged_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="call-writer", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many records never reached the database."""
        return self._refused + self._dropped

    def append(self, record: CallRecord) -> None:
        """Hands a record over; never blocks and never raises."""
        if len(self._pending) >= self._max_pending:
            self._refuse()
            return
        self._pending.append(record)
        if not self._wake.is_set():  # asking costs a tenth of setting
            self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything appended before is committed; False if that took too long."""
        committed = threading.Event()
        self._pending.append(committed)
        self._wake.set()
        return committed.wait(timeout_s)

    def close(self) -> None:
        """Writes what is pending, for `close_timeout_s` at most if the database resists, and ends the thread."""
        self._give_up_at = time.monotonic() + self._close_timeout_s
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _refuse(self) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._refusal_logged_at >= 10:
            self._refusal_logged_at = now
            log.error("too many calls wait for the database: %d are missing in the call log", self._refused)

    def _run(self) -> None:
        while batch := self._next_batch():
            records = [item for item in batch if isinstance(item, CallRecord)]
            if not self._write_persistently(records):
                self._dropped += len(records) + len(self._pending)
                log.error("the process ends without a database: %d calls are missing in the call log", self.lost)
                break
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()
        if self._connection is not None:
            self._connection.close()

    def _next_batch(self) -> list[CallRecord | threading.Event]:
        """Waits for work; an empty list when there will be none."""
        while True:
            self._wake.clear()  # before the look: what is appended after it sets the event again
            if self._pending:
                break
            if self._closing.is_set():
                return []
            self._wake.wait()
        if len(self._pending) < self._max_batch:
            self._closing.wait(self._gather_s)  # more calls end meanwhile, and share one commit
        return [self._pending.popleft() for _ in range(min(len(self._pending), self._max_batch))]

    def _write_persistently(self, records: Sequence[CallRecord]) -> bool:
        """Tries until the records are committed; False if the writer is closing and its time is over."""
        failing_since: float | None = None
        pause_s, longest_s = self._retry_s
        while True:
            try:
                self._connection = self._connection or self._connect()
                self._write(self._connection, records)
            except apsw.Error as error:
                now = time.monotonic()
                if failing_since is None:
                    failing_since = now
                    log.error("the call log cannot be written and waits in memory: %s", error)
                if now >= self._give_up_at:
                    return False
                if self._closing.wait(pause_s):
                    time.sleep(0.05)  # the event no longer paces the attempts
                pause_s = min(pause_s * 2, longest_s)
            else:
                if failing_since is not None:
                    log.warning("the call log is written again after %.1f s", time.monotonic() - failing_since)
                return True

    def _write(self, connection: apsw.Connection, records: Sequence[CallRecord]) -> None:
        """Writes all records together, or, if one of them is impossible, each alone and without that one."""
        try:
            try:
                self._write_together(connection, records)
            except UnicodeEncodeError:
                self._write_together(connection, [_encodable(record) for record in records])
        except _IMPOSSIBLE_RECORD as error:
            if len(records) > 1:
                for record in records:
                    self._write(connection, [record])
            elif not _is_stored(connection, records[0]):  # an earlier attempt may have come this far
                self._dropped += 1
                log.error("call %s cannot be stored and is dropped: %s", records[0].request_id, error)

    def _write_together(self, connection: apsw.Connection, records: Sequence[CallRecord]) -> None:
        counts = orjson.dumps(self._count_rows(records)).decode()
        with transaction(connection):
            start = 0
            for rows in _ROWS:
                while len(records) - start >= rows:
                    # A record's fields stand in the columns' order: no Python runs for each of them.
                    values = list(chain.from_iterable(map(astuple, records[start : start + rows])))
                    connection.execute(_INSERT_CALLS[rows], values)
                    start += rows
            connection.execute(_ADD_COUNTS, (counts,))

    def _count_rows(self, records: Sequence[CallRecord]) -> list[tuple[object, ...]]:
        """For each account and day the calls to be added: succeeded, empty, failed."""
        day_of = self._days.day_of
        outcomes = Counter((record.account_id, day_of(record.started_at), record.outcome) for record in records)
        added: defaultdict[tuple[int, str], Counter[str]] = defaultdict(Counter)
        for (account_id, day, outcome), calls in outcomes.items():
            if count := counted_as(outcome):
                added[account_id, day][count] += calls
        return [
            (account_id, day, *(calls[count] for count in ("succeeded", "empty", "failed")))
            for (account_id, day), calls in added.items()
        ]


def _is_stored(connection: apsw.Connection, record: CallRecord) -> bool:
    query = "SELECT 1 FROM calls WHERE id = ? AND request_id = ?"
    return connection.execute(query, (record.id, record.request_id)).get is not None


def _encodable(record: CallRecord) -> CallRecord:
    """A lone surrogate in what a client wrote must not keep its call out of the log."""
    method, model = record.method.encode("utf-8", "replace").decode(), record.model
    return replace(record, method=method, model=None if model is None else model.encode("utf-8", "replace").decode())
