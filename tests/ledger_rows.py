"""Rows of the books, written by SQL as the store itself would write them, and by nobody's permission otherwise."""

from __future__ import annotations

import time
from pathlib import Path

import apsw

from gateway.ids import CallIds

IDS = CallIds(1)


def opened(path: Path) -> apsw.Connection:
    """The database of a store, as another process has it open."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(10_000)
    return connection


def unguarded(path: Path) -> apsw.Connection:
    """As a vandal has it open: entries can be changed, and nothing refers to anything."""
    connection = opened(path)
    connection.execute("PRAGMA foreign_keys = OFF; DROP TRIGGER entries_are_not_changed")
    connection.execute("DROP TRIGGER entries_are_not_deleted")
    return connection


def insert_call(connection: apsw.Connection, account_id: int, **columns: apsw.SQLiteValue) -> int:
    """One row of the call log; returns its id."""
    request_id, call_id = IDS.next()
    row: dict[str, apsw.SQLiteValue] = {
        "id": call_id,
        "request_id": request_id,
        "account_id": account_id,
        "front": "native",
        "method": "v1/chat/completions",
        "model": "gpt-4o-mini",
        "outcome": "0000",
        "status": 200,
        "streamed": 0,
        "cut": 0,
        "started_us": time.time_ns() // 1000,
        "duration_us": 134_000,
        "first_byte_us": 120_000,
        "sent_bytes": 1199,
        "cache": "off",
        "client_ip": "192.0.2.7",
        **columns,
    }
    _insert(connection, "calls", row)
    return connection.last_insert_rowid()


def insert_charge(
    connection: apsw.Connection, account_id: int, micros: int, settled: str = "exact", **columns: apsw.SQLiteValue
) -> int:
    """A settled call: its row, its entry and what the balance loses; returns its id."""
    call_id = insert_call(connection, account_id, charge_micros=micros, settled=settled, **columns)
    insert_entry(connection, account_id, -micros, call_id)
    return call_id


def insert_entry(connection: apsw.Connection, account_id: int, micros: int, call_id: int | None = None) -> None:
    """An entry, a charge where there is a call, and what it does to the balance."""
    row: dict[str, apsw.SQLiteValue] = {
        "account_id": account_id,
        "kind": "topup" if call_id is None else "charge",
        "amount_micros": micros,
        "call_id": call_id,
        "at_us": time.time_ns() // 1000,
    }
    _insert(connection, "entries", row)
    connection.execute("UPDATE accounts SET balance_micros = balance_micros + ? WHERE id = ?", (micros, account_id))


def insert_hold(connection: apsw.Connection, account_id: int, micros: int, call_id: int | None = None) -> int:
    """An open call: its hold, and what the account then holds; returns its id."""
    request_id, new_id = IDS.next()
    row: dict[str, apsw.SQLiteValue] = {
        "call_id": new_id if call_id is None else call_id,
        "account_id": account_id,
        "amount_micros": micros,
        "request_id": request_id,
        "front": "native",
        "method": "v1/chat/completions",
        "model": None,
        "started_us": time.time_ns() // 1000,
        "client_ip": "192.0.2.7",
    }
    _insert(connection, "holds", row)
    connection.execute("UPDATE accounts SET held_micros = held_micros + ? WHERE id = ?", (micros, account_id))
    return new_id if call_id is None else call_id


def _insert(connection: apsw.Connection, table: str, row: dict[str, apsw.SQLiteValue]) -> None:
    names, marks = ", ".join(row), ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
