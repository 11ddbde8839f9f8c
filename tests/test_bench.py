"""The load programs count what passes between them, and the report tells medians, ratios and differences of it."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench import plot, report
from bench.__main__ import DOCUMENT, README, run
from bench.documents import TABLE_ENDS, TABLE_STARTS, readme_table, replace_table
from bench.measuring import Machine, measure
from bench.peers import Peer, native, peers
from bench.profile import section
from bench.requests import native_request
from bench.scenarios import SCENARIOS, Scenario, silent_stream
from bench.stacks import Sample, divide, perf_samples, python_functions, spy_samples
from bench.tools import BenchError, Observation, Quantiles, answers_begun, build, free_port, observe, server

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc)")
CORE = min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("load")
    build(directory)
    return directory


@pytest.fixture
def upstream_port(programs: Path, tmp_path: Path) -> Iterator[int]:
    port = free_port()
    with server([str(programs / "upstream"), str(port)], port, CORE, log=tmp_path / "log"):
        yield port


def written(directory: Path, scenario: Scenario) -> list[Path]:
    paths = []
    for number, arguments in enumerate(scenario.arguments()):
        paths.append(directory / f"request-{number}")
        paths[-1].write_bytes(native_request(arguments))
    return paths


def load(
    programs: Path,
    directory: Path,
    port: int,
    wish: str,
    chunks: int,
    *,
    expected: int | None = None,
    options: Mapping[str, float | str] | None = None,
) -> Observation:
    """A tenth of a second of load by four connections."""
    scenario = Scenario("test", "test", wish, 4, (), (), chunks=chunks, warm_up_s=0, window_s=0.1)
    requests = written(directory, scenario)
    asked = {**scenario.client_options(), "chunks": chunks if expected is None else expected, **(options or {})}
    return observe(programs / "client", CORE, port, requests, [os.getpid()], asked)


@contextmanager
def answering(answer: Callable[[int, bytes], bytes]) -> Iterator[int]:
    """A server in this process: `answer` makes an answer of a connection's number and a request's body."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=_serve, args=(listener, answer, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def _serve(listener: socket.socket, answer: Callable[[int, bytes], bytes], number: int) -> None:
    """One connection, until its client goes."""
    with suppress(OSError):  # nobody came, or the client has seen enough
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            length = 0
            while line := stream.readline():
                if found := re.match(rb"Content-Length: ([0-9]+)", line):
                    length = int(found.group(1))
                if line == b"\r\n":
                    connection.sendall(answer(number, stream.read(length)))


EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@needs_cc
def test_each_answer_the_client_counts_was_begun_by_the_upstream(
    programs: Path, upstream_port: int, tmp_path: Path
) -> None:
    seen = load(programs, tmp_path, upstream_port, "bytes=1024", 0)
    assert seen.errors == 0
    assert 50 < seen.calls <= answers_begun(upstream_port)
    assert seen.latency_us is not None
    assert seen.latency_us.count == seen.calls
    assert seen.resident_kb > 0


@needs_cc
def test_streams_arrive_whole_and_in_order(programs: Path, upstream_port: int, tmp_path: Path) -> None:
    seen = load(programs, tmp_path, upstream_port, "chunks=20 every_us=0", 20)
    assert seen.errors == 0
    assert seen.calls > 0
    assert seen.chunks >= seen.calls * 19


@needs_cc
def test_paced_chunks_arrive_one_by_one(programs: Path, upstream_port: int, tmp_path: Path) -> None:
    seen = load(programs, tmp_path, upstream_port, "chunks=1000000 every_us=10000", 1000000)
    assert seen.errors == 0
    assert 0 < seen.reads_with_chunks == seen.chunks
    assert seen.delay_us is not None


@needs_cc
def test_a_stream_that_lacks_events_is_no_measurement(programs: Path, upstream_port: int, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="events missing"):
        load(programs, tmp_path, upstream_port, "chunks=8 every_us=0", 8, expected=9)


