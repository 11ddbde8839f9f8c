"""Every vector of real PHP's answers, as an upstream's answer through HTTP, in all five formats."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import aiohttp
import pytest
import pytest_asyncio

from gateway.types import MAX_DEPTH
from tests.chaos import Chaos, Exchange, answer
from tests.support import Gateway, gateway_before_chaos

Vector = dict[str, Any]

VECTORS: list[Vector] = [
    json.loads(line)
    for line in gzip.decompress((Path(__file__).parent / "data/php.jsonl.gz").read_bytes()).splitlines()
]
FORMATS = ("json", "jsonu", "xml", "serialize", "var_export")


@pytest.fixture(scope="module")
def own_gateway() -> Iterator[Gateway]:
    """A gateway whose upstream answers with the vector that the call names."""
    with gateway_before_chaos() as gateway:
        yield gateway


@pytest_asyncio.fixture
async def session(own_gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    by_id = {vector["id"]: vector["json"].encode("utf-8", "surrogatepass") for vector in VECTORS}

    async def serve(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(answer(by_id[exchange.json["vector"]]))

    async with Chaos(serve, port=own_gateway.upstream_port), aiohttp.ClientSession() as session:
        yield session


async def rendered(session: aiohttp.ClientSession, gateway: Gateway, vector: Vector, result_type: str) -> bytes:
    query = {"key": gateway.key, "secret": gateway.secret, "method": "v1/echo", "result_type": result_type}
    async with session.post(
        f"{gateway.origin}/openai/custom/", params=query, json={"vector": vector["id"]}
    ) as response:
        assert response.status == 200
        return await response.read()


def is_too_deep(vector: Vector) -> bool:
    """Deeper than what the gateway renders; PHP itself draws the line at 512."""
    depth = deepest = 0
    for character in vector["json"]:  # no vector of that depth has brackets within strings
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH


def has_lone_surrogate(vector: Vector) -> bool:
    """Refused by PHP, and JSON all the same: half of a surrogate pair, escaped."""
    return str(vector["php_decode_error"]).startswith("10 ")


def is_answer(vector: Vector) -> bool:
    return vector["php_decode_error"] is None and not is_too_deep(vector)


ANSWERS = [vector for vector in VECTORS if is_answer(vector)]
REFUSED = [vector for vector in VECTORS if not is_answer(vector) and not has_lone_surrogate(vector)]


def in_envelope(result_type: str, got: bytes) -> bytes:
    """Of a rendered envelope the part that is the answer."""
    if result_type == "serialize":
        start, end = b'a:6:{s:8:"response";', b's:5:"error";s:0:"";'
    else:
        start, end = b"array (\n  'response' => ", b",\n  'error' => '',"
    assert got.startswith(start), got[:200]
    return got[len(start) : got.rindex(end)]


@pytest.mark.parametrize("result_type", ["serialize", "var_export"])
async def test_php_formats_are_phps_bytes(
    session: aiohttp.ClientSession, own_gateway: Gateway, result_type: str
) -> None:
    """What the client gets between the envelope's own fields is PHP's rendering, byte for byte."""
    for vector in ANSWERS:
        got = in_envelope(result_type, await rendered(session, own_gateway, vector, result_type))
        if result_type == "var_export":
            got = unindented(got)
        expected = vector[f"php_{result_type}"]
        if expected is None:
            assert len(got) == vector[f"php_{result_type}_len"], vector["id"]
            assert hashlib.sha256(got).hexdigest() == vector[f"php_{result_type}_sha256"], vector["id"]
        else:
            assert got == base64.b64decode(expected), vector["id"]


def unindented(text: bytes) -> bytes:
    """A nested array of var_export as it stands on its own: on the first line, one level further out."""
    if not text.startswith(b"\n"):
        return text
    lines = text[1:].split(b"\n")
    return b"\n".join(line.removeprefix(b"  ") for line in lines)


@pytest.mark.parametrize("result_type", ["json", "jsonu"])
async def test_json_formats_equal_in_value(
    session: aiohttp.ClientSession, own_gateway: Gateway, result_type: str
) -> None:
    """json is pure ASCII and jsonu readable, and both parse to what the upstream sent."""
    for vector in ANSWERS:
        got = await rendered(session, own_gateway, vector, result_type)
        envelope = json.loads(got)
        assert list(envelope) == ["response", "error", "reason", "error_code", "request_id", "last_id"]
        assert same(envelope["response"], json.loads(vector["json"])), vector["id"]
        if result_type == "json":
            assert got.isascii()
        else:
            assert all(ord(char) < 128 or char.encode().decode() == char for char in got.decode())


def same(one: object, other: object) -> bool:
    """Equal in value and in spelling of types, NaN-free."""
    return repr(one) == repr(other)


async def test_xml_is_read_by_a_strict_parser(session: aiohttp.ClientSession, own_gateway: Gateway) -> None:
    """Every vector becomes a document that expat reads, with the envelope's fields in their order."""
    for vector in ANSWERS:
        got = await rendered(session, own_gateway, vector, "xml")
        root = ET.fromstring(got)
        assert root.tag == "root"
        assert [child.tag for child in root] == ["response", "error", "reason", "error_code", "request_id", "last_id"]
        assert root.findtext("error_code") == "0000", vector["id"]


async def test_a_top_level_text_reads_back_from_xml(session: aiohttp.ClientSession, own_gateway: Gateway) -> None:
    """A string that is the whole answer is the text of its element."""
    for vector in ANSWERS:
        value = json.loads(vector["json"])
        if isinstance(value, str):
            root = ET.fromstring(await rendered(session, own_gateway, vector, "xml"))
            element = root.find("response")
            assert element is not None
            text = element.text or ""
            assert (json.loads(text) if element.get("encoding") == "json" else text) == value, vector["id"]


@pytest.mark.parametrize("result_type", FORMATS)
async def test_what_is_not_json_is_refused(
    session: aiohttp.ClientSession, own_gateway: Gateway, result_type: str
) -> None:
    """An answer that PHP cannot decode is 4002, or 5000 where it only nests too deep; in every format."""
    for vector in REFUSED:
        got = await rendered(session, own_gateway, vector, result_type)
        code = b"5000" if is_too_deep(vector) else b"4002"
        assert code in got, (vector["id"], got[:300])


@pytest.mark.parametrize("result_type", FORMATS)
async def test_half_a_surrogate_pair_still_makes_an_answer(
    session: aiohttp.ClientSession, own_gateway: Gateway, result_type: str
) -> None:
    """A model that stops within an emoji gives half a pair: JSON by its grammar, and an answer in every format."""
    vectors = [vector for vector in VECTORS if has_lone_surrogate(vector)]
    assert vectors
    for vector in vectors:
        got = await rendered(session, own_gateway, vector, result_type)
        assert b"0000" in got, (vector["id"], got)
        got.decode("utf-8")
