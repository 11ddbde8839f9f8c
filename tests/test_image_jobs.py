"""`images/submit` and `images/get`: what callers are told, what they pay, and what they may not see or make happen."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import phpserialize  # type: ignore[import-untyped]  # ships no types
import pytest
from lxml import etree  # type: ignore[import-untyped]  # ships no types

from gateway.demo import start
from tests.backends import PNG
from tests.books import balance, check_books, database_of, rows
from tests.chaos import Chaos, Cut, Wait, WaitFor, answer, json_answer
from tests.support import (
    UPSTREAM_KEY,
    Answer,
    Gateway,
    call,
    custom_path,
    free_port,
    gateway_before_chaos,
    gateway_process,
)

DONE = {"created": 1, "data": [{"url": "https://images.example/1.png"}]}
NOTIFY_PORT = free_port()
CONFIG = f"""
[[price]]
method = "images/submit"
per_call = "0.5"
per_image = "0.25"

[jobs]
poll_s = 0.05
per_account = 2
most_open = 4
notify_hosts = ["127.0.0.1:{NOTIFY_PORT}"]
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """Its upstream is opened by each test."""
    with gateway_before_chaos(CONFIG) as running:
        running.cli("accounts", "topup", "tester", "100")
        yield running


async def ask(gateway: Gateway, method: str, **parameters: str) -> Answer:
    return await call(gateway, "GET", custom_path(gateway, method=method, **parameters))


async def submit(gateway: Gateway, prompt: str = "向日葵", **parameters: str) -> str:
    told = (await ask(gateway, "images/submit", prompt=prompt, **parameters)).json
    assert told["error_code"] == "0000", told
    assert re.fullmatch(r"\d{16}", told["response"]["imgid"])
    return str(told["response"]["imgid"])


async def get(gateway: Gateway, imgid: str, **parameters: str) -> dict[str, Any]:
    told: dict[str, Any] = (await ask(gateway, "images/get", imgid=imgid, **parameters)).json["response"]
    return told


async def ended(gateway: Gateway, imgid: str) -> dict[str, Any]:
    job = await get(gateway, imgid, wait="20")
    assert job["finishTime"] is not None, job
    return job


async def row_of(gateway: Gateway, imgid: str) -> tuple[Any, ...]:
    """Outcome, charge and kind of settlement in the call log."""
    [row] = rows(
        database_of(gateway),
        "SELECT outcome, calls.charge_micros, settled FROM calls JOIN jobs ON call_id = calls.id WHERE jobs.id = ?",
        int(imgid),
    )
    return row


async def told_to(gateway: Gateway, name: str, **parameters: str) -> dict[str, Any]:
    """What another account is told, which has its name for key and secret and may just have been added."""
    path = custom_path(gateway, **parameters).replace(gateway.key, name, 1).replace(gateway.secret, name)
    async with asyncio.timeout(5):
        while True:
            told: dict[str, Any] = (await call(gateway, "GET", path)).json
            if told["error_code"] != "4004":
                return told
            await asyncio.sleep(0.1)


@asynccontextmanager
async def upstream(gateway: Gateway, *scripts: Any) -> AsyncIterator[Chaos]:
    async with Chaos(*scripts, port=gateway.upstream_port) as chaos:
        yield chaos


# The documentation's example


@pytest.mark.parametrize("result_type", ["json", "jsonu", "xml", "serialize", "var_export"])
async def test_the_documented_calls_work_as_printed_in_every_format(result_type: str, demo: Gateway) -> None:
    args = {"_o_args": '{"prompt":"向日葵"}', "result_type": result_type}
    submitted = await ask(demo, "images/submit", **args)
    imgid = str(_read(submitted.body, result_type)["imgid"])
    assert re.fullmatch(r"\d{16}", imgid)
    args = {"_o_args": json.dumps({"imgid": imgid, "wait": 10}), "result_type": result_type}
    job = _read((await ask(demo, "images/get", **args)).body, result_type)
    assert job["imgid"] == imgid
    assert (job["status"], job["progress"], job["prompt"]) == ("SUCCESS", "100%", "向日葵")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/images/[0-9a-f]{16}\.png", str(job["imageUrl"]))
    assert int(job["submitTime"]) <= int(job["startTime"]) <= int(job["finishTime"]) <= time.time() * 1000
    assert not job["failReason"]


