"""The audit: reads the books in one snapshot and says where they do not add up. Changes nothing.

Per account, its balance and all that it was charged are what it paid in, and what is held is what its open calls hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import chain
from typing import Literal, TypeAlias

import apsw
import orjson

from gateway.amounts import amount_text
from gateway.store.interface import UnknownAccountError

MAX_LISTED = 20

_ACCOUNTS = "SELECT id, name, deleted_at IS NOT NULL, balance_micros, held_micros FROM accounts"
_ENTRIES = (
    "SELECT account_id, sum(iif(kind = 'topup', amount_micros, 0)), sum(iif(kind = 'charge', -amount_micros, 0))"
    " FROM entries GROUP BY account_id"
)
_HOLDS = "SELECT account_id, sum(amount_micros), count(*) FROM holds GROUP BY account_id"
_UNSURE = "SELECT account_id, count(*), sum(charge_micros) FROM calls WHERE settled = ? GROUP BY account_id"
_NEWEST_UNSURE = (
    "SELECT id, account_id, method, charge_micros FROM calls"
    " WHERE settled = ? AND account_id IN (SELECT value FROM json_each(?)) ORDER BY id DESC LIMIT ?"
)
# An entry without a call is no fault, since the log is cut short in time; a charge without its entry is one.
_CALLS_THAT_DIFFER = (
    "SELECT calls.id, calls.account_id, calls.charge_micros, entries.account_id, -entries.amount_micros"
    " FROM calls LEFT JOIN entries ON entries.call_id = calls.id"
    " WHERE calls.charge_micros <> coalesce(-entries.amount_micros, 0) OR entries.account_id <> calls.account_id"
    " ORDER BY calls.id"
)
_CHARGES_THAT_ADD = (
    "SELECT call_id, account_id, amount_micros FROM entries WHERE kind = 'charge' AND amount_micros > 0 ORDER BY id"
)
# A call's row, its charge and the end of its hold are one commit.
_HELD_AFTER_THE_END = (
    "SELECT call_id, account_id, amount_micros FROM holds WHERE call_id IN (SELECT id FROM calls)"
    " OR call_id IN (SELECT call_id FROM entries WHERE call_id IS NOT NULL) ORDER BY call_id"
)

Fault: TypeAlias = Literal["account", "balance", "held", "call", "charge", "hold"]
"""What does not add up: there is no such account; its balance; what it holds; a call's charge; an entry; a hold."""


@dataclass(frozen=True, slots=True)
class Books:
    """One account's sums, or those of several, in millionths."""

    paid_in_micros: int = 0
    charged_micros: int = 0
    balance_micros: int = 0
    held_micros: int = 0
    in_holds_micros: int = 0  # the sum of the open holds
    open_holds: int = 0
    estimated_calls: int = 0
    estimated_micros: int = 0
    unknown_calls: int = 0
    unknown_micros: int = 0

    @property
    def entries_micros(self) -> int:
        """What the entries make the balance."""
        return self.paid_in_micros - self.charged_micros


@dataclass(frozen=True, slots=True)
class AccountBooks:
    """`name` None: the books speak of an account that does not exist."""

    id: int
    name: str | None
    deleted: bool
    books: Books


