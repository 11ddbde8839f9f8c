from __future__ import annotations

import re
import time
from collections.abc import Callable

from gateway.ids import EPOCH_2020_US, CallIds, microseconds_of

NOW_US = 1_665_000_000_123_456


def clock(*microseconds: int) -> Callable[[], int]:
    """A wall clock that shows these moments, one after the other."""
    moments = iter(microseconds)
    return lambda: next(moments) * 1000


def test_a_request_id_is_the_node_and_php_uniqid() -> None:
    """Eight hex digits of seconds and five of microseconds follow the node and a dot."""
    request_id, _ = CallIds(1, clock_ns=clock(0x6403F86C * 1_000_000 + 0xD67F6)).next()
    assert request_id == "1.6403f86cd67f6"


def test_ids_follow_the_wall_clock() -> None:
    """The default clock is the present."""
    before = time.time_ns() // 1000
    request_id, last_id = CallIds(7).next()
    assert before <= microseconds_of(last_id) <= time.time_ns() // 1000
    assert re.fullmatch(r"7\.[0-9a-f]{13}", request_id)


def test_two_calls_in_one_microsecond_get_different_ids() -> None:
    """A clock that stands still lets the counter run ahead."""
    ids = CallIds(1, clock_ns=clock(*[NOW_US] * 1000))
    given = [ids.next() for _ in range(1000)]
    assert len({request_id for request_id, _ in given}) == 1000
    assert [last_id for _, last_id in given] == sorted({last_id for _, last_id in given})


def test_a_clock_that_steps_back_repeats_no_id() -> None:
    """The counter goes on from its greatest value."""
    ids = CallIds(1, clock_ns=clock(NOW_US, NOW_US - 3_600_000_000, NOW_US + 1, NOW_US + 5))
    assert [microseconds_of(ids.next()[1]) - NOW_US for _ in range(4)] == [0, 1, 2, 5]


def test_a_restart_under_an_earlier_clock_begins_above_the_floor() -> None:
    """The floor is the greatest id that the store knows."""
    _, before = CallIds(1, clock_ns=clock(NOW_US)).next()
    _, after = CallIds(1, microseconds_of(before), clock_ns=clock(NOW_US - 1)).next()
    assert after > before


def test_a_clock_before_2020_still_gives_positive_ids() -> None:
    """A machine without a battery starts in 1970."""
    _, last_id = CallIds(0, clock_ns=clock(0)).next()
    assert last_id > 0
    assert microseconds_of(0) == EPOCH_2020_US


def test_last_ids_of_two_nodes_differ_in_the_same_microsecond() -> None:
    """The node's ten bits are part of the id, and the whole fits a signed 64-bit column for two centuries."""
    year_2200_us = 7_258_118_400_000_000
    one, other = (CallIds(node, clock_ns=clock(year_2200_us)).next()[1] for node in (1022, 1023))
    assert one != other
    assert max(one, other) < 2**63
