"""`account/balance` and `account/calls`, asked of a running gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import phpserialize  # type: ignore[import-untyped]  # ships no types
import pytest

from gateway.config import load_settings
from gateway.store import open_store
from tests.chaos import Chaos, answer, json_answer
from tests.support import Answer, Gateway, call, custom_path, gateway_before_chaos, native

NO_LIMITS = {"concurrency": None, "per_minute": None, "tokens_per_minute": None, "per_day": None, "total": None}
NOTHING = {
    "balance": "0", "held": "0", "available": "0", "calls_today": 0, "calls_total": 0, "running": 0,
    "limits": NO_LIMITS, "expires": None,
}  # fmt: skip
USAGE = {"usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}}
PLEASE = {"messages": [{"role": "user", "content": "Hi"}], "model": "gpt-4o-mini"}


@dataclass(frozen=True)
class Caller:
    """An account of its own, and the path of its calls."""

    gateway: Gateway
    path: str

    async def ask(self, method: str, verb: str = "GET", **flat: str) -> Answer:
        """A call with its arguments flat."""
        return await call(self.gateway, verb, f"{self.path}&{urlencode({'method': method, **flat})}")

    async def told(self, method: str, **flat: str) -> Any:
        got = await self.ask(method, **flat)
        assert got.json["error_code"] == "0000", got.json
        return got.json["response"]

    async def code(self, method: str, **flat: str) -> str:
        got = await self.ask(method, **flat)
        code: str = got.json["error_code"]
        assert got.headers["x-error-code"] == code
        return code

    async def logged(self, count: int) -> list[dict[str, Any]]:
        """The calls of the upstream's methods, as soon as there are so many of them in the log."""
        async with asyncio.timeout(20):
            while True:
                told = await self.told("account/calls", limit="100")
                rows = [row for row in told["calls"] if row["method"].startswith("v1/")]
                if len(rows) >= count:
                    return rows
                await asyncio.sleep(0.05)  # each look adds a row


async def opened(gateway: Gateway, name: str, *options: str) -> Caller:
    """A new account, once the server knows it; one call of account/balance stands in its log."""
    account = json.loads(gateway.cli("accounts", "add", name, *options, "--json"))
    caller = Caller(gateway, "/openai/custom/?" + urlencode({"key": account["key"], "secret": account["secret"]}))
    async with asyncio.timeout(20):
        while await caller.code("account/balance") == "4004":
            await asyncio.sleep(0.05)
    return caller


@pytest.fixture(scope="module")
def own_gateway() -> Iterator[Gateway]:
    with gateway_before_chaos('[methods]\nclosed = ["v1/audio/*"]') as running:
        yield running


@pytest.fixture
async def upstream(own_gateway: Gateway) -> AsyncIterator[Chaos]:
    async with Chaos(json_answer({"object": "list"}), port=own_gateway.upstream_port) as chaos:
        yield chaos


# account/balance


async def test_the_balance_is_asked_by_get_and_by_post(own_gateway: Gateway) -> None:
    caller = await opened(own_gateway, "asks")
    for got in (
        await caller.ask("account/balance"),
        await caller.ask("account/balance", "POST"),
        await call(own_gateway, "POST", caller.path, b"method=account/balance"),
        await call(own_gateway, "POST", caller.path, {"method": "account/balance", "_o_args": {"any": "thing"}}),
        await call(own_gateway, "GET", f"{caller.path}&method=/account%2Fbalance/&stream=true&cache=no"),
    ):
        assert list(got.json["response"].items()) == list(NOTHING.items())
        assert [got.json[name] for name in ("error", "reason", "error_code")] == ["", "", "0000"]
        assert (got.status, got.headers["x-last-id"]) == (200, got.json["last_id"])
        assert got.headers["content-type"] == "application/json"


async def test_a_head_is_answered_without_a_body(own_gateway: Gateway) -> None:
    got = await (await opened(own_gateway, "heads")).ask("account/balance", "HEAD")
    assert (got.status, got.headers["x-error-code"], got.body) == (200, "0000", b"")


async def test_money_is_told_as_it_is_at_that_moment_and_to_the_millionth(own_gateway: Gateway) -> None:
    caller = await opened(own_gateway, "pays", "--balance", "12.5")
    told = await caller.told("account/balance")
    assert (told["balance"], told["held"], told["available"]) == ("12.5", "0", "12.5")
    with open_store(load_settings(own_gateway.config_path, {})) as store:
        store.accounts.top_up("pays", 900_000_000_000_000_001)
    assert (await caller.told("account/balance"))["available"] == "900000000012.500001"


async def test_limits_and_expiry_are_told(own_gateway: Gateway) -> None:
    options = {"--concurrency": "2", "--per-minute": "30", "--per-day": "400", "--total": "5000"}
    caller = await opened(own_gateway, "limited", "--expires", "2099-12-31", *chain.from_iterable(options.items()))
    told = await caller.told("account/balance")
    assert told["limits"] == {**NO_LIMITS, "concurrency": 2, "per_minute": 30, "per_day": 400, "total": 5000}
    assert told["expires"] == "2099-12-31"


