"""Limits as callers meet them: the codes, their order, Retry-After, and slots that come back on every way out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

from tests.books import check_books, database_of
from tests.chaos import LAST_CHUNK, Chaos, Cut, Hang, Script, WaitFor, chunk, json_answer, sse_head
from tests.support import Answer, Gateway, call, custom_path, gateway_before_chaos, request_bytes

PRICE = '\n[[price]]\nmethod = "v1/chat/completions"\nper_call = "1"\n'
MESSAGES = [{"role": "user", "content": "Why?"}]
OK = json_answer({"choices": [], "usage": {"prompt_tokens": 60, "completion_tokens": 40}})


class Caller:
    """An account of its own, and its calls."""

    def __init__(self, gateway: Gateway, name: str, *options: str) -> None:
        self.gateway = gateway
        self.name = name
        added = json.loads(gateway.cli("accounts", "add", name, *options, "--json"))
        self.token = f"{added['key']}:{added['secret']}"
        self.key, self.secret = added["key"], added["secret"]

    async def chat(self, *, stream: bool = False) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}"}
        body = {"model": "m", "messages": MESSAGES, "stream": stream}
        return await call(self.gateway, "POST", "/v1/chat/completions", body, headers)

    async def code(self) -> str:
        return (await self.chat()).headers["x-error-code"]

    async def running(self) -> int:
        parameters = {"key": self.key, "secret": self.secret, "method": "account/balance"}
        got = await call(self.gateway, "GET", custom_path(self.gateway, **parameters))
        return int(got.json["response"]["running"])

    def limit(self, *options: str) -> None:
        self.gateway.cli("accounts", "limit", self.name, *options)


async def known(caller: Caller) -> None:
    """Waits until the gateway knows the account, and its newest limits."""
    await asyncio.sleep(1.0)  # it promises to follow a change within a second


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with gateway_before_chaos(PRICE) as running:
        yield running
        check_books(database_of(running))


async def test_the_limits_are_checked_in_the_documented_order(gateway: Gateway) -> None:
    caller = Caller(gateway, "ordered", "--concurrency", "0", "--per-day", "0")
    async with Chaos(OK, port=gateway.upstream_port) as chaos:
        await known(caller)
        assert await caller.code() == "4008"
        caller.limit("--concurrency", "none")
        await known(caller)
        assert await caller.code() == "4013"
        caller.limit("--per-day", "1")
        await known(caller)
        assert await caller.code() == "4016"
        gateway.cli("accounts", "topup", "ordered", "1")
        assert await caller.code() == "0000"  # what was refused for the balance did not count
        assert await caller.code() == "4013"
        assert len(chaos.exchanges) == 1


async def test_no_more_calls_run_at_once_than_are_allowed(gateway: Gateway) -> None:
    caller = Caller(gateway, "parallel", "--concurrency", "3", "--balance", "100")
    go_on = asyncio.Event()
    async with Chaos([WaitFor(go_on), OK], port=gateway.upstream_port) as chaos:
        await known(caller)
        calls = [asyncio.create_task(caller.chat()) for _ in range(10)]
        await chaos.exchange(2)
        done, pending = await asyncio.wait(calls, timeout=1)
        refused = [task.result() for task in done]
        assert (len(refused), len(pending)) == (7, 3)
        assert {(answer.status, answer.headers["x-error-code"]) for answer in refused} == {(429, "4008")}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert await caller.running() == 3
        go_on.set()
        assert [(await task).status for task in pending] == [200] * 3
        assert await caller.running() == 0
        assert len(chaos.exchanges) == 3


async def test_calls_and_tokens_of_a_minute(gateway: Gateway) -> None:
    caller = Caller(gateway, "brisk", "--per-minute", "5", "--balance", "100")
    thirsty = Caller(gateway, "thirsty", "--tokens-per-minute", "250", "--balance", "100")
    async with Chaos(OK, port=gateway.upstream_port):
        await known(caller)
        answers = [await caller.chat() for _ in range(8)]
        assert [answer.headers["x-error-code"] for answer in answers] == ["0000"] * 5 + ["4008"] * 3
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in answers[5:])
        # a hundred tokens each: the third goes beyond, the fourth is refused
        assert [await thirsty.code() for _ in range(5)] == ["0000"] * 3 + ["4008"] * 2


async def test_two_hundred_at_once_against_ten_a_day(gateway: Gateway) -> None:
    caller = Caller(gateway, "daily", "--per-day", "10", "--total", "12", "--balance", "100")
    async with Chaos(OK, port=gateway.upstream_port) as chaos:
        await known(caller)
        codes = [
            answer.headers["x-error-code"] for answer in await asyncio.gather(*(caller.chat() for _ in range(200)))
        ]
        assert (codes.count("0000"), codes.count("4013"), len(chaos.exchanges)) == (10, 190, 10)
        caller.limit("--per-day", "none")
        await known(caller)
        assert [await caller.code() for _ in range(4)] == ["0000", "0000", "4013", "4013"]


LEAVE_AT: dict[str, Script] = {
    "before the head": [Hang()],
    "before the first event": [sse_head(), Hang()],
    "in the middle": [sse_head(), chunk(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'), Hang()],
    "before the usage event": [sse_head(), chunk(b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'), Hang()],
}


@pytest.mark.parametrize("moment", LEAVE_AT)
async def test_a_slot_comes_back_however_its_client_leaves(gateway: Gateway, moment: str) -> None:
    caller = Caller(gateway, moment.replace(" ", "-"), "--concurrency", "50", "--balance", "1000")
    script: Script = LEAVE_AT[moment]
    request = request_bytes(
        "POST",
        "/v1/chat/completions",
        json.dumps({"model": "m", "messages": MESSAGES, "stream": True}).encode(),
        {"Authorization": f"Bearer {caller.token}", "Content-Type": "application/json"},
    )

    async def leave() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request)
        if moment != "before the head":
            await reader.readuntil(b"\r\n\r\n")
        else:
            await asyncio.sleep(0.01)
        writer.transport.abort()

    async with Chaos(script, port=gateway.upstream_port):
        await known(caller)
        for _ in range(10):
            await asyncio.gather(*(leave() for _ in range(34)))
        deadline = time.monotonic() + 20
        while await caller.running():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "script", [[Cut()], [sse_head(), Cut()], json_answer({}, 500), json_answer({}, 404), b"x\r\n\r\n"]
)
async def test_a_slot_comes_back_however_the_upstream_fails(gateway: Gateway, script: Script) -> None:
    caller = Caller(gateway, f"failing-{time.monotonic_ns()}", "--concurrency", "1", "--balance", "100")
    async with Chaos(script, port=gateway.upstream_port):
        await known(caller)
        for _ in range(5):
            assert (await caller.chat()).headers.get("x-error-code") != "4008"
    assert await caller.running() == 0


async def test_a_streams_slot_is_its_own_until_its_end(gateway: Gateway) -> None:
    caller = Caller(gateway, "streaming", "--concurrency", "1", "--balance", "100")
    go_on = asyncio.Event()
    event = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    async with Chaos([sse_head(), chunk(event), WaitFor(go_on), LAST_CHUNK], port=gateway.upstream_port) as chaos:
        await known(caller)
        running = asyncio.create_task(caller.chat(stream=True))
        await chaos.exchange(0)
        assert await caller.code() == "4008"
        go_on.set()
        assert (await running).complete
        assert (await caller.chat(stream=True)).complete


async def test_guessing_keys_is_limited_by_address_and_known_callers_go_on() -> None:
    with gateway_before_chaos("[limits]\nfailed_logins_per_minute = 10\n") as gateway:
        async with Chaos(OK, port=gateway.upstream_port):

            async def code(token: str) -> str:
                headers = {"Authorization": f"Bearer {token}"}
                body = {"model": "m", "messages": MESSAGES}
                return (await call(gateway, "POST", "/v1/chat/completions", body, headers)).headers["x-error-code"]

            newcomer = Caller(gateway, "newcomer")
            await known(newcomer)
            assert await code(gateway.token) == "0000"
            guesses = [await code(f"gk_{number}:x") for number in range(6)]
            guesses += [await code(f"{newcomer.key}:x{number}") for number in range(6)]
            assert guesses == ["4004"] * 6 + ["4005"] * 4 + ["4008"] * 2
            assert await code(gateway.token) == "0000"
            assert await code(newcomer.token) == "4008"  # a guesser would learn that it is right