def _read(body: bytes, result_type: str) -> dict[str, Any]:
    """The response of an envelope in any format, as far as it is needed here."""
    if result_type in {"json", "jsonu"}:
        response: dict[str, Any] = json.loads(body)["response"]
        return response
    if result_type == "xml":
        found = etree.fromstring(body).find("response")
        return {element.tag: element.text for element in found}
    if result_type == "serialize":
        values: dict[str, Any] = phpserialize.loads(body, decode_strings=True)
        return dict(values["response"])
    pairs = re.findall(r"'(\w+)' => (?:'([^']*)'|(\d+)|NULL)", body.decode())
    return {name: text or number for name, text, number in reversed(pairs)}


@pytest.fixture(scope="module")
def demo() -> Iterator[Gateway]:
    with gateway_process() as running:
        yield running


# Ends, and what they cost


async def test_a_job_that_succeeds_is_charged_once_by_its_images_when_it_has_ended(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    two = {"data": [{"url": "https://images.example/1"}, {"url": "https://images.example/2"}]}
    before, _ = balance(gateway)
    async with upstream(gateway, [WaitFor(go_on), json_answer(two)]) as chaos:
        imgid = await submit(gateway, n="2", size="1024x1024")
        exchange = await chaos.exchange(0)
        assert (await get(gateway, imgid))["status"] == "SUBMITTED"
        assert balance(gateway) == (before, 1_000_000)
        go_on.set()
        job = await ended(gateway, imgid)
    assert exchange.json == {"prompt": "向日葵", "n": 2, "size": "1024x1024"}
    assert exchange.header("idempotency-key") == imgid
    assert exchange.header("authorization") == f"Bearer {UPSTREAM_KEY}"
    assert job["images"] == ["https://images.example/1", "https://images.example/2"]
    assert job["imageUrl"] == "https://images.example/1"
    assert balance(gateway) == (before - 1_000_000, 0)
    assert await row_of(gateway, imgid) == ("0000", 1_000_000, "exact")
    check_books(database_of(gateway))


async def test_more_images_than_were_held_for_cost_no_more(gateway: Gateway) -> None:
    three = {"data": [{"url": f"https://images.example/{number}"} for number in range(3)]}
    async with upstream(gateway, json_answer(three)):
        imgid = await submit(gateway)
        assert len((await ended(gateway, imgid))["images"]) == 3
    assert await row_of(gateway, imgid) == ("0000", 750_000, "exact")


@pytest.mark.parametrize(
    ("status", "body", "code", "reason"),
    [
        (400, {"error": {"message": "not that"}}, "2000", "not that"),
        (404, {"nothing": 1}, "2000", "the backend refused the job with 404"),
        (401, {"error": {"message": "no such key: sk-secret"}}, "4002", "does not accept the gateway's own request"),
        (402, {"error": {"message": "org sk-secret billing"}}, "4002", "does not accept the gateway's own request"),
        (200, {"data": []}, "4002", "without an image"),
        (200, {"data": [{"b64_json": "?"}]}, "4002", "without an image"),
        (200, {"data": ["x"]}, "4002", "without an image"),
        (200, {"data": [{"url": "file:1987378144113570-0.png"}]}, "4002", "without an image"),
        (200, {"data": [{"url": "file:///srv/x.png"}, {"url": " "}]}, "4002", "without an image"),
        (200, {"data": [{"url": "javascript:alert(1)"}]}, "4002", "without an image"),
        (200, {"data": [{"url": "https://x/1"}] * 129}, "4002", "more than 128 images"),
    ],
)  # fmt: skip
async def test_a_job_that_fails_says_why_and_costs_nothing(
    gateway: Gateway, status: int, body: object, code: str, reason: str
) -> None:
    before = balance(gateway)
    async with upstream(gateway, json_answer(body, status)):
        imgid = await submit(gateway)
        job = await ended(gateway, imgid)
    assert (job["status"], job["imageUrl"], job["images"]) == ("FAILURE", None, [])
    assert reason in job["failReason"]
    assert "sk-secret" not in job["failReason"]
    assert balance(gateway) == before
    assert await row_of(gateway, imgid) == (code, 0, "exact")


@pytest.mark.parametrize(
    "script",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", Cut()],
        json_answer({"error": {"message": "sk-secret"}}, 500),
        answer(b"<html>", "text/html", 504),
        answer(b"<html>", "text/html", 200),
    ],
)
async def test_a_call_whose_end_nobody_knows_is_unknown_and_not_made_again(gateway: Gateway, script: Any) -> None:
    async with upstream(gateway, script) as chaos:
        imgid = await submit(gateway)
        job = await ended(gateway, imgid)
        assert len(chaos.exchanges) == 1
    assert job["status"] == "FAILURE"
    assert "whether the images were made is unknown" in job["failReason"]
    assert "sk-secret" not in job["failReason"]
    assert (await row_of(gateway, imgid))[1:] == (0, "unknown")


