"""The call log's reading side: which calls, newest first and page by page, and how often each account called.

Works on a connection that it is given; who writes the log is another module's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from typing import Any, TypedDict

import apsw

from gateway.ids import least_id_at
from gateway.store.sqlite_calls import COLUMNS
from gateway.types import CallCounts, CallRecord, Settled

_CLOCK_SLACK_US = 86_400_000_000
"""How far apart a call's id and its start are trusted to be: ids run ahead of a clock that was set back."""


class CallConditions(TypedDict, total=False):
    """What the calls wanted have in common; None is no condition. `since_s` and `until_s` include their moment."""

    account_id: int | None
    outcome: str | None
    settled: Settled | None
    method: str | None  # a glob
    model: str | None  # a glob; a call without a model matches none
    since_s: float | None  # seconds since the epoch
    until_s: float | None
    before_id: int | None  # the last id of the page before


def read_calls(connection: apsw.Connection, conditions: CallConditions, limit: int) -> list[CallRecord]:
    """The newest calls first."""
    given = _given(connection, conditions)
    where = f"WHERE {' AND '.join(condition for condition, _ in given)}" if given else ""
    query = f"SELECT {COLUMNS} FROM calls {where} ORDER BY id DESC LIMIT ?"  # noqa: S608  # conditions are ours
    return [_record(row) for row in connection.execute(query, (*(value for _, value in given), limit))]


def read_counts(connection: apsw.Connection, day: str) -> dict[int, CallCounts]:
    """Each account's counts in all, with `day` as its today."""
    query = (
        "SELECT account_id, sum(iif(day = ?, succeeded + empty + failed, 0)), sum(succeeded), sum(empty), sum(failed)"
        " FROM call_counts GROUP BY account_id"
    )
    return {account_id: CallCounts(*counts) for account_id, *counts in connection.execute(query, (day,))}


def _given(connection: apsw.Connection, conditions: CallConditions) -> list[tuple[str, str | int]]:
    """The conditions in SQL, each with its value.

    A call's id tells when it began, so that a span of time is a range of the table; its start decides at the edges.
    """
    given: list[tuple[str, str | int | None]] = [
        ("account_id = ?", conditions.get("account_id")),
        ("outcome = ?", conditions.get("outcome")),
        ("settled = ?", conditions.get("settled")),
        ("id < ?", conditions.get("before_id")),
    ]
    if (since_s := conditions.get("since_s")) is not None:
        since_us = round(since_s * 1e6)
        given += [("id >= ?", least_id_at(since_us - _CLOCK_SLACK_US)), ("started_us >= ?", since_us)]
    if (until_s := conditions.get("until_s")) is not None:
        until_us = round(until_s * 1e6)
        given += [("id <= ?", least_id_at(until_us + _CLOCK_SLACK_US)), ("started_us <= ?", until_us)]
    if (method := conditions.get("method")) is not None:
        _define_matches(connection)
        given.append(("matches(?, method)", translate(method)))
    if (model := conditions.get("model")) is not None:
        _define_matches(connection)
        given.append(("matches(?, model)", translate(model)))
    return [(condition, value) for condition, value in given if value is not None]


def _define_matches(connection: apsw.Connection) -> None:
    """SQLite's own GLOB reads brackets otherwise than the globs of the configuration and the accounts."""

    def matches(*given: apsw.SQLiteValue) -> bool:
        pattern, text = given
        return isinstance(text, str) and re.match(str(pattern), text) is not None

    connection.create_scalar_function("matches", matches, 2, deterministic=True)


def _record(row: Sequence[Any]) -> CallRecord:  # Any: the table is STRICT, and SQLite vouches for the types
    id_, request_id, account_id, front, method, model, outcome, status = row[:8]
    streamed, cut, started_us, duration_us, first_byte_us, sent_bytes, cache, client_ip, *rest = row[8:]
    prompt_tokens, completion_tokens, cached_tokens, charge_micros, shortfall_micros, settled, *translated = rest
    translate_status, translation_micros = translated
    return CallRecord(
        id=id_,
        request_id=request_id,
        account_id=account_id,
        front=front,
        method=method,
        model=model,
        outcome=outcome,
        status=status,
        streamed=bool(streamed),
        cut=bool(cut),
        started_at=started_us / 1e6,
        duration_s=duration_us / 1e6,
        first_byte_s=None if first_byte_us is None else first_byte_us / 1e6,
        sent_bytes=sent_bytes,
        cache=cache,
        client_ip=client_ip,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=cached_tokens,
        charge_micros=charge_micros,
        shortfall_micros=shortfall_micros,
        settled=settled,
        translate_status=translate_status,
        translation_micros=translation_micros,
    )