@needs_cc
def test_no_two_calls_of_a_load_have_the_same_bytes(programs: Path, tmp_path: Path) -> None:
    bodies: list[bytes] = []

    def keep(_: int, body: bytes) -> bytes:
        bodies.append(body)
        return EMPTY

    with answering(keep) as port:
        seen = load(programs, tmp_path, port, "bytes=1024", 0)
    assert seen.errors == 0
    assert len(bodies) >= seen.calls > 50
    assert len(set(bodies)) == len(bodies)
    assert len({len(body) for body in bodies}) == 8


@needs_cc
def test_streams_that_stand_open_beside_the_callers_are_not_counted(
    programs: Path, upstream_port: int, tmp_path: Path
) -> None:
    beside = tmp_path / "beside"
    beside.write_bytes(native_request(silent_stream()))
    options: dict[str, float | str] = {"beside": 20, "beside-request": str(beside)}
    seen = load(programs, tmp_path, upstream_port, "bytes=1024", 0, options=options)
    assert seen.errors == 0
    assert (seen.connections, seen.chunks) == (4, 0)
    assert answers_begun(upstream_port) >= seen.calls + 20


@needs_cc
def test_what_a_slow_server_answered_in_time_is_measured_where_that_will_do(programs: Path, tmp_path: Path) -> None:
    def answer_two(number: int, _: bytes) -> bytes:
        return EMPTY if number < 2 else b""

    with answering(answer_two) as port:
        seen = load(programs, tmp_path, port, "bytes=1024", 0, options={"opening": 0.1, "at-least": 1})
    assert seen.connections == 2
    assert seen.calls > 0
    with answering(answer_two) as port, pytest.raises(BenchError, match="not every connection"):
        load(programs, tmp_path, port, "bytes=1024", 0, options={"opening": 0.1})


