from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from functools import partial
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts import AccountDirectory
from gateway.errors import GatewayError
from gateway.limits import Limits, MemoryLimits, Slot
from gateway.store.counting import Days
from gateway.store.interface import AccountChanges
from gateway.types import Account, CallCounts, CallRecord

ZONE = "Asia/Shanghai"
NOON = datetime(2022, 10, 11, 12, tzinfo=ZoneInfo(ZONE)).timestamp()
MIDNIGHT = NOON + 12 * 3600
ACCOUNT = Account(1, "acme", "acme-key", b"")


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class NoAccounts:
    """A source that has nothing: the directory then counts what it is given."""

    def accounts_since(self, revision: int) -> AccountChanges:
        return AccountChanges((), (), revision)

    def call_counts(self, day: str) -> dict[int, CallCounts]:
        return {}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory() -> AccountDirectory:
    return AccountDirectory(NoAccounts(), lambda _: b"", Days(ZONE))


@pytest.fixture
def limits(directory: AccountDirectory, clock: Clock) -> MemoryLimits:
    return MemoryLimits(directory.counts, Days(ZONE), clock)


def record(started_at: float = NOON, outcome: str = "0000") -> CallRecord:
    return CallRecord(
        id=1,
        request_id="1.0",
        account_id=ACCOUNT.id,
        front="custom",
        method="v1/models",
        model=None,
        outcome=outcome,
        status=200,
        streamed=False,
        cut=False,
        started_at=started_at,
        duration_s=0.1,
        first_byte_s=None,
        sent_bytes=0,
    )


def enter(limits: Limits, account: Account, started_at: float = NOON) -> Slot:
    """Enters in one step: the coroutine must not wait for anything."""
    coroutine = limits.enter(account, started_at)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        slot: Slot = stop.value
        return slot
    raise AssertionError("it waits")


def refusal(limits: Limits, account: Account, started_at: float = NOON) -> tuple[str, int | None]:
    """The code and the seconds of Retry-After."""
    with pytest.raises(GatewayError) as caught:
        enter(limits, account, started_at)
    return caught.value.code.code, caught.value.retry_after_s


async def admitted_at_once(limits: Limits, account: Account, calls: int = 200) -> tuple[list[Slot], set[str]]:
    results = await asyncio.gather(*(limits.enter(account, NOON) for _ in range(calls)), return_exceptions=True)
    codes = {result.code.code for result in results if isinstance(result, GatewayError)}
    return [result for result in results if not isinstance(result, BaseException)], codes


class TestConcurrency:
    async def test_of_200_at_once_exactly_as_many_run_as_may(self, limits: MemoryLimits) -> None:
        """The others are refused; each that ends makes room for one."""
        account = replace(ACCOUNT, concurrency=10)
        slots, codes = await admitted_at_once(limits, account)
        assert (len(slots), codes, limits.running(account.id)) == (10, {"4008"}, 10)
        slots[0].leave()
        slots[0].leave()
        assert limits.running(account.id) == 9
        slots[0] = enter(limits, account)
        assert refusal(limits, account) == ("4008", 1)
        for slot in slots:
            slot.leave()
        assert limits.running(account.id) == 0

    async def test_a_thousand_aborted_calls_leave_nothing_running(self, limits: MemoryLimits) -> None:
        """Cancelled in the middle, as when clients go away."""

        async def call() -> None:
            slot = await limits.enter(ACCOUNT, NOON)
            try:
                await asyncio.Event().wait()
            finally:
                slot.leave(5)

        tasks = [asyncio.create_task(call()) for _ in range(1000)]
        await asyncio.sleep(0)
        assert limits.running(ACCOUNT.id) == 1000
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limits.running(ACCOUNT.id) == 0

    def test_none_may_run(self, limits: MemoryLimits) -> None:
        """Then waiting a second is no use."""
        assert refusal(limits, replace(ACCOUNT, concurrency=0)) == ("4008", 60)

    def test_the_limits_are_those_of_the_account_that_enters(self, limits: MemoryLimits) -> None:
        """An account that is changed while calls run is another object with the same id."""
        slots = [enter(limits, ACCOUNT) for _ in range(3)]
        assert refusal(limits, replace(ACCOUNT, concurrency=2)) == ("4008", 1)
        slots[0].leave()
        slots[1].leave()
        slots.append(enter(limits, replace(ACCOUNT, concurrency=2)))
        assert refusal(limits, replace(ACCOUNT, concurrency=2)) == ("4008", 1)
        enter(limits, replace(ACCOUNT, concurrency=3))

    def test_accounts_are_measured_apart(self, limits: MemoryLimits) -> None:
        """One that is at its limit is in nobody's way."""
        first, second = (replace(ACCOUNT, id=number, concurrency=1) for number in (1, 2))
        enter(limits, first)
        enter(limits, second)
        assert refusal(limits, first) == ("4008", 1)


