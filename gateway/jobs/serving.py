"""`GET /files/{token}`: an image that is kept here, for whoever has its link."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import BinaryIO

from gateway.errors import ERROR_CODES
from gateway.fronts.client import Client
from gateway.fronts.native import error_object
from gateway.jobs.files import CONTENT_TYPES, PATH, JobFiles

_PIECE_BYTES = 262_144
_FIELDS = (
    "Cache-Control: private, max-age=3600\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: sandbox\r\n"
)


async def send_file(client: Client, files: JobFiles | None) -> None:
    """Sends the file, no more of it in memory than a piece; 404 for a link that leads nowhere, or no longer."""
    token = client.head.path.removeprefix(PATH).strip("/")
    opened = await asyncio.to_thread(_open, files, token) if client.head.method in {"GET", "HEAD"} else None
    if opened is None:
        body = error_object(ERROR_CODES["4010"], "this link leads nowhere, or has ended", None)
        await client.send(404, "application/json", body, "X-Error-Code: 4010\r\n")
        return
    file, size, content_type = opened
    with file:
        await client.write(client.answer_head(200, content_type, size, _FIELDS))
        while not client.bodyless and (piece := await asyncio.to_thread(file.read, _PIECE_BYTES)):
            await client.write(piece)
            client.sent_bytes += len(piece)


def _open(files: JobFiles | None, token: str) -> tuple[BinaryIO, int, str] | None:
    path = None if files is None else files.find(token)
    try:
        return None if path is None else (path.open("rb"), path.stat().st_size, _type_of(path))
    except OSError:  # deleted in between
        return None


def _type_of(path: Path) -> str:
    return CONTENT_TYPES.get(path.suffix[1:], "application/octet-stream")
