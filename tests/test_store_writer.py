"""The writer's hand-over between the event loop and its thread: nothing waits in vain, spins or is lost in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from gateway.store import SqliteStore, open_store
from gateway.store.interface import Charged, Hold, Settlement
from gateway.store.sqlite_writer import Writer
from gateway.types import Account
from tests.books import check_books, rows
from tests.test_store import new_account, new_record, settings_of, until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with open_store(settings_of(path)) as store:
        yield store
        assert store.flush()
    check_books(path)


@pytest.fixture
def acme(store: SqliteStore) -> Account:
    return store.accounts.add(new_account("acme"))


def hold_of(account: Account, call_id: int) -> Hold:
    return Hold(call_id, account.id, 0, "1.x", "native", "v1/models", None, 0.0, "")


def once_cleared(writer: Writer, event: str, then: Callable[[], None]) -> None:
    """Has `then` run in the writer's thread, once, right after it has cleared one of its events."""
    flag = getattr(writer, event)
    clear = flag.clear

    def cleared() -> None:
        clear()
        flag.clear = clear
        then()

    flag.clear = cleared


async def test_a_hold_that_comes_while_the_thread_turns_to_another_leaves_no_later_one_waiting(
    store: SqliteStore, acme: Account
) -> None:
    loop, writer = asyncio.get_running_loop(), store.writer
    begun = []

    def begin_second() -> None:
        begun.append(asyncio.run_coroutine_threadsafe(writer.perform(hold_of(acme, 2)), loop))
        until(writer._urgent.is_set)  # it was handed over
        time.sleep(0.01)

    once_cleared(writer, "_urgent", begin_second)
    await writer.perform(hold_of(acme, 1))
    await asyncio.wrap_future(begun[0])
    await asyncio.sleep(0.2)  # the thread has nothing to do, and sleeps
    async with asyncio.timeout(2):  # it slept until its next upkeep
        await writer.perform(hold_of(acme, 3))


async def test_a_call_that_comes_while_the_thread_turns_to_another_does_not_keep_it_spinning(
    store: SqliteStore, acme: Account
) -> None:
    once_cleared(store.writer, "_wake", lambda: store.append(new_record(acme.id)))
    await store.writer.perform(hold_of(acme, 1))
    await asyncio.sleep(0.3)
    used_s = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - used_s < 0.1


async def test_an_address_that_is_no_text_keeps_no_hold_and_its_call_is_charged(
    store: SqliteStore, path: Path, acme: Account
) -> None:
    store.accounts.top_up("acme", 100)
    record = replace(new_record(acme.id), client_ip="\udcff", charge_micros=7, shortfall_micros=0)
    await store.hold(replace(hold_of(acme, record.id), client_ip="\udcff", amount_micros=9))
    assert await store.settle(Settlement(record)) == Charged(7, 0)
    assert rows(path, "SELECT call_id FROM holds") == []
    assert store.calls() == [replace(record, client_ip="?")]


@pytest.mark.parametrize("woken", [False, True])
async def test_a_settlement_that_is_refused_while_its_caller_is_cancelled_is_made_all_the_same(
    store: SqliteStore, path: Path, acme: Account, monkeypatch: pytest.MonkeyPatch, woken: bool
) -> None:
    record = new_record(acme.id)
    await store.hold(hold_of(acme, record.id))
    writer = store.writer
    refused = asyncio.Event()
    wake_all = writer._wake_all

    def wake_and_cancel(ops: list[object]) -> None:
        if woken:  # its future is done already, and its task has had no turn
            wake_all(ops)  # type: ignore[arg-type]
        task.cancel()
        if not woken:
            wake_all(ops)  # type: ignore[arg-type]
        refused.set()

    def full(*_: object) -> None:
        raise apsw.FullError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write", full)
        patch.setattr(writer, "_patience_s", 0.0)
        patch.setattr(writer, "_wake_all", wake_and_cancel)
        task = asyncio.create_task(store.settle(Settlement(record)))
        await refused.wait()
    with suppress(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(store.flush)
    assert rows(path, "SELECT call_id FROM holds") == []
    assert store.calls() == [record]
