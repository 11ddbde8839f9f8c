"""The wall clock steps back and forth under load: ids stay unique and rise, quotas do not double, nothing is charged
wrongly, and no call seems to have lasted an hour.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from datetime import time as time_of_day
from zoneinfo import ZoneInfo

import pytest

from tests.books import check_books, database_of, rows
from tests.chaos import Chaos, json_answer
from tests.faults import Faults, faults
from tests.load import Load
from tests.orders import MONEY, PRICES, Order, code_of
from tests.support import Answer, Gateway, call, exchange, gateway_before_chaos

HOUR_S = 3600
SHANGHAI = ZoneInfo("Asia/Shanghai")
FLAT = """
[[price]]
per_call = "0.01"

[methods]
closed = ["v1/none-such"]
"""


@pytest.fixture
def fault() -> Iterator[Faults]:
    with faults() as switches:
        yield switches


def shift_to(days: int, hour: int) -> int:
    """How far ahead a clock is that shows this hour of the day so many days from today, in Shanghai."""
    today = datetime.now(SHANGHAI).date()
    wanted = datetime.combine(today + timedelta(days=days), time_of_day(hour, 30), SHANGHAI)
    return round(wanted.timestamp() - time.time())


async def test_ids_rise_and_every_call_is_charged_once_while_the_clock_steps(fault: Faults) -> None:
    with gateway_before_chaos(PRICES, environ=fault.environ) as gateway:
        gateway.cli("accounts", "topup", "tester", MONEY)
        async with Load(gateway, seed=6) as load:
            load.begin()
            stepping = asyncio.create_task(step(fault, [HOUR_S, 0, -HOUR_S, 0, shift_to(0, 23), shift_to(1, 0), 0] * 3))
            ids = await ids_in_order(gateway, stepping)
            await load.answered()
            await load.quiet()
            await load.settled()
            load.agreement.compare()
        assert fault.struck["clocks_shifted"]
        assert len(ids) > 50
        assert ids == sorted(set(ids))
        query = "SELECT min(duration_us), max(duration_us), min(first_byte_us) FROM calls"
        shortest, longest, first = rows(database_of(gateway), query)[0]
        assert shortest >= 0
        assert first >= 0
        assert longest < 60e6


async def step(fault: Faults, shifts: list[int]) -> None:
    for shift_s in shifts:
        fault.shift_s = shift_s
        await asyncio.sleep(0.15)


async def ids_in_order(gateway: Gateway, until: asyncio.Task[None]) -> list[int]:
    """The ids of calls that are made one after the other."""
    ids: list[int] = []
    while not until.done():
        order = Order(10**9 + len(ids), "native", len(ids) % 2 == 0, "json", False, None)
        answer = await exchange(gateway, order.request(gateway))
        assert code_of(answer) == "0000"
        ids.append(int(answer.headers["x-last-id"]))
    return ids


@asynccontextmanager
async def daily(fault: Faults) -> AsyncIterator[tuple[Gateway, dict[str, str]]]:
    """A gateway, and the credentials of an account that may call fifty times a day."""
    fault.shift_s = shift_to(0, 12)
    with gateway_before_chaos(FLAT, environ=fault.environ) as gateway:
        added = json.loads(gateway.cli("accounts", "add", "daily", "--per-day", "50", "--balance", "10", "--json"))
        headers = {"Authorization": f"Bearer {added['key']}:{added['secret']}"}
        async with Chaos(json_answer({"choices": []}), port=gateway.upstream_port):
            async with asyncio.timeout(10):
                while (await ask(gateway, headers, "v1/none-such")).headers["x-error-code"] != "4010":
                    await asyncio.sleep(0.05)  # the account is not known yet
            yield gateway, headers
        check_books(database_of(gateway))


async def ask(gateway: Gateway, headers: dict[str, str], method: str = "v1/chat/completions") -> Answer:
    return await call(gateway, "POST", f"/{method}", {"messages": []}, headers)


async def admitted(gateway: Gateway, headers: dict[str, str], count: int) -> int:
    """How many of so many calls at once are let through; the others must be told that the day is used up."""
    answers = await asyncio.gather(*(ask(gateway, headers) for _ in range(count)))
    codes = Counter(answer.headers["x-error-code"] for answer in answers)
    assert set(codes) <= {"0000", "4013"}, codes
    return codes["0000"]


async def test_a_day_admits_its_calls_once_however_its_clock_steps(fault: Faults) -> None:
    async with daily(fault) as (gateway, headers):
        noon = fault.shift_s
        total = 0
        for shift_s in (0, HOUR_S, -HOUR_S, 2 * HOUR_S, -2 * HOUR_S, 0):
            fault.shift_s = noon + shift_s
            total += await admitted(gateway, headers, 20)
        assert total == 50


async def test_a_step_over_midnight_and_back_doubles_no_quota(fault: Faults) -> None:
    async with daily(fault) as (gateway, headers):
        today, tomorrow = shift_to(0, 23), shift_to(1, 0)
        fault.shift_s = today
        assert await admitted(gateway, headers, 30) == 30
        fault.shift_s = tomorrow
        assert await admitted(gateway, headers, 70) == 50
        fault.shift_s = today
        assert await admitted(gateway, headers, 40) == 20
        fault.shift_s = tomorrow
        assert await admitted(gateway, headers, 20) == 0
        gateway.process.terminate()
        assert gateway.process.wait(20) == 0
        await asyncio.to_thread(gateway.restart)
        for shift_s in (today, tomorrow):
            fault.shift_s = shift_s
            assert await admitted(gateway, headers, 20) == 0
