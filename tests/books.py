"""The books of a store, read and added up by a reader of their own: what must hold after whatever has happened.

Per account, balance + everything charged = everything paid in, and what is held = the sum of the open holds.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from tests.support import Gateway


def connect(database: Path) -> apsw.Connection:
    """A reader beside whoever writes."""
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(10_000)
    return connection


def database_of(gateway: Gateway) -> Path:
    url = (gateway.environment or {}).get("GATEWAY_STORE__URL")
    return gateway.directory / "gateway.db" if url is None else Path(url.removeprefix("sqlite:///"))


def rows(database: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(connect(database)) as connection:
        return connection.execute(query, values).fetchall()


def check_books(database: Path) -> None:
    """Fails on any difference; one transaction, so that a server may be writing."""
    with closing(connect(database)) as connection:
        connection.execute("BEGIN")
        for account_id, balance, held in connection.execute("SELECT id, balance_micros, held_micros FROM accounts"):
            entries = connection.execute(
                "SELECT coalesce(sum(amount_micros), 0) FROM entries WHERE account_id = ?", (account_id,)
            ).get
            holds = connection.execute(
                "SELECT coalesce(sum(amount_micros), 0) FROM holds WHERE account_id = ?", (account_id,)
            ).get
            assert (balance, held) == (entries, holds), f"account {account_id}"
            assert balance >= held >= 0, f"account {account_id} is overdrawn"
        query = (
            "SELECT calls.id FROM calls LEFT JOIN entries ON call_id = calls.id"
            " WHERE charge_micros <> coalesce(-amount_micros, 0)"
        )
        assert not connection.execute(query).fetchall()
        for both in (
            "SELECT call_id FROM entries WHERE call_id IN (SELECT call_id FROM holds)",
            "SELECT id FROM calls WHERE id IN (SELECT call_id FROM holds)",
            "SELECT call_id FROM entries WHERE kind = 'charge' AND call_id NOT IN (SELECT id FROM calls)",
        ):
            assert not connection.execute(both).fetchall(), both


def balance(gateway: Gateway) -> tuple[int, int]:
    """What the account under test has and what of it is held, in millionths."""
    return rows(database_of(gateway), "SELECT balance_micros, held_micros FROM accounts WHERE name = 'tester'")[0]


def charges(gateway: Gateway) -> list[int]:
    """What calls were charged, in their order."""
    return [
        charge for (charge,) in rows(database_of(gateway), "SELECT -amount_micros FROM entries WHERE kind = 'charge'")
    ]
