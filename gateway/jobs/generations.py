"""Jobs made by `v1/images/generations` of an upstream: one call each, which gives no id to ask about it later."""

from __future__ import annotations

import asyncio
import binascii
import logging
from base64 import b64decode

import orjson

from gateway.errors import GatewayError
from gateway.jobs.backend import (
    JobFailed,
    Notes,
    NotSent,
    Service,
    found,
    is_address,
    lost,
    read_object,
    refused,
    text_of,
    unreadable,
)
from gateway.store.jobs import OpenJob
from gateway.types import JsonValue

LOG = logging.getLogger("gateway.jobs")

MAX_PAUSE_S = 30.0
_PATH = "/images/generations"
_LOST_AT_MOST = 3


class Generations:
    """The backend `images`. `retries`: a call that was lost is made again, since the operator says that this does no
    harm; every one carries the job's number as its `Idempotency-Key`.
    """

    name = "images"
    resumes = False

    def __init__(self, service: Service, *, pause_s: float, retries: bool) -> None:
        self._service = service
        self._pause_s = pause_s
        self._retries = retries

    async def run(self, job: OpenJob, notes: Notes) -> tuple[str | bytes, ...]:
        """As Backend. Waits where the upstream cannot be reached, or has too much to do."""
        value: JsonValue = orjson.loads(job.arguments)
        pause_s, lost_calls = self._pause_s, 0
        while True:
            try:
                return _images(*await self._service.give(notes, _PATH, value, f"Idempotency-Key: {job.imgid}\r\n"))
            except NotSent as error:
                LOG.info("job %s waits: %s", job.imgid, error)
            except (GatewayError, JobFailed) as error:
                failure = lost(error) if isinstance(error, GatewayError) else error
                lost_calls += 1
                if not failure.unknown or not self._retries or lost_calls >= _LOST_AT_MOST:
                    raise failure from error
                LOG.warning("job %s is tried again: %s", job.imgid, error.reason)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)


def _images(status: int, body: bytes) -> tuple[str | bytes, ...]:
    answer = read_object(body)
    if status >= 300:
        error = answer.get("error")
        raise refused(status, text_of(error.get("message")) if isinstance(error, dict) else "")
    if not answer:
        raise unreadable()
    data = answer.get("data")
    return found(map(_image, data) if isinstance(data, list) else ())


def _image(item: JsonValue) -> str | bytes | None:
    """An address, or what base64 stands for, wrapped into lines or a `data:` address as some do; None: no image."""
    if isinstance(item, dict):
        url, data = item.get("url"), item.get("b64_json")
        if isinstance(url, str) and is_address(url):
            return url
        if not isinstance(data, str):
            data = url if isinstance(url, str) and url.startswith("data:") else ""
        if data.startswith("data:"):
            data = data.partition(",")[2]
        try:
            return b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            return None
    return None
