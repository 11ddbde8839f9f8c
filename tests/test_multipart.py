"""Forms with files: on the custom front they are read part by part and written anew, and never held whole."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping

import pytest

from tests.chaos import Chaos, json_answer
from tests.support import Answer, Gateway, call, custom_path, parse_answer, read_to_end, request_bytes

BOUNDARY = "boundary-of-the-client"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
MEBIBYTE = 1024 * 1024


def form(*parts: tuple[str, str | None, bytes], content_type: str = "audio/mpeg") -> bytes:
    """A multipart body; a part is a name, a filename (None: a field) and its content."""
    body = []
    for name, filename, content in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        kind = f"\r\nContent-Type: {content_type}" if filename is not None else ""
        head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}{kind}\r\n\r\n"
        body += [head.encode(), content, b"\r\n"]
    return b"".join([*body, f"--{BOUNDARY}--\r\n".encode()])


def fields(values: Mapping[str, str]) -> list[tuple[str, str | None, bytes]]:
    return [(name, None, value.encode()) for name, value in values.items()]


def parts_of(body: bytes, content_type: str) -> list[tuple[bytes, bytes]]:
    """The heads and contents of a form, taken apart as strictly as its grammar allows."""
    found = re.fullmatch(r"multipart/form-data; boundary=([0-9a-zA-Z'()+_,./:=?-]{1,70})", content_type)
    assert found is not None
    delimiter = b"\r\n--" + found[1].encode()
    first, *parts, end = (b"\r\n" + body).split(delimiter)
    assert first == b""
    assert end == b"--\r\n"
    split = [part.removeprefix(b"\r\n").partition(b"\r\n\r\n") for part in parts]
    return [(head, content) for head, _, content in split]


async def post(gateway: Gateway, body: bytes, headers: Mapping[str, str] | None = None, **parameters: str) -> Answer:
    return await call(
        gateway, "POST", custom_path(gateway, **parameters), body, {"Content-Type": FORM, **(headers or {})}
    )


@pytest.fixture
async def upstream(gateway: Gateway) -> AsyncIterator[Chaos]:
    async with Chaos(json_answer({"text": "hello"}), port=gateway.upstream_port) as chaos:
        yield chaos


async def test_file_and_arguments_arrive_as_a_form_of_the_gateways_own(gateway: Gateway, upstream: Chaos) -> None:
    content = bytes(range(256)) * 10 + f"\r\n--{BOUNDARY[:-1]}\r\nx--{BOUNDARY}\r\n--".encode()
    body = form(
        ("method", None, b"v1/audio/transcriptions"), ("model", None, b"whisper-1"), ("temperature", None, b"0.20"),
        ("file", "speech.mp3", content), ("language", None, b"ru"), ("sign", None, b"reseller"),
    )  # fmt: skip
    answer = await post(gateway, body)
    assert answer.json["response"] == {"text": "hello"}
    request = upstream.exchanges[0]
    assert (request.method, request.target) == ("POST", "/v1/audio/transcriptions")
    assert parts_of(bytes(request.body), request.header("content-type") or "") == [
        (b'Content-Disposition: form-data; name="model"', b"whisper-1"),
        (b'Content-Disposition: form-data; name="temperature"', b"0.20"),
        (b'Content-Disposition: form-data; name="language"', b"ru"),
        (
            b'Content-Disposition: form-data; name="file"; filename="speech.mp3"\r\nContent-Type: audio/mpeg',
            content,
        ),
    ]
    assert BOUNDARY.encode() + b"\r\n" not in request.head


async def test_o_args_become_fields_and_lists_repeated_ones(gateway: Gateway, upstream: Chaos) -> None:
    o_args = '{"model":"gpt-image-1","prompt":"向日葵","n":2,"flag":true,"timestamp_granularities":["word","segment"]}'
    body = form(*fields({"_o_args": o_args}), ("image[]", "a.png", b"A"), ("image[]", "b.png", b"B"))
    assert (await post(gateway, body, method="v1/images/edits")).json["error_code"] == "0000"
    request = upstream.exchanges[0]
    contents = parts_of(bytes(request.body), request.header("content-type") or "")
    assert [(head.split(b'name="')[1].split(b'"')[0], content) for head, content in contents] == [
        (b"model", b"gpt-image-1"),
        (b"prompt", "向日葵".encode()),
        (b"n", b"2"),
        (b"flag", b"true"),
        (b"timestamp_granularities[]", b"word"),
        (b"timestamp_granularities[]", b"segment"),
        (b"image[]", b"A"),
        (b"image[]", b"B"),
    ]


@pytest.mark.parametrize("kind", ["Evil: yes", "nonsense", "text/plain; a"])
async def test_a_content_type_that_is_none_becomes_the_general_one(
    gateway: Gateway, upstream: Chaos, kind: str
) -> None:
    body = form(("file", "a", b"x"), content_type=kind)
    assert (await post(gateway, body, method="v1/audio/translations")).json["error_code"] == "0000"
    assert b"Content-Type: application/octet-stream\r\n\r\nx" in upstream.exchanges[0].body


async def test_a_name_cannot_break_out_of_its_quotes(gateway: Gateway, upstream: Chaos) -> None:
    body = form(("file", 'a%22%0D%0AX: \\"y\\"', b"x"), ("na%0D%0Ame", None, b"v"))
    assert (await post(gateway, body, method="v1/audio/translations")).json["error_code"] == "0000"
    request = upstream.exchanges[0]
    for head, _ in parts_of(bytes(request.body), request.header("content-type") or ""):
        for line in head.split(b"\r\n"):
            assert re.fullmatch(
                rb'Content-(Disposition: form-data(; (file)?name="[^"\r\n]*"){1,2}|Type: [^\r\n]*)', line
            )


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", FORM),
        (b"no boundary at all", FORM),
        (form(("file", "a", b"x"))[:-20], FORM),
        (form(("file", "a", b"x")), "multipart/form-data"),
        (form(("file", "a", b"x")), "multipart/form-data; boundary=" + "b" * 200),
        (form(("file", "a", b"x")), "multipart/form-data; boundary="),
        (form(("file", "a", b"x")).replace(b"Content-Disposition:", b"no colon"), FORM),
        (form(("", None, b"x")).replace(b' name=""', b""), FORM),
        (form(("text", None, b"\xff\xfe")), FORM),
        (form(*[(f"p{i}", None, b"") for i in range(1100)]), FORM),
        (form(("file", "a", b"x"), content_type="text/plain; a=b\x01"), FORM),
        (form(("file", "a\0", b"x")), FORM),
        (form(("file", "a", b"x"), content_type="multipart/mixed; boundary=inner"), FORM),
    ],
    ids=[
        "empty", "no parts", "cut", "no boundary given", "boundary too long", "empty boundary", "bad part head",
        "part without a name", "not UTF-8", "too many parts",
        "control character in a part's head", "NUL in a filename", "form in a form",
    ],
)  # fmt: skip
async def test_a_damaged_form_is_4003_or_lacks_its_file(
    gateway: Gateway, upstream: Chaos, body: bytes, content_type: str
) -> None:
    answer = await post(gateway, body, {"Content-Type": content_type}, method="v1/audio/translations")
    assert answer.json["error_code"] in {"4003", "4014"}
    assert not upstream.exchanges


async def test_a_missing_file_is_4014(gateway: Gateway, upstream: Chaos) -> None:
    answer = await post(gateway, form(("model", None, b"whisper-1")), method="v1/audio/transcriptions")
    assert answer.json["error_code"] == "4014"
    assert "'file'" in answer.json["reason"]
    assert not upstream.exchanges


async def test_a_long_upload_streams_through_in_bounded_memory(gateway: Gateway, upstream: Chaos) -> None:
    """The upstream has the first bytes before the client has sent the last, and the gateway never holds the file."""
    piece = bytes(range(256)) * 4096
    count = 24
    body_head, _, body_end = form(("file", "long.mp3", b"@"), ("user", None, "Ω".encode())).partition(b"@")
    length = len(body_head) + count * len(piece) + len(body_end)
    path = custom_path(gateway, method="v1/audio/transcriptions", model="whisper-1")
    head = request_bytes(
        "POST", path, headers={"Content-Type": FORM, "Content-Length": str(length), "Connection": "close"}
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head + body_head + piece)
    request = await upstream.exchange()
    before = gateway.resident_bytes
    for _ in range(count - 1):
        writer.write(piece)
        await writer.drain()
    assert gateway.resident_bytes - before < 8 * MEBIBYTE
    writer.write(body_end)
    answer = parse_answer(await read_to_end(reader))
    writer.close()
    assert answer.json["error_code"] == "0000"
    assert request.header("transfer-encoding") == "chunked"
    parts = parts_of(bytes(request.body), request.header("content-type") or "")
    assert parts[0] == (b'Content-Disposition: form-data; name="model"', b"whisper-1")
    assert parts[1][1] == piece * count
    assert parts[2] == (b'Content-Disposition: form-data; name="user"', "Ω".encode())


@pytest.mark.parametrize(
    ("late", "code"), [(("key", None, b"other"), "4003"), (("_o_args", None, b'{"model":"m"}'), "4003")]
)
async def test_of_a_long_form_a_parameter_behind_the_file_comes_too_late(
    gateway: Gateway, upstream: Chaos, late: tuple[str, str | None, bytes], code: str
) -> None:
    body = form(("file", "a", bytes(2 * MEBIBYTE)), late)
    answer = await post(gateway, body, method="v1/audio/transcriptions", model="m")
    assert answer.json["error_code"] == code
    assert late[0] in answer.json["reason"]
    await upstream.connections[0].closed.wait()  # the half request is not left to look whole
    assert not upstream.exchanges[0].body_complete


async def test_a_strangers_long_form_is_refused_before_it_is_read(gateway: Gateway, upstream: Chaos) -> None:
    path = "/openai/custom/?" + "method=v1/audio/transcriptions&key=nobody&secret=nothing"
    head = request_bytes("POST", path, headers={"Content-Type": FORM, "Content-Length": str(100 * MEBIBYTE)})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head + form(("file", "a", b"x" * 1000))[:-30])
    received = await reader.readuntil(b"}")
    writer.close()
    assert b'"error_code":"4004"' in received
    assert not upstream.exchanges