class TestCallsAMinute:
    async def test_of_200_at_once_exactly_as_many_are_let_in_as_may(self, limits: MemoryLimits, clock: Clock) -> None:
        """And no other for a minute, though all have ended; those refused do not count."""
        account = replace(ACCOUNT, per_minute=7)
        slots, codes = await admitted_at_once(limits, account)
        assert (len(slots), codes) == (7, {"4008"})
        for slot in slots:
            slot.leave()
        clock.now += 59
        assert refusal(limits, account) == ("4008", 1)
        clock.now += 1
        slots, codes = await admitted_at_once(limits, account)
        assert (len(slots), codes) == (7, {"4008"})

    def test_none_is_ever_let_in(self, limits: MemoryLimits, clock: Clock) -> None:
        """With a limit of 0 waiting does not help."""
        for _ in range(3):
            assert refusal(limits, replace(ACCOUNT, per_minute=0)) == ("4008", 60)
            clock.now += 61

    def test_a_wall_clock_that_steps_changes_nothing(self, limits: MemoryLimits) -> None:
        """A minute is measured by the monotonic clock."""
        account = replace(ACCOUNT, per_minute=1)
        enter(limits, account).leave()
        for step_s in (3600, -3600, 0):
            assert refusal(limits, account, NOON + step_s) == ("4008", 60)

    def test_a_limit_that_is_lowered_holds_for_what_came_before(self, limits: MemoryLimits, clock: Clock) -> None:
        """The wait is for as many as have to fall out."""
        for _ in range(10):
            enter(limits, replace(ACCOUNT, per_minute=100)).leave()
            clock.now += 2
        lowered = replace(ACCOUNT, per_minute=3)
        code, wait_s = refusal(limits, lowered)
        assert (code, wait_s) == ("4008", 60 - 20 + 2 * 7)
        clock.now += wait_s or 0
        enter(limits, lowered)


class TestTokensAMinute:
    def test_what_a_call_used_counts_when_it_ends(self, limits: MemoryLimits, clock: Clock) -> None:
        """For a minute from then on; a running call uses nothing yet."""
        account = replace(ACCOUNT, tokens_per_minute=100)
        slow, slower = enter(limits, account), enter(limits, account)
        clock.now += 100
        slow.leave(99)
        enter(limits, account).leave()
        clock.now += 5
        slower.leave(1)
        slower.leave(1000)
        assert refusal(limits, account) == ("4008", 55)
        clock.now += 55
        enter(limits, account)

    def test_one_call_may_use_more_than_the_limit(self, limits: MemoryLimits, clock: Clock) -> None:
        """Nobody knows beforehand; the next waits until all of it has fallen out."""
        account = replace(ACCOUNT, tokens_per_minute=10)
        enter(limits, account).leave(10**9)
        assert refusal(limits, account) == ("4008", 60)
        clock.now += 60
        enter(limits, account)

    def test_the_longer_wait_counts(self, limits: MemoryLimits, clock: Clock) -> None:
        """Where both the calls and the tokens are used up, or else the client would come in vain."""
        account = replace(ACCOUNT, per_minute=1, tokens_per_minute=10)
        slot = enter(limits, account)
        clock.now += 20
        slot.leave(10)
        assert refusal(limits, account) == ("4008", 60)
        assert refusal(limits, replace(account, tokens_per_minute=None)) == ("4008", 40)

    def test_a_limit_of_nothing(self, limits: MemoryLimits) -> None:
        """Lets no call in."""
        assert refusal(limits, replace(ACCOUNT, tokens_per_minute=0)) == ("4008", 60)

    def test_a_limit_that_is_given_while_calls_run(self, limits: MemoryLimits) -> None:
        """Measures those that end after a call has met it."""
        slot = enter(limits, ACCOUNT)
        account = replace(ACCOUNT, tokens_per_minute=10)
        enter(limits, account)
        slot.leave(10)
        assert refusal(limits, account) == ("4008", 60)


