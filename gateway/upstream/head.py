"""The head of an upstream's answer: parsed by llhttp, then judged by the rules of RFC 9112 for where its body ends.

Pure: bytes in, a value out.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.errors import GatewayError

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 200

UNTIL_CLOSE = -1
CHUNKED = -2


class ResponseHead:
    """Status, headers (names in lower case) and framing of one answer.

    `length` is the body's length in bytes, or CHUNKED, or UNTIL_CLOSE. `media_type` is the Content-Type without its
    parameters, in lower case; empty where there is none.
    """

    __slots__ = ("content_type", "headers", "keep_alive", "length", "media_type", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], keep_alive: bool) -> None:
        self.status = status
        self.headers = headers
        self.length, self.content_type = _body_length(status, headers)
        self.media_type = self.content_type.partition(b";")[0].strip().lower()
        self.keep_alive = keep_alive and self.length != UNTIL_CLOSE

    def get(self, name: bytes) -> bytes | None:
        """The first header of this name (in lower case)."""
        for header, value in self.headers:
            if header == name:
                return value
        return None


class _Collector:
    """Receives llhttp's callbacks for one head."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def nonsense(reason: str) -> GatewayError:
    """The upstream broke the protocol: the error that a client is told."""
    return GatewayError("4002", f"the upstream's answer is not valid HTTP: {reason}")


def parse_head(raw: bytes) -> ResponseHead:
    """Parses a head, its closing blank line included; raises 4002 for anything that is not one."""
    collector = _Collector()
    parser = HttpResponseParser(collector)
    try:
        parser.feed_data(raw)
        status = parser.get_status_code()
        keep_alive = parser.should_keep_alive()
        version = parser.get_http_version()
    except (HttpParserError, HttpParserUpgrade) as error:  # the second is no kind of the first
        raise nonsense(type(error).__name__) from None  # llhttp's text may quote what it read
    if len(collector.headers) > MAX_HEADERS:
        raise nonsense(f"more than {MAX_HEADERS} headers")
    if version not in {"1.1", "1.0"} or not 100 <= status <= 599:
        raise nonsense("version or status is out of range")
    return ResponseHead(status, collector.headers, keep_alive)


def _body_length(status: int, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """RFC 9112, section 6.3: where the body ends, and the Content-Type met on the way.

    What that section lets a client repair (both framings, several lengths) is refused: nothing honest sends it.
    """
    length = UNTIL_CLOSE
    chunked = False
    content_type = b""
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18 or length != UNTIL_CLOSE:
                raise nonsense("Content-Length is not one number")
            length = int(value)
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked" or chunked:
                raise nonsense("Transfer-Encoding is not 'chunked'")
            chunked = True
        elif name == b"content-type":
            content_type = value
    if status < 200 or status in {204, 304}:
        return 0, content_type
    if chunked:
        if length != UNTIL_CLOSE:
            raise nonsense("Content-Length and Transfer-Encoding together")
        return CHUNKED, content_type
    return length, content_type
