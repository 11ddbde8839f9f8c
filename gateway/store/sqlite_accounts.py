"""The SQL of the accounts. Works on a connection that it is given; knows nothing of the file behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any

import apsw
import orjson

from gateway.amounts import amount_text
from gateway.store.interface import (
    AccountChanges,
    AccountExistsError,
    InsufficientBalanceError,
    StoreError,
    UnknownAccountError,
)
from gateway.types import Account

_FIELDS = (
    "name",
    "key",
    "secret_digest",
    "stopped",
    "expires_at",
    "methods",
    "stopped_methods",
    "allow_from",
    "concurrency",
    "per_minute",
    "tokens_per_minute",
    "per_day",
    "total",
    "price_list",
    "lang_prompt",
    "cache",
    "created_at",
)
# Never falls back, since deleted accounts stay as tombstones.
_NEXT_REVISION = "(SELECT coalesce(max(revision), 0) + 1 FROM accounts)"
_SELECT = f"SELECT id, {', '.join(_FIELDS)}, balance_micros, held_micros FROM accounts"  # noqa: S608  # our own names
_INSERT = (
    f"INSERT INTO accounts ({', '.join(_FIELDS)}, pepper_id, revision)"  # noqa: S608  # as above
    f" VALUES ({', '.join('?' for _ in _FIELDS)}, ?, {_NEXT_REVISION})"
)
_UPDATE = (
    f"UPDATE accounts SET {', '.join(f'{name} = ?' for name in _FIELDS)},"  # noqa: S608  # as above
    f" pepper_id = ?, revision = {_NEXT_REVISION} WHERE id = ?"
)
_ADD_ENTRY = "INSERT INTO entries (account_id, kind, amount_micros, at_us) VALUES (?, 'topup', ?, ?)"
_ADD_BALANCE = "UPDATE accounts SET balance_micros = balance_micros + ? WHERE id = ?"
_DELETE = f"UPDATE accounts SET deleted_at = ?, secret_digest = x'', revision = {_NEXT_REVISION} WHERE id = ?"  # noqa: S608

_MAX_MICROS = 2**62  # no sum of a balance and one more amount leaves 64 bits


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """Commits as a whole or not at all. Takes the write lock first, so that what is read inside stays true."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have rolled back by themselves
            connection.execute("ROLLBACK")
        raise


