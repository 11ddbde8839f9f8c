from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from zoneinfo import ZoneInfo

import apsw
import pytest
from msgspec.structs import replace as replace_struct

from gateway.config import DefaultsSettings, Settings, StoreSettings
from gateway.errors import ERROR_CODES, ConfigurationError
from gateway.ids import CallIds
from gateway.store import AccountExistsError, Days, SqliteStore, StoreError, UnknownAccountError, counted_as, open_store
from gateway.store.sqlite import APPLICATION_ID, require_sqlite
from gateway.store.sqlite_writer import Writer
from gateway.types import Account, CallCounts, CallRecord
from tests.books import check_books

ZONE = "Asia/Shanghai"
IDS = CallIds(1)


def settings_of(path: Path, *, pepper_file: str = "", pepper_env: str = "") -> Settings:
    return Settings(store=StoreSettings(url=f"sqlite:///{path}", pepper_file=pepper_file, pepper_env=pepper_env))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with open_store(settings_of(path)) as store:
        yield store


@pytest.fixture
def acme(store: SqliteStore) -> Account:
    return store.accounts.add(new_account("acme"))


def new_account(name: str) -> Account:
    return Account(id=0, name=name, key=f"{name}-key", secret_digest=bytes(32))


def new_record(account_id: int, outcome: str = "0000", started_at: float | None = None) -> CallRecord:
    request_id, last_id = IDS.next()
    return CallRecord(
        id=last_id,
        request_id=request_id,
        account_id=account_id,
        front="custom",
        method="v1/chat/completions",
        model="gpt-4o-mini",
        outcome=outcome,
        status=200,
        streamed=True,
        cut=False,
        started_at=1_665_000_000.123456 if started_at is None else started_at,
        duration_s=1.25,
        first_byte_s=0.25,
        sent_bytes=1234,
        cache="miss",
        client_ip="192.0.2.1",
    )


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Waits for a change that another thread makes."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestCalls:
    """The call log and its counts."""

    def test_a_record_comes_back_as_it_went_in(self, store: SqliteStore, acme: Account) -> None:
        """To the microsecond, with what is absent absent."""
        full = new_record(acme.id)
        bare = replace_struct(new_record(acme.id), model=None, first_byte_s=None, streamed=False, cut=True, cache="off")
        store.append(full)
        store.append(bare)
        assert store.flush()
        assert store.calls() == [bare, full]

    def test_calls_are_read_newest_first_page_by_page(self, store: SqliteStore, acme: Account) -> None:
        """Each page begins below the last id of the page before."""
        other = store.accounts.add(new_account("other"))
        records = [new_record((acme, other)[n % 2].id, ("0000", "4001", "2000")[n % 3]) for n in range(30)]
        for record in records:
            store.append(record)
        store.flush()
        newest = records[::-1]
        assert store.calls(limit=7) == newest[:7]
        assert store.calls(before_id=newest[6].id, limit=7) == newest[7:14]
        assert store.calls(account_id=acme.id) == [each for each in newest if each.account_id == acme.id]
        assert store.calls(account_id=acme.id, outcome="4001") == [
            each for each in newest if each.account_id == acme.id and each.outcome == "4001"
        ]

    def test_every_outcome_is_counted_as_the_contract_says(self, store: SqliteStore, acme: Account) -> None:
        """Charged outcomes each in their own count, failures after dispatch together, refusals in none."""
        for code in ERROR_CODES:
            store.append(new_record(acme.id, code))
        store.flush()
        refused = [code for code, row in ERROR_CODES.items() if not row.dispatched]
        assert {code for code in ERROR_CODES if counted_as(new_record(acme.id, code)) is None} == set(refused)
        counts = store.call_counts("2000-01-01")[acme.id]
        assert counts == CallCounts(today=0, succeeded=1, empty=1, failed=len(ERROR_CODES) - len(refused) - 2)
        assert len(store.calls()) == len(ERROR_CODES)

    def test_a_call_belongs_to_the_day_it_started_in_the_operators_zone(
        self, store: SqliteStore, acme: Account
    ) -> None:
        """Midnight in Shanghai is four in the afternoon in Greenwich."""
        midnight = datetime(2022, 10, 12, tzinfo=ZoneInfo(ZONE)).timestamp()
        for at in (midnight - 0.001, midnight, midnight + 86_399):
            store.append(new_record(acme.id, started_at=at))
        store.flush()
        assert [store.call_counts(f"2022-10-{day}")[acme.id].today for day in (11, 12, 13)] == [1, 2, 0]
        assert store.call_counts("2022-10-12")[acme.id].total == 3

    def test_counts_grow_over_many_batches(self, store: SqliteStore, acme: Account) -> None:
        """Each batch adds to what the ones before it left."""
        for _ in range(5):
            for _ in range(20):
                store.append(new_record(acme.id))
            store.flush()
        assert store.call_counts("2022-10-06")[acme.id] == CallCounts(today=100, succeeded=100)

    def test_the_greatest_id_is_the_floor_for_new_ones(self, store: SqliteStore, acme: Account) -> None:
        """Zero in a new store."""
        assert store.greatest_call_id() == 0
        records = [new_record(acme.id) for _ in range(3)]
        for record in records:
            store.append(record)
        store.flush()
        assert store.greatest_call_id() == records[-1].id

    def test_what_is_flushed_survives_kill_9(self, path: Path) -> None:
        """The process ends without another instruction; log and counts agree."""
        script = f"""
import os
from tests.test_store import *
store = open_store(settings_of(Path({str(path)!r})))
account = store.accounts.add(new_account("acme"))
for _ in range(500):
    store.append(new_record(account.id))
assert store.flush()
os.kill(os.getpid(), 9)
"""
        process = subprocess.run([sys.executable, "-c", script], check=False)
        assert process.returncode == -signal.SIGKILL
        with open_store(settings_of(path), check_limit_s=5) as store:
            assert len(store.calls(limit=1000)) == 500
            assert store.call_counts("2022-10-06")[store.accounts.by_name("acme").id].total == 500

    def test_closing_writes_what_is_pending(self, path: Path) -> None:
        """Nobody needs to flush before."""
        with open_store(settings_of(path)) as store:
            account = store.accounts.add(new_account("acme"))
            for _ in range(5000):
                store.append(new_record(account.id))
        with open_store(settings_of(path)) as store:
            assert store.call_counts("2022-10-06")[account.id].total == 5000

    def test_text_that_is_no_unicode_or_holds_nul_is_logged_all_the_same(
        self, store: SqliteStore, acme: Account
    ) -> None:
        """A client must not be able to keep its calls out of the log and the counts."""
        store.append(replace_struct(new_record(acme.id), model="gpt\ud800", method="v1/向日葵\0x"))
        store.flush()
        assert [(record.model, record.method) for record in store.calls()] == [("gpt?", "v1/向日葵\0x")]
        assert store.call_counts("2022-10-06")[acme.id].total == 1

    def test_an_impossible_record_takes_no_other_with_it(
        self, store: SqliteStore, acme: Account, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An account that never was, a number beyond 64 bits, an id given twice: each is logged and dropped alone."""
        twice = new_record(acme.id)
        good = [new_record(acme.id) for _ in range(3)]
        for record in (
            good[0],
            twice,
            new_record(999),
            good[1],
            replace_struct(new_record(acme.id), sent_bytes=2**70),
            replace_struct(twice, request_id="1.another"),
            good[2],
        ):
            store.append(record)
        assert store.flush()
        assert sorted(store.calls(), key=lambda record: record.id) == sorted(
            [twice, *good], key=lambda record: record.id
        )
        assert store.call_counts("2022-10-06")[acme.id].total == 4
        assert store.writer.lost == 3
        assert len(caplog.records) == 3

    def test_a_record_that_an_earlier_attempt_stored_is_not_counted_twice(
        self, store: SqliteStore, acme: Account
    ) -> None:
        """A commit can fail after it became durable; the batch is then written again."""
        record = new_record(acme.id)
        for _ in range(2):
            store.append(record)
            store.flush()
        assert store.call_counts("2022-10-06")[acme.id].total == 1
        assert store.writer.lost == 0


class TestOutages:
    """A database that cannot be written: locked, or without space."""

    def test_calls_wait_in_memory_while_the_database_is_locked(
        self, store: SqliteStore, acme: Account, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Appending goes on, nothing is lost, and the outage is logged once, with its end."""
        locker = apsw.Connection(str(store.path))
        locker.execute("BEGIN IMMEDIATE")
        store.append(new_record(acme.id))
        until(lambda: bool(caplog.records))
        for _ in range(3000):
            store.append(new_record(acme.id))
        assert not store.flush(0.05)
        locker.execute("ROLLBACK")
        locker.close()
        assert store.flush()
        assert len(store.calls(limit=10_000)) == 3001
        assert store.writer.lost == 0
        assert [entry.levelname for entry in caplog.records] == ["ERROR", "WARNING"]

    def test_beyond_the_bound_new_records_are_refused_and_reported_once(
        self, store: SqliteStore, acme: Account, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Memory is bounded, what was accepted stays, and the log is not flooded."""
        broken = threading.Event()

        def connect() -> apsw.Connection:
            if not broken.is_set():
                raise apsw.CantOpenError("no such directory")
            return apsw.Connection(str(store.path))

        writer = Writer(connect, Days(ZONE), max_pending=10, max_batch=5, retry_s=(0.001, 0.01))
        records = [new_record(acme.id) for _ in range(40)]
        writer.append(records[0])
        until(lambda: bool(caplog.records))  # the thread holds the first record now
        for record in records[1:]:
            writer.append(record)
        assert writer.lost == 29
        broken.set()
        writer.close()
        assert store.calls() == records[:11][::-1]
        assert sum("missing in the call log" in entry.getMessage() for entry in caplog.records) == 1

    def test_closing_gives_up_after_its_limit_and_says_what_is_missing(
        self, acme: Account, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A process that is told to end ends."""

        def connect() -> apsw.Connection:
            raise apsw.CantOpenError("no such directory")

        writer = Writer(connect, Days(ZONE), max_batch=5, close_timeout_s=0.1)
        for _ in range(20):
            writer.append(new_record(acme.id))
        writer.close()
        assert writer.lost == 20
        assert "20 calls are missing" in caplog.records[-1].getMessage()

    def test_a_full_disk_loses_nothing_and_service_returns_with_the_space(self, path: Path) -> None:
        """The limit of a file's size stands for the disk's end; it is lifted later."""
        script = f"""
import resource
from tests.test_store import *
store = open_store(settings_of(Path({str(path)!r})))
account = store.accounts.add(new_account("acme"))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
for _ in range(5000):
    store.append(new_record(account.id))
assert not store.flush(1.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.flush(10)
assert store.writer.lost == 0
store.close()
"""
        process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        assert process.stderr.count("wait in memory") == 1
        with open_store(settings_of(path), check_limit_s=5) as store:
            assert store.call_counts("2022-10-06")[1].total == 5000


class TestAccounts:
    """The accounts' table."""

    def test_an_account_comes_back_as_it_went_in(self, store: SqliteStore) -> None:
        """Every field, under the id that the store gave."""
        account = Account(
            id=0,
            name="向日葵",
            key="gk_1",
            secret_digest=bytes(range(32)),
            stopped=True,
            expires_at=1_700_000_000.5,
            methods=("v1/chat/*", "images/submit"),
            stopped_methods=("v1/files*",),
            allow_from=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
            concurrency=1,
            per_minute=2,
            per_day=3,
            total=4,
            balance_micros=-5,
            created_at=1_600_000_000.25,
        )
        added = store.accounts.add(account)
        assert added == replace(account, id=added.id)
        assert store.accounts.by_name("向日葵") == added
        assert store.accounts.all() == [added]

    def test_no_methods_differs_from_every_method(self, store: SqliteStore) -> None:
        """An empty list gives nothing, its absence everything."""
        assert store.accounts.add(replace(new_account("none"), methods=())).methods == ()
        assert store.accounts.add(new_account("every")).methods is None

    def test_a_new_account_is_created_now(self, acme: Account) -> None:
        """Unless it says when."""
        assert abs(acme.created_at - time.time()) < 60

    @pytest.mark.parametrize(("name", "key"), [("acme", "other-key"), ("other", "acme-key")])
    def test_names_and_keys_are_unique(self, store: SqliteStore, acme: Account, name: str, key: str) -> None:
        """When an account is added, and when one is changed."""
        with pytest.raises(AccountExistsError, match="belongs to another account"):
            store.accounts.add(replace(new_account("other"), name=name, key=key))
        other = store.accounts.add(new_account("other"))
        with pytest.raises(AccountExistsError, match="belongs to another account"):
            store.accounts.update("other", lambda account: replace(account, name=name, key=key))
        assert store.accounts.by_name("other") == other

    def test_an_unknown_name_is_said(self, store: SqliteStore) -> None:
        """By everything that takes one."""
        for act in (
            lambda: store.accounts.by_name("nobody"),
            lambda: store.accounts.update("nobody", lambda account: account),
            lambda: store.accounts.delete("nobody"),
        ):
            with pytest.raises(UnknownAccountError, match="no account is named 'nobody'"):
                act()

    def test_changes_are_told_since_a_revision(self, store: SqliteStore) -> None:
        """New, changed and deleted accounts once each, and nothing when nothing changed."""
        one, two, three = (store.accounts.add(new_account(name)) for name in ("one", "two", "three"))
        first = store.accounts_since(0)
        assert first.changed == (one, two, three)
        assert store.accounts_since(first.revision) == replace(first, changed=())
        stopped = store.accounts.update("two", lambda account: replace(account, stopped=True))
        store.accounts.delete("three")
        second = store.accounts_since(first.revision)
        assert (second.changed, second.deleted) == ((stopped,), (three.id,))
        assert second.revision > first.revision
        assert store.accounts_since(0).changed == (one, stopped)

    def test_deleting_the_newest_account_is_a_change_too(self, store: SqliteStore, acme: Account) -> None:
        """A revision never falls back, or a server would miss what comes next."""
        before = store.accounts_since(0).revision
        store.accounts.delete("acme")
        deleted = store.accounts_since(before)
        assert (deleted.changed, deleted.deleted) == ((), (acme.id,))
        again = store.accounts.add(new_account("acme"))
        assert store.accounts_since(deleted.revision).changed == (again,)

    def test_a_deleted_account_keeps_its_calls_and_frees_its_name_and_key(
        self, store: SqliteStore, acme: Account
    ) -> None:
        """Its id is given to no other account, and its secret's hash is gone from the file."""
        store.append(new_record(acme.id))
        store.flush()
        store.accounts.delete("acme")
        again = store.accounts.add(new_account("acme"))
        assert again.id != acme.id
        assert len(store.calls(account_id=acme.id)) == 1
        assert apsw.Connection(str(store.path)).execute("SELECT secret_digest FROM accounts").fetchall()[0] == (b"",)

    def test_changes_by_several_connections_add_up(self, store: SqliteStore, acme: Account) -> None:
        """An update sees what the account is at that moment, whoever changed it last."""

        def top_up() -> None:
            with open_store(settings_of(store.path)) as own:
                for _ in range(25):
                    own.accounts.top_up("acme", 1)

        threads = [threading.Thread(target=top_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.accounts.by_name("acme").balance_micros == 100

    def test_a_balance_beyond_64_bits_is_refused(self, store: SqliteStore, acme: Account) -> None:
        """And the one before stays."""
        with pytest.raises(StoreError, match="beyond what can be stored"):
            store.accounts.top_up("acme", 2**62 + 1)
        assert store.accounts.by_name("acme") == acme

    def test_a_row_that_someone_spoilt_is_an_error_of_the_store(self, store: SqliteStore, acme: Account) -> None:
        """Not a crash of the task that follows the accounts."""
        with apsw.Connection(str(store.path)) as other:
            other.execute("UPDATE accounts SET allow_from = '[\"nowhere\"]'")
        with pytest.raises(StoreError, match="nowhere"):
            store.accounts_since(0)


class TestOpening:
    """What is opened, what is created, and what is refused."""

    def test_a_new_store_is_created_for_its_owner_alone(self, store: SqliteStore) -> None:
        """Database, log and pepper hold what others must not read."""
        for file in store.path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_the_settings_of_the_connections_are_durable_ones(self, store: SqliteStore) -> None:
        """WAL, and a commit that is on the disk when it returns."""
        connection = apsw.Connection(str(store.path))
        assert connection.execute("PRAGMA journal_mode").get == "wal"
        assert connection.execute("PRAGMA application_id").get == APPLICATION_ID
        assert connection.execute("PRAGMA user_version").get == 6

    def test_a_store_opens_again_with_what_was_in_it(self, path: Path) -> None:
        """Nothing is created anew."""
        with open_store(settings_of(path)) as store:
            account = store.accounts.add(new_account("acme"))
            digest = store.pepper.digest("secret")
        with open_store(settings_of(path), check_limit_s=5) as store:
            assert store.accounts.all() == [account]
            assert store.pepper.digest("secret") == digest

    def test_a_missing_directory_is_not_created(self, tmp_path: Path) -> None:
        """It may be a disk that is not mounted."""
        with pytest.raises(ConfigurationError, match=r"no/gateway\.db: .*No such file"):
            open_store(settings_of(tmp_path / "no" / "gateway.db"))

    @pytest.mark.parametrize("content", [b"hello", b"hello" * 2000, b"SQLite format 3\0" + b"\xff" * 5000])
    def test_a_file_that_is_no_database_is_refused_and_left_alone(self, path: Path, content: bytes) -> None:
        """Whatever its size."""
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"gateway\.db: not an SQLite database"):
            open_store(settings_of(path))
        assert path.read_bytes() == content

    def test_another_applications_database_is_refused_and_left_alone(self, path: Path) -> None:
        """To the byte, and with no new neighbours."""
        other = apsw.Connection(str(path))
        other.execute("CREATE TABLE notes (text)")
        other.close()
        content = path.read_bytes()
        with pytest.raises(ConfigurationError, match=r"gateway\.db: an SQLite database, but not the gateway's"):
            open_store(settings_of(path))
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]

    def test_a_schema_from_the_future_is_refused(self, path: Path) -> None:
        """An older gateway would not know what it breaks."""
        open_store(settings_of(path)).close()
        other = apsw.Connection(str(path))
        other.execute("PRAGMA user_version = 99")
        other.close()
        with pytest.raises(ConfigurationError, match=r"gateway\.db: its schema is version 99, from a newer gateway"):
            open_store(settings_of(path))

    @pytest.mark.parametrize("page", range(1, 8))
    def test_a_damaged_database_is_found_at_the_start(self, path: Path, page: int) -> None:
        """One page overwritten, whichever it is."""
        with open_store(settings_of(path)) as store:
            account = store.accounts.add(new_account("acme"))
            for _ in range(200):
                store.append(new_record(account.id))
        with path.open("r+b") as file:
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
        with pytest.raises(ConfigurationError, match=r"gateway\.db: the database is damaged"):
            open_store(settings_of(path), check_limit_s=5)

    def test_the_search_for_damage_ends_at_its_limit(self, path: Path) -> None:
        """A large call log must not keep a gateway from starting."""
        with open_store(settings_of(path)) as store:
            account = store.accounts.add(new_account("acme"))
            for _ in range(20_000):
                store.append(new_record(account.id))
        begun = time.monotonic()
        open_store(settings_of(path), check_limit_s=0.0001).close()
        assert time.monotonic() - begun < 2

    def test_a_database_that_lost_its_content_is_not_begun_anew(self, path: Path) -> None:
        """An empty file beside its pepper was a store once; without one it is just an empty file."""
        open_store(settings_of(path)).close()
        path.write_bytes(b"")
        with pytest.raises(ConfigurationError, match=r"gateway\.db: the database is empty"):
            open_store(settings_of(path))
        path.with_name("gateway.db.pepper").unlink()
        open_store(settings_of(path)).close()

    def test_a_write_ahead_log_without_its_database_is_kept(self, path: Path) -> None:
        """It holds calls that a new file beside it would wipe out."""
        wal = path.with_name("gateway.db-wal")
        wal.write_bytes(b"x" * 100)
        with pytest.raises(ConfigurationError, match=r"gateway\.db: the database is missing, but .*gateway\.db-wal"):
            open_store(settings_of(path))
        assert wal.exists()
        assert not path.exists()

    def test_a_locked_database_is_said_to_be_locked(self, path: Path) -> None:
        """After waiting for the other process as long as any change would."""
        open_store(settings_of(path)).close()
        locker = apsw.Connection(str(path))
        locker.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        locker.execute("BEGIN EXCLUSIVE; UPDATE accounts SET name = name")
        with pytest.raises(ConfigurationError, match=r"gateway\.db: the database is locked by another process"):
            open_store(settings_of(path))
        locker.close()

    def test_a_store_of_the_first_schema_is_brought_up_to_date_with_its_calls_and_balances(self, path: Path) -> None:
        """What an account has becomes the first entry of its books."""
        with open_store(settings_of(path)) as store:
            account = store.accounts.add(replace(new_account("acme"), balance_micros=7_000_000))
            store.append(new_record(account.id))
        old = apsw.Connection(str(path))
        for table in ("jobs", "entries", "holds", "idempotency"):
            old.execute(f"DROP TABLE {table}")
        for column in ("held_micros", "tokens_per_minute", "price_list", "lang_prompt", "cache"):
            old.execute(f"ALTER TABLE accounts DROP COLUMN {column}")
        for column in (
            "prompt_tokens", "completion_tokens", "cached_tokens", "charge_micros", "shortfall_micros", "settled",
            "translate_status", "translation_micros",
        ):  # fmt: skip
            old.execute(f"ALTER TABLE calls DROP COLUMN {column}")
        old.execute("PRAGMA user_version = 1")
        old.close()
        with open_store(settings_of(path)) as store:
            store.append(replace_struct(new_record(account.id), prompt_tokens=3, completion_tokens=4))
            store.flush()
            seen = [(record.prompt_tokens, record.completion_tokens, record.cached_tokens) for record in store.calls()]
            assert store.accounts.by_name("acme") == account
        assert seen == [(3, 4, None), (None, None, None)]
        check_books(path)

    def test_two_processes_may_create_a_store_at_once(self, path: Path) -> None:
        """One of them creates it, and all agree on the schema and the pepper."""
        script = f"""
import sys
from tests.test_store import *
store = open_store(settings_of(Path({str(path)!r})))
account = store.accounts.add(new_account(sys.argv[1]))
print(store.pepper.id)
store.close()
"""
        processes = [
            subprocess.Popen([sys.executable, "-c", script, name], stdout=subprocess.PIPE, text=True)
            for name in ("a", "b", "c")
        ]
        said = {process.communicate()[0] for process in processes}
        assert [process.returncode for process in processes] == [0, 0, 0]
        assert len(said) == 1

    @pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.9.0"])
    def test_a_library_with_known_corruption_is_refused(self, version: str) -> None:
        """The WAL-reset fault was mended in 3.51.3."""
        with pytest.raises(ConfigurationError, match=re.escape(version)):
            require_sqlite(version)
        for sound in ("3.51.3", "3.52.0", "4.0.0"):
            require_sqlite(sound)

    @pytest.mark.parametrize(
        ("url", "fault"),
        [
            ("postgresql://u:hunter2@db/gateway", "not supported yet"),
            ("mysql://u:hunter2@db", "expected sqlite"),
            ("sqlite:///", "expected sqlite"),
        ],
    )
    def test_other_databases_are_refused(self, url: str, fault: str) -> None:
        """Without repeating the password that may stand in the URL."""
        with pytest.raises(ConfigurationError, match=f"store.url: .*{fault}") as refusal:
            open_store(Settings(store=StoreSettings(url=url)))
        assert "hunter2" not in str(refusal.value)

    def test_the_migrations_are_numbered_without_gaps(self) -> None:
        """A number that is missing or given twice would leave some databases behind."""
        files = sorted(Path(str(sys.modules["gateway.store"].__file__)).parent.glob("*.sql"))
        assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))