async def test_calls_are_counted_and_these_are_not(own_gateway: Gateway, upstream: Chaos) -> None:
    """Neither in the balance's answer nor in version 2's api_info."""
    caller = await opened(own_gateway, "counts")
    for _ in range(3):
        await caller.told("v1/models")
    assert await caller.code("v1/audio/speech", input="x", voice="alloy") == "4010"
    await caller.told("account/calls")
    told = await caller.told("account/balance")
    assert (told["calls_today"], told["calls_total"]) == (3, 3)
    assert (await caller.ask("account/balance", version="2")).json["api_info"] == "today:3 max:unlimited all[3=3+0+0]"


async def test_every_format_says_it(own_gateway: Gateway) -> None:
    caller = await opened(own_gateway, "formats", "--balance", "1.25")
    got = {name: (await caller.ask("account/balance", result_type=name)).body for name in (
        "json", "jsonu", "xml", "serialize", "var_export"
    )}  # fmt: skip
    assert json.loads(got["json"])["response"]["balance"] == "1.25"
    assert json.loads(got["jsonu"])["response"]["balance"] == "1.25"
    assert ET.fromstring(got["xml"]).findtext("response/balance") == "1.25"  # our own document
    assert phpserialize.loads(got["serialize"], decode_strings=True)["response"]["balance"] == "1.25"
    assert b"'balance' => '1.25'," in got["var_export"]


async def test_version_2_has_its_fields_behind_it(own_gateway: Gateway) -> None:
    got = (await (await opened(own_gateway, "second")).ask("account/calls", version="2", limit="5")).json
    assert got["response"]["nextPageToken"] is None
    assert (got["success"], got["charge"], got["call_args"]) == (1, "0", {"limit": 5})


# account/calls


async def test_a_row_tells_what_the_call_was(own_gateway: Gateway) -> None:
    caller = await opened(own_gateway, "rows")
    begun = datetime.now(UTC)
    async with Chaos(json_answer(USAGE), port=own_gateway.upstream_port):
        got = await call(own_gateway, "POST", f"{caller.path}&method=v1/chat/completions", PLEASE)
    assert got.json["error_code"] == "0000"
    [row] = await caller.logged(1)
    started = datetime.fromisoformat(row.pop("started"))
    assert timedelta(seconds=-1) < started - begun < timedelta(seconds=20)
    assert started.utcoffset() == timedelta()
    assert 0 < float(row.pop("first_byte")) <= float(row.pop("duration")) < 20
    assert row == {
        "last_id": got.json["last_id"], "request_id": got.json["request_id"], "method": "v1/chat/completions",
        "model": "gpt-4o-mini", "error_code": "0000", "streamed": False, "cut": False, "cache": "off",
        "bytes": len(got.body), "prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 2, "charge": "0",
        "estimated": False,
    }  # fmt: skip


async def test_a_refused_call_and_the_gateway_s_own_stand_in_the_log_too(own_gateway: Gateway) -> None:
    caller = await opened(own_gateway, "all")
    await caller.told("account/balance")
    assert await caller.code("v1/audio/speech", input="x", voice="alloy") == "4010"
    await caller.logged(1)
    rows = (await caller.told("account/calls", limit="100"))["calls"]
    assert [(row["method"], row["error_code"], row["charge"]) for row in rows[-3:-1]] == [
        ("v1/audio/speech", "4010", "0"),
        ("account/balance", "0000", "0"),
    ]


async def test_pages_hold_every_call_once_while_new_calls_come_in(own_gateway: Gateway, upstream: Chaos) -> None:
    """Forty-five calls; the asking itself adds to the log too."""
    caller, other = await opened(own_gateway, "pages"), await opened(own_gateway, "stranger")
    ids = []
    for _ in range(45):
        ids.append((await caller.ask("v1/models")).json["last_id"])
        await other.told("v1/models")
    await caller.logged(45)
    newest = (await caller.told("account/calls", limit="1"))["calls"][0]["last_id"]
    seen: list[dict[str, Any]] = []
    arguments = {"limit": "10"}
    pages = 0
    while True:
        told = await caller.told("account/calls", **arguments)
        seen += told["calls"]
        pages += 1
        assert len(told["calls"]) == 10 or told["nextPageToken"] is None
        if told["nextPageToken"] is None:
            break
        await caller.told("v1/models")
        arguments["pageToken"] = told["nextPageToken"]
    numbers = [int(row["last_id"]) for row in seen]
    assert numbers == sorted(set(numbers), reverse=True)
    assert [row["last_id"] for row in seen if row["last_id"] in set(ids)] == ids[::-1]
    assert newest in {row["last_id"] for row in seen}
    assert pages >= 5


