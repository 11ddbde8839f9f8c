"""Kept answers in memory: what is given back, what goes when, and how much it takes."""

from __future__ import annotations

import gc
import os
import tracemalloc
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from gateway.cache_store import CLOCK_SLACK_S, Entry, MemoryCache, Selection, packed_chunks
from gateway.types import Usage

NOW = 1_700_000_000.0


def new_entry(body: bytes = b"{}", **changes: Any) -> Entry:
    entry = Entry(
        200, "application/json", "x-ratelimit: 1\r\n", body, NOW, NOW + 60, 1, "v1/chat/completions", "gpt-4o"
    )
    return replace(entry, **changes)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture
def cache() -> MemoryCache:
    return MemoryCache(100_000)


def kept(cache: MemoryCache, *numbers: int) -> list[int]:
    """Those of the numbers whose entries are there; looking does not make them used."""
    there = {each.key for each in cache.entries(limit=10**6)}
    return [number for number in numbers if key(number) in there]


# what is given back


def test_what_was_put_is_given_back_as_it_was(cache: MemoryCache) -> None:
    entry = new_entry(b"data: 1\n\n", streamed=True, chunks=packed_chunks([(0.1, 9)]), usage=Usage(1, 2, 3))
    assert cache.put(key(1), entry)
    assert cache.get(key(1), NOW) == entry
    assert cache.get(key(2), NOW) is None


def test_an_entry_takes_the_place_of_the_one_before(cache: MemoryCache) -> None:
    cache.put(key(1), new_entry(b"old"))
    cache.put(key(1), new_entry(b"newer"))
    found = cache.get(key(1), NOW)
    assert found is not None
    assert found.body == b"newer"
    assert cache.stats.entries == 1


def test_an_entry_is_given_out_until_it_expires_and_gone_after(cache: MemoryCache) -> None:
    cache.put(key(1), new_entry(expires_at=NOW + 10))
    assert cache.get(key(1), NOW + 9.9)
    assert cache.get(key(1), NOW + 10) is None
    assert cache.stats.entries == cache.stats.size_bytes == 0


def test_an_entry_that_is_older_than_asked_for_is_a_miss_and_stays(cache: MemoryCache) -> None:
    cache.put(key(1), new_entry())
    assert cache.get(key(1), NOW + 6, max_age_s=5) is None
    assert cache.get(key(1), NOW + 5, max_age_s=5)
    assert cache.get(key(1), NOW + 30)


def test_an_entry_does_not_outlive_a_clock_that_is_set_back(cache: MemoryCache) -> None:
    cache.put(key(1), new_entry())
    assert cache.get(key(1), NOW - CLOCK_SLACK_S)
    assert cache.get(key(1), NOW - CLOCK_SLACK_S - 1) is None
    assert cache.get(key(1), NOW) is None


# a stream's chunks


@given(st.lists(st.tuples(st.floats(0, 1e6), st.binary(max_size=9))))
def test_a_stream_comes_back_in_the_pieces_and_at_the_times_it_came(came: list[tuple[float, bytes]]) -> None:
    body, ends = b"", []
    for at_s, piece in came:
        body += piece
        ends.append((at_s, len(body)))
    entry = new_entry(body, streamed=True, chunks=packed_chunks(ends))
    assert list(entry.pieces()) == came


def test_a_whole_answer_has_no_pieces() -> None:
    assert not list(new_entry(b"{}").pieces())


# what goes


def test_the_entry_that_was_not_asked_for_the_longest_makes_room(cache: MemoryCache) -> None:
    for number in range(10):
        cache.put(key(number), new_entry(os.urandom(9_000)))
    assert kept(cache, *range(10)) == list(range(10))
    assert cache.get(key(0), NOW)
    cache.put(key(10), new_entry(os.urandom(9_000)))
    assert kept(cache, *range(11)) == [0, *range(2, 11)]
    assert cache.stats.evictions == 1


def test_an_entry_that_is_larger_than_its_part_is_not_kept_and_pushes_nothing_out(cache: MemoryCache) -> None:
    cache.put(key(1), new_entry())
    assert not cache.put(key(2), new_entry(bytes(10_000)))
    assert kept(cache, 1, 2) == [1]
    assert cache.stats.refused == 1


def test_what_is_too_large_still_ends_what_it_was_to_replace(cache: MemoryCache) -> None:
    cache.put(key(1), new_entry())
    cache.put(key(1), new_entry(bytes(10_000)))
    assert kept(cache, 1) == []