@dataclass(frozen=True, slots=True)
class UnsureCall:
    """A call whose charge is not by its upstream's count."""

    id: int
    account_id: int
    method: str
    charge_micros: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the books do not add up. `text` says it in words, for the operator."""

    account_id: int
    fault: Fault
    text: str
    call_id: int | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """The books at one moment. `estimated` and `unknown` are the newest calls of that kind, MAX_LISTED at most."""

    accounts: tuple[AccountBooks, ...]
    total: Books
    estimated: tuple[UnsureCall, ...]
    unknown: tuple[UnsureCall, ...]
    differences: tuple[Difference, ...]


def read_audit(connection: apsw.Connection, name: str | None = None) -> Audit:
    """The books of every account, deleted ones included, or of those that have or had `name`.

    UnknownAccountError if none ever had it. Everything is read in one snapshot: a server may write meanwhile.
    """
    with _snapshot(connection):
        differences = list(_call_differences(connection))
        concerned = {difference.account_id for difference in differences}
        accounts = [
            account for account in _read_accounts(connection, concerned) if name is None or account.name == name
        ]
        if name is not None and not accounts:
            raise UnknownAccountError(f"no account is or was named {name!r}")
        ids = {account.id for account in accounts}
        estimated, unknown = (_newest(connection, settled, ids) for settled in ("estimated", "unknown"))
    of_calls = (difference for difference in differences if difference.account_id in ids)
    return Audit(
        tuple(accounts),
        _total(account.books for account in accounts),
        estimated,
        unknown,
        (*chain.from_iterable(map(_account_differences, accounts)), *of_calls),
    )


@contextmanager
def _snapshot(connection: apsw.Connection) -> Iterator[None]:
    """One read transaction: what others commit meanwhile is not seen."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _read_accounts(connection: apsw.Connection, concerned: Iterable[int]) -> list[AccountBooks]:
    """In the order of their ids; then those that the books speak of, or that are concerned, but do not exist."""
    sums: defaultdict[int, dict[str, int]] = defaultdict(dict, {account_id: {} for account_id in concerned})
    for account_id, paid_in, charged in connection.execute(_ENTRIES):
        sums[account_id] |= {"paid_in_micros": paid_in, "charged_micros": charged}
    for account_id, amount, number in connection.execute(_HOLDS):
        sums[account_id] |= {"in_holds_micros": amount, "open_holds": number}
    for settled in ("estimated", "unknown"):
        for account_id, number, charge in connection.execute(_UNSURE, (settled,)):
            sums[account_id] |= {f"{settled}_calls": number, f"{settled}_micros": charge}
    accounts = [
        AccountBooks(id_, name, bool(deleted), Books(balance_micros=balance, held_micros=held, **sums.pop(id_, {})))
        for id_, name, deleted, balance, held in connection.execute(_ACCOUNTS)
    ]
    return accounts + [AccountBooks(id_, None, False, Books(**sums[id_])) for id_ in sorted(sums)]


def _newest(connection: apsw.Connection, settled: str, account_ids: Iterable[int]) -> tuple[UnsureCall, ...]:
    bindings = (settled, orjson.dumps(list(account_ids)).decode(), MAX_LISTED)
    return tuple(UnsureCall(*row) for row in connection.execute(_NEWEST_UNSURE, bindings))


def _total(books: Iterable[Books]) -> Books:
    each = [astuple(one) for one in books]
    return Books(*map(sum, zip(*each, strict=True)))


def _account_differences(account: AccountBooks) -> Iterator[Difference]:
    books = account.books
    balance, held = amount_text(books.balance_micros), amount_text(books.held_micros)
    if account.name is None:
        yield Difference(account.id, "account", "the books speak of it, but there is no such account")
    if books.balance_micros != books.entries_micros:
        yield Difference(
            account.id,
            "balance",
            f"the balance is {balance}, but its entries add up to {amount_text(books.entries_micros)}:"
            f" {_apart(books.balance_micros - books.entries_micros)}",
        )
    if books.held_micros != books.in_holds_micros:
        yield Difference(
            account.id,
            "held",
            f"{held} is held, but its open holds add up to {amount_text(books.in_holds_micros)}:"
            f" {_apart(books.held_micros - books.in_holds_micros)}",
        )
    if books.balance_micros < 0:
        yield Difference(account.id, "balance", f"the balance is negative: {balance}")
    if books.held_micros > max(books.balance_micros, 0):
        yield Difference(account.id, "held", f"{held} is held, more than the balance of {balance}")


def _call_differences(connection: apsw.Connection) -> Iterator[Difference]:
    for call_id, account_id, charge, other_id, entered in connection.execute(_CALLS_THAT_DIFFER):
        if entered is None:
            text = f"the call was charged {amount_text(charge)}, but no entry says so"
        elif entered != charge:
            text = f"the call was charged {amount_text(charge)}, but its entry says {amount_text(entered)}"
        else:
            text = f"the call's charge of {amount_text(charge)} was taken from account {other_id}"
        yield Difference(account_id, "call", text, call_id)
    for call_id, account_id, amount in connection.execute(_CHARGES_THAT_ADD):
        text = f"the call's entry adds {amount_text(amount)} to the balance, but a charge only takes"
        yield Difference(account_id, "charge", text, call_id)
    for call_id, account_id, amount in connection.execute(_HELD_AFTER_THE_END):
        yield Difference(account_id, "hold", f"the call has ended, but still holds {amount_text(amount)}", call_id)


def _apart(micros: int) -> str:
    return f"{amount_text(abs(micros))} too {'much' if micros > 0 else 'little'}"
