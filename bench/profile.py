"""Where the time of one call and of one chunk goes: `python -m bench.profile` writes bench/results/profile.md.

Two profilers, each for what it does right. perf tells which code the processor was in, the kernel's included, but not
which Python function. py-spy tells the functions, but stops the process for it, most often as a system call returns,
so that its samples of the kernel are not to be trusted. So perf divides the time, and py-spy only Python's part of it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import report
from bench.measuring import Load, Machine, machine, ready
from bench.peers import ENVS, Peer, Place, peers
from bench.scenarios import CALL_COST, CHUNK_COST, SCENARIOS, Figure, Scenario
from bench.stacks import PYTHON, divide, perf_samples, python_functions, spy_samples
from bench.tools import BenchError, build, free_port

OUTPUT = Path(__file__).parent / "results" / "profile.md"
# A load, who stands it, its cost, and how many times as long it is looked at: paced streams leave a process idle.
PROFILED = (
    ("calls-32", "gateway native", CALL_COST, 1, "One call, native front"),
    ("calls-32", "gateway custom", CALL_COST, 1, "One call, custom front"),
    ("paced-200", "gateway native", CHUNK_COST, 3, "One chunk of a stream"),
)
LEAST_SHARE = 0.005


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write it (bench/results/profile.md)")
    parser.add_argument("--seconds", type=int, default=6, help="how long each profiler looks at each load (6)")
    options = parser.parse_args()
    spy = ENVS / "py-spy" / "bin" / "py-spy"
    try:
        perf = shutil.which("perf")
        if perf is None or not spy.exists():
            raise BenchError("perf (Debian: linux-perf) and py-spy (`make profile` installs it) are needed")
        on = machine(Path(__file__).parent / "build")
        build(on.programs)
        known_peers = {peer.name: peer for peer in peers()}
        known_scenarios = {scenario.name: scenario for scenario in SCENARIOS}
        parts = []
        for scenario, peer, figure, times, title in PROFILED:
            profilers = Profilers(perf, str(spy), options.seconds * times)
            parts.append(profile(title, known_scenarios[scenario], known_peers[peer], figure, profilers, on))
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n\n".join([HEAD.format(facts=facts()), *parts]) + "\n")
    print(f"written to {options.output}")
    return 0


@dataclass(frozen=True, slots=True)
class Profilers:
    perf: str
    spy: str
    seconds: int


def profile(title: str, scenario: Scenario, peer: Peer, figure: Figure, tools: Profilers, on: Machine) -> str:
    """One load, thrice: without a profiler for what it costs, and under each of the two for the shares."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        place = Place(Path(directory), free_port(), free_port())
        with ready(place, scenario, peer, on) as load:
            cost_us = figure.of(load.run())
            if cost_us is None:
                raise BenchError(f"{title}: nothing was measured")
            main_thread = str(load.pids[0])
            data, stacks = place.directory / "perf.data", place.directory / "stacks"
            record = [
                tools.perf,
                "record",
                "-q",
                "-e",
                "cpu-clock",
                "-F",
                "1999",
                "-g",
                "-o",
                str(data),
                "-p",
                main_thread,
            ]
            while_loaded(load, [*record, "--", "sleep", str(tools.seconds)], tools.seconds)
            script = [tools.perf, "script", "-i", str(data), "-F", "tid,ip,sym,dso"]
            where = perf_samples(run(script))
            record = [tools.spy, "record", "--native", "--threads", "--format", "raw", "--rate", "250"]
            record += ["--duration", str(tools.seconds), "--pid", main_thread, "--output", str(stacks)]
            while_loaded(load, record, tools.seconds)
            functions = spy_samples(stacks.read_text())
    return section(title, scenario, cost_us, divide(where, main_thread), python_functions(functions))


def run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)
    if done.returncode != 0:
        raise BenchError(f"{command[0]} failed:\n{done.stderr[-1000:]}")
    return done.stdout


def while_loaded(load: Load, profiler: Sequence[str], seconds: int) -> None:
    """Runs a profiler that ends by itself, on the tools' core, once the load stands."""
    delayed = ["sh", "-c", 'sleep 1.5; exec "$@"', "sh", *profiler]
    started = subprocess.Popen(
        delayed,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {load.core}),
    )
    try:
        load.run(seconds=seconds + 2)
        _, told = started.communicate(timeout=60)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{profiler[0]} did not end") from error
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()
    if started.returncode != 0:
        raise BenchError(f"{profiler[0]} failed; it wants root's rights:\n{told[-1000:]}")


def section(
    title: str,
    scenario: Scenario,
    cost_us: float,
    code: Mapping[tuple[str, str], float],
    functions: Counter[tuple[str, str]],
) -> str:
    """A load's tables: by the kind of code, by the code, and Python's part by file and function."""
    kinds: dict[str, float] = {}
    for (kind, _), part in code.items():
        kinds[kind] = kinds.get(kind, 0.0) + part
    whole, python = functions.total() or 1, kinds.get(PYTHON, 0.0)
    files: Counter[str] = Counter()
    for (_, file), count in functions.items():
        files[file] += count
    by_kind = sorted(kinds.items(), key=lambda item: -item[1])
    by_function = [((name, file), python * count / whole) for (name, file), count in functions.most_common()]
    return "\n\n".join(
        [
            f"## {title}",
            f"{scenario.title}: {report.number(cost_us)} µs of processor time, measured without a profiler.",
            shares(("where",), [((kind,), part) for kind, part in by_kind], cost_us),
            "More closely:",
            shares(("where", "code"), list(code.items()), cost_us),
            f"Python's part by file, by {functions.total():,} samples; the C code that a function calls is its own:",
            shares(("file",), [((file,), python * count / whole) for file, count in files.most_common()], cost_us),
            "and by function:",
            shares(("function", "file"), by_function, cost_us),
        ]
    )


def shares(names: Sequence[str], of: Sequence[tuple[Sequence[str], float]], cost_us: float) -> str:
    """A table of shares of a cost; what is less than half a percent is put together."""
    lines = [report.line([*names, "µs", "%"]), report.line(["---"] * len(names) + ["---:", "---:"])]
    told: list[tuple[Sequence[str], float]] = [(labels, share) for labels, share in of if share >= LEAST_SHARE]
    rest = sum(share for _, share in of) - sum(share for _, share in told)
    if rest > 0.0005:
        told.append((["everything smaller"] + [""] * (len(names) - 1), rest))
    lines += [report.line([*labels, report.number(share * cost_us), f"{share * 100:.1f}"]) for labels, share in told]
    return "\n".join(lines)


def facts() -> str:
    linux = platform.release().partition("-")[0]
    return f"{datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}; Linux {linux}"


HEAD = """# Where the time goes

`make profile` writes this page; [docs/benchmarks.md](../../docs/benchmarks.md#the-profile) says how to read it.

{facts}."""

if __name__ == "__main__":
    sys.exit(main())
