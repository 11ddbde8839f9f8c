"""Jobs made by a Midjourney proxy: submitted once, and asked about by the id that it gave until they have ended.

The interface is that of the widely used midjourney-proxy: `POST /mj/submit/imagine` and `GET /mj/task/{id}/fetch`.
"""

from __future__ import annotations

import asyncio
import logging
import re

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
from gateway.types import JobStatus, JsonValue

LOG = logging.getLogger("gateway.jobs")

ACCEPTED = frozenset({1, 21, 22})
"""Submitted; there is such a task already, whose id is told; it waits in the proxy's queue."""

_REFUSALS = {
    23: ("4002", "the backend's queue is full; submit the job again later"),
    24: ("2000", "the prompt holds a word that the backend does not allow"),
}
_NEVER_PASSED = frozenset({"model", "n", "notify", "notifyHook", "prompt", "state"})
_GOING_ON: dict[str, JobStatus] = {
    "NOT_START": "SUBMITTED",  # the proxy has it, whatever it does with it
    "SUBMITTED": "SUBMITTED",
    "IN_PROGRESS": "IN_PROGRESS",
}
_ENDED = {
    "FAILURE": "the backend gave no reason",
    "CANCEL": "the job was cancelled at the backend",
    "MODAL": "the backend waits for an entry in a form, which nobody can make",
}
_FORGOTTEN_AFTER = 5  # answers 404 in a row


class Midjourney:
    """The backend `midjourney`; it is asked every `poll_s` seconds."""

    name = "midjourney"
    resumes = True

    def __init__(self, service: Service, *, poll_s: float) -> None:
        self._service = service
        self._poll_s = poll_s

    async def run(self, job: OpenJob, notes: Notes) -> tuple[str | bytes, ...]:
        """As Backend. Ends only with the task's end: what is stuck is the worker's deadline's business."""
        if job.backend_id is None:
            task = await self._submit(job, notes)
            await notes.accepted(self.name, task)
        else:
            task = job.backend_id
        told: tuple[JobStatus, int] | None = None
        missing = 0
        while True:
            await asyncio.sleep(self._poll_s)
            code, state = await self._fetch(job, task)
            missing = missing + 1 if code == 404 else 0
            if missing >= _FORGOTTEN_AFTER:
                raise JobFailed("4002", "the backend no longer knows the job", unknown=True)
            status = text_of(state.get("status"))
            if status == "SUCCESS":
                return _images(state)
            if status in _ENDED:
                raise JobFailed("2000", text_of(state.get("failReason")) or _ENDED[status])
            now = (_GOING_ON.get(status, "SUBMITTED"), _percent(state.get("progress")))
            if now != told and status in _GOING_ON:
                await notes.progress(*now)
                told = now

    async def _submit(self, job: OpenJob, notes: Notes) -> str:
        """The task's id. Nothing is tried twice: a proxy that did not answer may have begun."""
        given: dict[str, JsonValue] = orjson.loads(job.arguments)
        rest = {name: value for name, value in given.items() if name not in _NEVER_PASSED}
        value: JsonValue = {**rest, "prompt": given.get("prompt", job.prompt), "state": job.imgid}
        status, body = await self._give(job, notes, value)
        answer = read_object(body)
        code, said = answer.get("code"), text_of(answer.get("description"))
        if isinstance(code, bool) or not isinstance(code, int):
            code = 0
        if code in _REFUSALS:
            raise JobFailed(_REFUSALS[code][0], f"{_REFUSALS[code][1]} ({said})" if said else _REFUSALS[code][1])
        if status >= 300:
            raise refused(status, said)
        task = text_of(answer.get("result"))
        if not answer:
            raise unreadable()
        if code not in ACCEPTED or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", task):
            raise JobFailed("4002", f"the backend did not take the job: {said or 'it gave no id'}")
        return task

    async def _give(self, job: OpenJob, notes: Notes, value: JsonValue) -> tuple[int, bytes]:
        """The proxy's answer, as soon as it takes anything."""
        while True:
            try:
                return await self._service.give(notes, "/mj/submit/imagine", value)
            except NotSent as error:
                LOG.info("job %s waits: %s", job.imgid, error)
            except GatewayError as error:
                raise lost(error) from error
            await asyncio.sleep(self._poll_s)

    async def _fetch(self, job: OpenJob, task: str) -> tuple[int, dict[str, JsonValue]]:
        """The answer's status and how the task is; nothing where the proxy cannot say it just now."""
        try:
            status, body = await self._service.ask(f"/mj/task/{task}/fetch")
        except GatewayError as error:
            LOG.info("job %s cannot be asked about: %s", job.imgid, error.reason)
            return 0, {}
        return status, read_object(body) if status == 200 else {}


def _images(state: dict[str, JsonValue]) -> tuple[str | bytes, ...]:
    """The one image, or those that newer proxies tell one by one where there is no such."""
    several = state.get("imageUrls")
    given = [state.get("imageUrl")]
    if not is_address(given[0]) and isinstance(several, list):
        given = [item.get("url") if isinstance(item, dict) else item for item in several]
    return found(item if isinstance(item, str) and is_address(item) else None for item in given)


def _percent(progress: JsonValue) -> int:
    found = re.fullmatch(r"(\d{1,3})\s*%?", text_of(progress))
    return min(int(found[1]), 99) if found else 0