class AccountsTable:
    """Reads and changes accounts. Each change is one transaction, durable when the method returns."""

    def __init__(self, connection: apsw.Connection, lock: threading.Lock, pepper_id: str) -> None:
        self._connection = connection
        self._lock = lock
        self._pepper_id = pepper_id

    def add(self, account: Account) -> Account:
        """Stores a new account and returns it with the id it was given; a `created_at` of zero becomes now.

        Its balance is its first entry. AccountExistsError if the name or the key is taken.
        """
        values = _values(account)
        values[-1] = account.created_at or time.time()
        with self._changing(account.name):
            self._connection.execute(_INSERT, (*values, self._pepper_id))
            if account.balance_micros:
                self._pay_in(self._named(account.name), account.balance_micros)
            return self._named(account.name)

    def top_up(self, name: str, amount_micros: int) -> Account:
        """Adds to the balance what an account paid in, as an entry of the books; a negative amount takes it back.

        InsufficientBalanceError if the balance would fall below what is held, or below zero.
        """
        with self._changing(name):
            account = self._named(name)
            available = account.balance_micros - max(account.held_micros, 0)
            if amount_micros < 0 and available + amount_micros < 0:
                raise InsufficientBalanceError(
                    f"{amount_text(-amount_micros)} cannot be taken back from {name!r}: its balance is"
                    f" {amount_text(account.balance_micros)}, of which {amount_text(account.held_micros)} is held"
                )
            self._pay_in(account, amount_micros)
            return self._named(name)

    def update(self, name: str, change: Callable[[Account], Account]) -> Account:
        """Applies `change` to what the account is now and returns what it has become. Money is `top_up`'s business."""
        with self._changing(name):
            before = self._named(name)
            after = change(before)
            self._connection.execute(_UPDATE, (*_values(after), self._pepper_id, before.id))
            return self._named(after.name)

    def delete(self, name: str) -> None:
        """Leaves a tombstone without the secret; name and key are free again."""
        with self._changing(name):
            self._connection.execute(_DELETE, (time.time(), self._named(name).id))

    def by_name(self, name: str) -> Account:
        """UnknownAccountError if there is none."""
        with self._lock, converted_errors():
            return self._named(name)

    def by_id(self, account_id: int) -> Account:
        """UnknownAccountError if there is none, or no longer."""
        with self._lock, converted_errors():
            row = self._connection.execute(f"{_SELECT} WHERE id = ? AND deleted_at IS NULL", (account_id,)).fetchone()
        if row is None:
            raise UnknownAccountError(f"no account has the id {account_id}")
        return _account(row)

    def all(self) -> list[Account]:
        """Every account that is not deleted, by name."""
        with self._lock, converted_errors():
            return [
                _account(row) for row in self._connection.execute(f"{_SELECT} WHERE deleted_at IS NULL ORDER BY name")
            ]

    def since(self, revision: int) -> AccountChanges:
        """What changed after `revision`; 0 gives every account. Costs one index look-up when nothing did."""
        changed: list[Account] = []
        deleted: list[int] = []
        newest = revision
        select = f"{_SELECT.replace(' FROM', ', deleted_at, revision FROM')} WHERE revision > ? ORDER BY revision"
        with self._lock, converted_errors():
            for *row, deleted_at, row_revision in self._connection.execute(select, (revision,)):
                newest = row_revision
                if deleted_at is None:
                    changed.append(_account(row))
                else:
                    deleted.append(int(row[0]))
        return AccountChanges(tuple(changed), tuple(deleted), newest)

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        with self._lock, converted_errors():
            try:
                with transaction(self._connection):
                    yield
            except apsw.ConstraintError as error:
                raise AccountExistsError(f"the name or the key of {name!r} belongs to another account") from error

    def _pay_in(self, account: Account, amount_micros: int) -> None:
        if not -_MAX_MICROS <= account.balance_micros + amount_micros <= _MAX_MICROS:
            raise StoreError(f"the balance of {account.name!r} would be beyond what can be stored")
        self._connection.execute(_ADD_ENTRY, (account.id, amount_micros, time.time_ns() // 1000))
        self._connection.execute(_ADD_BALANCE, (amount_micros, account.id))

    def _named(self, name: str) -> Account:
        row = self._connection.execute(f"{_SELECT} WHERE name = ? AND deleted_at IS NULL", (name,)).fetchone()
        if row is None:
            raise UnknownAccountError(f"no account is named {name!r}")
        return _account(row)


@contextmanager
def converted_errors() -> Iterator[None]:
    """Turns SQLite's errors into ours. A constraint is the business of whoever set it."""
    try:
        yield
    except apsw.BusyError as error:
        raise StoreError("the database is locked by another process") from error
    except apsw.FullError as error:
        raise StoreError("the disk of the database is full") from error
    except apsw.ConstraintError:
        raise
    except (apsw.Error, ValueError) as error:  # ValueError: a row that someone else wrote
        raise StoreError(f"the database failed: {error}") from error


def _values(account: Account) -> list[apsw.SQLiteValue]:
    return [
        account.name,
        account.key,
        account.secret_digest,
        account.stopped,
        account.expires_at,
        None if account.methods is None else orjson.dumps(account.methods).decode(),
        orjson.dumps(account.stopped_methods).decode(),
        orjson.dumps([str(network) for network in account.allow_from]).decode(),
        account.concurrency,
        account.per_minute,
        account.tokens_per_minute,
        account.per_day,
        account.total,
        account.price_list,
        account.lang_prompt,
        account.cache,
        account.created_at,
    ]


def _account(row: Sequence[Any]) -> Account:  # Any: the tables are STRICT, and SQLite vouches for the types
    id_, name, key, digest, stopped, expires_at, methods, stopped_methods, allow_from, *rest = row
    concurrency, per_minute, tokens_per_minute, per_day, total, price_list, lang_prompt, cache, *rest = rest
    created_at, balance, held = rest
    return Account(
        id=id_,
        name=name,
        key=key,
        secret_digest=digest,
        stopped=bool(stopped),
        expires_at=expires_at,
        methods=None if methods is None else tuple(orjson.loads(methods)),
        stopped_methods=tuple(orjson.loads(stopped_methods)),
        allow_from=tuple(ip_network(network) for network in orjson.loads(allow_from)),
        concurrency=concurrency,
        per_minute=per_minute,
        tokens_per_minute=tokens_per_minute,
        per_day=per_day,
        total=total,
        price_list=price_list,
        lang_prompt=bool(lang_prompt),
        cache=None if cache is None else bool(cache),
        balance_micros=balance,
        held_micros=held,
        created_at=created_at,
    )
