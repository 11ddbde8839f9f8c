from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import get_args
from zoneinfo import ZoneInfo

import apsw
import pytest

from gateway.cli_calls import PAGE_CALLS, SETTLED
from gateway.config import Settings, StoreSettings
from gateway.ids import CallIds, least_id_at, microseconds_of
from gateway.store import SqliteStore, open_store
from gateway.types import Account, Settled
from tests.ledger_rows import insert_call, opened
from tests.test_cli import Terminal

SHANGHAI = ZoneInfo("Asia/Shanghai")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """With the accounts 1 and 2."""
    with open_store(Settings(store=StoreSettings(url=f"sqlite:///{tmp_path}/gateway.db"))) as store:
        for name in ("acme", "other"):
            store.accounts.add(Account(id=0, name=name, key=name, secret_digest=bytes(32)))
        yield store


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """With the account acme."""
    terminal = Terminal(tmp_path)
    terminal.ok("accounts", "add", "acme")
    return terminal


def log_at(path: Path, *moments: datetime) -> list[int]:
    """A call at each moment, its id as a server would give it then."""
    spans = [round(moment.timestamp() * 1e6) for moment in moments]
    connection = opened(path)
    return [insert_call(connection, 1, id=least_id_at(us) + 1, started_us=us) for us in spans]


class TestReading:
    """The reading side of the call log."""

    def test_a_call_comes_back_with_its_money(self, store: SqliteStore) -> None:
        """Charge, shortfall and how they came about."""
        with opened(store.path) as connection:
            insert_call(connection, 1, charge_micros=5, shortfall_micros=2, settled="estimated", prompt_tokens=9)
        (record,) = store.calls()
        assert (record.charge_micros, record.shortfall_micros, record.settled) == (5, 2, "estimated")
        assert (record.prompt_tokens, record.completion_tokens) == (9, None)

    def test_conditions_are_met_together(self, store: SqliteStore) -> None:
        """Each narrows what the others leave; None is no condition."""
        with opened(store.path) as connection:
            wanted = insert_call(connection, 1, settled="exact", method="v1/responses", model="o3")
            insert_call(connection, 2, settled="exact", method="v1/responses", model="o3")
            insert_call(connection, 1, settled="free", method="v1/responses", model="o3")
            insert_call(connection, 1, settled="exact", method="v1/models", model="o3")
            insert_call(connection, 1, settled="exact", method="v1/responses", model=None)
            insert_call(connection, 1, settled="exact", method="v1/responses", model="o3", outcome="2000")
        found = store.calls(
            account_id=1, outcome="0000", settled="exact", method="v1/resp*", model="o?", since_s=None, before_id=None
        )
        assert [record.id for record in found] == [wanted]

    @pytest.mark.parametrize(
        ("glob", "models"),
        [
            ("gpt-4o*", ["gpt-4o\nmini", "gpt-4o"]),
            ("gpt-4[!o]", ["gpt-41"]),
            ("GPT*", []),
            ("[", ["["]),
            ("*", ["[", "向日葵", "gpt-41", "gpt-4o\nmini", "gpt-4o"]),
            ("向*", ["向日葵"]),
        ],
    )
    def test_globs_are_those_of_the_configuration(self, store: SqliteStore, glob: str, models: list[str]) -> None:
        """Case counts, brackets are Python's, and a call without a model matches none."""
        with opened(store.path) as connection:
            for model in ("gpt-4o", "gpt-4o\nmini", "gpt-41", "向日葵", "[", None):
                insert_call(connection, 1, model=model)
        assert [record.model for record in store.calls(model=glob)] == models

    def test_a_span_of_time_includes_both_its_ends(self, store: SqliteStore) -> None:
        """To the microsecond."""
        moments = [datetime(2026, 11, 23, 8, 50, 6, us, SHANGHAI) for us in (0, 1, 2, 3)]
        ids = log_at(store.path, *moments)
        found = store.calls(since_s=moments[1].timestamp(), until_s=moments[2].timestamp())
        assert [record.id for record in found] == [ids[2], ids[1]]

    def test_a_call_is_found_by_its_start_though_its_id_ran_ahead_of_the_clock(self, store: SqliteStore) -> None:
        """As ids do while a clock that was set back catches up."""
        start = datetime(2026, 11, 23, 8, tzinfo=SHANGHAI).timestamp()
        started_us = round(start * 1e6)
        with opened(store.path) as connection:
            call_id = insert_call(connection, 1, id=least_id_at(started_us + 3_600_000_000), started_us=started_us)
        assert [record.id for record in store.calls(since_s=start - 1, until_s=start + 1)] == [call_id]
        assert store.calls(since_s=start + 1) == []

    def test_a_span_of_time_is_a_range_of_the_table(self, store: SqliteStore) -> None:
        """And no scan of all of it."""
        plan = []

        def explain(_cursor: apsw.Cursor, sql: str, bindings: apsw.Bindings | None) -> bool:
            plan.extend(opened(store.path).execute(f"EXPLAIN QUERY PLAN {sql}", bindings).fetchall())
            return True

        store._connection.exec_trace = explain
        store.calls(since_s=1_790_000_000, until_s=1_790_000_001)
        store._connection.exec_trace = None
        assert "USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in str(plan)


