"""Input that means harm or makes no sense: a clear refusal in bounded time and memory, and nothing for the upstream."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote, quote_from_bytes, urlencode

import brotli  # type: ignore[import-untyped]  # it has none
import pytest

from tests.chaos import Chaos, json_answer
from tests.support import (
    Answer,
    Gateway,
    custom_path,
    exchange,
    gateway_before_chaos,
    native,
    request_bytes,
)
from tests.test_multipart import FORM, fields, form, read_answer

MEBIBYTE = 1024 * 1024
MILLION = 1_000_000
CONFIG = f"""
[server]
max_json_bytes = {4 * MEBIBYTE}
max_upload_bytes = {8 * MEBIBYTE}
[log]
access = "all"
"""
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
LIMIT_S = 3.0


@pytest.fixture(scope="module")
def own_gateway() -> Iterator[Gateway]:
    """A gateway with low limits. When all tests are done, its log must not hold a failure of its own."""
    with gateway_before_chaos(CONFIG) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log
        assert "internal error" not in gateway.log
        assert "ERROR" not in gateway.log


@pytest.fixture
async def upstream(own_gateway: Gateway) -> AsyncIterator[Chaos]:
    async with Chaos(json_answer({"ok": True}), port=own_gateway.upstream_port) as chaos:
        yield chaos


@asynccontextmanager
async def bounded(gateway: Gateway, growth_bytes: int = 48 * MEBIBYTE) -> AsyncIterator[None]:
    """What happens within takes little time and memory of the gateway."""
    before, started = gateway.resident_bytes, time.monotonic()
    yield
    assert time.monotonic() - started < LIMIT_S
    assert gateway.resident_bytes - before < growth_bytes


async def post(gateway: Gateway, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    return await exchange(gateway, request_bytes("POST", target, body, {"Connection": "close", **headers}))


def code_of(got: Answer) -> str:
    assert got.complete
    return got.headers["x-error-code"]


# JSON that is none, or that two readers might read differently


@pytest.mark.parametrize("way", ["native", "custom JSON body", "custom _o_args"])
@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b'{"a":}',
        b"{'a':1}",
        b'{"a":1}}',
        b'{"a":1} {"b":2}',
        b'{"a":1,}',
        b'{"a":01}',
        b'// {}\n{"a":1}',
        b"[1]",
        b'"text"',
        b"1",
        b"null",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"\\ud800":1}',
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":[{"b":1,"c":{},"b":1}]}',
        b'{"a":"\xff"}',
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\x00"}',
        b'{"a":"\n"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b"[" * MILLION,
        b'{"a":' * MILLION,
        b'{"a":' + b"[" * 250 + b"]" * 250 + b"}",
        b'{"a":' + b"9" * MILLION + b"}",
        b'{"a":1e' + b"9" * MILLION + b"}",
        b'{"a":' + b"[{}," * MILLION,
    ],
    ids=lambda text: repr(text[:30]),
)
async def test_arguments_that_are_no_json_object_are_4003(
    own_gateway: Gateway, upstream: Chaos, text: bytes, way: str
) -> None:
    async with bounded(own_gateway, 64 * MEBIBYTE):
        if way == "native":
            got = await native(own_gateway, "POST", "/v1/responses", text, **JSON)
        elif way == "custom JSON body":
            got = await post(own_gateway, custom_path(own_gateway, method="v1/responses"), text, JSON)
        else:
            target = custom_path(own_gateway, method="v1/responses")
            got = await post(own_gateway, target, b"_o_args=" + quote_from_bytes(text, safe="[{").encode(), URLENCODED)
    assert code_of(got) == "4003"
    assert len(got.body) < 1000
    assert not upstream.exchanges


async def test_what_looks_odd_and_is_json_goes_on_untouched(own_gateway: Gateway, upstream: Chaos) -> None:
    text = (
        b' {"": "\\u0000", "a": 1.50, "b": 12345678901234567890123, "c": -0, "d": 5e-324,'
        b' "e": "\\ud83d\\ude00 \xf0\x9f\x98\x80",'
        b' "nested": ' + b"[" * 248 + b"]" * 248 + b"}\r\n"
    )
    assert code_of(await native(own_gateway, "POST", "/v1/responses", text)) == "0000"
    target = custom_path(own_gateway, method="v1/responses")
    assert code_of(await post(own_gateway, target, text, JSON)) == "0000"
    assert [bytes(request.body) for request in upstream.exchanges] == [text, text]


# Bodies that are too large


async def send_endlessly(gateway: Gateway, head: bytes, piece: bytes, count: int) -> Answer:
    """Sends up to `count` pieces, and reads the answer when there is one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(head)
        answering = asyncio.ensure_future(read_answer(reader))
        for _ in range(count):
            if answering.done():
                break
            writer.write(piece)
            await writer.drain()
        return await answering
    finally:
        writer.close()


