"""What the commands share: their options, the settings, the opened store, and how a terminal or a pipe is written to.

Everything beyond click is imported where it is used: `gateway --help` must not wait for a database.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import click

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.store import SqliteStore

config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="GATEWAY_CONFIG",
    show_envvar=True,
    help="The configuration; without one: defaults, and SQLite in the user's data directory.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def checked(parse: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A click callback whose complaint names the option."""

    def callback(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:  # Any: as parsed
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def read_settings(config: Path | None) -> Settings:
    """The settings of the file or, without one, the defaults, for which the data directory is created."""
    from gateway.config import load_settings, store_path

    settings = load_settings(config, os.environ)
    if config is None and "GATEWAY_STORE__URL" not in os.environ:
        _create_private(store_path(settings).parent)
    return settings


@contextmanager
def opened_store(settings: Settings) -> Iterator[SqliteStore]:
    """The store for one command; what it refuses ends the command with its reason."""
    from gateway.store import StoreError, open_store

    try:
        with open_store(settings) as store:
            yield store
    except StoreError as error:
        raise click.ClickException(printable(str(error))) from error


def print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A framed table on a terminal, aligned columns anywhere else."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_framed(headers, cells)
        return
    lines = [[header.upper() for header in headers], *cells]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """One thing: a name and a value on each line."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        click.echo(f"{name.ljust(width)}  {printable(value)}".rstrip())


def printable(text: str) -> str:
    """Callers choose method and model names: what a terminal would obey is shown as an escape instead."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def moment_text(at: float, settings: Settings) -> str:
    """ISO 8601 in the operator's time zone, to the second."""
    from zoneinfo import ZoneInfo

    return datetime.fromtimestamp(at, ZoneInfo(settings.defaults.timezone)).isoformat(timespec="seconds")


def day_or_moment(text: str) -> date | datetime:
    """Reads ISO 8601: a date, or a date with a time, with or without a zone. ValueError for anything else."""
    try:
        return date.fromisoformat(text) if len(text) <= 10 else datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither a date (2026-12-31) nor a date with a time") from error


def seconds_of(day: date | datetime, settings: Settings, time_of_day: time) -> float:
    """Seconds since the epoch: of a moment, or of that time of a day. Without a zone it is the operator's clock."""
    from zoneinfo import ZoneInfo

    moment = day if isinstance(day, datetime) else datetime.combine(day, time_of_day)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(settings.defaults.timezone))
    return moment.timestamp()


def _width(text: str) -> int:
    """In columns: a Chinese character takes two."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def _print_framed(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets are not markup
    Console().print(table)


def _create_private(directory: Path) -> None:
    """Creates a directory and its missing parents for this user alone, as the XDG specification asks."""
    from gateway.errors import ConfigurationError

    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{directory}: the data directory cannot be created: {error.strerror}") from error