def test_the_least_id_of_a_microsecond_is_one_that_its_calls_reach() -> None:
    """Moments before the first id and after the last have the nearest."""
    us = 1_790_000_000_000_000
    _, call_id = CallIds(0, clock_ns=lambda: us * 1000).next()
    assert least_id_at(us) == call_id
    assert microseconds_of(least_id_at(us)) == us
    assert least_id_at(0) == 0
    assert 0 < least_id_at(10**18) < 2**63


class TestCommand:
    """`gateway calls`."""

    def test_the_kinds_of_settlement_are_those_of_a_record(self) -> None:
        """The command's help must not load them."""
        assert get_args(Settled) == SETTLED

    def test_a_table_shows_tokens_and_charge(self, terminal: Terminal) -> None:
        """Amounts as decimal strings."""
        with opened(terminal.database) as connection:
            insert_call(
                connection, 1, charge_micros=31_200, settled="exact",
                prompt_tokens=12, cached_tokens=4, completion_tokens=31, request_id="1.a",
            )  # fmt: skip
        header, row = terminal.ok("calls").out.splitlines()
        assert header.split()[-7:] == ["PROMPT", "CACHED", "COMPLETION", "CHARGE", "SETTLED", "REQUEST", "ID"]
        assert row.split()[-6:] == ["12", "4", "31", "0.0312", "exact", "1.a"]

    def test_filters_take_days_moments_and_globs(self, terminal: Terminal) -> None:
        """A day is whole, by the operator's clock; a moment may name its own zone."""
        hours = ((22, 23), (23, 0), (23, 23), (24, 0))
        moments = [datetime(2026, 11, day, hour, tzinfo=SHANGHAI) for day, hour in hours]
        ids = [str(call_id) for call_id in log_at(terminal.database, *moments)]

        def listed(*options: str) -> list[str]:
            return [call["last_id"] for call in reversed(terminal.ok("calls", "--json", *options).json)]

        assert listed("--since", "2026-11-23", "--until", "2026-11-23") == ids[1:3]
        assert listed("--since", "2026-11-22T15:30+00:00") == ids[1:]
        assert listed("--until", "2026-11-22T23:00:00") == ids[:1]
        assert listed("--since", "0001-01-01", "--until", "9999-12-31") == ids
        assert listed("--method", "v1/chat/*", "--model", "gpt*", "--settled", "free", "--limit", "1") == ids[3:]
        assert listed("--settled", "unknown") == []

    @pytest.mark.parametrize(
        "option",
        [
            ("--since", "yesterday"), ("--until", "2026-13-01"), ("--settled", "maybe"),
            ("--limit", "0"), ("--csv", "--json"),
        ],
    )  # fmt: skip
    def test_values_that_cannot_be_are_refused_with_their_option(
        self, terminal: Terminal, option: tuple[str, str]
    ) -> None:
        """Status 2."""
        done = terminal.run("calls", *option)
        assert done.status == 2
        assert option[0] in done.err

    def test_csv_has_every_field_of_the_json(self, terminal: Terminal) -> None:
        """In lines that end as RFC 4180 says, with quotes where a text needs them."""
        with opened(terminal.database) as connection:
            insert_call(connection, 1, model='a "b",\r\nc', charge_micros=5, cut=1)
            insert_call(connection, 1, model=None, first_byte_us=None)
        command = [sys.executable, "-m", "gateway", "calls", "--csv"]
        said = subprocess.run(command, env=terminal.environment(), capture_output=True, check=True).stdout.decode()
        assert said.count("\r\n") == 3 + 1, "one is the caller's"
        assert said.replace("\r\n", "").count("\n") == 0
        header, *rows = csv.reader(io.StringIO(said, newline=""))
        calls = terminal.ok("calls", "--json").json
        assert header == list(calls[0])
        spelt = {True: "true", False: "false", None: ""}
        assert rows == [
            [spelt[v] if v is None or isinstance(v, bool) else str(v) for v in call.values()] for call in calls
        ]

    def test_csv_without_calls_is_its_header(self, terminal: Terminal) -> None:
        """So that a program finds its columns."""
        assert terminal.ok("calls", "--csv").out.startswith("last_id,request_id,started,")
        assert len(terminal.ok("calls", "--csv").out.splitlines()) == 1

    def test_more_than_a_page_is_printed_in_order_and_without_a_gap(self, terminal: Terminal) -> None:
        """Each page begins where the one before it ended."""
        with opened(terminal.database) as connection:
            ids = [str(insert_call(connection, 1)) for _ in range(2 * PAGE_CALLS + 5)]
        said = terminal.ok("calls", "--csv", "--limit", str(2 * PAGE_CALLS + 3)).out.splitlines()
        assert [line.partition(",")[0] for line in said[1:]] == ids[:1:-1]
