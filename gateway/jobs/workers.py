"""The workers: they take jobs from the store, so many at a time, and bring each of them to one end.

Whatever a worker learns of a job is on the disk before it goes on. So a process may end at any moment: what it had
taken and not sent is sent by the next one, what has a backend's id is asked about by it, and what a backend may have
without an id has failed as unknown, unless the operator lets it be done again.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from gateway.config import JobsSettings
from gateway.jobs.backend import Backend, JobFailed
from gateway.jobs.changes import Changes
from gateway.jobs.files import JobFiles
from gateway.jobs.notify import Notifier
from gateway.store.interface import StoreError
from gateway.store.jobs import JobEnd, OpenJob
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite_jobs import Finish, Mark, Release, Step, Take, Told, Untold
from gateway.types import Job, JobStatus

LOG = logging.getLogger("gateway.jobs")

LOOK_S = 5.0
"""So often a process looks for jobs that others have submitted or let go of."""
UPKEEP_S = 10.0
PRUNE_S = 3_600.0
_STORE_PAUSE_S = 1.0
_INTERRUPTED = (
    "the gateway was stopped while the backend had the job; whether the images were made is unknown, and they are not"
    " charged"
)
Result = TypeVar("Result")


class Workers:
    """The workers of one process, which serves as `node`. `shown` makes a job what clients are told of it."""

    def __init__(
        self,
        store: SqliteStore,
        backend: Backend,
        settings: JobsSettings,
        node: int,
        files: JobFiles,
        notifier: Notifier,
        changes: Changes,
        shown: Callable[[Job], Job],
    ) -> None:
        self._store = store
        self._backend = backend
        self._settings = settings
        self._node = node
        self._files = files
        self._notifier = notifier
        self._changes = changes
        self._shown = shown
        self._running: dict[int, _Notes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: set[int] = set()
        self._wake = asyncio.Event()
        self._draining = False

    @property
    def under_way(self) -> int:
        """Jobs that would be lost if the process ended now."""
        return sum(notes.is_unsure for notes in self._running.values())

    async def start(self) -> None:
        """Takes up what dead processes have left, and begins to work."""
        await self._release(own=True)
        self._begin(self._work())
        self._begin(self._keep_up())

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def drain(self) -> None:
        """Takes no more jobs, and lets nobody wait any longer; those under way go on."""
        self._draining = True
        self._changes.end()
        self._wake.set()

    async def stop(self) -> None:
        """Ends the work, and lets other processes go on with it."""
        self._draining = True
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._release(own=True)
        except StoreError as error:
            LOG.error("jobs that were under way wait for the next start: %s", error)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOG.error("the work on jobs failed: %s", _place_of(error))

    async def _work(self) -> None:
        """Takes jobs whenever there may be some and somebody is free."""
        while not self._draining:
            self._wake.clear()
            taken = await self._take() if len(self._running) < self._settings.workers else []
            if self._draining:  # those just taken are let go of at the end
                return
            for job in taken:
                self._running[job.id] = _Notes(self, job)
                self._begin(self._run(job))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    async def _take(self) -> list[OpenJob]:
        settings = self._settings
        try:
            return await self._store.step(
                Take(self._node, tuple(self._running), settings.workers, settings.per_account)
            )
        except StoreError as error:
            LOG.warning("no job can be taken: %s", error)
            return []

    async def _run(self, job: OpenJob) -> None:
        """One job, to its end."""
        try:
            end = await self._outcome(job)
            await self.durably(Finish(job.id, job.account_id, end, self._node))
            self._changes.tell(job.id)
            LOG.log(logging.DEBUG if end.outcome == "0000" else logging.INFO, "job %s: %s", job.imgid, end.outcome)
        finally:
            del self._running[job.id]
            self._wake.set()
        await self._tell_all()

    async def _outcome(self, job: OpenJob) -> JobEnd:
        timeout_s = self._settings.timeout_s
        if job.sent_ms is not None:  # it was begun by a process that has ended
            left_s = timeout_s - (time.time() - job.sent_ms / 1000)
            timeout_s = min(timeout_s, max(left_s, self._settings.poll_s + 5.0))  # clocks may be set back
        try:
            if job.backend_id is not None and job.backend != self._backend.name:
                raise JobFailed("4002", "the backend that had the job is no longer there")
            async with asyncio.timeout(timeout_s):
                images = await self._backend.run(job, self._running[job.id])
                return JobEnd("0000", await self._kept(job, images))
        except JobFailed as failure:
            return JobEnd(failure.code, fail_reason=failure.reason, unknown=failure.unknown)
        except TimeoutError:
            lost = self._running[job.id].is_unsure
            reason = f"the job did not end within {self._settings.timeout_s:g} s"
            return JobEnd("4017", fail_reason=reason, unknown=lost)
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends this job and no other
            LOG.error("job %s failed: %s", job.imgid, _place_of(error))
            return JobEnd("4000", fail_reason="the gateway failed")

    async def _kept(self, job: OpenJob, images: tuple[str | bytes, ...]) -> tuple[str, ...]:
        """The images as the store has them, those that came as data written to the disk."""
        kept = []
        for index, image in enumerate(images):
            if isinstance(image, str):
                kept.append(image)
                continue
            try:
                kept.append(await asyncio.to_thread(self._files.keep, job.id, index, image))
            except OSError as error:
                LOG.error("an image of job %s cannot be kept: %s", job.imgid, error.strerror)
                raise JobFailed("4000", "the gateway could not keep the images") from error
        return tuple(kept)

    async def durably(self, step: Step[Result]) -> Result:
        """Makes a step, and tries again for as long as the store cannot be written."""
        while True:
            try:
                return await self._store.step(step)
            except StoreError as error:
                LOG.error("a job waits for the store: %s", error)
                await asyncio.sleep(_STORE_PAUSE_S)

    async def may_send(self) -> None:
        """Returns while jobs may be given to the backend: not any more once the process drains."""
        if self._draining:
            await asyncio.Event().wait()  # until the end of the work

    async def mark(self, number: int, **changes: int | str | None) -> None:
        """Notes how far a job is, and tells who waits for it."""
        await self.durably(Mark(number, changes))
        self._changes.tell(number)

    async def _keep_up(self) -> None:
        """What has to be done from time to time. Nothing that fails once is the last of it."""
        prune_at = monotonic()
        while True:
            try:
                await self._release(own=False)
                await self._tell_all()
                if self._settings.keep_days and monotonic() >= prune_at:
                    prune_at = monotonic() + PRUNE_S
                    await asyncio.to_thread(self._files.prune, self._settings.keep_days * 86_400)
            except StoreError as error:
                LOG.warning("jobs of processes that died wait: %s", error)
            except Exception as error:  # noqa: BLE001  # even a thread that cannot be started: it may pass
                LOG.error("the upkeep of jobs failed: %s", _place_of(error))
            await asyncio.sleep(UPKEEP_S)

    async def _release(self, *, own: bool) -> None:
        """Lets the work go on that dead processes have left: `own` work too, before it begins and after its end."""
        with self._store.dead_workers() as dead:
            nodes = tuple(node for node in dead if own or node != self._node)
            if not nodes:
                return
            interrupted = await self._store.step(Release(nodes, self._settings.retry_interrupted))
            for job in interrupted:
                end = JobEnd("5000", fail_reason=_INTERRUPTED, unknown=True)
                await self._store.step(Finish(job.id, job.account_id, end, self._node))
                self._changes.tell(job.id)
        if interrupted:
            LOG.warning("%d jobs were interrupted, are unknown and not charged", len(interrupted))
        self._wake.set()

    async def _tell_all(self) -> None:
        """Has the ends told that are to be told."""
        try:
            if not await asyncio.to_thread(self._store.has_untold_jobs):
                return
            untold = await self._store.step(Untold(self._node))
        except StoreError as error:
            LOG.warning("the ends of jobs cannot be told: %s", error)
            return
        for number, url in untold:
            if number not in self._telling:
                self._telling.add(number)
                self._begin(self._tell(number, url))

    async def _tell(self, number: int, url: str) -> None:
        try:
            try:
                job = await asyncio.to_thread(self._store.job, number)
                if job is not None:
                    await self._notifier.tell(url, self._shown(job))
            except StoreError as error:
                LOG.warning("the end of a job waits to be told: %s", error)
                return
            except Exception as error:  # noqa: BLE001  # what fails so once fails always, and must not be tried for ever
                LOG.error("the end of a job cannot be told: %s", _place_of(error))
            await self.durably(Told(number))
        finally:
            self._telling.discard(number)


def _place_of(error: BaseException) -> str:
    """An error's kind and place; its text may hold what callers sent."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return f"{type(error).__name__} at {frame.f_code.co_filename}:{line}"


class _Notes:
    """The Notes of one job."""

    __slots__ = ("_job", "_workers", "is_accepted", "is_sent")

    def __init__(self, workers: Workers, job: OpenJob) -> None:
        self._workers = workers
        self._job = job
        self.is_sent = False
        self.is_accepted = False

    @property
    def is_unsure(self) -> bool:
        """The backend may have the job, and nobody could ask about it."""
        return self.is_sent and not self.is_accepted

    async def sending(self) -> None:
        await self._workers.may_send()
        now_ms = time.time_ns() // 1_000_000
        self.is_sent = True
        await self._workers.mark(self._job.id, sent_ms=now_ms, started_ms=now_ms, status="SUBMITTED")

    async def not_sent(self) -> None:
        await self._workers.mark(self._job.id, sent_ms=None, started_ms=None, status="NOT_START")
        self.is_sent = False

    async def accepted(self, backend: str, backend_id: str) -> None:
        await self._workers.mark(self._job.id, backend=backend, backend_id=backend_id)
        self.is_accepted = True

    async def progress(self, status: JobStatus, percent: int) -> None:
        await self._workers.mark(self._job.id, status=status, progress=percent)
