"""The load programs and the processes between them: built, pinned to a core, started, waited for and ended.

Knows nothing of what is measured or why.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec

SOURCES = Path(__file__).parent / "load"
START_LIMIT_S = 120.0
STOP_LIMIT_S = 10.0
CLIENT_LIMIT_S = 300.0


class BenchError(Exception):
    """A measurement that cannot be made; the text says why."""


class Quantiles(msgspec.Struct, frozen=True):
    """Of a set of times in microseconds."""

    count: int
    p50: float
    p99: float
    max: float


class Observation(msgspec.Struct, frozen=True):
    """What the client saw while its window was open; `processor_us` and the memory are the measured processes'.

    Their resident memory is told thrice: before the first connection, when the window opened, and when it closed.
    """

    connections: int
    seconds: float
    calls: int
    chunks: int
    reads_with_chunks: int
    errors: int
    latency_us: Quantiles | None
    first_byte_us: Quantiles | None
    delay_us: Quantiles | None
    processor_us: float
    resident_before_kb: int
    resident_at_opening_kb: int
    resident_kb: int
    client_busy: float


def build(directory: Path) -> None:
    """Compiles the load programs into a directory."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("there is no C compiler (cc): the load programs cannot be built, so nothing is measured")
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("client", "upstream"):
        command = [
            compiler,
            "-O2",
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-o",
            str(directory / name),
            f"{SOURCES / name}.c",
        ]
        built = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if built.returncode != 0:
            raise BenchError(f"{name}.c does not compile:\n{built.stderr}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def server(
    command: Sequence[str], port: int, core: int, *, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Runs a server on one core while the context lasts; yields its process id once it answers."""
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment or os.environ),
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be run: {error}") from error
    try:
        _wait_until_it_answers(process, port, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            for pid in process_tree(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Any answer will do. That it accepts is not enough: nginx does before it has started its worker."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, HTTPException), closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/count")
            connection.getresponse().read()
            return
        time.sleep(0.05)
    raise BenchError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-2000:]}")


def process_tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # a thread that ended meanwhile
                found.extend(int(child) for child in children.read_text().split())
    return found


def observe(
    client: Path,
    core: int,
    port: int,
    requests: Sequence[Path],
    pids: Sequence[int],
    options: Mapping[str, float | str],
) -> Observation:
    """Runs the load client once; it sends the requests in turn."""
    command = [str(client), "--port", str(port)]
    for request in requests:
        command += ["--request", str(request)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    for pid in pids:
        command += ["--pid", str(pid)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=CLIENT_LIMIT_S,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the client did not end within {CLIENT_LIMIT_S:.0f} s") from error
    if done.returncode != 0:
        raise BenchError(done.stderr.decode(errors="replace").strip()[-1000:] or f"the client died ({done.returncode})")
    return msgspec.json.decode(done.stdout, type=Observation)


def answers_begun(upstream_port: int) -> int:
    """How many answers the upstream has begun since it was started."""
    try:
        with closing(HTTPConnection("127.0.0.1", upstream_port, timeout=10)) as connection:
            connection.request("GET", "/count")
            return int(connection.getresponse().read())
    except (OSError, HTTPException, ValueError) as error:
        raise BenchError(f"the upstream does not tell its count: {error}") from error
