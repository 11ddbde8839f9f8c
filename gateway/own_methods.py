"""Methods that the gateway answers itself: a plugin is called, and asks what it needs of the account that calls.

Whatever a plugin does becomes an answer to its own call or a clear error of it. Knows nothing of how an answer is
written.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import orjson

from gateway.errors import ERROR_CODES, GatewayError
from gateway.formatting import check_json
from gateway.fronts.writing import JSON_TYPE, Whole
from gateway.hookspecs import MethodContext, MethodSpec
from gateway.job_opening import JobOpening
from gateway.page_tokens import PageTokens
from gateway.progress import SUCCESS
from gateway.running import is_cancelled, own_task
from gateway.store.interface import StoreError
from gateway.types import (
    Account,
    Balance,
    Call,
    CallCounts,
    CallRecord,
    Job,
    JsonValue,
    MethodRefused,
    RenderingRefused,
)
from gateway.upstream.head import parse_head
from gateway.upstream.sharing import Flight, Source

LOG = logging.getLogger("gateway.methods")

DEADLINE_S = 30.0
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_UNANSWERED = (Exception, SystemExit, asyncio.CancelledError)  # a plugin is a boundary

_T = TypeVar("_T")


class Books(Protocol):
    """What methods are told of a store. It may block; it is asked in a thread."""

    def account(self, account_id: int) -> Account: ...

    def calls(self, *, account_id: int | None, before_id: int | None, limit: int) -> Sequence[CallRecord]: ...


class Jobs(Protocol):
    """What methods may ask of image jobs."""

    async def submit(
        self, opening: JobOpening, prompt: str, arguments: Mapping[str, JsonValue], notify: str | None
    ) -> str: ...

    async def job(self, account_id: int, imgid: str, wait_s: float) -> Job | None: ...

    def changes(self, account_id: int, imgid: str) -> AsyncIterator[Job]: ...

    async def jobs(self, account_id: int, before_id: int | None, limit: int) -> Sequence[Job]: ...


@dataclass(frozen=True, slots=True)
class OwnMethods:
    """The methods by their names, and where they find what they ask for; put together once, at start.

    `running` tells how many calls of an account are open, by its id; it may block, and is asked in a thread.
    """

    specs: Mapping[str, MethodSpec]
    books: Books
    counts: Callable[[Account], CallCounts]
    running: Callable[[int], int]
    tokens: PageTokens
    deadline_s: float = DEADLINE_S
    jobs: Jobs | None = None  # None: the operator wants none

    async def answer(
        self, call: Call, account: Account, *, has_files: bool, opening: JobOpening | None = None
    ) -> Whole:
        """What the call's method answers. Raises what the plugin refuses with, 4000 where it fails or takes too long,
        5000 for an answer that no format can say.
        """
        refuse_files(call, has_files=has_files)
        await own_task()
        deadline = asyncio.timeout(self.deadline_s)
        try:
            async with deadline:
                given = await self.specs[call.method].handle(call, _Context(self, account, call.method, opening))
            text = _text(given)
        except GatewayError:  # of the context
            raise
        except _UNANSWERED as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            raise _error_of(call.method, error, self.deadline_s if deadline.expired() else None) from error
        return Whole(SUCCESS, 200, JSON_TYPE, text, text)

    def opens_job(self, method: str) -> bool:
        """Whether calls of a method, which need not be one of these, submit image jobs."""
        spec = self.specs.get(method)
        return spec is not None and spec.opens_jobs

    def streams(self, call: Call) -> bool:
        """Whether the call's method answers it in events."""
        return call.stream and self.specs[call.method].stream is not None

    def events(self, call: Call, account: Account) -> Source:
        """A source of what the call's method streams. It fails as `answer` does."""
        stream = self.specs[call.method].stream
        assert stream is not None  # noqa: S101  # as `streams` has told
        context: MethodContext = _Context(self, account, call.method, None)

        async def play(flight: Flight) -> None:
            begun = False
            try:
                async for value in stream(call, context):
                    if not begun:
                        flight.begin(parse_head(_STREAM_HEAD))
                        begun = True
                    flight.feed(b"data: %b\n\n" % _text(value).replace(b"\n", b" "))
                    await flight.room()
            except GatewayError:  # of the context
                raise
            except _UNANSWERED as error:
                if isinstance(error, asyncio.CancelledError) and is_cancelled():
                    raise
                raise _error_of(call.method, error, None) from error
            if not begun:
                raise GatewayError("2000", "")
            flight.feed(b"data: [DONE]\n\n")

        return play


