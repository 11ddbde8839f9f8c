"""`gateway accounts price …` and `gateway audit`: what calls cost an account, and whether the books add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.amounts import amount_text
from gateway.cli_shared import (
    config_option,
    json_option,
    opened_store,
    print_fields,
    print_json,
    print_table,
    printable,
    read_settings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.config import PriceSettings, Settings
    from gateway.store.sqlite_audit import AccountBooks, Audit, Books, Difference, UnsureCall
    from gateway.types import Account

_NO_LIST = "none"


@click.command()
@click.argument("name")
@click.argument("price_list", metavar="[LIST|none]", required=False)
@config_option
@json_option
def price(name: str, price_list: str | None, config: Path | None, as_json: bool) -> None:
    """Put an account on a price list, or with 'none' on no list, and show the prices that apply to it."""
    settings = read_settings(config)
    if price_list is not None:
        price_list = _known_list(price_list, settings)
    with opened_store(settings) as store:
        if price_list is None:
            account = store.accounts.by_name(name)
        else:
            chosen = price_list
            account = store.accounts.update(name, lambda account: replace(account, price_list=chosen))
    _print_prices(account, settings, as_json)


def _known_list(name: str, settings: Settings) -> str:
    """The list as the store has it, empty for none. A list that no [[price]] names would be a slip of the pen."""
    if name == _NO_LIST:
        return ""
    known = sorted({row.list for row in settings.price if row.list})
    if name not in known:
        there_are = f"the lists are: {', '.join(known)}" if known else "there are no lists"
        raise click.BadParameter(f"no [[price]] is of the list {name!r}; {there_are}", param_hint="LIST")
    return name


def _print_prices(account: Account, settings: Settings, as_json: bool) -> None:
    rows = [_priced(row) for row in settings.price if row.list in {"", account.price_list}]
    if as_json:
        print_json({"name": account.name, "price_list": account.price_list or None, "prices": rows})
        return
    print_fields([("name", account.name), ("price list", account.price_list or _NO_LIST)])
    if rows:
        click.echo()
        columns = list(rows[0])
        print_table(
            [column.replace("_", " ") for column in columns], [[value or "-" for value in row.values()] for row in rows]
        )
    elif settings.price:
        click.echo(f"No [[price]] applies to it: its calls are {settings.charging.unpriced}.")
    else:
        click.echo("The configuration has no [[price]]: calls are free.")
    if account.price_list and account.price_list not in {row.list for row in settings.price}:
        click.echo(f"No [[price]] is of the list {printable(account.price_list)}.", err=True)


def _priced(row: PriceSettings) -> dict[str, str | None]:
    """A row as it counts: what its cached tokens cost is said even where the configuration leaves it out."""
    from gateway.charging import price_of
    from gateway.config import AMOUNTS

    price = price_of(row)
    amounts = {key: amount_text(getattr(price, key)) for key in AMOUNTS}
    return {"list": row.list or None, "method": row.method, "model": row.model, **amounts}


@click.command()
@click.option("--account", "name", metavar="NAME", help="Only the account of this name, and deleted ones that had it.")
@config_option
@json_option
@click.pass_context
def audit(context: click.Context, name: str | None, config: Path | None, as_json: bool) -> None:
    """Say whether the books add up: what was paid in, charged and held, and every difference. Status 1 for any."""
    settings = read_settings(config)
    with opened_store(settings) as store:
        found = store.audit(name)
    if as_json:
        print_json(_described(found))
    else:
        _print_audit(found)
    context.exit(1 if found.differences else 0)


_COLUMNS = {
    "paid in": "paid_in",
    "charged": "charged",
    "balance": "balance",
    "held": "held",
    "open holds": "open_holds",
    "estimated calls": "estimated_calls",
    "unknown calls": "unknown_calls",
}
"""The headers of the sums, and the field under each."""


def _print_audit(found: Audit) -> None:
    labels = {account.id: _label(account) for account in found.accounts}
    sums = [(str(account.id), labels[account.id], account.books) for account in found.accounts]
    sums.append(("", "in total", found.total))
    cells = [(id_, label, _sums(books)) for id_, label, books in sums]
    rows = [[id_, label, *(str(fields[field]) for field in _COLUMNS.values())] for id_, label, fields in cells]
    print_table(["id", "account", *_COLUMNS], rows)
    total = found.total
    _print_unsure("estimated", found.estimated, total.estimated_calls, total.estimated_micros, labels)
    _print_unsure("unknown", found.unknown, total.unknown_calls, total.unknown_micros, labels)
    click.echo()
    for difference in found.differences:
        at_call = "" if difference.call_id is None else f", call {difference.call_id}"
        click.echo(f"{printable(labels[difference.account_id])}{at_call}: {difference.text}")
    differences = len(found.differences)
    click.echo(
        f"The books do not add up: {differences} difference{'s'[: differences > 1]}."
        if differences
        else "The books add up."
    )


def _print_unsure(
    kind: str, newest: Sequence[UnsureCall], calls: int, charge_micros: int, labels: Mapping[int, str]
) -> None:
    if not newest:
        return
    cut = f"; the newest {len(newest)}" if len(newest) < calls else ""
    click.echo(f"\n{calls} {kind} call{'s'[: calls > 1]}, charged {amount_text(charge_micros)}{cut}:")
    rows = [[str(call.id), labels[call.account_id], call.method, amount_text(call.charge_micros)] for call in newest]
    print_table(["last id", "account", "method", "charge"], rows)


def _label(account: AccountBooks) -> str:
    """Names are given anew, ids are not."""
    if account.name is None:
        return f"account {account.id}"
    return f"{account.name} (deleted)" if account.deleted else account.name


def _described(found: Audit) -> dict[str, Any]:
    """The JSON of `audit`; amounts and the ids of calls are text."""
    names = {account.id: account.name for account in found.accounts}
    return {
        "clean": not found.differences,
        "total": _sums(found.total),
        "accounts": [
            {"id": account.id, "name": account.name, "deleted": account.deleted, **_sums(account.books)}
            for account in found.accounts
        ],
        "estimated": [_unsure(call, names) for call in found.estimated],
        "unknown": [_unsure(call, names) for call in found.unknown],
        "differences": [_difference(difference, names) for difference in found.differences],
    }


def _sums(books: Books) -> dict[str, str | int]:
    return {
        "paid_in": amount_text(books.paid_in_micros),
        "charged": amount_text(books.charged_micros),
        "entries": amount_text(books.entries_micros),
        "balance": amount_text(books.balance_micros),
        "held": amount_text(books.held_micros),
        "in_holds": amount_text(books.in_holds_micros),
        "open_holds": books.open_holds,
        "estimated_calls": books.estimated_calls,
        "estimated_charge": amount_text(books.estimated_micros),
        "unknown_calls": books.unknown_calls,
        "unknown_charge": amount_text(books.unknown_micros),
    }


def _unsure(call: UnsureCall, names: Mapping[int, str | None]) -> dict[str, Any]:
    return {
        "last_id": str(call.id),
        "account": names[call.account_id],
        "account_id": call.account_id,
        "method": call.method,
        "charge": amount_text(call.charge_micros),
    }


def _difference(difference: Difference, names: Mapping[int, str | None]) -> dict[str, Any]:
    return {
        "account": names.get(difference.account_id),
        "account_id": difference.account_id,
        "last_id": None if difference.call_id is None else str(difference.call_id),
        "fault": difference.fault,
        "text": difference.text,
    }
