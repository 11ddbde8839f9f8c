from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace as replace_struct

from gateway.accounts import AccountDirectory, AccountSource
from gateway.config import Settings, StoreSettings
from gateway.credentials import Credentials
from gateway.errors import GatewayError
from gateway.ids import CallIds
from gateway.store import AccountChanges, Days, SqliteStore, StoreError, open_store
from gateway.types import Account, CallCounts, CallRecord

ZONE = "Asia/Shanghai"
SECRET = "right-secret"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with open_store(Settings(store=StoreSettings(url=f"sqlite:///{tmp_path}/gateway.db"))) as store:
        yield store


@pytest.fixture
def acme(store: SqliteStore) -> Account:
    return store.accounts.add(Account(0, "acme", "acme-key", store.pepper.digest(SECRET)))


@asynccontextmanager
async def started(
    source: AccountSource, digest: Callable[[str], bytes], **options: float
) -> AsyncIterator[AccountDirectory]:
    directory = AccountDirectory(source, digest, Days(ZONE), **options)
    await directory.start()
    try:
        yield directory
    finally:
        await directory.stop()


@pytest.fixture
async def directory(store: SqliteStore, acme: Account) -> AsyncIterator[AccountDirectory]:
    async with started(store, store.pepper.digest) as directory:
        yield directory


def refusal(directory: AccountDirectory, key: str, secret: str, ip: str = "192.0.2.1", now: float = 1e9) -> str:
    with pytest.raises(GatewayError) as caught:
        directory.find(Credentials(key, secret), ip, now)
    assert not secret or secret not in str(caught.value)
    return caught.value.code.code


def record(account: Account, outcome: str = "0000", at: float | None = None) -> CallRecord:
    return CallRecord(
        id=1,
        request_id="1.0",
        account_id=account.id,
        front="custom",
        method="v1/models",
        model=None,
        outcome=outcome,
        status=200,
        streamed=False,
        cut=False,
        started_at=time.time() if at is None else at,
        duration_s=0.1,
        first_byte_s=None,
        sent_bytes=10,
    )


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> float:
    """Waits for a change that another task makes; returns how long it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout_s
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


async def test_the_right_credentials_find_the_account(directory: AccountDirectory, acme: Account) -> None:
    """From any address, where the account has no list."""
    assert directory.find(Credentials("acme-key", SECRET), "192.0.2.1", time.time()) == acme


@pytest.mark.parametrize(
    "key", ["", "ACME-KEY", "acme-key ", "acme-key\0", "x" * 257, "x" * 1_000_000, "\ud800", "向日葵"]
)
async def test_a_key_that_nobody_has_is_4004(directory: AccountDirectory, key: str) -> None:
    """Whatever it is made of."""
    assert refusal(directory, key, SECRET) == "4004"


@pytest.mark.parametrize("secret", ["", "guessed", SECRET + " ", SECRET.upper(), "\udfff", "y" * 1_000_000])
async def test_a_wrong_secret_is_4005(directory: AccountDirectory, secret: str) -> None:
    """Whatever it is made of."""
    assert refusal(directory, "acme-key", secret) == "4005"


async def test_an_address_off_the_list_is_4005(store: SqliteStore, acme: Account) -> None:
    """IPv4 in its IPv6 spelling is the same address; what is no address is on no list."""
    networks = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
    store.accounts.update("acme", lambda account: replace(account, allow_from=networks))
    async with started(store, store.pepper.digest) as directory:
        for ip in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::5"):
            assert directory.find(Credentials("acme-key", SECRET), ip, 1e9).name == "acme"
        for ip in ("11.1.2.3", "::ffff:11.1.2.3", "::1", "", "unix:"):
            assert refusal(directory, "acme-key", SECRET, ip) == "4005"


async def test_faults_are_found_in_the_contracts_order(store: SqliteStore, acme: Account) -> None:
    """A wrong secret is said before a wrong address, and both before a stop."""
    change = replace(acme, stopped=True, expires_at=5.0, allow_from=(ip_network("10.0.0.0/8"),))
    store.accounts.update("acme", lambda _: change)
    async with started(store, store.pepper.digest) as directory:
        assert refusal(directory, "no-key", "guessed") == "4004"
        assert refusal(directory, "acme-key", "guessed") == "4005"
        assert refusal(directory, "acme-key", SECRET) == "4005"
        assert refusal(directory, "acme-key", SECRET, "10.0.0.1") == "4007"


async def test_an_account_expires_at_its_moment(store: SqliteStore, acme: Account) -> None:
    """The moment itself is already too late."""
    store.accounts.update("acme", lambda account: replace(account, expires_at=1000.0))
    async with started(store, store.pepper.digest) as directory:
        assert directory.find(Credentials("acme-key", SECRET), "", 999.9).name == "acme"
        assert refusal(directory, "acme-key", SECRET, now=1000.0) == "4007"


async def test_unknown_keys_and_wrong_secrets_cost_the_same_hash(store: SqliteStore, acme: Account) -> None:
    """The keyed hash is computed once for each, over no more than a secret's length."""
    hashed: list[int] = []

    def digest(secret: str) -> bytes:
        hashed.append(len(secret))
        return store.pepper.digest(secret)

    async with started(store, digest) as directory:
        refusal(directory, "no-key", "x" * 1000)
        refusal(directory, "acme-key", "x" * 1000)
        refusal(directory, "k" * 1000, "x" * 1000)
    assert hashed == [257, 257, 257]


