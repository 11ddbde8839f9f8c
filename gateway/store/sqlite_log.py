"""Reading the call log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from gateway.store.sqlite_calls import COLUMNS
from gateway.types import CallRecord


def read_calls(
    connection: apsw.Connection, account_id: int | None, outcome: str | None, before_id: int | None, limit: int
) -> list[CallRecord]:
    """The newest calls first, of one account or all, below `before_id` where that is given."""
    conditions = {"account_id = ?": account_id, "outcome = ?": outcome, "id < ?": before_id}
    given = {condition: value for condition, value in conditions.items() if value is not None}
    where = f"WHERE {' AND '.join(given)}" if given else ""
    query = f"SELECT {COLUMNS} FROM calls {where} ORDER BY id DESC LIMIT ?"  # noqa: S608  # conditions are ours
    return [_record(row) for row in connection.execute(query, (*given.values(), limit))]


def _record(row: Sequence[Any]) -> CallRecord:
    id_, request_id, account_id, front, method, model, outcome, status = row[:8]
    streamed, cut, started_us, duration_us, first_byte_us, *rest = row[8:]
    return CallRecord(
        id_, request_id, account_id, front, method, model, outcome, status, bool(streamed), bool(cut),
        started_us / 1e6, duration_us / 1e6, None if first_byte_us is None else first_byte_us / 1e6, *rest,
    )  # fmt: skip
