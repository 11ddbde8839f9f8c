"""The SQL of the books: holds, settlements and what callers named by idempotency keys.

Works on a connection within a transaction of someone else's, which makes each of these one step: a call's state, its
entry and the balance change together or not at all. Holds and balances are compared before they are set.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from typing import Any

import apsw
import orjson
from msgspec.structs import replace

from gateway.ids import EPOCH_2020_US, NODE_BITS
from gateway.store.interface import (
    Extension,
    Hold,
    InsufficientBalanceError,
    KeptAnswer,
    KeyedCall,
    KeyTakenError,
    Settlement,
    StoreError,
)
from gateway.types import CallRecord

log = logging.getLogger(__name__)

# Rows come in and go out as one JSON text: one step of a statement, however many there are.
_INSERT_HOLDS = (
    "INSERT INTO holds (call_id, account_id, amount_micros, request_id, front, method, model, started_us, client_ip)"
    " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,"
    " round((value ->> 7) * 1e6), value ->> 8 FROM json_each(?)"
)
_INSERT_ENTRIES = (
    "INSERT INTO entries (account_id, kind, amount_micros, call_id, at_us)"
    " SELECT value ->> 0, 'charge', value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)"
)
_READ_HOLDS = (
    "SELECT json_group_array(json_array(call_id, amount_micros)) FROM holds"
    " WHERE call_id IN (SELECT value FROM json_each(?))"
)
_END_HOLDS = "DELETE FROM holds WHERE call_id IN (SELECT value FROM json_each(?))"
_READ_BALANCES = (
    "SELECT json_group_array(json_array(id, balance_micros - held_micros)) FROM accounts"
    " WHERE id IN (SELECT value FROM json_each(?))"
)
_ADD_BALANCES = (
    "UPDATE accounts SET balance_micros = balance_micros + (value ->> 1), held_micros = held_micros + (value ->> 2)"
    " FROM json_each(?) WHERE accounts.id = value ->> 0"
)
_TAKE_KEY = (
    "INSERT INTO idempotency (account_id, key, fingerprint, call_id, request_id) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING RETURNING 1"
)
_KEEP_ANSWER = "UPDATE idempotency SET status = ?, content_type = ?, fields = ?, answer = ? WHERE call_id = ?"
_NODE = (1 << NODE_BITS) - 1


class Balances:
    """The balances that one transaction touches: each is read once, and written once at its end."""

    def __init__(self, connection: apsw.Connection, account_ids: Collection[int]) -> None:
        self._connection = connection
        ids = orjson.dumps(list(account_ids)).decode()
        self._available: dict[int, int] = dict(orjson.loads(connection.execute(_READ_BALANCES, (ids,)).get))
        self._changes: dict[int, list[int]] = {}

    def available(self, account_id: int) -> int:
        """What is neither spent nor held."""
        return self._available.get(account_id, 0)

    def change(self, account_id: int, balance_micros: int, held_micros: int) -> None:
        """Adds to the balance and to what is held of it."""
        self._available[account_id] = self.available(account_id) + balance_micros - held_micros
        change = self._changes.setdefault(account_id, [0, 0])
        change[0] += balance_micros
        change[1] += held_micros

    def write(self) -> None:
        """Writes what has changed."""
        rows = [(account_id, *change) for account_id, change in self._changes.items() if any(change)]
        if rows:
            self._connection.execute(_ADD_BALANCES, (orjson.dumps(rows).decode(),))


def hold(connection: apsw.Connection, balances: Balances, holds: Sequence[Hold]) -> list[StoreError | None]:
    """Holds what the balances cover, in order; of each that cannot be, why."""
    results = [_refusal(connection, balances, each) for each in holds]
    rows = [
        (
            each.call_id, each.account_id, each.amount_micros, each.request_id, each.front,
            each.method, each.model, each.started_at, each.client_ip,
        )
        for each, refusal in zip(holds, results, strict=True) if refusal is None
    ]  # fmt: skip
    if rows:
        connection.execute(_INSERT_HOLDS, (_json(rows),))
    return results


def _json(rows: object) -> str:
    """Rows for json_each(). A lone surrogate in what a client wrote must not keep its call out of the books."""
    try:
        return orjson.dumps(rows).decode()
    except orjson.JSONEncodeError:
        return json.dumps(rows).encode("utf-8", "replace").decode()


def _refusal(connection: apsw.Connection, balances: Balances, hold: Hold) -> StoreError | None:
    if hold.amount_micros > max(balances.available(hold.account_id), 0):
        return InsufficientBalanceError("the balance does not cover the hold")
    if hold.idempotency_key is not None:
        values = (hold.account_id, hold.idempotency_key, hold.fingerprint, hold.call_id, hold.request_id)
        if connection.execute(_TAKE_KEY, values).get is None:
            return KeyTakenError("another call has this idempotency key")
    balances.change(hold.account_id, 0, hold.amount_micros)
    return None


def extend(connection: apsw.Connection, balances: Balances, extension: Extension) -> StoreError | None:
    """Adds to a hold what the balance covers."""
    if extension.amount_micros > balances.available(extension.account_id):
        return InsufficientBalanceError("the balance does not cover more")
    connection.execute(
        "UPDATE holds SET amount_micros = amount_micros + ? WHERE call_id = ?",
        (extension.amount_micros, extension.call_id),
    )
    if connection.changes():
        balances.change(extension.account_id, 0, extension.amount_micros)
    return None


def settle(
    connection: apsw.Connection, balances: Balances, settlements: Sequence[Settlement], at_us: int
) -> list[CallRecord]:
    """Ends the holds and charges what was used; the records as they are to be logged, with what was charged.

    A hold that is gone was settled before: nothing is charged again, and what was charged is told.
    """
    ids = orjson.dumps([settlement.record.id for settlement in settlements]).decode()
    held: dict[int, int] = dict(orjson.loads(connection.execute(_READ_HOLDS, (ids,)).get))
    connection.execute(_END_HOLDS, (ids,))
    entries = []
    records = []
    for settlement in settlements:
        record = settlement.record
        if record.id not in held:
            records.append(_settled_before(connection, record))
            continue
        amount = held[record.id]
        record = _charged(record, amount, balances.available(record.account_id))
        balances.change(record.account_id, -record.charge_micros, -amount)
        records.append(record)
        if record.charge_micros:
            entries.append((record.account_id, -record.charge_micros, record.id, at_us))
    if entries:
        connection.execute(_INSERT_ENTRIES, (_json(entries),))
    for settlement in settlements:
        if settlement.keyed:
            _end_key(connection, settlement)
    return records


def _charged(record: CallRecord, held_micros: int, available_micros: int) -> CallRecord:
    """The record with what can be charged: no more than was held and what else the balance has."""
    used = max(record.charge_micros, 0)
    charge = min(used, held_micros + max(available_micros, 0))
    if charge == record.charge_micros:
        return record
    return replace(record, charge_micros=charge, shortfall_micros=used - charge)


def _settled_before(connection: apsw.Connection, record: CallRecord) -> CallRecord:
    charged = connection.execute("SELECT -amount_micros FROM entries WHERE call_id = ?", (record.id,)).get
    if charged is None and record.charge_micros:
        log.error("call %s is not charged: its hold is gone", record.request_id)
    return replace(record, charge_micros=charged or 0)


def _end_key(connection: apsw.Connection, settlement: Settlement) -> None:
    answer = settlement.answer
    if not settlement.keeps_key:
        connection.execute("DELETE FROM idempotency WHERE call_id = ?", (settlement.record.id,))
    elif answer is not None:
        keep_answer(connection, settlement.record.id, answer)


def keep_answer(connection: apsw.Connection, call_id: int, answer: KeptAnswer) -> None:
    """Keeps an answer under the idempotency key of its call."""
    connection.execute(_KEEP_ANSWER, (answer.status, answer.content_type, answer.fields, answer.body, call_id))


def read_keyed(connection: apsw.Connection, account_id: int, key: str) -> KeyedCall | None:
    """The call that was the first of this account under a key."""
    query = (
        "SELECT call_id, request_id, fingerprint, status, content_type, fields, answer,"
        " EXISTS (SELECT 1 FROM holds WHERE holds.call_id = idempotency.call_id)"
        " FROM idempotency WHERE account_id = ? AND key = ?"
    )
    row = connection.execute(query, (account_id, key)).fetchone()
    if row is None:
        return None
    call_id, request_id, fingerprint, status, content_type, fields, body, running = row
    answer = None if status is None else KeptAnswer(status, content_type, fields, body)
    # The call of a job is open as long as the job is; its answer was there from the beginning.
    return KeyedCall(call_id, request_id, fingerprint, bool(running) and answer is None, answer)


def nodes_with_holds(connection: apsw.Connection) -> set[int]:
    """The nodes that the holds of open calls belong to; an open job's hold is the job's, which others go on with."""
    query = (
        "SELECT DISTINCT call_id & ? FROM holds"
        " WHERE call_id NOT IN (SELECT call_id FROM jobs WHERE finished_ms IS NULL)"
    )
    return {node for (node,) in connection.execute(query, (_NODE,))}


def abandoned(connection: apsw.Connection, nodes: Collection[int], limit: int) -> list[Settlement]:
    """Settlements that release the holds of these nodes, whose processes are dead: nobody knows what was used.

    The holds of open jobs are not among them.
    """
    query = (
        "SELECT call_id, request_id, account_id, front, method, model, started_us, client_ip FROM holds"
        " WHERE call_id & ? IN (SELECT value FROM json_each(?))"
        " AND call_id NOT IN (SELECT call_id FROM jobs WHERE finished_ms IS NULL) LIMIT ?"
    )
    rows = connection.execute(query, (_NODE, orjson.dumps(list(nodes)).decode(), limit)).fetchall()
    return [Settlement(_unknown(row), keyed=True) for row in rows]


def _unknown(row: Sequence[Any]) -> CallRecord:  # Any: the table is STRICT, and SQLite vouches for the types
    call_id, request_id, account_id, front, method, model, started_us, client_ip = row
    return CallRecord(
        id=call_id,
        request_id=request_id,
        account_id=account_id,
        front=front,
        method=method,
        model=model,
        outcome="5000",
        status=0,
        streamed=False,
        cut=True,
        started_at=started_us / 1e6,
        duration_s=0.0,
        first_byte_s=None,
        sent_bytes=0,
        client_ip=client_ip,
        settled="unknown",
    )


def prune(connection: apsw.Connection, calls_before_us: int | None, keys_before_us: int, limit: int) -> bool:
    """Deletes a few of the calls and idempotency keys that are too old; whether there may be more."""
    full = False
    for table, column, before_us in (("calls", "id", calls_before_us), ("idempotency", "call_id", keys_before_us)):
        if before_us is None or before_us <= EPOCH_2020_US:
            continue
        query = (
            f"DELETE FROM {table} WHERE {column} IN (SELECT {column} FROM {table} WHERE {column} < ?"  # noqa: S608
            f" AND {column} NOT IN (SELECT call_id FROM holds) ORDER BY {column} LIMIT ?)"
        )
        connection.execute(query, ((before_us - EPOCH_2020_US) << NODE_BITS, limit))
        full = full or connection.changes() >= limit
    return full
