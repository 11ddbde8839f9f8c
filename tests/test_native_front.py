"""OpenAI's own API as SDKs speak it: what passes unchanged, what is the gateway's own, and files in both directions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.chaos import Chaos, Close, Flood, ReadBody, answer, head, json_answer, sse_answer
from tests.support import (
    UPSTREAM_KEY,
    Gateway,
    call,
    exchange,
    gateway_before_chaos,
    native,
    parse_answer,
    read_to_end,
    request_bytes,
)

MEBIBYTE = 1024 * 1024
CHAT = b'{ "model":"m","messages":[{"role":"user","content":"\xe4\xbd\xa0\\u4f60"}],"n":1.0,"seed":1E2 }'
CONFIG = """
[server]
cors_origins = ["*"]
[defaults.model]
"v1/chat/completions" = "gpt-default"
"""


@pytest.fixture
async def upstream(gateway: Gateway) -> AsyncIterator[Chaos]:
    async with Chaos(json_answer({"ok": True}), port=gateway.upstream_port) as chaos:
        yield chaos


@pytest.fixture(scope="module")
def configured() -> Iterator[Gateway]:
    """A gateway with a default model and CORS for everyone."""
    with gateway_before_chaos(config=CONFIG) as gateway:
        yield gateway


# The request


async def test_a_json_body_reaches_the_upstream_as_it_was_written(gateway: Gateway, upstream: Chaos) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8", "Cookie": "canary", "X-Forwarded-For": "10.0.0.1"}
    got = await native(gateway, "POST", "/v1/chat/completions", CHAT, **headers)
    assert (got.status, got.json, got.headers["x-error-code"]) == (200, {"ok": True}, "0000")
    request = upstream.exchanges[0]
    assert (request.method, request.target, bytes(request.body)) == ("POST", "/v1/chat/completions", CHAT)
    assert {name.lower() for name, _ in request.headers} == {
        "host", "authorization", "user-agent", "accept", "accept-encoding", "content-type", "content-length",
    }  # fmt: skip
    assert request.header("authorization") == f"Bearer {UPSTREAM_KEY}"
    for theirs in (gateway.key, gateway.secret, "canary", "10.0.0.1"):
        assert theirs.encode() not in bytes(request.raw).replace(UPSTREAM_KEY.encode(), b"")


async def test_what_openai_answers_is_what_the_client_gets(gateway: Gateway) -> None:
    body = b'{"id" : "x", "n": 1.0, "big": 12345678901234567890123, "text": "\xe4\xbd\xa0"}\n'
    async with Chaos(answer(body, "application/json; charset=utf-8"), port=gateway.upstream_port):
        got = await native(gateway, "POST", "/v1/chat/completions", CHAT)
    assert got.body == body
    assert got.headers["content-type"] == "application/json; charset=utf-8"
    assert re.fullmatch(r"1\.[0-9a-f]{13}", got.headers["x-request-id"])
    assert re.fullmatch(r"[0-9]+", got.headers["x-last-id"])


@pytest.mark.parametrize("scheme", ["Bearer {}", "bearer {}", "BEARER  {} "])
async def test_the_bearer_token_is_key_and_secret(gateway: Gateway, upstream: Chaos, scheme: str) -> None:
    got = await call(gateway, "GET", "/v1/models", headers={"Authorization": scheme.format(gateway.token)})
    assert got.status == 200


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("", ""),
        ("?", ""),
        ("?limit=2&after=a%2Fb+c&&order=asc&flag", "?limit=2&after=a%2Fb+c&order=asc&flag"),
        ("?limit=2&result_type=json&lang=cn&cache=no&limit=3", "?limit=2&limit=3"),
        ("?ke%79=canary&secret=canary&include%5B%5D=x", "?include%5B%5D=x"),
        ("?version=3&method=x&api_name=y", "?version=3&method=x&api_name=y"),
    ],
)
async def test_the_query_is_passed_on_without_the_gateways_own_parameters(
    gateway: Gateway, upstream: Chaos, query: str, sent: str
) -> None:
    got = await native(gateway, "GET", "/v1/files" + query)
    assert got.status == 200
    assert upstream.exchanges[0].target == "/v1/files" + sent


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/models/ft:gpt-4o:org::id", "/v1/models/ft:gpt-4o:org::id"),
        ("/v1/models/org%2Fname", "/v1/models/org%2Fname"),  # an id with a slash in it stays one segment
        ("/v1/models/", "/v1/models"),
        ("/v1/vector_stores/vs_1/files", "/v1/vector_stores/vs_1/files"),
    ],
)
async def test_a_path_is_passed_on_as_it_is(gateway: Gateway, upstream: Chaos, path: str, sent: str) -> None:
    assert (await native(gateway, "GET", path)).status == 200
    assert upstream.exchanges[0].target == sent


@pytest.mark.parametrize(
    ("verb", "body"), [("POST", b"{}"), ("POST", b'{"a":1}'), ("PUT", b'{"a":1}'), ("PATCH", b'{"a":1}'), ("POST", b"")]
)
async def test_any_v1_interface_takes_every_verb_with_its_body(
    gateway: Gateway, upstream: Chaos, verb: str, body: bytes
) -> None:
    assert (await native(gateway, verb, "/v1/threads/t/runs", body)).status == 200
    request = upstream.exchanges[0]
    assert (request.method, bytes(request.body)) == (verb, body)
    assert request.header("content-length") == str(len(body))


@pytest.mark.parametrize(
    ("verb", "path", "kind", "body"),
    [
        ("POST", "/v1/realtime/calls", "application/sdp", b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n"),
        ("POST", "/v1/anything", "text/plain; charset=gbk", b"\xc4\xe3{"),
        ("POST", "/v1/anything", "application/x-www-form-urlencoded", b"a=1&b=%00"),
        ("PUT", "/v1/uploads/u/1", "application/octet-stream", bytes(range(256))),
        ("POST", "/v1/batches", "multipart/mixed; boundary=b", b"--b--\r\n"),
        ("POST", "/v1/audio/transcriptions", "audio/mpeg", bytes(range(256))),
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_that_is_not_json_by_its_type_goes_on_as_it_is(
    gateway: Gateway, upstream: Chaos, verb: str, path: str, kind: str, body: bytes, framing: str
) -> None:
    fields = {"Content-Type": kind, "Authorization": f"Bearer {gateway.token}", "Connection": "close"}
    if framing == "chunked":
        fields["Transfer-Encoding"] = "chunked"
        sent = request_bytes(verb, path, headers=fields) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        sent = request_bytes(verb, path, body, fields)
    got = await exchange(gateway, sent)
    assert (got.status, got.json) == (200, {"ok": True})
    request = upstream.exchanges[0]
    assert (request.method, request.target, request.header("content-type")) == (verb, path, kind)
    assert bytes(request.body) == body
    assert request.header("content-length") == (str(len(body)) if framing == "length" else None)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream", "x"])
async def test_a_known_interfaces_json_may_be_called_something_else(
    gateway: Gateway, upstream: Chaos, kind: str
) -> None:
    assert (await native(gateway, "POST", "/v1/chat/completions", CHAT, **{"Content-Type": kind})).status == 200
    request = upstream.exchanges[0]
    assert (bytes(request.body), request.header("content-type")) == (CHAT, "application/json")
    refused = await native(gateway, "POST", "/v1/chat/completions", b"hello", **{"Content-Type": kind})
    assert refused.headers["x-error-code"] == "4003"


@pytest.mark.parametrize("kind", ["", "application/json", "text/json", "application/ld+json"])
async def test_json_is_checked_on_its_way_to_any_interface(gateway: Gateway, upstream: Chaos, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    got = await native(gateway, "POST", "/v1/anything", b'{"a":1,"a":2}', **headers)
    assert got.headers["x-error-code"] == "4003"
    assert not upstream.exchanges


async def test_head_is_a_get_without_the_body(gateway: Gateway, upstream: Chaos) -> None:
    got = await native(gateway, "HEAD", "/v1/models")
    assert upstream.exchanges[0].method == "GET"
    assert (got.status, got.body) == (200, b"")
    assert got.headers["content-length"] == str(len('{"ok": true}'))


async def test_the_beta_header_passes_and_is_checked(gateway: Gateway, upstream: Chaos) -> None:
    await native(gateway, "GET", "/v1/threads", b"", **{"OpenAI-Beta": "assistants=v2"})
    await native(gateway, "GET", "/v1/threads", b"", **{"OpenAI-Beta": "\xe9vil"})
    assert [request.header("openai-beta") for request in upstream.exchanges] == ["assistants=v2", None]


async def test_a_default_model_is_put_in_front_and_nothing_else_changes(configured: Gateway) -> None:
    async with Chaos(json_answer({}), port=configured.upstream_port) as upstream:
        await native(configured, "POST", "/v1/chat/completions", b'{ "messages": [] , "n":1.0}')
    assert bytes(upstream.exchanges[0].body) == b'{"model":"gpt-default", "messages": [] , "n":1.0}'


# The answer


@pytest.mark.parametrize(
    ("result_type", "body", "content_type"),
    [
        ("json", b'{"a":"\\u00e9","n":1.0}', "application/json"),
        ("jsonu", '{"a":"é","n":1.0}'.encode(), "application/json; charset=utf-8"),
        ("serialize", 'a:2:{s:1:"a";s:2:"é";s:1:"n";d:1;}'.encode(), "text/plain; charset=utf-8"),
        ("var_export", "array (\n  'a' => 'é',\n  'n' => 1.0,\n)".encode(), "text/plain; charset=utf-8"),
        (
            "xml",
            '<?xml version="1.0" encoding="UTF-8"?>\n<root><a>é</a><n>1.0</n></root>'.encode(),
            "application/xml; charset=utf-8",
        ),
    ],
)
async def test_a_result_type_renders_the_body_alone(
    gateway: Gateway, result_type: str, body: bytes, content_type: str
) -> None:
    async with Chaos(answer('{"a":"é","n":1.0}'.encode()), port=gateway.upstream_port):
        got = await native(gateway, "GET", f"/v1/models?result_type={result_type}")
    assert (got.body.rstrip(), got.headers["content-type"]) == (body, content_type)


@pytest.mark.parametrize("status", [400, 402, 404, 409, 413, 422, 429, 451])
async def test_an_upstreams_error_about_the_request_passes_unchanged(gateway: Gateway, status: int) -> None:
    body = b'{"error": {"message": "no",  "type":"x", "param":null, "code":"y"}}'
    script = answer(body, "application/json", status, ("Retry-After", "7"), ("X-Should-Retry", "false"))
    async with Chaos(script, port=gateway.upstream_port):
        got = await native(gateway, "POST", "/v1/chat/completions", CHAT)
    assert (got.status, got.body, got.headers["x-error-code"]) == (status, body, "2000")
    assert (got.headers["retry-after"], got.headers["x-should-retry"]) == ("7", "false")


@pytest.mark.parametrize(
    "script",
    [
        *[json_answer({"error": {"message": f"Incorrect API key provided: {UPSTREAM_KEY}"}}, status)
          for status in (401, 403, 407, 408, 500, 502, 503, 504)],
        *[json_answer({"to": UPSTREAM_KEY}, status, ("Location", f"http://127.0.0.1/{UPSTREAM_KEY}"))
          for status in (301, 302, 303, 307, 308)],
        answer(f"{{{UPSTREAM_KEY}".encode()),
        answer(f"<html>{UPSTREAM_KEY}</html>".encode(), "text/html"),
        answer(UPSTREAM_KEY.encode(), "application/json", 200, ("Content-Encoding", "gzip")),
        f"{UPSTREAM_KEY}\r\n\r\n".encode(),
        f"HTTP/1.1 200 {UPSTREAM_KEY}\r\nContent-Length: x\r\n\r\n".encode(),
        f"HTTP/1.1 999 {UPSTREAM_KEY}\r\nContent-Length: 0\r\n\r\n".encode(),
    ],
    ids=[
        "401", "403", "407", "408", "500", "502", "503", "504", "301", "302", "303", "307", "308", "broken JSON",
        "web page", "compressed", "no HTTP", "bad length", "status out of range",
    ],
)  # fmt: skip
async def test_what_is_the_operators_own_business_is_4002_without_the_upstreams_text(
    gateway: Gateway, script: bytes
) -> None:
    async with Chaos(script, port=gateway.upstream_port) as upstream:
        got = await native(gateway, "POST", "/v1/chat/completions", CHAT)
    assert (got.status, got.headers["x-error-code"], got.json["error"]["code"]) == (502, "4002", "4002")
    assert UPSTREAM_KEY.encode() not in got.raw
    assert len(upstream.exchanges) == 1  # neither followed nor sent again


async def test_an_error_of_the_gateways_own_is_openais_object(gateway: Gateway) -> None:
    got = await native(gateway, "POST", "/v1/chat/completions", b"{}")
    assert got.status == 400
    assert got.headers["content-type"] == "application/json"
    assert got.json == {
        "error": {
            "message": "Missing url param: v1/chat/completions needs the argument messages",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "4014",
        }
    }


async def test_a_deleted_things_empty_answer_stays_empty(gateway: Gateway) -> None:
    async with Chaos(head(204), port=gateway.upstream_port):
        got = await native(gateway, "DELETE", "/v1/responses/r1")
    assert (got.status, got.body, got.headers["x-error-code"]) == (204, b"", "0000")
    assert "content-length" not in got.headers


# Files


async def test_files_are_listed_uploaded_retrieved_read_and_deleted(gateway: Gateway) -> None:
    content = bytes(range(256)) * 64
    file = answer(content, "application/octet-stream", 200, ("Content-Disposition", 'attachment; filename="a.jsonl"'))
    other = json_answer({"id": "file-1"})
    body = b"--b\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n--b--\r\n"
    async with Chaos(other, other, other, file, other, port=gateway.upstream_port) as upstream:
        listed = await native(gateway, "GET", "/v1/files?purpose=batch")
        uploaded = await native(
            gateway, "POST", "/v1/files", body, **{"Content-Type": "multipart/form-data; boundary=b"}
        )
        retrieved = await native(gateway, "GET", "/v1/files/file-1")
        read = await native(gateway, "GET", "/v1/files/file-1/content")
        deleted = await native(gateway, "DELETE", "/v1/files/file-1")
    assert [got.status for got in (listed, uploaded, retrieved, read, deleted)] == [200] * 5
    assert [(request.method, request.target) for request in upstream.exchanges] == [
        ("GET", "/v1/files?purpose=batch"),
        ("POST", "/v1/files"),
        ("GET", "/v1/files/file-1"),
        ("GET", "/v1/files/file-1/content"),
        ("DELETE", "/v1/files/file-1"),
    ]
    upload = upstream.exchanges[1]
    assert bytes(upload.body) == body  # just as the client wrote it
    assert upload.header("content-type") == "multipart/form-data; boundary=b"
    assert upload.header("content-length") == str(len(body))
    assert read.body == content
    assert read.headers["content-disposition"] == 'attachment; filename="a.jsonl"'
    assert read.headers["content-length"] == str(len(content))


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "text/html", "application/octet-stream"])
async def test_a_files_content_is_never_looked_into(gateway: Gateway, content_type: str) -> None:
    async with Chaos(answer(b"{broken", content_type), port=gateway.upstream_port):
        got = await native(gateway, "GET", "/v1/files/file-1/content")
    assert (got.status, got.body, got.headers["content-type"]) == (200, b"{broken", content_type)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_streams_through_in_bounded_memory(gateway: Gateway, upstream: Chaos, framing: str) -> None:
    """The upstream has the first bytes before the client has sent the last."""
    piece, count = bytes(range(256)) * 4096, 50
    fields = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": f"Bearer {gateway.token}"}
    fields |= {"Content-Length": str(count * len(piece))} if framing == "length" else {"Transfer-Encoding": "chunked"}
    framed = piece if framing == "length" else b"%x\r\n%b\r\n" % (len(piece), piece)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes("POST", "/v1/files", headers={**fields, "Connection": "close"}) + framed)
    request = await upstream.exchange()
    before = gateway.resident_bytes
    for _ in range(count - 1):
        writer.write(framed)
        await writer.drain()
    assert gateway.resident_bytes - before < 8 * MEBIBYTE
    writer.write(b"" if framing == "length" else b"0\r\n\r\n")
    got = parse_answer(await read_to_end(reader))
    writer.close()
    assert (got.status, got.json) == (200, {"ok": True})
    assert bytes(request.body) == piece * count
    assert request.header("content-length" if framing == "length" else "transfer-encoding") is not None


async def test_a_download_streams_through_in_bounded_memory(gateway: Gateway) -> None:
    total = 50 * MEBIBYTE
    start = head(200, ("Content-Type", "audio/wav"), ("Content-Length", str(total)))
    async with Chaos([start, Flood(total, b"\xff" * 65_536)], port=gateway.upstream_port) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        fields = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/json"}
        writer.write(request_bytes("POST", "/v1/audio/speech", b'{"input":"hi"}', fields))
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        before = gateway.resident_bytes
        received = len(await reader.read(65_536))
        assert upstream.connections[0].sent_bytes < total  # read no faster than the client takes it
        while received < total:
            received += len(await reader.read(1_048_576))
        assert gateway.resident_bytes - before < 8 * MEBIBYTE
        writer.close()
    assert received == total


async def test_an_upload_that_the_upstream_refuses_early_gets_that_answer(gateway: Gateway) -> None:
    refusal = json_answer({"error": {"message": "too large"}}, 413, ("Connection", "close"))
    async with Chaos([ReadBody(1000), refusal, Close()], port=gateway.upstream_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        fields = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": f"Bearer {gateway.token}"}
        writer.write(request_bytes("POST", "/v1/files", headers={**fields, "Content-Length": "100000000"}))
        writer.write(b"x" * 100_000)
        received = await reader.readuntil(b"}}")
        writer.close()
    got = parse_answer(received)
    assert (got.status, got.json, got.headers["connection"]) == (413, {"error": {"message": "too large"}}, "close")


# Streams and browsers


async def test_a_stream_comes_byte_for_byte(gateway: Gateway) -> None:
    events = [b'data: {"a":1}\r\n\r\n', b": c\n\n", "data: 你\n\n".encode(), b"data: [DONE]\n\n"]
    async with Chaos(sse_answer(events), port=gateway.upstream_port):
        body = json.dumps({"messages": [], "stream": True}).encode()
        got = await native(gateway, "POST", "/v1/chat/completions", body)
    assert (got.status, got.body, got.complete) == (200, b"".join(events), True)


async def test_cors_preflight_needs_no_credentials(configured: Gateway) -> None:
    headers = {"Origin": "https://any.test", "Access-Control-Request-Headers": "authorization"}
    got = await call(configured, "OPTIONS", "/v1/chat/completions", headers=headers)
    assert got.status == 204
    assert got.headers["access-control-allow-origin"] == "*"
    assert "Authorization" in got.headers["access-control-allow-headers"]
    refused = await call(configured, "GET", "/v1/models", headers=headers)
    assert refused.status == 400
    assert refused.headers["access-control-allow-origin"] == "*"  # or a page could not read why


async def test_options_without_an_origin_says_what_is_allowed(gateway: Gateway) -> None:
    got = await call(gateway, "OPTIONS", "/v1/models")
    assert got.status == 204
    assert set(got.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"}
    assert not [name for name in got.headers if name.startswith("access-control")]