async def test_a_page_has_twenty_calls_unless_told_otherwise(own_gateway: Gateway, upstream: Chaos) -> None:
    caller = await opened(own_gateway, "sizes")
    for _ in range(21):
        await caller.told("v1/models")
    await caller.logged(21)
    assert len((await caller.told("account/calls"))["calls"]) == 20
    for size in (1, 21):
        named = {"_o_args": json.dumps({"limit": size, "pageToken": None})}
        assert len((await caller.told("account/calls", **named))["calls"]) == size


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1.0", "1e1", "ten", "true", "[]", "99999999999999999999"])
async def test_a_limit_that_is_none_is_4003(own_gateway: Gateway, gateway: Gateway, limit: str) -> None:
    got = (await call(gateway, "GET", custom_path(gateway, method="account/calls", limit=limit))).json
    assert (got["error_code"], got["reason"]) == ("4003", "limit must be an integer from 1 to 100")


async def test_a_token_is_good_flat_and_in_o_args_and_for_its_own_account_alone(
    own_gateway: Gateway, upstream: Chaos
) -> None:
    caller, other = await opened(own_gateway, "tokens"), await opened(own_gateway, "thief")
    for _ in range(3):
        await caller.told("v1/models")
        await other.told("v1/models")
    await other.logged(3)
    await caller.logged(3)
    token = (await caller.told("account/calls", limit="1"))["nextPageToken"]
    flat = await caller.told("account/calls", limit="1", pageToken=token)
    named = await caller.told("account/calls", _o_args=json.dumps({"limit": 1, "pageToken": token}))
    assert flat == named
    changed = ("A" if token[5] != "A" else "B").join((token[:5], token[6:]))
    for wrong in (
        changed,
        token + "=",
        token[:-1],
        token.swapcase(),
        "",
        "garbage",
        "12345",
        "null",
        "向日葵",
        "0" * 32,
    ):
        got = await caller.ask("account/calls", pageToken=wrong)
        assert [got.json[name] for name in ("response", "error_code", "error")] == [None, "4015", "Wrong pageToken"], (
            wrong
        )
    values: tuple[object, ...] = (7, True, ["x"], {}, "")
    for value in values:
        assert await caller.code("account/calls", _o_args=json.dumps({"pageToken": value})) == "4015", value
    assert await other.code("account/calls", pageToken=token) == "4015"


# Who may ask


async def test_an_account_sees_itself_whatever_it_may_call(own_gateway: Gateway) -> None:
    """The methods that it is given do not hide it; those stopped for it do."""
    for name in ("account/balance", "account/calls"):
        given = await opened(own_gateway, f"given-{name[-5:]}", "--methods", "v1/models")
        assert await given.code(name) == "0000"
        stopped = await opened(own_gateway, f"stopped-{name[-5:]}", "--stopped-methods", "account/*")
        assert await stopped.code(name) == "4006"


async def test_a_stranger_and_a_stopped_account_are_told_nothing(own_gateway: Gateway) -> None:
    caller = await opened(own_gateway, "gone", "--expires", "2001-01-01")
    assert await caller.code("account/balance") == "4007"
    path = custom_path(own_gateway, method="account/balance").replace("secret=", "secret=x")
    assert (await call(own_gateway, "GET", path)).json["error_code"] == "4005"


async def test_there_is_no_such_method_but_these(own_gateway: Gateway) -> None:
    caller = await opened(own_gateway, "names")
    for name in ("account", "account/", "account/balances", "Account/balance", "account/balance/x", "images/gets"):
        assert await caller.code(name) == "4010", name


async def test_the_operator_can_close_them_stop_them_for_a_while_and_switch_them_off() -> None:
    for config, code in (
        ('[methods]\nclosed = ["account/*"]', "4010"),
        ('[methods]\nmaintenance = ["*"]', "4009"),
        ('[plugins]\noff = ["account"]', "4010"),
    ):
        with gateway_before_chaos(config) as gateway:
            got = await call(gateway, "GET", custom_path(gateway, method="account/balance"))
        assert got.json["error_code"] == code, config


async def test_a_file_is_4003(gateway: Gateway) -> None:
    parts = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n--b--\r\n'
    fields = {"Content-Type": "multipart/form-data; boundary=b"}
    got = await call(gateway, "POST", custom_path(gateway, method="account/balance"), parts, fields)
    assert (got.json["error_code"], got.json["reason"]) == ("4003", "account/balance takes no file")


async def test_the_native_front_has_only_the_upstream_s_methods(gateway: Gateway) -> None:
    not_found = answer(b'{"error":{"message":"nothing"}}', "application/json", 404)
    async with Chaos(not_found, port=gateway.upstream_port) as chaos:
        got = await native(gateway, "GET", "/v1/account/balance")
        assert chaos.exchanges[0].target == "/v1/account/balance"
    assert (got.status, got.body) == (404, b'{"error":{"message":"nothing"}}')
