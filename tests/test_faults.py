"""The injected faults reach what they are meant for: SQLite as apsw carries it, Python's clocks; and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Faults, faults

PROGRAM = """
import json, sys, time
import apsw
(directory,) = sys.argv[1:]

def outcome(action):
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "done"

def plain():
    with open(directory + "/plain", "w") as file:
        file.write("a")

connection = apsw.Connection(directory + "/a.db")
connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (a)").fetchall()
print("ready", flush=True)
sys.stdin.readline()
facts = {
    "insert": outcome(lambda: connection.execute("INSERT INTO t VALUES (1)")),
    "checkpoint": outcome(lambda: connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)),
    "plain": outcome(plain),
    "time": time.time(),
    "time_ns": time.time_ns() / 1e9,
    "sqlite": int(connection.execute("SELECT strftime('%s', 'now')").get),
    "monotonic": time.monotonic(),
}
try:
    import uvloop
except ImportError:
    facts["loop"] = time.monotonic()
else:
    facts["loop"] = uvloop.new_event_loop().time()
print(json.dumps(facts))
"""


@pytest.fixture
def fault() -> Iterator[Faults]:
    with faults() as switches:
        yield switches


def facts(directory: Path, fault: Faults, **switched: int) -> dict[str, Any]:
    """What a process finds after the faults are switched on in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory)],
        env={**os.environ, **fault.environ}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for name, value in switched.items():
        setattr(fault, name, value)
    out, _ = process.communicate("\n", timeout=20)
    found: dict[str, Any] = json.loads(out)
    return found


def test_without_a_fault_everything_works(tmp_path: Path, fault: Faults) -> None:
    found = facts(tmp_path, fault)
    assert (found["insert"], found["checkpoint"], found["plain"]) == ("done", "done", "done")
    assert abs(found["time"] - time.time()) < 5
    assert fault.struck == {"syncs_failed": 0, "writes_refused": 0, "clocks_shifted": 0}


def test_failing_syncs_reach_sqlite(tmp_path: Path, fault: Faults) -> None:
    found = facts(tmp_path, fault, sync_fails=True)
    assert (found["insert"], found["plain"]) == ("IOError", "done")
    assert fault.struck["syncs_failed"] > 0


def test_a_full_disk_reaches_sqlite_and_no_other_file(tmp_path: Path, fault: Faults) -> None:
    found = facts(tmp_path, fault, disk_full=True)
    assert (found["insert"], found["plain"]) == ("FullError", "done")
    assert fault.struck["writes_refused"] > 0


def test_a_shifted_clock_is_the_wall_clock_alone(tmp_path: Path, fault: Faults) -> None:
    found = facts(tmp_path, fault, shift_s=-3600)
    for clock in ("time", "time_ns", "sqlite"):
        assert abs(time.time() - 3600 - found[clock]) < 5, clock
    for clock in ("monotonic", "loop"):
        assert abs(time.monotonic() - found[clock]) < 5, clock
