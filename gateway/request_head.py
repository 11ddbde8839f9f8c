"""The head of a client's request: what the gateway reads of it, and which heads are plain enough to be read at once.

Pure: no I/O. A plain head is read here, strictly; every other one is aiohttp's to read or to refuse.
"""

from __future__ import annotations

import re
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping

PLAIN_HEAD_BYTES: Final = 8192
PLAIN_BODY_BYTES: Final = 1_048_576
"""A longer body may be an upload, and is not to be held in memory."""

MAX_PLAIN_HEADERS: Final = 100

HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
"""A Host's value (RFC 9110, section 7.2); without the comma, which a name may hold too but which makes a list."""

# Every part can match in one way only, so that the time is linear whatever comes. The target holds no "#".
_PLAIN = re.compile(
    rb"(GET|POST|HEAD|DELETE|PUT|PATCH|OPTIONS) (/[!\"$-~]*) HTTP/1\.1"
    rb"((?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ -~\t]*)+)\r\n\r\n"
)
_LENGTH = re.compile(r"[0-9]{1,7}")
_CONNECTION = {"": True, "keep-alive": True, "close": False}

_NEVER_PLAIN = frozenset(
    {"transfer-encoding", "content-encoding", "expect", "upgrade", "http2-settings", "te", "trailer"}
    | {"proxy-connection", "sec-websocket-key1"}  # of which llhttp has an opinion
)


class RequestHead:
    """Method, target and headers of one request.

    `target` is the request line's, unchanged. A plain head's Content-Length is not among its `headers`: it belongs to
    one request, and the head may be that of many. `content_type` is the media type in lower case, without parameters;
    "application/octet-stream" where none is named. `notes` is where a front keeps what it read from the head alone: a
    kept-alive client sends the same head again and again, and then neither has to be read twice.
    """

    __slots__ = ("content_type", "headers", "http11", "keep_alive", "method", "notes", "path", "query", "target")

    def __init__(
        self,
        method: str,
        target: str,
        headers: MultiMapping[str],
        content_type: str,
        *,
        http11: bool = True,
        keep_alive: bool = True,
    ) -> None:
        self.method = method
        self.target = target
        self.path, _, query = target.partition("?")
        self.query = query.partition("#")[0]
        self.headers = headers
        self.content_type = content_type
        self.http11 = http11
        self.keep_alive = keep_alive
        self.notes: object = None


class PlainHeads:
    """Reads the plain heads of one connection, and knows the last one again but for its Content-Length.

    What may differ is cut out before two heads are compared, so nothing that is remembered depends on it.
    """

    __slots__ = ("_after", "_before", "_head", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._before = self._after = b""
        self._head: RequestHead | None = None

    def read(self, data: bytes) -> tuple[RequestHead, int, int] | None:
        """The head that `data` begins with, its size and its body's size in bytes; None for one that is not plain."""
        if self._head is not None and data.startswith(self._before):
            start = len(self._before)
            if not self._after:
                return self._head, start, 0
            end = data.find(b"\r", start, start + 8)
            length = data[start:end]
            if end > 0 and length.isdigit() and data.startswith(self._after, end) and int(length) <= PLAIN_BODY_BYTES:
                return self._head, end + len(self._after), int(length)
        return self._read(data)

    def _read(self, data: bytes) -> tuple[RequestHead, int, int] | None:
        size = data.find(b"\r\n\r\n", 0, self._limit_bytes) + 4
        if size < 4:
            return None
        raw = data[:size]
        plain = _PLAIN.fullmatch(raw)
        if plain is None:
            return None
        fields = [(name, value.strip(" \t")) for name, _, value in _lines(plain[3])]
        read = _plain_head(plain[1].decode(), plain[2].decode(), fields)
        if read is None:
            return None
        head, length = read
        if not length:
            self._head, self._before, self._after = head, raw, b""
            return head, size, 0
        start = raw.index(length.encode(), raw.lower().index(b"\r\ncontent-length:"))
        self._head, self._before, self._after = head, raw[:start], raw[start + len(length) :]
        return head, size, int(length)


def _lines(raw: bytes) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in raw.decode().split("\r\n")[1:]]


def _plain_head(method: str, target: str, fields: list[tuple[str, str]]) -> tuple[RequestHead, str] | None:
    """The head and its Content-Length's digits, if none of its fields makes it more than plain."""
    names = {name.lower() for name, _ in fields}
    headers = CIMultiDict(fields)
    length = headers.pop("Content-Length", None)
    keep_alive = _CONNECTION.get(headers.get("Connection", "").lower())
    content_type = media_type(headers)
    if (
        len(fields) > MAX_PLAIN_HEADERS
        or len(names) < len(fields)  # what is said twice may be a matter of opinion
        or not _NEVER_PLAIN.isdisjoint(names)
        or "host" not in names
        or not HOST.fullmatch(headers["Host"])
        or (length is not None and (not _LENGTH.fullmatch(length) or int(length) > PLAIN_BODY_BYTES))
        or keep_alive is None
        or content_type.startswith("multipart/")
    ):
        return None
    return RequestHead(method, target, CIMultiDictProxy(headers), content_type, keep_alive=keep_alive), length or ""


def media_type(headers: MultiMapping[str]) -> str:
    """The Content-Type without its parameters, in lower case; text/plain where it names none (RFC 2045, 5.2)."""
    named = headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()
    return named if named.count("/") == 1 else "text/plain"


def is_valid(head: RequestHead) -> bool:
    """Origin-form target, one good Host where HTTP/1.1 demands it, and a framing that this server speaks."""
    hosts = head.headers.getall("Host", ())
    host_fits = HOST.fullmatch(hosts[0]) is not None if len(hosts) == 1 else not hosts and not head.http11
    coding = head.headers.get("Transfer-Encoding")
    chunked = coding is None or coding.lower() == "chunked"  # aiohttp lets "gzip, chunked" pass, and leaves it packed
    return head.path.startswith("/") and host_fits and chunked
