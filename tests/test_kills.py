"""Money survives what ends a process or a call at any moment: clients, upstream and books agree on every call."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from tests.kills import kill_a_gateway
from tests.load import Load
from tests.orders import MONEY, PRICES, Order
from tests.support import gateway_before_chaos


def test_after_five_kills_client_upstream_and_books_agree() -> None:
    figures, summary = kill_a_gateway(5, seed=time.time_ns() % 1_000_000)
    print(summary)
    assert figures.charged
    assert figures.answers


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_after_a_hundred_kills_client_upstream_and_books_agree() -> None:
    figures, summary = kill_a_gateway(100, seed=time.time_ns() % 1_000_000)
    print(summary)
    assert figures.charged > 1000
    assert figures.unknown
    assert figures.replays


def leaving(number: int, random: Random) -> Order:
    """A keyed call that is left at any moment, most of all about its end."""
    return Order(
        number,
        front=random.choice(("native", "custom")),
        streamed=random.random() < 0.7,
        result_type=random.choice(("json", "xml")),
        keyed=True,
        leaves_s=random.uniform(0, 0.06),
    )


async def test_an_answer_that_was_left_at_any_moment_is_there_whole_and_paid_exactly_once() -> None:
    with gateway_before_chaos(PRICES) as gateway:
        gateway.cli("accounts", "topup", "tester", MONEY)
        async with Load(gateway, seed=time.time_ns() % 1_000_000, orders=leaving) as load:
            load.begin()
            await asyncio.sleep(4)
            load.pause()
            await load.quiet()
            await load.settled()
            load.agreement.compare()
        assert load.agreement.figures.replays
        assert "Fatal error" not in gateway.log
