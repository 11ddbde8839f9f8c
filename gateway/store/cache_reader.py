"""The thread that reads kept answers from the disk, for an event loop that does not wait for it for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import apsw

from gateway.cache_store import Entry
from gateway.running import Waiter
from gateway.store.cache_entries import DamagedEntryError, find
from gateway.store.cache_file import connect

MAX_READS = 64  # that wait: more of them means that the disk stands still


class _Read:
    """A look that somebody waits for: `entry` is there, or is not, when `waiter` is done."""

    __slots__ = ("entry", "key", "loop", "waiter")

    def __init__(self, key: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.key = key
        self.loop = loop
        self.waiter = Waiter(loop=loop)
        self.entry: Entry | None = None


class _Renewal:
    """Has the thread let go of a file that is none any more, and takes space as long as it is open."""


class Reader:
    """Finds entries. `damaged` and `trouble` are called in its thread, the latter with the generation that it met.

    The generation tells one file from the next; 0: there was none yet.
    """

    def __init__(
        self,
        path: Path,
        secret: bytes,
        patience_s: float,
        *,
        damaged: Callable[[bytes], None],
        trouble: Callable[[int, Exception], None],
    ) -> None:
        self.generation = 0
        self._path = path
        self._secret = secret
        self._patience_s = patience_s
        self._damaged = damaged
        self._trouble = trouble
        self._connection: apsw.Connection | None = None  # the thread's own
        self._opened = 0  # the generation that it belongs to
        self._reading = 0
        self._reads: SimpleQueue[_Read | _Renewal | None] = SimpleQueue()
        # A daemon: a disk that stands still must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="cache-reader", daemon=True)
        self._thread.start()

    async def look(self, key: bytes) -> Entry | None:
        """The entry of a key, fresh or not; None also where too many look, or the disk does not answer in time."""
        if self._reading >= MAX_READS:
            return None
        loop = asyncio.get_running_loop()
        read = _Read(key, loop)
        self._reading += 1
        self._reads.put(read)
        patience = loop.call_later(self._patience_s, read.waiter.wake)
        try:
            await read.waiter
        finally:
            patience.cancel()
        return read.entry

    def renew(self) -> None:
        """Opens the file anew for the next look: it was made, or removed. For one thread."""
        self.generation += 1
        self._reads.put(_Renewal())

    def close(self, timeout_s: float) -> None:
        """Ends the thread, if the disk lets it."""
        self._reads.put(None)
        self._thread.join(timeout_s)

    def _looked(self, read: _Read, entry: Entry | None) -> None:
        self._reading -= 1
        read.entry = entry
        read.waiter.wake()

    def _run(self) -> None:
        while (read := self._reads.get()) is not None:
            if isinstance(read, _Renewal):
                self._let_go()
                continue
            entry = None
            try:
                if not read.waiter.done():  # somebody still waits
                    entry = self._find(read.key)
            except DamagedEntryError:
                self._damaged(read.key)
            except Exception as error:  # noqa: BLE001  # a thread's boundary: whoever waits must hear of it
                self._trouble(self._opened, error)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                read.loop.call_soon_threadsafe(self._looked, read, entry)
        self._disconnect()

    def _find(self, key: bytes) -> Entry | None:
        self._let_go()
        if self._connection is None:
            self._opened = self.generation
            if not self._opened:
                return None
            self._connection = connect(self._path)
        return find(self._connection, self._secret, key)

    def _let_go(self) -> None:
        if self._opened != self.generation:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(apsw.Error):
                self._connection.close(True)
            self._connection = None
