"""The store in one SQLite file: opening it safely, bringing its schema up to date, and what the gateway asks of it."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TypeVar, Unpack

import apsw

from gateway.config import Settings
from gateway.errors import ConfigurationError
from gateway.store.counting import Days
from gateway.store.interface import AccountChanges, Charged, Extension, Hold, KeyedCall, Settlement, StoreError
from gateway.store.nodes import NodeLock
from gateway.store.pepper import Pepper, load_pepper
from gateway.store.sqlite_accounts import AccountsTable, converted_errors, transaction
from gateway.store.sqlite_audit import Audit, read_audit
from gateway.store.sqlite_job_list import count_open, has_untold, nodes_with_jobs, prune_jobs, read_job, read_jobs
from gateway.store.sqlite_jobs import Step
from gateway.store.sqlite_ledger import abandoned, nodes_with_holds, prune, read_keyed
from gateway.store.sqlite_log import CallConditions, read_calls, read_counts
from gateway.store.sqlite_writer import Correction, Writer
from gateway.types import Account, CallCounts, CallRecord, Job

Result = TypeVar("Result")

OLDEST_SQLITE = (3, 51, 3)
"""Older ones can corrupt a WAL database that two processes share (the WAL-reset fault)."""

APPLICATION_ID = 0x47574159  # "GWAY"
CHECK_LIMIT_S = 5.0
RELEASED_AT_ONCE = 1_000
PRUNED_AT_ONCE = 500
CREATION_LIMIT_S = 1.0
BUSY_TIMEOUT_MS = 5_000
CHECKPOINT_PAGES = 4_000  # of the write-ahead log: a page that changes in each commit is copied back less often
WRITER_BUSY_TIMEOUT_MS = 500  # the writer has its own patience


class SqliteStore:
    """Accounts, the books, the call log and the counts. Safe to use from several threads; one process may hold several.

    `hold`, `extend` and `settle` are for one event loop; they return when what they did is on the disk.
    """

    def __init__(self, path: Path, connection: apsw.Connection, pepper: Pepper, settings: Settings) -> None:
        self.path = path
        self.pepper = pepper
        self._connection = connection
        self._lock = threading.Lock()  # a connection serves one thread at a time
        self._settings = settings
        self._node: NodeLock | None = None
        self.accounts = AccountsTable(connection, self._lock, pepper.id)
        self.writer = Writer(
            partial(_connect_writer, path),
            Days(settings.defaults.timezone),
            patience_s=settings.store.patience_s,
            upkeep=self._upkeep,
        )

    def claim(self, node_id: int) -> int:
        """Makes this process the one that serves as `node_id`, and releases what dead processes left held.

        Returns how many calls are unknown because of that. ConfigurationError where another process is that node.
        """
        self._node = NodeLock(self.path, node_id)
        return self._release_abandoned()

    async def hold(self, hold: Hold) -> None:
        """Holds an amount. Raises InsufficientBalanceError, KeyTakenError, and StoreError where the disk refuses.

        After a StoreError, and when cancelled, it may be held all the same: the call has to be settled.
        """
        await self.writer.perform(hold)

    async def extend(self, extension: Extension) -> None:
        """Holds more for a call that runs; raises as `hold`."""
        await self.writer.perform(extension)

    async def settle(self, settlement: Settlement) -> Charged:
        """Ends a hold, charges and logs the call. StoreError: it is not, and the call is still to be settled."""
        record = await self.writer.perform(settlement)
        return Charged(0, 0) if record is None else Charged(record.charge_micros, record.shortfall_micros)

    def settle_later(self, settlement: Settlement) -> None:
        """As `settle` for a call that nobody waits for; never blocks and never raises."""
        self.writer.append(settlement)

    def append(self, record: CallRecord) -> None:
        """Logs and counts a finished call that held nothing, soon; never blocks and never raises."""
        self.writer.append(record)

    def correct(self, record: CallRecord) -> None:
        """Takes up how the delivery of a logged call ended, soon; never blocks and never raises."""
        self.writer.append(Correction(record))

    async def step(self, step: Step[Result]) -> Result:
        """Makes a step of a job, and returns when it is on the disk. Raises StoreError, and what it refuses with."""
        return await self.writer.step(step)

    def job(self, number: int, account_id: int | None = None) -> Job | None:
        """A job, of this account where one is given. May block."""
        with self._lock, converted_errors():
            return read_job(self._connection, number, account_id)

    def jobs(self, account_id: int, before_id: int | None, limit: int) -> list[Job]:
        """An account's jobs, newest first: at most `limit`, those below `before_id` where it is given. May block."""
        with self._lock, converted_errors():
            return read_jobs(self._connection, account_id, before_id, limit)

    def open_jobs(self, account_id: int) -> int:
        """How many jobs of an account have not ended. May block."""
        with self._lock, converted_errors():
            return count_open(self._connection, account_id)

    def has_untold_jobs(self) -> bool:
        """Whether the end of some job is still to be told. May block."""
        with self._lock, converted_errors():
            return has_untold(self._connection)

    @contextmanager
    def dead_workers(self) -> Iterator[tuple[int, ...]]:
        """The nodes that had taken jobs and live no more; they cannot come to life meanwhile. May block.

        This process's own node is one of them, as far as jobs are concerned that it does not work on.
        """
        with self._lock, converted_errors():
            nodes = nodes_with_jobs(self._connection)
        with NodeLock.of_the_dead(self.path, nodes, self._node) as dead:
            yield tuple(dead)

    @property
    def failing(self) -> bool:
        """Whether what is handed over cannot be written at present."""
        return self.writer.failing

    def keyed(self, account_id: int, key: str) -> KeyedCall | None:
        """The call that was the first of this account under an idempotency key. May block."""
        with self._lock, converted_errors():
            return read_keyed(self._connection, account_id, key)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Waits until every call appended so far is committed; False if that took too long."""
        return self.writer.flush(timeout_s)

    def accounts_since(self, revision: int) -> AccountChanges:
        """What changed after `revision`; 0 gives every account."""
        return self.accounts.since(revision)

    def account(self, account_id: int) -> Account:
        """The account as it is now, its money included; UnknownAccountError if there is none."""
        return self.accounts.by_id(account_id)

    def call_counts(self, day: str) -> dict[int, CallCounts]:
        """The committed counts of each account that ever called, with `day` (2022-10-11) as today."""
        with self._lock, converted_errors():
            return read_counts(self._connection, day)

    def calls(self, *, limit: int = 50, **conditions: Unpack[CallConditions]) -> list[CallRecord]:
        """The call log, newest first; `before_id` is the last id of the page before."""
        with self._lock, converted_errors():
            return read_calls(self._connection, conditions, limit)

    def audit(self, name: str | None = None) -> Audit:
        """The books of every account, deleted ones included, or of those that have or had one name."""
        with self._lock, converted_errors():
            return read_audit(self._connection, name)

    def greatest_call_id(self) -> int:
        """The floor for new ids; 0 where no call was ever logged."""
        with self._lock, converted_errors():
            query = (
                "SELECT max(coalesce((SELECT max(id) FROM calls), 0), coalesce((SELECT max(call_id) FROM entries), 0),"
                " coalesce((SELECT max(call_id) FROM jobs), 0))"
            )
            return int(self._connection.execute(query).get)

    def close(self) -> None:
        """Commits what is pending and closes the file."""
        self.writer.close()
        with self._lock:
            self._connection.close()
        if self._node is not None:
            self._node.release()

    def _release_abandoned(self) -> int:
        """Settles as unknown what is held by processes that are dead."""
        released = 0
        with self._lock, converted_errors():
            nodes = nodes_with_holds(self._connection)
        with NodeLock.of_the_dead(self.path, nodes, self._node) as dead:
            while dead:
                with self._lock, converted_errors():
                    settlements = abandoned(self._connection, dead, RELEASED_AT_ONCE)
                for settlement in settlements:
                    self.writer.append(settlement)
                released += len(settlements)
                if not self.flush(self._settings.store.patience_s):
                    raise StoreError("what dead processes held cannot be released: the database cannot be written")
                if len(settlements) < RELEASED_AT_ONCE:
                    break
        return released

    def _upkeep(self, connection: apsw.Connection) -> float:
        """Prunes a few rows; in how many seconds there is more to do. Runs in the writer's thread."""
        settings, now_us = self._settings, time.time_ns() // 1000
        keep_us = int(settings.store.keep_calls_days * 86_400e6)
        keys_before_us = now_us - int(settings.idempotency.keep_hours * 3_600e6)
        with transaction(connection):
            more = prune(connection, now_us - keep_us if keep_us else None, keys_before_us, PRUNED_AT_ONCE)
            if settings.jobs.keep_days:
                more = prune_jobs(connection, settings.jobs.keep_days * 86_400, PRUNED_AT_ONCE) or more
        return 1.0 if more else 60.0

    def __enter__(self) -> SqliteStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(
    settings: Settings, environ: Mapping[str, str] | None = None, *, check_limit_s: float = 0.0
) -> SqliteStore:
    """Opens the store that the settings name, creating it where nothing is, and brings its schema up to date.

    `environ` is where `store.pepper_env` is looked up. A server gives `check_limit_s` (CHECK_LIMIT_S): the file is
    searched for damage for that long at most. ConfigurationError names the file and what is wrong with it.
    """
    require_sqlite(apsw.sqlite_lib_version())
    path = _path_of(settings.store.url)
    with _explained(path):
        connection = _open(path)
        try:
            _check(connection, path, check_limit_s)
            _migrate(connection, path)
            pepper = _pepper(connection, path, settings, os.environ if environ is None else environ)
            return SqliteStore(path, connection, pepper, settings)
        except BaseException:
            connection.close()
            raise


