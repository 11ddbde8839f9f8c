"""The command `gateway`. Reads what the operator typed and calls what does the work; imports it only then."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway import __version__
from gateway.cli_accounts import accounts
from gateway.cli_cache import cache
from gateway.cli_calls import calls
from gateway.cli_money import audit, price
from gateway.cli_shared import (
    config_option,
    json_option,
    print_json,
    print_table,
    read_settings,
)
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from gateway.config import Settings


class ConfigurationFailed(click.ClickException):
    """A line for each fault on standard error, and status 2."""

    exit_code = 2

    def format_message(self) -> str:
        return self.message.replace("\n", "\nError: ")  # click writes it before the first line only


class _Gateway(click.Group):
    def invoke(self, ctx: click.Context) -> Any:  # Any: as click has it
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            raise ConfigurationFailed(str(error)) from error


_plugins_dir_option = click.option(
    "--plugins-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A directory of plugin files, loaded beside the installed plugins.",
)


@click.group(cls=_Gateway, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """A streaming gateway between clients and any OpenAI-compatible upstream."""


main.add_command(accounts)
main.add_command(audit)
main.add_command(cache)
main.add_command(calls)
accounts.add_command(price)


@main.command()
@config_option
@click.option("--host", metavar="H", help="The address to listen at.")
@click.option("--port", metavar="P", type=click.IntRange(0, 65535), help="The port; 0 is any free one.")
@_plugins_dir_option
@click.pass_context
def serve(
    context: click.Context, config: Path | None, host: str | None, port: int | None, plugins_dir: Path | None
) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from msgspec.structs import replace

    settings = _with_plugins_dir(read_settings(config), plugins_dir)
    listening = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = replace(settings, server=replace(settings.server, **listening))

    from gateway.app import run

    on_config = () if config is None else ("--config", str(config))
    add_account = shlex.join([sys.executable, "-m", "gateway", "accounts", "add", "NAME", *on_config])
    context.exit(run(settings, add_account))


@main.command()
@click.option("--host", metavar="H", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", metavar="P", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The port.")
@click.pass_context
def demo(context: click.Context, host: str, port: int) -> None:
    """Serve an embedded upstream with the account demo / demo-secret: no key, no network, nothing kept."""
    from gateway.demo import run

    context.exit(run(host, port))


@main.command()
@_plugins_dir_option
@config_option
@json_option
def plugins(plugins_dir: Path | None, config: Path | None, as_json: bool) -> None:
    """List the plugins, where each comes from and which of them serve."""
    from gateway.config import load_settings
    from gateway.plugin_loading import load_plugins

    settings = load_settings(config, os.environ)  # not read_settings(): there is no store to make a directory for
    rows = load_plugins(_with_plugins_dir(settings, plugins_dir).plugins).rows
    columns = ("plugin", "source", "kind", "name", "status")
    if as_json:
        print_json([{column: getattr(row, column) for column in columns} for row in rows])
    else:
        print_table(columns, [[getattr(row, column) for column in columns] for row in rows])


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check a configuration: says all that is wrong with FILE, or that nothing is. Status 2 for a fault."""
    from gateway.config import examine_settings
    from gateway.plugin_loading import load_plugins

    settings, faults = examine_settings(file, os.environ)
    lines = [line for each in faults.values() for line in each]
    if not any(key.startswith("plugins") for key in faults):  # or it is not known which plugins are meant
        try:
            plugins = load_plugins(settings.plugins)
        except ConfigurationError as error:
            lines += [f"{file}: {line}" for line in str(error).splitlines()]
        else:
            enforced = settings.translation.enforce_default
            if enforced and settings.defaults.lang not in plugins.translators:
                lines.append(
                    f"{file}: translation.enforce_default: no translator for {settings.defaults.lang!r} is loaded"
                )
    if lines:
        raise ConfigurationError("\n".join(lines))
    click.echo(f"{file}: no faults found")


def _with_plugins_dir(settings: Settings, directory: Path | None) -> Settings:
    from msgspec.structs import replace

    if directory is None:
        return settings
    return replace(settings, plugins=replace(settings.plugins, directory=str(directory.absolute())))