@pytest.mark.parametrize(("selection", "left"), [
    (Selection(), []),
    (Selection(account_id=1), [2, 3]),
    (Selection(method="v1/chat/*"), [2, 3]),
    (Selection(method="v1/chat/completions", account_id=2), [0, 1, 2, 3]),
    (Selection(model="gpt-4o*"), [2, 3]),
    (Selection(model="gpt-4o"), [1, 2, 3]),
    (Selection(model="*"), [3]),
])  # fmt: skip
def test_what_is_selected_is_cleared_and_nothing_else(
    cache: MemoryCache, selection: Selection, left: list[int]
) -> None:
    cache.put(key(0), new_entry())
    cache.put(key(1), new_entry(model="gpt-4o-mini"))
    cache.put(key(2), new_entry(account_id=2, method="v1/embeddings", model="text-embedding-3"))
    cache.put(key(3), new_entry(account_id=2, method="v1/models", model=None))
    listed = [each.key for each in cache.entries(selection)]
    assert cache.clear(selection) == 4 - len(left)
    assert kept(cache, *range(4)) == left
    assert listed == [key(number) for number in (3, 2, 1, 0) if number not in left]


def test_what_was_stored_after_a_moment_survives_clearing_until_it(cache: MemoryCache) -> None:
    cache.put(key(1), new_entry())
    cache.put(key(2), new_entry(stored_at=NOW + 1))
    assert cache.clear(until=NOW) == 1
    assert kept(cache, 1, 2) == [2]


def test_a_list_is_no_longer_than_asked_for_and_tells_the_last_used_first(cache: MemoryCache) -> None:
    for number in range(5):
        cache.put(key(number), new_entry())
    cache.get(key(1), NOW)
    assert [each.key for each in cache.entries(limit=2)] == [key(1), key(4)]


def test_hits_and_misses_are_counted(cache: MemoryCache) -> None:
    cache.put(key(1), new_entry())
    for number in (1, 1, 2):
        cache.get(key(number), NOW)
    assert (cache.stats.hits, cache.stats.misses) == (2, 1)


# how much it takes


@pytest.mark.parametrize("body_bytes", [100, 2_000, 20_000])
@pytest.mark.parametrize("chunks", [0, 40])
@pytest.mark.parametrize("usage", [False, True])
def test_the_size_is_what_the_entries_take_of_memory_within_a_tenth(body_bytes: int, chunks: int, usage: bool) -> None:
    cache = MemoryCache(10**9)
    count = 5_000 if body_bytes < 10_000 else 500
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(count):
            ends = packed_chunks([(each / 10, each) for each in range(chunks)])
            entry = Entry(
                200, f"application/json{number}", f"x-a: {number}\r\n", os.urandom(body_bytes), NOW + number,
                NOW + number + 60, number + 1000, f"v1/chat/{number}", f"gpt-{number}", chunks > 0, ends,
                Usage(number + 300, number + 600, number + 900) if usage else None,
            )  # fmt: skip
            cache.put(os.urandom(32), entry)
            del entry, ends
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.stats.size_bytes == pytest.approx(used, rel=0.1)


class Machine(RuleBasedStateMachine):
    """The cache beside a plain list of what was put and used, the last at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = MemoryCache(6_000, max_part=0.4)
        self.model: dict[bytes, Entry] = {}

    @rule(number=st.integers(0, 9), size=st.integers(0, 2_500), account=st.integers(1, 2))
    def put(self, number: int, size: int, account: int) -> None:
        entry = new_entry(bytes(size), account_id=account)
        self.model.pop(key(number), None)
        if self.cache.put(key(number), entry):
            self.model[key(number)] = entry
        there = {each.key for each in self.cache.entries(limit=99)}
        pushed = [each for each in self.model if each not in there]
        assert pushed == list(self.model)[: len(pushed)]  # the longest unused
        for each in pushed:
            del self.model[each]

    @rule(number=st.integers(0, 9))
    def get(self, number: int) -> None:
        found = self.cache.get(key(number), NOW)
        assert found is self.model.get(key(number))
        if found is not None:
            self.model[key(number)] = self.model.pop(key(number))

    @rule(account=st.integers(1, 2))
    def clear(self, account: int) -> None:
        self.cache.clear(Selection(account_id=account))
        self.model = {each: entry for each, entry in self.model.items() if entry.account_id != account}

    @invariant()
    def agrees(self) -> None:
        listed = self.cache.entries(limit=99)
        assert [each.key for each in listed] == list(reversed(self.model))
        stats = self.cache.stats
        assert stats.size_bytes == sum(each.size_bytes for each in listed) <= stats.max_bytes
        assert stats.entries == len(listed)


TestAnyOrderOfUse = Machine.TestCase


def test_a_look_costs_less_than_two_microseconds() -> None:
    cache = MemoryCache(10**9)
    keys = [os.urandom(32) for _ in range(5_000)]
    for each in keys:
        cache.put(each, new_entry())
    best_s = float("inf")
    for _ in range(20):
        started = perf_counter()
        for each in keys:
            cache.get(each, NOW)
        best_s = min(best_s, (perf_counter() - started) / len(keys))
    print(f"{best_s * 1e6:.2f} us")
    assert best_s < 2e-6
