"""Multipart bodies of the custom front: read part by part, written anew for the upstream, files never held whole.

A body that is short is read whole, so that its parts may stand in any order. Of a long one the parameters must come
before the first file: by then the call has to be known. What is held of a form, all of it but the content of files on
their way through, has one limit for all parts together, and the parts have one for their number.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader

from gateway.errors import GatewayError
from gateway.fronts.client import DAMAGED_BODY, SMALL_BODY_BYTES, Client, Incoming
from gateway.fronts.reading import MAX_PARAMETERS, Upload, credentials_come_first

PIECE_BYTES = 65_536

_WORD = r"[A-Za-z0-9!#$&^_.+-]+"
_MEDIA_TYPE = re.compile(rf"{_WORD}/{_WORD}(?:[ \t]*;[ \t]*{_WORD}=[ -~]*)?")


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a form: its head, and its content where that has been read."""

    name: str
    filename: str
    content_type: str
    content: bytes | None


class Form:
    """A multipart body on its way through: the fields and files read so far, and the rest still to come.

    `identified` tells whether the caller's account is known already; until then the form may hold SMALL_BODY_BYTES
    (4014 beyond them), and `max_json_bytes` from then on (4003).
    """

    def __init__(self, client: Client, *, identified: bool) -> None:
        self.fields: list[tuple[str, str]] = []
        self.files: list[Part] = []
        self._client = client
        self._whole = client.body_in_hand
        self._identified = identified
        self._limit_bytes = client.settings.max_json_bytes if identified and not self._whole else SMALL_BODY_BYTES
        self._held_bytes = 0
        self._part_count = 0
        self._open: BodyPartReader | None = None
        self._reader: MultipartReader | None = None

    async def read(self) -> None:
        """Reads all parts of a short body; of a long one those before the first file's content."""
        try:
            self._client.ask_for_body()
            content = cast(StreamReader, self._client.content)  # a form is never a plain request
            self._reader = MultipartReader(self._client.head.headers, cast(StreamReader, _Lines(content, self._hold)))
            while (part := await self._next()) is not None:
                if part.filename is None:
                    self.fields.append(await self._field(part))
                elif self._whole:
                    self.files.append(_file(part, await self._content(part)))
                else:
                    self.files.append(_file(part, None))
                    self._open = part
                    return
        except (ValueError, RuntimeError, AssertionError, *DAMAGED_BODY) as error:
            raise GatewayError("4003", "the multipart body is damaged") from error

    def upload(self, fields: Sequence[tuple[str, str]], own: frozenset[str]) -> Upload:
        """The form as it goes upstream, to be sent once the caller is identified: `fields`, the files, what follows.

        `own` names the parameters of the gateway itself: one of them behind a file's content comes too late (4003).
        """
        boundary = f"gateway-{secrets.token_hex(16)}"
        content_type = f"multipart/form-data; boundary={boundary}"
        head = self._fields_bytes(boundary, fields)
        if self._open is not None:
            return Upload(content_type, None, self._stream(boundary, head, own))
        files = [_file_head(boundary, file) + cast(bytes, file.content) + b"\r\n" for file in self.files]
        body = b"".join([head, *files, f"--{boundary}--\r\n".encode()])
        return Upload(content_type, len(body), _once(body))

    async def _stream(self, boundary: str, head: bytes, own: frozenset[str]) -> AsyncIterator[bytes]:
        self._identified = True
        self._limit_bytes = self._client.settings.max_json_bytes
        sent = 0
        limit = self._client.settings.max_upload_bytes
        part = self._open
        try:
            while part is not None:
                if part.filename is None:
                    name, value = await self._field(part)
                    if name in own:
                        raise GatewayError("4003", f"{name} must stand before the file, or in the URL", param=name)
                    head += _field_bytes(boundary, name, value)
                else:
                    yield head + _file_head(boundary, _file(part, None))
                    head = b"\r\n"
                    while piece := await self._piece(part):
                        sent += len(piece)
                        if sent > limit:
                            raise GatewayError("4003", f"an upload may hold {limit} bytes")
                        yield piece
                part = await self._next()
        except (ValueError, RuntimeError, AssertionError, *DAMAGED_BODY) as error:
            raise GatewayError("4003", "the multipart body is damaged") from error
        yield head + f"--{boundary}--\r\n".encode()

    async def _next(self) -> BodyPartReader | None:
        incoming = cast(Incoming, self._client.incoming)
        incoming.begin_body()
        try:
            part = await cast(MultipartReader, self._reader).next()
        finally:
            incoming.end_body()
        if part is not None and not isinstance(part, BodyPartReader):
            raise GatewayError("4003", "a multipart body within a multipart body is not supported")
        self._part_count += part is not None
        if self._part_count > MAX_PARAMETERS:
            raise GatewayError("4003", f"more than {MAX_PARAMETERS} parameters")
        return part

    async def _piece(self, part: BodyPartReader) -> bytes:
        incoming = cast(Incoming, self._client.incoming)
        incoming.begin_body()
        try:
            return bytes(await part.read_chunk(PIECE_BYTES))
        finally:
            incoming.end_body()

    async def _content(self, part: BodyPartReader) -> bytes:
        pieces: list[bytes] = []
        while piece := await self._piece(part):
            self._hold(len(piece))
            pieces.append(piece)
        return b"".join(pieces)

    async def _field(self, part: BodyPartReader) -> tuple[str, str]:
        name = _name(part)
        if not name:
            raise GatewayError("4003", "a part of the multipart body has no name")
        content = await self._content(part)
        try:
            return name, content.decode("utf-8")
        except UnicodeDecodeError:
            raise GatewayError("4003", f"{name} is not valid UTF-8", param=name) from None

    def _hold(self, size_bytes: int) -> None:
        """Counts what is read and is not a file's content on its way through."""
        self._held_bytes += size_bytes
        if self._held_bytes > self._limit_bytes:
            raise _too_long(self._limit_bytes) if self._identified else credentials_come_first()

    def _fields_bytes(self, boundary: str, fields: Sequence[tuple[str, str]]) -> bytes:
        limit = self._client.settings.max_json_bytes
        written: list[bytes] = []
        size = 0
        for name, value in fields:  # a list's name, however long, stands before each of its items
            written.append(_field_bytes(boundary, name, value))
            size += len(written[-1])
            if size > limit:
                raise _too_long(limit)
        return b"".join(written)


