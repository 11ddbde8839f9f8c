"""Which nodes of a store live: each serving process holds a lock on a file of its own beside the database.

The kernel lets go of such a lock when its process ends, however it ends. So a node whose lock can be had is dead, and
what it held may be released; and two processes never give out the ids of one node.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import ConfigurationError

_WAIT_S = 2.0  # a process that is just ending lets go within


class NodeLock:
    """This process's claim to be a node. ConfigurationError where another process is it."""

    def __init__(self, database: Path, node_id: int) -> None:
        self.node_id = node_id
        deadline = time.monotonic() + _WAIT_S
        while (file := _locked(database, node_id)) is None:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"{database}: another process serves this store as node {node_id};"
                    " give each process a server.node_id of its own"
                )
            time.sleep(0.05)
        self._file = file

    def release(self) -> None:
        """Lets go, as the end of the process would."""
        os.close(self._file)

    @staticmethod
    @contextmanager
    def of_the_dead(database: Path, nodes: Collection[int], own: NodeLock | None) -> Iterator[set[int]]:
        """Those of the nodes that no living process is: our own, of which only what came before us is left, too.

        They are locked meanwhile, so that none comes to life.
        """
        dead = set()
        with contextlib.ExitStack() as stack:
            for node in nodes:
                if own is not None and node == own.node_id:
                    dead.add(node)
                elif (file := _locked(database, node)) is not None:
                    stack.callback(os.close, file)
                    dead.add(node)
            yield dead


def _locked(database: Path, node_id: int) -> int | None:
    """The open and locked file of a node; None where another process has it."""
    path = database.with_name(f"{database.name}.node-{node_id}")
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