STRANGER = "/openai/custom/?key=nobody&secret=nothing&method=v1/responses"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("who", "code"),
    [
        ("nobody", "4014"),
        ("stranger", "4004"),
        ("account", "4003"),
        ("stranger, native", "4004"),
        ("account, native", "4003"),
    ],
)
async def test_a_hundred_megabytes_cost_little(
    own_gateway: Gateway, upstream: Chaos, framing: str, who: str, code: str
) -> None:
    target = {
        "nobody": "/openai/custom/?method=v1/responses",
        "stranger": STRANGER,
        "account": custom_path(own_gateway, method="v1/responses"),
    }.get(who, "/v1/responses")
    token = own_gateway.token if who.startswith("account") else "nobody:nothing"
    headers = {**JSON, **({"Authorization": f"Bearer {token}"} if who.endswith("native") else {})}
    headers |= {"Content-Length": str(100 * MEBIBYTE)} if framing == "length" else {"Transfer-Encoding": "chunked"}
    piece = b'{"a":"' + b"x" * (MEBIBYTE - 6)
    framed = piece if framing == "length" else b"%x\r\n%b\r\n" % (len(piece), piece)
    async with bounded(own_gateway, 24 * MEBIBYTE):
        got = await send_endlessly(own_gateway, request_bytes("POST", target, headers=headers), framed, 100)
    assert code_of(got) == code
    assert got.headers["connection"] == "close"  # what is still to come must not be taken for a request
    assert not upstream.exchanges


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("front", ["custom", "native"])
async def test_an_upload_past_the_limit_is_4003(
    own_gateway: Gateway, upstream: Chaos, framing: str, front: str
) -> None:
    body = form(("file", "a", bytes(9 * MEBIBYTE)))
    target = custom_path(own_gateway, method="v1/files") if front == "custom" else "/v1/files"
    headers = {"Content-Type": FORM}
    if front == "native":
        headers["Authorization"] = f"Bearer {own_gateway.token}"
    headers |= {"Content-Length": str(len(body))} if framing == "length" else {"Transfer-Encoding": "chunked"}
    sent = body if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with bounded(own_gateway, 24 * MEBIBYTE):
        got = await send_endlessly(own_gateway, request_bytes("POST", target, headers=headers), sent, 1)
    assert code_of(got) == "4003"
    assert not [request for request in upstream.exchanges if request.body_complete]


# Compressed bodies

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 6),
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=4),
}


