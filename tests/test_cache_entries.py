"""The answer cache's file: what is found in it, what a command does to it, and that damage is never given out."""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from gateway.cache_store import Entry, Selection, packed_chunks
from gateway.store import StoreError, cache_entries
from gateway.store.cache_entries import CacheFile, DamagedEntryError
from gateway.store.cache_file import APPLICATION_ID, SCHEMA_VERSION, ForeignFileError, connect, open_cache_file
from gateway.store.sqlite_accounts import transaction
from gateway.types import Usage
from tests.test_cache_store import NOW, key, new_entry

SECRET = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def connection(path: Path) -> Iterator[apsw.Connection]:
    with closing(open_cache_file(path)) as connection:
        yield connection


def keep(connection: apsw.Connection, *entries: Entry, first: int = 0, secret: bytes = SECRET) -> None:
    """Writes entries under the keys of their places; the first one was used first."""
    with transaction(connection):
        rows = [cache_entries.sealed_row(secret, key(first + i), entry, NOW + i) for i, entry in enumerate(entries)]
        cache_entries.put(connection, rows)


def kept(connection: apsw.Connection) -> list[int]:
    return sorted(int.from_bytes(each) for (each,) in connection.execute("SELECT key FROM answers"))


# entries


def test_an_entry_is_found_as_it_was_written(connection: apsw.Connection) -> None:
    chunks = packed_chunks([(0.25, 4), (1.5, 9)])
    entry = new_entry(b"data: \xff\x00\n", streamed=True, chunks=chunks, usage=Usage(1, None, 2), model=None)
    keep(connection, entry, new_entry())
    assert cache_entries.find(connection, SECRET, key(0)) == entry
    assert cache_entries.find(connection, SECRET, key(2)) is None


def test_an_entry_takes_the_place_of_the_one_before(connection: apsw.Connection) -> None:
    keep(connection, new_entry(b"old"))
    keep(connection, new_entry(b"newer", model="other"))
    found = cache_entries.find(connection, SECRET, key(0))
    assert found is not None
    assert (found.body, found.model) == (b"newer", "other")
    assert connection.execute("SELECT count(*) FROM contents").get == 1


def test_the_longest_unused_entries_make_room(connection: apsw.Connection) -> None:
    keep(connection, *(new_entry(random.randbytes(20_000)) for _ in range(100)))
    cache_entries.touch(connection, {key(0): NOW + 1_000})
    limit = cache_entries.used_bytes(connection) // 2
    evicted = cache_entries.shrink(connection, limit)
    assert limit * 0.6 < cache_entries.used_bytes(connection) <= limit
    assert kept(connection) == [0, *range(evicted + 1, 100)]


def test_a_file_that_is_larger_than_allowed_becomes_smaller(connection: apsw.Connection, path: Path) -> None:
    keep(connection, *(new_entry(random.randbytes(20_000)) for _ in range(100)))
    cache_entries.shrink(connection, 500_000)
    cache_entries.give_back(connection, 500_000)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert path.stat().st_size < 700_000


def test_what_has_expired_is_pruned(connection: apsw.Connection) -> None:
    keep(connection, new_entry(expires_at=NOW), new_entry(expires_at=NOW + 1))
    cache_entries.prune(connection, NOW)
    assert kept(connection) == [1]


def test_text_that_is_none_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        cache_entries.sealed_row(SECRET, key(0), new_entry(model="\ud800"), NOW)


# forgery and damage


def test_an_entry_of_another_secret_is_damaged(connection: apsw.Connection) -> None:
    keep(connection, new_entry(), secret=bytes(32))
    with pytest.raises(DamagedEntryError):
        cache_entries.find(connection, SECRET, key(0))


@pytest.mark.parametrize("change", [
    "UPDATE contents SET content = CAST(content || x'00' AS BLOB)",
    "UPDATE contents SET content = CAST(replace(content, '{}', '[]') AS BLOB)",
    "UPDATE contents SET seal = zeroblob(32)",
    "UPDATE contents SET seal = x''",
    "UPDATE answers SET account_id = 2",
    "UPDATE answers SET method = 'v1/models'",
    "UPDATE answers SET model = NULL",
    "UPDATE answers SET model = CAST(x'ff' AS TEXT)",
    "DELETE FROM contents",
])  # fmt: skip
def test_an_entry_that_was_changed_is_damaged(connection: apsw.Connection, change: str) -> None:
    keep(connection, new_entry())
    connection.execute(change)
    with pytest.raises(DamagedEntryError):
        cache_entries.find(connection, SECRET, key(0))


def test_an_answer_that_was_moved_to_another_key_is_damaged(connection: apsw.Connection) -> None:
    keep(connection, new_entry(b"one"), new_entry(b"two"))
    connection.execute("CREATE TEMP TABLE moved AS SELECT * FROM contents")
    move = "UPDATE contents SET (seal, content) = (SELECT seal, content FROM moved WHERE moved.key <> contents.key)"
    connection.execute(move)
    for number in (0, 1):
        with pytest.raises(DamagedEntryError):
            cache_entries.find(connection, SECRET, key(number))


