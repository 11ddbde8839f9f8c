"""The call of a plugin's method: what it may return, what becomes of whatever else it does, and what it is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from gateway.config import Settings, StoreSettings
from gateway.errors import GatewayError
from gateway.hookspecs import MethodContext, MethodSpec
from gateway.own_methods import OwnMethods
from gateway.page_tokens import PageTokens
from gateway.store import SqliteStore, StoreError, open_store
from gateway.types import Account, Balance, Call, CallCounts, CallRecord, JsonValue, MethodRefused
from gateway.upstream.pool import Deadlines, Pool
from gateway.upstream.sharing import Flight

Handle: TypeAlias = "Callable[[Call, MethodContext], Awaitable[JsonValue | bytes]]"

NAME = "poems/get"
CALL = Call("1.6403f86cd67f6", "custom", NAME, "GET")
COUNTS = CallCounts(today=1, succeeded=2, empty=3, failed=4)
SECRET = "what the caller wrote"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with open_store(Settings(store=StoreSettings(url=f"sqlite:///{tmp_path}/gateway.db"))) as store:
        yield store


@pytest.fixture
def acme(store: SqliteStore) -> Account:
    return store.accounts.add(Account(0, "acme", "acme-key", bytes(32), balance_micros=5_000_000))


def methods(store: SqliteStore, handle: Handle, deadline_s: float = 30.0) -> OwnMethods:
    tokens = PageTokens(store.pepper.key_for("page tokens"))
    specs = {NAME: MethodSpec(NAME, handle), "poems/other": MethodSpec("poems/other", handle)}
    return OwnMethods(specs, store, lambda _: COUNTS, lambda _: 3, tokens, deadline_s)


def returning(value: JsonValue | bytes) -> Handle:
    async def handle(call: Call, context: MethodContext) -> JsonValue | bytes:
        return value

    return handle


def raising(error: BaseException) -> Handle:
    async def handle(call: Call, context: MethodContext) -> JsonValue:
        raise error

    return handle


async def refusal(own: OwnMethods, account: Account) -> tuple[str, str]:
    with pytest.raises(GatewayError) as caught:
        await own.answer(CALL, account, has_files=False)
    return caught.value.code.code, caught.value.reason


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, None, "向"]}, '{"a":[1,null,"向"]}'),
        (None, "null"),
        ("text", '"text"'),
        (b'{"a": 1.50}', '{"a": 1.50}'),
    ],
)
async def test_a_value_or_json_text_becomes_the_answer(
    store: SqliteStore, acme: Account, value: JsonValue | bytes, text: str
) -> None:
    """A text stays as it was written."""
    answer = await methods(store, returning(value)).answer(CALL, acme, has_files=False)
    assert (answer.code.code, answer.status, answer.json) == ("0000", 200, text.encode())


async def test_a_refusal_is_told_as_the_plugin_put_it(store: SqliteStore, acme: Account) -> None:
    for code, reason, param in (("4003", "size is too large", "size"), ("2000", "", None)):
        with pytest.raises(GatewayError) as caught:
            await methods(store, raising(MethodRefused(code, reason, param))).answer(CALL, acme, has_files=False)
        assert (caught.value.code.code, caught.value.reason, caught.value.param) == (code, reason, param)


@pytest.mark.parametrize("code", ["0000", "9999", ""])
async def test_a_refusal_with_a_code_that_is_no_error_s_is_4000(
    store: SqliteStore, acme: Account, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = methods(store, raising(MethodRefused(code, "why")))
    assert await refusal(own, acme) == ("4000", "the method poems/get failed")
    assert "the method poems/get refused a call" in caplog.text


@pytest.mark.parametrize(
    "error",
    [ValueError(SECRET), ConnectionResetError(SECRET), TimeoutError(), SystemExit(3), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_else_it_raises_is_4000_and_the_log_names_method_and_place(
    store: SqliteStore, acme: Account, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """A ConnectionError, above all, is not taken for a client that has left."""
    assert await refusal(methods(store, raising(error)), acme) == ("4000", "the method poems/get failed")
    assert f"the method poems/get raised {type(error).__name__} at {__file__}:" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("value", [b"{", b"\xff", {1: 2}, {"a": {1}}, {"a": 2**70}, "\ud800", object()])
async def test_what_is_no_json_is_4000(store: SqliteStore, acme: Account, value: JsonValue | bytes) -> None:
    assert await refusal(methods(store, returning(value)), acme) == ("4000", "the method poems/get failed")


async def test_a_handler_that_is_not_async_is_4000(store: SqliteStore, acme: Account) -> None:
    own = methods(store, lambda call, context: {"a": 1})  # type: ignore[arg-type,return-value]  # that is what is tested
    assert (await refusal(own, acme))[0] == "4000"


async def test_an_answer_that_no_format_can_say_is_5000(store: SqliteStore, acme: Account) -> None:
    code, reason = await refusal(methods(store, returning(b"[" * 251 + b"]" * 251)), acme)
    assert code == "5000"
    assert "nests deeper" in reason


async def test_a_handler_that_takes_too_long_is_4000(
    store: SqliteStore, acme: Account, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(call: Call, context: MethodContext) -> JsonValue:
        await asyncio.Event().wait()
        return None

    own = methods(store, handle, deadline_s=0.05)
    assert await refusal(own, acme) == ("4000", "the method poems/get took longer than 0.05 s")
    assert "the method poems/get took longer" in caplog.text


async def test_a_client_that_leaves_cancels_the_handler(store: SqliteStore, acme: Account) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(call: Call, context: MethodContext) -> JsonValue:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return None

    task = asyncio.create_task(methods(store, handle).answer(CALL, acme, has_files=False))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_file_is_refused(store: SqliteStore, acme: Account) -> None:
    with pytest.raises(GatewayError, match="4003 poems/get takes no file"):
        await methods(store, returning(None)).answer(CALL, acme, has_files=True)


async def test_the_balance_is_the_store_s_at_that_moment(store: SqliteStore, acme: Account) -> None:
    """Not that of the account as the call found it."""
    told: list[Balance] = []

    async def handle(call: Call, context: MethodContext) -> JsonValue:
        assert context.account is acme
        told.append(await context.balance())
        return None

    store.accounts.top_up("acme", 7_000_000)
    store._connection.execute(
        "UPDATE accounts SET held_micros = 3;"
        "INSERT INTO holds VALUES (1, :id, 1, '1.0', 'custom', 'v1/x', NULL, 0, ''),"
        "                         (2, :id, 2, '1.1', 'custom', 'v1/x', NULL, 0, '')",
        {"id": acme.id},
    )
    await methods(store, handle).answer(CALL, acme, has_files=False)
    assert told == [Balance(12_000_000, 3, COUNTS, running=3)]
    assert told[0].available_micros == 11_999_997


async def test_a_store_that_fails_is_4000_and_the_log_says_why(
    store: SqliteStore, acme: Account, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(call: Call, context: MethodContext) -> JsonValue:
        await context.balance()
        return None

    store.accounts.delete("acme")
    assert await refusal(methods(store, handle), acme) == ("4000", "the gateway's store is out of reach")
    assert caplog.record_tuples == [
        ("gateway.methods", logging.ERROR, f"the store cannot be asked: no account has the id {acme.id}")
    ]
    with pytest.raises(StoreError):
        store.account(acme.id)


async def test_the_calls_are_the_account_s_own(store: SqliteStore, acme: Account) -> None:
    other = store.accounts.add(Account(0, "other", "other-key", bytes(32)))
    for id_, account in enumerate((acme, other, acme, other, acme), start=1):
        store.append(record(id_, account))
    assert store.flush()
    told: list[list[int]] = []

    async def handle(call: Call, context: MethodContext) -> JsonValue:
        for before_id, limit in ((None, 9), (None, 2), (5, 9), (1, 9)):
            told.append([each.id for each in await context.calls(before_id, limit)])
        return None

    await methods(store, handle).answer(CALL, acme, has_files=False)
    assert told == [[5, 3, 1], [5, 3], [3, 1], []]


def record(id_: int, account: Account) -> CallRecord:
    return CallRecord(
        id=id_,
        request_id=f"1.{id_}",
        account_id=account.id,
        front="custom",
        method="v1/models",
        model=None,
        outcome="0000",
        status=200,
        streamed=False,
        cut=False,
        started_at=time.time(),
        duration_s=0.1,
        first_byte_s=None,
        sent_bytes=10,
    )


async def test_a_page_token_is_good_for_the_list_that_gave_it(store: SqliteStore, acme: Account) -> None:
    """A token of another method is 4015."""

    async def handle(call: Call, context: MethodContext) -> JsonValue:
        token = call.arguments.values.get("pageToken")
        return context.position(token) if isinstance(token, str) else context.page_token(7)

    own = methods(store, handle)
    answer = await own.answer(CALL, acme, has_files=False)
    token = (answer.json or b"").strip(b'"').decode()
    arguments = type(CALL.arguments)(b"{}", {"pageToken": token})
    again = Call("1.0", "custom", NAME, "GET", arguments)
    assert (await own.answer(again, acme, has_files=False)).json == b"7"
    with pytest.raises(GatewayError, match="4015") as caught:
        await own.answer(Call("1.0", "custom", "poems/other", "GET", arguments), acme, has_files=False)
    assert caught.value.param == "pageToken"


# Streams


async def streamed(own: OwnMethods, account: Account) -> bytes:
    """What a method's stream comes to; raises what it fails with."""
    pool = Pool("127.0.0.1", 9, None, Deadlines(1, 1, 1, 1, 1))
    link = Flight(pool, own.events(CALL, account), 0, lambda _: None, lambda _: None).join()
    try:
        head = await link.answer()
        assert head.media_type == b"text/event-stream"
        return b"".join([piece async for piece in link.pieces()])
    finally:
        pool.release(link)
        pool.close()