class _Lines:
    """A body's reader that counts its lines: a form's delimiters, the heads of its parts, and what precedes them."""

    def __init__(self, content: StreamReader, count: Callable[[int], None]) -> None:
        self._content = content
        self._count = count
        self.read = content.read
        self.at_eof = content.at_eof
        self.unread_data = content.unread_data

    async def readline(self, **limits: int) -> bytes:
        line = await self._content.readline(**limits)
        self._count(len(line))
        return line


def _too_long(limit_bytes: int) -> GatewayError:
    return GatewayError("4003", f"the fields of a form may hold {limit_bytes} bytes together")


def _name(part: BodyPartReader) -> str:
    name = part.name or ""
    try:
        name.encode()
    except UnicodeEncodeError:  # the name is not repeated: no answer could say it
        raise GatewayError("4003", "the name of a part is not valid UTF-8") from None
    return name


def _file(part: BodyPartReader, content: bytes | None) -> Part:
    content_type = part.headers.get("Content-Type", "application/octet-stream")
    if not _MEDIA_TYPE.fullmatch(content_type):
        content_type = "application/octet-stream"
    # A filename in an older encoding keeps its extension, which is all of it that means something to the upstream.
    filename = (part.filename or "file").encode("utf-8", "replace").decode()
    return Part(_name(part) or "file", filename, content_type, content)


def _quoted(text: str) -> str:
    """A name or filename within quotes, escaped as browsers do (WHATWG, multipart/form-data encoding)."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").replace("\0", "%00")


def _field_bytes(boundary: str, name: str, value: str) -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'.encode()


def _file_head(boundary: str, file: Part) -> bytes:
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(file.name)}"; '
        f'filename="{_quoted(file.filename)}"\r\nContent-Type: {file.content_type}\r\n\r\n'
    ).encode()


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
