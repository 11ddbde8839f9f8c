"""One measurement: an upstream, a proxy that was just started, and the load client on its other side.

The proxy has one core, the upstream and the client another.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers import Peer, Place
from bench.scenarios import Scenario, silent_stream
from bench.tools import BenchError, Observation, answers_begun, free_port, observe, process_tree, server

# Within this a load must stand. A guest that cannot open all of it is measured with what it has answered.
OPENING_LIMIT_S = 30


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it is measured: the load programs, their core, and the proxy's."""

    programs: Path
    tools: int
    proxy: int


@dataclass(frozen=True, slots=True)
class Load:
    """A proxy before its upstream, ready to be called. `pids` are the proxy's processes."""

    client: Path
    core: int
    port: int
    requests: list[Path]
    pids: list[int]
    options: Mapping[str, float | str]

    def run(self, **options: float) -> Observation:
        return observe(self.client, self.core, self.port, self.requests, self.pids, {**self.options, **options})


def machine(programs: Path) -> Machine:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        print("warning: one core only: proxy and load share it, so rates and delays mean little", file=sys.stderr)
    return Machine(programs, tools=allowed[0], proxy=allowed[-1])


def measure(scenario: Scenario, peer: Peer, on: Machine, scale: float) -> Observation | None:
    """One measurement; None, and a word on standard error, where it fails."""
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory:
            place = Place(Path(directory), free_port(), free_port())
            with ready(place, scenario, peer, on, scale) as load:
                seen = load.run()
                if not peer.repeats and answers_begun(place.upstream_port) < seen.calls:
                    raise BenchError("the upstream gave fewer answers than the client got: a cache is at work")
                return seen
    except BenchError as error:
        print(f"{scenario.name}, {peer.name}: {error}", file=sys.stderr)
        return None


@contextmanager
def ready(place: Place, scenario: Scenario, peer: Peer, on: Machine, scale: float = 1.0) -> Iterator[Load]:
    """Starts the upstream and the proxy, and writes the requests that the client is to send."""
    requests = []
    for number, arguments in enumerate(scenario.arguments()):
        requests.append(place.directory / f"request-{number}")
        requests[-1].write_bytes(peer.request(place, arguments))
    beside = place.directory / "beside"
    beside.write_bytes(peer.request(place, silent_stream()))
    options: dict[str, float | str] = {**scenario.client_options(scale), "opening": OPENING_LIMIT_S}
    options |= {"beside-request": str(beside), "at-least": 1 if peer.guest else scenario.connections}
    upstream, log = [str(on.programs / "upstream"), str(place.upstream_port)], place.directory / "log"
    with server(upstream, place.upstream_port, on.tools, log=log):
        if peer.command is None:
            yield Load(on.programs / "client", on.tools, place.upstream_port, requests, [], options)
            return
        environment = {**os.environ, **peer.environment}
        with server(peer.command(place), place.port, on.proxy, log=log, environment=environment) as pid:
            yield Load(on.programs / "client", on.tools, place.port, requests, process_tree(pid), options)