class TestQuotas:
    @pytest.mark.parametrize("limit", ["per_day", "total"])
    async def test_of_200_at_once_exactly_as_many_are_let_in_as_are_left(
        self, limits: MemoryLimits, directory: AccountDirectory, limit: str
    ) -> None:
        """Calls under way count as well as finished ones, and never in neither number while they end."""
        for _ in range(90):
            directory.count(record())
        account = replace(ACCOUNT, per_day=100) if limit == "per_day" else replace(ACCOUNT, total=100)
        slots, codes = await admitted_at_once(limits, account)
        assert (len(slots), codes) == (10, {"4013"})
        for slot in slots:
            directory.count(record())
            slot.leave()
            assert refusal(limits, account)[0] == "4013"
        assert limits.running(account.id) == 0

    @pytest.mark.parametrize("limit", ["per_day", "total"])
    def test_a_call_that_ends_uncounted_makes_room(
        self, limits: MemoryLimits, directory: AccountDirectory, limit: str
    ) -> None:
        """As one that the balance did not cover."""
        account = replace(ACCOUNT, per_day=1) if limit == "per_day" else replace(ACCOUNT, total=1)
        slot = enter(limits, account)
        assert refusal(limits, account)[0] == "4013"
        directory.count(record(outcome="4016"))
        slot.leave()
        enter(limits, account)

    @pytest.mark.parametrize("zone", ["Asia/Shanghai", "Europe/Berlin", "Pacific/Kiritimati"])
    def test_a_day_ends_at_midnight_of_the_operators_zone(self, zone: str) -> None:
        """Retry-After leads there, and the first moment of the next day has the whole number again."""
        directory = AccountDirectory(NoAccounts(), lambda _: b"", Days(zone))
        limits = MemoryLimits(directory.counts, Days(zone))
        account = replace(ACCOUNT, per_day=2)
        begun_at = datetime(2022, 10, 29, 23, 58, 20, 500_000, ZoneInfo(zone)).timestamp()
        slots = [enter(limits, account, begun_at) for _ in range(2)]
        assert refusal(limits, account, begun_at) == ("4013", 100)
        slots += [enter(limits, account, begun_at + 100) for _ in range(2)]
        assert refusal(limits, account, begun_at + 100)[0] == "4013"
        for slot, at in zip(slots, (begun_at, begun_at, begun_at + 100, begun_at + 100), strict=True):
            directory.count(record(at))
            slot.leave()
        assert refusal(limits, account, begun_at) == ("4013", 100)

    def test_a_clock_that_steps_about_midnight_moves_no_call(
        self, limits: MemoryLimits, directory: AccountDirectory
    ) -> None:
        """Each belongs to the day that it was told it began on, running or finished."""
        account = replace(ACCOUNT, per_day=3)
        before, after = MIDNIGHT - 1800, MIDNIGHT + 1800
        for at in (before, after, before, after, before, after):
            slot = enter(limits, account, at)
            if at == before:
                directory.count(record(at))
                slot.leave()
        for at in (before, after, before):
            assert refusal(limits, account, at)[0] == "4013"

    def test_nothing_helps_where_all_is_used_up(self, limits: MemoryLimits, directory: AccountDirectory) -> None:
        """So there is no Retry-After, also where the day's calls are used up besides, or are none on any day."""
        directory.count(record())
        assert refusal(limits, replace(ACCOUNT, total=1)) == ("4013", None)
        assert refusal(limits, replace(ACCOUNT, total=1, per_day=1)) == ("4013", None)
        assert refusal(limits, replace(ACCOUNT, total=0)) == ("4013", None)
        assert refusal(limits, replace(ACCOUNT, per_day=0)) == ("4013", None)

    def test_a_limit_that_is_given_while_calls_run(self, limits: MemoryLimits) -> None:
        """Those that run are taken for this day's."""
        slots = [enter(limits, ACCOUNT) for _ in range(3)]
        account = replace(ACCOUNT, per_day=4)
        slots.append(enter(limits, account))
        assert refusal(limits, account)[0] == "4013"
        slots[0].leave()
        enter(limits, account)

    def test_the_rate_is_checked_first(self, limits: MemoryLimits) -> None:
        """4008 before 4013, and what the second refuses does not count for the first."""
        assert refusal(limits, replace(ACCOUNT, per_minute=0, total=0))[0] == "4008"
        for _ in range(3):
            assert refusal(limits, replace(ACCOUNT, per_minute=1, concurrency=1, total=0))[0] == "4013"
        enter(limits, replace(ACCOUNT, per_minute=1, concurrency=1))


