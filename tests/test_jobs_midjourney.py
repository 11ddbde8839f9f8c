"""Jobs made by a Midjourney proxy: every code and state that it has, and each job submitted to it once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.backends import MidjourneyProxy
from tests.books import balance, check_books, database_of, rows
from tests.chaos import Chaos, Hang, json_answer
from tests.support import Gateway, free_port, gateway_process
from tests.test_image_jobs import ask, ended, get, submit

PORT = free_port()
CONFIG = f"""
[[price]]
method = "images/submit"
per_call = "0.1"
per_image = "0.4"

[jobs]
backend = "midjourney"
url = "http://127.0.0.1:{PORT}/"
api_key_env = "MJ_SECRET"
poll_s = 0.05
timeout_s = 1.0
"""
KEYS = {"MJ_SECRET": "mj-canary-1"}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with gateway_process("http://127.0.0.1:9/v1", CONFIG, environ=KEYS) as running:
        running.cli("accounts", "topup", "tester", "100")
        yield running


@pytest.fixture
async def proxy() -> AsyncIterator[MidjourneyProxy]:
    async with MidjourneyProxy(port=PORT) as proxy:
        yield proxy


async def test_a_job_goes_through_every_state_to_its_image_and_is_charged(
    gateway: Gateway, proxy: MidjourneyProxy
) -> None:
    before, _ = balance(gateway)
    imgid = await submit(gateway, "please draw", aspect="1:1")
    events = (await ask(gateway, "images/get", imgid=imgid, stream="true")).body.decode()
    job = await ended(gateway, imgid)
    [task] = proxy.tasks
    assert (job["status"], job["imageUrl"]) == ("SUCCESS", f"https://images.example/{task}.png")
    states = [("SUBMITTED", "0%"), ("IN_PROGRESS", "0%"), ("IN_PROGRESS", "62%"), ("SUCCESS", "100%")]
    at = [events.find(f'"status":"{status}","progress":"{progress}"') for status, progress in states]
    assert -1 not in at
    assert at == sorted(at)
    assert proxy.bodies[0] == {"prompt": "please draw", "aspect": "1:1", "state": imgid}
    assert balance(gateway) == (before - 500_000, 0)
    check_books(database_of(gateway))


async def test_the_key_is_sent_to_the_proxy_both_ways(gateway: Gateway, proxy: MidjourneyProxy) -> None:
    await ended(gateway, await submit(gateway, "please"))
    for headers in proxy.headers:
        assert headers["mj-api-secret"] == "mj-canary-1"
        assert headers["authorization"] == "Bearer mj-canary-1"


@pytest.mark.parametrize("word", ["exists", "queued"])
async def test_a_task_that_is_there_already_or_waits_is_asked_about(
    gateway: Gateway, proxy: MidjourneyProxy, word: str
) -> None:
    assert (await ended(gateway, await submit(gateway, f"{word} x")))["status"] == "SUCCESS"
    assert proxy.made == {f"{word} x": 1}


@pytest.mark.parametrize(
    ("word", "code", "reason"),
    [
        ("full", "4002", "the backend's queue is full; submit the job again later (code 23)"),
        ("banned", "2000", "the prompt holds a word that the backend does not allow (code 24)"),
        ("broken", "4002", "the backend did not take the job: code 9"),
        ("fails", "2000", "too much of it"),
        ("stuck", "4017", "the job did not end within 1 s"),
    ],
)
async def test_a_failure_says_what_it_was_and_costs_nothing(
    gateway: Gateway, proxy: MidjourneyProxy, word: str, code: str, reason: str
) -> None:
    before = balance(gateway)
    imgid = await submit(gateway, f"{word} x")
    job = await ended(gateway, imgid)
    assert (job["status"], job["failReason"]) == ("FAILURE", reason)
    assert balance(gateway) == before
    query = "SELECT outcome, calls.charge_micros FROM calls JOIN jobs ON call_id = calls.id WHERE jobs.id = ?"
    assert rows(database_of(gateway), query, int(imgid)) == [(code, 0)]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (json_answer({"code": 1, "description": "ok", "result": "../../secrets"}), "did not take the job"),
        (json_answer({"code": 1, "result": None}), "it gave no id"),
        (json_answer({"code": True, "result": "1"}), "did not take the job"),
        (json_answer({}, 401), "does not accept the gateway's own request"),
        (json_answer({}, 500), "answered 500; whether the images were made is unknown"),
        (json_answer({}, 402), "does not accept the gateway's own request"),
        (json_answer([]), "cannot be read; whether the images were made is unknown"),
        (json_answer({"code": 1, "result": ".."}), "did not take the job"),
        ([Hang()], "did not end within 1 s"),
    ],
)
async def test_a_proxy_that_answers_nonsense_fails_the_job(gateway: Gateway, answer: Any, reason: str) -> None:
    async with Chaos(answer, port=PORT) as chaos:
        job = await ended(gateway, await submit(gateway, "x"))
        assert len(chaos.exchanges) == 1
    assert job["status"] == "FAILURE"
    assert reason in job["failReason"]


async def test_a_proxy_that_cannot_say_how_a_job_is_is_asked_again(gateway: Gateway) -> None:
    taken, done = json_answer({"code": 1, "result": 7}), json_answer({"status": "SUCCESS", "imageUrl": "http://i/1"})
    trouble = (json_answer({}, 500), json_answer(None), json_answer({"status": "NEW"}), b"HTTP/1.1 nonsense\r\n\r\n")
    async with Chaos(taken, *trouble, done, port=PORT) as chaos:
        assert (await ended(gateway, await submit(gateway, "x")))["imageUrl"] == "http://i/1"
        assert [each.target for each in chaos.exchanges] == ["/mj/submit/imagine", *["/mj/task/7/fetch"] * 5]


@pytest.mark.parametrize(
    ("state", "image", "reason"),
    [
        ({"status": "CANCEL"}, None, "cancelled at the backend"),
        ({"status": "MODAL"}, None, "an entry in a form"),
        ({"status": "SUCCESS", "imageUrl": "file:1987378144113570-0.png"}, None, "without an image"),
        ({"status": "SUCCESS", "imageUrl": "javascript:alert(1)"}, None, "without an image"),
        ({"status": "SUCCESS", "imageUrl": None, "imageUrls": ["http://i/1", "x"]}, "http://i/1", ""),
        ({"status": "SUCCESS", "imageUrls": [{"url": "http://i/1"}]}, "http://i/1", ""),
        ({"status": "SUCCESS", "imageUrls": [f"http://i/{i}" for i in range(129)]}, None, "more than 128 images"),
        (None, None, "no longer knows the job"),
    ],
)
async def test_what_a_proxy_says_of_a_task_ends_it(
    gateway: Gateway, state: dict[str, Any] | None, image: str | None, reason: str
) -> None:
    end = json_answer({}, 404) if state is None else json_answer(state)
    async with Chaos(json_answer({"code": 1, "result": 7}), end, port=PORT):
        job = await ended(gateway, await submit(gateway, "x"))
    assert (job["status"], job["imageUrl"]) == ("SUCCESS" if image else "FAILURE", image)
    assert reason in (job["failReason"] or "")
    listed = (await ask(gateway, "account/jobs")).json
    assert listed["error_code"] == "0000"


async def test_an_orderly_stop_waits_for_what_the_proxy_is_about_to_take() -> None:
    config = CONFIG.replace("timeout_s = 1.0", "timeout_s = 30.0")
    async with MidjourneyProxy(port=PORT, slowest_s=0.5) as proxy:
        with gateway_process("http://127.0.0.1:9/v1", config, environ=KEYS) as running:
            running.cli("accounts", "topup", "tester", "100")
            imgids = [await submit(running, f"x{number}") for number in range(8)]
            for _ in range(3):
                made = proxy.made.total()
                async with asyncio.timeout(10):
                    while proxy.made.total() == made < 8:
                        await asyncio.sleep(0.005)
                running.process.terminate()
                assert await asyncio.to_thread(running.process.wait, 20) == 0
                await asyncio.to_thread(running.restart)
            assert {(await ended(running, imgid))["status"] for imgid in imgids} == {"SUCCESS"}
    assert proxy.made == {f"x{number}": 1 for number in range(8)}


async def test_a_caller_cannot_have_the_proxy_call_somebody(gateway: Gateway, proxy: MidjourneyProxy) -> None:
    await ended(gateway, await submit(gateway, "x", notifyHook="http://10.0.0.1/", state="mine", model="m", n="2"))
    assert proxy.bodies[0].keys() == {"prompt", "state"}
    assert proxy.bodies[0]["state"] != "mine"


async def test_a_job_that_the_proxy_has_is_never_submitted_again_whenever_the_gateway_is_killed() -> None:
    config = CONFIG.replace("timeout_s = 1.0", "timeout_s = 30.0")
    async with MidjourneyProxy(port=PORT) as proxy:
        with gateway_process("http://127.0.0.1:9/v1", config, environ=KEYS) as running:
            running.cli("accounts", "topup", "tester", "100")
            imgid = await submit(running, "please draw")
            for steps in (1, 2, 3):
                async with asyncio.timeout(10):
                    while sum(proxy.asked.values()) < steps:
                        await asyncio.sleep(0.005)
                running.kill()
                await asyncio.to_thread(running.restart)
            assert (await ended(running, imgid))["status"] == "SUCCESS"
            assert balance(running) == (99_500_000, 0)
    assert proxy.made == {"please draw": 1}


async def test_a_job_whose_submission_nobody_answered_before_a_kill_is_unknown() -> None:
    with gateway_process("http://127.0.0.1:9/v1", CONFIG, environ=KEYS) as running:
        running.cli("accounts", "topup", "tester", "100")
        async with Chaos([Hang()], port=PORT) as chaos:
            imgid = await submit(running, "x")
            await chaos.exchange(0)
            running.kill()
        async with MidjourneyProxy(port=PORT) as proxy:
            await asyncio.to_thread(running.restart)
            job = await get(running, imgid)
            assert job["status"] == "FAILURE"
            assert "whether the images were made is unknown" in job["failReason"]
            assert not proxy.made
        assert balance(running) == (100_000_000, 0)
        assert "1 unknown call" in running.cli("audit")


async def test_a_job_that_waited_for_the_proxy_when_the_gateway_was_killed_is_submitted_after_it() -> None:
    with gateway_process("http://127.0.0.1:9/v1", CONFIG, environ=KEYS) as running:
        running.cli("accounts", "topup", "tester", "100")
        imgid = await submit(running, "please")
        running.kill()
        await asyncio.to_thread(running.restart)
        assert (await get(running, imgid))["status"] == "NOT_START"
        async with MidjourneyProxy(port=PORT) as proxy:
            assert (await ended(running, imgid))["status"] == "SUCCESS"
        assert proxy.made == {"please": 1}
