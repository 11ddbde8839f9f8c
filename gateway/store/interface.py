"""What every store is given, gives and raises, whichever database is behind it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.types import Account, CallRecord, PerCall


class StoreError(Exception):
    """The database refused or is out of reach. The text is for the operator and fits on a terminal."""


class UnknownAccountError(StoreError):
    """No account has this name."""


class AccountExistsError(StoreError):
    """The name or the key belongs to another account."""


class InsufficientBalanceError(StoreError):
    """The balance, less what is held, does not cover a hold, or what is to be taken back."""


class KeyTakenError(StoreError):
    """Another call has this idempotency key."""


class TooManyJobsError(StoreError):
    """The account has as many open jobs as one may have."""


@dataclass(frozen=True, slots=True)
class AccountChanges:
    """The accounts that changed after some revision, the ids of those deleted, and the newest revision."""

    changed: tuple[Account, ...]
    deleted: tuple[int, ...]
    revision: int


class Hold(PerCall, frozen=True):
    """A call that is about to cost something: what is set aside for it before the upstream is touched.

    `idempotency_key` None: the caller gave none. `fingerprint` tells one request under a key from another.
    """

    call_id: int
    account_id: int
    amount_micros: int
    request_id: str
    front: str
    method: str
    model: str | None
    started_at: float  # seconds since the epoch
    client_ip: str
    idempotency_key: str | None = None
    fingerprint: bytes = b""


class KeptAnswer(PerCall, frozen=True):
    """An upstream's answer that is kept under an idempotency key. `fields` are header lines that clients see."""

    status: int
    content_type: str
    fields: str
    body: bytes


class KeyedCall(PerCall, frozen=True):
    """The call that was the first under an idempotency key. `answer` None: it runs, or its answer was not kept."""

    call_id: int
    request_id: str
    fingerprint: bytes
    running: bool
    answer: KeptAnswer | None


class Settlement(PerCall, frozen=True):
    """The end of a held call. Its record's `charge_micros` is what it used; what it is charged is for the store to say.

    `keyed`: the call has an idempotency key. With `keeps_key` the key stays taken, with `answer` where there is one;
    otherwise it is free again.
    """

    record: CallRecord
    answer: KeptAnswer | None = None
    keyed: bool = False
    keeps_key: bool = False


class Extension(PerCall, frozen=True):
    """More that is to be held for a call that runs."""

    call_id: int
    account_id: int
    amount_micros: int


class Charged(PerCall, frozen=True):
    """What a settlement took from the balance, and what it could not take."""

    charge_micros: int
    shortfall_micros: int
