"""What is read of jobs: each account its own, page by page, and old ones no longer."""

from __future__ import annotations

import apsw

from gateway.store import SqliteStore
from gateway.store.sqlite_job_list import prune_jobs
from gateway.store.sqlite_jobs import Finish, Submit
from gateway.types import Account
from tests.test_sqlite_jobs import BASE, DONE, acme, new_job, store

__all__ = ["acme", "store"]  # fixtures


async def test_an_account_sees_its_own_newest_first(store: SqliteStore, acme: Account) -> None:
    other = store.accounts.add(Account(0, "other", "other-key", bytes(32), balance_micros=1_000))
    for number, account in enumerate((acme, other, acme, acme), start=1):
        await store.step(Submit(new_job(account, number)))
    for before_id, limit, numbers in ((None, 9, [4, 3, 1]), (None, 2, [4, 3]), (BASE + 3, 9, [1]), (BASE + 1, 9, [])):
        assert [int(job.imgid) - BASE for job in store.jobs(acme.id, before_id, limit)] == numbers
    assert store.job(BASE + 2, acme.id) is None
    assert store.job(BASE + 2, other.id) == store.job(BASE + 2)
    assert store.job(BASE + 9) is None


async def test_old_ends_are_deleted_and_open_jobs_stay(store: SqliteStore, acme: Account) -> None:
    for number in (1, 2):
        await store.step(Submit(new_job(acme, number)))
    await store.step(Finish(BASE + 1, acme.id, DONE, 1))
    connection = apsw.Connection(str(store.path))
    assert not prune_jobs(connection, 3_600, 10)
    assert len(store.jobs(acme.id, None, 9)) == 2
    assert prune_jobs(connection, -3_600, 1)
    assert [job.prompt for job in store.jobs(acme.id, None, 9)] == ["prompt 2"]
    connection.close()
