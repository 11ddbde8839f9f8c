"""The head of an upstream's answer: judged by llhttp, then by the rules of RFC 9112 for where its body ends.

Pure: bytes in, a value out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.errors import GatewayError

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 200

UNTIL_CLOSE = -1
CHUNKED = -2

_NO_CALLBACKS = object()
_VERSIONS = frozenset({"1.1", "1.0"})


class ResponseHead:
    """Status, headers and framing of one answer.

    `length` is the body's length in bytes, or CHUNKED, or UNTIL_CLOSE. `media_type` is the Content-Type without its
    parameters, in lower case; empty where there is none. Headers are looked up in the text: an answer has a dozen of
    them, and a call asks for a few.
    """

    __slots__ = ("_lower", "_text", "content_type", "keep_alive", "length", "media_type", "status")

    def __init__(self, status: int, text: bytes, keep_alive: bool) -> None:
        self.status = status
        self._text = text
        self._lower = text.lower()
        self.length = self._body_length()
        self.content_type = content_type = self.get(b"content-type") or b""
        self.media_type = content_type.partition(b";")[0].strip().lower()
        self.keep_alive = keep_alive and self.length != UNTIL_CLOSE

    def get(self, name: bytes) -> bytes | None:
        """The first header of this name (in lower case)."""
        at = self._lower.find(b"\r\n%b:" % name)
        return None if at < 0 else self._value(at + len(name) + 3)

    @property
    def is_compressed(self) -> bool:
        """Whether the body has a Content-Encoding other than none."""
        return b"\r\ncontent-encoding:" in self._lower and self.get(b"content-encoding") != b"identity"

    def lines(self, wanted: re.Pattern[bytes]) -> list[bytes]:
        """The header lines that `wanted`, made by `lines_named`, finds, without their line ends."""
        return wanted.findall(self._text)

    def lines_without(self, names: Collection[bytes]) -> list[bytes]:
        """The header lines, without their ends, but for those of these names (in lower case)."""
        lines = self._text.split(b"\r\n")[1:-2]
        return [line for line in lines if line.partition(b":")[0].lower() not in names]

    def _value(self, start: int) -> bytes:
        return self._text[start : self._text.index(b"\r\n", start)].strip(b" \t")

    def _body_length(self) -> int:
        """RFC 9112, section 6.3: where the body ends.

        What that section lets a client repair (both framings, several lengths) is refused: nothing honest sends it.
        """
        length, coding = self._only(b"\r\ncontent-length:"), self._only(b"\r\ntransfer-encoding:")
        if length is not None and (not length.isdigit() or len(length) > 18):
            raise nonsense("Content-Length is not a number")
        if coding is not None and coding.lower() != b"chunked":
            raise nonsense("Transfer-Encoding is not 'chunked'")
        if self.status < 200 or self.status in {204, 304}:
            return 0
        if coding is None:
            return UNTIL_CLOSE if length is None else int(length)
        if length is not None:
            raise nonsense("Content-Length and Transfer-Encoding together")
        return CHUNKED

    def _only(self, start: bytes) -> bytes | None:
        """The value of the only line that starts so; None where there is none."""
        at = self._lower.find(start)
        if at < 0:
            return None
        at += len(start)
        if self._lower.find(start, at) >= 0:
            raise nonsense("a header of the framing is repeated")
        return self._value(at)


def lines_named(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """What finds the lines of these headers in a head."""
    return re.compile(rb"\r\n((?:%b):[^\r]*)" % b"|".join(map(re.escape, names)), re.IGNORECASE)


def nonsense(reason: str) -> GatewayError:
    """The upstream broke the protocol: the error that a client is told."""
    return GatewayError("4002", f"the upstream's answer is not valid HTTP: {reason}")


def parse_head(raw: bytes) -> ResponseHead:
    """Parses a head, its closing blank line included; raises 4002 for anything that is not one."""
    # llhttp checks the grammar in 1 µs, and is not asked for the headers: that would be a call into Python for each.
    parser = HttpResponseParser(_NO_CALLBACKS)
    try:
        parser.feed_data(raw)
        status = parser.get_status_code()
        keep_alive = parser.should_keep_alive()
        version = parser.get_http_version()
    except (HttpParserError, HttpParserUpgrade) as error:  # the second is no kind of the first
        raise nonsense(type(error).__name__) from None  # llhttp's text may quote what it read
    # Of where a line ends there is one opinion: llhttp refuses bare CRs, bare LFs and folded lines, as tests see to.
    if raw.count(b"\r\n") - 2 > MAX_HEADERS:
        raise nonsense(f"more than {MAX_HEADERS} headers")
    if version not in _VERSIONS or not 100 <= status <= 599:
        raise nonsense("version or status is out of range")
    return ResponseHead(status, raw, keep_alive)
