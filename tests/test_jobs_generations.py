"""Jobs made by one call of an upstream each: what is noted before it leaves, and when it is made again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.config import UpstreamSettings
from gateway.jobs.backend import JobFailed, Service
from gateway.jobs.generations import Generations
from gateway.store.jobs import OpenJob
from gateway.types import JobStatus
from gateway.upstream.pool import Deadlines, Pool
from gateway.upstream.request import target_of
from tests.chaos import Chaos, Cut, json_answer
from tests.support import free_port

JOB = OpenJob(1_987_378_144_113_570, 1, "NOT_START", "x", b'{"prompt":"x","n":2}')
DONE = json_answer({"data": [{"url": "https://images.example/1"}, {"b64_json": "aGk="}]})


class Noted:
    """What a backend has had written down; `chaos` sees no request before that."""

    def __init__(self, chaos: Chaos | None = None) -> None:
        self.log: list[str] = []
        self._chaos = chaos

    async def sending(self) -> None:
        await asyncio.sleep(0.01)
        if self._chaos is not None:
            assert len(self._chaos.exchanges) == self.log.count("sending")
        self.log.append("sending")

    async def not_sent(self) -> None:
        self.log.append("not sent")

    async def accepted(self, backend: str, backend_id: str) -> None:
        raise AssertionError("it gives no ids")

    async def progress(self, status: JobStatus, percent: int) -> None:
        raise AssertionError("it tells no progress")


@asynccontextmanager
async def generations(port: int, *, retries: bool = False) -> AsyncIterator[Generations]:
    target = target_of(UpstreamSettings(base_url=f"http://127.0.0.1:{port}/v1"), "")
    pool = Pool(target.host, target.port, None, Deadlines(1, 2, 2, 2, 60))
    yield Generations(Service(target, pool, 1_000_000), pause_s=0.02, retries=retries)
    pool.close()


async def test_the_call_is_noted_before_it_leaves_and_gives_addresses_and_bytes() -> None:
    async with Chaos(DONE) as chaos, generations(chaos.port) as backend:
        notes = Noted(chaos)
        assert await backend.run(JOB, notes) == ("https://images.example/1", b"hi")
        assert notes.log == ["sending"]
        assert (chaos.exchanges[0].method, chaos.exchanges[0].target) == ("POST", "/v1/images/generations")
        assert chaos.exchanges[0].json == {"prompt": "x", "n": 2}


async def test_images_are_read_as_backends_write_them() -> None:
    wrapped = {"b64_json": "a\nGk\r\n=\n"}
    data = [
        None,
        wrapped,
        {"b64_json": "data:image/png;base64,aGk="},
        {"url": "data:image/png;base64,aGk="},
        {"url": "x"},
    ]
    async with Chaos(json_answer({"data": data})) as chaos, generations(chaos.port) as backend:
        assert await backend.run(JOB, Noted(chaos)) == (b"hi",) * 3


async def test_one_that_cannot_be_reached_is_waited_for_and_nothing_is_noted() -> None:
    port = free_port()
    async with generations(port) as backend:
        notes = Noted()
        task = asyncio.create_task(backend.run(JOB, notes))
        await asyncio.sleep(0.1)
        assert notes.log == []
        async with Chaos(DONE, port=port):
            await task


async def test_one_that_has_too_much_to_do_has_not_done_it() -> None:
    async with Chaos(json_answer({}, 429), DONE) as chaos, generations(chaos.port) as backend:
        notes = Noted(chaos)
        await backend.run(JOB, notes)
        assert notes.log == ["sending", "not sent", "sending"]


@pytest.mark.parametrize(
    "script",
    [
        json_answer({}, 502),
        json_answer([]),
        [Cut()],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", Cut()],
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_call_that_was_lost_is_made_again_only_where_that_is_allowed(script: list[bytes | Cut] | bytes) -> None:
    async with Chaos(script, DONE) as chaos, generations(chaos.port) as backend:
        with pytest.raises(JobFailed) as caught:
            await backend.run(JOB, Noted(chaos))
        assert caught.value.unknown
        assert len(chaos.exchanges) == 1
    async with Chaos(script, script, DONE) as chaos, generations(chaos.port, retries=True) as backend:
        assert len(await backend.run(JOB, Noted(chaos))) == 2
        assert {each.header("idempotency-key") for each in chaos.exchanges} == {JOB.imgid}


async def test_a_call_that_is_lost_again_and_again_fails() -> None:
    async with Chaos([Cut()]) as chaos, generations(chaos.port, retries=True) as backend:
        with pytest.raises(JobFailed, match="unknown"):
            await backend.run(JOB, Noted(chaos))
        assert len(chaos.exchanges) == 3


async def test_each_call_has_a_connection_of_its_own_which_is_not_kept() -> None:
    """One that was kept may be closed by the upstream in the moment in which it is used."""
    async with Chaos(DONE) as chaos, generations(chaos.port) as backend:
        await backend.run(JOB, Noted())
        await backend.run(JOB, Noted())
        assert len(chaos.connections) == 2
        assert {each.header("connection") for each in chaos.exchanges} == {"close"}
        async with asyncio.timeout(2):
            await asyncio.gather(*(connection.closed.wait() for connection in chaos.connections))