async def test_a_busy_upstream_and_one_that_is_away_are_waited_for(gateway: Gateway) -> None:
    imgid = await submit(gateway)
    await asyncio.sleep(0.2)
    assert (await get(gateway, imgid))["status"] == "NOT_START"
    async with upstream(gateway, json_answer({}, 429), json_answer({}, 429), json_answer(DONE)) as chaos:
        assert (await ended(gateway, imgid))["status"] == "SUCCESS"
        assert len(chaos.exchanges) == 3


async def test_a_balance_that_does_not_cover_it_is_4016_and_makes_no_job(gateway: Gateway) -> None:
    gateway.cli("accounts", "add", "poor", "--key", "poor", "--secret", "poor", "--balance", "0.74")
    told = await told_to(gateway, "poor", method="images/submit", prompt="x")
    assert (told["error_code"], told["response"]) == ("4016", None)
    assert (
        rows(database_of(gateway), "SELECT 1 FROM jobs JOIN accounts ON accounts.id = account_id WHERE key = 'poor'")
        == []
    )


@pytest.mark.parametrize("verb", ["GET", "DELETE", "POST"])
async def test_whatever_its_verb_a_job_pays_for_its_images(gateway: Gateway, verb: str) -> None:
    async with upstream(gateway, json_answer(DONE)):
        imgid = await submit(gateway, _method=verb)
        await ended(gateway, imgid)
    assert await row_of(gateway, imgid) == ("0000", 750_000, "exact")


async def test_no_more_than_so_many_of_an_account_are_in_work_and_open(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    async with upstream(gateway, [WaitFor(go_on), json_answer(DONE)]) as chaos:
        imgids = [await submit(gateway) for _ in range(4)]
        assert (await ask(gateway, "images/submit", prompt="x")).json["error_code"] == "4008"
        await chaos.exchange(1)
        await asyncio.sleep(0.1)
        assert len(chaos.exchanges) == 2
        assert [(await get(gateway, imgid))["status"] for imgid in imgids[2:]] == ["NOT_START"] * 2
        go_on.set()
        assert {(await ended(gateway, imgid))["status"] for imgid in imgids} == {"SUCCESS"}


# Images that come as data


async def test_base64_becomes_a_file_behind_a_link_that_nobody_can_guess(gateway: Gateway) -> None:
    data = {"data": [{"b64_json": base64.b64encode(PNG).decode()}, {"b64_json": base64.b64encode(b"what").decode()}]}
    async with upstream(gateway, json_answer(data)):
        job = await ended(gateway, await submit(gateway, n="2"))
    first, second = job["images"]
    assert re.fullmatch(rf"{gateway.origin}/files/[A-Za-z0-9_-]{{40}}", first)
    got = await call(gateway, "GET", first.removeprefix(gateway.origin))
    assert (got.status, got.headers["content-type"], got.body) == (200, "image/png", PNG)
    other = await call(gateway, "GET", second.removeprefix(gateway.origin))
    assert (other.headers["content-type"], other.headers["x-content-type-options"]) == (
        "application/octet-stream",
        "nosniff",
    )
    head = await call(gateway, "HEAD", first.removeprefix(gateway.origin))
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(PNG)), b"")
    path = first.removeprefix(gateway.origin)
    for wrong in (
        path[:-1] + ("A" if path[-1] != "A" else "B"),
        path[:-1],
        "/files/",
        "/files/../gateway.db",
        path + "/x",
    ):
        assert (await call(gateway, "GET", wrong)).status == 404, wrong
    assert (await call(gateway, "POST", path)).status == 404
    files = [file.stat().st_mode & 0o777 for file in (gateway.directory / "gateway.db.files").iterdir()]
    assert set(files) == {0o600}


# Looking, waiting, listing


@pytest.mark.parametrize("imgid", ["1234567890123456", "12", "x", "-1", "9" * 40, "１２３４５６７８９０１２３４５６"])
async def test_an_unknown_id_is_2000_with_null_and_costs_nothing(gateway: Gateway, imgid: str) -> None:
    before = balance(gateway)
    for stream in ("false", "true"):
        told = (await ask(gateway, "images/get", imgid=imgid, stream=stream, version="2")).json
        assert [told[name] for name in ("response", "error_code", "error", "charge")] == [None, "2000", "", "0"]
    assert balance(gateway) == before


