"""Jobs in the store: each taken by one, ended once, and paid once, whatever process dies in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.config import JobsSettings, Settings, StoreSettings
from gateway.store import SqliteStore, open_store
from gateway.store.interface import Hold, InsufficientBalanceError, KeyTakenError, TooManyJobsError
from gateway.store.jobs import JobEnd, JobPrice, NewJob
from gateway.store.sqlite_jobs import Finish, Mark, Release, Submit, Take, Told, Untold
from gateway.types import Account
from tests.books import check_books

BASE = 10**15
PRICE = JobPrice(per_call_micros=100, per_image_micros=10, extra_micros=3, translation_micros=4)
DONE = JobEnd("0000", ("https://images.example/1",))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with open_store(settings_of(tmp_path)) as store:
        yield store


def settings_of(directory: Path) -> Settings:
    return Settings(store=StoreSettings(url=f"sqlite:///{directory}/gateway.db"), jobs=JobsSettings())


@pytest.fixture
def acme(store: SqliteStore) -> Account:
    return store.accounts.add(Account(0, "acme", "acme-key", bytes(32), balance_micros=1_000_000))


def new_job(account: Account, number: int, *, amount: int = 150, key: str | None = None, most_open: int = 99) -> NewJob:
    call_id, request_id = number << 10 | 1, f"1.{number:x}"
    hold = Hold(call_id, account.id, amount, request_id, "custom", "images/submit", None, time.time(), "::1", key)
    return NewJob(hold, PRICE, BASE + number, f"prompt {number}", b'{"prompt":"x"}', None, most_open, 1_000)


async def taken(
    store: SqliteStore, *running: int, node: int = 1, workers: int = 99, per_account: int = 99
) -> list[int]:
    """The numbers of the jobs that a node gets which works on these."""
    jobs = await store.step(Take(node, tuple(BASE + number for number in running), workers, per_account))
    return [job.id - BASE for job in jobs]


async def test_a_job_and_its_hold_are_made_together_and_only_once(store: SqliteStore, acme: Account) -> None:
    """A commit may succeed and seem to have failed: then the same step comes again."""
    job = new_job(acme, 1)
    assert await store.step(Submit(job)) == await store.step(Submit(job)) == BASE + 1
    assert store.account(acme.id).held_micros == 150
    found = store.job(BASE + 1, acme.id)
    assert found is not None
    assert (found.imgid, found.status, found.prompt) == ("1000000000000001", "NOT_START", "prompt 1")
    assert store.call_counts("")[acme.id].succeeded == 1
    assert store.calls() == []


async def test_two_jobs_of_one_microsecond_have_numbers_of_their_own(store: SqliteStore, acme: Account) -> None:
    first, second = new_job(acme, 1), replace(new_job(acme, 2), imgid=BASE + 1)
    assert [await store.step(Submit(job)) for job in (first, second)] == [BASE + 1, BASE + 2]


async def test_what_is_refused_changes_nothing(store: SqliteStore, acme: Account) -> None:
    await store.step(Submit(new_job(acme, 1, key="k")))
    for job, error in (
        (new_job(acme, 2, amount=1_000_000), InsufficientBalanceError),
        (new_job(acme, 3, most_open=1), TooManyJobsError),
        (new_job(acme, 4, key="k"), KeyTakenError),
    ):
        with pytest.raises(error):
            await store.step(Submit(job))
    assert store.account(acme.id).held_micros == 150
    assert len(store.jobs(acme.id, None, 9)) == 1
    assert store.call_counts("")[acme.id].total == 1


async def test_its_answer_is_kept_under_its_key_at_once(store: SqliteStore, acme: Account) -> None:
    await store.step(Submit(new_job(acme, 1, key="k")))
    keyed = store.keyed(acme.id, "k")
    assert keyed is not None
    assert not keyed.running
    assert keyed.answer is not None
    assert keyed.answer.body == b'{"imgid":"1000000000000001"}'


async def test_a_job_ends_and_pays_once(store: SqliteStore, acme: Account) -> None:
    await store.step(Submit(new_job(acme, 1)))
    ends = [Finish(BASE + 1, acme.id, end, 1) for end in (DONE, DONE, JobEnd("5000", fail_reason="late"))]
    assert [await store.step(end) for end in ends] == [True, False, False]
    account = store.account(acme.id)
    assert (account.balance_micros, account.held_micros) == (1_000_000 - 113, 0)
    [record] = store.calls()
    assert (record.outcome, record.charge_micros, record.settled, record.translation_micros) == (
        "0000",
        113,
        "exact",
        4,
    )
    assert store.call_counts("")[acme.id].total == 1
    check_books(store.path)


@pytest.mark.parametrize(("unknown", "settled"), [(False, "exact"), (True, "unknown")])
async def test_a_job_that_fails_pays_nothing(store: SqliteStore, acme: Account, unknown: bool, settled: str) -> None:
    await store.step(Submit(new_job(acme, 1)))
    await store.step(Finish(BASE + 1, acme.id, JobEnd("4002", fail_reason="why", unknown=unknown), 1))
    account = store.account(acme.id)
    assert (account.balance_micros, account.held_micros) == (1_000_000, 0)
    assert [(record.outcome, record.charge_micros, record.settled) for record in store.calls()] == [
        ("4002", 0, settled)
    ]
    check_books(store.path)


async def test_the_accounts_take_turns_within_their_limits(store: SqliteStore, acme: Account) -> None:
    other = store.accounts.add(Account(0, "other", "other-key", bytes(32), balance_micros=1_000))
    for number in range(1, 5):
        await store.step(Submit(new_job(acme, number)))
    for number in (11, 12):
        await store.step(Submit(new_job(other, number)))
    assert await taken(store, workers=3, per_account=2) == [1, 2, 11]
    assert await taken(store, 1, 2, 11, workers=99, per_account=2) == [12]
    assert await taken(store, 1, 2, 11, 12, per_account=2) == []
    await store.step(Finish(BASE + 1, acme.id, DONE, 1))
    assert await taken(store, node=2, per_account=2) == [3]


async def test_what_a_node_took_and_does_not_work_on_is_given_to_it_again(store: SqliteStore, acme: Account) -> None:
    await store.step(Submit(new_job(acme, 1)))
    assert await taken(store) == [1]
    assert await taken(store) == [1]
    assert await taken(store, 1) == []
    assert await taken(store, node=2) == []


async def test_of_a_dead_node_s_jobs_only_those_are_stuck_that_a_backend_may_have_without_an_id(
    store: SqliteStore, acme: Account
) -> None:
    for number in (1, 2, 3):
        await store.step(Submit(new_job(acme, number)))
    assert await taken(store, node=7) == [1, 2, 3]
    await store.step(Mark(BASE + 2, {"sent_ms": 5, "status": "SUBMITTED"}))
    await store.step(Mark(BASE + 3, {"sent_ms": 5, "backend": "midjourney", "backend_id": "x"}))
    [stuck] = await store.step(Release((7,), again=False))
    assert stuck.id == BASE + 2
    assert await taken(store) == [1, 3]
    assert await taken(store, 1, 3, node=7) == []  # not even for itself
    assert await store.step(Release((7,), again=True)) == []
    assert await taken(store, 1, 3) == [2]


async def test_the_hold_of_an_open_job_is_not_released_as_one_of_a_dead_process(tmp_path: Path) -> None:
    with open_store(settings_of(tmp_path)) as store:
        account = store.accounts.add(Account(0, "acme", "acme-key", bytes(32), balance_micros=1_000_000))
        await store.step(Submit(new_job(account, 1)))
        await store.hold(new_job(account, 2).hold)  # of a call
    with open_store(settings_of(tmp_path)) as store:
        assert store.claim(1) == 1
        assert store.account(account.id).held_micros == 150
        assert store.greatest_call_id() >= 2 << 10 | 1
        await store.step(Finish(BASE + 1, account.id, DONE, 1))
        assert store.account(account.id).balance_micros == 1_000_000 - 113
        check_books(store.path)


async def test_an_end_is_told_by_one_node_until_it_was_told(store: SqliteStore, acme: Account) -> None:
    await store.step(Submit(replace(new_job(acme, 1), notify="http://a/")))
    assert await store.step(Untold(1)) == []
    await store.step(Finish(BASE + 1, acme.id, DONE, 1))
    assert await store.step(Untold(2)) == []
    assert await store.step(Untold(1)) == [(BASE + 1, "http://a/")]
    await store.step(Release((1,), again=False))  # which has died
    assert await store.step(Untold(2)) == [(BASE + 1, "http://a/")]
    assert store.has_untold_jobs()
    await store.step(Told(BASE + 1))
    assert await store.step(Untold(2)) == []
    assert not store.has_untold_jobs()


NAMES = st.sampled_from(("submit", "take", "mark", "finish", "fail", "release"))
STEPS = st.lists(st.tuples(NAMES, st.integers(1, 6)), max_size=30)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_the_books_add_up_whatever_is_done_in_whatever_order(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with open_store(settings_of(tmp_path_factory.mktemp("jobs"))) as store:
        account = store.accounts.add(Account(0, "acme", "acme-key", bytes(32), balance_micros=1_000_000))
        asyncio.run(_make(store, account, steps))
        check_books(store.path)
        jobs = store.jobs(account.id, None, 99)
        succeeded = sum(job.status == "SUCCESS" for job in jobs)
        now = store.account(account.id)
        assert now.balance_micros == 1_000_000 - 113 * succeeded
        assert now.held_micros == 150 * sum(not job.is_over for job in jobs)
        assert len(store.calls()) == sum(job.is_over for job in jobs)


async def _make(store: SqliteStore, account: Account, steps: list[tuple[str, int]]) -> None:
    for step, number in steps:
        id_ = BASE + number
        if step == "submit":
            await store.step(Submit(new_job(account, number)))
        elif step == "take":
            await store.step(Take(number, (), 2, 2))
        elif step == "mark":
            await store.step(Mark(id_, {"sent_ms": 1}))
        elif step == "release":
            await store.step(Release((number,), again=False))
        else:
            await store.step(Finish(id_, account.id, DONE if step == "finish" else JobEnd("5000"), 1))