@needs_cc
def test_paced_streams_lie_evenly_over_their_interval(upstream_port: int) -> None:
    interval_ns, wish = 80_000_000, "chunks=2 every_us=80000"
    request = native_request(Scenario("test", "test", wish, 1, (), (), chunks=2).arguments()[0])
    streams = [socket.create_connection(("127.0.0.1", upstream_port)) for _ in range(16)]
    quarters = [0, 0, 0, 0]
    for stream in streams:
        stream.sendall(request)
    for stream in streams:
        with stream, stream.makefile("rb") as lines:
            sent_ns = next(int(found.group(1)) for line in lines if (found := re.search(rb"~([0-9]+)\.0000001~", line)))
            quarters[sent_ns % interval_ns * 4 // interval_ns] += 1
    assert min(quarters) >= 2, quarters


@needs_cc
@pytest.mark.parametrize("name", ["nginx", "HAProxy", "Portkey", "gateway custom"])
@pytest.mark.parametrize(("wish", "chunks"), [("bytes=1024", 0), ("chunks=1000000 every_us=20000", 1_000_000)])
def test_a_proxy_relays_calls_and_streams(programs: Path, name: str, wish: str, chunks: int) -> None:
    peer = {peer.name: peer for peer in peers()}[name]
    if peer.missing:
        pytest.skip(f"{name}: {peer.missing}")
    scenario = Scenario("test", "test", wish, 4, (name,), (), chunks=chunks, warm_up_s=0.1, window_s=0.2)
    seen = measure(scenario, peer, machine_of(programs), 1.0)
    assert seen is not None
    assert seen.errors == 0
    assert seen.processor_us > 0
    # On a busy machine a few chunks meet in a socket; a proxy that collects them would join them all.
    assert seen.reads_with_chunks > seen.chunks / 2 > 0 if chunks else seen.calls > 0


def machine_of(programs: Path) -> Machine:
    return Machine(programs, tools=CORE, proxy=max(os.sched_getaffinity(0)))


@needs_cc
@pytest.mark.parametrize("guest", [True, False])
def test_a_guest_that_fails_does_not_fail_the_run(
    programs: Path, guest: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Peer("broken", lambda _: ["false"], native, guest=guest)
    scenario = Scenario("test", "test", "bytes=1024", 4, ("direct", "broken"), (), warm_up_s=0, window_s=0.1)
    present = {"direct": Peer("direct", None, native), "broken": broken}
    options = argparse.Namespace(rounds=1, guest_rounds=1, quick=False)
    results = report.Results({})
    assert run(results, [scenario], present, machine_of(programs), options) is not guest
    assert results.seen["test", "broken"] == [None]
    assert results.seen["test", "direct"] != [None]
    assert "did not start" in capsys.readouterr().err


def a_round_that_cost(processor_us: float, delay_us: float = 0.0, chunks: int = 0) -> Observation:
    return Observation(
        connections=32,
        seconds=1.0,
        calls=100,
        chunks=chunks,
        reads_with_chunks=chunks,
        errors=0,
        latency_us=Quantiles(count=100, p50=10.0, p99=20.0, max=30.0),
        first_byte_us=None,
        delay_us=Quantiles(count=100, p50=delay_us, p99=delay_us * 2, max=delay_us * 3) if delay_us else None,
        processor_us=processor_us,
        resident_before_kb=0,
        resident_at_opening_kb=0,
        resident_kb=0,
        client_busy=0.1,
    )


def test_a_ratio_is_taken_within_a_round_and_a_failed_round_is_left_out() -> None:
    results = report.Results({"rounds": "3"})
    scenario = SCENARIOS[0]
    for nginx_us, gateway_us in ((1000.0, 4000.0), (2000.0, 4000.0), (1000.0, None)):
        results.add(scenario, "nginx", a_round_that_cost(nginx_us))
        results.add(scenario, "gateway native", None if gateway_us is None else a_round_that_cost(gateway_us))
    row = results.rows([scenario])[0]
    assert row.medians == {"nginx": 10.0, "gateway native": 40.0}
    assert row.ratios == {"gateway native": 3.0}
    assert "| 10.0 | 40.0 | 3.00 |" in report.markdown(results, [row])
    assert plot.svg([row]).count("<circle") == 2


def scenario_named(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def test_an_added_delay_is_what_is_left_of_a_delay_without_the_tools_in_the_same_round() -> None:
    results, scenario = report.Results({}), scenario_named("paced-200")
    for direct_us, nginx_us, gateway_us in ((10.0, 30.0, 40.0), (20.0, 60.0, 80.0), (None, 99.0, 99.0)):
        results.add(scenario, "direct", a_round_that_cost(0, direct_us, 100) if direct_us else None)
        results.add(scenario, "nginx", a_round_that_cost(1000, nginx_us, 100))
        results.add(scenario, "gateway native", a_round_that_cost(1000, gateway_us, 100))
    rows = {row.figure: row for row in results.rows([scenario])}
    added = rows["added delay of a chunk, p50, µs"]
    assert added.rounds == {
        "nginx": [20.0, 40.0, None],
        "gateway native": [30.0, 60.0, None],
        "gateway ledger": [],
        "HAProxy": [],
        "LiteLLM": [],
        "Portkey": [],
    }
    assert added.medians == {"nginx": 30.0, "gateway native": 45.0}
    assert added.ratios == {"gateway native": 1.5}
    assert rows["delay of a chunk, p50, µs"].medians["direct"] == 15.0


def test_growth_is_the_largest_cost_over_the_smallest_however_fast_each_round_was() -> None:
    results, scenarios = report.Results({}), [scenario for scenario in SCENARIOS if "beside" in scenario.name]
    for machine_is_slower_by in (1.0, 3.0):
        for scenario, cost_us in zip(scenarios, (100.0, 110.0, 120.0), strict=True):
            results.add(scenario, "nginx", a_round_that_cost(5000 * machine_is_slower_by))
            results.add(scenario, "gateway native", a_round_that_cost(cost_us * 100 * machine_is_slower_by))
    row = results.rows(scenarios)[-1]
    assert row.figure == "processor time a call, largest ÷ smallest"
    assert row.medians == {"nginx": pytest.approx(1.0), "gateway native": pytest.approx(1.2)}
    assert [row.figure for row in results.rows(scenarios[:2])] == ["processor time a call, µs"] * 2


def test_a_guest_that_was_measured_in_the_first_round_only_is_compared_within_it() -> None:
    results, scenario = report.Results({"cores": "2"}), scenario_named("calls-32")
    for nginx_us in (1000.0, 5000.0, 5000.0):
        results.add(scenario, "nginx", a_round_that_cost(nginx_us))
        results.add(scenario, "gateway native", a_round_that_cost(nginx_us * 3))
    results.add(scenario, "LiteLLM", a_round_that_cost(600_000.0))
    rows = results.rows([scenario])
    assert rows[0].ratios == {"gateway native": 3.0, "LiteLLM": 600.0}
    assert "| load | figure | LiteLLM | LiteLLM ÷ nginx |" in report.markdown(results, rows)
    assert "| LiteLLM | 6,000 | 200 |" in readme_table(rows, results.facts)


def test_a_table_takes_the_place_of_the_last_one_and_of_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(f"before\n{TABLE_STARTS}old\n{TABLE_ENDS}after\n")
    replace_table(document, "new\n")
    replace_table(document, "newer\n")
    assert document.read_text() == f"before\n{TABLE_STARTS}newer\n{TABLE_ENDS}after\n"
    document.write_text("no marks\n")
    with pytest.raises(BenchError, match="no place for a table"):
        replace_table(document, "new\n")
    assert document.read_text() == "no marks\n"


@pytest.mark.parametrize("document", [DOCUMENT, README], ids=lambda path: path.name)
def test_the_documents_have_a_place_for_their_tables(document: Path) -> None:
    text = document.read_text()
    assert text.count(TABLE_STARTS) == text.count(TABLE_ENDS) == 1


PERF = """
  11
\tffffffff8203 tcp_sendmsg ([kernel.kallsyms])
\tffffffff8201 ksys_write ([kernel.kallsyms])
\t       f838f __GI___libc_write (/usr/lib/libc.so.6)

  11
\t       fd19a _PyEval_EvalFrameDefault (/opt/python/lib/libpython3.11.so.1.0)

  11
\t       fd19a uv__io_poll (/venv/lib/python3.11/site-packages/uvloop/loop.cpython-311-x86_64-linux-gnu.so)

  12
\t       fd19a sqlite3_step (/venv/lib/python3.11/site-packages/apsw/__init__.cpython-311-x86_64-linux-gnu.so)
"""
SPY = """
thread (11): MainThread;serve (app.py:1);run (core.c:1);loop_cb (loop.c:1);on_read (body.py:2);find (libpython3.so) 3
thread (11): MainThread;serve (app.py:1);run (core.c:1);loop_cb (loop.c:1);on_read (body.py:3) 1
thread (11): MainThread;serve (app.py:1);uv_run (core.c:1);write (libc.so.6) 50
thread (12): writer;step (store.py:1) 70
"""


def test_a_profile_divides_a_cost_by_perf_and_the_python_part_by_py_spy() -> None:
    code = divide(perf_samples(PERF), "11")
    assert code == {
        ("kernel", "send"): 0.25,
        ("Python", "the interpreter"): 0.25,
        ("event loop (uvloop)", "uvloop and libuv"): 0.25,
        ("other threads", "the call log's writer, and the rest"): 0.25,
    }
    samples = spy_samples(SPY.strip())
    assert samples[1] == Sample(
        "thread (11): MainThread",
        (("on_read", "body.py:3"), ("loop_cb", "loop.c:1"), ("run", "core.c:1"), ("serve", "app.py:1")),
    )
    functions = python_functions(samples)
    assert functions == {("on_read", "body.py"): 4}
    text = section("A call", scenario_named("calls-32"), 100.0, code, functions)
    assert "| kernel | 25.0 | 25.0 |" in text
    assert "| on_read | body.py | 25.0 | 25.0 |" in text
