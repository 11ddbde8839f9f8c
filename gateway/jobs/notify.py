"""Tells an address that a job has ended: a POST of the job's object to a host that the operator allows.

No redirect is followed, so whoever is allowed cannot send the gateway anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection

from gateway.config import UpstreamSettings
from gateway.errors import GatewayError
from gateway.jobs.backend import Service
from gateway.types import Job
from gateway.upstream.pool import Deadlines, Pool
from gateway.upstream.request import target_of

LOG = logging.getLogger("gateway.jobs")

PAUSES_S = (1.0, 5.0, 25.0, 60.0)
"""Between the attempts; there is one more of these."""
_ATTEMPT_S = 10.0
_TURNS = 4  # at a time at one host
_MAX_ANSWER_BYTES = 65_536
_MAX_URL_CHARS = 2_000
_URL = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(/[!-~]*)?", re.IGNORECASE | re.ASCII)
_PORTS = {"http": "80", "https": "443"}


class Notifier:
    """Posts to the hosts of `hosts` alone, each written with its port where that is not the scheme's own."""

    def __init__(self, hosts: Collection[str], pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self._hosts = frozenset(hosts)
        self._pauses_s = pauses_s
        self._turns = {host: asyncio.Semaphore(_TURNS) for host in self._hosts}  # one that hangs holds up no other

    def allows(self, url: str) -> bool:
        """Whether the operator allows what a caller named."""
        found = _URL.fullmatch(url) if len(url) <= _MAX_URL_CHARS and "#" not in url else None
        return found is not None and _authority(found) in self._hosts

    async def tell(self, url: str, job: Job) -> bool:
        """Posts the job's object, and again a few times where that fails; whether it was taken with a 2xx."""
        found = _URL.fullmatch(url)
        if found is None or _authority(found) not in self._hosts:  # the operator has changed his mind
            return False
        turns = self._turns[_authority(found)]
        for pause_s in (*self._pauses_s, None):
            async with turns:
                why = await self._attempt(found, job)
            if why is None:
                return True
            LOG.info("the end of job %s could not be told to its address: %s", job.imgid, why)
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        LOG.warning("the end of job %s was not told: its address did not take it", job.imgid)
        return False

    @staticmethod
    async def _attempt(found: re.Match[str], job: Job) -> str | None:
        """None where it was taken, else why not."""
        base_url = found[0][: found.end(2)] + (f":{found[3]}" if found[3] else "")
        target = target_of(UpstreamSettings(name="notify", base_url=base_url), "")
        deadlines = Deadlines(_ATTEMPT_S, _ATTEMPT_S, _ATTEMPT_S, _ATTEMPT_S, _ATTEMPT_S)
        pool = Pool(target.host, target.port, target.tls, deadlines)
        try:
            async with asyncio.timeout(_ATTEMPT_S):
                service = Service(target, pool, _MAX_ANSWER_BYTES)
                status, _ = await service.exchange(await pool.connect(), "POST", found[4] or "/", job.document)
        except TimeoutError:
            return f"it took more than {_ATTEMPT_S:g} s"
        except GatewayError as error:
            return error.reason
        finally:
            pool.close()
        return None if 200 <= status < 300 else f"it answered {status}"


def _authority(found: re.Match[str]) -> str:
    """Host and port as the operator writes them."""
    port = found[3]
    return found[2].lower() + (f":{port}" if port and port != _PORTS[found[1].lower()] else "")
