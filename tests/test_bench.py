"""The load programs count what passes between them, and the report tells medians and ratios of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import plot, report
from bench.requests import native_request
from bench.scenarios import SCENARIOS, Scenario
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
    programs: Path, directory: Path, port: int, wish: str, chunks: int, *, expected: int | None = None
) -> Observation:
    """A tenth of a second of load by four connections."""
    scenario = Scenario("test", "test", wish, 4, (), (), chunks=chunks, warm_up_s=0, window_s=0.1)
    requests = written(directory, scenario)
    options = {**scenario.client_options(), "chunks": chunks if expected is None else expected}
    return observe(programs / "client", CORE, port, requests, [os.getpid()], options)


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


def a_round_that_cost(processor_us: float) -> Observation:
    return Observation(
        connections=32,
        seconds=1.0,
        calls=100,
        chunks=0,
        reads_with_chunks=0,
        errors=0,
        latency_us=Quantiles(count=100, p50=10.0, p99=20.0, max=30.0),
        first_byte_us=None,
        delay_us=None,
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
