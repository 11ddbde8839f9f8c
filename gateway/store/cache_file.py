"""The answer cache's own SQLite file: its schema, opening it, and making it anew where it cannot be used.

Losing the file costs nothing but calls upstream. So nothing is repaired: what is damaged goes.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path

import apsw

from gateway.store.interface import StoreError
from gateway.store.sqlite_accounts import transaction

APPLICATION_ID = 0x47574143  # "GWAC"
SCHEMA_VERSION = 1
"""Of the tables, and of Entry, which is kept as it is."""

BUSY_TIMEOUT_MS = 500

_APPLICATION_ID_AT = 68  # in the file: SQLite's own format, section 1.3
_SCHEMA = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY, account_id INTEGER NOT NULL, method TEXT NOT NULL, model TEXT, streamed INTEGER NOT NULL,
    stored_at REAL NOT NULL, expires_at REAL NOT NULL, size_bytes INTEGER NOT NULL, used_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_used ON answers (used_at);
CREATE INDEX answers_expire ON answers (expires_at);
-- Apart, so that noting a use does not write the content again.
CREATE TABLE contents (key BLOB PRIMARY KEY, seal BLOB NOT NULL, content BLOB NOT NULL) STRICT;
-- What was cleared by a command, for the processes that hold entries in memory.
CREATE TABLE clearings (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, account_id INTEGER, method TEXT, model TEXT
) STRICT;
"""

DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.ConstraintError, apsw.ReadOnlyError)
"""Errors of a damaged file: in a sound one nothing written here meets a constraint, and its head lets it be written."""


class ForeignFileError(StoreError):
    """The file is not an answer cache. It is left alone."""


def open_cache_file(path: Path) -> apsw.Connection:
    """Opens the file for reading and writing, and creates it. One of another version, or damaged, is made anew.

    Raises ForeignFileError, apsw.Error and OSError.
    """
    try:
        return _open(path)
    except (*DAMAGED, _OtherSchemaError):
        remove(path)
        return _open(path)


def connect(path: Path) -> apsw.Connection:
    """Opens a file that is there, as it is. Raises apsw.Error."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA journal_size_limit = {16 << 20}")
    except BaseException:
        connection.close()
        raise
    return connection


def identity(path: Path) -> tuple[int, int]:
    """Tells a file from another one of its name. Raises OSError."""
    status = path.stat()
    return status.st_dev, status.st_ino


def remove(path: Path) -> None:
    """Deletes a cache's file. ForeignFileError where it is not one."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        head = file.read(_APPLICATION_ID_AT + 4)
        if head and head[_APPLICATION_ID_AT:] != APPLICATION_ID.to_bytes(4, "big"):
            raise ForeignFileError("the file is not an answer cache")
    for suffix in ("-wal", "-journal", "-shm", ""):  # the database last: another one must not take up its log
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class _OtherSchemaError(Exception):
    """The file is a cache of another version, or its schema is damaged."""


def _open(path: Path) -> apsw.Connection:
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    connection = connect(path)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: apsw.Connection) -> None:
    if _is_empty(connection):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # it has to be said before the first page
        with transaction(connection):
            if _is_empty(connection):  # another process was not faster
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute(_SCHEMA)
    if number_of(connection, "application_id") != APPLICATION_ID:
        raise ForeignFileError("an SQLite database, but not an answer cache")
    if number_of(connection, "user_version") != SCHEMA_VERSION or not _is_sound(connection):
        raise _OtherSchemaError
    connection.execute("PRAGMA journal_mode = WAL")  # last, so that the file itself says what it is


def _is_empty(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").get is None


def _is_sound(connection: apsw.Connection) -> bool:
    """Whether the schema is the one that was made, without a trigger or a view that somebody added."""
    with closing(apsw.Connection(":memory:")) as model:
        model.execute(_SCHEMA)
        query = "SELECT type, name, CAST(sql AS BLOB) FROM sqlite_schema ORDER BY name"
        return connection.execute(query).fetchall() == model.execute(query).fetchall()


def number_of(connection: apsw.Connection, name: str) -> int:
    """What a pragma says."""
    return int(connection.execute(f"PRAGMA {name}").get)
