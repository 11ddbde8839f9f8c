from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from hypothesis import settings

from .php import Php

# An example may wait for its turn on a busy machine.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def php() -> Iterator[Php]:
    """The machine's PHP."""
    command = shutil.which("php")
    if command is None:
        pytest.skip("no php on this machine: its recorded answers are checked all the same")
    process = Php(command)
    yield process
    process.close()
