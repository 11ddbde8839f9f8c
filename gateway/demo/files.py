"""The embedded upstream's `v1/files`: their content lies in a directory that goes when the upstream stops."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from gateway.demo.answers import digest
from gateway.demo.multipart import MAX_FILE_BYTES, read_upload
from gateway.demo.wire import RefusalError, json_response
from gateway.types import JsonValue

MAX_STORE_BYTES = 2 * MAX_FILE_BYTES


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of `v1/files`, and where its content lies."""

    id: str
    name: str
    purpose: str
    size_bytes: int
    created_at: int
    path: Path

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass(slots=True)
class FileStore:
    """The files uploaded so far, the oldest first."""

    directory: Path
    files: dict[str, StoredFile] = field(default_factory=dict)
    serials: Iterator[int] = field(default_factory=lambda: count(1))

    def open_new(self) -> BinaryIO:
        return tempfile.NamedTemporaryFile(dir=self.directory, delete=False)  # type: ignore[return-value]  # a wrapper

    def find(self, request: web.Request) -> StoredFile:
        """The file that the request's path names."""
        file_id = request.match_info["file_id"]
        if file_id not in self.files:
            raise RefusalError(404, f"No such File object: {file_id}", param="id")
        return self.files[file_id]


FILES = web.AppKey("files", FileStore)


async def files_context(app: web.Application) -> AsyncIterator[None]:
    """Gives the application its file store for as long as it runs."""
    with tempfile.TemporaryDirectory(prefix="gateway-demo-files-") as directory:
        app[FILES] = FileStore(Path(directory))
        yield


async def list_files(request: web.Request) -> web.Response:
    """GET /v1/files, newest first, of one purpose or all."""
    purpose = request.query.get("purpose")
    data: list[JsonValue] = [
        file.as_json()
        for file in reversed(request.app[FILES].files.values())
        if purpose is None or file.purpose == purpose
    ]
    return json_response({"object": "list", "data": data, "has_more": False})


async def upload_file(request: web.Request) -> web.Response:
    """POST /v1/files"""
    store = request.app[FILES]
    with store.open_new() as target:
        path = Path(target.name)
        try:
            upload = await read_upload(request, target)
            purpose, file = upload.fields.text("purpose"), upload.file("file")
            if sum(each.size_bytes for each in store.files.values()) + file.size_bytes > MAX_STORE_BYTES:
                raise RefusalError(400, "Your organization has exceeded its file storage quota.", param="file")
        except BaseException:
            await asyncio.to_thread(path.unlink)
            raise
    file_id = f"file-{digest(next(store.serials), file.name, file.digest.hex())[:12].hex()}"
    stored = StoredFile(file_id, file.name, purpose, file.size_bytes, int(time.time()), path)
    store.files[file_id] = stored
    return json_response(stored.as_json())


async def retrieve_file(request: web.Request) -> web.Response:
    """GET /v1/files/{file_id}"""
    return json_response(request.app[FILES].find(request).as_json())


async def file_content(request: web.Request) -> web.StreamResponse:
    """GET /v1/files/{file_id}/content"""
    stored = request.app[FILES].find(request)
    return web.FileResponse(stored.path, headers={"Content-Type": "application/octet-stream"})


async def delete_file(request: web.Request) -> web.Response:
    """DELETE /v1/files/{file_id}"""
    stored = request.app[FILES].find(request)
    del request.app[FILES].files[stored.id]
    await asyncio.to_thread(stored.path.unlink)
    return json_response({"id": stored.id, "object": "file", "deleted": True})
