"""The wall clock jumps under load, and the process is told to end: ids, days, durations and books stay right."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tests.books import balance, charges, check_books, database_of, rows
from tests.chaos import LAST_CHUNK, Chaos, Script, Wait, WaitFor, chunk, json_answer, sse_head
from tests.faults import Faults, faults
from tests.support import Answer, Gateway, call, gateway_before_chaos

PRICE = '[[price]]\nper_call = "1"\n'
MESSAGES = [{"role": "user", "content": "Why?"}]
OK = json_answer({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
SHANGHAI = ZoneInfo("Asia/Shanghai")


@contextmanager
def gateway_on_a_strange_clock() -> Iterator[tuple[Gateway, Faults]]:
    with faults() as fault, gateway_before_chaos(PRICE, environ=fault.environ) as gateway:
        gateway.cli("accounts", "topup", "tester", "100000")
        yield gateway, fault


async def chat(gateway: Gateway, *, stream: bool = False) -> Answer:
    body = {"model": "m", "messages": MESSAGES, "stream": stream}
    return await call(gateway, "POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {gateway.token}"})


async def test_an_hour_back_and_forth_under_load_harms_neither_ids_nor_durations_nor_books() -> None:
    with gateway_on_a_strange_clock() as (gateway, fault):
        over = asyncio.Event()
        answers: list[Answer] = []

        async def call_on() -> None:
            while not over.is_set():
                answers.append(await chat(gateway, stream=len(answers) % 3 == 0))

        stream: Script = [sse_head(), chunk(EVENT), Wait(0.01), chunk(EVENT), LAST_CHUNK]
        async with asyncio.timeout(60), Chaos(stream, port=gateway.upstream_port):
            callers = [asyncio.create_task(call_on()) for _ in range(8)]
            for shift_s in (0, 3600, -3600, 3600, 0, -3600, 0):
                before = len(answers)
                fault.shift_s = shift_s
                while len(answers) < before + 30:
                    await asyncio.sleep(0.01)
            over.set()
            await asyncio.gather(*callers)
        assert fault.struck["clocks_shifted"]
        assert all(answer.status == 200 and answer.complete for answer in answers)
        for header in ("x-last-id", "x-request-id"):
            assert len({answer.headers[header] for answer in answers}) == len(answers)
        found = rows(database_of(gateway), "SELECT id, duration_us, first_byte_us FROM calls ORDER BY rowid")
        assert len(found) == len(answers)
        assert all(0 <= first_us <= duration_us < 30_000_000 for _, duration_us, first_us in found)
        assert charges(gateway) == [1_000_000] * len(answers)
        check_books(database_of(gateway))
        assert balance(gateway)[1] == 0


async def test_ids_rise_for_one_caller_however_the_clock_steps() -> None:
    with gateway_on_a_strange_clock() as (gateway, fault):
        ids = []
        async with Chaos(OK, port=gateway.upstream_port):
            for shift_s in (0, 3600, -3600, 0, 7200, 0):
                fault.shift_s = shift_s
                ids += [int((await chat(gateway)).headers["x-last-id"]) for _ in range(5)]
        assert all(earlier < later for earlier, later in itertools.pairwise(ids))


async def test_a_days_quota_is_neither_doubled_nor_halved_by_a_clock_that_steps_about_midnight() -> None:
    with gateway_on_a_strange_clock() as (gateway, fault):
        gateway.cli("accounts", "limit", "tester", "--per-day", "20")
        await asyncio.sleep(1.0)
        now = datetime.now(SHANGHAI)
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), SHANGHAI).timestamp()
        evening, morning = (round(midnight + seconds - time.time()) for seconds in (-1800, 1800))
        async with Chaos(OK, port=gateway.upstream_port):

            async def admitted(calls: int) -> int:
                answers = await asyncio.gather(*(chat(gateway) for _ in range(calls)))
                return sum(answer.status == 200 for answer in answers)

            fault.shift_s = evening
            assert await admitted(15) == 15
            fault.shift_s = morning
            assert await admitted(15) == 15
            fault.shift_s = evening
            assert await admitted(30) == 5
            fault.shift_s = morning
            assert await admitted(30) == 5
            fault.shift_s = evening
            assert await admitted(10) == 0


async def test_streams_that_are_open_at_the_end_are_finished_and_charged() -> None:
    with gateway_before_chaos(PRICE) as gateway:
        gateway.cli("accounts", "topup", "tester", "100")
        go_on = asyncio.Event()
        script: Script = [sse_head(), chunk(EVENT), WaitFor(go_on), chunk(EVENT), LAST_CHUNK]
        async with asyncio.timeout(30), Chaos(script, port=gateway.upstream_port) as chaos:
            streams = [asyncio.create_task(chat(gateway, stream=True)) for _ in range(10)]
            await chaos.exchange(9)
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            go_on.set()
            answers = await asyncio.gather(*streams)
        assert all(answer.complete and answer.body == EVENT * 2 for answer in answers)
        assert gateway.process.wait(20) == 0
        assert charges(gateway) == [1_000_000] * 10
        assert balance(gateway) == (90_000_000, 0)
        check_books(database_of(gateway))


async def test_a_stream_that_does_not_end_is_settled_at_the_drain_limit() -> None:
    with gateway_before_chaos(PRICE + "[server]\ndrain_s = 0.5\n") as gateway:
        gateway.cli("accounts", "topup", "tester", "100")
        never = asyncio.Event()
        async with (
            asyncio.timeout(30),
            Chaos([sse_head(), chunk(EVENT), WaitFor(never)], port=gateway.upstream_port) as chaos,
        ):
            stream = asyncio.create_task(chat(gateway, stream=True))
            await chaos.exchange(0)
            while not rows(database_of(gateway), "SELECT 1 FROM holds"):
                await asyncio.sleep(0.01)
            gateway.process.send_signal(signal.SIGTERM)
            assert not (await stream).complete
        assert gateway.process.wait(20) == 0
        assert balance(gateway)[1] == 0
        assert rows(database_of(gateway), "SELECT count(*) FROM holds") == [(0,)]
        check_books(database_of(gateway))
        assert json.loads(gateway.cli("audit", "--json"))
