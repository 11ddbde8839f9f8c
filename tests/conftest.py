"""One running gateway for all tests; and the end of a run says what was not checked on this machine, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support import Gateway, gateway_before_chaos


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    """A gateway for the whole run. Tests open their upstream at its port: `Chaos(..., port=gateway.upstream_port)`."""
    with gateway_before_chaos() as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: Counter[str] = Counter()
    for report in terminalreporter.getreports("skipped"):
        # A skip's long form is (file, line, "Skipped: reason"); an expected failure's is not.
        if isinstance(report.longrepr, tuple):
            reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section("not checked on this machine")
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count} test{'s'[: count > 1]} skipped: {reason}")
