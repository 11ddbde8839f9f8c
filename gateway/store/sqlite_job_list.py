"""The image jobs' reading side, and what deletes old ones. Works on a connection that it is given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import apsw
import orjson

from gateway.store.jobs import imgid_of
from gateway.types import Job

_SHOWN = "id, status, progress, prompt, submitted_ms, started_ms, finished_ms, images, fail_reason"


def read_job(connection: apsw.Connection, number: int, account_id: int | None) -> Job | None:
    """A job, of this account where one is given."""
    query = f"SELECT {_SHOWN} FROM jobs WHERE id = ? AND account_id = coalesce(?, account_id)"  # noqa: S608  # as above
    row = connection.execute(query, (number, account_id)).fetchone()
    return None if row is None else _job(row)


def read_jobs(connection: apsw.Connection, account_id: int, before_id: int | None, limit: int) -> list[Job]:
    """An account's jobs, newest first: those below `before_id` where it is given."""
    query = f"SELECT {_SHOWN} FROM jobs WHERE account_id = ? AND id < ? ORDER BY id DESC LIMIT ?"  # noqa: S608  # as above
    before = 2**63 - 1 if before_id is None else before_id
    return [_job(row) for row in connection.execute(query, (account_id, before, limit))]


def count_open(connection: apsw.Connection, account_id: int) -> int:
    """How many jobs of an account have not ended."""
    return int(
        connection.execute("SELECT count(*) FROM jobs WHERE account_id = ? AND finished_ms IS NULL", (account_id,)).get
    )


def has_untold(connection: apsw.Connection) -> bool:
    """Whether the end of some job is still to be told."""
    query = "SELECT 1 FROM jobs WHERE notify IS NOT NULL AND finished_ms IS NOT NULL LIMIT 1"
    return connection.execute(query).get is not None


def nodes_with_jobs(connection: apsw.Connection) -> set[int]:
    """The nodes that work on jobs, or did."""
    query = (
        "SELECT DISTINCT node FROM jobs WHERE node IS NOT NULL AND finished_ms IS NULL"
        " UNION SELECT node FROM jobs WHERE node IS NOT NULL AND notify IS NOT NULL"
    )
    return {node for (node,) in connection.execute(query)}


def prune_jobs(connection: apsw.Connection, keep_s: float, limit: int) -> bool:
    """Deletes a few of the jobs that ended so long ago; whether there may be more."""
    before_ms = int((time.time() - keep_s) * 1000)
    query = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE finished_ms < ? ORDER BY finished_ms LIMIT ?)"
    connection.execute(query, (before_ms, limit))
    return connection.changes() >= limit


def _job(row: Sequence[Any]) -> Job:  # Any: the table is STRICT, and SQLite vouches for the types
    id_, status, progress, prompt, submitted_ms, started_ms, finished_ms, images, fail_reason = row
    names = tuple(orjson.loads(images))
    return Job(
        imgid_of(id_), status, progress, prompt, submitted_ms, started_ms, finished_ms, names, fail_reason
    )  # fmt: skip
