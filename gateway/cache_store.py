"""Kept answers in memory: bounded by bytes, those that were not asked for the longest going first.

Knows nothing of keys but their bytes, nor of HTTP or a disk. For one event loop; nothing here blocks.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from sys import getsizeof

from gateway.types import PerCall, Usage

CLOCK_SLACK_S = 60.0
"""An entry may seem to come from the future by so much. Beyond that the clock was set back, and its age is unknown."""

_SLOT_BYTES = 250  # a place in the dict, the pair and the numbers: measured
_USAGE_BYTES = 150
_CHUNK = struct.Struct("<dI")


class Entry(PerCall, frozen=True):
    """An upstream's answer, complete and as it came, before translation and format.

    `fields` are header lines of the upstream that clients see. `body` is the whole answer, or all bytes of a stream;
    `chunks` then tells how it came (`packed_chunks`). Moments are seconds since the epoch. `account_id` is the account
    that asked first.
    """

    status: int
    content_type: str
    fields: str
    body: bytes
    stored_at: float
    expires_at: float
    account_id: int
    method: str
    model: str | None = None
    streamed: bool = False
    chunks: bytes = b""  # empty for a whole answer
    usage: Usage | None = None

    def is_fresh(self, now: float, max_age_s: float = inf) -> bool:
        """Whether it may still be given out to one who takes nothing older than `max_age_s`."""
        age_s = now - self.stored_at
        return now < self.expires_at and -CLOCK_SLACK_S <= age_s <= max_age_s

    def pieces(self) -> Iterator[tuple[float, bytes]]:
        """A stream's chunks: the seconds since its start at which each came, and its bytes."""
        start = 0
        for at_s, end in _CHUNK.iter_unpack(self.chunks):
            yield at_s, self.body[start:end]
            start = end


def packed_chunks(chunks: Iterable[tuple[float, int]]) -> bytes:
    """How a stream came, for Entry.chunks: of each chunk the seconds since the start, and where in the body it ends.

    struct.error for a body of more than 4 GiB.
    """
    return b"".join([_CHUNK.pack(at_s, end) for at_s, end in chunks])


class Listed(PerCall, frozen=True):
    """An entry as an operator sees it: everything but the answer. `size_bytes` is what it takes where it is kept."""

    key: bytes
    account_id: int
    method: str
    model: str | None
    streamed: bool
    stored_at: float
    expires_at: float
    size_bytes: int


class Selection(PerCall, frozen=True):
    """Which entries are meant; None is no condition. `method` and `model` are globs; no model matches no glob."""

    account_id: int | None = None
    method: str | None = None
    model: str | None = None

    def covers(self, entry: Entry | Listed) -> bool:
        return (
            (self.account_id is None or self.account_id == entry.account_id)
            and (self.method is None or fnmatchcase(entry.method, self.method))
            and (self.model is None or (entry.model is not None and fnmatchcase(entry.model, self.model)))
        )


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How a cache does. Hits and what follows count from the process's start."""

    entries: int
    size_bytes: int
    max_bytes: int
    hits: int = 0
    misses: int = 0
    evictions: int = 0  # what had to make room
    refused: int = 0  # what was too large, or came too fast


class MemoryCache:
    """Entries by key. `now` is always the wall clock, in seconds since the epoch.

    An entry that would take more than `max_part` of `max_bytes` is not kept: it would push out too many others.
    """

    __slots__ = (
        "_entries",
        "_evictions",
        "_hits",
        "_max_entry_bytes",
        "_misses",
        "_refused",
        "_size_bytes",
        "max_bytes",
    )

    def __init__(self, max_bytes: int, *, max_part: float = 0.1) -> None:
        self.max_bytes = max_bytes
        self._max_entry_bytes = int(max_bytes * max_part)
        self._entries: OrderedDict[bytes, tuple[int, Entry]] = OrderedDict()  # the longest unused first
        self._size_bytes = self._hits = self._misses = self._evictions = self._refused = 0

    def get(self, key: bytes, now: float, max_age_s: float = inf) -> Entry | None:
        """The entry of a key, if it is fresh and no older than `max_age_s`."""
        found = self._entries.get(key)
        if found is not None:
            entry = found[1]
            if entry.is_fresh(now, max_age_s):
                self._entries.move_to_end(key)
                self._hits += 1
                return entry
            if not entry.is_fresh(now):
                self.discard(key)
        self._misses += 1
        return None

    def put(self, key: bytes, entry: Entry) -> bool:
        """Keeps an entry in the place of what was under its key before; False where it is too large."""
        self.discard(key)
        size_bytes = _size_bytes(key, entry)
        if size_bytes > self._max_entry_bytes:
            self._refused += 1
            return False
        while self._size_bytes + size_bytes > self.max_bytes:
            _, (freed_bytes, _) = self._entries.popitem(last=False)
            self._size_bytes -= freed_bytes
            self._evictions += 1
        self._entries[key] = (size_bytes, entry)
        self._size_bytes += size_bytes
        return True

    def discard(self, key: bytes) -> None:
        """Forgets an entry, if it is there."""
        found = self._entries.pop(key, None)
        if found is not None:
            self._size_bytes -= found[0]

    def clear(self, selection: Selection = EVERYTHING, *, until: float = inf) -> int:
        """Forgets what is selected and was stored no later than `until`; how many entries that were."""
        found = [
            key for key, (_, entry) in self._entries.items() if entry.stored_at <= until and selection.covers(entry)
        ]
        for key in found:
            self.discard(key)
        return len(found)

    def entries(self, selection: Selection = EVERYTHING, limit: int = 50) -> list[Listed]:
        """What is kept, the last used first."""
        found: list[Listed] = []
        for key, (size_bytes, entry) in reversed(self._entries.items()):
            if len(found) >= limit:
                break
            if selection.covers(entry):
                found.append(listed(key, entry, size_bytes))
        return found

    @property
    def stats(self) -> CacheStats:
        return CacheStats(
            len(self._entries),
            self._size_bytes,
            self.max_bytes,
            self._hits,
            self._misses,
            self._evictions,
            self._refused,
        )


def listed(key: bytes, entry: Entry, size_bytes: int) -> Listed:
    """An entry without its answer."""
    return Listed(
        key, entry.account_id, entry.method, entry.model, entry.streamed, entry.stored_at, entry.expires_at, size_bytes
    )


def _size_bytes(key: bytes, entry: Entry) -> int:
    """What keeping an entry takes of memory, all in all; texts that entries share are counted with each of them."""
    parts = (key, entry, entry.body, entry.chunks, entry.fields, entry.content_type, entry.method, entry.model)
    return _SLOT_BYTES + sum(map(getsizeof, parts)) + (_USAGE_BYTES if entry.usage is not None else 0)
