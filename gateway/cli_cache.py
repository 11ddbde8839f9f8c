"""`gateway cache`: the answers that are kept on the disk, and forgetting some of them, in memory too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli_shared import (
    config_option,
    json_option,
    moment_text,
    opened_store,
    print_json,
    print_table,
    printable,
    read_settings,
)

if TYPE_CHECKING:
    from gateway.cache_store import Selection
    from gateway.config import Settings
    from gateway.store.cache_entries import CacheFile

_COLUMNS = ("stored", "expires", "account", "method", "model", "form", "bytes")

_account_option = click.option("--account", "name", metavar="NAME", help="Only what this account's calls left.")
_method_option = click.option("--method", metavar="GLOB", help="Only of these methods.")
_model_option = click.option("--model", metavar="GLOB", help="Only of these models.")


@click.group()
def cache() -> None:
    """Show and clear the answers that are kept on the disk."""


@cache.command()
@_account_option
@_method_option
@_model_option
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="At most N."
)
@config_option
@json_option
def show(
    name: str | None, method: str | None, model: str | None, limit: int, config: Path | None, as_json: bool
) -> None:
    """List what is kept, the last used first."""
    settings = read_settings(config)
    names, selection = _selection(settings, name, method, model)
    with _opened_file(settings) as file:
        rows = [
            {
                "stored": moment_text(entry.stored_at, settings),
                "expires": moment_text(entry.expires_at, settings),
                "account": names.get(entry.account_id),
                "method": entry.method,
                "model": entry.model,
                "form": "stream" if entry.streamed else "whole",
                "bytes": entry.size_bytes,
            }
            for entry in file.entries(selection, limit)
        ]
    if as_json:
        print_json(rows)
    else:
        print_table(
            list(_COLUMNS),
            [["-" if row[name] is None else printable(str(row[name])) for name in _COLUMNS] for row in rows],
        )


@cache.command()
@_account_option
@_method_option
@_model_option
@config_option
@json_option
def clear(name: str | None, method: str | None, model: str | None, config: Path | None, as_json: bool) -> None:
    """Forget what is kept: all of it, or what the options name. Running servers forget it within seconds."""
    settings = read_settings(config)
    _, selection = _selection(settings, name, method, model)
    with _opened_file(settings) as file:
        cleared = file.clear(selection, time.time())
    if as_json:
        print_json({"cleared": cleared})
    else:
        click.echo(f"{cleared} answers are forgotten.")


@contextmanager
def _opened_file(settings: Settings) -> Iterator[CacheFile]:
    """The file for one command; what it refuses ends the command with its reason."""
    from gateway.store.cache_entries import CacheFile
    from gateway.store.interface import StoreError

    if not settings.cache.disk_file:
        raise click.ClickException(
            "nothing is kept on a disk (cache.disk_file); what is in memory ends with its process"
        )
    try:
        with closing(CacheFile(Path(settings.cache.disk_file))) as file:
            yield file
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def _selection(
    settings: Settings, name: str | None, method: str | None, model: str | None
) -> tuple[dict[int, str], Selection]:
    """The accounts' names, and what the options select."""
    from gateway.cache_store import Selection

    with opened_store(settings) as store:
        account = None if name is None else store.accounts.by_name(name)
        names = {each.id: each.name for each in store.accounts.all()}
    return names, Selection(None if account is None else account.id, method, model)
