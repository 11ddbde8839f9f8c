"""Runs a call's coroutine without a task of the loop: each step in the very callback that made it possible.

A task costs a call some 3 µs and two more rounds of the loop. What needs one all the same (a timeout, a plugin's own
code) asks for it with `own_task()`. Knows nothing of calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Generator
from typing import Any

LOG = logging.getLogger("gateway.server")


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
    """Runs one coroutine at a time. A base of protocols; `ended` is theirs."""

    __slots__ = ("_coroutine", "_loop", "_task", "_waited")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._coroutine: Coroutine[Any, None, bool] | None = None
        # What the next step waits for: a future, a pause's mark, or a task that was made and has not begun. None while
        # the coroutine runs, and as long as a task runs it.
        self._waited: object = None
        self._task: asyncio.Task[None] | None = None

    def run(self, coroutine: Coroutine[Any, None, bool]) -> None:
        """Begins with the first step, outside of any task; the coroutine before must have ended."""
        self._coroutine = coroutine
        self._step(None)

    def ended(self, *, well: bool) -> None:
        """Hears of the coroutine's end: `well` is what it returned; False where it raised or was cancelled."""
        raise NotImplementedError

    def resume(self, waited: object) -> None:
        """Takes the next step, if it waits for this."""
        if waited is self._waited:
            self._step(None)

    def cancel(self) -> None:
        """Raises CancelledError where the coroutine waits, as a task's cancel() does. Not to be called by itself."""
        waited = self._waited
        if waited is not None:
            if waited is self._task:
                self._task = None
            self._step(asyncio.CancelledError())
            if isinstance(waited, asyncio.Future):  # a task is one: it has nothing to begin with now
                waited.cancel()
        elif self._task is not None:
            self._task.cancel()

    def _step(self, error: BaseException | None) -> None:
        coroutine = self._coroutine
        assert coroutine is not None  # noqa: S101  # cheaper than a cast
        self._waited = None
        try:
            waited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            self.ended(well=stop.value)
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001  # nobody awaits it
            self._failed(failure)
        else:
            self._wait_for(waited, coroutine)
        finally:
            error = None  # its traceback holds this frame: together they would wait for the garbage collector

    def _wait_for(self, waited: Any, coroutine: Coroutine[Any, None, bool]) -> None:
        """`waited` is what a task would be given: a future, or None for a mere pause."""
        if type(waited) is Waiter:
            waited.runner = self
        elif waited is None:
            waited = object()
            self._loop.call_soon(self.resume, waited)
        elif isinstance(waited, _OwnTask):
            # Not by the loop's factory, which may make tasks that begin at once, within this very step.
            waited = self._task = asyncio.Task(self._finish(_Started(coroutine)), loop=self._loop)
        elif asyncio.isfuture(waited):  # as a task does
            waited._asyncio_future_blocking = False  # noqa: SLF001
            waited.add_done_callback(self.resume)
        else:
            self._step(RuntimeError(f"a call cannot wait for {type(waited).__name__}"))
            return
        self._waited = waited

    async def _finish(self, started: _Started) -> None:
        self._waited = None
        try:
            well = await started
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001  # nobody awaits it
            self._task = None  # before the failure, whose traceback leads back to us
            self._failed(failure)
        else:
            self._task = None
            self.ended(well=well)

    def _failed(self, failure: BaseException) -> None:
        if not isinstance(failure, ConnectionError | asyncio.CancelledError):  # the client has left, or was cut off
            LOG.error("a connection failed: %s", type(failure).__name__)
        self.ended(well=False)


async def own_task() -> None:
    """Returns in a task: the one that runs already, or else a new one in which the Runner's coroutine goes on."""
    if asyncio.current_task() is None:
        await _OwnTask()


def is_cancelled() -> bool:
    """Whether somebody wants this task to end: what a plugin itself cancels raises the same error, and ends nothing."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class _OwnTask:
    """What a coroutine hands to its Runner to be put into a task."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        yield self


class _Started:
    """A coroutine that was begun elsewhere, to be awaited: `await` itself takes only one that was not."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, None, bool]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, None, bool]:
        return self._coroutine.__await__()
