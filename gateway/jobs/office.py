"""All that image jobs need, put together from the settings once at start."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.config import JobsSettings, Settings, UpstreamSettings, jobs_directory
from gateway.jobs.backend import Backend, Service
from gateway.jobs.changes import Changes
from gateway.jobs.desk import Desk
from gateway.jobs.files import JobFiles
from gateway.jobs.generations import Generations
from gateway.jobs.midjourney import Midjourney
from gateway.jobs.notify import Notifier
from gateway.jobs.workers import Workers
from gateway.store.sqlite import SqliteStore
from gateway.upstream.pool import Deadlines, Pool
from gateway.upstream.request import target_of

_POLL_ANSWER_BYTES = 4_194_304


@dataclass(frozen=True, slots=True)
class Office:
    """Where jobs are submitted, who works on them, and where their images lie."""

    desk: Desk
    workers: Workers
    files: JobFiles


def open_office(
    settings: Settings, store: SqliteStore, upstream: UpstreamSettings, key: str, stack: AsyncExitStack
) -> Office | None:
    """The office of this process; None where the operator wants no jobs. `key` is for the upstream, or for the proxy.

    What it opens is closed with the stack; the workers are not started yet.
    """
    jobs = settings.jobs
    if jobs.backend == "none":
        return None
    backend = _backend(jobs, upstream, key, stack)
    files = JobFiles(jobs_directory(settings), store.pepper.key_for("files"), link_s=jobs.link_hours * 3_600)
    files.base_url = jobs.public_url
    notifier, changes = Notifier(jobs.notify_hosts), Changes()
    desk = Desk(store, jobs, files, notifier, changes, lambda: workers.wake())
    workers = Workers(store, backend, jobs, settings.server.node_id, files, notifier, changes, desk.shown)
    stack.push_async_callback(workers.stop)
    return Office(desk, workers, files)


def _backend(jobs: JobsSettings, upstream: UpstreamSettings, key: str, stack: AsyncExitStack) -> Backend:
    fields = ""
    if jobs.backend == "midjourney":
        upstream = UpstreamSettings(name="midjourney", base_url=jobs.url)
        fields = f"mj-api-secret: {key}\r\n" if key else ""
    target = target_of(upstream, key)
    first_byte_s = min(upstream.first_byte_timeout_s, jobs.timeout_s)
    deadlines = Deadlines(
        connect_s=upstream.connect_timeout_s,
        first_byte_s=first_byte_s,
        idle_s=upstream.idle_timeout_s,
        total_s=max(jobs.timeout_s, first_byte_s),
        keepalive_s=upstream.keepalive_timeout_s,
    )
    pool = Pool(target.host, target.port, target.tls, deadlines)
    stack.callback(pool.close)
    if jobs.backend == "midjourney":
        return Midjourney(Service(target, pool, _POLL_ANSWER_BYTES, fields), poll_s=jobs.poll_s)
    service = Service(target, pool, upstream.max_answer_bytes)
    return Generations(service, pause_s=jobs.poll_s, retries=jobs.retry_interrupted)
