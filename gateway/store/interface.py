"""What every store gives and raises, whichever database is behind it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.types import Account


class StoreError(Exception):
    """The database refused or is out of reach. The text is for the operator and fits on a terminal."""


class UnknownAccountError(StoreError):
    """No account has this name."""


class AccountExistsError(StoreError):
    """The name or the key belongs to another account."""


@dataclass(frozen=True, slots=True)
class AccountChanges:
    """The accounts that changed after some revision, the ids of those deleted, and the newest revision."""

    changed: tuple[Account, ...]
    deleted: tuple[int, ...]
    revision: int