@pytest.mark.parametrize(
    ("methods", "stopped", "method", "code"),
    [
        (None, (), "v1/anything", None),
        (("v1/chat/*", "images/submit"), (), "v1/chat/completions", None),
        (("v1/chat/*", "images/submit"), (), "images/submit", None),
        (("v1/chat/*",), (), "v1/embeddings", "4012"),
        ((), (), "v1/models", "4012"),
        (None, ("v1/files*",), "v1/files/abc/content", "4006"),
        (None, ("v1/files*",), "v1/models", None),
        (("v1/chat/*",), ("v1/*",), "v1/chat/completions", "4006"),
        (("v1/chat/*",), ("v1/e*",), "v1/embeddings", "4006"),
        (("v1/chat.completions",), (), "v1/chat/completions", "4012"),
        (("v1/Chat/*",), (), "v1/chat/completions", "4012"),
        (("v1/[ce]*",), (), "v1/embeddings", None),
        (("[",), (), "v1/models", "4012"),
        (("*",), (), "v1/a\nb", None),
    ],
)
async def test_methods_are_given_and_stopped_by_globs(
    store: SqliteStore,
    acme: Account,
    methods: tuple[str, ...] | None,
    stopped: tuple[str, ...],
    method: str,
    code: str | None,
) -> None:
    """A stop (4006) is said before a method that was never given (4012); globs know case and no regular expressions."""
    change = replace(acme, methods=methods, stopped_methods=stopped)
    account = store.accounts.update("acme", lambda _: change)
    async with started(store, store.pepper.digest) as directory:
        if code is None:
            directory.check_method(account, method)
        else:
            with pytest.raises(GatewayError) as caught:
                directory.check_method(account, method)
            assert caught.value.code.code == code


async def test_a_call_is_checked_by_the_account_as_it_found_it(store: SqliteStore, acme: Account) -> None:
    """A change in the middle of a call takes effect with the next one."""
    async with started(store, store.pepper.digest) as directory:
        account = directory.find(Credentials("acme-key", SECRET), "", 0)
        store.accounts.update("acme", lambda account: replace(account, stopped_methods=("*",)))
        await directory.refresh()
        directory.check_method(account, "v1/models")
        with pytest.raises(GatewayError):
            directory.check_method(directory.find(Credentials("acme-key", SECRET), "", 0), "v1/models")


async def test_a_stop_takes_effect_within_a_second(store: SqliteStore, acme: Account) -> None:
    """Made by another connection, as the command line makes it, without a call touching the disk."""

    async with started(store, store.pepper.digest) as directory:

        def is_stopped() -> bool:
            try:
                directory.find(Credentials("acme-key", SECRET), "", 0)
            except GatewayError:
                return True
            return False

        with open_store(Settings(store=StoreSettings(url=f"sqlite:///{store.path}"))) as other:
            other.accounts.update("acme", lambda account: replace(account, stopped=True))
        assert await until(is_stopped) < 1.0


async def test_changes_are_taken_over_one_by_one(store: SqliteStore, directory: AccountDirectory) -> None:
    """New accounts, new keys, new secrets, deletions, and a deleted account's key in new hands."""
    store.accounts.add(Account(0, "beta", "beta-key", store.pepper.digest("b")))
    store.accounts.update(
        "acme", lambda account: replace(account, key="acme-2", secret_digest=store.pepper.digest("a2"))
    )
    await directory.refresh()
    assert directory.find(Credentials("beta-key", "b"), "", 0).name == "beta"
    assert directory.find(Credentials("acme-2", "a2"), "", 0).name == "acme"
    assert refusal(directory, "acme-key", SECRET) == "4004"
    assert refusal(directory, "acme-2", SECRET) == "4005"
    store.accounts.delete("beta")
    store.accounts.add(Account(0, "gamma", "beta-key", store.pepper.digest("g")))
    await directory.refresh()
    assert directory.find(Credentials("beta-key", "g"), "", 0).name == "gamma"
    store.accounts.delete("gamma")
    await directory.refresh()
    assert refusal(directory, "beta-key", "g") == "4004"


async def test_outcomes_are_counted_by_the_contracts_table(directory: AccountDirectory, acme: Account) -> None:
    """0000 and 2000 apart, what failed after dispatch together, and what was refused before it not at all."""
    for outcome in ("0000", "0000", "2000", "4001", "4017", "5000", "4003", "4008", "4016"):
        directory.count(record(acme, outcome))
    assert directory.counts(acme) == CallCounts(today=6, succeeded=2, empty=1, failed=3)


async def test_what_an_account_is_told_of_itself_is_not_counted(directory: AccountDirectory, acme: Account) -> None:
    for method, outcome in (("account/calls", "0000"), ("account/balance", "4000"), ("images/submit", "0000")):
        directory.count(replace_struct(record(acme, outcome), method=method))
    assert directory.counts(acme) == CallCounts(today=1, succeeded=1)