class TestMemory:
    def test_idle_accounts_are_forgotten(self, limits: MemoryLimits, clock: Clock) -> None:
        """As others come: at any time about as many are kept as called within the last minute, twice at most."""
        for number in range(1, 5001):
            enter(limits, replace(ACCOUNT, id=number, per_minute=10, tokens_per_minute=10)).leave(3)
            clock.now += 1
            assert len(limits._standings) <= 2 * 62
        clock.now += 60
        for number in range(1, 5001):
            enter(limits, replace(ACCOUNT, id=number)).leave()
        assert len(limits._standings) <= 2

    def test_accounts_in_use_are_not_forgotten(self, limits: MemoryLimits, clock: Clock) -> None:
        """Neither with a call that runs for hours, nor within their minute."""
        busy, recent = replace(ACCOUNT, id=-1, concurrency=1), replace(ACCOUNT, id=-2, per_minute=1)
        enter(limits, busy)
        clock.now += 10_000
        enter(limits, recent).leave()
        for number in range(1, 100):
            enter(limits, replace(ACCOUNT, id=number)).leave()
            clock.now += 0.5
        assert refusal(limits, busy) == ("4008", 1)
        assert refusal(limits, recent) == ("4008", 11)


some_limit = st.none() | st.integers(0, 4)
accounts = st.builds(
    partial(replace, ACCOUNT), concurrency=some_limit, per_minute=some_limit, tokens_per_minute=some_limit
)
pauses = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 7.75, 30.0, 59.75])
endings = st.none() | st.tuples(st.integers(0, 100), st.integers(0, 3))  # none; which of the open calls, its tokens


@given(accounts, st.lists(st.tuples(pauses, endings), max_size=60))
def test_whatever_calls_do_the_limits_hold(account: Account, steps: list[tuple[float, tuple[int, int] | None]]) -> None:
    """Against a model that remembers each call: never more than may, never fewer than surely may, and each wait is
    enough. In each step a call may end, and one wants to begin.
    """
    clock = Clock()
    limits = MemoryLimits(lambda account, at: CallCounts(), Days(ZONE), clock)
    slots, entered, used = list[Slot](), list[float](), list[tuple[float, int]]()

    def may_enter(window_s: float) -> bool:
        since = clock.now - window_s
        tokens = sum(amount for at, amount in used if at > since)
        return (
            (account.concurrency is None or len(slots) < account.concurrency)
            and (account.per_minute is None or sum(at > since for at in entered) < account.per_minute)
            and (account.tokens_per_minute is None or tokens < account.tokens_per_minute)
        )

    for pause, ending in steps:
        clock.now += pause
        if ending is not None and slots:
            slot = slots.pop(ending[0] % len(slots))
            slot.leave(ending[1])
            slot.leave(ending[1])
            used.append((clock.now, ending[1]))
        if wait_s := retry_after_s(limits, account, slots):
            assert not may_enter(61)
            if 0 in (account.per_minute, account.tokens_per_minute) or len(slots) == account.concurrency:
                continue
            clock.now += wait_s
            assert not retry_after_s(limits, account, slots)
        # The last of the slots is the new call's.
        new = slots.pop()
        assert may_enter(60)
        slots.append(new)
        entered.append(clock.now)
        assert limits.running(account.id) == len(slots)
    for slot in slots:
        slot.leave()
    assert limits.running(account.id) == 0


def retry_after_s(limits: Limits, account: Account, slots: list[Slot]) -> int:
    """0: the call was let in, and its slot is the last of the slots now."""
    try:
        slots.append(enter(limits, account))
    except GatewayError as refusal:
        error = refusal
    else:
        return 0
    assert error.code.code == "4008"
    assert error.retry_after_s in range(1, 61)
    return error.retry_after_s or 0