def refuse_files(call: Call, *, has_files: bool) -> None:
    """Raises 4003 for a call that brings a file."""
    if has_files:
        raise GatewayError("4003", f"{call.method} takes no file")


class _Context:
    """The MethodContext of one call."""

    __slots__ = ("_account", "_method", "_opening", "_own")

    def __init__(self, own: OwnMethods, account: Account, method: str, opening: JobOpening | None) -> None:
        self._own = own
        self._account = account
        self._method = method
        self._opening = opening

    @property
    def account(self) -> Account:
        return self._account

    async def balance(self) -> Balance:
        now, running = await _in_thread(self._money)
        return Balance(now.balance_micros, now.held_micros, self._own.counts(self._account), running)

    async def calls(self, before_id: int | None, limit: int) -> Sequence[CallRecord]:
        own = self._own.books
        return await _in_thread(partial(own.calls, account_id=self._account.id, before_id=before_id, limit=limit))

    async def submit_job(self, prompt: str, arguments: Mapping[str, JsonValue], notify: str | None = None) -> JsonValue:
        opening = self._opening
        if opening is None or opening.opened:
            raise RuntimeError("a call of a method with opens_jobs submits one job")
        return {"imgid": await self._jobs.submit(opening, prompt, arguments, notify)}

    async def job(self, imgid: str, wait_s: float = 0.0) -> Job | None:
        return await self._jobs.job(self._account.id, imgid, wait_s)

    def job_changes(self, imgid: str) -> AsyncIterator[Job]:
        return self._jobs.changes(self._account.id, imgid)

    async def jobs(self, before_id: int | None, limit: int) -> Sequence[Job]:
        return await self._jobs.jobs(self._account.id, before_id, limit)

    @property
    def _jobs(self) -> Jobs:
        if self._own.jobs is None:
            raise GatewayError("4010", "the operator has nobody who makes images", param="method")
        return self._own.jobs

    def page_token(self, position: int) -> str:
        return self._own.tokens.give(self._account.id, self._method, position)

    def position(self, token: str) -> int:
        position = self._own.tokens.read(self._account.id, self._method, token)
        if position is None:
            raise MethodRefused("4015", "pageToken is not one that this account was given for this list", "pageToken")
        return position

    def _money(self) -> tuple[Account, int]:
        return self._own.books.account(self._account.id), self._own.running(self._account.id)


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Asks the store. A store that fails is a fault of ours, not of the plugin that asks."""
    try:
        return await asyncio.to_thread(work)
    except StoreError as error:
        LOG.error("the store cannot be asked: %s", error)
        raise GatewayError("4000", "the gateway's store is out of reach") from error


def _text(given: JsonValue | bytes) -> bytes:
    """A plugin's answer as JSON. GatewayError 5000 for what is too deep; any other error is the plugin's fault."""
    text = given if isinstance(given, bytes) else orjson.dumps(given)
    try:
        check_json(text)
    except RenderingRefused as error:
        raise GatewayError("5000", f"the answer cannot be rendered: {error}") from error
    return text


def _error_of(method: str, error: BaseException, deadline_s: float | None) -> GatewayError:
    """What a client is told of whatever a plugin raised."""
    return _refused(method, error) if isinstance(error, MethodRefused) else _failed(method, error, deadline_s)


def _refused(method: str, refusal: MethodRefused) -> GatewayError:
    row = ERROR_CODES.get(refusal.code)
    if row is None or row is SUCCESS:
        LOG.error("the method %s refused a call with %.20r, which is no code of an error", method, refusal.code)
        return GatewayError("4000", f"the method {method} failed")
    return GatewayError(row.code, refusal.reason, param=refusal.param)


def _failed(method: str, error: BaseException, deadline_s: float | None) -> GatewayError:
    """The error of a plugin that did not answer; `deadline_s` is given where that was why."""
    if deadline_s is not None:
        LOG.error("the method %s took longer than %g s", method, deadline_s)
        return GatewayError("4000", f"the method {method} took longer than {deadline_s:g} s")
    # Neither the message nor the traceback's lines: both may hold what the caller sent.
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    LOG.error("the method %s raised %s at %s:%d", method, type(error).__name__, frame.f_code.co_filename, line)
    return GatewayError("4000", f"the method {method} failed")
