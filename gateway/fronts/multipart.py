"""Multipart bodies of the custom front: read part by part, written anew for the upstream, files never held whole.

A body that is short is read whole, so that its parts may stand in any order. Of a long one the parameters must come
before the first file: by then the call has to be known.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import cast

from aiohttp import BodyPartReader, MultipartReader

from gateway.errors import GatewayError
from gateway.fronts.client import DAMAGED_BODY, SMALL_BODY_BYTES, Client
from gateway.fronts.reading import MAX_PARAMETERS, Upload

PIECE_BYTES = 65_536

_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:\s*;\s*[A-Za-z0-9!#$&^_.+-]+=[^\x00-\x1f\x7f]*)?"
)


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a form: its head, and its content where that has been read."""

    name: str
    filename: str
    content_type: str
    content: bytes | None


class Form:
    """A multipart body on its way through: the fields and files read so far, and the rest still to come."""

    def __init__(self, client: Client) -> None:
        self.fields: list[tuple[str, str]] = []
        self.files: list[Part] = []
        self._client = client
        self._whole = client.body_in_hand
        self._open: BodyPartReader | None = None
        self._reader: MultipartReader | None = None

    async def read(self) -> None:
        """Reads all parts of a short body; of a long one those before the first file's content."""
        try:
            self._client.ask_for_body()
            self._reader = MultipartReader(self._client.request.headers, self._client.request.content)
            while (part := await self._next()) is not None:
                if part.filename is None:
                    self.fields.append(await self._field(part))
                elif self._whole:
                    self.files.append(_file(part, await self._content(part, SMALL_BODY_BYTES)))
                else:
                    self.files.append(_file(part, None))
                    self._open = part
                    return
        except (ValueError, RuntimeError, AssertionError, *DAMAGED_BODY) as error:
            raise GatewayError("4003", "the multipart body is damaged") from error

    def upload(self, fields: Sequence[tuple[str, str]], own: frozenset[str]) -> Upload:
        """The form as it goes upstream: `fields`, then the files, then what follows them.

        `own` names the parameters of the gateway itself: one of them behind a file's content comes too late (4003).
        """
        boundary = f"gateway-{secrets.token_hex(16)}"
        content_type = f"multipart/form-data; boundary={boundary}"
        if self._open is None:
            body = b"".join(_field_bytes(boundary, name, value) for name, value in fields)
            for file in self.files:
                body += _file_head(boundary, file) + cast(bytes, file.content) + b"\r\n"
            body += f"--{boundary}--\r\n".encode()
            return Upload(content_type, len(body), _once(body))
        return Upload(content_type, None, self._stream(boundary, fields, own))

    async def _stream(
        self, boundary: str, fields: Sequence[tuple[str, str]], own: frozenset[str]
    ) -> AsyncIterator[bytes]:
        sent = 0
        limit = self._client.settings.max_upload_bytes
        head = b"".join(_field_bytes(boundary, name, value) for name, value in fields)
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
        self._client.connection.begin_body()
        try:
            part = await cast(MultipartReader, self._reader).next()
        finally:
            self._client.connection.end_body()
        if part is not None and not isinstance(part, BodyPartReader):
            raise GatewayError("4003", "a multipart body within a multipart body is not supported")
        if len(self.fields) + len(self.files) > MAX_PARAMETERS:
            raise GatewayError("4003", f"more than {MAX_PARAMETERS} parameters")
        return part

    async def _piece(self, part: BodyPartReader) -> bytes:
        self._client.connection.begin_body()
        try:
            return bytes(await part.read_chunk(PIECE_BYTES))
        finally:
            self._client.connection.end_body()

    async def _content(self, part: BodyPartReader, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while piece := await self._piece(part):
            size += len(piece)
            if size > limit:
                raise GatewayError("4003", f"the field {part.name!r} is longer than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def _field(self, part: BodyPartReader) -> tuple[str, str]:
        if not part.name:
            raise GatewayError("4003", "a part of the multipart body has no name")
        content = await self._content(part, self._client.settings.max_json_bytes)
        try:
            return part.name, content.decode("utf-8")
        except UnicodeDecodeError:
            raise GatewayError("4003", f"{part.name} is not valid UTF-8", param=part.name) from None


def _file(part: BodyPartReader, content: bytes | None) -> Part:
    content_type = part.headers.get("Content-Type", "application/octet-stream")
    if not _MEDIA_TYPE.fullmatch(content_type):
        content_type = "application/octet-stream"
    return Part(part.name or "file", part.filename or "file", content_type, content)


def _quoted(text: str) -> str:
    """A name or filename within quotes, escaped as browsers do (WHATWG, multipart/form-data encoding)."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").replace("\0", "%00")


def _field_bytes(boundary: str, name: str, value: str) -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'.encode(
        "utf-8", "surrogateescape"
    )


def _file_head(boundary: str, file: Part) -> bytes:
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(file.name)}"; '
        f'filename="{_quoted(file.filename)}"\r\nContent-Type: {file.content_type}\r\n\r\n'
    ).encode("utf-8", "surrogateescape")


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
