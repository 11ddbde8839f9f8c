"""Client and upstream of a gateway in one thread, on blocking sockets: the quickest way to send a byte, see it arrive,
and only then send the next. What takes longer than LIMIT_S is a TimeoutError.

    with Lockstep(gateway) as lockstep, lockstep.begin(request) as exchange:
        exchange.upstream.sendall(head)
        exchange.read_head()
        exchange.upstream.sendall(chunk(b"data: 1\n\n"))
        exchange.read_payload(9)

The upstreams' answers must carry `Connection: close`: the next exchange expects a new connection.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tests.support import Gateway, custom_path, request_bytes

LIMIT_S = 10.0
CLOSE = ("Connection", "close")
UPLOAD_END = b"\r\n--b--\r\n"


def chat_request(gateway: Gateway, front: str = "native", version: str = "1.1", **parameters: str) -> bytes:
    """A streaming chat call on one of the fronts; `parameters` join the query."""
    body: Mapping[str, object] = {"messages": [], "stream": True}
    return call_request(gateway, "v1/chat/completions", body, front, version, **parameters)


def call_request(
    gateway: Gateway, method: str, body: Mapping[str, object], front: str, version: str = "1.1", **parameters: str
) -> bytes:
    """A call with arguments on one of the fronts; "unusual" is the native one with a head that aiohttp has to read."""
    fields = {"Content-Type": "application/json"}
    if front == "unusual":
        fields["TE"] = "trailers"
    if front == "custom":
        target = custom_path(gateway, method=method, **parameters)
    else:
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        target = f"/{method}?{query}"
        fields["Authorization"] = f"Bearer {gateway.token}"
    return request_bytes("POST", target, json.dumps(body).encode(), fields, version)


def upload_request(gateway: Gateway, front: str, size: int) -> bytes:
    """The beginning of a form with a file of `size` bytes; its content and UPLOAD_END are still to be sent."""
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    fields = {
        "Content-Type": "multipart/form-data; boundary=b",
        "Content-Length": str(len(start) + size + len(UPLOAD_END)),
    }
    target = "/v1/files"
    if front == "custom":
        target = custom_path(gateway, method="v1/files")
    else:
        fields["Authorization"] = f"Bearer {gateway.token}"
    return request_bytes("POST", target, b"", fields) + start


class Dechunker:
    """The payload of a chunked message as it comes in, cut anywhere. Strict: ValueError for all but plain chunks."""

    def __init__(self) -> None:
        self.payload = bytearray()
        self.ended = False
        self._unread = b""
        self._left = 0  # of the current chunk's payload
        self._inside = False  # a chunk whose closing CRLF is still to come
        self._ending = False  # that chunk is the last one

    def feed(self, data: bytes) -> None:
        data = self._unread + data
        while data:
            if self.ended:
                raise ValueError("bytes follow the last chunk")
            if self._left:
                taken = min(self._left, len(data))
                self.payload += data[:taken]
                self._left -= taken
                data = data[taken:]
                continue
            line, separator, rest = data.partition(b"\r\n")
            if not separator:
                break
            if self._inside:
                if line:
                    raise ValueError("a chunk does not end where its length says")
                self.ended = self._ending
                self._inside = False
            else:
                self._left = int(line, 16)
                self._ending = self._left == 0
                self._inside = True
            data = rest
        self._unread = data


class Exchange:
    """One call: `client` and `upstream` are its two sockets, `payload` what the client has received of the body."""

    def __init__(self, client: socket.socket, upstream: socket.socket, pinger: socket.socket) -> None:
        self.client = client
        self.upstream = upstream
        self.head = b""
        self.ended = False  # cleanly, by the framing that the head announces
        self._pinger = pinger
        self._dechunker: Dechunker | None = None
        self._plain = bytearray()
        self._length: int | None = None  # of a body that has one

    @property
    def payload(self) -> bytearray:
        return self._plain if self._dechunker is None else self._dechunker.payload

    def read_head(self) -> bytes:
        """The answer's head, as soon as all of it is there."""
        while b"\r\n\r\n" not in self.head:
            self.head += self._receive()
        self.head, _, rest = self.head.partition(b"\r\n\r\n")
        if b"\r\nTransfer-Encoding: chunked" in self.head:
            self._dechunker = Dechunker()
        elif found := re.search(rb"\r\nContent-Length: (\d+)", self.head):
            self._length = int(found[1])
        self._feed(rest)
        return self.head

    def read_payload(self, size: int) -> None:
        """Reads on until the client has `size` bytes of payload in all."""
        while len(self.payload) < size:
            self._feed(self._receive())

    def read_end(self) -> None:
        """Reads until the message ends or the connection does: `ended` tells whether it is whole, or may be."""
        while not self.ended:
            try:
                data = self.client.recv(262_144)
            except ConnectionResetError:
                return
            if not data:
                self.ended = self._dechunker is None and self._length is None
                return
            self._feed(data)

    def settle(self) -> None:
        """Waits until the gateway has read what the upstream sent: its loop serves this later request after that."""
        self._pinger.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\nok\n"):
            answer += self._pinger.recv(4096)

    def cut(self) -> None:
        """Breaks the upstream's connection off with an RST."""
        self.upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.upstream.close()

    def _receive(self) -> bytes:
        data = self.client.recv(262_144)
        if not data:
            raise ConnectionError(f"the gateway closed the connection after {len(self.payload)} bytes of payload")
        return data

    def _feed(self, data: bytes) -> None:
        if self._dechunker is None:
            self._plain += data
            self.ended = len(self._plain) == self._length
        else:
            self._dechunker.feed(data)
            self.ended = self._dechunker.ended


class Lockstep:
    """The upstream's listening socket, and a connection to the gateway that asks whether it has come to a byte."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._listener = socket.create_server(("127.0.0.1", gateway.upstream_port), backlog=8)
        self._listener.settimeout(LIMIT_S)
        self._pinger = self._connect()

    @contextmanager
    def begin(self, request: bytes) -> Iterator[Exchange]:
        """Sends a call and yields when the upstream has all of it."""
        with self._connect() as client:
            client.sendall(request)
            upstream, _ = self._listener.accept()
            with upstream:
                upstream.settimeout(LIMIT_S)
                upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _read_request(upstream)
                yield Exchange(client, upstream, self._pinger)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pinger.close()
        self._listener.close()

    def _connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self._gateway.port), LIMIT_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client


def _read_request(upstream: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += upstream.recv(65_536)
    head, _, body = request.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += upstream.recv(65_536)
