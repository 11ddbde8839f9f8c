"""Runs a call's coroutine without a task of the loop: each step in the very callback that made it possible.

A task costs a call some 3 µs and two more rounds of the loop. What needs one all the same (a timeout, a plugin's own
code) asks for it with `own_task()`. Knows nothing of calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class Waiter(asyncio.Future[None]):
    """A future that its maker completes with `wake`: a Runner that waits for it goes on at once, a task as ever."""

    runner: Runner | None = None

    def wake(self) -> None:
        """Completes the future, if it is not yet. To be called by the loop's callbacks, never from within a task."""
        if not self.done():
            self.set_result(None)
            if self.runner is not None:
                self.runner.resume(self)


class Runner:
    """Runs one coroutine at a time, which must see to its own errors: nobody awaits it. A base of protocols."""

    __slots__ = ("_coroutine", "_loop", "_task", "_waited")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._coroutine: Coroutine[Any, None, None] | None = None
        self._waited: object = None  # what the next step waits for
        self._task: asyncio.Task[None] | None = None

    def run(self, coroutine: Coroutine[Any, None, None]) -> None:
        """Begins with the first step, outside of any task; the coroutine before must have ended."""
        self._coroutine = coroutine
        self._step(None)

    def resume(self, waited: object) -> None:
        """Takes the next step, if it waits for this."""
        if waited is self._waited:
            self._step(None)

    def cancel(self) -> None:
        """Raises CancelledError where the coroutine waits, as a task's cancel() does. Not to be called by itself."""
        if self._task is not None:
            self._task.cancel()
        elif self._waited is not None:
            waited = self._waited
            self._step(asyncio.CancelledError())
            if isinstance(waited, asyncio.Future):
                waited.cancel()

    def _step(self, error: BaseException | None) -> None:
        coroutine = self._coroutine
        assert coroutine is not None  # noqa: S101  # cheaper than a cast
        self._waited = None
        try:
            waited = coroutine.send(None) if error is None else coroutine.throw(error)
        except (StopIteration, asyncio.CancelledError):
            return
        finally:
            error = None  # its traceback holds this frame: together they would wait for the garbage collector
        if type(waited) is Waiter:
            waited.runner = self
        elif waited is None:  # sleep(0)
            waited = object()
            self._loop.call_soon(self.resume, waited)
        elif isinstance(waited, _OwnTask):
            self._task = self._loop.create_task(self._finish(_Started(coroutine)))
            return
        else:  # what a task would do with a future
            waited._asyncio_future_blocking = False  # noqa: SLF001
            waited.add_done_callback(self.resume)
        self._waited = waited

    async def _finish(self, started: _Started) -> None:
        try:
            await started
        except asyncio.CancelledError:
            pass
        finally:
            self._task = None  # its error's traceback leads back to us


async def own_task() -> None:
    """Returns in a task: the one that runs already, or else a new one in which the Runner's coroutine goes on."""
    if asyncio.current_task() is None:
        await _OwnTask()


class _OwnTask:
    """What a coroutine hands to its Runner to be put into a task."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        yield self


class _Started:
    """A coroutine that was begun elsewhere, to be awaited: `await` itself takes only one that was not."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, None, None]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, None, None]:
        return self._coroutine.__await__()