class TestPepper:
    """The pepper beside the database, or where the settings say."""

    def test_it_is_refused_when_it_is_missing_though_accounts_need_it(self, store: SqliteStore, acme: Account) -> None:
        """A new one would make every secret wrong."""
        pepper = store.path.with_name("gateway.db.pepper")
        pepper.unlink()
        with pytest.raises(ConfigurationError, match=r"gateway\.db\.pepper: no such file"):
            open_store(settings_of(store.path))
        assert not pepper.exists()

    def test_another_one_than_the_accounts_were_made_with_is_refused(self, store: SqliteStore, acme: Account) -> None:
        """Nobody could call, and nobody would know why."""
        store.path.with_name("gateway.db.pepper").write_text("ab" * 32)
        with pytest.raises(ConfigurationError, match="another pepper"):
            open_store(settings_of(store.path))

    def test_each_purpose_has_a_key_of_its_own(self, store: SqliteStore) -> None:
        """None of them is the hash of a secret."""
        pepper = store.pepper
        keys = {pepper.key_for("a"), pepper.key_for("b"), pepper.digest("a"), pepper.digest("b")}
        assert len(keys) == 4
        assert pepper.key_for("a") == pepper.key_for("a")
        assert len(pepper.key_for("a")) == 32

    @pytest.mark.parametrize("mode", [0o604, 0o602, 0o644])
    def test_a_file_that_everyone_can_open_is_refused(self, store: SqliteStore, mode: int) -> None:
        """Read or write."""
        pepper = store.path.with_name("gateway.db.pepper")
        pepper.chmod(mode)
        with pytest.raises(ConfigurationError, match=r"gateway\.db\.pepper: .*chmod 600"):
            open_store(settings_of(store.path))

    @pytest.mark.parametrize("content", ["", "hello", "ab" * 31, "ab" * 33, "zz" * 32, "\N{SNOWMAN}"])
    def test_a_file_that_holds_no_pepper_is_refused_without_showing_it(self, path: Path, content: str) -> None:
        """Half a pepper is none."""
        pepper = path.with_name("gateway.db.pepper")
        pepper.touch(mode=0o600)
        pepper.write_text(content)
        with pytest.raises(ConfigurationError, match=r"gateway\.db\.pepper: a pepper is 64 hex digits") as refusal:
            open_store(settings_of(path))
        assert not content or content not in str(refusal.value)

    def test_a_file_of_its_own_can_be_named(self, path: Path, tmp_path: Path) -> None:
        """It is created there, and nothing lies beside the database."""
        named = tmp_path / "secrets" / "pepper"
        with pytest.raises(ConfigurationError, match="directory of the pepper does not exist"):
            open_store(settings_of(path, pepper_file=str(named)))
        named.parent.mkdir()
        open_store(settings_of(path, pepper_file=str(named))).close()
        assert stat.S_IMODE(named.stat().st_mode) == 0o600
        assert not path.with_name("gateway.db.pepper").exists()

    def test_it_can_come_from_the_environment(self, path: Path) -> None:
        """Then no file is written at all."""
        settings = settings_of(path, pepper_env="PEPPER")
        with pytest.raises(ConfigurationError, match="the environment has no PEPPER"):
            open_store(settings, {})
        with open_store(settings, {"PEPPER": "ab" * 32}) as store:
            digest = store.pepper.digest("secret")
        with open_store(settings, {"PEPPER": "ab" * 32}) as store:
            assert store.pepper.digest("secret") == digest
        assert not path.with_name("gateway.db.pepper").exists()

    def test_the_secret_is_nowhere_in_the_files(self, path: Path) -> None:
        """Not even its plain hash."""
        with open_store(settings_of(path)) as store:
            store.accounts.add(replace(new_account("acme"), secret_digest=store.pepper.digest("canary-secret")))
            assert all(b"canary-secret" not in file.read_bytes() for file in path.parent.iterdir())


