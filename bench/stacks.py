"""What two profilers saw, read and counted: perf's samples by the code that ran, py-spy's by the Python function."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.tools import BenchError

KERNEL, LOOP, PYTHON, OTHER_THREADS = "kernel", "event loop (uvloop)", "Python", "other threads"
# How a kernel names the function at which a system call enters it; which of these are inlined differs by its build.
ENTRY = re.compile(r"(?:__(?:x64|arm64|se|do)_sys_|ksys_|__sys_|do_(?=epoll_|futex|writev|readv))(\w+)")
SYSTEM_CALLS = {
    "read": "receive",
    "readv": "receive",
    "recvfrom": "receive",
    "recvmsg": "receive",
    "write": "send",
    "writev": "send",
    "sendto": "send",
    "sendmsg": "send",
    "epoll_wait": "wait for events",
    "epoll_pwait": "wait for events",
    "epoll_ctl": "wait for events",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A stack, the innermost frame first, each frame's symbol and the file that it is in; and how often it was seen."""

    thread: str
    frames: tuple[tuple[str, str], ...]
    count: int = 1


def perf_samples(script: str) -> list[Sample]:
    """What `perf script -F tid,ip,sym,dso` prints: a thread's id, its stack a line each, an empty line."""
    samples = []
    for block in script.split("\n\n"):
        first, *rest = block.strip("\n").split("\n")
        frames = []
        for text in rest:
            place, _, file = text.strip().rpartition(" (")
            frames.append((place.partition(" ")[2], file.rstrip(")")))
        if frames:
            samples.append(Sample(first.strip(), tuple(frames)))
    return samples


def spy_samples(raw: str) -> list[Sample]:
    """What `py-spy record --format raw` writes: `thread;outermost (file:line);…;innermost (file:line) count`."""
    samples = []
    for stack in raw.splitlines():
        names, _, count = stack.rpartition(" ")
        thread, *frames = names.split(";")
        split = [frame.rpartition(" (") for frame in reversed(frames)]
        samples.append(Sample(thread, tuple((name, file.rstrip(")")) for name, _, file in split), int(count)))
    return samples


def divide(samples: Iterable[Sample], main_thread: str) -> dict[tuple[str, str], float]:
    """The shares of the time by the code the processor was in: what kind, and what of it."""
    seen: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        if sample.thread != main_thread:
            seen[OTHER_THREADS, "the call log's writer, and the rest"] += sample.count
        else:
            seen[_code(sample.frames)] += sample.count
    whole = sum(seen.values())
    if not whole:
        raise BenchError("perf saw nothing")
    return {code: count / whole for code, count in seen.most_common()}


def _code(frames: Sequence[tuple[str, str]]) -> tuple[str, str]:
    file = frames[0][1]
    if file.startswith("[kernel") or file.endswith(".ko"):
        name = next((found.group(1) for name, _ in frames if (found := ENTRY.match(name))), "")
        return KERNEL, SYSTEM_CALLS.get(name, name) or "interrupts and switches"
    path = Path(file)
    library = path.name.partition(".")[0]
    if library == "loop" and path.parent.name == "uvloop":
        return LOOP, "uvloop and libuv"
    if library.startswith(("libpython", "python")):
        return PYTHON, "the interpreter"
    _, _, package = str(path.parent).partition("site-packages/")
    return PYTHON, f"{package}/{library}" if package else library


def python_functions(samples: Iterable[Sample]) -> Counter[tuple[str, str]]:
    """The samples of the event loop's thread by function and file: its own time and that of the C code that it calls.

    Samples in a system call or in uvloop's own code are left out: perf tells those.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        if "MainThread" in sample.thread and (function := _innermost_function(sample.frames)):
            seen[function] += sample.count
    return seen


def _innermost_function(frames: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    name, file = frames[0]
    if file.startswith("libc") and name in {*SYSTEM_CALLS, "poll", "fdatasync"}:
        return None
    for name, file in frames:
        path = file.partition(":")[0]
        if path.endswith((".py", ">")):
            return name, path
        if path in ("loop.c", "loop.pyx") or path.startswith("uvloop/"):
            return None
    return None
