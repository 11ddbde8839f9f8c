"""The SQL that changes image jobs: steps that the writer makes, each whole or not at all.

A step works within the writer's transaction. It may be made twice, since a commit can succeed and seem to have failed;
it returns a StoreError where it refuses, and has then changed nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import apsw
import orjson

from gateway.store import sqlite_ledger
from gateway.store.counting import Days
from gateway.store.interface import Settlement, StoreError, TooManyJobsError
from gateway.store.jobs import JobEnd, NewJob, OpenJob, imgid_of, receipt
from gateway.store.sqlite_calls import count_call, log_calls
from gateway.store.sqlite_job_list import count_open
from gateway.types import CallRecord

log = logging.getLogger(__name__)

Result_co = TypeVar("Result_co", covariant=True)

_WORK = "id, account_id, status, prompt, arguments, sent_ms, backend, backend_id"
_INSERT = (
    "INSERT INTO jobs (id, call_id, account_id, prompt, arguments, submitted_ms, notify,"
    " per_call_micros, per_image_micros, extra_micros, translation_micros) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_OPEN = "finished_ms IS NULL"
# The accounts take turns: each one's first job comes before anybody's second.
_NEXT = (
    "WITH busy AS (SELECT account_id, count(*) AS jobs FROM jobs WHERE finished_ms IS NULL AND node IS NOT NULL"
    " GROUP BY account_id), waiting AS (SELECT id, row_number() OVER (PARTITION BY account_id ORDER BY id)"
    " + coalesce((SELECT busy.jobs FROM busy WHERE busy.account_id = jobs.account_id), 0) AS place"
    " FROM jobs WHERE finished_ms IS NULL AND node IS NULL)"
    " SELECT id FROM waiting WHERE place <= ? ORDER BY place, id LIMIT ?"
)
# What a backend may have without an id is never among them.
_LEFT = (
    "SELECT id FROM jobs WHERE node = ? AND finished_ms IS NULL AND id NOT IN (SELECT value FROM json_each(?))"
    " AND (sent_ms IS NULL OR backend_id IS NOT NULL)"
)
_TAKE = f"UPDATE jobs SET node = ? WHERE id IN (SELECT value FROM json_each(?)) RETURNING {_WORK}"  # noqa: S608  # our own names
_PRICE = (
    "SELECT call_id, per_call_micros, per_image_micros, extra_micros, translation_micros FROM jobs"
    " WHERE id = ? AND finished_ms IS NULL"
)
_LET_TELL = (
    "UPDATE jobs SET node = NULL WHERE notify IS NOT NULL AND finished_ms IS NOT NULL"
    " AND node IN (SELECT value FROM json_each(?))"
)
_TELL = (
    "UPDATE jobs SET node = ?1 WHERE notify IS NOT NULL AND finished_ms IS NOT NULL AND (node IS NULL OR node = ?1)"
    " RETURNING id, notify"
)
_HELD = "SELECT request_id, front, method, model, started_us, client_ip, amount_micros FROM holds WHERE call_id = ?"


class Books:
    """What a step works with beside its connection."""

    __slots__ = ("at_us", "balances", "days")

    def __init__(self, balances: sqlite_ledger.Balances, days: Days, at_us: int) -> None:
        self.balances = balances
        self.days = days
        self.at_us = at_us


class Step(Protocol[Result_co]):
    """Something that the writer does for whoever waits for it."""

    @property
    def account_ids(self) -> Collection[int]:
        """Whose balance it may touch."""

    def apply(self, connection: apsw.Connection, books: Books) -> Result_co | StoreError: ...


@dataclass(frozen=True, slots=True)
class Submit:
    """Makes a job with its hold, and counts its call; returns its number.

    Refuses as a hold does, and with TooManyJobsError.
    """

    job: NewJob

    @property
    def account_ids(self) -> Collection[int]:
        return (self.job.hold.account_id,)

    def apply(self, connection: apsw.Connection, books: Books) -> int | StoreError:
        job, hold, price = self.job, self.job.hold, self.job.price
        made = connection.execute("SELECT id FROM jobs WHERE call_id = ?", (hold.call_id,)).get
        if made is not None:
            return int(made)
        if count_open(connection, hold.account_id) >= job.most_open:
            return TooManyJobsError("the account has too many open jobs")
        [refusal] = sqlite_ledger.hold(connection, books.balances, [hold])
        if refusal is not None:
            return refusal
        number = job.imgid
        while connection.execute("SELECT 1 FROM jobs WHERE id = ?", (number,)).get is not None:
            number += 1  # another node's job of the same microsecond
        values = (
            number, hold.call_id, hold.account_id, job.prompt, job.arguments.decode(), job.submitted_ms, job.notify,
            price.per_call_micros, price.per_image_micros, price.extra_micros, price.translation_micros,
        )  # fmt: skip
        connection.execute(_INSERT, values)
        if hold.idempotency_key is not None:
            sqlite_ledger.keep_answer(connection, hold.call_id, receipt(imgid_of(number)))
        count_call(connection, hold.account_id, books.days.day_of(hold.started_at))
        return number


@dataclass(frozen=True, slots=True)
class Take:
    """Makes a node the one that works on the next jobs, and returns them: no more than `workers` at a time in all, and
    `per_account` of one account, whichever node works on them.

    What the node had taken and does not work on (`running` are the ids of what it does) is the first to be returned.
    """

    node: int
    running: tuple[int, ...]
    workers: int
    per_account: int
    account_ids: tuple[int, ...] = ()

    def apply(self, connection: apsw.Connection, books: Books) -> list[OpenJob]:
        ids = [id_ for (id_,) in connection.execute(_LEFT, (self.node, _json(self.running)))]
        query = f"SELECT count(*) FROM jobs WHERE node IS NOT NULL AND {_OPEN}"  # noqa: S608  # as above
        room = max(self.workers - int(connection.execute(query).get), 0)
        ids += [id_ for (id_,) in connection.execute(_NEXT, (self.per_account, room))]
        if not ids:
            return []
        return sorted((_open_job(row) for row in connection.execute(_TAKE, (self.node, _json(ids)))), key=_id_of)


@dataclass(frozen=True, slots=True)
class Mark:
    """Notes how far an open job is; `changes` are columns and their values."""

    id: int
    changes: Mapping[str, int | str | None]
    account_ids: tuple[int, ...] = ()

    def apply(self, connection: apsw.Connection, books: Books) -> None:
        columns = ", ".join(f"{name} = ?" for name in self.changes)
        query = f"UPDATE jobs SET {columns} WHERE id = ? AND {_OPEN}"  # noqa: S608  # the names are ours
        connection.execute(query, (*self.changes.values(), self.id))


@dataclass(frozen=True, slots=True)
class Finish:
    """Ends a job: what it was holding is charged or free again, its call is logged, and its end is there to be seen.

    Returns whether it was open; otherwise nothing changes. `node` is the one that will tell its address.
    """

    id: int
    account_id: int
    end: JobEnd
    node: int

    @property
    def account_ids(self) -> Collection[int]:
        return (self.account_id,)

    def apply(self, connection: apsw.Connection, books: Books) -> bool:
        job = connection.execute(_PRICE, (self.id,)).fetchone()
        if job is None:
            return False
        end, now_ms = self.end, books.at_us // 1000
        success = end.outcome == "0000"
        self._settle(connection, books, job)
        connection.execute(
            "UPDATE jobs SET status = ?, progress = iif(?, 100, progress), node = ?, finished_ms = ?, images = ?,"
            " fail_reason = ? WHERE id = ?",
            (
                "SUCCESS" if success else "FAILURE", success, self.node, now_ms, _json(end.images), end.fail_reason,
                self.id,
            ),
        )  # fmt: skip
        return True

    def _settle(self, connection: apsw.Connection, books: Books, job: Sequence[Any]) -> None:
        call_id, per_call, per_image, extra, translation_micros = job
        held = connection.execute(_HELD, (call_id,)).fetchone()
        if held is None:
            log.error("job %s cannot be charged: its hold is gone", imgid_of(self.id))
            return
        request_id, front, method, model, started_us, client_ip, amount = held
        cost = min(per_call + per_image * len(self.end.images) + extra, amount)  # never more than the caller agreed to
        priced = bool(per_call or per_image or extra)
        record = CallRecord(
            id=call_id,
            request_id=request_id,
            account_id=self.account_id,
            front=front,
            method=method,
            model=model,
            outcome=self.end.outcome,
            status=200,
            streamed=False,
            cut=False,
            started_at=started_us / 1e6,
            duration_s=max(books.at_us - started_us, 0) / 1e6,
            first_byte_s=None,
            sent_bytes=0,
            client_ip=client_ip,
            charge_micros=cost if self.end.outcome == "0000" else 0,
            settled="unknown" if self.end.unknown else "exact" if priced else "free",
            translation_micros=translation_micros,
        )
        log_calls(connection, sqlite_ledger.settle(connection, books.balances, [Settlement(record)], books.at_us))


@dataclass(frozen=True, slots=True)
class Release:
    """Lets others work on what dead nodes had taken, and returns those jobs that must not simply be done again: a
    backend that gave no id may have them. With `again` these are done again too.
    """

    nodes: tuple[int, ...]
    again: bool
    account_ids: tuple[int, ...] = ()

    def apply(self, connection: apsw.Connection, books: Books) -> list[OpenJob]:
        theirs = f"{_OPEN} AND node IN (SELECT value FROM json_each(?))"  # noqa: S608  # as above
        nodes = _json(self.nodes)
        connection.execute(_LET_TELL, (nodes,))
        if self.again:
            connection.execute(
                "UPDATE jobs SET node = NULL, sent_ms = NULL, started_ms = NULL, status = 'NOT_START', progress = 0"  # noqa: S608  # as above
                f" WHERE {theirs} AND backend_id IS NULL",
                (nodes,),
            )
        query = f"UPDATE jobs SET node = NULL WHERE {theirs} AND (sent_ms IS NULL OR backend_id IS NOT NULL)"  # noqa: S608  # as above
        connection.execute(query, (nodes,))
        return [_open_job(row) for row in connection.execute(f"SELECT {_WORK} FROM jobs WHERE {theirs}", (nodes,))]  # noqa: S608  # as above


@dataclass(frozen=True, slots=True)
class Untold:
    """Makes a node the one that tells the ends that nobody else does; the jobs and addresses that it is to tell."""

    node: int
    account_ids: tuple[int, ...] = ()

    def apply(self, connection: apsw.Connection, books: Books) -> list[tuple[int, str]]:
        return sorted((id_, url) for id_, url in connection.execute(_TELL, (self.node,)))


@dataclass(frozen=True, slots=True)
class Told:
    """Notes that a job's address has been told of its end, or never will be."""

    id: int
    account_ids: tuple[int, ...] = ()

    def apply(self, connection: apsw.Connection, books: Books) -> None:
        connection.execute("UPDATE jobs SET notify = NULL WHERE id = ?", (self.id,))


def _json(values: object) -> str:
    return orjson.dumps(values).decode()


def _id_of(job: OpenJob) -> int:
    return job.id


def _open_job(row: Sequence[Any]) -> OpenJob:  # Any: the table is STRICT, and SQLite vouches for the types
    id_, account_id, status, prompt, arguments, sent_ms, backend, backend_id = row
    return OpenJob(id_, account_id, status, prompt, arguments.encode(), sent_ms, backend, backend_id)