def require_sqlite(version: str) -> None:
    """ConfigurationError for a library with known corruption."""
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise ConfigurationError(f"SQLite {version} can corrupt a shared database; apsw must carry {oldest} or newer")


def _path_of(url: str) -> Path:
    if url.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError("store.url: PostgreSQL is not supported yet; sqlite:///gateway.db is")
    if not url.startswith("sqlite:///") or url == "sqlite:///":
        raise ConfigurationError("store.url: expected sqlite:///relative.db or sqlite:////absolute.db")
    return Path(url.removeprefix("sqlite:///")).absolute()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.NotADBError as error:
        raise ConfigurationError(f"{path}: not an SQLite database, or damaged at its start") from error
    except apsw.CorruptError as error:
        raise ConfigurationError(f"{path}: the database is damaged: {error}") from error
    except apsw.BusyError as error:
        raise ConfigurationError(f"{path}: the database is locked by another process") from error
    except apsw.Error as error:
        raise ConfigurationError(f"{path}: the database cannot be opened: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: the database cannot be opened: {error.strerror}") from error


def _open(path: Path) -> apsw.Connection:
    """A missing file is created. One that lost its content is not taken for a new one."""
    pepper, wal = (path.with_name(path.name + suffix) for suffix in (".pepper", "-wal"))
    unwritten = wal.exists() and wal.stat().st_size > 0  # committed calls that only the old database can take up
    try:
        if unwritten and not path.exists():
            raise ConfigurationError(f"{path}: the database is missing, but its write-ahead log {wal.name} is there")
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError as error:
        deadline = time.monotonic() + CREATION_LIMIT_S
        while path.stat().st_size == 0 and (unwritten or pepper.exists()):
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"{path}: the database is empty; restore it, or delete it to start anew"
                ) from error
            time.sleep(0.02)  # another process may be creating it just now
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)  # never creates
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    try:
        _require_ours(connection, path)  # before the file is turned to WAL
        return _configured(connection)
    except BaseException:
        connection.close()
        raise


