"""Which heads are read at once: what is read is what aiohttp's parser reads, and all that is unusual is left to it."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.request_head import MAX_PLAIN_HEADERS, PLAIN_BODY_BYTES, PLAIN_HEAD_BYTES, PlainHeads, RequestHead

GET = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"


def post(*lines: bytes, target: bytes = b"/v1/chat/completions") -> bytes:
    return b"\r\n".join((b"POST " + target + b" HTTP/1.1", b"Host: gateway.test:8080", *lines, b"", b""))


def read(data: bytes) -> tuple[RequestHead, int, int] | None:
    return PlainHeads(PLAIN_HEAD_BYTES).read(data)


def test_a_plain_head_is_read() -> None:
    raw = post(
        b"Content-Type: Application/JSON; charset=utf-8", b"content-LENGTH:\t2 ", b"X:", target=b"/v1/a%20b?c=d&e"
    )
    plain = read(raw + b"{}GET")
    assert plain is not None
    head, head_bytes, body_bytes = plain
    assert (head.method, head.target, head.path, head.query) == ("POST", "/v1/a%20b?c=d&e", "/v1/a%20b", "c=d&e")
    assert (head.content_type, head.http11, head.keep_alive) == ("application/json", True, True)
    assert dict(head.headers) == {
        "Host": "gateway.test:8080",
        "Content-Type": "Application/JSON; charset=utf-8",
        "X": "",
    }
    assert (head_bytes, body_bytes) == (len(raw), 2)


@pytest.mark.parametrize(
    ("line", "keep_alive"), [(b"Connection: keep-alive", True), (b"Connection: Close", False), (b"X: close", True)]
)
def test_whether_the_connection_lasts(line: bytes, keep_alive: bool) -> None:
    plain = read(post(line))
    assert plain is not None
    assert plain[0].keep_alive is keep_alive


NOT_PLAIN = {
    "half a head": GET[:-2],
    "nothing": b"",
    "an empty line first": b"\r\n" + GET,
    "another version": GET.replace(b"1.1", b"1.0"),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": GET.replace(b"GET", b"BREW"),
    "a whole URL": GET.replace(b"/v1", b"http://a/v1"),
    "an asterisk": GET.replace(b"/v1/models", b"*"),
    "a fragment": GET.replace(b"models", b"models#x"),
    "raw UTF-8 in the target": GET.replace(b"models", "模型".encode()),
    "two spaces": GET.replace(b" HTTP", b"  HTTP"),
    "no Host": GET.replace(b"Host", b"X"),
    "two Hosts": post(b"host: b"),
    "a bad Host": GET.replace(b"Host: a", b"Host: a/b"),
    "bare LF": GET.replace(b"\r\n", b"\n"),
    "one bare LF": post(b"X: y\nZ: z"),
    "a bare CR": post(b"X: y\rZ: z"),
    "a folded line": post(b"X: y", b" z"),
    "a space before the colon": post(b"X : y"),
    "no colon": post(b"X"),
    "no name": post(b": y"),
    "a NUL": post(b"X: \0"),
    "a control character": post(b"X: \x01"),
    "a value beyond ASCII": post(b"X: \xff"),
    "chunks": post(b"Transfer-Encoding: chunked"),
    "chunks, whispered": post(b"tRANSFER-eNCODING: identity"),
    "both framings": post(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
    "a header said twice": post(b"X: y", b"x: y"),
    "two lengths": post(b"Content-Length: 2", b"Content-Length: 2"),
    "a list of lengths": post(b"Content-Length: 2, 2"),
    "a signed length": post(b"Content-Length: +2"),
    "a hexadecimal length": post(b"Content-Length: 0x2"),
    "a length with an underscore": post(b"Content-Length: 1_0"),
    "no length": post(b"Content-Length:"),
    "a long body": post(b"Content-Length: %d" % (PLAIN_BODY_BYTES + 1)),
    "an endless body": post(b"Content-Length: " + b"9" * 30),
    "a compressed body": post(b"Content-Encoding: gzip", b"Content-Length: 2"),
    "a client that waits": post(b"Expect: 100-continue", b"Content-Length: 2"),
    "an upgrade": post(b"Connection: Upgrade", b"Upgrade: h2c"),
    "an upgrade without a connection": post(b"Upgrade: h2c"),
    "a connection of several words": post(b"Connection: keep-alive, TE"),
    "a connection said twice": post(b"Connection: keep-alive", b"Connection: close"),
    "trailers": post(b"Trailer: X"),
    "a connection that llhttp knows": post(b"Proxy-Connection: close"),
    "a form": post(b"Content-Type: multipart/form-data; boundary=b", b"Content-Length: 2"),
    "a long head": post(b"X: " + b"y" * PLAIN_HEAD_BYTES),
    "many headers": post(*[b"X: y"] * MAX_PLAIN_HEADERS),
}


@pytest.mark.parametrize("raw", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_unusual_is_left_to_aiohttp_on_a_new_connection_and_on_one_that_knows_a_head(raw: bytes) -> None:
    assert read(raw) is None
    for known in (GET, post(b"Content-Length: 2"), raw.replace(b"Transfer", b"Xransfer")):
        heads = PlainHeads(PLAIN_HEAD_BYTES)
        heads.read(known)
        assert heads.read(raw) is None


def test_a_known_head_is_read_again_but_for_its_length() -> None:
    heads = PlainHeads(PLAIN_HEAD_BYTES)
    first = heads.read(post(b"Content-Length: 2", b"X: y"))
    for length in (b"0", b"7", b"12", b"0005", b"%d" % PLAIN_BODY_BYTES):
        raw = post(b"Content-Length: " + length, b"X: y")
        again = heads.read(raw + b"body")
        assert first is not None
        assert again is not None
        assert again[0] is first[0]
        assert again[1:] == (len(raw), int(length))


OTHERS = {
    "another value": post(b"Content-Length: 2", b"X: z"),
    "a longer value": post(b"Content-Length: 2", b"X: yy"),
    "another line": post(b"Content-Length: 2", b"X: y", b"Z: z"),
    "another order": post(b"X: y", b"Content-Length: 2"),
    "another target": post(b"Content-Length: 2", b"X: y", target=b"/v1/responses"),
    "no length": post(b"X: y"),
}


@pytest.mark.parametrize("raw", OTHERS.values(), ids=OTHERS)
def test_a_head_that_differs_anywhere_else_is_another(raw: bytes) -> None:
    heads = PlainHeads(PLAIN_HEAD_BYTES)
    first = heads.read(post(b"Content-Length: 2", b"X: y"))
    other, alone = heads.read(raw), read(raw)
    assert first is not None
    assert other is not None
    assert alone is not None
    assert other[0] is not first[0]
    assert (other[0].target, dict(other[0].headers), *other[1:]) == (
        alone[0].target,
        dict(alone[0].headers),
        *alone[1:],
    )


NOT_A_LENGTH = (b"", b"+2", b"-2", b"2 2", b"2,2", b"0x2", b"2\r\nContent-Length: 3", b"9" * 8, b"\xb2", b"2\t2")


@pytest.mark.parametrize("length", NOT_A_LENGTH, ids=repr)
def test_a_known_head_with_a_bad_length_is_not_plain(length: bytes) -> None:
    heads = PlainHeads(PLAIN_HEAD_BYTES)
    assert heads.read(post(b"Content-Length: 2", b"X: y")) is not None
    assert heads.read(post(b"Content-Length: " + length, b"X: y")) is None


# Against aiohttp's own parser

NAMES = st.sampled_from(
    [b"Host", b"host", b"Content-Length", b"Content-Type", b"Connection", b"X-A", b"x_b", b"Expect"]
)
VALUES = st.one_of(
    st.sampled_from([b"a", b"2", b"0", b"close", b"keep-alive", b"text/plain", b"2, 3", b" 2\t", b"application/json"]),
    st.binary(max_size=4),
)
LINES = st.lists(st.tuples(NAMES, st.sampled_from([b": ", b":", b" :", b":\t"]), VALUES), max_size=5)
STARTS = st.tuples(
    st.sampled_from([b"GET", b"POST", b"HEAD", b"DELETE", b"get", b"FOO"]),
    st.one_of(st.sampled_from([b"/", b"/v1/models", b"/a?b=c%20&d", b"//", b"*", b"/#"]), st.binary(max_size=5)),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.1 ", b"http/1.1"]),
)


@given(start=STARTS, lines=LINES, host=st.booleans(), end=st.sampled_from([b"\r\n\r\n", b"\n\n", b"\r\n"]))
@settings(max_examples=2000, deadline=None)
def test_what_is_plain_is_read_as_aiohttp_reads_it(
    start: tuple[bytes, bytes, bytes], lines: list[tuple[bytes, bytes, bytes]], host: bool, end: bytes
) -> None:
    fields = [b"".join(line) for line in lines] + ([b"Host: a"] if host else [])
    raw = b"\r\n".join([b" ".join(start), *fields]) + end
    plain = read(raw)
    if plain is None:
        return
    head, head_bytes, body_bytes = plain
    message, payload, rest = asyncio.run(parsed_by_aiohttp(raw + b"x" * body_bytes))
    assert head_bytes == len(raw)
    assert (message.method, message.path, message.should_close) == (head.method, head.target, not head.keep_alive)
    fields_read = [(name.lower(), value) for name, value in message.headers.items()]
    lengths = [int(value) for name, value in fields_read if name == "content-length"]
    assert lengths in ([], [body_bytes])
    assert [field for field in fields_read if field[0] != "content-length"] == [
        (name.lower(), value) for name, value in head.headers.items()
    ]
    assert payload == b"x" * body_bytes
    assert rest == b""


async def parsed_by_aiohttp(raw: bytes) -> tuple[RawRequestMessage, bytes, bytes]:
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop, None), loop, 2**16)
    try:
        messages, upgraded, rest = parser.feed_data(raw)
    except HttpProcessingError as error:
        raise AssertionError(f"aiohttp refuses {raw!r}") from error
    assert not upgraded
    assert len(messages) == 1, raw
    message, payload = messages[0]
    return message, payload.read_nowait(-1), rest
