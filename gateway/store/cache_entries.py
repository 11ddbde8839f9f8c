"""The SQL of the answer cache: entries, sealed, and the commands to forget some of them.

An answer that was changed on the disk, moved to another key, or written by somebody else is never given out. Works on
a connection that it is given; who retries and who waits is others' business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import msgspec

from gateway.cache_store import EVERYTHING, CacheStats, Entry, Listed, Selection
from gateway.store.cache_file import APPLICATION_ID, SCHEMA_VERSION, ForeignFileError, connect, number_of
from gateway.store.interface import StoreError
from gateway.store.sqlite_accounts import converted_errors, transaction
from gateway.types import PerCall

KEEP_CLEARINGS_S = 86_400

_CLEARED_AT_ONCE = 200
_EVICTED_AT_ONCE = 32
_EVICTED_AT_MOST = 3_000
_PRUNED_AT_ONCE = 500
_VACUUMED_PAGES = 2_000
_PUT_ANSWER = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_CONTENT = "INSERT OR REPLACE INTO contents VALUES (?, ?, ?)"
_FIND = "SELECT account_id, method, model, seal, content FROM answers LEFT JOIN contents USING (key) WHERE key = ?"
# As bytes: text that is damaged need not be UTF-8.
_LISTED = (
    "SELECT key, account_id, CAST(method AS BLOB), CAST(model AS BLOB), streamed, stored_at, expires_at, size_bytes"
    " FROM answers ORDER BY used_at DESC"
)
_DECODE = msgspec.msgpack.Decoder(Entry).decode

_ADD_CLEARING = "INSERT INTO clearings (at, account_id, method, model) VALUES (?, ?, ?, ?)"

Row: TypeAlias = "tuple[tuple[apsw.SQLiteValue, ...], tuple[bytes, bytes, bytes]]"


class DamagedEntryError(Exception):
    """An entry is not what was written, or not by one who has the secret."""


class Clearing(PerCall, frozen=True):
    """A command to forget what is selected and was stored until `at`, in seconds since the epoch."""

    id: int
    at: float
    selection: Selection


def sealed_row(secret: bytes, key: bytes, entry: Entry, used_at: float) -> Row:
    """An entry as it is written. ValueError for text that is none: half of a surrogate pair."""
    content = msgspec.msgpack.encode(entry)
    answer = (
        key, entry.account_id, entry.method, entry.model, entry.streamed, entry.stored_at, entry.expires_at,
        len(content), used_at,
    )  # fmt: skip
    return answer, (key, _seal(secret, key, content), content)


def put(connection: apsw.Connection, rows: Sequence[Row]) -> None:
    """Writes entries, each in the place of the one of its key."""
    connection.executemany(_PUT_ANSWER, [answer for answer, _ in rows])
    connection.executemany(_PUT_CONTENT, [content for _, content in rows])


def find(connection: apsw.Connection, secret: bytes, key: bytes) -> Entry | None:
    """The entry of a key, fresh or not. Raises DamagedEntryError and apsw.Error."""
    try:
        row: Sequence[Any] | None = connection.execute(_FIND, (key,)).fetchone()
        if row is None:
            return None
        account_id, method, model, seal, content = row
        if seal is None or not compare_digest(seal, _seal(secret, key, content)):
            raise DamagedEntryError
        entry = _DECODE(content)
    except (ValueError, TypeError, msgspec.MsgspecError) as error:  # as damage makes of types and texts
        raise DamagedEntryError from error
    if (account_id, method, model) != (entry.account_id, entry.method, entry.model):
        raise DamagedEntryError  # clearing by these would have passed it over
    return entry


def delete(connection: apsw.Connection, keys: Collection[bytes]) -> None:
    connection.executemany("DELETE FROM answers WHERE key = ?", [(key,) for key in keys])
    connection.executemany("DELETE FROM contents WHERE key = ?", [(key,) for key in keys])


def touch(connection: apsw.Connection, used_at: Mapping[bytes, float]) -> None:
    """Notes when entries were used last."""
    rows = [(moment, key) for key, moment in used_at.items()]
    connection.executemany("UPDATE answers SET used_at = ? WHERE key = ?", rows)


def shrink(connection: apsw.Connection, max_bytes: int) -> int:
    """Deletes the longest unused entries until the others take no more than `max_bytes` of the file; how many.

    A few thousand at most: what is still too much then is for the next time.
    """
    evicted = 0
    while used_bytes(connection) > max_bytes and evicted < _EVICTED_AT_MOST:
        query = "SELECT key FROM answers ORDER BY used_at LIMIT ?"
        keys = [key for (key,) in connection.execute(query, (_EVICTED_AT_ONCE,))]
        before = connection.total_changes()
        if keys:
            delete(connection, keys)
        else:
            connection.execute("DELETE FROM contents")  # of no answer, which only damage leaves
        if connection.total_changes() == before:
            raise apsw.CorruptError("entries that are listed are not there")
        evicted += len(keys)
    return evicted


def prune(connection: apsw.Connection, now: float) -> None:
    """Deletes some of the entries that have expired."""
    query = "SELECT key FROM answers WHERE expires_at <= ? LIMIT ?"
    delete(connection, [key for (key,) in connection.execute(query, (now, _PRUNED_AT_ONCE))])


def give_back(connection: apsw.Connection, max_bytes: int) -> None:
    """Makes a file smaller that is larger than allowed, a step at a time. Outside of a transaction."""
    if number_of(connection, "page_count") * number_of(connection, "page_size") > max_bytes:
        connection.execute(f"PRAGMA incremental_vacuum({_VACUUMED_PAGES})").fetchall()


def used_bytes(connection: apsw.Connection) -> int:
    """What the entries take of the file; pages that are free are used again."""
    pages = number_of(connection, "page_count") - number_of(connection, "freelist_count")
    return pages * number_of(connection, "page_size")


def clearings_since(connection: apsw.Connection, last_id: int) -> list[Clearing]:
    """The commands after one of them, the oldest first."""
    query = "SELECT id, at, account_id, method, model FROM clearings WHERE id > ? ORDER BY id"
    rows: Iterator[Any] = connection.execute(query, (last_id,))
    return [Clearing(id_, at, Selection(*conditions)) for id_, at, *conditions in rows]


def _seal(secret: bytes, key: bytes, content: bytes) -> bytes:
    digest = blake2b(b"%d:%b" % (len(key), key), key=secret, digest_size=32, person=b"gateway answer")
    digest.update(content)
    return digest.digest()


class CacheFile:
    """The file as a command of its own process sees it, servers running or not. Every method may raise StoreError.

    A file that is not there, or cannot be used, is no business of a command: it is left as it is.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise StoreError(f"{path}: no such file")
        with converted_errors():
            self._connection = connect(path)
            try:
                self._require_ours(path)
            except BaseException:
                self._connection.close()
                raise

    def entries(self, selection: Selection = EVERYTHING, limit: int = 50) -> list[Listed]:
        """What is kept, expired or not, the last used first."""
        found: list[Listed] = []
        with converted_errors():
            for each in self._all():
                if len(found) >= limit:
                    break
                if selection.covers(each):
                    found.append(each)
        return found

    def clear(self, selection: Selection, now: float) -> int:
        """Deletes what is selected, and tells servers to do so in their memory; how many entries were here.

        A slice at a time, so that no server has to wait.
        """
        conditions = (selection.account_id, selection.method, selection.model)
        with converted_errors():
            with transaction(self._connection):
                self._connection.execute("DELETE FROM clearings WHERE at < ?", (now - KEEP_CLEARINGS_S,))
                self._connection.execute(_ADD_CLEARING, (now, *conditions))
            keys = [each.key for each in self._all() if selection.covers(each)]
            for start in range(0, len(keys), _CLEARED_AT_ONCE):
                with transaction(self._connection):
                    delete(self._connection, keys[start : start + _CLEARED_AT_ONCE])
        return len(keys)

    def stats(self, max_bytes: int) -> CacheStats:
        """How many entries there are, and what they take of the file."""
        with converted_errors():
            count = int(self._connection.execute("SELECT count(*) FROM answers").get)
            return CacheStats(count, used_bytes(self._connection), max_bytes)

    def close(self) -> None:
        self._connection.close()

    def _require_ours(self, path: Path) -> None:
        if number_of(self._connection, "application_id") != APPLICATION_ID:
            raise ForeignFileError(f"{path}: not an answer cache")
        if number_of(self._connection, "user_version") != SCHEMA_VERSION:
            raise StoreError(f"{path}: an answer cache of another version of the gateway")

    def _all(self) -> Iterator[Listed]:
        row: Any
        for row in self._connection.execute(_LISTED):
            key, account_id, method, model, streamed, *rest = row
            model_text = None if model is None else model.decode("utf-8", "replace")
            yield Listed(key, account_id, method.decode("utf-8", "replace"), model_text, bool(streamed), *rest)

    def __enter__(self) -> CacheFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
