"""`gateway accounts …`: the operator's hand on the accounts. Works on the store directly, beside a running server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from datetime import time as time_of_day
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from gateway.amounts import amount_micros, amount_text
from gateway.cli_shared import (
    checked,
    config_option,
    day_or_moment,
    json_option,
    moment_text,
    opened_store,
    print_fields,
    print_json,
    print_table,
    printable,
    read_settings,
    seconds_of,
)

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.types import Account, CallCounts


@click.group()
def accounts() -> None:
    """Add, show and change accounts; a running server follows within a second."""


Given: TypeAlias = "tuple[Any] | None"
"""A change that an option asks for, in a tuple since None is a value; None where the option was not given."""


def _payment(text: str) -> int:
    if not (micros := amount_micros(text)):
        raise ValueError("nothing would be paid")
    return micros


def _credential(text: str) -> str:
    from gateway.credentials import checked_credential

    return checked_credential(text)


def _name(text: str) -> str:
    if not (1 <= len(text) <= 100 and text.isprintable() and text.strip() == text):
        raise ValueError("a name has 1 to 100 printable characters and no space at its ends")
    return text


def _number(text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError(f"{text!r} is neither a whole number nor 'none'")
    return int(text)


def _globs(text: str) -> tuple[str, ...]:
    return tuple(glob for part in text.split(",") if (glob := part.strip()))


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(network) for network in _globs(text))


def _expiry(text: str) -> date | datetime | None:
    if text == "never":
        return None
    try:
        return day_or_moment(text)
    except ValueError as error:
        raise ValueError(f"{error}, nor 'never'") from error


_Change: TypeAlias = "tuple[str, str, Callable[[str], object], str, str]"
"""An option, the account's field that it changes, how it is read, what it takes, its help."""

_LIMITS: tuple[_Change, ...] = (
    ("--concurrency", "concurrency", _number, "N", "Calls at one time, or 'none'."),
    ("--per-minute", "per_minute", _number, "N", "Calls a minute, or 'none'."),
    ("--tokens-per-minute", "tokens_per_minute", _number, "N", "Tokens a minute, or 'none'."),
    ("--per-day", "per_day", _number, "N", "Calls a day, or 'none'."),
    ("--total", "total", _number, "N", "Calls in all, or 'none'."),
)


def _cache(text: str) -> bool | None:
    if text not in {"yes", "no", "default"}:
        raise ValueError("expected yes, no or default")
    return None if text == "default" else text == "yes"


def _yes_or_no(text: str) -> bool:
    if text not in {"yes", "no"}:
        raise ValueError("expected yes or no")
    return text == "yes"


_CHANGES: tuple[_Change, ...] = (
    *_LIMITS,
    ("--methods", "methods", _globs, "GLOB,…", "The only methods it may call; '*' is every one."),
    ("--stopped-methods", "stopped_methods", _globs, "GLOB,…", "Methods that are stopped for it; '' is none."),
    ("--expires", "expires_at", _expiry, "DATE", "The last day it works, a moment, or 'never'."),
    ("--allow-from", "allow_from", _networks, "CIDR,…", "The only addresses it may call from; '' is any."),
    ("--cache", "cache", _cache, "yes|no|default", "Whether its calls use the cache where they do not say."),
    ("--lang-prompt", "lang_prompt", _yes_or_no, "yes|no", "Whether its image prompts are translated to English."),
)


def _wrapped(parse: Callable[[str], object]) -> Callable[[str], tuple[object]]:
    return lambda text: (parse(text),)


