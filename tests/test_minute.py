from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.minute import LastMinute

# Sixty-fourths of a second add up exactly. Long enough that a minute goes by, short enough that seconds are shared.
gaps = st.one_of(st.integers(0, 64), st.integers(0, 640), st.integers(3_000, 5_000)).map(lambda ticks: ticks / 64)


@given(st.lists(st.tuples(gaps, st.integers(1, 50))))
@example([(0.0, 1)] * 3 + [(1.0, 1)] * 130)
@example([(0.0, 1), (1.5, 1), (59.75, 1)])
def test_a_sum_is_never_too_small_and_at_most_a_second_late(comings: list[tuple[float, int]]) -> None:
    """Against all that came, one by one; and it keeps no more than 61 numbers, whatever came."""
    minute, now, came = LastMinute(), 0.0, list[tuple[float, int]]()
    for gap, amount in comings:
        now += gap
        minute.add(amount, now)
        came.append((now, amount))
        exact = sum(amount for at, amount in came if at > now - 60)
        assert exact <= minute.sum(now) <= sum(amount for at, amount in came if at > now - 61)
        assert len(minute._ends) == len(minute._amounts) <= 61


@given(st.lists(st.tuples(gaps, st.integers(1, 50))), gaps, st.integers(1, 200))
def test_the_wait_is_enough_and_not_a_second_too_long(
    comings: list[tuple[float, int]], pause: float, limit: int
) -> None:
    """Between 1 and 60 s, after which the sum is below the limit; a second sooner it was not."""
    minute, now = LastMinute(), 0.0
    for gap, amount in comings:
        now += gap
        minute.add(amount, now)
    now += pause
    wait_s = minute.wait_s(limit, now)
    assert (wait_s == 0) == (minute.sum(now) < limit)
    if wait_s:
        assert 1 <= wait_s <= 60
        assert wait_s == 1 or minute.wait_s(limit, now + wait_s - 1) > 0
        assert minute.wait_s(limit, now + wait_s) == 0


def test_what_nobody_asks_for_does_not_pile_up() -> None:
    """As of an account whose limit was lifted while its calls run."""
    minute = LastMinute()
    for now in range(1000):
        minute.add(1, float(now))
        assert len(minute._ends) == len(minute._amounts) <= 61


@pytest.mark.parametrize("now", [0.1, 0.7, 59.9, 1e5 + 0.1, 3e7 + 0.3])
def test_the_wait_for_what_just_came_is_a_minute(now: float) -> None:
    """Also where floats do not add up."""
    minute = LastMinute()
    minute.add(5, now)
    assert minute.wait_s(5, now) == 60
    assert minute.wait_s(5, now + 60) == 0


def test_a_limit_of_nothing_is_never_met() -> None:
    """Whether anything came or not."""
    minute = LastMinute()
    assert minute.wait_s(0, 1.0) == 60
    minute.add(1, 1.0)
    assert minute.wait_s(0, 1.0) == minute.wait_s(0, 100.0) == 60