@pytest.mark.parametrize("coding", PACKERS)
@pytest.mark.parametrize("who", ["nobody", "stranger", "account", "stranger, native", "account, native"])
async def test_a_bomb_is_capped_on_its_decoded_size(
    own_gateway: Gateway, upstream: Chaos, coding: str, who: str
) -> None:
    packed = BOMBS[coding]
    headers = {**JSON, "Content-Encoding": coding}
    if who.endswith("native"):
        token = own_gateway.token if who.startswith("account") else "nobody:nothing"
        target, headers["Authorization"] = "/v1/responses", f"Bearer {token}"
    elif who == "account":
        target = custom_path(own_gateway, method="v1/responses")
    else:
        target = STRANGER if who == "stranger" else "/openai/custom/"
    head = request_bytes("POST", target, headers={**headers, "Content-Length": str(len(packed))})
    async with bounded(own_gateway, 24 * MEBIBYTE):
        got = await send_endlessly(own_gateway, head, packed, 1)
    assert code_of(got) == {"nobody": "4014", "account": "4003"}.get(who.removesuffix(", native"), "4004")
    assert not upstream.exchanges


BOMBS = {coding: pack(b'{"a":"' + b"0" * 200 * MEBIBYTE + b'"}') for coding, pack in PACKERS.items()}


@pytest.mark.parametrize("coding", PACKERS)
async def test_a_compressed_upload_is_capped_on_its_decoded_size(
    own_gateway: Gateway, upstream: Chaos, coding: str
) -> None:
    packed = PACKERS[coding](form(("file", "a", bytes(64 * MEBIBYTE))))
    for target in (custom_path(own_gateway, method="v1/files"), "/v1/files"):
        headers = {"Content-Type": FORM, "Content-Encoding": coding, "Authorization": f"Bearer {own_gateway.token}"}
        head = request_bytes("POST", target, headers={**headers, "Content-Length": str(len(packed))})
        async with bounded(own_gateway, 24 * MEBIBYTE):
            got = await send_endlessly(own_gateway, head, packed, 1)
        assert code_of(got) == "4003"
    assert not [request for request in upstream.exchanges if request.body_complete]


@pytest.mark.parametrize("coding", PACKERS)
async def test_a_compressed_request_means_what_it_says_unpacked(
    own_gateway: Gateway, upstream: Chaos, coding: str
) -> None:
    """And its packed length, which is all that is announced, never stands in the upstream's request."""
    text = b'{"a":"' + b"b" * 5000 + b'"}'
    upload = form(("file", "a", b"c" * 5000), ("purpose", None, b"batch"))
    headers = {"Content-Encoding": coding, "Authorization": f"Bearer {own_gateway.token}"}
    for target in (custom_path(own_gateway, method="v1/responses"), "/v1/responses"):
        got = await post(own_gateway, target, PACKERS[coding](text), {**JSON, **headers})
        assert code_of(got) == "0000"
    for target in (custom_path(own_gateway, method="v1/files"), "/v1/files"):
        got = await post(own_gateway, target, PACKERS[coding](upload), {"Content-Type": FORM, **headers})
        assert code_of(got) == "0000"
    first, second, third, fourth = upstream.exchanges
    assert bytes(first.body) == bytes(second.body) == text
    assert b"c" * 5000 in third.body
    assert bytes(fourth.body) == upload
    assert all(request.header("content-encoding") is None for request in upstream.exchanges)