def _change_options(changes: Sequence[_Change]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for flag, field, parse, metavar, text in reversed(changes):
            callback = checked(_wrapped(parse))
            command = click.option(flag, field, callback=callback, metavar=metavar, help=text)(command)
        return command

    return decorate


def _changed_fields(given: dict[str, Given], settings: Settings) -> dict[str, Any]:
    """The account's fields that the options change. A day ends by the operator's clock, and includes its evening."""
    fields = {field: value[0] for field, value in given.items() if value is not None}
    expiry = fields.get("expires_at")
    if expiry is not None:
        fields["expires_at"] = seconds_of(expiry, settings, time_of_day.max)
    return fields


_name_argument = click.argument("name")


@accounts.command()
@click.argument("name", callback=checked(_name))
@click.option("--key", callback=checked(_credential), metavar="K", help="Its key; made up if left out.")
@click.option("--secret", callback=checked(_credential), metavar="S", help="Its secret; made up if left out.")
@click.option(
    "--balance", callback=checked(amount_micros), metavar="AMOUNT", help="What it starts with, such as 12.50."
)
@_change_options(_CHANGES)
@config_option
@json_option
def add(
    name: str,
    key: str | None,
    secret: str | None,
    balance: int | None,
    config: Path | None,
    as_json: bool,
    **given: Given,
) -> None:
    """Add an account. Prints its key and its secret; the secret is shown this once."""
    from gateway.credentials import new_key, new_secret
    from gateway.types import Account

    settings = read_settings(config)
    secret = secret or new_secret()
    with opened_store(settings) as store:
        account = Account(
            id=0,
            name=name,
            key=key or new_key(),
            secret_digest=store.pepper.digest(secret),
            balance_micros=balance or 0,
            **_changed_fields(given, settings),
        )
        _print_secret(store.accounts.add(account), secret, settings, as_json)


@accounts.command(name="list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List the accounts."""
    settings = read_settings(config)
    with opened_store(settings) as store:
        counts = store.call_counts(_today(settings))
        described = [_description(account, counts.get(account.id), settings) for account in store.accounts.all()]
    if as_json:
        print_json(described)
        return
    columns = ("name", "key", "state", "balance", "calls_today", "calls_total")
    headers = [column.replace("_", " ") for column in columns]
    print_table(headers, [[str(fields[column]) for column in columns] for fields in described])


@accounts.command()
@_name_argument
@config_option
@json_option
def show(name: str, config: Path | None, as_json: bool) -> None:
    """Show an account: its state, limits, balance and calls."""
    settings = read_settings(config)
    with opened_store(settings) as store:
        account = store.accounts.by_name(name)
        counts = store.call_counts(_today(settings)).get(account.id)
    _print_account(account, settings, as_json, counts)


@accounts.command(name="set")
@_name_argument
@_change_options(_CHANGES)
@config_option
@json_option
def set_(name: str, config: Path | None, as_json: bool, **given: Given) -> None:
    """Change an account's limits, methods, expiry or addresses."""
    settings = read_settings(config)
    fields = _changed_fields(given, settings)
    if not fields:
        raise click.UsageError("nothing to set: name at least one option")
    _update(name, lambda account: replace(account, **fields), settings, as_json)


@accounts.command()
@_name_argument
@_change_options(_LIMITS)
@config_option
@json_option
def limit(name: str, config: Path | None, as_json: bool, **given: Given) -> None:
    """Change an account's limits and nothing else, and show them; without an option show them."""
    settings = read_settings(config)
    fields = _changed_fields(given, settings)
    with opened_store(settings) as store:
        table = store.accounts
        account = table.update(name, lambda account: replace(account, **fields)) if fields else table.by_name(name)
    _print_described({"name": account.name, **_limits(account)}, as_json)


@accounts.command()
@_name_argument
@config_option
@json_option
def stop(name: str, config: Path | None, as_json: bool) -> None:
    """Stop an account: its calls are refused until it is started."""
    _update(name, lambda account: replace(account, stopped=True), read_settings(config), as_json)


@accounts.command()
@_name_argument
@config_option
@json_option
def start(name: str, config: Path | None, as_json: bool) -> None:
    """Let a stopped account call again."""
    _update(name, lambda account: replace(account, stopped=False), read_settings(config), as_json)


@accounts.command()
@_name_argument
@click.option("--secret", callback=checked(_credential), metavar="S", help="The new secret; made up if left out.")
@config_option
@json_option
def rotate(name: str, secret: str | None, config: Path | None, as_json: bool) -> None:
    """Give an account a new secret, and print it this once; the old one stops working."""
    from gateway.credentials import new_secret

    settings = read_settings(config)
    secret = secret or new_secret()
    with opened_store(settings) as store:
        digest = store.pepper.digest(secret)
        account = store.accounts.update(name, lambda account: replace(account, secret_digest=digest))
        _print_secret(account, secret, settings, as_json)


@accounts.command()
@_name_argument
@click.argument("amount", callback=checked(_payment))
@click.option("--back", is_flag=True, help="Take AMOUNT back instead: a correction. What calls hold stays.")
@config_option
@json_option
def topup(name: str, amount: int, back: bool, config: Path | None, as_json: bool) -> None:
    """Add AMOUNT, such as 12.50, to an account's balance."""
    settings = read_settings(config)
    with opened_store(settings) as store:
        account = store.accounts.top_up(name, -amount if back else amount)
        counts = store.call_counts(_today(settings)).get(account.id)
    _print_account(account, settings, as_json, counts)


@accounts.command()
@_name_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def delete(name: str, yes: bool, config: Path | None, as_json: bool) -> None:
    """Delete an account for good; its calls stay in the log. Asks first where a person can answer."""
    settings = read_settings(config)
    with opened_store(settings) as store:
        account = store.accounts.by_name(name)
        if not yes and sys.stdin.isatty():
            click.confirm(f"Delete {printable(account.name)} and its key {account.key}?", abort=True, err=True)
        store.accounts.delete(name)
    if as_json:
        print_json({"name": account.name, "deleted": True})
    else:
        click.echo(f"{printable(account.name)} is deleted.")


def _update(name: str, change: Callable[[Account], Account], settings: Settings, as_json: bool) -> None:
    with opened_store(settings) as store:
        account = store.accounts.update(name, change)
        counts = store.call_counts(_today(settings)).get(account.id)
    _print_account(account, settings, as_json, counts)


def _print_secret(account: Account, secret: str, settings: Settings, as_json: bool) -> None:
    if as_json:
        print_json({**_description(account, None, settings), "secret": secret})
        return
    print_fields([("name", account.name), ("key", account.key), ("secret", secret)])
    click.echo("The secret is not kept and cannot be shown again.", err=True)


def _print_account(account: Account, settings: Settings, as_json: bool, counts: CallCounts | None) -> None:
    _print_described(_description(account, counts, settings), as_json)


def _print_described(description: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(description)
    else:
        print_fields([(name.replace("_", " "), _text(name, value)) for name, value in description.items()])


_UNRESTRICTED = {
    "methods": "every",
    "allow_from": "anywhere",
    "expires": "never",
    "price_list": "none",
    "cache": "default",
}


def _text(name: str, value: object) -> str:
    if value is None or (value == [] and name == "allow_from"):
        return _UNRESTRICTED.get(name, "unlimited")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return str(value)


def _description(account: Account, counts: CallCounts | None, settings: Settings) -> dict[str, Any]:
    """An account as the operator sees it; the JSON of `show`."""
    from gateway.types import CallCounts

    counts = counts or CallCounts()
    return {
        "id": account.id,
        "name": account.name,
        "key": account.key,
        "state": _state(account),
        "balance": amount_text(account.balance_micros),
        "held": amount_text(account.held_micros),
        "available": amount_text(account.balance_micros - account.held_micros),
        "price_list": account.price_list or None,
        "calls_today": counts.today,
        "calls_total": counts.total,
        "calls_succeeded": counts.succeeded,
        "calls_empty": counts.empty,
        "calls_failed": counts.failed,
        **_limits(account),
        "methods": None if account.methods is None else list(account.methods),
        "stopped_methods": list(account.stopped_methods),
        "allow_from": [str(network) for network in account.allow_from],
        "lang_prompt": account.lang_prompt,
        "cache": None if account.cache is None else account.cache,
        "expires": None if account.expires_at is None else moment_text(account.expires_at, settings),
        "created": moment_text(account.created_at, settings),
    }


def _limits(account: Account) -> dict[str, Any]:
    return {field: getattr(account, field) for _, field, *_ in _LIMITS}


def _state(account: Account) -> str:
    if account.stopped:
        return "stopped"
    return "expired" if account.expires_at is not None and time.time() >= account.expires_at else "active"


def _today(settings: Settings) -> str:
    from gateway.store import Days

    return Days(settings.defaults.timezone).day_of(time.time())
