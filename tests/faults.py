"""Switches faults on and off in a running gateway: a disk that is full or fails, a clock that jumps (faults.c).

with faults() as fault, gateway_before_chaos(environ=fault.environ) as gateway:
    fault.sync_fails = True
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
FIELDS = ("sync_fails", "disk_full", "shift_s", "syncs_failed", "writes_refused", "clocks_shifted")
"""Of the struct `control`, 64 bits each, in its order."""


class Faults:
    """The test's side of the control file. `environ` is for the process that is to fail."""

    def __init__(self, control: mmap.mmap, environ: dict[str, str]) -> None:
        self._control = control
        self.environ = environ

    @property
    def sync_fails(self) -> bool:
        """Whether fsync and fdatasync of a database's files end with EIO."""
        return bool(self._get("sync_fails"))

    @sync_fails.setter
    def sync_fails(self, value: bool) -> None:
        self._set("sync_fails", value)

    @property
    def disk_full(self) -> bool:
        """Whether writing to a database's files ends with ENOSPC."""
        return bool(self._get("disk_full"))

    @disk_full.setter
    def disk_full(self, value: bool) -> None:
        self._set("disk_full", value)

    @property
    def shift_s(self) -> int:
        """How many seconds the wall clock is ahead; it steps when this is set."""
        return self._get("shift_s")

    @shift_s.setter
    def shift_s(self, value: int) -> None:
        self._set("shift_s", value)

    @property
    def struck(self) -> dict[str, int]:
        """How often each fault has struck: syncs_failed, writes_refused, clocks_shifted."""
        return {name: self._get(name) for name in FIELDS[3:]}

    def _get(self, name: str) -> int:
        value: int = struct.unpack_from("q", self._control, 8 * FIELDS.index(name))[0]
        return value

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("q", self._control, 8 * FIELDS.index(name), value)


@contextmanager
def faults() -> Iterator[Faults]:
    """Compiles the library into a temporary directory. Skips the test where that cannot be."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux" or sys.maxsize < 2**32:
        pytest.skip("faults are injected on 64-bit Linux, by a library that cc makes")
    with tempfile.TemporaryDirectory() as name:
        library, control_path = Path(name, "faults.so"), Path(name, "control")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, timeout=60)
        control_path.write_bytes(bytes(8 * len(FIELDS)))
        with control_path.open("r+b") as file, mmap.mmap(file.fileno(), 8 * len(FIELDS)) as control:
            before = os.environ.get("LD_PRELOAD", "")
            preload = f"{library} {before}".strip()
            yield Faults(control, {"LD_PRELOAD": preload, "FAULTS_FILE": str(control_path)})
