from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.config import Settings, StoreSettings
from gateway.ids import CallIds
from gateway.store import open_store
from gateway.types import CallRecord

PROJECT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Done:
    """What a command said and how it ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # Any: whatever the command printed
        return json.loads(self.out)


@dataclass(frozen=True)
class Terminal:
    """A user without a configuration, in a home of their own."""

    home: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    def run(self, *words: str, **environ: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *words],
            env=self.environment(**environ),
            cwd=self.home,
            capture_output=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, **environ: str) -> Done:
        done = self.run(*words, **environ)
        assert done.status == 0, done.err
        return done

    def environment(self, **environ: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        return {
            **kept,
            "PYTHONPATH": str(PROJECT),
            "PYTHONUTF8": "1",
            "HOME": str(self.home),
            **self.environ,
            **environ,
        }

    @property
    def database(self) -> Path:
        return self.home / ".local" / "share" / "gateway" / "gateway.db"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


def log_calls(database: Path, account_id: int, *outcomes: str, method: str = "v1/models") -> list[CallRecord]:
    ids = CallIds(1)
    records = []
    with open_store(Settings(store=StoreSettings(url=f"sqlite:///{database}"))) as store:
        for outcome in outcomes:
            request_id, last_id = ids.next()
            record = CallRecord(
                id=last_id,
                request_id=request_id,
                account_id=account_id,
                front="custom",
                method=method,
                model=None,
                outcome=outcome,
                status=200,
                streamed=False,
                cut=False,
                started_at=time.time(),
                duration_s=0.5,
                first_byte_s=None,
                sent_bytes=10,
            )
            records.append(record)
            store.append(record)
    return records


class TestStarting:
    """The command itself, and what it works on."""

    def test_help_names_every_command_and_loads_no_database(self, terminal: Terminal) -> None:
        """What a first look shows must come at once."""
        done = terminal.ok("--help", PYTHONPROFILEIMPORTTIME="1")
        for command in ("accounts", "audit", "calls", "check", "demo", "plugins", "serve"):
            assert re.search(rf"^  {command} ", done.out, re.MULTILINE)
        for heavy in ("apsw", "aiohttp", "msgspec", "rich", "pluggy"):
            assert not re.search(rf"\| +{heavy}$", done.err, re.MULTILINE)

    def test_without_a_configuration_the_store_is_in_the_users_data_directory(self, terminal: Terminal) -> None:
        """Created for the user alone."""
        terminal.ok("accounts", "add", "acme")
        assert terminal.database.exists()
        for directory in (terminal.home / ".local", terminal.database.parent):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    def test_the_data_directory_follows_xdg(self, terminal: Terminal) -> None:
        """Where the variable is set."""
        terminal.ok("accounts", "add", "acme", XDG_DATA_HOME=str(terminal.home / "data"))
        assert (terminal.home / "data" / "gateway" / "gateway.db").exists()

    def test_a_configuration_is_named_by_option_or_environment(self, terminal: Terminal) -> None:
        """Its relative database lies beside it, wherever the command is run."""
        conf = terminal.home / "conf"
        conf.mkdir()
        (conf / "gateway.toml").write_text('[store]\nurl = "sqlite:///own.db"\n')
        terminal.ok("accounts", "add", "acme", "--config", "conf/gateway.toml")
        assert (conf / "own.db").exists()
        listed = terminal.ok("accounts", "list", "--json", GATEWAY_CONFIG=str(conf / "gateway.toml"))
        assert [account["name"] for account in listed.json] == ["acme"]

    @pytest.mark.parametrize("command", [["accounts", "list"], ["audit"], ["calls"], ["serve"], ["plugins"]])
    def test_a_faulty_configuration_is_one_line_and_status_2(self, terminal: Terminal, command: list[str]) -> None:
        """It names the file and the key."""
        (terminal.home / "gateway.toml").write_text("[server]\nprot = 1\n")
        done = terminal.run(*command, "--config", "gateway.toml")
        assert done.status == 2
        assert done.err.count("\n") == 1
        assert "gateway.toml" in done.err
        assert "prot" in done.err

    def test_a_damaged_database_is_one_line_and_status_2(self, terminal: Terminal) -> None:
        """It names the file."""
        terminal.ok("accounts", "add", "acme")
        terminal.database.write_bytes(b"not a database at all")
        done = terminal.run("accounts", "list")
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert str(terminal.database) in done.err

    def test_check_says_what_is_wrong_or_that_nothing_is(self, terminal: Terminal) -> None:
        """Without touching any store."""
        file = terminal.home / "gateway.toml"
        file.write_text('[store]\nurl = "sqlite:///own.db"\n')
        assert "no faults" in terminal.ok("check", "gateway.toml").out
        file.write_text("[server]\nport = 70000\n")
        done = terminal.run("check", "gateway.toml")
        assert done.status == 2
        assert "port" in done.err
        file.write_text('[plugins.formatters]\nxml = "no_such_plugin"\n')
        assert terminal.run("check", "gateway.toml").status == 2
        assert not (terminal.home / "own.db").exists()

    def test_check_lists_every_fault_in_one_run(self, terminal: Terminal) -> None:
        """Those of the plugins among them; picks say nothing while it is not known which plugins there are."""
        file = terminal.home / "gateway.toml"
        plugins = '[plugins]\noff = ["jsno"]\nformatters = {xml = "nobody"}\n'
        file.write_text(f"[server]\nport = 70000\nprot = 1\n{plugins}")
        done = terminal.run("check", "gateway.toml")
        assert done.status == 2
        starts = [re.match(r"Error: gateway\.toml: ([a-z.]+): ", line) for line in done.err.splitlines()]
        assert [start and start[1] for start in starts] == [
            "server.port", "server.prot", "plugins.off", "plugins.formatters.xml",
        ]  # fmt: skip
        file.write_text(f"{plugins}directory = 1\n")
        (line,) = terminal.run("check", "gateway.toml").err.splitlines()
        assert "plugins.directory: expected a text" in line

    def test_plugins_are_listed_with_their_source(self, terminal: Terminal) -> None:
        """The installed ones, and those of a directory."""
        (terminal.home / "own").mkdir()
        (terminal.home / "own" / "loud.py").write_text(
            "from gateway.hookspecs import FormatterSpec, hookimpl\n"
            "@hookimpl\n"
            "def gateway_formatters():\n"
            "    return [FormatterSpec('loud', 'text/plain', lambda document: document.text.upper())]\n"
        )
        rows = terminal.ok("plugins", "--plugins-dir", "own", "--json").json
        by_name = {row["name"]: row for row in rows if row["status"] == "active"}
        assert by_name["loud"]["source"].endswith("loud.py")
        assert by_name["json"]["kind"] == "formatter"
        assert "loud" in terminal.ok("plugins", "--plugins-dir", "own").out
        assert not (terminal.home / ".local").exists(), "there was no store to make a directory for"

    def test_serve_needs_an_upstream(self, terminal: Terminal) -> None:
        """Before it binds a port."""
        done = terminal.run("serve", "--port", "0")
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert "OPENAI_API_KEY" in done.err


class TestAccounts:
    """`gateway accounts …`."""

    def test_a_new_accounts_secret_is_shown_once(self, terminal: Terminal) -> None:
        """No other command prints it, and no file holds it."""
        added = terminal.ok("accounts", "add", "acme", "--json").json
        assert re.fullmatch(r"gk_\w{32}", added["key"])
        assert re.fullmatch(r"gs_\w{52}", added["secret"])
        said = terminal.ok("accounts", "show", "acme").out + terminal.ok("accounts", "list", "--json").out
        assert added["key"] in said
        assert added["secret"] not in said
        for file in terminal.database.parent.iterdir():
            assert added["secret"].encode() not in file.read_bytes()

    def test_a_pipe_gets_plain_lines(self, terminal: Terminal) -> None:
        """Key and secret can be cut out of them."""
        lines = terminal.ok("accounts", "add", "acme", "--key", "k1", "--secret", "s1").out.splitlines()
        assert [line.split() for line in lines] == [["name", "acme"], ["key", "k1"], ["secret", "s1"]]

    def test_a_list_in_a_pipe_is_aligned_also_with_wide_characters(self, terminal: Terminal) -> None:
        """A Chinese character takes two columns."""
        terminal.ok("accounts", "add", "acme", "--key", "k1")
        terminal.ok("accounts", "add", "向日葵", "--key", "k2")
        assert terminal.ok("accounts", "list").out.splitlines() == [
            "NAME    KEY  STATE   BALANCE  CALLS TODAY  CALLS TOTAL",
            "acme    k1   active  0        0            0",
            "向日葵  k2   active  0        0            0",
        ]

    def test_every_limit_is_stored_and_shown(self, terminal: Terminal) -> None:
        """As it was given."""
        terminal.ok(
            "accounts", "add", "acme", "--key", "demo", "--balance", "12.50",
            "--concurrency", "3", "--per-minute", "60", "--per-day", "1000", "--total", "30000",
            "--methods", "v1/chat/*, images/submit", "--stopped-methods", "v1/files*",
            "--expires", "2099-10-11", "--allow-from", "10.0.0.0/8,2001:db8::1",
        )  # fmt: skip
        shown = terminal.ok("accounts", "show", "acme", "--json").json
        assert shown.pop("created").endswith("+08:00")
        assert shown == {
            "id": 1,
            "name": "acme",
            "key": "demo",
            "state": "active",
            "balance": "12.5",
            "held": "0",
            "available": "12.5",
            "price_list": None,
            "calls_today": 0,
            "calls_total": 0,
            "calls_succeeded": 0,
            "calls_empty": 0,
            "calls_failed": 0,
            "concurrency": 3,
            "per_minute": 60,
            "tokens_per_minute": None,
            "per_day": 1000,
            "total": 30000,
            "methods": ["v1/chat/*", "images/submit"],
            "stopped_methods": ["v1/files*"],
            "allow_from": ["10.0.0.0/8", "2001:db8::1/128"],
            "lang_prompt": False,
            "cache": None,
            "expires": "2099-10-11T23:59:59+08:00",
        }

    def test_set_changes_what_it_names_and_nothing_else(self, terminal: Terminal) -> None:
        """`none`, `never` and an empty list take a limit away."""
        terminal.ok(
            "accounts", "add", "acme", "--per-day", "5", "--total", "6", "--methods", "v1/*", "--expires", "2099-01-01"
        )
        before = terminal.ok("accounts", "show", "acme", "--json").json
        changed = terminal.ok(
            "accounts", "set", "acme", "--json",
            "--per-day", "none", "--expires", "never", "--methods", "", "--per-minute", "9",
        ).json  # fmt: skip
        assert changed == {**before, "per_day": None, "expires": None, "methods": [], "per_minute": 9}
        assert terminal.run("accounts", "set", "acme").status == 2

    @pytest.mark.parametrize(
        "option",
        [
            ("--key", "a:b"),
            ("--secret", "a:b"),
            ("--secret", "два"),
            ("--balance", "-1"),
            ("--balance", "0.0000001"),
            ("--balance", "1e3"),
            ("--concurrency", "-1"),
            ("--per-day", "many"),
            ("--expires", "tomorrow"),
            ("--expires", "2026-13-01"),
            ("--allow-from", "10.0.0.1/8"),
            ("--allow-from", "example.com"),
        ],
    )
    def test_values_that_cannot_be_are_refused_with_their_option(
        self, terminal: Terminal, option: tuple[str, str]
    ) -> None:
        """Status 2, and no account."""
        done = terminal.run("accounts", "add", "acme", *option)
        assert done.status == 2
        assert option[0] in done.err
        assert not terminal.database.exists()

    @pytest.mark.parametrize("name", ["", " acme", "a\nb", "x" * 101])
    def test_a_name_is_a_line_of_text(self, terminal: Terminal, name: str) -> None:
        """It stands in tables and logs."""
        assert terminal.run("accounts", "add", name).status == 2

    def test_an_expired_account_says_so(self, terminal: Terminal) -> None:
        """A day is over at the operator's midnight; a moment may name its own zone."""
        terminal.ok("accounts", "add", "old", "--expires", "2020-01-01")
        terminal.ok("accounts", "add", "zoned", "--expires", "2020-01-01T00:00:00+00:00")
        listed = terminal.ok("accounts", "list", "--json").json
        assert [(account["state"], account["expires"]) for account in listed] == [
            ("expired", "2020-01-01T23:59:59+08:00"),
            ("expired", "2020-01-01T08:00:00+08:00"),
        ]

    def test_stop_and_start_turn_an_account_off_and_on(self, terminal: Terminal) -> None:
        """Its state says which."""
        terminal.ok("accounts", "add", "acme")
        assert terminal.ok("accounts", "stop", "acme", "--json").json["state"] == "stopped"
        assert terminal.ok("accounts", "start", "acme", "--json").json["state"] == "active"

    def test_rotate_replaces_the_secret_and_keeps_the_key(self, terminal: Terminal) -> None:
        """The hash in the store is the new one's."""
        added = terminal.ok("accounts", "add", "acme", "--json").json
        rotated = terminal.ok("accounts", "rotate", "acme", "--json").json
        assert rotated["key"] == added["key"]
        assert rotated["secret"] != added["secret"]
        with open_store(Settings(store=StoreSettings(url=f"sqlite:///{terminal.database}"))) as store:
            assert store.accounts.by_name("acme").secret_digest == store.pepper.digest(rotated["secret"])

    def test_topup_adds_to_the_balance_exactly(self, terminal: Terminal) -> None:
        """Ten times a tenth is one."""
        terminal.ok("accounts", "add", "acme", "--balance", "0.000001")
        for _ in range(3):
            done = terminal.ok("accounts", "topup", "acme", "0.1", "--json")
        assert done.json["balance"] == "0.300001"
        assert terminal.run("accounts", "topup", "acme", "nan").status == 2

    def test_a_deleted_account_is_gone_and_its_name_free(self, terminal: Terminal) -> None:
        """Without a terminal nobody is asked."""
        terminal.ok("accounts", "add", "acme", "--key", "k1")
        assert terminal.ok("accounts", "delete", "acme", "--json").json == {"name": "acme", "deleted": True}
        assert terminal.ok("accounts", "list", "--json").json == []
        terminal.ok("accounts", "add", "acme", "--key", "k1")

    @pytest.mark.parametrize(
        "command", [["show"], ["stop"], ["start"], ["rotate"], ["delete"], ["set", "--total", "1"], ["topup", "1"]]
    )
    def test_an_unknown_account_is_said_with_status_1(self, terminal: Terminal, command: list[str]) -> None:
        """By name."""
        verb, *rest = command
        words = ["topup", "nobody", *rest] if verb == "topup" else [verb, "nobody", *rest]
        done = terminal.run("accounts", *words)
        assert (done.status, done.err) == (1, "Error: no account is named 'nobody'\n")

    def test_a_name_or_key_is_given_once(self, terminal: Terminal) -> None:
        """A second one is refused with status 1."""
        terminal.ok("accounts", "add", "acme", "--key", "k1")
        assert terminal.run("accounts", "add", "acme").status == 1
        assert terminal.run("accounts", "add", "other", "--key", "k1").status == 1

    def test_counts_are_those_of_the_call_log(self, terminal: Terminal) -> None:
        """Refused calls are in none of them."""
        terminal.ok("accounts", "add", "acme")
        log_calls(terminal.database, 1, "0000", "0000", "2000", "4001", "4003")
        shown = terminal.ok("accounts", "show", "acme", "--json").json
        assert {name: shown[name] for name in shown if name.startswith("calls_")} == {
            "calls_today": 4,
            "calls_total": 4,
            "calls_succeeded": 2,
            "calls_empty": 1,
            "calls_failed": 1,
        }