@pytest.mark.parametrize("coding", [*PACKERS, "zstd", "gzip, gzip", "unheard-of"])
@pytest.mark.parametrize("damage", ["not packed at all", "cut short", "a byte wrong"])
async def test_a_damaged_packing_is_4003(own_gateway: Gateway, upstream: Chaos, coding: str, damage: str) -> None:
    packed = PACKERS.get(coding, PACKERS["gzip"])(b'{"a":"' + bytes(range(48, 91)) * 3 + b'"}')
    if damage == "cut short":
        packed = packed[: len(packed) // 2]
    elif damage == "a byte wrong":
        packed = packed[:12] + b"\xff\xff\xff" + packed[15:]
    else:
        packed = b"\x00" + b"nonsense" * 10
    headers = {**JSON, "Content-Encoding": coding, "Authorization": f"Bearer {own_gateway.token}"}
    for target in (custom_path(own_gateway, method="v1/responses"), "/v1/responses"):
        assert code_of(await post(own_gateway, target, packed, headers)) == "4003"
    assert not upstream.exchanges


# Very many, very long


@pytest.mark.parametrize("place", ["form", "multipart"])
async def test_a_hundred_thousand_parameters_are_4003(own_gateway: Gateway, upstream: Chaos, place: str) -> None:
    parameters = {f"p{i}": "1" for i in range(100_000)}
    target = custom_path(own_gateway, method="v1/responses")
    async with bounded(own_gateway):
        if place == "form":
            got = await post(own_gateway, target, urlencode(parameters).encode(), URLENCODED)
        else:
            body = form(*fields(parameters))
            head = request_bytes("POST", target, headers={"Content-Type": FORM, "Content-Length": str(len(body))})
            got = await send_endlessly(own_gateway, head, body, 1)
    assert code_of(got) == "4003"
    assert not upstream.exchanges


@pytest.mark.parametrize("path", ["/openai/custom/?", "/v1/models?"])
async def test_an_over_long_url_is_414_and_the_end(own_gateway: Gateway, upstream: Chaos, path: str) -> None:
    many = path + "&".join(f"p{i}=1" for i in range(100_000))
    for target in (path + "a" * 70_000, many, path + "a" * 10 * MEBIBYTE):
        async with bounded(own_gateway):
            got = await exchange(own_gateway, request_bytes("GET", target))
        assert (got.status, got.headers["x-error-code"], got.headers["connection"]) == (414, "4003", "close")
    assert not upstream.exchanges


async def test_a_head_without_end_is_cut_off(own_gateway: Gateway, upstream: Chaos) -> None:
    """However many headers there are, each of them short enough."""
    async with bounded(own_gateway, 8 * MEBIBYTE):
        head = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + b"".join(
            b"X-%d: %b\r\n" % (i, b"x" * 60_000) for i in range(100)
        )
        got = await exchange(own_gateway, head + b"\r\n")
        assert got.status in {0, 400}
        flood = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 100_000
        assert (await exchange(own_gateway, flood + b"\r\n")).status in {0, 400}
    assert not upstream.exchanges


@pytest.mark.parametrize("front", ["custom", "native"])
async def test_credentials_of_any_length_are_just_wrong(own_gateway: Gateway, front: str) -> None:
    for key, secret in (("k" * 50_000, "s"), (own_gateway.key, "s" * 50_000), ("\u0661", "\u0661"), ("a\0b", "a\0b")):
        if front == "custom":
            path = "/openai/custom/?" + urlencode({"key": key, "secret": secret, "method": "v1/models"})
            got = await exchange(own_gateway, request_bytes("GET", path, headers={"Connection": "close"}))
        elif "\0" in key:
            continue
        else:
            headers = {"Authorization": f"Bearer {key}:{secret}", "Connection": "close"}
            got = await exchange(own_gateway, request_bytes("GET", "/v1/models", headers=headers))
        assert code_of(got) in {"4004", "4005"}


# Methods that climb out


CLIMBERS = [
    "v1/../admin", "v1/..", "v1/models/..", "v1/./models", "v1//models", "v1/models//", "v1/%2e%2e/admin", "v1/%2E./x",
    "v1/%252e%252e/admin", "v1/..%2fadmin", "v1/..%5cadmin", "v1/a\\b", "v1/models?x=1", "v1/models?", "v1/a#x",
    "v1/models%3Fx", "v1/models x", "v1/models\t", "v1/models\r\nX-Evil: 1", "v1/models\nX-Evil: 1", "v1/models\0",
    "v1/models\x7f", "v1/模型", "v1/\u2025/x", "v1/" + "a" * 600, 'v1/"', "v1/<a>", "v1/{id}", "v1/[a]", "v1/a|b",
]  # fmt: skip
ELSEWHERE = [
    "../v1/models", "//{host}/v1/models", "http://{host}/v1/models", "https://{host}/v1/models", "http:{host}", "file:///etc/passwd",
    "gopher:v1/models", "javascript:v1", "//v1/models", "..", ".",
]  # fmt: skip


@pytest.mark.parametrize("method", [*CLIMBERS, *ELSEWHERE])
async def test_a_method_of_the_custom_front_cannot_climb_out(
    own_gateway: Gateway, upstream: Chaos, method: str
) -> None:
    async with Chaos(json_answer({})) as listener:
        path = custom_path(own_gateway, method=method.replace("{host}", f"127.0.0.1:{listener.port}"))
        got = await exchange(own_gateway, request_bytes("GET", path, headers={"Connection": "close"}))
        assert not listener.connections
    assert code_of(got) == "4003"
    assert b"evil" not in got.raw.lower()
    assert not upstream.exchanges


@pytest.mark.parametrize("method", CLIMBERS)
async def test_a_path_of_the_native_front_cannot_climb_out(own_gateway: Gateway, upstream: Chaos, method: str) -> None:
    """Neither percent-encoded nor, where a request line can hold it, as it is."""
    targets = ["/" + quote(method, safe="/:")]
    if method.startswith("v1/") and method.isascii() and method.isprintable() and not set(method) & set(" ?#"):
        targets.append(f"/{method}")
    for target in targets:
        headers = {"Authorization": f"Bearer {own_gateway.token}", "Connection": "close"}
        got = await exchange(own_gateway, request_bytes("GET", target, headers=headers))
        assert (got.status, got.headers["x-error-code"]) == (400, "4003")
        assert b"evil" not in got.raw.lower()
    assert not upstream.exchanges


# What must not end a line of a head


@pytest.mark.parametrize(
    "name",
    ["key", "secret", "method", "api_name", "_o_args", "cache", "result_type", "lang", "version", "_method", "model",
     "purpose", "user", "stream", "an argument"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["v1/responses", "v1/files"])
async def test_no_parameter_ends_a_line_of_any_head(
    own_gateway: Gateway, upstream: Chaos, method: str, name: str
) -> None:
    evil = "a\r\nX-Evil: 1\r\n\r\n\0"
    given = {"key": own_gateway.key, "secret": own_gateway.secret, "method": method, name: evil, f"{evil}{name}": evil}
    got = await exchange(
        own_gateway,
        request_bytes("GET", f"/openai/custom/?{urlencode(given)}", headers={"Connection": "close"}),
    )
    assert got.status == 200
    assert "x-evil" not in got.headers
    for request in upstream.exchanges:
        assert request.header("x-evil") is None
        assert len(upstream.connections[0].exchanges) == 1


@pytest.mark.parametrize("byte", [b"\r", b"\n", b"\0", b"\r\n", b"\r\n ", b"\x01", b"\x7f"])
@pytest.mark.parametrize(
    "field", [b"Authorization: Bearer k:s", b"OpenAI-Beta: a", b"Content-Type: multipart/form-data; boundary=b"]
)
async def test_control_characters_in_a_header_are_refused_or_dropped(
    own_gateway: Gateway, upstream: Chaos, field: bytes, byte: bytes
) -> None:
    fields = b"Authorization: Bearer " + own_gateway.token.encode() + b"\r\n" if b"Authorization" not in field else b""
    request = (
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + fields + field + byte + b"X-Evil: 1\r\n\r\n"
    )
    got = await exchange(own_gateway, request)
    assert got.status in {200, 400, 401}
    assert b"X-Evil" not in b"".join(bytes(request.head) for request in upstream.exchanges)


# Text that is not UTF-8


@pytest.mark.parametrize("wrong", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe4\xbd", b"\xf5\x80\x80\x80"])
async def test_wrong_utf_8_is_4003_wherever_it_stands(own_gateway: Gateway, upstream: Chaos, wrong: bytes) -> None:
    path = custom_path(own_gateway, method="v1/images/generations")
    encoded = quote_from_bytes(wrong)
    raw = b"GET " + path.encode() + b"&prompt=" + wrong + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for got in (
        await exchange(own_gateway, raw),
        await exchange(own_gateway, request_bytes("GET", f"{path}&prompt={encoded}", headers={"Connection": "close"})),
        await exchange(own_gateway, request_bytes("GET", f"{path}&{encoded}=1", headers={"Connection": "close"})),
        await post(own_gateway, path, b"prompt=" + wrong, URLENCODED),
        await post(own_gateway, path, b"prompt=" + encoded.encode(), URLENCODED),
        await post(own_gateway, path, form(("prompt", None, wrong)), {"Content-Type": FORM}),
        await native(own_gateway, "GET", f"/v1/models/{encoded}"),
        await native(own_gateway, "GET", f"/v1/models?lang={encoded}"),
        await post(own_gateway, path, b'{"prompt":"a","' + wrong + b'":1}', JSON),
        await post(own_gateway, path, b'_o_args={"' + wrong + b'":1}', URLENCODED),
        await post(own_gateway, path, wrong + b"=1", URLENCODED),
        await post(own_gateway, path, form(("@", None, b"1")).replace(b"@", wrong), {"Content-Type": FORM}),
        await post(own_gateway, path, form(("@", "a", b"1")).replace(b"@", wrong), {"Content-Type": FORM}),
        await native(own_gateway, "POST", "/v1/images/generations", b'{"prompt":"a","' + wrong + b'":1}'),
    ):
        assert (got.status, code_of(got)) in {(200, "4003"), (400, "4003")}
    assert not upstream.exchanges


@pytest.mark.parametrize("wrong", [b"\xff", b"\xed\xa0\x80", b"\xe4\xbd"])
async def test_wrong_utf_8_in_a_header_fails_no_call_of_the_gateways_own(own_gateway: Gateway, wrong: bytes) -> None:
    for field, codes in (
        (b"Authorization: Bearer " + wrong + b":" + wrong, {"4003", "4004"}),
        (b"Authorization: " + wrong, {"4014"}),
        (b"Content-Type: multipart/form-data; boundary=" + wrong, {"4003", "4014"}),
        (b"Content-Type: " + wrong, {"4003", "4014"}),
    ):
        for path in (b"/openai/custom/?method=v1/files", b"/v1/files"):
            head = b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n"
            got = await exchange(own_gateway, head + field + b"\r\n\r\n{}")
            assert code_of(got) in codes | {"4014"}


# Afterwards


@pytest.mark.parametrize("front", ["custom", "native"])
async def test_after_a_refusal_the_connection_carries_the_next_call(
    own_gateway: Gateway, upstream: Chaos, front: str
) -> None:
    target = custom_path(own_gateway, method="v1/responses") if front == "custom" else "/v1/responses"
    headers = {**JSON, "Authorization": f"Bearer {own_gateway.token}"}
    reader, writer = await asyncio.open_connection("127.0.0.1", own_gateway.port)
    for body, code in ((b"[", "4003"), (b"{}", "0000"), (b'{"a":NaN}', "4003"), (b'{"b":1}', "0000")):
        writer.write(request_bytes("POST", target, body, headers))
        assert code_of(await read_answer(reader)) == code
    writer.close()
    assert [request.method for request in upstream.exchanges] == ["GET" if front == "custom" else "POST", "POST"]


async def test_a_body_of_no_known_kind_is_4003(own_gateway: Gateway, upstream: Chaos) -> None:
    path = custom_path(own_gateway, method="v1/responses")
    for kind in ("application/xml", "image/png", "application/x-php-serialized"):
        assert code_of(await post(own_gateway, path, b"<a/>", {"Content-Type": kind})) == "4003"
    assert not upstream.exchanges