def streaming(store: SqliteStore, *values: JsonValue | BaseException) -> OwnMethods:
    """A method that gives these one after the other, or raises them."""

    async def stream(call: Call, context: MethodContext) -> AsyncIterator[JsonValue]:
        for value in values:
            if isinstance(value, BaseException):
                raise value
            yield value

    spec = MethodSpec(NAME, returning(None), stream)
    return OwnMethods({NAME: spec}, store, lambda _: COUNTS, lambda _: 3, PageTokens(bytes(32)))


async def test_each_value_of_a_stream_is_an_event_and_its_end_is_told(store: SqliteStore, acme: Account) -> None:
    own = streaming(store, {"a": 1}, "two\nlines", None)
    assert await streamed(own, acme) == b'data: {"a":1}\n\ndata: "two\\nlines"\n\ndata: null\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([], "2000"),
        ([MethodRefused("4003", "why")], "4003"),
        ([ValueError(SECRET)], "4000"),
        ([asyncio.CancelledError()], "4000"),
        ([{"a": 1}, ValueError(SECRET)], "4000"),
        ([{"a": 1}, MethodRefused("4003", "why")], "4003"),
        ([{1: 2}], "4000"),
    ],
)
async def test_a_stream_that_fails_is_never_a_whole_one(
    store: SqliteStore, acme: Account, values: list[JsonValue | BaseException], code: str
) -> None:
    with pytest.raises(GatewayError) as caught:
        await streamed(streaming(store, *values), acme)
    assert caught.value.code.code == code


