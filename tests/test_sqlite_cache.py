"""The answer cache on the disk: what survives, and that no fault of the disk is more than a miss."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.cache_store import MemoryCache, Selection
from gateway.store import cache_reader, sqlite_cache
from gateway.store.cache_entries import CacheFile, Clearing
from gateway.store.cache_file import connect, open_cache_file
from gateway.store.sqlite_cache import DiskCache
from tests.faults import faults
from tests.test_cache_entries import SECRET
from tests.test_cache_store import NOW, key, new_entry
from tests.test_store_faults import mounted

QUICK: dict[str, Any] = {
    "retry_s": (0.02, 0.1),
    "patience_s": 10,
    "upkeep_s": 0.05,
    "steady_s": 60,
    "clock": lambda: NOW,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@contextmanager
def opened(path: Path, max_bytes: int = 50_000_000, **settings: Any) -> Iterator[DiskCache]:
    cache = DiskCache(path, SECRET, max_bytes, **{**QUICK, **settings})
    try:
        cache.flush()
        yield cache
    finally:
        cache.close()


async def until(condition: Callable[[], bool], limit_s: float = 10) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


async def found(cache: DiskCache, *numbers: int) -> list[int]:
    """Those of the numbers whose entries are found."""
    return [number for number in numbers if await cache.get(key(number), NOW) is not None]


async def keeps_again(cache: DiskCache, number: int = 999) -> None:
    """Waits until the cache works."""
    async with asyncio.timeout(10):
        while True:
            if cache.put(key(number), new_entry(expires_at=9e9)):
                await asyncio.to_thread(cache.flush)
                if await found(cache, number):
                    return
            await asyncio.sleep(0.01)


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# what survives


async def test_an_entry_survives_a_restart(path: Path) -> None:
    entry = new_entry(os.urandom(100_000), streamed=True)
    with opened(path) as cache:
        assert cache.put(key(1), entry)
    with opened(path) as cache:
        assert await cache.get(key(1), NOW) == entry
        assert await cache.get(key(2), NOW) is None
        assert (cache.hits, cache.misses) == (1, 1)


async def test_an_entry_that_is_not_fresh_is_a_miss(path: Path) -> None:
    with opened(path) as cache:
        cache.put(key(1), new_entry())
        cache.flush()
        assert await cache.get(key(1), NOW + 6, max_age_s=5) is None
        assert await cache.get(key(1), NOW + 61) is None
        assert await cache.get(key(1), NOW + 59)


async def test_another_secret_finds_nothing_and_says_so_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(path) as cache:
        for number in range(5):
            cache.put(key(number), new_entry())
    other = DiskCache(path, bytes(32), 10**6, **QUICK)
    other.flush()
    assert await found(other, *range(5)) == []
    other.flush()
    other.close()
    with CacheFile(path) as file:
        assert file.entries() == []
    assert len(alarms(caplog)) == 1


WRITE_ON = """
import sys, time
from pathlib import Path
from gateway.store.sqlite_cache import DiskCache
from tests.test_cache_store import key, new_entry
from tests.test_sqlite_cache import body_of
from tests.test_cache_entries import SECRET
cache = DiskCache(Path(sys.argv[1]), SECRET, 3_000_000, max_queue_bytes=200_000)
number = int(sys.argv[2])
while True:
    if cache.put(key(number), new_entry(body_of(number), expires_at=9e9)):
        number += 1
        if number % 50 == 0:
            cache.flush()
            print(number, flush=True)
    else:
        time.sleep(0.001)