def _connect_writer(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(WRITER_BUSY_TIMEOUT_MS)
    connection.wal_autocheckpoint(CHECKPOINT_PAGES)
    return _configured(connection)


def _configured(connection: apsw.Connection) -> apsw.Connection:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _pragma(connection: apsw.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").get)


def _require_ours(connection: apsw.Connection, path: Path) -> None:
    """A file that is not the gateway's is left alone; one that was never written to is a new store."""
    if connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").get is None:
        return
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise ConfigurationError(f"{path}: an SQLite database, but not the gateway's")


def _check(connection: apsw.Connection, path: Path, limit_s: float) -> None:
    """Looks for damage; a database too large for the limit is taken as sound, having been so that far."""
    if limit_s <= 0:
        return
    deadline = time.monotonic() + limit_s
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        finding = connection.execute("PRAGMA quick_check(1)").get
    except apsw.InterruptError:
        return
    finally:
        connection.set_progress_handler(None)
    if finding != "ok":
        raise ConfigurationError(f"{path}: the database is damaged: {str(finding).splitlines()[0]}")


def _migrations() -> list[tuple[int, str]]:
    """The numbered .sql files beside this module, in order."""
    files = sorted(resources.files("gateway.store").iterdir(), key=lambda file: file.name)
    return [(int(m[1]), file.read_text()) for file in files if (m := re.fullmatch(r"(\d{4})_\w+\.sql", file.name))]


def _migrate(connection: apsw.Connection, path: Path) -> None:
    migrations = _migrations()
    known = migrations[-1][0]
    found = _pragma(connection, "user_version")
    if found > known:
        raise ConfigurationError(f"{path}: its schema is version {found}, from a newer gateway; this one knows {known}")
    for number, script in migrations:
        if number <= found:
            continue
        with transaction(connection):
            if _pragma(connection, "user_version") >= number:  # another process was faster
                continue
            connection.execute(script).fetchall()  # to the end, should it ever give rows
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}")


def _pepper(connection: apsw.Connection, path: Path, settings: Settings, environ: Mapping[str, str]) -> Pepper:
    """The pepper that the accounts' secrets were hashed with; a new one where there are no accounts."""
    query = "SELECT DISTINCT pepper_id FROM accounts WHERE deleted_at IS NULL"
    known = connection.execute(query).fetchall()
    if not known:
        with transaction(connection):  # of two processes that start at once, one creates it and the other reads it
            known = connection.execute(query).fetchall()
            pepper = load_pepper(settings.store, path, environ, needed=bool(known))
    else:
        pepper = load_pepper(settings.store, path, environ, needed=True)
    if known and known != [(pepper.id,)]:
        raise ConfigurationError(f"{path}: its accounts' secrets were hashed with another pepper than the one given")
    return pepper
