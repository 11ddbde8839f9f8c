"""Reads multipart bodies piece by piece: no upload is held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO

from aiohttp import BodyPartReader, web

from gateway.demo.wire import Body, RefusalError, missing
from gateway.types import JsonValue

MAX_FILE_BYTES = 512 * 1024 * 1024
_MAX_FIELD_BYTES = 1024 * 1024
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart request once it is read: its fields as text, its files as digests and sizes."""

    fields: Body
    files: dict[str, UploadedFile]

    def file(self, name: str) -> UploadedFile:
        """The file in the field of this name, or the first of a list (`image[]`)."""
        found = self.files.get(name) or self.files.get(f"{name}[]")
        if found is None:
            raise missing(name)
        return found


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """What is left of an uploaded file."""

    name: str
    size_bytes: int
    digest: bytes


async def read_upload(request: web.Request, target: BinaryIO | None = None) -> Upload:
    """Reads a multipart body. The content of its files goes to `target`, where one is given, and is forgotten."""
    if not request.content_type.startswith("multipart/"):
        raise RefusalError(400, "Invalid Content-Type: expected multipart/form-data.")
    fields: dict[str, JsonValue] = {}
    files: dict[str, UploadedFile] = {}
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise RefusalError(400, "A part of the multipart body has no name.")
            if part.filename is None:
                fields[part.name] = await _read_field(part)
            else:
                files[part.name] = await _read_file(part, target)
    except ValueError as error:
        raise RefusalError(400, "We could not parse the multipart body of your request.") from error
    return Upload(Body(fields), files)


async def _read_field(part: BodyPartReader) -> str:
    text = bytearray()
    while piece := await part.read_chunk(_READ_BYTES):
        text += piece
        if len(text) > _MAX_FIELD_BYTES:
            raise RefusalError(413, f"The field '{part.name}' is too large.", param=part.name)
    return text.decode("utf-8", "replace")


async def _read_file(part: BodyPartReader, target: BinaryIO | None) -> UploadedFile:
    hasher, size_bytes = blake2b(digest_size=32), 0
    while piece := await part.read_chunk(_READ_BYTES):
        hasher.update(piece)
        size_bytes += len(piece)
        if size_bytes > MAX_FILE_BYTES:
            raise RefusalError(413, "Maximum content size limit (512 MB) exceeded.", param=part.name)
        if target is not None:
            target.write(piece)
    return UploadedFile(part.filename or "", size_bytes, hasher.digest())
