"""Forms with files: on the custom front they are read part by part and written anew, and never held whole."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import chain, repeat

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
    ("given", "sent"),
    [
        (b'filename="\xd3\xef\xd2\xf4.mp3"', b"????.mp3"),
        ('filename="语音.mp3"'.encode(), "语音.mp3".encode()),
        (b"filename*=utf-8''%E8%AF%AD.mp3", "语.mp3".encode()),
        (b"filename*=unicode_escape''a%5Cud800.mp3", b"a?.mp3"),
    ],
)
async def test_of_a_filename_that_is_not_utf_8_the_extension_stays(
    gateway: Gateway, upstream: Chaos, given: bytes, sent: bytes
) -> None:
    body = form(("file", "@", b"x")).replace(b'filename="@"', given)
    assert (await post(gateway, body, method="v1/audio/translations")).json["error_code"] == "0000"
    assert b'name="file"; filename="' + sent + b'"\r\n' in upstream.exchanges[0].body


@pytest.mark.parametrize("kind", ["field", "file", "file of a long form", "field behind a file"])
@pytest.mark.parametrize("name", [b'name="f\xff"', b"name*=unicode_escape''%5Cud800"])
async def test_a_name_that_is_not_utf_8_is_4003_and_not_repeated(
    gateway: Gateway, upstream: Chaos, name: bytes, kind: str
) -> None:
    file = ("file", "a", b"x")
    parts: dict[str, tuple[tuple[str, str | None, bytes], ...]] = {
        "field": (("@", None, b"\xff"), file),
        "file": (("@", "a", b"x"),),
        "file of a long form": (("@", "a", bytes(2 * MEBIBYTE)),),
        "field behind a file": (("file", "a", bytes(2 * MEBIBYTE)), ("@", None, b"x")),
    }
    body = form(*parts[kind]).replace(b'name="@"', name)
    for version in ("1", "2"):
        got = await post(gateway, body, method="v1/audio/translations", version=version)
        assert (got.status, got.json["error_code"]) == (200, "4003")
        assert got.json["reason"] == "the name of a part is not valid UTF-8"
    assert not [request for request in upstream.exchanges if request.body_complete]


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


# Forms without an announced length


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def head_of(*names: tuple[str, str | None]) -> bytes:
    """A form up to the content of the last of these parts."""
    return form(*((name, filename, b"@") for name, filename in names)).rpartition(b"@")[0]


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """An answer with a Content-Length; the connection may stay open behind it."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(parse_answer(head).headers["content-length"])
    return parse_answer(head + await reader.readexactly(length))


async def send_chunked(gateway: Gateway, path: str, pieces: Iterable[bytes]) -> Answer:
    """Sends a form a chunk a piece, to its end or until it is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes("POST", path, headers={"Content-Type": FORM, "Transfer-Encoding": "chunked"}))
    answering = asyncio.ensure_future(read_answer(reader))
    try:
        for piece in pieces:
            if answering.done():
                break
            writer.write(chunked(piece))
            await writer.drain()
        else:
            writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(10):
            return await answering
    finally:
        answering.cancel()
        writer.close()


def without_end(form: bytes) -> bytes:
    return form.removesuffix(f"--{BOUNDARY}--\r\n".encode())


FIELD = without_end(form(("p", None, bytes(300_000))))
ENDLESS_FIELDS = {
    "one field": (head_of(("p", None)), bytes(300_000)),
    "fields": (FIELD, FIELD),
}
ENDLESS = {
    **ENDLESS_FIELDS,
    "lines before the first part": (b"\r\n", b"x" * 299_998 + b"\r\n"),
    "short lines before the first part": (b"\r\n", b"x\r\n" * 100_000),
}


@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=ENDLESS)
async def test_of_a_strangers_form_without_a_length_no_more_is_read_than_of_one_with_it(
    gateway: Gateway, upstream: Chaos, start: bytes, more: bytes
) -> None:
    before = gateway.resident_bytes
    path = "/openai/custom/?method=v1/files"
    answer = await send_chunked(gateway, path, chain([start], repeat(more, 300)))
    assert answer.json["error_code"] == "4014"
    assert "must stand in the URL" in answer.json["reason"]
    assert gateway.resident_bytes - before < 8 * MEBIBYTE
    assert not upstream.exchanges


FILE = without_end(form(("file", "a", bytes(2 * MEBIBYTE))))


@pytest.mark.parametrize("file", [b"", FILE], ids=["without a file", "behind a file"])
@pytest.mark.parametrize(("start", "more"), ENDLESS_FIELDS.values(), ids=ENDLESS_FIELDS)
async def test_the_fields_of_a_form_have_one_limit_for_all_together(
    gateway: Gateway, upstream: Chaos, start: bytes, more: bytes, file: bytes
) -> None:
    before = gateway.resident_bytes
    path = custom_path(gateway, method="v1/files")
    answer = await send_chunked(gateway, path, chain([file + start], repeat(more, 300)))
    assert answer.json["error_code"] == "4003"
    assert "the fields of a form may hold 33554432 bytes together" in answer.json["reason"]
    assert gateway.resident_bytes - before < 96 * MEBIBYTE
    assert not [request for request in upstream.exchanges if request.body_complete]


async def test_parts_behind_a_file_count_too(gateway: Gateway, upstream: Chaos) -> None:
    many = [(f"p{i}", None, b"") for i in range(1100)]
    body = form(("file", "a", bytes(2 * MEBIBYTE)), *many)
    answer = await post(gateway, body, method="v1/files")
    assert (answer.json["error_code"], answer.json["reason"]) == ("4003", "more than 1000 parameters")
    assert not upstream.exchanges[0].body_complete


async def test_a_form_without_a_length_may_name_its_caller_itself(gateway: Gateway, upstream: Chaos) -> None:
    """Its file may be long: by then the account is known. So may what follows the file."""
    given = {"key": gateway.key, "secret": gateway.secret, "method": "v1/files", "purpose": "batch"}
    file, late = bytes(4 * MEBIBYTE), b"l" * 2 * MEBIBYTE
    body = form(*fields(given), ("file", "a", file), ("late", None, late))
    answer = await send_chunked(gateway, "/openai/custom/", [body])
    assert answer.json["error_code"] == "0000"
    request = upstream.exchanges[0]
    parts = parts_of(bytes(request.body), request.header("content-type") or "")
    assert [content for _, content in parts] == [b"batch", file, late]


async def test_a_long_lists_name_is_not_multiplied_without_limit(gateway: Gateway, upstream: Chaos) -> None:
    """In a form each item of a list stands behind the list's name."""
    o_args = '{"' + "k" * 400_000 + '":[' + ",".join("1" * 250_000) + "]}"
    body = form(*fields({"_o_args": o_args}), ("file", "a", b"x"))
    before = gateway.resident_bytes
    answer = await post(gateway, body, method="v1/files")
    assert answer.json["error_code"] == "4003"
    assert gateway.resident_bytes - before < 80 * MEBIBYTE
    assert not upstream.exchanges
