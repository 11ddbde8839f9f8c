"""Kills the gateway at random moments under load, and compares each time what clients, upstream and books know.

    python -m tests.kills 1000 --seed 7

Its store is the same all the time. One kill in five meets the process while it starts, and releases what the one before
it held.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from random import Random

from tests.agreement import Figures
from tests.load import Load
from tests.orders import MONEY, PRICES
from tests.support import Gateway, gateway_before_chaos

LOG_LIMIT_BYTES = 1_000_000


async def kill_often(gateway: Gateway, kills: int, seed: int) -> Figures:
    """Kills so often; an AssertionError tells what does not agree."""
    random = Random(seed)
    async with Load(gateway, seed=seed) as load:
        done = 0
        while done < kills:
            load.begin()
            await asyncio.sleep(random.uniform(0.05, 1))
            load.pause()
            gateway.kill()
            done += 1
            await load.quiet()
            await load.process_gone()
            while done < kills and random.random() < 0.2:
                gateway.restart(until_ready=False)
                await asyncio.sleep(random.uniform(0.2, 0.8))
                gateway.kill()
                done += 1
            await asyncio.to_thread(gateway.restart)
            load.agreement.compare()
            if gateway.log_path.stat().st_size > LOG_LIMIT_BYTES:
                gateway.log_path.write_bytes(b"")
        load.begin()  # who asks under a key until there is an answer, gets one
        await load.answered()
        await load.quiet()
        await load.settled()
        load.agreement.compare()
        return load.agreement.figures


def kill_a_gateway(kills: int, seed: int) -> tuple[Figures, str]:
    """Kills a gateway of its own so often; the figures, and a line that tells them."""
    started = time.monotonic()
    with gateway_before_chaos(PRICES, environ={"GATEWAY_LOG__ACCESS": "off"}) as gateway:
        gateway.cli("accounts", "topup", "tester", MONEY)
        figures = asyncio.run(kill_often(gateway, kills, seed))
    return figures, f"{kills} kills in {time.monotonic() - started:.0f} s (seed {seed}): {figures}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Kill the gateway at random moments, and compare.")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    print(kill_a_gateway(arguments.kills, arguments.seed)[1])


if __name__ == "__main__":
    main()
