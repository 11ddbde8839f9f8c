"""Who waits for a job hears of its change at once, and does not wait where too many do or nobody should."""

from __future__ import annotations

import asyncio
from time import monotonic

from gateway.jobs.changes import Changes


async def test_a_change_wakes_all_who_wait_for_that_job_and_no_others() -> None:
    changes = Changes()
    first, second, other = changes.listen(1), changes.listen(1), changes.listen(2)
    changes.tell(1)
    assert (first.is_set(), second.is_set(), other.is_set()) == (True, True, False)
    for number, event in ((1, first), (1, second), (2, other)):
        changes.forget(number, event)
    changes.tell(1)


async def test_a_wait_ends_with_the_change_or_after_its_limit() -> None:
    changes = Changes()
    event = changes.listen(1)
    began = monotonic()
    await changes.wait(event, 0.05)
    assert monotonic() - began >= 0.05
    asyncio.get_running_loop().call_later(0.01, changes.tell, 1)
    began = monotonic()
    await changes.wait(event, 10)
    assert monotonic() - began < 0.9
    assert not event.is_set()


async def test_so_many_calls_of_one_account_wait_and_no_more() -> None:
    changes = Changes()
    assert [changes.enter(1) for _ in range(33)] == [True] * 32 + [False]
    assert changes.enter(2)
    changes.leave(1)
    assert changes.enter(1)


async def test_at_the_end_everyone_is_woken_and_nobody_waits_any_more() -> None:
    changes = Changes()
    event = changes.listen(1)
    changes.end()
    assert event.is_set()
    assert not changes.enter(1)
