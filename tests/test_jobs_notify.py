"""Telling an address of a job's end: hosts that the operator allows, a few times, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from gateway.jobs.notify import Notifier
from gateway.types import Job
from tests.chaos import Chaos, Cut, Hang, answer, json_answer

JOB = Job("1987378144113570", "SUCCESS", 100, "向日葵", 1, 2, 3, ("https://images.example/1",))


async def test_hosts_are_allowed_with_their_ports_alone() -> None:
    notifier = Notifier(["app.example", "10.0.0.5:8000", "[::1]:9"])
    for url in (
        "https://app.example", "http://APP.example/x?y=1", "https://app.example:443/", "http://app.example:80/",
        "http://10.0.0.5:8000/hook", "http://[::1]:9/",
    ):  # fmt: skip
        assert notifier.allows(url), url
    for url in (
        "", "app.example", "https://app.example:8443/", "http://app.example:443/", "http://10.0.0.5/", "http://10.0.0.5:80/",
        "https://app.example.evil/", "https://evil/app.example", "https://app.example@evil/", "https://evil\\@app.example/",
        "https://app.example/ x", "https://app.example/\n", "https://app.example/#f", "ftp://app.example/", "http://[::1]/",
        "http\u017f://app.example/", "http\u017f://app.example:1/",
    ):  # fmt: skip
        assert not notifier.allows(url), url


async def test_it_is_told_again_until_it_is_taken() -> None:
    moved = answer(b"", "text/plain", 307, ("Location", "http://127.0.0.1:1/"))
    async with Chaos(json_answer({}, 500), [Cut()], moved, json_answer({}, 204)) as chaos:
        host = f"127.0.0.1:{chaos.port}"
        assert await Notifier([host], (0.01, 0.01, 0.01, 0.01)).tell(f"http://{host}/a?b", JOB)
        assert [(each.method, each.target, each.json) for each in chaos.exchanges] == [
            ("POST", "/a?b", JOB.document)
        ] * 4


async def test_it_is_given_up_after_a_few_attempts(caplog: pytest.LogCaptureFixture) -> None:
    async with Chaos(json_answer({}, 404)) as chaos:
        host = f"127.0.0.1:{chaos.port}"
        assert not await Notifier([host], (0.01, 0.01)).tell(f"http://{host}", JOB)
        assert [each.target for each in chaos.exchanges] == ["/"] * 3
    assert "was not told" in caplog.text


async def test_a_host_that_hangs_holds_up_no_other() -> None:
    async with Chaos([Hang()]) as hanging, Chaos(json_answer({}, 204)) as good:
        hosts = [f"127.0.0.1:{chaos.port}" for chaos in (hanging, good)]
        notifier = Notifier(hosts)
        stuck = [asyncio.create_task(notifier.tell(f"http://{hosts[0]}/", JOB)) for _ in range(20)]
        await hanging.exchange(3)
        assert await notifier.tell(f"http://{hosts[1]}/", JOB)
        assert len(hanging.exchanges) == 4
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_an_address_that_is_no_longer_allowed_is_not_told() -> None:
    async with Chaos(json_answer({})) as chaos:
        assert not await Notifier([]).tell(f"http://127.0.0.1:{chaos.port}/", JOB)
        await asyncio.sleep(0.05)
        assert not chaos.connections