def test_no_flipped_byte_of_a_file_changes_an_answer(connection: apsw.Connection, path: Path, tmp_path: Path) -> None:
    entries = [new_entry(random.randbytes(size), model=f"m-{size}") for size in (1, 50, 300, 3_000, 9_000) * 4]
    keep(connection, *entries)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    whole = path.read_bytes()
    copy = tmp_path / "copy.db"
    rng = random.Random(1)
    heads = [page + at for page in range(0, len(whole), 4096) for at in range(0, 32, 3)]
    found = missed = 0
    for at in [*range(100), *heads, *(rng.randrange(len(whole)) for _ in range(400))]:
        damaged = bytearray(whole)
        damaged[at] ^= rng.randrange(1, 256)
        copy.write_bytes(damaged)
        try:
            with closing(connect(copy)) as again:
                for number, entry in enumerate(entries):
                    try:
                        got = cache_entries.find(again, SECRET, key(number))
                    except DamagedEntryError:
                        got = None
                    assert got is None or got == entry
                    found, missed = found + (got is not None), missed + (got is None)
        except apsw.Error:
            missed += 1
        for suffix in ("-wal", "-shm"):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    assert found > missed > 0


# the file


def test_a_new_file_is_for_its_owner_only(connection: apsw.Connection, path: Path) -> None:
    keep(connection, new_entry())
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600


def test_a_file_is_found_again_after_it_was_closed(path: Path) -> None:
    for _ in range(2):
        with closing(open_cache_file(path)) as connection:
            keep(connection, new_entry())
            keep(connection, new_entry(), first=kept(connection)[-1] + 1)
    with closing(open_cache_file(path)) as connection:
        assert kept(connection) == [0, 1, 2]


@pytest.mark.parametrize("change", [
    f"PRAGMA user_version = {SCHEMA_VERSION + 1}",
    "PRAGMA user_version = 0",
    "DROP TABLE contents",
    "CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM contents; END",
])  # fmt: skip
def test_a_cache_of_another_version_is_made_anew(path: Path, change: str) -> None:
    with closing(open_cache_file(path)) as connection:
        keep(connection, new_entry())
        connection.execute(change)
    with closing(open_cache_file(path)) as connection:
        assert kept(connection) == []
        keep(connection, new_entry())


@pytest.mark.parametrize("content", [bytes(10_000), b"SQLite format 3\0" + bytes(84), b"no database" * 50])
def test_a_cache_that_lost_its_head_is_made_anew_only_if_it_still_says_that_it_is_one(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(ForeignFileError):
        open_cache_file(path)
    assert path.read_bytes() == content
    path.write_bytes(content[:68] + APPLICATION_ID.to_bytes(4, "big") + content[72:])
    with closing(open_cache_file(path)) as connection:
        keep(connection, new_entry())


def test_the_database_of_somebody_else_is_left_alone(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE precious (value); PRAGMA application_id = 7")
    before = path.read_bytes()
    with pytest.raises(ForeignFileError):
        open_cache_file(path)
    with pytest.raises(ForeignFileError):
        CacheFile(path)
    assert path.read_bytes() == before


# commands


def test_a_command_lists_what_is_selected_the_last_used_first(connection: apsw.Connection, path: Path) -> None:
    keep(connection, new_entry(b"12345"), new_entry(account_id=2, model=None), new_entry(model="o3", streamed=True))
    with CacheFile(path) as file:
        assert [each.key for each in file.entries()] == [key(2), key(1), key(0)]
        assert [each.key for each in file.entries(limit=1)] == [key(2)]
        (one,) = file.entries(Selection(account_id=1, model="gpt-*"))
        assert (one.method, one.model, one.streamed, one.stored_at) == ("v1/chat/completions", "gpt-4o", False, NOW)
        stats = file.stats(10**6)
        assert (stats.entries, stats.max_bytes) == (3, 10**6)
        assert 0 < stats.size_bytes < 100_000


def test_a_command_clears_what_is_selected_and_leaves_word_of_it(connection: apsw.Connection, path: Path) -> None:
    keep(connection, *(new_entry(account_id=1 + i % 2) for i in range(1_000)))
    selection = Selection(account_id=2)
    with CacheFile(path) as file:
        assert file.clear(selection, NOW) == 500
        assert file.clear(Selection(method="v1/nothing"), NOW + 1) == 0
    assert kept(connection) == list(range(0, 1_000, 2))
    first, second = cache_entries.clearings_since(connection, 0)
    assert (first.selection, first.at) == (selection, NOW)
    assert cache_entries.clearings_since(connection, first.id) == [second]


def test_a_command_refuses_what_it_cannot_use_and_leaves_it_as_it_is(path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        CacheFile(path)
    assert not path.exists()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreError):
        CacheFile(path)
    with closing(open_cache_file(path.with_name("other.db"))) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="another version"):
        CacheFile(path.with_name("other.db"))
