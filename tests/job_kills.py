"""Kills the gateway at random moments while it works on image jobs, and compares what callers, backend and books know.

python -m tests.job_kills 20 --jobs 1000 --backend midjourney --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from gateway.amounts import amount_micros
from tests.backends import Backend, Generations, MidjourneyProxy
from tests.books import balance, charges, check_books, database_of, rows
from tests.support import Gateway, call, custom_path, gateway_process

BACKENDS = ("idempotent", "images", "midjourney")
PRICE = amount_micros("0.01")
CONFIG = """
[[price]]
method = "images/submit"
per_call = "0.01"

[jobs]
workers = 8
per_account = 8
most_open = 10000
poll_s = 0.02
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """How many jobs ended how; `repeated` are calls of the backend for a job that it had before."""

    succeeded: int
    failed: int
    unknown: int
    repeated: int
    kills: int


class JobLoad:
    """Submits so many jobs, each under a key of its own and again until there is an answer."""

    def __init__(self, gateway: Gateway, jobs: int, random: Random) -> None:
        self._gateway = gateway
        self._waiting = [f"{'fails' if random.random() < 0.1 else 'please draw'} {number}" for number in range(jobs)]
        self.submitted: dict[str, str] = {}  # imgids by prompt
        self._tasks = [asyncio.create_task(self._submit()) for _ in range(8)]

    async def _submit(self) -> None:
        while self._waiting:
            prompt = self._waiting.pop()
            key = prompt.replace(" ", "-")
            path = custom_path(self._gateway, method="images/submit", prompt=prompt, idempotency_key=key)
            while prompt not in self.submitted:
                with suppress(OSError, IndexError):  # the gateway is gone
                    answer = await call(self._gateway, "GET", path)
                    if answer.status == 200 and answer.complete and answer.json["error_code"] == "0000":
                        self.submitted[prompt] = answer.json["response"]["imgid"]
                        continue
                await asyncio.sleep(0.05)

    async def finish(self) -> None:
        await asyncio.gather(*self._tasks)


def _open_jobs(gateway: Gateway) -> int:
    return int(rows(database_of(gateway), "SELECT count(*) FROM jobs WHERE finished_ms IS NULL")[0][0])


async def kill_often(gateway: Gateway, backend: Backend, kills: int, jobs: int, random: Random) -> Figures:
    """Kills so often, as long as there is something to do; an AssertionError tells what does not agree."""
    load = JobLoad(gateway, jobs, random)
    done = 0
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.02, 0.7))
        if len(load.submitted) == jobs and not _open_jobs(gateway):
            break
        gateway.kill()
        done += 1
        check_books(database_of(gateway))
        await asyncio.to_thread(gateway.restart)
    await load.finish()
    async with asyncio.timeout(120):
        while _open_jobs(gateway):
            await asyncio.sleep(0.05)
    return compare(gateway, backend, load.submitted, done)


def compare(gateway: Gateway, backend: Backend, submitted: dict[str, str], kills: int) -> Figures:
    """What callers were told, what the backend did, and what the books say."""
    found = rows(
        database_of(gateway),
        "SELECT jobs.id, jobs.status, jobs.prompt, jobs.fail_reason, calls.charge_micros, calls.settled"
        " FROM jobs JOIN calls ON calls.id = jobs.call_id",
    )
    ends = {prompt: (f"{id_:016d}", status, *rest) for id_, status, prompt, *rest in found}
    assert len(found) == len(ends) == len(submitted), "each job once, and each has ended"
    counts: Counter[str] = Counter()
    for prompt, (imgid, status, reason, charge, settled) in ends.items():
        assert submitted[prompt] == imgid
        assert charge == (PRICE if status == "SUCCESS" else 0), prompt
        made = backend.made[prompt]
        counts["repeated"] += max(made - 1, 0)
        if settled == "unknown":
            counts["unknown"] += 1
            assert "unknown" in reason
            assert status == "FAILURE"
        elif prompt.startswith("please"):
            counts["succeeded"] += 1
            assert (status, made) == ("SUCCESS", 1), f"{prompt}: {status}, made {made} times, {reason}"
        else:
            counts["failed"] += 1
            assert status == "FAILURE"
            assert made == 1
    assert sum(charges(gateway)) == counts["succeeded"] * PRICE
    assert len(charges(gateway)) == counts["succeeded"]
    check_books(database_of(gateway))
    assert balance(gateway)[1] == 0
    assert "The books add up." in gateway.cli("audit")
    return Figures(counts["succeeded"], counts["failed"], counts["unknown"], counts["repeated"], kills)


async def run(kind: str, kills: int, jobs: int, seed: int) -> Figures:
    """Kills a gateway of its own so often while a backend of this kind makes the images."""
    random = Random(seed)
    backend: Backend
    config = CONFIG
    if kind == "midjourney":
        backend = MidjourneyProxy(slowest_s=0.02, seed=seed)
    else:
        backend = Generations(slowest_s=0.15, seed=seed, idempotent=kind == "idempotent")
    async with backend:
        if kind == "idempotent":
            config += "retry_interrupted = true\n"
        elif kind == "midjourney":
            config += f'backend = "midjourney"\nurl = "{backend.origin}"\n'
        with gateway_process(f"{backend.origin}/v1", config, environ={"GATEWAY_LOG__ACCESS": "off"}) as gateway:
            gateway.cli("accounts", "topup", "tester", "1000")
            return await kill_often(gateway, backend, kills, jobs, random)


def kill_a_gateway(kind: str, kills: int, jobs: int, seed: int) -> tuple[Figures, str]:
    """The figures, and a line that tells them."""
    started = time.monotonic()
    figures = asyncio.run(run(kind, kills, jobs, seed))
    return figures, f"{kind}: {jobs} jobs in {time.monotonic() - started:.0f} s (seed {seed}): {figures}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Kill the gateway while it works on jobs, and compare.")
    parser.add_argument("kills", type=int)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--backend", choices=BACKENDS, default="idempotent")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    print(kill_a_gateway(arguments.backend, arguments.kills, arguments.jobs, arguments.seed)[1])


if __name__ == "__main__":
    main()
