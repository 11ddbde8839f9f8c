"""Images that came as data: kept as files, and reached by links that nobody can guess and that end.

Nothing is remembered of a link: it carries the file's number, its end and a keyed hash of both.
"""

from __future__ import annotations

import hmac
import os
import re
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b
from math import ceil
from pathlib import Path

from gateway.store.jobs import FILE, imgid_of

PATH = "/files/"
_ROUNDED_S = 3_600  # a link stays the same for so long, so that who asks again finds what he has in a cache
_TAG_BYTES = 16
_PLACE = struct.Struct(">QHI")  # the job, which of its images, the end in hours of the epoch
_NAME = re.compile(r"([0-9]{16})-([0-9]{1,4})\.[a-z]{3,4}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{40}")
_KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg"), (b"GIF8", "gif"), (b"RIFF", "webp"))
CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}


class JobFiles:
    """The files of jobs in one directory. `key` has to be secret; `base_url` is where clients reach the gateway.

    `clock` gives seconds since the epoch.
    """

    def __init__(self, directory: Path, key: bytes, *, link_s: float, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._key = key
        self._link_s = link_s
        self._clock = clock
        self.base_url = ""

    def keep(self, number: int, index: int, data: bytes) -> str:
        """Writes an image of a job to the disk; its name for the store. May block; raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        kind = next((kind for start, kind in _KINDS if data.startswith(start)), "bin")
        path = self._directory / f"{imgid_of(number)}-{index}.{kind}"
        unfinished = path.with_suffix(".part")
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        return f"{FILE}{path.name}"

    def address(self, image: str) -> str:
        """Where clients find an image: its own address, or a link to the file that is meant."""
        name = _NAME.fullmatch(image.removeprefix(FILE)) if image.startswith(FILE) else None
        if name is None:
            return image
        ends = ceil((self._clock() + self._link_s) / _ROUNDED_S)
        place = _PLACE.pack(int(name[1]), int(name[2]), ends)
        token = urlsafe_b64encode(place + self._tag(place)).decode()
        return f"{self.base_url}{PATH}{token}"

    def find(self, token: str) -> Path | None:
        """The file that a link leads to; None for what is no link of ours, has ended, or whose file is gone.

        May block.
        """
        if not _TOKEN.fullmatch(token):
            return None
        raw = urlsafe_b64decode(token)
        place, tag = raw[: _PLACE.size], raw[_PLACE.size :]
        if not hmac.compare_digest(tag, self._tag(place)):
            return None
        number, index, ends = _PLACE.unpack(place)
        if self._clock() >= ends * _ROUNDED_S:
            return None
        paths = (self._directory / f"{imgid_of(number)}-{index}.{kind}" for kind in (*CONTENT_TYPES, "bin"))
        return next((path for path in paths if path.is_file()), None)

    def prune(self, keep_s: float) -> None:
        """Deletes what is older. May block; what cannot be deleted stays."""
        before = self._clock() - keep_s
        try:
            files = list(self._directory.iterdir())
        except OSError:
            return
        for file in files:
            try:
                if file.stat().st_mtime < before and re.fullmatch(r"\d{16}-\d+\.\w+", file.name):
                    file.unlink()
            except OSError:  # somebody else's, or gone
                continue

    def _tag(self, place: bytes) -> bytes:
        return blake2b(place, key=self._key, digest_size=_TAG_BYTES).digest()
