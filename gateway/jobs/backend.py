"""What the workers and those who make the images say to each other, and the one JSON exchange that all of these use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, cast

import orjson

from gateway.errors import GatewayError
from gateway.store.jobs import OpenJob
from gateway.types import JobStatus, JsonValue
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.pool import Pool
from gateway.upstream.request import Target

MAX_REASON_CHARS = 500
MAX_IMAGES = 128
"""Of one job: more than any backend makes in one go, and few enough to be kept in a moment."""

_ADDRESS = re.compile(r"https?://[^\s\x00-\x1f\x7f]{1,8192}", re.IGNORECASE | re.ASCII)
_UNKNOWN = "whether the images were made is unknown, and they are not charged"


class JobFailed(Exception):  # noqa: N818  # a finding about a job, not a fault of ours
    """A job has come to nothing. `code` is what the call log says, `reason` is for whoever submitted it.

    `unknown`: nobody knows whether the images were made.
    """

    def __init__(self, code: str, reason: str, *, unknown: bool = False) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason[:MAX_REASON_CHARS]
        self.unknown = unknown


class NotSent(Exception):  # noqa: N818  # as above
    """The backend certainly has not done anything: it could not be reached, or had too much to do."""


class Notes(Protocol):
    """What a backend has to have written down before it goes on; each returns when it is on the disk."""

    async def sending(self) -> None:
        """The request is about to leave: from now on the backend may have the job."""

    async def not_sent(self) -> None:
        """It certainly has not."""

    async def accepted(self, backend: str, backend_id: str) -> None:
        """It has, under this id, and can be asked about it."""

    async def progress(self, status: JobStatus, percent: int) -> None:
        """How far it is."""


class Backend(Protocol):
    """Whoever makes images. `resumes`: what was given to it can be asked about by an id."""

    name: str
    resumes: bool

    async def run(self, job: OpenJob, notes: Notes) -> tuple[str | bytes, ...]:
        """The images that came of a job: addresses, or their bytes. Raises JobFailed.

        A job that has the backend's id is not given to it again.
        """


@dataclass(frozen=True, slots=True)
class Service:
    """Where a backend is reached, with connections of its own. `fields` are header lines of every request."""

    target: Target
    pool: Pool
    max_answer_bytes: int
    fields: str = ""

    async def ask(self, path: str) -> tuple[int, bytes]:
        """The answer to a GET. Raises GatewayError."""
        return await self.exchange(self.pool.take_idle() or await self.pool.connect(), "GET", path)

    async def give(self, notes: Notes, path: str, value: JsonValue, fields: str = "") -> tuple[int, bytes]:
        """The answer to a POST that must not be made twice, noted before it leaves. Raises NotSent; a GatewayError
        tells that nobody knows what became of it.

        Its connection is a new one, and not kept: the backend may be about to close one that is.
        """
        try:
            link = await self.pool.connect()
        except GatewayError as error:
            raise NotSent(error.reason) from error
        try:
            await notes.sending()
        except BaseException:
            self.pool.release(link)
            raise
        if link.transport is None or link.transport.is_closing():
            self.pool.release(link)
            await notes.not_sent()
            raise NotSent("the backend closed the connection")
        try:
            status, body = await self.exchange(link, "POST", path, value, f"{fields}Connection: close\r\n")
        finally:
            link.abort()
        if status == 429:
            await notes.not_sent()
            raise NotSent("the backend answered 429")
        return status, body

    async def exchange(
        self, link: UpstreamConnection, verb: str, path: str, value: JsonValue = None, fields: str = ""
    ) -> tuple[int, bytes]:
        """Status and body of an answer on this connection, which is released. `path` begins with a slash."""
        body = b"" if value is None else orjson.dumps(value)
        kind = "" if value is None else "application/json"
        try:  # whatever ends it before the answer's end cancels it at the backend
            head = self.target.request(verb, f"v1{path}", "", kind, len(body), self.fields + fields)
            link.send(head + body)
            answer = await link.answer()
            return answer.status, await link.read(self.max_answer_bytes)
        finally:
            self.pool.release(link)


def read_object(body: bytes) -> dict[str, JsonValue]:
    """An answer that has to be a JSON object; an empty one where it is none."""
    try:
        value = cast(JsonValue, orjson.loads(body))
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def text_of(value: JsonValue) -> str:
    """A member that has to be text, or a number that stands for one; empty where it is neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def is_address(value: JsonValue) -> bool:
    """Whether an image can be had there. Nothing else that a backend says may pass for an address: what begins
    otherwise could name a file of ours, or be a script.
    """
    return isinstance(value, str) and _ADDRESS.fullmatch(value) is not None


def found(images: Iterable[str | bytes | None]) -> tuple[str | bytes, ...]:
    """The images among what a backend gave for some. Raises JobFailed where there are none, or far too many."""
    good = tuple(image for image in images if image)
    if not good:
        raise JobFailed("4002", "the backend ended the job without an image")
    if len(good) > MAX_IMAGES:
        raise JobFailed("4002", f"the backend made more than {MAX_IMAGES} images")
    return good


def refused(status: int, message: str) -> JobFailed:
    """What an answer other than a success means. Only what the backend says about this request is passed on: the rest
    is between it and the operator, and may hold a part of the key.
    """
    if status in {401, 402, 403, 407, 408}:
        return JobFailed("4002", "the backend does not accept the gateway's own request")
    if 400 <= status < 500:
        return JobFailed("2000", message or f"the backend refused the job with {status}")
    return JobFailed("4002", f"the backend answered {status}; {_UNKNOWN}", unknown=True)  # a proxy's, as often as not


def unreadable() -> JobFailed:
    """What a success means that is no JSON object: the backend did something, and nobody knows what."""
    return JobFailed("4002", f"the backend's answer cannot be read; {_UNKNOWN}", unknown=True)


def lost(error: GatewayError) -> JobFailed:
    """What an exchange that broke off means: the job may be done or not."""
    return JobFailed(error.code.code, f"{error.reason}; {_UNKNOWN}", unknown=True)
