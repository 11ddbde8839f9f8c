"""The jobs as calls see them: submitted, looked at, waited for and listed, each account its own."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TypeVar

import orjson

from gateway.billing import key_in_use, not_covered
from gateway.config import JobsSettings
from gateway.errors import GatewayError
from gateway.ids import microseconds_of
from gateway.job_opening import JobOpening
from gateway.jobs.changes import Changes
from gateway.jobs.files import JobFiles
from gateway.jobs.notify import Notifier
from gateway.store.interface import InsufficientBalanceError, KeyTakenError, StoreError, TooManyJobsError
from gateway.store.jobs import NewJob, imgid_of
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite_jobs import Submit
from gateway.types import Job, JsonValue

LOG = logging.getLogger("gateway.jobs")

MAX_WAIT_S = 25.0
_IMGID = re.compile(r"[0-9]{16}")
T = TypeVar("T")


class Desk:
    """Where methods ask. `submitted` is called for each new job."""

    def __init__(
        self,
        store: SqliteStore,
        settings: JobsSettings,
        files: JobFiles,
        notifier: Notifier,
        changes: Changes,
        submitted: Callable[[], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._files = files
        self._notifier = notifier
        self._changes = changes
        self._submitted = submitted

    async def submit(
        self, opening: JobOpening, prompt: str, arguments: Mapping[str, JsonValue], notify: str | None
    ) -> str:
        """Makes a job, durably, and returns its imgid. Raises 4003, 4008, 4016 and 4000, and what a translation may."""
        if notify is not None and not self._notifier.allows(notify):
            raise GatewayError("4003", "notify is not an address at a host that the operator allows", param="notify")
        hold, most_open = opening.hold, self._settings.most_open
        if opening.translated is not None and arguments.get("prompt") == prompt:
            if await _asked(partial(self._store.open_jobs, hold.account_id)) >= most_open:
                raise _too_many()
            arguments = {**arguments, "prompt": await opening.translated()}
        number = microseconds_of(hold.call_id)
        now_ms = time.time_ns() // 1_000_000
        job = NewJob(hold, opening.price, number, prompt, orjson.dumps(arguments), notify, most_open, now_ms)
        opening.opened = True  # before it is: whoever is cancelled meanwhile has a job all the same
        try:
            number = await self._store.step(Submit(job))
        except StoreError as error:
            opening.opened = False
            raise _refusal(error, hold.amount_micros) from error
        self._submitted()
        return imgid_of(number)

    async def job(self, account_id: int, imgid: str, wait_s: float) -> Job | None:
        """A job of this account; at its end, where that comes within `wait_s` seconds. Raises 4000."""
        if not _IMGID.fullmatch(imgid):
            return None
        number, until = int(imgid), monotonic() + min(wait_s, MAX_WAIT_S)
        job = await self._read(number, account_id)
        if job is None or job.is_over or wait_s <= 0 or not self._changes.enter(account_id):
            return job
        event = self._changes.listen(number)
        try:
            while not (job is None or job.is_over or self._changes.is_over) and (left_s := until - monotonic()) > 0:
                await self._changes.wait(event, left_s)
                job = await self._read(number, account_id)
        finally:
            self._changes.forget(number, event)
            self._changes.leave(account_id)
        return job

    async def changes(self, account_id: int, imgid: str) -> AsyncIterator[Job]:
        """A job of this account as it is now, and whenever it has changed, up to its end. Raises 4000, 4008 where too
        many calls of the account do this, and 4009 when the process is about to end.
        """
        job = await self._read(int(imgid), account_id) if _IMGID.fullmatch(imgid) else None
        if job is None:
            return
        number = int(imgid)
        if not self._changes.enter(account_id):
            raise GatewayError("4008", "too many calls wait for jobs of this account", retry_after_s=1)
        event = self._changes.listen(number)
        try:
            yield job
            while not job.is_over:
                if self._changes.is_over:
                    raise GatewayError("4009", "the gateway is being stopped; ask again")
                await self._changes.wait(event, MAX_WAIT_S)
                now = await self._read(number, account_id)
                if now is None:
                    return
                if now != job:
                    job = now
                    yield job
        finally:
            self._changes.forget(number, event)
            self._changes.leave(account_id)

    async def jobs(self, account_id: int, before_id: int | None, limit: int) -> Sequence[Job]:
        """The account's jobs, newest first. Raises 4000."""
        jobs = await _asked(partial(self._store.jobs, account_id, before_id, limit))
        return [self.shown(job) for job in jobs]

    def shown(self, job: Job) -> Job:
        """A job with addresses that clients can reach."""
        return replace(job, images=tuple(map(self._files.address, job.images)))

    async def _read(self, number: int, account_id: int) -> Job | None:
        job = await _asked(partial(self._store.job, number, account_id))
        return None if job is None else self.shown(job)


async def _asked(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except StoreError as error:
        LOG.error("the store cannot be asked for jobs: %s", error)
        raise GatewayError("4000", "the gateway's store is out of reach") from error


def _too_many() -> GatewayError:
    return GatewayError("4008", "the account has as many open jobs as it may have", retry_after_s=10)


def _refusal(error: StoreError, amount_micros: int) -> GatewayError:
    """What a client is told of a job that could not be made."""
    if isinstance(error, InsufficientBalanceError):
        return not_covered(amount_micros)
    if isinstance(error, KeyTakenError):
        return key_in_use()
    if isinstance(error, TooManyJobsError):
        return _too_many()
    LOG.error("a job cannot be stored: %s", error)
    return GatewayError("4000", "the books cannot be written, so that no job can be taken")