"""


def body_of(number: int) -> bytes:
    return random.Random(number).randbytes(number * 7919 % 9_000)


async def test_a_kill_in_the_middle_of_writing_leaves_only_whole_entries(path: Path) -> None:
    rng, start, whole = random.Random(), 0, 0
    for _ in range(5):
        command = [sys.executable, "-c", WRITE_ON, str(path), str(start)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        flushed = int(process.stdout.readline())
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        flushed = int(rest.split()[-1]) if len(rest.split()) and rest.endswith("\n") else flushed
        with opened(path, upkeep_s=9) as cache:
            assert cache.available
            for number in range(max(flushed - 150, start), flushed + 200):
                entry = await cache.get(key(number), NOW)
                assert entry is None or entry.body == body_of(number)
                assert entry is not None or not flushed - 50 <= number < flushed
                whole += entry is not None
        start = flushed + 1_000
    assert whole


# bounds


async def test_the_file_stays_within_its_bound_and_the_longest_unused_goes(path: Path) -> None:
    with opened(path, max_bytes=1_000_000) as cache:
        for number in range(300):
            cache.put(key(number), new_entry(os.urandom(10_000)))
            if number % 10 == 0:
                cache.touch(key(0), NOW + number)
                cache.flush()
        cache.flush()
        assert await found(cache, 0, 1, 2, 299) == [0, 299]
        assert cache.evictions > 190
    assert path.stat().st_size < 1_300_000


def test_what_is_too_large_is_refused(path: Path) -> None:
    with opened(path, max_bytes=1_000_000) as cache:
        assert not cache.put(key(1), new_entry(bytes(100_000)))
        assert cache.refused == 1


async def test_a_full_queue_refuses_and_nobody_waits(path: Path) -> None:
    with opened(path, max_queue_bytes=100_000) as cache, closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")  # the writer waits
        cache.put(key(0), new_entry())
        started = time.monotonic()
        taken = sum(cache.put(key(number), new_entry(bytes(9_000))) for number in range(1, 50))
        assert 1 <= taken <= 20
        assert time.monotonic() - started < 0.2
        other.execute("ROLLBACK")


async def test_text_that_is_none_is_dropped_and_the_rest_is_kept(path: Path) -> None:
    with opened(path) as cache:
        cache.put(key(1), new_entry(model="\ud800"))
        cache.put(key(2), new_entry())
        cache.flush()
        assert await found(cache, 1, 2) == [2]
        assert cache.available


# faults


async def test_any_flipped_byte_is_at_worst_a_miss_and_the_cache_goes_on(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [new_entry(random.randbytes(size), model=f"m-{size}") for size in (1, 300, 3_000, 9_000) * 5]
    with opened(path) as cache:
        for number, entry in enumerate(entries):
            cache.put(key(number), entry)
    whole = path.read_bytes()
    rng = random.Random(2)
    hits = 0
    heads = [page + at for page in range(0, len(whole), 4096) for at in (0, 3, 6)]
    for trial, at in enumerate([16, 18, 20, 28, 40, 60, 100, *heads, *(rng.randrange(len(whole)) for _ in range(60))]):
        copy = tmp_path / f"copy-{trial}.db"
        copy.write_bytes(whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :])
        caplog.clear()
        with opened(copy) as cache:
            for number, entry in enumerate(entries):
                got = await cache.get(key(number), NOW)
                assert got is None or got == entry
                hits += got is not None
            await keeps_again(cache)
        assert len(alarms(caplog)) <= 2
    assert hits > len(entries) * 50


async def test_a_file_that_is_removed_is_made_anew(path: Path) -> None:
    with opened(path) as cache:
        cache.put(key(1), new_entry())
        cache.flush()
        for each in path.parent.iterdir():
            each.unlink()
        await until(path.exists)
        await keeps_again(cache)
        assert await found(cache, 1) == []
    assert path.exists()


async def test_a_file_that_is_replaced_is_taken_up(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with opened(other) as cache:
        cache.put(key(2), new_entry())
    with opened(path) as cache:
        cache.put(key(1), new_entry())
        cache.flush()
        shutil.move(other, path)
        await asyncio.sleep(0.2)
        assert await found(cache, 1, 2) != [1, 2]  # the log that the old one left may be taken for the new one's
        await keeps_again(cache)


async def test_a_file_that_is_overwritten_in_place_is_at_worst_made_anew(path: Path) -> None:
    with opened(path) as cache:
        for number in range(20):
            cache.put(key(number), new_entry(os.urandom(5_000)))
        cache.flush()
        with path.open("r+b") as file:
            size = path.stat().st_size
            file.seek(4096)
            file.write(os.urandom(size - 4096))
        await found(cache, *range(20))
        await keeps_again(cache)


async def test_a_file_of_somebody_else_turns_the_cache_off_and_stays_as_it_is(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"precious" * 1_000)
    with opened(path) as cache:
        assert not cache.available
        assert not cache.put(key(1), new_entry())
        assert await cache.get(key(1), NOW) is None
        await asyncio.sleep(0.5)  # it is tried again
        assert path.read_bytes() == b"precious" * 1_000
        path.unlink()
        await keeps_again(cache)
    assert len(alarms(caplog)) == 1


async def test_without_its_directory_the_cache_is_off_until_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gone" / "cache.db"
    with opened(path) as cache:
        assert not cache.available
        path.parent.mkdir()
        await keeps_again(cache)
    assert len(alarms(caplog)) == 1


async def test_a_failure_is_told_when_it_begins_and_when_it_has_been_over_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gone" / "cache.db"
    with opened(path, steady_s=0.2) as cache:
        for _ in range(2):
            await asyncio.sleep(0.1)
            path.parent.mkdir()
            await keeps_again(cache)
            assert len(alarms(caplog)) == len(caplog.records) == 1
            shutil.rmtree(path.parent)
            await until(lambda: not cache.available)
        path.parent.mkdir()
        await keeps_again(cache)
        await asyncio.sleep(0.2)
        await keeps_again(cache)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "kept again" in caplog.records[1].getMessage()


async def test_a_locked_file_is_read_on_and_written_when_it_can_be(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as cache, closing(connect(path)) as other:
        cache.put(key(1), new_entry())
        cache.flush()
        other.execute("BEGIN IMMEDIATE")
        assert await found(cache, 1) == [1]
        cache.put(key(2), new_entry())
        await until(lambda: not cache.available)
        assert not cache.put(key(3), new_entry())
        other.execute("ROLLBACK")
        await keeps_again(cache)
        assert await found(cache, 1, 2, 3) == [1]
    assert len(alarms(caplog)) == 1
    assert "locked" in alarms(caplog)[0]


async def test_a_full_disk_turns_the_cache_off_and_space_turns_it_on_again(caplog: pytest.LogCaptureFixture) -> None:
    with mounted() as directory, opened(directory / "cache.db") as cache:
        number = 0
        async with asyncio.timeout(20):
            while cache.available:
                cache.put(key(number), new_entry(os.urandom(50_000)))
                number += 1
                await asyncio.sleep(0)
        await asyncio.sleep(0.3)
        for each in range(100):
            cache.put(key(number + each), new_entry(os.urandom(50_000)))
            await cache.get(key(each), NOW)
            await asyncio.sleep(0.003)
        assert len(alarms(caplog)) == 1
        for file in directory.glob("cache.db*"):
            file.unlink()
        await keeps_again(cache)


FILL_UP = """
import asyncio, os, sys
from pathlib import Path
from gateway.store.sqlite_cache import DiskCache
from tests.test_cache_store import NOW, key, new_entry
from tests.test_cache_entries import SECRET
from tests.test_sqlite_cache import keeps_again, QUICK

