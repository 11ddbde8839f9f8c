"""Measures the gateway beside other proxies, in turns on one machine: `python -m bench [--quick]`."""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import plot, report
from bench.documents import readme_table, replace_table
from bench.measuring import Machine, machine, measure
from bench.peers import Peer, peers
from bench.scenarios import SCENARIOS, Scenario
from bench.tools import BenchError, Observation, build

HERE = Path(__file__).parent
DOCUMENT, README = HERE.parent / "docs" / "benchmarks.md", HERE.parent / "README.md"
GUEST_ROUNDS = 2


def main() -> int:
    options = read_options()
    try:
        on = machine(HERE / "build")
        build(on.programs)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    present = {peer.name: peer for peer in peers() if is_present(peer, options.peers)}
    scenarios = [
        scenario
        for scenario in SCENARIOS
        if (not options.only or scenario.name in options.only) and descriptors_suffice(scenario)
    ]
    results = report.Results(facts(options, scenarios, list(present.values())))
    failed = run(results, scenarios, present, on, options)
    write(results, scenarios, options.output, document=options.document)
    return int(failed)


def is_present(peer: Peer, wanted: Sequence[str] | None) -> bool:
    if wanted and peer.name not in wanted:
        return False
    if peer.missing:
        print(f"not measured: {peer.name}: {peer.missing}")
    return not peer.missing


def run(
    results: report.Results,
    scenarios: Sequence[Scenario],
    present: Mapping[str, Peer],
    on: Machine,
    options: argparse.Namespace,
) -> bool:
    """Measures everything; true where a measurement failed that a reader relies on: a guest's may."""
    failed = False
    for number in range(options.rounds):
        for scenario in scenarios:
            turns = [
                peer for name in scenario.peers if (peer := present.get(name)) and due(number, scenario, peer, options)
            ]
            # Who goes first changes from round to round, so that no one always meets the warmer machine.
            first = number % len(turns) if turns else 0
            for peer in turns[first:] + turns[:first]:
                seen = measure(scenario, peer, on, 0.5 if options.quick else 1.0)
                results.add(scenario, peer.name, seen)
                failed = failed or (seen is None and not peer.guest)
                print(told(number, scenario, peer, seen), flush=True)
    return failed


def due(number: int, scenario: Scenario, peer: Peer, options: argparse.Namespace) -> bool:
    """Whether this round measures it: guests and costly scenarios have their turn in the first rounds only."""
    guests_turn = not peer.guest or number < options.guest_rounds
    return guests_turn and (scenario.rounds is None or number < scenario.rounds)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; medians are told (5)")
    parser.add_argument("--quick", action="store_true", help="one round of half the length: a look, not a figure")
    parser.add_argument("--guest-rounds", type=int, default=GUEST_ROUNDS, help="how often the other peers are (2)")
    parser.add_argument("--only", action="append", choices=[scenario.name for scenario in SCENARIOS], metavar="LOAD")
    parser.add_argument("--peers", action="append", choices=[peer.name for peer in peers()], metavar="PEER")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="the results' directory")
    parser.add_argument(
        "--document", action="store_true", help="put the tables into docs/benchmarks.md and README.md as well"
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def descriptors_suffice(scenario: Scenario) -> bool:
    """A proxy holds two sockets a stream. Raises the limit, which the processes started later inherit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    enough = hard == resource.RLIM_INFINITY or hard > (scenario.connections + scenario.beside) * 2 + 200
    if not enough:
        print(f"not measured: {scenario.name}: at most {hard} open files are allowed here")
    return enough


def told(number: int, scenario: Scenario, peer: Peer, seen: Observation | None) -> str:
    """One measurement as a line on the terminal."""
    if seen is None:
        return f"{number + 1}  {scenario.name:20} {peer.name:14} failed"
    values = ((figure.name, figure.of(seen)) for figure in scenario.figures if not figure.added)
    errors = f"; errors: {seen.errors}" if seen.errors else ""
    text = "; ".join(f"{name}: {report.number(value)}" for name, value in values if value is not None)
    return f"{number + 1}  {scenario.name:20} {peer.name:14} {text}{errors}"


def facts(options: argparse.Namespace, scenarios: Sequence[Scenario], present: Sequence[Peer]) -> dict[str, str]:
    """What a reader must know of the machine and the day to judge the figures."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    told = {"measured": datetime.now(UTC).strftime("%Y-%m-%d"), "rounds": str(options.rounds)}
    for scenario in scenarios:
        if scenario.rounds is not None and scenario.rounds < options.rounds:
            told[f"rounds of {re.sub(r'-[0-9]+$', '', scenario.name)}"] = str(scenario.rounds)
    if any(peer.guest for peer in present) and options.guest_rounds < options.rounds:
        told["rounds of the other proxies"] = str(options.guest_rounds)
    return told | {
        "processor": models[0] if models else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "Linux": platform.release().partition("-")[0],
        "Python": platform.python_version(),
        **{peer.name.removesuffix(" native"): peer.version for peer in present if peer.version},
    }


def write(results: report.Results, scenarios: Sequence[Scenario], output: Path, *, document: bool) -> None:
    rows = results.rows(scenarios)
    table = report.markdown(results, rows)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.md").write_text(table)
    (output / "results.json").write_text(report.as_json(results, rows))
    (output / "results.svg").write_text(plot.svg(rows))
    if document:
        replace_table(DOCUMENT, table)
        replace_table(README, readme_table(rows, results.facts))
    print(f"\n{table}\nwritten to {output}")


if __name__ == "__main__":
    sys.exit(main())