async def test_what_an_account_is_told_of_itself_needs_not_be_given(store: SqliteStore, acme: Account) -> None:
    """But may be stopped."""
    store.accounts.update("acme", lambda account: replace(account, methods=("v1/models",)))
    async with started(store, store.pepper.digest) as directory:
        directory.check_method(store.accounts.by_name("acme"), "account/balance")
        stopped = replace(acme, stopped_methods=("account/*",))
        with pytest.raises(GatewayError, match="4006"):
            directory.check_method(stopped, "account/balance")


async def test_an_account_that_never_called_has_counts_of_zero(directory: AccountDirectory, acme: Account) -> None:
    """There is nothing to load for it."""
    assert directory.counts(acme) == CallCounts()


async def test_counts_go_on_after_a_restart(store: SqliteStore, acme: Account) -> None:
    """What the store has is where the memory begins."""
    store.append(replace_struct(record(acme), id=CallIds(1).next()[1]))
    assert store.flush()
    async with started(store, store.pepper.digest) as directory:
        directory.count(record(acme, "2000"))
        assert directory.counts(acme) == CallCounts(today=2, succeeded=1, empty=1, failed=0)


async def test_today_turns_at_the_operators_midnight(directory: AccountDirectory, acme: Account) -> None:
    """A clock that is set back finds the day before as it was: no quota is given twice."""
    midnight = datetime(2022, 10, 12, tzinfo=ZoneInfo(ZONE)).timestamp()
    for at in (midnight - 2, midnight - 1, midnight):
        directory.count(record(acme, at=at))
    assert directory.counts(acme, midnight - 1).today == 2
    assert directory.counts(acme, midnight).today == 1
    assert directory.counts(acme, midnight - 1).today == 2
    assert directory.counts(acme, midnight + 86_400).today == 0
    assert directory.counts(acme, midnight + 86_400).total == 3


class Failing:
    """A store that can be out of reach."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.broken = False
        self.error: Exception = StoreError("out of reach")
        self.reads = 0

    def accounts_since(self, revision: int) -> AccountChanges:
        self.reads += 1
        if self.broken:
            raise self.error
        return self.store.accounts_since(revision)

    def call_counts(self, day: str) -> dict[int, CallCounts]:
        return self.store.call_counts(day)


class Exhausted(ThreadPoolExecutor):
    """A pool that can start no thread."""

    refused = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.refused += 1
        raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreError("out of reach"), "out of reach"),
        (RuntimeError("can't start new thread: a secret"), "RuntimeError"),
        (MemoryError(), "MemoryError"),
    ],
)
async def test_accounts_stay_in_force_while_the_store_fails(
    store: SqliteStore, acme: Account, caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    """An outage is logged once, its end too, and then changes are followed again, whatever the outage was."""
    source = Failing(store)
    source.error = error
    async with started(source, store.pepper.digest, poll_s=0.01) as directory:
        source.broken = True
        reads = source.reads
        await until(lambda: source.reads > reads + 3)
        assert directory.find(Credentials("acme-key", SECRET), "", 0).name == "acme"
        source.broken = False
        store.accounts.update("acme", lambda account: replace(account, key="acme-2"))
        reads = source.reads
        await until(lambda: source.reads > reads + 3)
        assert directory.find(Credentials("acme-2", SECRET), "", 0).name == "acme"
    assert [entry.levelname for entry in caplog.records] == ["ERROR", "WARNING"]
    assert caplog.messages[0].endswith(f": {said}")


async def test_a_process_without_threads_to_spare_goes_on_following(store: SqliteStore, acme: Account) -> None:
    """The loop's thread pool itself may refuse the work, and take it again later."""
    loop = asyncio.get_running_loop()
    source = Failing(store)
    async with started(source, store.pepper.digest, poll_s=0.01) as directory:
        exhausted = Exhausted()
        loop.set_default_executor(exhausted)
        await until(lambda: exhausted.refused > 3)
        loop.set_default_executor(ThreadPoolExecutor())
        store.accounts.update("acme", lambda account: replace(account, key="acme-2"))
        reads = source.reads
        await until(lambda: source.reads > reads + 3)
        assert directory.find(Credentials("acme-2", SECRET), "", 0).name == "acme"


async def test_a_stop_in_the_middle_of_an_outage_raises_nothing(store: SqliteStore, acme: Account) -> None:
    """What is known stays known."""
    source = Failing(store)
    source.error = RuntimeError("can't start new thread")
    async with started(source, store.pepper.digest, poll_s=0.01) as directory:
        source.broken = True
        reads = source.reads
        await until(lambda: source.reads > reads)
    assert directory.find(Credentials("acme-key", SECRET), "", 0).name == "acme"


async def test_a_store_that_fails_at_the_start_stops_the_start(store: SqliteStore) -> None:
    """A gateway that knows no account would refuse everyone."""
    source = Failing(store)
    source.broken = True
    with pytest.raises(StoreError, match="out of reach"):
        await AccountDirectory(source, store.pepper.digest, Days(ZONE)).start()