async def main():
    cache = DiskCache(Path(sys.argv[1]), SECRET, 50_000_000, **QUICK)
    await keeps_again(cache)
    print("kept", flush=True)
    number = 0
    while cache.available:
        cache.put(key(number), new_entry(os.urandom(50_000)))
        number += 1
        await asyncio.sleep(0.001)
    print("off", flush=True)
    await keeps_again(cache)
    print("on", flush=True)
    cache.close()

asyncio.run(main())
"""


def test_a_disk_that_says_it_is_full_turns_the_cache_off_for_as_long(path: Path) -> None:
    with faults() as fault:
        environ = {**os.environ, **fault.environ}
        command = [sys.executable, "-c", FILL_UP, str(path)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "kept\n"
            fault.disk_full = True
            assert process.stdout.readline() == "off\n"
            assert fault.struck["writes_refused"]
            time.sleep(0.3)
            fault.disk_full = False
            assert process.stdout.readline() == "on\n"
            assert process.wait(10) == 0
            assert process.stderr.read().count("no answers are kept") == 1


# a disk that stands still


async def test_a_disk_that_does_not_answer_is_a_miss_in_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(cache_reader, "find", lambda *_: go_on.wait(10) and None)
    with opened(path, patience_s=0.05) as cache:
        started = time.monotonic()
        looks = [cache.get(key(number), NOW) for number in range(cache_reader.MAX_READS)]
        assert await asyncio.gather(*looks) == [None] * len(looks)
        assert time.monotonic() - started < 1
        started = time.monotonic()
        assert await cache.get(key(1), NOW) is None  # and nobody queues behind them
        assert time.monotonic() - started < 0.04
        go_on.set()


async def test_whoever_is_cancelled_harms_no_other_look(path: Path) -> None:
    with opened(path) as cache:
        cache.put(key(1), new_entry())
        cache.flush()
        tasks = [asyncio.create_task(cache.get(key(1), NOW)) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result == new_entry() for result in results[1::2])
        assert await found(cache, 1) == [1]


# two processes, and commands


async def test_two_caches_share_a_file(path: Path) -> None:
    with opened(path) as one, opened(path) as other:
        for number in range(100):
            (one, other)[number % 2].put(key(number), new_entry(os.urandom(2_000)))
        one.flush()
        other.flush()
        assert await found(one, *range(100)) == await found(other, *range(100)) == list(range(100))


WRITE_BESIDE = WRITE_ON.replace("while True:", "while number < 2_000_000:", 1)


async def test_two_processes_share_a_file_while_commands_clear_it(path: Path) -> None:
    open_cache_file(path).close()
    command = [sys.executable, "-c", WRITE_BESIDE, str(path), "1000000"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        opened(path, clock=time.time) as cache,
    ):
        assert process.stdout is not None
        assert process.stdout.readline()
        for number in range(300):
            cache.put(key(number), new_entry(body_of(number), expires_at=9e9))
            if number % 60 == 0:
                with CacheFile(path) as file:
                    assert file.clear(Selection(), NOW) >= 0
            await asyncio.sleep(0.001)
        await asyncio.to_thread(cache.flush)
        for number in (*range(300), *range(1_000_000, 1_000_100)):
            entry = await cache.get(key(number), NOW)
            assert entry is None or entry.body == body_of(number)
        process.kill()
        await keeps_again(cache)


async def test_a_command_clears_what_waits_and_what_is_in_memory_too(path: Path) -> None:
    memory = MemoryCache(10**6)
    told: list[Clearing] = []
    with opened(path, upkeep_s=5, cleared=told.append) as cache:
        for account_id in (1, 2):
            entry = new_entry(account_id=account_id)
            memory.put(key(account_id), entry)
            cache.put(key(account_id), entry)
        cache.flush()
        with CacheFile(path) as file:
            assert file.clear(Selection(account_id=1), NOW + 1) == 1
        cache.put(key(3), new_entry(account_id=1))  # before the server has heard of it
        cache.put(key(4), new_entry(account_id=1, stored_at=NOW + 2))
        cache.flush()
        assert await found(cache, 1, 2, 3, 4) == [2, 4]
        (clearing,) = told
        assert memory.clear(clearing.selection, until=clearing.at) == 1
        assert [each.key for each in memory.entries()] == [key(2)]


# its cost


async def test_a_hit_costs_fractions_of_a_millisecond(path: Path) -> None:
    with opened(path) as cache:
        for number in range(500):
            cache.put(key(number), new_entry(os.urandom(3_000)))
        cache.flush()
        used_s = time.process_time()
        assert len(await found(cache, *range(500))) == 500
        cost_us = (time.process_time() - used_s) / 500 * 1e6
        print(f"{cost_us:.0f} us")
        assert cost_us < 2_000
        started = time.perf_counter()
        for number in range(500):
            cache.put(key(number), new_entry())
        print(f"put: {(time.perf_counter() - started) / 500 * 1e6:.1f} us")


def test_the_log_of_the_cache_is_its_own() -> None:
    assert sqlite_cache.log.name == "gateway.store.sqlite_cache"
