"""A Runner's coroutine goes on where it is woken, in a task where it asks for one, and ends as a task would end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.running import Runner, Waiter, own_task


class Recorder(Runner):
    """A Runner that notes how its coroutines ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.ends: list[bool] = []

    def ended(self, *, well: bool) -> None:
        self.ends.append(well)


async def in_a_callback(work: Callable[[], object]) -> None:
    """Does the work as the loop does a protocol's: outside of any task."""
    done = asyncio.get_running_loop().create_future()

    def call() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # the test is told
            done.set_exception(error)
        else:
            done.set_result(None)

    asyncio.get_running_loop().call_soon(call)
    await done


@pytest.fixture
async def runner() -> Recorder:
    return Recorder(asyncio.get_running_loop())


async def test_the_steps_are_taken_where_they_are_caused_and_no_task_runs(runner: Recorder) -> None:
    waiter = Waiter()
    steps: list[str] = []

    async def coroutine() -> bool:
        steps.append("begun")
        assert asyncio.current_task() is None
        await waiter
        steps.append("woken")
        return True

    def work() -> None:
        runner.run(coroutine())
        assert (steps, runner.ends) == (["begun"], [])
        waiter.wake()
        assert (steps, runner.ends) == (["begun", "woken"], [True])
        waiter.wake()
        assert runner.ends == [True]

    await in_a_callback(work)


async def test_futures_and_pauses_are_waited_for_as_a_task_waits(runner: Recorder) -> None:
    future = asyncio.get_running_loop().create_future()

    async def coroutine() -> bool:
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="no"):
            await future
        return False

    await in_a_callback(lambda: runner.run(coroutine()))
    await asyncio.sleep(0)
    future.set_exception(OSError("no"))
    await asyncio.sleep(0.01)
    assert runner.ends == [False]


async def test_a_coroutine_that_asks_for_a_task_goes_on_in_one(runner: Recorder) -> None:
    waiter = Waiter()

    async def coroutine() -> bool:
        await waiter
        await own_task()
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        await own_task()  # it has one now
        return asyncio.current_task() is task

    await in_a_callback(lambda: runner.run(coroutine()))
    await in_a_callback(waiter.wake)
    assert runner.ends == []
    await asyncio.sleep(0.05)
    assert runner.ends == [True]


async def test_a_waiter_serves_a_task_too() -> None:
    waiter = Waiter()
    waiting = asyncio.create_task(asyncio.wait_for(waiter, 5))
    await asyncio.sleep(0)
    waiter.wake()
    await waiting


async def at_a_waiter() -> bool:
    await Waiter()
    return True


async def at_a_future() -> bool:
    await asyncio.get_running_loop().create_future()
    return True


async def at_a_pause() -> bool:
    await asyncio.sleep(0)
    return True


async def in_a_task() -> bool:
    await own_task()
    await asyncio.Event().wait()
    return True


PLACES = [at_a_waiter, at_a_future, at_a_pause, in_a_task]


@pytest.mark.parametrize("place", PLACES)
async def test_cancelling_ends_the_coroutine_wherever_it_waits(
    runner: Recorder, place: Callable[[], Coroutine[Any, None, bool]]
) -> None:
    cleaned = []

    async def coroutine() -> bool:
        try:
            return await place()
        finally:
            cleaned.append(True)

    def work() -> None:
        runner.run(coroutine())
        if place is not in_a_task:
            runner.cancel()

    await in_a_callback(work)
    await asyncio.sleep(0.01)
    runner.cancel()
    await asyncio.sleep(0.01)
    assert (runner.ends, cleaned) == ([False], [True])
    runner.cancel()  # nothing is left to cancel
    assert runner.ends == [False]


async def test_a_task_that_has_not_begun_is_cancelled_with_its_coroutine(runner: Recorder) -> None:
    """The client may leave between the step that asks for a task and the task's first own."""
    cleaned = []

    async def coroutine() -> bool:
        try:
            await own_task()
        finally:
            cleaned.append(True)
        return True

    def work() -> None:
        runner.run(coroutine())
        assert (runner.ends, cleaned) == ([], [])
        runner.cancel()
        assert (runner.ends, cleaned) == ([False], [True])

    await in_a_callback(work)
    await asyncio.sleep(0.01)
    assert (runner.ends, cleaned) == ([False], [True])
    await in_a_callback(lambda: runner.run(coroutine()))  # the next call is none the worse for it
    await asyncio.sleep(0.01)
    assert (runner.ends, cleaned) == ([False, True], [True, True])


async def test_what_nobody_can_wait_for_is_an_error_of_its_coroutine(runner: Recorder) -> None:
    class Odd:
        def __await__(self) -> Iterator[object]:
            yield "odd"

    async def coroutine() -> bool:
        with pytest.raises(RuntimeError, match="cannot wait for str"):
            await Odd()  # type: ignore[misc]  # not even a generator
        return True

    await in_a_callback(lambda: runner.run(coroutine()))
    assert runner.ends == [True]


async def test_a_coroutine_may_clean_up_slowly_when_it_is_cancelled(runner: Recorder) -> None:
    settled = Waiter()

    async def coroutine() -> bool:
        try:
            await Waiter()
        finally:
            await settled
        return True

    def work() -> None:
        runner.run(coroutine())
        runner.cancel()

    await in_a_callback(work)
    assert runner.ends == []
    await in_a_callback(settled.wake)
    assert runner.ends == [False]


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize(("error", "told"), [(ConnectionResetError("gone"), False), (ValueError("a secret"), True)])
async def test_an_error_is_an_end_and_told_without_its_text(
    runner: Recorder, asks: bool, error: Exception, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def coroutine() -> bool:
        if asks:
            await own_task()
        raise error

    await in_a_callback(lambda: runner.run(coroutine()))
    await asyncio.sleep(0.01)
    assert runner.ends == [False]
    assert ("ValueError" in caplog.text) is told
    assert "secret" not in caplog.text


@contextmanager
def no_garbage() -> Iterator[None]:
    """What is done within leaves nothing to the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("place", PLACES)
async def test_nothing_is_left_to_the_garbage_collector(place: Callable[[], Coroutine[Any, None, bool]]) -> None:
    loop = asyncio.get_running_loop()

    async def cancelled() -> None:
        runner = Recorder(loop)
        await in_a_callback(lambda: runner.run(place()))
        if place is in_a_task:
            await asyncio.sleep(0.01)
        await in_a_callback(runner.cancel)
        await asyncio.sleep(0.01)
        assert len(runner.ends) == 1

    await cancelled()  # what is made once is made now
    with no_garbage():
        await cancelled()
