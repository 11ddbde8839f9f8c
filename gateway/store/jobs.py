"""Image jobs as the store is given them and gives them to whoever works on them."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.store.interface import Hold, KeptAnswer
from gateway.types import JobStatus, PerCall

FILE = "file:"
"""How an image that is kept as a file of ours begins, where others are addresses."""


class JobPrice(PerCall, frozen=True):
    """What a job will be charged if it succeeds, in millionths. `extra_micros` belongs to `translation_micros`."""

    per_call_micros: int = 0
    per_image_micros: int = 0
    extra_micros: int = 0
    translation_micros: int = 0


class NewJob(PerCall, frozen=True):
    """A job that is submitted, and the hold that is made with it. `imgid` is the number that it gets if it is free."""

    hold: Hold
    price: JobPrice
    imgid: int
    prompt: str
    arguments: bytes  # for the backend: a JSON object
    notify: str | None
    most_open: int  # of one account
    submitted_ms: int


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that somebody is to work on. `sent_ms` None: no backend has it; `backend_id` None: it gave no id."""

    id: int
    account_id: int
    status: JobStatus
    prompt: str
    arguments: bytes
    sent_ms: int | None = None
    backend: str = ""
    backend_id: str | None = None

    @property
    def imgid(self) -> str:
        return imgid_of(self.id)


class JobEnd(PerCall, frozen=True):
    """How a job has ended. `outcome` is the code that its call gets in the log: 0000 is success, and is charged.

    `images` are addresses, or FILE and a name. `unknown`: nobody knows whether the backend made any.
    """

    outcome: str
    images: tuple[str, ...] = ()
    fail_reason: str = ""
    unknown: bool = False


def imgid_of(number: int) -> str:
    """A job's number as clients have it."""
    return f"{number:016d}"


def receipt(imgid: str) -> KeptAnswer:
    """What a submission answers, as it is kept under an idempotency key."""
    return KeptAnswer(200, "application/json", "", b'{"imgid":"%b"}' % imgid.encode())