def test_days_turn_at_midnight_of_their_zone() -> None:
    """Also where a day has 23 or 25 hours, and for moments in any order."""
    days = Days("Europe/Berlin")
    for year, month, day, hours in ((2022, 3, 27, 23), (2022, 10, 30, 25), (2022, 6, 1, 24)):
        start = datetime(year, month, day, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
        name = f"{year}-{month:02}-{day:02}"
        assert [days.day_of(start + hour * 3600) == name for hour in (-0.001, 0, hours - 0.001, hours)] == [
            False,
            True,
            True,
            False,
        ]
        assert {days.end_of(start + hour * 3600) for hour in (0, 5, hours - 0.001)} == {start + hours * 3600}


def test_the_zone_comes_from_the_settings(path: Path) -> None:
    """Not from the machine that the gateway runs on."""
    noon = datetime(2022, 10, 11, 12, tzinfo=ZoneInfo("UTC")).timestamp()
    settings = settings_of(path)
    for zone, day in (("Pacific/Kiritimati", "2022-10-12"), ("Pacific/Niue", "2022-10-11")):
        with open_store(replace_struct(settings, defaults=DefaultsSettings(timezone=zone))) as store:
            account = store.accounts.add(new_account(zone))
            store.append(new_record(account.id, started_at=noon))
            store.flush()
            assert store.call_counts(day)[account.id].today == 1