async def test_another_account_s_job_is_an_unknown_one(gateway: Gateway) -> None:
    gateway.cli("accounts", "add", "other", "--key", "other", "--secret", "other", "--methods", "images/submit")
    async with upstream(gateway, json_answer(DONE)):
        imgid = await submit(gateway)
        await ended(gateway, imgid)
    for method, response in (("images/get", None), ("account/jobs", {"jobs": [], "nextPageToken": None})):
        told = await told_to(gateway, "other", method=method, imgid=imgid)
        assert told["response"] == response
        assert told["error_code"] == ("2000" if response is None else "0000")


async def test_a_wait_ends_with_the_job_and_otherwise_in_time(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    async with upstream(gateway, [WaitFor(go_on), json_answer(DONE)]):
        imgid = await submit(gateway)
        began = time.monotonic()
        assert (await get(gateway, imgid, wait="0.3"))["finishTime"] is None
        assert 0.25 < time.monotonic() - began < 1.5
        waiting = asyncio.create_task(get(gateway, imgid, wait="20"))
        await asyncio.sleep(0.1)
        go_on.set()
        began = time.monotonic()
        assert (await waiting)["status"] == "SUCCESS"
        assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("wait", ["-1", "x", "true", "[]"])
async def test_a_wait_that_is_no_number_of_seconds_is_4003(gateway: Gateway, wait: str) -> None:
    assert (await ask(gateway, "images/get", imgid="1234567890123456", wait=wait)).json["error_code"] == "4003"


async def test_a_stream_tells_every_change_up_to_the_end(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    async with upstream(gateway, [WaitFor(go_on), json_answer(DONE)]) as chaos:
        imgid = await submit(gateway)
        await chaos.exchange(0)
        reading = asyncio.create_task(ask(gateway, "images/get", imgid=imgid, stream="true"))
        await asyncio.sleep(0.2)
        go_on.set()
        got = await reading
    assert got.headers["content-type"] == "text/event-stream"
    events = [event.removeprefix("data: ") for event in got.body.decode().split("\n\n") if event]
    assert events.pop() == "[DONE]"
    assert [json.loads(event)["status"] for event in events] == ["SUBMITTED", "SUCCESS"]
    xml = await ask(gateway, "images/get", imgid=imgid, stream="true", result_type="xml")
    assert b"data: <root><imgid>" in xml.body
    assert xml.body.endswith(b"data: [DONE]\n\n")


async def test_the_list_has_every_job_once_newest_first(gateway: Gateway) -> None:
    async with upstream(gateway, json_answer(DONE)):
        imgids = []
        for _ in range(5):
            imgids.append(await submit(gateway))
            await ended(gateway, imgids[-1])
    seen: list[str] = []
    arguments = {"limit": "2"}
    while len(seen) < 5:
        told = (await ask(gateway, "account/jobs", **arguments)).json["response"]
        seen += [job["imgid"] for job in told["jobs"]]
        arguments["pageToken"] = told["nextPageToken"]
    assert seen[:5] == imgids[::-1]
    foreign = (await ask(gateway, "account/calls", limit="1")).json["response"]["nextPageToken"]
    for token in (foreign, "x", ""):
        assert (await ask(gateway, "account/jobs", pageToken=token)).json["error_code"] == "4015"


# Submitting


@pytest.mark.parametrize(
    ("arguments", "code", "param"),
    [
        ({}, "4014", "prompt"),
        ({"prompt": ""}, "4003", "prompt"),
        ({"prompt": ["x"]}, "4003", "prompt"),
        ({"prompt": "x" * 32_001}, "4003", "prompt"),
        ({"prompt": "x", "notify": 7}, "4003", "notify"),
    ],
)
async def test_wrong_arguments_are_refused(
    gateway: Gateway, arguments: dict[str, object], code: str, param: str
) -> None:
    told = await call(gateway, "POST", custom_path(gateway, method="images/submit"), arguments)
    assert told.json["error_code"] == code
    assert param in told.json["reason"]


async def test_a_key_gives_the_same_job_again_while_it_runs_and_after_it(gateway: Gateway) -> None:
    go_on = asyncio.Event()
    async with upstream(gateway, [WaitFor(go_on), json_answer(DONE)]) as chaos:
        first = await ask(gateway, "images/submit", prompt="key", idempotency_key="job-1")
        again = await ask(gateway, "images/submit", prompt="key", idempotency_key="job-1")
        assert again.json == first.json
        assert again.headers["idempotent-replayed"] == "true"
        other = await ask(gateway, "images/submit", prompt="another", idempotency_key="job-1")
        assert other.json["error_code"] == "4003"
        go_on.set()
        await ended(gateway, first.json["response"]["imgid"])
        assert (await ask(gateway, "images/submit", prompt="key", idempotency_key="job-1")).json == first.json
        assert len(chaos.exchanges) == 1


async def test_a_client_that_leaves_at_once_leaves_a_job_that_is_paid(gateway: Gateway) -> None:
    before, _ = balance(gateway)
    async with upstream(gateway, json_answer(DONE)):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        target = custom_path(gateway, method="images/submit", prompt="left", cache="no")
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await writer.drain()
        writer.transport.abort()
        await asyncio.sleep(0.5)
        jobs = [job for job in (await ask(gateway, "account/jobs")).json["response"]["jobs"] if job["prompt"] == "left"]
        for job in jobs:
            await ended(gateway, job["imgid"])
    assert balance(gateway) == (before - 750_000 * len(jobs), 0)
    check_books(database_of(gateway))


async def test_the_call_counts_when_it_was_submitted_and_is_logged_when_the_job_has_ended(gateway: Gateway) -> None:
    counted = (await ask(gateway, "account/balance")).json["response"]["calls_total"]
    go_on = asyncio.Event()
    async with upstream(gateway, [WaitFor(go_on), json_answer(DONE)]):
        told = (await ask(gateway, "images/submit", prompt="counted")).json
        imgid, last_id = told["response"]["imgid"], int(told["last_id"])
        assert (await ask(gateway, "account/balance")).json["response"]["calls_total"] == counted + 1
        assert rows(database_of(gateway), "SELECT 1 FROM calls WHERE id = ?", last_id) == []
        go_on.set()
        await ended(gateway, imgid)
    await ask(gateway, "account/balance")
    assert rows(database_of(gateway), "SELECT method, request_id FROM calls WHERE id = ?", last_id) == [
        ("images/submit", told["request_id"])
    ]
    assert (await ask(gateway, "account/balance")).json["response"]["calls_total"] == counted + 1
    [(stored,)] = rows(
        database_of(gateway), "SELECT sum(succeeded + empty + failed) FROM call_counts WHERE account_id = 1"
    )
    assert stored == counted + 1


# Telling an address


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest",
        "http://localhost/",
        "https://127.0.0.1:{port}@evil.example/",
        "ftp://127.0.0.1:{port}/",
        "http://127.0.0.1/",
        "http://127.0.0.1:{port}#x",
        "http://127.0.0.1:{port}.evil.example/",
        "//127.0.0.1:{port}/",
        "http://user@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}/\r\nX: y",
        "向日葵",
        "http://127.0.0.1:{port}/" + "x" * 2_000,
    ],
)
async def test_an_address_that_is_not_allowed_is_4003_and_makes_no_job(gateway: Gateway, address: str) -> None:
    before = rows(database_of(gateway), "SELECT count(*) FROM jobs")
    told = (await ask(gateway, "images/submit", prompt="x", notify=address.replace("{port}", str(NOTIFY_PORT)))).json
    assert (told["error_code"], told["reason"][:6]) == ("4003", "notify")
    assert rows(database_of(gateway), "SELECT count(*) FROM jobs") == before


