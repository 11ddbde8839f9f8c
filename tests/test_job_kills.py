"""Image jobs survive what ends the process: each ends once, is made once at most, and pays if it succeeds."""

from __future__ import annotations

import time

import pytest

from tests.job_kills import BACKENDS, kill_a_gateway


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_four_kills_each_job_has_one_end_and_charges_equal_successes(backend: str) -> None:
    figures, summary = kill_a_gateway(backend, 4, 120, seed=time.time_ns() % 1_000_000)
    print(summary)
    assert figures.succeeded
    assert figures.repeated == 0
    assert figures.unknown == 0 or backend != "idempotent"


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", BACKENDS)
def test_after_twenty_kills_a_thousand_jobs_have_a_thousand_ends(backend: str) -> None:
    figures, summary = kill_a_gateway(backend, 20, 1000, seed=time.time_ns() % 1_000_000)
    print(summary)
    assert figures.kills == 20
    assert figures.succeeded + figures.failed + figures.unknown == 1000
    assert figures.repeated == 0
    assert figures.unknown == 0 or backend != "idempotent"