class TestCalls:
    """`gateway calls`."""

    def test_the_newest_call_comes_first(self, terminal: Terminal) -> None:
        """Filtered by account and outcome, and cut at the limit."""
        terminal.ok("accounts", "add", "acme")
        terminal.ok("accounts", "add", "other")
        mine = log_calls(terminal.database, 1, "0000", "4001", "0000")
        theirs = log_calls(terminal.database, 2, "0000")
        expected = [str(record.id) for record in (*theirs, *mine[::-1])]
        assert [call["last_id"] for call in terminal.ok("calls", "--json").json] == expected
        assert [call["last_id"] for call in terminal.ok("calls", "--json", "--limit", "2").json] == expected[:2]
        assert [call["last_id"] for call in terminal.ok("calls", "--account", "acme", "--json").json] == expected[1:]
        (failed,) = terminal.ok("calls", "--outcome", "4001", "--json").json
        assert (failed["account"], failed["outcome"], failed["duration_s"]) == ("acme", "4001", 0.5)
        assert terminal.run("calls", "--account", "nobody").status == 1
        assert terminal.run("calls", "--outcome", "1234").status == 2

    def test_a_table_shows_what_a_terminal_would_obey_as_text(self, terminal: Terminal) -> None:
        """Callers choose the method's name."""
        terminal.ok("accounts", "add", "acme")
        log_calls(terminal.database, 1, "0000", method="v1/\x1b[2Jx\n向")
        done = terminal.ok("calls")
        assert r"v1/\x1b[2Jx\n向" in done.out
        assert len(done.out.splitlines()) == 2
        assert terminal.ok("calls", "--json").json[0]["method"] == "v1/\x1b[2Jx\n向"

    def test_on_a_terminal_a_table_has_a_frame(self, terminal: Terminal) -> None:
        """Brackets in a name are not markup."""
        terminal.ok("accounts", "add", "[bold]acme")
        ours, theirs = pty.openpty()
        environ = terminal.environment(COLUMNS="120", TERM="dumb")
        subprocess.run(
            [sys.executable, "-m", "gateway", "accounts", "list"], env=environ, stdout=theirs, timeout=60, check=True
        )
        os.close(theirs)
        shown = os.read(ours, 65_536).decode()
        os.close(ours)
        assert "┃" in shown
        assert "[bold]acme" in shown


def test_a_running_servers_store_can_be_changed_beside_it(terminal: Terminal) -> None:
    """Another connection holds the database open all the while."""
    terminal.ok("accounts", "add", "acme")
    settings = Settings(store=replace(StoreSettings(), url=f"sqlite:///{terminal.database}"))
    with open_store(settings) as store:
        before = store.accounts_since(0).revision
        terminal.ok("accounts", "stop", "acme")
        (changed,) = store.accounts_since(before).changed
        assert changed.stopped
