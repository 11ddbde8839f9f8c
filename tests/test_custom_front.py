"""The documented API as its clients call it: every source of parameters, every spelling, the envelope to the letter."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from urllib.parse import quote, urlencode

import pytest

from tests.chaos import Chaos, answer, chunk, json_answer, sse_answer
from tests.support import (
    UPSTREAM_KEY,
    Answer,
    Gateway,
    call,
    custom_path,
    exchange,
    gateway_before_chaos,
    request_bytes,
)
from tests.test_multipart import FORM, fields, form

CHAT = "v1/chat/completions"
O_ARGS = (
    '{ "model":"m", "messages":[{"role":"user","content":"你好 &+%2B \\u4f60"}],"temperature":1.0,"seed":1e2,"n":1}'
)
ANSWER = b'{"id": "x", "n": 1.0, "big": 12345678901234567890123, "text": "\xe4\xbd\xa0"}'
CONFIG = """
[server]
cors_origins = ["https://app.test"]
[defaults.model]
"v1/chat/completions" = "gpt-default"
"v1/audio/transcriptions" = "whisper-default"
"""
UPSTREAM_HEADERS = {
    "host",
    "authorization",
    "user-agent",
    "accept",
    "accept-encoding",
    "content-type",
    "content-length",
}


@pytest.fixture
async def upstream(gateway: Gateway) -> AsyncIterator[Chaos]:
    async with Chaos(answer(ANSWER), port=gateway.upstream_port) as chaos:
        yield chaos


@pytest.fixture(scope="module")
def configured() -> Iterator[Gateway]:
    """A gateway with default models and CORS."""
    with gateway_before_chaos(config=CONFIG) as gateway:
        yield gateway


async def custom(
    gateway: Gateway,
    verb: str = "GET",
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    /,
    **parameters: str,
) -> Answer:
    return await call(gateway, verb, custom_path(gateway, **parameters), body, headers)


# Where parameters come from


@pytest.mark.parametrize("source", ["query", "form", "json", "json with an object", "multipart", "split"])
async def test_every_parameter_comes_from_every_source(gateway: Gateway, upstream: Chaos, source: str) -> None:
    parameters = {
        "key": gateway.key, "secret": gateway.secret, "api_name": "custom", "method": CHAT, "_o_args": O_ARGS,
        "cache": "no", "result_type": "jsonu", "lang": "cn", "version": "2", "dateline": "1593583206",
    }  # fmt: skip
    path, body, kind = "/openai/custom/", b"", ""
    match source:
        case "query":
            path += "?" + urlencode(parameters)
        case "form":
            body, kind = urlencode(parameters).encode(), "application/x-www-form-urlencoded"
        case "json":
            body, kind = json.dumps(parameters).encode(), "application/json"
        case "json with an object":
            del parameters["_o_args"]
            body = json.dumps(parameters)[:-1].encode() + b', "_o_args" :' + O_ARGS.encode() + b"}"
            kind = "application/json"
        case "multipart":
            body, kind = form(*fields(parameters)), FORM
        case "split":
            posted = {"secret": parameters.pop("secret"), "_o_args": parameters.pop("_o_args")}
            path += "?" + urlencode(parameters)
            body, kind = urlencode(posted).encode(), "application/x-www-form-urlencoded; charset=utf-8"
    got = await call(gateway, "POST" if body else "GET", path, body, {"Content-Type": kind} if body else {})
    assert got.headers["x-error-code"] == "0000"
    assert "你" in got.body.decode()
    assert got.json["language"]["current_lang"] == "cn"
    request = upstream.exchanges[0]
    assert (request.method, request.target) == ("POST", "/v1/chat/completions")
    assert bytes(request.body) == O_ARGS.encode()


async def test_a_json_body_of_nothing_but_arguments_goes_on_as_it_is(gateway: Gateway, upstream: Chaos) -> None:
    await custom(gateway, "POST", O_ARGS.encode(), {"Content-Type": "application/json"}, method=CHAT)
    assert bytes(upstream.exchanges[0].body) == O_ARGS.encode()


async def test_parameters_given_twice_alike_are_one_and_otherwise_4003(gateway: Gateway, upstream: Chaos) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    again = urlencode({"key": gateway.key, "method": CHAT}).encode()
    assert (await custom(gateway, "POST", again, kind, method=CHAT, _o_args=O_ARGS)).json["error_code"] == "0000"
    for name in ("key", "secret", "method", "api", "lang", "cache", "model"):
        given = {"method": CHAT, "_o_args": O_ARGS, "lang": "cn", "cache": "yes", "model": "m"}
        got = await custom(gateway, "POST", f"{name}=other".encode(), kind, **given)
        assert got.json["error_code"] == "4003"
        assert ("method" if name == "api" else name) in got.json["reason"]
    assert len(upstream.exchanges) == 1


# Tolerated spellings


@pytest.mark.parametrize(
    "target",
    [
        "/openai/custom?{}&method=v1/models",
        "/openai/custom/?&&{}&&method=v1/models&&",
        "/openai/custom/?{}&method=v1%2Fmodels",
        "/openai/custom/?{}&method=v1%2fmodels",
        "/openai/custom/?{}&method=/v1/models",
        "/openai/custom/?{}&method=v1/models/",
        "/openai/custom/?{}&api=v1/models",
        "/openai/custom/?{}&api=v1/models&method=v1/models",
        "/openai/custom/?{}&api_name=custom&method=v1/models",
        "/openai/custom/?{}&%6Dethod=v1/models&sign=x&guest_ip=1.2.3.4&source_data=1&API_type=2",
        "/openai/api_call.php?api_name=custom&{}&method=v1/models",
        "/openai/custom/?{}&method=v1/models&session=&desc_lang=en&prop_lang=en&dateline=1",
        "/openai/custom/?{}&method=v1/models&cache=&lang=&result_type=&version=&_o_args=",
        "/openai/custom/?{}&method=v1/models#fragment",
    ],
)
async def test_tolerated_spellings_are_the_same_call(gateway: Gateway, upstream: Chaos, target: str) -> None:
    got = await call(gateway, "GET", target.format(urlencode({"key": gateway.key, "secret": gateway.secret})))
    assert (got.status, got.json["error_code"]) == (200, "0000")
    assert (upstream.exchanges[0].method, upstream.exchanges[0].target) == ("GET", "/v1/models")


@pytest.mark.parametrize(
    ("spelling", "text"),
    [
        (b"a+b%2Bc%20d", "a b+c d"),
        ("向日葵".encode(), "向日葵"),
        (quote("向日葵 🌻").encode(), "向日葵 🌻"),
        (b"%E5%90%91" + "日".encode(), "向日"),
        (b"100%", "100%"),
        (b"a%zz=b", "a%zz=b"),
        (b"", ""),
    ],
)
async def test_text_in_the_url_may_be_encoded_or_raw(
    gateway: Gateway, upstream: Chaos, spelling: bytes, text: str
) -> None:
    path = custom_path(gateway, method="v1/images/generations").encode() + b"&prompt=" + spelling
    request = b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert (await exchange(gateway, request)).json["error_code"] == "0000"
    assert upstream.exchanges[0].json == {"prompt": text}


async def test_answers_are_never_compressed(gateway: Gateway, upstream: Chaos) -> None:
    got = await custom(gateway, "GET", b"", {"Accept-Encoding": "gzip, br, deflate"}, method="v1/models")
    assert "content-encoding" not in got.headers
    assert got.json["error_code"] == "0000"
    assert upstream.exchanges[0].header("accept-encoding") == "identity"


@pytest.mark.parametrize(
    ("version", "fields"), [("1.0", {}), ("1.0", {"Connection": "keep-alive"}), ("1.1", {"Connection": "close"})]
)
async def test_old_and_closing_clients_get_an_answer_that_ends_with_the_connection(
    gateway: Gateway, upstream: Chaos, version: str, fields: dict[str, str]
) -> None:
    request = request_bytes("GET", custom_path(gateway, method="v1/models"), headers=fields, version=version)
    got = await exchange(gateway, request)
    assert got.complete
    assert got.headers["connection"] == "close"
    assert got.headers["content-length"] == str(len(got.body))
    assert got.json["error_code"] == "0000"


async def test_an_http_1_0_stream_comes_without_chunks(gateway: Gateway) -> None:
    events = [b'data: {"a": 1}\n\n', b"data: [DONE]\n\n"]
    async with Chaos(sse_answer(events), port=gateway.upstream_port):
        path = custom_path(gateway, method=CHAT, messages="[]", stream="true")
        got = await exchange(gateway, request_bytes("GET", path, version="1.0"))
    assert got.body == b"".join(events)
    assert "transfer-encoding" not in got.headers


# Arguments


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("temperature", "0.70", b"0.70"),
        ("n", "2", b"2"),
        ("seed", "-1E+2", b"-1E+2"),
        ("n", "02", b'"02"'),
        ("n", "+2", b'"+2"'),
        ("n", "1.", b'"1."'),
        ("n", "NaN", b'"NaN"'),
        ("n", "١", '"١"'.encode()),
        ("logprobs", "true", b"true"),
        ("logprobs", "True", b'"True"'),
        ("logprobs", "false", b"false"),
        ("logit_bias", "null", b"null"),
        ("logit_bias", '{"50256": -1.0}', b'{"50256": -1.0}'),
        ("tools", "[]", b"[]"),
        ("tools", "[broken", b'"[broken"'),
        ("model", "123", b'"123"'),
        ("model", "null", b'"null"'),
        ("user", "true", b'"true"'),
        ("size", "1024", b'"1024"'),
        ("stop", "1", b'"1"'),
        ("stop", '["a"]', b'["a"]'),
        ("whatever", " 1", b'" 1"'),
        ("whatever", '"quoted"', b'"\\"quoted\\""'),
        ("whatever", "", b'""'),
    ],
)
async def test_a_flat_argument_is_json_where_openai_does_not_type_it_as_text(
    gateway: Gateway, upstream: Chaos, name: str, text: str, expected: bytes
) -> None:
    assert (await custom(gateway, method="v1/responses", **{name: text})).json["error_code"] == "0000"
    assert bytes(upstream.exchanges[0].body) == b'{"' + name.encode() + b'":' + expected + b"}"


@pytest.mark.parametrize(
    ("method", "name"), [("v1/completions", "prompt"), ("v1/embeddings", "input"), ("v1/edits", "instruction")]
)
@pytest.mark.parametrize("text", ["42", "true", "null", "[1]", '{"a":1}'])
async def test_a_prompt_stays_text_whatever_it_looks_like(
    gateway: Gateway, upstream: Chaos, method: str, name: str, text: str
) -> None:
    await custom(gateway, method=method, **{name: text})
    assert upstream.exchanges[0].json == {name: text}


async def test_o_args_win_over_flat_arguments_and_over_a_json_body(gateway: Gateway, upstream: Chaos) -> None:
    o_args = '{"model":"from o_args","messages":[]}'
    await custom(gateway, method=CHAT, _o_args=o_args, model="flat", temperature="0.10")
    await custom(gateway, "POST", b'{"model":"body", "top_p":1.0}', method=CHAT, _o_args=o_args)
    assert bytes(upstream.exchanges[0].body) == b'{"temperature":0.10,"model":"from o_args","messages":[]}'
    assert bytes(upstream.exchanges[1].body) == b'{"top_p":1.0,"model":"from o_args","messages":[]}'


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"_o_args": '{"messages":[]}'}, b'{"model":"gpt-default","messages":[]}'),
        ({"_o_args": ' {"messages" : [ ] } '}, b'{"model":"gpt-default","messages" : [ ] }'),
        ({"_o_args": '{"messages":[],"model":"mine"}'}, b'{"messages":[],"model":"mine"}'),
        ({"messages": "[]", "model": "7"}, b'{"messages":[],"model":"7"}'),
    ],
)
async def test_arguments_without_a_model_get_the_default_one(
    configured: Gateway, given: dict[str, str], sent: bytes
) -> None:
    async with Chaos(answer(ANSWER), port=configured.upstream_port) as upstream:
        await custom(configured, method=CHAT, **given)
    assert bytes(upstream.exchanges[0].body) == sent


async def test_a_form_without_a_model_gets_the_default_one(configured: Gateway) -> None:
    async with Chaos(answer(ANSWER), port=configured.upstream_port) as upstream:
        body = form(("file", "a.mp3", b"x"))
        await custom(configured, "POST", body, {"Content-Type": FORM}, method="v1/audio/transcriptions")
    assert b'name="model"\r\n\r\nwhisper-default\r\n' in upstream.exchanges[0].body


# Verbs


@pytest.mark.parametrize(
    ("verb", "parameters", "expected"),
    [
        ("GET", {"method": "v1/models"}, ("GET", "/v1/models", b"")),
        ("POST", {"method": "v1/models"}, ("GET", "/v1/models", b"")),
        ("GET", {"method": "v1/models/gpt-4o"}, ("GET", "/v1/models/gpt-4o", b"")),
        ("GET", {"method": CHAT, "messages": "[]"}, ("POST", "/v1/chat/completions", b'{"messages":[]}')),
        ("POST", {"method": CHAT, "messages": "[]"}, ("POST", "/v1/chat/completions", b'{"messages":[]}')),
        ("GET", {"method": "v1/files", "purpose": "a b", "limit": "2"}, ("GET", "/v1/files?purpose=a+b&limit=2", b"")),
        ("GET", {"method": "v1/files/f1", "_method": "DELETE"}, ("DELETE", "/v1/files/f1", b"")),
        ("DELETE", {"method": "v1/files/f1"}, ("DELETE", "/v1/files/f1", b"")),
        ("POST", {"method": "v1/models/ft:a", "_method": "DELETE"}, ("DELETE", "/v1/models/ft:a", b"")),
        ("GET", {"method": "v1/batches"}, ("GET", "/v1/batches", b"")),
        ("GET", {"method": "v1/batches/b/cancel", "_method": "POST"}, ("POST", "/v1/batches/b/cancel", b"")),
        ("GET", {"method": "v1/batches", "limit": "3", "_method": "GET"}, ("GET", "/v1/batches?limit=3", b"")),
        ("GET", {"method": "v1/batches", "input_file_id": "f"}, ("POST", "/v1/batches", b'{"input_file_id":"f"}')),
        ("HEAD", {"method": "v1/models"}, ("GET", "/v1/models", b"")),
    ],
)  # fmt: skip
async def test_the_upstreams_verb_follows_from_the_call(
    gateway: Gateway, upstream: Chaos, verb: str, parameters: dict[str, str], expected: tuple[str, str, bytes]
) -> None:
    got = await custom(gateway, verb, **parameters)
    assert got.status == 200
    request = upstream.exchanges[0]
    assert (request.method, request.target, bytes(request.body)) == expected
    assert request.header("content-length") == (str(len(request.body)) if request.method == "POST" else None)
    assert request.header("content-type") == ("application/json" if request.body else None)


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
async def test_arguments_that_would_make_an_endless_query_are_4003(
    gateway: Gateway, upstream: Chaos, verb: str
) -> None:
    many = {f"p{i}": i for i in range(100_000)}
    for arguments in (many, {"after": "x" * 16_400}, {"after": "你" * 2000}):
        body = json.dumps({"_o_args": arguments}).encode()
        got = await custom(gateway, "POST", body, method="v1/files", _method=verb)
        assert got.headers["x-error-code"] == "4003"
        assert "16384 bytes" in got.json["reason"]
    assert not upstream.exchanges
    body = json.dumps({"after": "x" * 16_000}).encode()
    assert (await custom(gateway, "POST", body, method="v1/files", _method=verb)).headers["x-error-code"] == "0000"
    assert upstream.exchanges[0].target == "/v1/files?after=" + "x" * 16_000


# What passes, either way


async def test_nothing_of_the_callers_reaches_the_upstream_but_method_and_arguments(
    gateway: Gateway, upstream: Chaos
) -> None:
    canaries = {
        "sign": "canary01", "dateline": "canary02", "guest_ip": "canary03", "source_data": "canary04",
        "session": "canary05", "desc_lang": "canary06", "prop_lang": "canary07", "API_type": "canary08",
    }  # fmt: skip
    headers = {
        "Cookie": "canary=09", "X-Forwarded-For": "10.9.8.7", "X-Real-IP": "10.9.8.7", "Forwarded": "for=canary",
        "X-Forwarded-Host": "canary", "Authorization": "Bearer canary", "Proxy-Authorization": "Basic canary",
        "OpenAI-Organization": "canary", "User-Agent": "canary/1", "Referer": "http://canary/", "Origin": "http://c/",
        "Via": "1.1 canary", "TE": "trailers", "Accept": "text/canary", "Accept-Language": "canary", "Host": "canary",
        "Connection": "close, X-Canary", "Traceparent": "canary", "X-Canary": "canary", "Idempotency-Key": "canary",
    }  # fmt: skip
    own = {"version": "2", "cache": "no", "result_type": "xml", "lang": "ru", "api_name": "custom", "_method": "POST"}
    await custom(gateway, "POST", b"", headers, method=CHAT, messages="[]", **canaries, **own)
    request = upstream.exchanges[0]
    assert {name.lower() for name, _ in request.headers} == UPSTREAM_HEADERS
    assert request.header("authorization") == f"Bearer {UPSTREAM_KEY}"
    assert bytes(request.body) == b'{"messages":[]}'
    for secret in (b"canary0", b"10.9.8.7", gateway.key.encode(), gateway.secret.encode(), b"canary/", b"canary\r"):
        assert secret not in bytes(request.raw).replace(UPSTREAM_KEY.encode(), b"")


async def test_of_the_upstreams_headers_only_the_listed_ones_reach_the_client(gateway: Gateway) -> None:
    secret_headers = [
        ("Set-Cookie", "__cf_bm=canary"), ("Server", "canary"), ("OpenAI-Organization", "canary"), ("Date", "canary"),
        ("X-Request-Id", "canary"), ("OpenAI-Project", "canary"),
        ("X-RateLimit-Remaining", "canary"), ("CF-Ray", "canary"), ("Via", "canary"),
        ("Access-Control-Allow-Origin", "canary"), ("Location", "http://canary/"), ("WWW-Authenticate", "canary"),
        ("Connection", "X-Hop"), ("X-Hop", "canary"), ("Keep-Alive", "timeout=canary"),
    ]  # fmt: skip
    passed = [("openai-processing-ms", "12"), ("openai-version", "2020-10-01"), ("x-should-retry", "true")]
    async with Chaos(json_answer({}, 200, *secret_headers, *passed), port=gateway.upstream_port):
        got = await custom(gateway, method="v1/models")
    assert b"canary" not in got.raw
    assert set(got.headers) == {
        "server", "date", "version", "content-type", "content-length", "connection", "x-request-id", "x-last-id",
        "x-error-code", "x-cache", "server-timing", *(name for name, _ in passed),
    }  # fmt: skip


# The envelope


async def test_version_1_is_exactly_the_documented_fields_in_their_order(gateway: Gateway, upstream: Chaos) -> None:
    got = await custom(gateway, method="v1/models", result_type="jsonu")
    found = re.fullmatch(
        rb'{"response":(.*),"error":"","reason":"","error_code":"0000",'
        rb'"request_id":"(1\.[0-9a-f]{13})","last_id":"([0-9]+)"}',
        got.body,
    )
    assert found is not None
    assert found[1] == ANSWER
    assert got.headers["x-request-id"].encode() == found[2]
    assert got.headers["x-last-id"].encode() == found[3]
    assert (got.headers["x-error-code"], got.headers["x-cache"]) == ("0000", "off")
    assert re.fullmatch(r"upstream;dur=[0-9.]+, total;dur=[0-9.]+", got.headers["server-timing"])
    assert got.headers["content-type"] == "application/json; charset=utf-8"


async def test_an_error_has_no_response_and_says_what_was_wrong(gateway: Gateway) -> None:
    got = await call(gateway, "GET", "/openai/custom/?method=v1/models&key=nobody&secret=none")
    assert re.fullmatch(
        rb'{"response":null,"error":"Account not found","reason":"[^"]+","error_code":"4004",'
        rb'"request_id":"1\.[0-9a-f]{13}","last_id":""}',
        got.body,
    )
    assert (got.status, got.headers["x-last-id"], got.headers["content-type"]) == (200, "", "application/json")


async def test_version_2_appends_its_fields(gateway: Gateway, upstream: Chaos) -> None:
    got = await custom(
        gateway, method=CHAT, _o_args='{"messages":[],"n":1.0}', version="2", lang="en", result_type="jsonu"
    )
    envelope = got.json
    assert list(envelope) == [
        "response", "error", "reason", "error_code", "request_id", "last_id",
        "success", "cache", "api_info", "execution_time", "server_time", "client_ip", "call_args", "api_type",
        "language", "translate_language", "translate_engine", "translate_status", "translate_time", "charge",
    ]  # fmt: skip
    assert (envelope["success"], envelope["cache"], envelope["charge"]) == (1, 0, "0")
    assert re.fullmatch(r"today:\d+ max:unlimited all\[(\d+)=\d+\+\d+\+\d+\]", envelope["api_info"])
    assert re.fullmatch(r"\d+\.\d{3}", envelope["execution_time"])
    assert re.fullmatch(r"Beijing/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", envelope["server_time"])
    assert envelope["client_ip"] == "127.0.0.1"
    assert b'"call_args":{"messages":[],"n":1.0}' in got.body
    assert envelope["language"] == {"default_lang": "cn", "current_lang": "en", "source_lang": "cn"}
    assert (envelope["translate_language"], envelope["translate_status"]) == ("en", "failed")
    assert all(isinstance(envelope[name], str) for name in ("api_type", "translate_engine", "translate_time"))


async def test_version_2_of_a_refusal_has_the_same_fields(gateway: Gateway, upstream: Chaos) -> None:
    succeeded = (await custom(gateway, method="v1/models", version="2")).json
    refused = (await call(gateway, "GET", "/openai/custom/?version=2&secret=canary&key=canary")).json
    assert list(refused) == list(succeeded)
    assert (refused["success"], refused["error_code"], refused["call_args"]) == (0, "4014", {})
    assert "canary" not in json.dumps(refused)


async def test_version_2s_call_args_leave_secrets_out(gateway: Gateway, upstream: Chaos) -> None:
    o_args = '{"messages":[],"key":"canary","secret":"canary"}'
    got = await custom(gateway, method=CHAT, _o_args=o_args, version="2")
    assert got.json["call_args"] == {"messages": []}


async def test_counts_of_version_2_rise_with_the_calls(gateway: Gateway, upstream: Chaos) -> None:
    async def counts() -> list[int]:
        info = (await custom(gateway, method="v1/models", version="2")).json["api_info"]
        return [int(number) for number in re.findall(r"\d+", info)]

    today, total, succeeded, empty, failed = await counts()
    assert total == succeeded + empty + failed
    assert await counts() == [today + 1, total + 1, succeeded + 1, empty, failed]


async def test_ids_are_unique_and_rise(gateway: Gateway, upstream: Chaos) -> None:
    answers = await asyncio.gather(*[custom(gateway, method="v1/models") for _ in range(200)])
    assert {got.status for got in answers} == {200}
    assert len({got.json["request_id"] for got in answers}) == 200
    assert len({got.json["last_id"] for got in answers}) == 200
    rows = [int((await custom(gateway, method="v1/models")).json["last_id"]) for _ in range(5)]
    assert rows == sorted(set(rows))
    assert rows[0] > max(int(got.json["last_id"]) for got in answers)
    # request_id and last_id name the same moment in the same order
    answers.sort(key=lambda got: got.json["request_id"])
    assert [got.json["last_id"] for got in answers] == sorted(got.json["last_id"] for got in answers)


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"WEBVTT\n\n1", "text/vtt", "WEBVTT\n\n1"),
        (b"plain \xff text", "text/plain; charset=utf-8", "plain � text"),
        (b"", "text/plain", None),
        (b" [1, 2.50] ", "application/json", [1, 2.5]),
        (b"null", "application/json; charset=utf-8", None),
    ],
)
async def test_every_kind_of_text_is_enveloped(gateway: Gateway, body: bytes, kind: str, expected: object) -> None:
    async with Chaos(answer(body, kind), port=gateway.upstream_port):
        got = await custom(gateway, method="v1/models")
    assert (got.status, got.json["error_code"], got.json["response"]) == (200, "0000", expected)


@pytest.mark.parametrize("status", [201, 400, 404, 409, 422, 429, 500, 503, 401, 302])
async def test_the_http_status_is_200_whatever_the_upstream_says(gateway: Gateway, status: int) -> None:
    async with Chaos(json_answer({"error": {"message": "no"}}, status), port=gateway.upstream_port):
        assert (await custom(gateway, method="v1/models")).status == 200


async def test_a_file_comes_as_it_is_and_without_an_envelope(gateway: Gateway) -> None:
    sound = bytes(range(256)) * 1000
    async with Chaos(answer(sound, "audio/mpeg"), port=gateway.upstream_port):
        got = await custom(gateway, method="v1/audio/speech", input="hi", voice="alloy", result_type="xml")
    assert got.body == sound
    assert got.headers["content-type"] == "audio/mpeg"
    assert re.fullmatch(r"1\.[0-9a-f]{13}", got.headers["x-request-id"])


# Browsers


async def test_an_event_source_gets_its_stream(configured: Gateway) -> None:
    events = [b'data: {"choices":[]}\n\n', b": hm\n\n", b"data: [DONE]\n\n"]
    async with Chaos(sse_answer(events), port=configured.upstream_port) as upstream:
        path = custom_path(configured, method=CHAT, stream="true", messages='[{"role":"user","content":"你好"}]')
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache", "Origin": "https://app.test"}
        got = await call(configured, "GET", path, headers=headers)
    assert (got.status, got.headers["content-type"], got.complete) == (200, "text/event-stream", True)
    assert got.raw.endswith(b"".join(chunk(event) for event in events) + b"0\r\n\r\n")
    assert got.headers["cache-control"] == "no-cache"
    assert got.headers["access-control-allow-origin"] == "https://app.test"
    assert upstream.exchanges[0].json["stream"] is True


async def test_cors_is_answered_for_listed_origins_only(configured: Gateway) -> None:
    async def preflight(origin: str) -> Answer:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        return await call(configured, "OPTIONS", "/openai/custom/", headers=headers)

    listed, other = await preflight("https://app.test"), await preflight("https://evil.test")
    assert (listed.status, other.status) == (204, 204)
    assert listed.headers["access-control-allow-origin"] == "https://app.test"
    assert "POST" in listed.headers["access-control-allow-methods"]
    assert "content-length" not in listed.headers
    assert not [name for name in other.headers if name.startswith("access-control")]
    assert other.headers["vary"] == "Origin"


FLAT_FAULTS = ['{"b":1,"b":2}', "[" * 300 + "]" * 300, '["\\ud800"]', "1e999", "9" * 400]


@pytest.mark.parametrize("value", FLAT_FAULTS, ids=range(len(FLAT_FAULTS)))
async def test_flat_json_is_as_strict_as_o_args(gateway: Gateway, value: str) -> None:
    """What could not stand in `_o_args` is refused flat too, and names the argument."""
    async with Chaos(json_answer({}), port=gateway.upstream_port) as chaos:
        got = await call(gateway, "GET", custom_path(gateway, method="v1/t/x", dimensions=value))
    assert got.json["error_code"] == "4003", got.body[:300]
    assert got.json["reason"].startswith("dimensions: ")
    assert not chaos.exchanges


async def test_own_parameters_among_the_arguments_stay_here(gateway: Gateway) -> None:
    """A confused caller's key and secret within `_o_args` are dropped; `session`, an argument too, goes on."""
    o_args = '{"key": "k", "secret": "zz", "cache": "no", "session": {"a": 1.50}, "x": 1}'
    async with Chaos(json_answer({}), port=gateway.upstream_port) as chaos:
        got = await call(gateway, "GET", custom_path(gateway, method="v1/t/x", _o_args=o_args))
    assert got.json["error_code"] == "0000"
    assert bytes(chaos.exchanges[0].body) == b'{"session":{"a": 1.50},"x":1}'


@pytest.mark.parametrize(
    "target", ["/openai/custom/?api_name=foo&", "/openai/foo/?api_name=custom&", "/openai/api_call.php?api_name=zz&"]
)
async def test_any_other_api_name_is_4010(gateway: Gateway, target: str) -> None:
    """Wherever it is given."""
    query = custom_path(gateway, method="v1/models").partition("?")[2]
    got = await call(gateway, "GET", target + query)
    assert got.json["error_code"] == "4010"