async def test_an_allowed_address_is_told_of_the_end_again_until_it_takes_it_and_never_elsewhere(
    gateway: Gateway,
) -> None:
    """A redirect is no success, and is not followed."""
    notify = f"http://127.0.0.1:{NOTIFY_PORT}/hook?a=1"
    moved = answer(b"", "text/plain", 302, ("Location", f"http://127.0.0.1:{gateway.port}/healthz"))
    async with upstream(gateway, json_answer(DONE)), Chaos(moved, json_answer({}), port=NOTIFY_PORT) as listener:
        imgid = await submit(gateway, notify=notify)
        job = await ended(gateway, imgid)
        told = await listener.exchange(1)
        assert (told.method, told.target) == ("POST", "/hook?a=1")
        assert told.json == job
        await asyncio.sleep(0.2)
        assert len(listener.exchanges) == 2
    assert rows(database_of(gateway), "SELECT 1 FROM jobs WHERE notify IS NOT NULL") == []


# The operator's ways


async def test_the_operator_can_close_them_and_have_no_jobs_at_all() -> None:
    for config, code in (
        ('[methods]\nclosed = ["images/*"]', "4010"),
        ('[methods]\nmaintenance = ["images/submit"]', "4009"),
        ('[jobs]\nbackend = "none"', "4010"),
        ('[plugins]\noff = ["images"]', "4010"),
    ):
        with gateway_before_chaos(config) as running:
            assert (await ask(running, "images/submit", prompt="x")).json["error_code"] == code, config


