"""The SQL that writes the call log and its counts. Works on a connection within a transaction of someone else's."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import apsw
import orjson
from msgspec.structs import astuple, replace

from gateway.store.counting import Days, counted_as
from gateway.store.rows import Inserts
from gateway.types import CallRecord

COLUMNS = (
    "id, request_id, account_id, front, method, model, outcome, status, streamed, cut,"
    " started_us, duration_us, first_byte_us, sent_bytes, cache, client_ip,"
    " prompt_tokens, completion_tokens, cached_tokens, charge_micros, shortfall_micros, settled,"
    " translate_status, translation_micros"
)
"""In the order of a record's fields."""

_MICROSECONDS = "round(? * 1e6)"  # of a record's seconds; a column of integers takes it as one
_INSERT_CALLS = Inserts(
    f"INSERT INTO calls ({COLUMNS})", f"({', '.join(['?'] * 10 + [_MICROSECONDS] * 3 + ['?'] * 11)})"
)
_CORRECT_CALL = (
    "UPDATE calls SET status = ?, cut = ?, duration_us = round(? * 1e6), sent_bytes = ? WHERE id = ? AND request_id = ?"
)
# WHERE true: without it SQLite reads ON CONFLICT as a join's ON.
_ADD_COUNTS = (
    "INSERT INTO call_counts (account_id, day, succeeded, empty, failed)"
    " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?) WHERE true"
    " ON CONFLICT DO UPDATE SET succeeded = succeeded + excluded.succeeded,"
    " empty = empty + excluded.empty, failed = failed + excluded.failed"
)


def insert_calls(connection: apsw.Connection, records: Sequence[CallRecord], days: Days) -> None:
    """Logs and counts finished calls."""
    if not records:
        return
    log_calls(connection, records)
    connection.execute(_ADD_COUNTS, (orjson.dumps(_count_rows(records, days)).decode(),))


def log_calls(connection: apsw.Connection, records: Sequence[CallRecord]) -> None:
    """Logs calls that were counted before."""
    # A record's fields stand in the columns' order: no Python runs for each of them.
    _INSERT_CALLS.execute(connection, list(map(astuple, records)))


def count_call(connection: apsw.Connection, account_id: int, day: str) -> None:
    """Counts a call that succeeded, and will be logged later."""
    connection.execute(_ADD_COUNTS, (orjson.dumps([(account_id, day, 1, 0, 0)]).decode(),))


def correct_call(connection: apsw.Connection, record: CallRecord) -> None:
    """Takes up what of a call became known only after it was logged: how much of its answer its client got."""
    values = (record.status, record.cut, record.duration_s, record.sent_bytes, record.id, record.request_id)
    connection.execute(_CORRECT_CALL, values)


def is_logged(connection: apsw.Connection, record: CallRecord) -> bool:
    """Whether an earlier attempt has already come this far."""
    query = "SELECT 1 FROM calls WHERE id = ? AND request_id = ?"
    return connection.execute(query, (record.id, record.request_id)).get is not None


def encodable(record: CallRecord) -> CallRecord:
    """A lone surrogate in what a client, or a proxy of its, wrote must not keep its call out of the log."""
    method, model, client_ip = encodable_text(record.method), record.model, encodable_text(record.client_ip)
    return replace(record, method=method, model=None if model is None else encodable_text(model), client_ip=client_ip)


def encodable_text(text: str) -> str:
    """The text with a question mark for whatever UTF-8 cannot say."""
    return text.encode("utf-8", "replace").decode()


def _count_rows(records: Sequence[CallRecord], days: Days) -> list[tuple[object, ...]]:
    """For each account and day the calls to be added: succeeded, empty, failed."""
    day_of = days.day_of
    kinds = Counter((record.account_id, day_of(record.started_at), counted_as(record)) for record in records)
    added: defaultdict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for (account_id, day, kind), calls in kinds.items():
        if kind:
            added[account_id, day][kind] += calls
    return [
        (account_id, day, *(calls[count] for count in ("succeeded", "empty", "failed")))
        for (account_id, day), calls in added.items()
    ]
