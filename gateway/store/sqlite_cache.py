"""The answer cache on the disk: survives a restart, and is never waited for, whatever becomes of the disk.

One thread reads and one writes, each with its own connection. Where the file cannot be used, the cache is off, which
the log says once, and is tried again from time to time; meanwhile every look is a miss and nothing is kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

import apsw

from gateway.cache_store import Entry
from gateway.store import cache_entries
from gateway.store.cache_entries import Clearing
from gateway.store.cache_file import DAMAGED, identity, open_cache_file, remove
from gateway.store.cache_reader import Reader
from gateway.store.interface import StoreError
from gateway.store.sqlite_accounts import transaction
from gateway.types import PerCall

log = logging.getLogger(__name__)

_MAX_BATCH = 200
_MAX_TOUCHED = 20_000
_CLOSE_TIMEOUT_S = 5.0


class _Put(PerCall, frozen=True):
    key: bytes
    entry: Entry
    size_bytes: int


class _Doomed(PerCall, frozen=True):
    """An entry that was found damaged."""

    key: bytes


class _Trouble(PerCall, frozen=True):
    """What the reader met on the file that was opened as this one."""

    generation: int
    error: Exception


_Item: TypeAlias = "_Put | _Doomed | _Trouble | threading.Event | None"  # None: the end


class DiskCache:
    """Entries by key in an SQLite file of at most `max_bytes`. `get`, `put` and `touch` are for one event loop.

    Nothing raises but what a cancelled call raises. `secret` seals the entries. `cleared` is called in the writing
    thread with each command of another process to forget entries, once or more often.
    """

    def __init__(
        self,
        path: Path,
        secret: bytes,
        max_bytes: int,
        *,
        max_part: float = 0.1,
        max_queue_bytes: int = 32 << 20,
        patience_s: float = 0.5,
        upkeep_s: float = 2.0,
        retry_s: tuple[float, float] = (1.0, 60.0),
        steady_s: float = 60.0,
        cleared: Callable[[Clearing], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._secret = secret
        self._max_entry_bytes = int(max_bytes * max_part)
        self._max_queue_bytes = max_queue_bytes
        self._upkeep_s = upkeep_s
        self._retry_s = retry_s
        self._steady_s = steady_s
        self._delay_s = retry_s[0]
        self._retry_at = -inf
        self._cleared = cleared
        self._clock = clock
        self.hits = self.misses = self.refused = self.evictions = 0
        self._available = True
        self._failing_since: float | None = None  # not over before it has worked for a while
        self._working_since: float | None = None  # after a failure
        self._told_damage = False
        self._connection: apsw.Connection | None = None  # the writing thread's
        self._identity = (0, 0)
        self._last_clearing = 0
        self._queued_bytes = self._taken_bytes = 0  # one counter for each thread
        self._touched: dict[bytes, float] = {}
        self._touched_lock = threading.Lock()
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._reader = Reader(path, secret, patience_s, damaged=self._found_damaged, trouble=self._met_trouble)
        # A daemon: a disk that stands still must not keep the process from ending.
        self._writer = threading.Thread(target=self._write_on, name="cache-writer", daemon=True)
        self._writer.start()

    @property
    def available(self) -> bool:
        """Whether the file can be used, as far as is known."""
        return self._available

    # the event loop's side

    async def get(self, key: bytes, now: float, max_age_s: float = inf) -> Entry | None:
        """The entry of a key, if it is fresh; None also where the disk does not answer in time."""
        entry = await self._reader.look(key) if self._available else None
        if entry is None or not entry.is_fresh(now, max_age_s):
            self.misses += 1
            return None
        self.hits += 1
        self.touch(key, now)
        return entry

    def put(self, key: bytes, entry: Entry) -> bool:
        """Keeps an entry, soon; False where it is too large, too many wait, or the file cannot be used."""
        size_bytes = len(entry.body) + len(entry.chunks) + 1_000
        waiting_bytes = self._queued_bytes - self._taken_bytes
        if (
            not self._available
            or size_bytes > self._max_entry_bytes
            or waiting_bytes + size_bytes > self._max_queue_bytes
        ):
            self.refused += 1
            return False
        self._queued_bytes += size_bytes
        self._queue.put(_Put(key, entry, size_bytes))
        return True

    def touch(self, key: bytes, now: float) -> None:
        """Notes that an entry was used, also where it was found in memory: so it is not the next one to go."""
        with self._touched_lock:
            if len(self._touched) < _MAX_TOUCHED:
                self._touched[key] = now

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Waits until what was put before is written; False where it was not. Blocks."""
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout_s) and self._available

    def close(self) -> None:
        """Writes what was put, if the disk lets it, and closes the file. Blocks for some seconds at most."""
        self._reader.close(_CLOSE_TIMEOUT_S)
        self._available = False
        self._queue.put(None)
        self._writer.join(_CLOSE_TIMEOUT_S)

    # what the reading thread tells

    def _found_damaged(self, key: bytes) -> None:
        self._queue.put(_Doomed(key))
        if not self._told_damage:
            self._told_damage = True
            log.error("%s: a kept answer is damaged, or sealed with another secret, and is deleted", self.path)

    def _met_trouble(self, generation: int, error: Exception) -> None:
        self._queue.put(_Trouble(generation, error))

    # the writing thread

    def _write_on(self) -> None:
        while True:
            items = self._take()
            try:
                self._work(items)
            except Exception as error:  # noqa: BLE001  # a thread's boundary: no fault of a disk may end it
                self._failed(error)
            self._taken_bytes += sum(item.size_bytes for item in items if isinstance(item, _Put))
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()
            if None in items:
                break
        _close(self._connection)

    def _take(self) -> list[_Item]:
        """What there is to do; nothing where it is time for the upkeep, or to try again."""
        limit_s = self._upkeep_s if self._available else max(self._retry_at - time.monotonic(), 0.01)
        if not self._reader.generation and self._failing_since is None:
            limit_s = 0.0  # the start: whoever reads waits for the file
        try:
            items = [self._queue.get(timeout=limit_s) if limit_s else self._queue.get_nowait()]
        except Empty:
            return []
        while len(items) < _MAX_BATCH and not self._queue.empty():
            items.append(self._queue.get_nowait())
        return items

    def _work(self, items: Sequence[_Item]) -> None:
        for item in items:
            if (
                isinstance(item, _Trouble)
                and item.generation == self._reader.generation
                and self._connection is not None
            ):
                raise item.error
        if self._connection is None and time.monotonic() < self._retry_at:
            return
        connection = self._opened()
        puts = [item for item in items if isinstance(item, _Put)]
        doomed = [item.key for item in items if isinstance(item, _Doomed)]
        self._write(connection, puts, doomed)
        if puts and self._failing_since is not None:
            self._worked(self._failing_since)

    def _opened(self) -> apsw.Connection:
        """The connection: a new one where the file was removed or replaced."""
        if self._connection is not None:
            with suppress(FileNotFoundError):
                if identity(self.path) == self._identity:
                    return self._connection
            self._disconnect()
        self._connection = open_cache_file(self.path)
        self._identity = identity(self.path)
        self._last_clearing = 0
        self._reader.renew()
        self._available = True
        return self._connection

    def _write(self, connection: apsw.Connection, puts: Sequence[_Put], doomed: Sequence[bytes]) -> None:
        now = self._clock()
        with self._touched_lock:
            touched, self._touched = self._touched, {}
        with transaction(connection):
            clearings = cache_entries.clearings_since(connection, self._last_clearing)
            cache_entries.delete(connection, doomed)
            cache_entries.put(connection, self._rows([put for put in puts if not _is_cleared(put, clearings)], now))
            cache_entries.touch(connection, touched)
            cache_entries.prune(connection, now)
            self.evictions += cache_entries.shrink(connection, self.max_bytes)
        cache_entries.give_back(connection, self.max_bytes)
        for clearing in clearings:
            self._last_clearing = clearing.id
            with suppress(RuntimeError):  # it was handed to an event loop that is closed
                self._cleared(clearing)

    def _rows(self, puts: Sequence[_Put], now: float) -> list[cache_entries.Row]:
        rows = []
        for put in puts:
            with suppress(ValueError):  # a model's name that is no text: not worth keeping
                rows.append(cache_entries.sealed_row(self._secret, put.key, put.entry, now))
        return rows

    def _worked(self, failing_since: float) -> None:
        """Tells of the end of a failure, once it is one: a disk that is full takes a little more now and again."""
        now = time.monotonic()
        if self._working_since is None:
            self._working_since = now
        if now - self._working_since >= self._steady_s:
            log.warning("%s: answers are kept again, after %.1f s", self.path, self._working_since - failing_since)
            self._failing_since = self._working_since = None
            self._delay_s = self._retry_s[0]

    def _failed(self, error: Exception) -> None:
        """Turns the cache off until it is time to try again. A damaged file is made anew then."""
        self._disconnect()
        if isinstance(error, DAMAGED):
            with suppress(OSError, StoreError):
                remove(self.path)
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            log.error("%s: no answers are kept on the disk until it works again: %s", self.path, error)
        self._working_since = None
        self._retry_at = time.monotonic() + self._delay_s
        self._delay_s = min(self._delay_s * 2, self._retry_s[1])

    def _disconnect(self) -> None:
        self._available = False
        _close(self._connection)
        self._reader.renew()
        self._connection = None


def _is_cleared(put: _Put, clearings: Sequence[Clearing]) -> bool:
    """Whether an entry was cleared before it was written."""
    return any(put.entry.stored_at <= each.at and each.selection.covers(put.entry) for each in clearings)


def _close(connection: apsw.Connection | None) -> None:
    if connection is not None:
        with suppress(apsw.Error):
            connection.close(True)
