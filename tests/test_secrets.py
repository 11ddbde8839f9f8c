"""A canary for each secret, put wherever a caller or an upstream could put it, and looked for in all that comes out."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote, urlencode

import pytest

from tests.chaos import Chaos, Close, Cut, Script, answer, chunk, head, json_answer, sse_head
from tests.support import UPSTREAM_KEY, Gateway, gateway_before_chaos, native, read_to_end, request_bytes
from tests.test_multipart import FORM, fields, form

KEY = "gk-canary-7fa1c2"
SECRET = "gs-canary-93bd04"
CONFIG = '[log]\naccess = "all"\nlevel = "debug"'


@pytest.fixture(scope="module")
def own_gateway() -> Iterator[Gateway]:
    """A gateway that logs all it ever logs, with an account of canaries."""
    with gateway_before_chaos(CONFIG) as gateway:
        options = ["--key", KEY, "--secret", SECRET, "--methods", "v1/models*,v1/responses"]
        gateway.cli("accounts", "add", "canary", *options)
        time.sleep(1)  # by then the running server knows the account
        gateway.key, gateway.secret = KEY, SECRET
        yield gateway


def whole(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post(target: str, body: bytes, kind: str = "application/json", **headers: str) -> bytes:
    return request_bytes("POST", target, body, {"Connection": "close", "Content-Type": kind, **headers})


def get(target: str, **headers: str) -> bytes:
    return request_bytes("GET", target, headers={"Connection": "close", **headers})


PAIR = urlencode({"key": KEY, "secret": SECRET})
BOTH = f"{KEY}:{SECRET}"
BEARER = {"Authorization": f"Bearer {BOTH}"}
URLENCODED = "application/x-www-form-urlencoded"
BODY = json.dumps({"key": KEY, "secret": SECRET, "method": "v1/models"}).encode()

CALLS = {
    "right, in the URL": get(f"/openai/custom/?{PAIR}&method=v1/models"),
    "right, as a form": post("/openai/custom/", f"{PAIR}&method=v1/models".encode(), URLENCODED),
    "right, as JSON": post("/openai/custom/", BODY),
    "right, as multipart": post(
        "/openai/custom/", form(*fields({"key": KEY, "secret": SECRET, "method": "v1/models"})), FORM
    ),
    "right, as a bearer": get("/v1/models", **BEARER),
    "right, for what is not given": get(f"/openai/custom/?{PAIR}&method=v1/embeddings&input=x"),
    "right, version 2": get(f"/openai/custom/?{PAIR}&method=v1/models&version=2"),
    "wrong secret": get(f"/openai/custom/?key={KEY}&secret=x{SECRET}&method=v1/models"),
    "the other way round": get(f"/openai/custom/?key={SECRET}&secret={KEY}&method=v1/models"),
    "bearer the other way round": get("/v1/models", Authorization=f"Bearer {SECRET}:{KEY}"),
    "basic": get("/v1/models", Authorization="Basic " + base64.b64encode(BOTH.encode()).decode()),
    "bearer without a secret": get("/v1/models", Authorization=f"Bearer {SECRET}"),
    "bearer with more": get("/v1/models", Authorization=f"Bearer {BOTH}:{BOTH}"),
    "no scheme": get("/v1/models", Authorization=BOTH),
    "other headers": get("/v1/models", **{"X-Api-Key": SECRET, "Cookie": f"s={SECRET}", "Host": SECRET}),
    "query of the native front": get(f"/v1/models?{PAIR}&api_key={SECRET}"),
    "twice in a query": get(f"/v1/models?key={KEY}&key={SECRET}", **BEARER),
    "twice": get(f"/openai/custom/?{PAIR}&key={SECRET}&method=v1/models"),
    **{
        f"as {name}": get(f"/openai/custom/?{PAIR}&{urlencode({'method': 'v1/models', name: SECRET})}")
        for name in ("method", "lang", "result_type", "version", "cache", "_o_args", "_method", "api_name", "sign")
    },
    "as platform": get(f"/{SECRET}/custom/?{PAIR}&method=v1/models"),
    "as api_name in the path": get(f"/openai/{SECRET}/?{PAIR}&method=v1/models"),
    "as a path": get(f"/{SECRET}"),
    "as a native path": get(f"/v1/{SECRET}", **BEARER),
    "as a model": get(f"/v1/models/{SECRET}", **BEARER),
    "as a path that climbs": get(f"/v1/../{SECRET}", **BEARER),
    "as an encoded path": get(f"/v1/{quote(SECRET + '?')}", **BEARER),
    "as the HTTP method": whole(f"{SECRET} / HTTP/1.1", "Host: a"),
    "as a version": whole(f"GET / HTTP/{SECRET}", "Host: a"),
    "in an absolute target": whole(f"GET http://{BOTH}@a/v1/models HTTP/1.1", "Host: a"),
    "in a target without a slash": whole(f"GET {PAIR} HTTP/1.1", "Host: a"),
    "in a bad URL": whole(f"GET /openai/custom/?{PAIR}\x01 HTTP/1.1", "Host: a"),
    "in a URL with blanks": whole(f"GET /openai/custom/?{PAIR} &method=v1/models HTTP/1.1", "Host: a"),
    "in an over-long URL": whole(f"GET /openai/custom/?{PAIR}&x={'x' * 70_000} HTTP/1.1", "Host: a"),
    "without a version": whole(f"GET /openai/custom/?{PAIR}"),
    "in a line without a colon": whole("GET /v1/models HTTP/1.1", "Host: a", f"Bearer {BOTH}"),
    "in a broken header": whole("GET /v1/models HTTP/1.1", "Host: a", f"Authorization : Bearer {BOTH}"),
    "in a header's name": whole("GET /v1/models HTTP/1.1", "Host: a", f"{SECRET}@: x"),
    "in a header with NUL": whole("GET /v1/models HTTP/1.1", "Host: a", f"Authorization: Bearer {BOTH}\0"),
    "in a bad length": whole("POST /v1/responses HTTP/1.1", "Host: a", f"Content-Length: {SECRET}"),
    "in a bad coding": whole("POST /v1/responses HTTP/1.1", "Host: a", f"Transfer-Encoding: {SECRET}"),
    "in a bad chunk": whole(
        "POST /openai/custom/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", body=f"{SECRET}\r\n".encode()
    ),
    "in broken JSON": post("/openai/custom/", BODY[:-1]),
    "in JSON with a key twice": post("/openai/custom/", BODY[:-1] + b"," + BODY[1:]),
    "in JSON with a wrong type": post("/openai/custom/", json.dumps({"key": {KEY: SECRET}}).encode()),
    "in a native body": post("/v1/responses", BODY, **BEARER),
    "in a broken native body": post("/v1/responses", BODY[:-1], **BEARER),
    "in a form of wrong UTF-8": post("/openai/custom/", PAIR.encode() + b"&a=\xff", URLENCODED),
    "in a body of another kind": post("/openai/custom/", PAIR.encode(), f"application/{SECRET}"),
    "in a damaged form": post("/openai/custom/", form(*fields({"key": KEY, "secret": SECRET}))[:-9], FORM),
    "as a boundary": post("/openai/custom/", form(("file", SECRET, b"x")), f"multipart/form-data; boundary={SECRET}"),
    "packed and damaged": post("/openai/custom/", PAIR.encode(), **{"Content-Encoding": "gzip"}),
    "as an origin": whole("OPTIONS /v1/models HTTP/1.1", "Host: a", f"Origin: https://{SECRET}", "Connection: close"),
    "in an upload's head": post("/v1/files", form(("file", SECRET, b"x")), FORM, **BEARER),
}  # fmt: skip


@pytest.mark.parametrize(("name", "request_"), CALLS.items(), ids=CALLS.keys())
async def test_a_callers_secrets_come_out_nowhere(own_gateway: Gateway, name: str, request_: bytes) -> None:
    before = len(own_gateway.log)
    async with Chaos(json_answer({"ok": True}), port=own_gateway.upstream_port) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", own_gateway.port)
        writer.write(request_)
        if request_.count(b"Connection: close") == 0:
            writer.write_eof()
        received = await read_to_end(reader)
        writer.close()
        for exchange in upstream.exchanges:
            assert b"Authorization: Bearer " + UPSTREAM_KEY.encode() in exchange.head
    assert not name.startswith("right") or b"X-Error-Code: 0000" in received or b"X-Error-Code: 4012" in received
    for canary in (KEY, SECRET):
        assert canary.encode() not in received
        assert canary not in own_gateway.log[before:]


@pytest.mark.parametrize("request_", CALLS.values(), ids=CALLS.keys())
async def test_secrets_of_a_caller_that_leaves_come_out_nowhere(own_gateway: Gateway, request_: bytes) -> None:
    """Half of the request, then all of it but its last byte, and then a reset."""
    before = len(own_gateway.log)
    for size in (len(request_) // 2, len(request_) - 1):
        _, writer = await asyncio.open_connection("127.0.0.1", own_gateway.port)
        writer.write(request_[:size])
        with suppress(ConnectionError):
            await writer.drain()
        writer.transport.abort()
    async with Chaos(json_answer({}), port=own_gateway.upstream_port):
        await native(own_gateway, "GET", "/v1/models")  # by now the others have been dealt with
    assert KEY not in own_gateway.log[before:]
    assert SECRET not in own_gateway.log[before:]


ECHO = {"error": {"message": f"Incorrect API key provided: {UPSTREAM_KEY}", "code": UPSTREAM_KEY}}
ECHOING_HEADERS = [
    ("WWW-Authenticate", f"Bearer {UPSTREAM_KEY}"), ("X-Key", UPSTREAM_KEY), ("Set-Cookie", f"k={UPSTREAM_KEY}"),
    ("Authorization", f"Bearer {UPSTREAM_KEY}"), ("Location", f"/{UPSTREAM_KEY}"),
]  # fmt: skip
JSON_TYPE = ("Content-Type", "application/json")
UPSTREAMS: dict[str, Script] = {
    **{f"{status}": json_answer(ECHO, status, *ECHOING_HEADERS) for status in (401, 403, 407, 408, 500, 503, 302)},
    "headers of a success": json_answer({}, 200, *ECHOING_HEADERS),
    "headers of an error": json_answer({}, 404, *ECHOING_HEADERS),
    "headers of a file": answer(b"x", "audio/mpeg", 200, *ECHOING_HEADERS),
    "headers of a stream": [sse_head(*ECHOING_HEADERS), chunk(b"data: 1\n\n"), Cut()],
    "the reason phrase": f"HTTP/1.1 401 {UPSTREAM_KEY}\r\nContent-Length: 0\r\n\r\n".encode(),
    "a broken head": f"HTTP/1.1 200 OK\r\n{UPSTREAM_KEY}\r\n\r\n".encode(),
    "a broken length": f"HTTP/1.1 200 OK\r\nContent-Length: {UPSTREAM_KEY}\r\n\r\n".encode(),
    "a broken chunk": [head(200, JSON_TYPE, ("Transfer-Encoding", "chunked")), f"{UPSTREAM_KEY}\r\n".encode(), Close()],
    "no JSON": answer(UPSTREAM_KEY.encode()),
    "a web page": answer(f"<html>{UPSTREAM_KEY}".encode(), "text/html"),
    "a cut answer": [head(200, JSON_TYPE, ("Content-Length", "99")), UPSTREAM_KEY.encode(), Cut()],
    "nonsense": f"{UPSTREAM_KEY}\r\n\r\n".encode(),
}  # fmt: skip


@pytest.mark.parametrize("target", ["/v1/models", f"/openai/custom/?{PAIR}&method=v1/models&version=2"])
@pytest.mark.parametrize("script", UPSTREAMS.values(), ids=UPSTREAMS.keys())
async def test_the_upstreams_key_comes_out_nowhere(own_gateway: Gateway, script: Script, target: str) -> None:
    async with Chaos(script, port=own_gateway.upstream_port) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", own_gateway.port)
        writer.write(get(target, **BEARER))
        received = await read_to_end(reader)
        writer.close()
    assert upstream.exchanges
    assert received.startswith(b"HTTP/1.1 ")
    assert UPSTREAM_KEY.encode() not in received
    assert UPSTREAM_KEY not in own_gateway.log


async def test_the_access_log_says_who_called_what_and_no_more(own_gateway: Gateway) -> None:
    async with Chaos(json_answer({}), port=own_gateway.upstream_port):
        await native(own_gateway, "GET", "/v1/models/some-model?after=a-detail")
    line = own_gateway.log.splitlines()[-1]
    assert "gateway.access" in line
    assert "account=canary method=v1/models/{id} code=0000 status=200" in line
    assert "a-detail" not in line