async def test_a_client_that_leaves_a_stream_ends_it(store: SqliteStore, acme: Account) -> None:
    ended = asyncio.Event()

    async def stream(call: Call, context: MethodContext) -> AsyncIterator[JsonValue]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.set()

    own = OwnMethods(
        {NAME: MethodSpec(NAME, returning(None), stream)}, store, lambda _: COUNTS, lambda _: 3, PageTokens(bytes(32))
    )
    pool = Pool("127.0.0.1", 9, None, Deadlines(1, 1, 1, 1, 1))
    link = Flight(pool, own.events(CALL, acme), 0, lambda _: None, lambda _: None).join()
    await link.answer()
    pool.release(link)
    async with asyncio.timeout(2):
        await ended.wait()
    pool.close()


# Jobs


async def test_a_method_that_does_not_say_so_cannot_submit_jobs(store: SqliteStore, acme: Account) -> None:
    async def handle(call: Call, context: MethodContext) -> JsonValue:
        return await context.submit_job("x", {})

    assert (await refusal(methods(store, handle), acme))[0] == "4000"


async def test_without_a_backend_there_are_no_jobs(store: SqliteStore, acme: Account) -> None:
    async def handle(call: Call, context: MethodContext) -> JsonValue:
        await context.job("1234567890123456")
        return None

    assert (await refusal(methods(store, handle), acme))[0] == "4010"
