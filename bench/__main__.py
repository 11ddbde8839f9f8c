"""Measures the gateway beside other proxies, in turns on one machine: `python -m bench [--quick]`.

A proxy has one core, the client and the upstream another. Every measurement meets a process that was just started.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import gateway
from bench import report
from bench.peers import Peer, Place, peers
from bench.scenarios import SCENARIOS, Scenario
from bench.tools import (
    BenchError,
    Observation,
    answers_begun,
    build,
    free_port,
    observe,
    process_tree,
    server,
)

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
TABLE_STARTS, TABLE_ENDS = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def main() -> int:
    options = read_options()
    try:
        build(HERE / "build")
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    known = {peer.name: peer for peer in peers()}
    for peer in known.values():
        if peer.missing:
            print(f"not measured: {peer.name}: {peer.missing}")
    present = {name: peer for name, peer in known.items() if not peer.missing}
    scenarios = [
        scenario
        for scenario in SCENARIOS
        if (not options.only or scenario.name in options.only) and descriptors_suffice(scenario)
    ]
    results = report.Results(facts(options.rounds))
    tool_core, proxy_core = cores()
    for number in range(options.rounds):
        for scenario in scenarios:
            turns = [present[name] for name in scenario.peers if name in present]
            # Who goes first changes from round to round, so that no one always meets the warmer machine.
            for peer in turns[number % len(turns) :] + turns[: number % len(turns)]:
                seen = measure(scenario, peer, tool_core, proxy_core, 0.5 if options.quick else 1.0)
                results.add(scenario, peer.name, seen)
                print(told(number, scenario, peer, seen), flush=True)
    write(results, scenarios, options.output, DOCUMENT if options.document else None)
    return int(any(None in seen for seen in results.seen.values()))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; medians are told (5)")
    parser.add_argument("--quick", action="store_true", help="one round of half the length: a look, not a figure")
    parser.add_argument("--only", action="append", choices=[scenario.name for scenario in SCENARIOS], metavar="LOAD")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="the results' directory")
    parser.add_argument("--document", action="store_true", help="put the table into docs/benchmarks.md as well")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def cores() -> tuple[int, int]:
    """The core of the load programs and the core of the proxy."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        print("warning: one core only: proxy and load share it, so rates and delays mean little", file=sys.stderr)
    return allowed[0], allowed[-1]


def descriptors_suffice(scenario: Scenario) -> bool:
    """A proxy holds two sockets a stream. Raises the limit, which the processes started later inherit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    enough = hard == resource.RLIM_INFINITY or hard > scenario.connections * 2 + 200
    if not enough:
        print(f"not measured: {scenario.name}: at most {hard} open files are allowed here")
    return enough


def measure(scenario: Scenario, peer: Peer, tool_core: int, proxy_core: int, scale: float) -> Observation | None:
    """One measurement, with an upstream and a proxy of its own; None, and a word on standard error, where it fails."""
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            place = Place(Path(directory), free_port(), free_port())
            return _measure_at(place, scenario, peer, tool_core, proxy_core, scale)
    except BenchError as error:
        print(f"{scenario.name}, {peer.name}: {error}", file=sys.stderr)
        return None


def _measure_at(
    place: Place, scenario: Scenario, peer: Peer, tool_core: int, proxy_core: int, scale: float
) -> Observation:
    request = place.directory / "request"
    request.write_bytes(peer.request(scenario.arguments()))
    upstream = [str(HERE / "build" / "upstream"), str(place.upstream_port)]
    client, log = HERE / "build" / "client", place.directory / "log"
    with server(upstream, place.upstream_port, tool_core, log=log):
        if peer.command is None:
            return observe(client, tool_core, place.upstream_port, request, [], scenario.client_options(scale))
        command = peer.command(place)
        environment = {**os.environ, **peer.environment}
        with server(command, place.port, proxy_core, log=log, environment=environment) as pid:
            seen = observe(client, tool_core, place.port, request, process_tree(pid), scenario.client_options(scale))
        if answers_begun(place.upstream_port) < seen.calls:
            raise BenchError("the upstream gave fewer answers than the client got: a cache is at work")
    return seen


def told(number: int, scenario: Scenario, peer: Peer, seen: Observation | None) -> str:
    """One measurement as a line on the terminal."""
    if seen is None:
        return f"{number + 1}  {scenario.name:11} {peer.name:15} failed"
    values = ((figure.name, figure.of(seen)) for figure in scenario.figures)
    errors = f"; errors: {seen.errors}" if seen.errors else ""
    text = "; ".join(f"{name}: {value:.2f}" for name, value in values if value is not None)
    return f"{number + 1}  {scenario.name:11} {peer.name:15} {text}{errors}"


def facts(rounds: int) -> dict[str, str]:
    """What a reader must know of the machine and the day to judge the figures."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "rounds": str(rounds),
        "processor": models[0] if models else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "Linux": platform.release().partition("-")[0],
        "Python": platform.python_version(),
        "gateway": gateway.__version__,
    }


def write(results: report.Results, scenarios: Sequence[Scenario], output: Path, document: Path | None) -> None:
    rows = results.rows(scenarios)
    table = report.markdown(results, rows)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.md").write_text(table)
    (output / "results.json").write_text(report.as_json(results, rows))
    (output / "results.svg").write_text(report.svg(rows))
    if document is not None:
        before, _, rest = document.read_text().partition(TABLE_STARTS)
        _, _, after = rest.partition(TABLE_ENDS)
        document.write_text(f"{before}{TABLE_STARTS}{table}{TABLE_ENDS}{after}")
    print(f"\n{table}\nwritten to {output}")


if __name__ == "__main__":
    sys.exit(main())
