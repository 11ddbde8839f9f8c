"""`gateway calls`: the call log as a table, JSON or CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.amounts import amount_text
from gateway.cli_shared import (
    checked,
    config_option,
    day_or_moment,
    json_option,
    moment_text,
    opened_store,
    print_json,
    print_table,
    read_settings,
    seconds_of,
)
from gateway.errors import ERROR_CODES

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.store import SqliteStore
    from gateway.store.sqlite_log import CallConditions
    from gateway.types import CallRecord, Settled

MAX_CALLS = 1_000_000
PAGE_CALLS = 1_000
SETTLED = ("free", "exact", "estimated", "unknown")  # not read from gateway.types: the command's help must come at once

_FIELDS = (
    "last_id", "request_id", "started", "account", "account_id", "front", "method", "model", "outcome", "status",
    "streamed", "cut", "cache", "duration_s", "first_byte_s", "sent_bytes", "prompt_tokens", "completion_tokens",
    "cached_tokens", "charge", "shortfall", "settled",
    "translate_status", "translation_cost", "client_ip",
)  # fmt: skip
_COLUMNS = {
    "started": "started",
    "account": "account",
    "method": "method",
    "model": "model",
    "outcome": "outcome",
    "status": "status",
    "duration s": "duration_s",
    "sent bytes": "sent_bytes",
    "prompt": "prompt_tokens",
    "cached": "cached_tokens",
    "completion": "completion_tokens",
    "charge": "charge",
    "settled": "settled",
    "request id": "request_id",
}
"""The table's headers, and the field under each."""

_day_or_moment = checked(day_or_moment)


@click.command()
@click.option("--account", "name", metavar="NAME", help="Only this account's calls.")
@click.option("--outcome", metavar="CODE", type=click.Choice(list(ERROR_CODES)), help="Only with this error code.")
@click.option("--method", metavar="GLOB", help="Only of these methods.")
@click.option("--model", metavar="GLOB", help="Only of these models.")
@click.option("--since", metavar="DATE|MOMENT", callback=_day_or_moment, help="Only from this day, or moment, on.")
@click.option("--until", metavar="DATE|MOMENT", callback=_day_or_moment, help="Only up to it; a day includes its end.")
@click.option("--settled", type=click.Choice(SETTLED), help="Only those whose charge came about in this way.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, MAX_CALLS), default=50, show_default=True, help="At most N."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@config_option
@json_option
def calls(
    name: str | None,
    outcome: str | None,
    method: str | None,
    model: str | None,
    since: date | None,
    until: date | None,
    settled: Settled | None,
    limit: int,
    as_csv: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show the call log, newest first."""
    if as_csv and as_json:
        raise click.UsageError("--json and --csv: give one of them")
    settings = read_settings(config)
    with opened_store(settings) as store:
        names = {account.id: account.name for account in store.accounts.all()}
        conditions: CallConditions = {
            "account_id": None if name is None else store.accounts.by_name(name).id,
            "outcome": outcome,
            "method": method,
            "model": model,
            "since_s": None if since is None else seconds_of(since, settings, time.min),
            "until_s": None if until is None else seconds_of(until, settings, time.max),
            "settled": settled,
        }
        described = (_call(record, names, settings) for record in _records(store, conditions, limit))
        if as_csv:
            _print_csv(described)
        elif as_json:
            print_json(list(described))
        else:
            print_table(
                list(_COLUMNS),
                [["-" if row[field] is None else str(row[field]) for field in _COLUMNS.values()] for row in described],
            )


def _records(store: SqliteStore, conditions: CallConditions, limit: int) -> Iterator[CallRecord]:
    """At most `limit` calls, page by page: a long log is never held whole."""
    while limit > 0 and (page := store.calls(limit=min(limit, PAGE_CALLS), **conditions)):
        yield from page
        limit -= len(page)
        conditions = {**conditions, "before_id": page[-1].id}


def _print_csv(described: Iterator[dict[str, Any]]) -> None:
    """As RFC 4180 has it; what is absent is an empty field, and true and false are spelt as in JSON."""
    writer = csv.DictWriter(sys.stdout, _FIELDS)
    writer.writeheader()
    for row in described:
        writer.writerow({name: str(value).lower() if isinstance(value, bool) else value for name, value in row.items()})


def _call(record: CallRecord, names: dict[int, str], settings: Settings) -> dict[str, Any]:
    """A call as the operator sees it; ids as text, since they outgrow what JavaScript calls a number."""
    return {
        "last_id": str(record.id),
        "request_id": record.request_id,
        "started": moment_text(record.started_at, settings),
        "account": names.get(record.account_id),  # None: deleted since
        "account_id": record.account_id,
        "front": record.front,
        "method": record.method,
        "model": record.model,
        "outcome": record.outcome,
        "status": record.status,
        "streamed": record.streamed,
        "cut": record.cut,
        "cache": record.cache,
        "duration_s": record.duration_s,
        "first_byte_s": record.first_byte_s,
        "sent_bytes": record.sent_bytes,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "cached_tokens": record.cached_tokens,
        "charge": amount_text(record.charge_micros),
        "shortfall": amount_text(record.shortfall_micros),
        "settled": record.settled,
        "translate_status": record.translate_status or None,
        "translation_cost": amount_text(record.translation_micros),
        "client_ip": record.client_ip,
    }