async def test_a_job_without_a_price_is_refused_unless_such_calls_are_free() -> None:
    price = '[[price]]\nmethod = "v1/*"\nper_call = "1"\n'
    with gateway_before_chaos(price) as running:
        for verb in ("", "GET", "DELETE"):
            told = await ask(running, "images/submit", prompt="x", _method=verb)
            assert told.json["error_code"] == "4010", verb
    with gateway_before_chaos(f'{price}[charging]\nunpriced = "free"') as running:
        async with upstream(running, json_answer(DONE)):
            imgid = await submit(running)
            assert (await ended(running, imgid))["status"] == "SUCCESS"
        assert await row_of(running, imgid) == ("0000", 0, "free")
        check_books(database_of(running))


async def test_sigterm_waits_for_an_upstream_s_images_and_a_drain_that_is_too_short_leaves_an_unknown_job() -> None:
    with gateway_before_chaos("[server]\ndrain_s = 1.0") as running:
        async with upstream(running, [Wait(0.4), json_answer(DONE)]) as chaos:
            first = await submit(running)
            await chaos.exchange(0)
            running.process.terminate()
            await asyncio.to_thread(running.process.wait)
        async with upstream(running, [Wait(30), json_answer(DONE)]) as chaos:
            await asyncio.to_thread(running.restart)
            assert (await get(running, first))["status"] == "SUCCESS"
            second = await submit(running)
            await chaos.exchange(0)
            running.process.terminate()
            await asyncio.to_thread(running.process.wait)
        await asyncio.to_thread(running.restart)
        job = await get(running, second)
    assert job["status"] == "FAILURE"
    assert "the gateway was stopped" in job["failReason"]


async def test_who_waits_for_a_job_does_not_hold_up_a_drain() -> None:
    with gateway_before_chaos("[server]\ndrain_s = 20.0\n[jobs]\nworkers = 1") as running:
        async with upstream(running, json_answer({}, 429)):
            imgid = await submit(running)
            waiting = asyncio.create_task(get(running, imgid, wait="20"))
            streaming = asyncio.create_task(ask(running, "images/get", imgid=imgid, stream="true"))
            await asyncio.sleep(0.3)
            began = time.monotonic()
            running.process.terminate()
            assert (await waiting)["finishTime"] is None
            cut = await streaming
            assert not cut.complete
            assert b'"code":"4009"' in cut.body
            await asyncio.to_thread(running.process.wait)
            assert time.monotonic() - began < 5
        await asyncio.to_thread(running.restart)
        async with upstream(running, json_answer(DONE)):
            assert (await ended(running, imgid))["status"] == "SUCCESS"


async def test_a_prompt_is_translated_at_the_submission_and_shown_as_it_was_written() -> None:
    runner, base_url = await start("127.0.0.1", 0, UPSTREAM_KEY, pace_s=0)
    try:
        with gateway_process(base_url) as running:
            told = await ask(running, "images/submit", prompt="向日葵", lang_prompt="yes")
            assert told.headers["x-prompt-translate-status"] == "translated"
            job = await ended(running, told.json["response"]["imgid"])
            [(arguments,)] = rows(database_of(running), "SELECT arguments FROM jobs")
    finally:
        await runner.cleanup()
    assert job["prompt"] == "向日葵"
    assert json.loads(arguments)["prompt"].isascii()


async def test_what_is_refused_is_not_translated_before(gateway: Gateway) -> None:
    wanted = {"prompt": "向日葵", "lang_prompt": "yes"}
    async with upstream(gateway, [Wait(0.5), json_answer(DONE)]) as chaos:
        told = await ask(gateway, "images/submit", **wanted, notify="http://10.0.0.1/")
        assert told.json["error_code"] == "4003"
        imgids = [await submit(gateway) for _ in range(4)]
        assert (await ask(gateway, "images/submit", **wanted)).json["error_code"] == "4008"
        for imgid in imgids:
            await ended(gateway, imgid)
        assert {each.target for each in chaos.exchanges} == {"/v1/images/generations"}
