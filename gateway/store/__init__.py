"""Where accounts, the call log and the counts live."""

from gateway.store.counting import Days, counted_as
from gateway.store.interface import (
    AccountChanges,
    AccountExistsError,
    InsufficientBalanceError,
    StoreError,
    UnknownAccountError,
)
from gateway.store.pepper import Pepper
from gateway.store.sqlite import SqliteStore, open_store

__all__ = [
    "AccountChanges",
    "AccountExistsError",
    "Days",
    "InsufficientBalanceError",
    "Pepper",
    "SqliteStore",
    "StoreError",
    "UnknownAccountError",
    "counted_as",
    "open_store",
]
