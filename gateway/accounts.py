"""Who may call, answered from memory. A task follows the store's changes, so that a stop takes effect within a second
though no call touches the disk. Knows nothing of the fronts, and of the store only the protocol below.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Callable, Sequence
from fnmatch import translate
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from gateway.credentials import MAX_CREDENTIAL_CHARS, Credentials
from gateway.errors import GatewayError
from gateway.methods import is_given_to_all
from gateway.store.counting import Days, counted_as
from gateway.store.interface import AccountChanges, StoreError
from gateway.types import Account, CallCounts, CallRecord

LOG = logging.getLogger("gateway.accounts")

POLL_S = 0.5
_DAY_S = 86_400.0

_NO_DIGEST = bytes(32)  # no secret has this hash


class AccountSource(Protocol):
    """What the directory asks of a store. Both methods may block; they are called in a thread."""

    def accounts_since(self, revision: int) -> AccountChanges: ...

    def call_counts(self, day: str) -> dict[int, CallCounts]: ...


class AccountDirectory:
    """All accounts and their counts, in memory.

    `digest` is the keyed hash of a secret. Belongs to one event loop; start() before use, stop() at the end.
    """

    def __init__(
        self, source: AccountSource, digest: Callable[[str], bytes], days: Days, *, poll_s: float = POLL_S
    ) -> None:
        self._source = source
        self._digest = digest
        self._days = days
        self._poll_s = poll_s
        self._revision = 0
        self._by_key: dict[str, Account] = {}
        self._by_id: dict[int, Account] = {}
        self._rules: dict[int, _Rules] = {}
        self._tallies: dict[int, _Tally] = {}
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads everything, or raises the store's error, and begins to follow the changes."""
        now = time.time()
        for at in (now, now - _DAY_S, now + _DAY_S):  # a clock that steps over midnight finds the other day's counts
            day = self._days.day_of(at)
            counts = await asyncio.to_thread(self._source.call_counts, day)
            for account_id, count in counts.items():
                self._tallies.setdefault(account_id, _Tally(count)).set_day(day, count.today)
        await self.refresh()
        self._task = asyncio.create_task(self._follow(), name="account-directory")

    async def stop(self) -> None:
        """Ends the task; the directory keeps answering from what it has."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    def __len__(self) -> int:
        return len(self._by_id)

    async def refresh(self) -> None:
        """Takes over what changed in the store since the last time."""
        changes = await asyncio.to_thread(self._source.accounts_since, self._revision)
        rules = {account.id: _Rules(account) for account in changes.changed}  # what may fail comes before any change
        for account_id in (*changes.deleted, *(account.id for account in changes.changed)):
            if known := self._by_id.pop(account_id, None):
                self._by_key.pop(known.key, None)
                del self._rules[account_id]
        for account in changes.changed:
            self._by_id[account.id] = self._by_key[account.key] = account
        self._rules.update(rules)
        self._revision = changes.revision

    def find(self, credentials: Credentials, client_ip: str, now: float) -> Account:
        """The account of these credentials, if it may call. GatewayError 4004, 4005 or 4007, checked in this order."""
        account = self.identify(credentials)
        self.check_access(account, client_ip, now)
        return account

    def identify(self, credentials: Credentials) -> Account:
        """The account of these credentials. GatewayError 4004 or 4005.

        An unknown key costs the same work as a wrong secret, so that the time of an answer does not tell them apart.
        """
        key, digest = credentials.key, credentials.digest
        account = self._by_key.get(key) if len(key) <= MAX_CREDENTIAL_CHARS else None
        if digest is None:  # no secret is longer than that, and the work is bounded
            digest = credentials.digest = self._digest(credentials.secret[: MAX_CREDENTIAL_CHARS + 1])
        matches = hmac.compare_digest(digest, _NO_DIGEST if account is None else account.secret_digest)
        if account is None:
            raise GatewayError("4004", "no account has this key", param="key")
        if not matches:
            raise GatewayError("4005", "the secret is wrong", param="secret")
        return account

    def check_access(self, account: Account, client_ip: str, now: float) -> None:
        """GatewayError 4005 if the account may not call from this address, 4007 if it may not call at all."""
        if account.allow_from and not _is_allowed(account, client_ip):
            raise GatewayError("4005", "the account does not allow calls from this address")
        if account.stopped:
            raise GatewayError("4007", "the account is stopped")
        if account.expires_at is not None and now >= account.expires_at:
            raise GatewayError("4007", "the account has expired")

    def check_method(self, account: Account, method: str) -> None:
        """GatewayError 4006 if the method is stopped for the account, then 4012 if it has not been given it."""
        rules = self._rules.get(account.id)
        if rules is None or rules.account is not account:  # changed since its call began
            rules = _Rules(account)
        if rules.stopped is not None and rules.stopped(method):
            raise GatewayError("4006", "the method is stopped for this account", param="method")
        if rules.allowed is not None and not rules.allowed(method) and not is_given_to_all(method):
            raise GatewayError("4012", "the account has not been given the method", param="method")

    def count(self, record: CallRecord) -> None:
        """Counts a finished call, as the store will."""
        count = counted_as(record)
        if count is None:
            return
        tally = self._tallies.get(record.account_id)
        if tally is None:
            tally = self._tallies[record.account_id] = _Tally(CallCounts())
        tally.add(count, self._days.day_of(record.started_at))

    def counts(self, account: Account, now: float | None = None) -> CallCounts:
        """How often the account called; today is that of `now`, by default the present."""
        tally = self._tallies.get(account.id)
        if tally is None:
            return CallCounts()
        return tally.counts(self._days.day_of(time.time() if now is None else now))

    async def _follow(self) -> None:
        failing = False
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._stopping.wait()
            except TimeoutError:
                try:
                    await self.refresh()
                except Exception as error:  # noqa: BLE001  # even a thread that cannot be started: it may pass
                    if not failing:
                        # A StoreError's text is meant for the operator; nobody knows what is in another's.
                        why = error if isinstance(error, StoreError) else type(error).__name__
                        LOG.error("accounts cannot be read, those known stay in force: %s", why)
                    failing = True
                else:
                    if failing:
                        LOG.warning("accounts are read again")
                    failing = False


class _Rules:
    """An account's globs, compiled: a match costs less than a bounded cache of the callers' own texts would."""

    __slots__ = ("account", "allowed", "stopped")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.allowed = None if account.methods is None else _matcher(account.methods)
        self.stopped = _matcher(account.stopped_methods) if account.stopped_methods else None


def _matcher(globs: Sequence[str]) -> Callable[[str], object]:
    """As fnmatchcase() over all of them; no globs match nothing."""
    return re.compile("|".join(translate(glob) for glob in globs) or r"(?!)").match


def _is_allowed(account: Account, client_ip: str) -> bool:
    try:
        address = ip_address(client_ip)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:  # a v4 client at a dual-stack socket
        address = address.ipv4_mapped
    return any(address in network for network in account.allow_from)


class _Tally:
    """One account's counts. Keeps each of the last days apart: a clock set back finds the day before as it was."""

    __slots__ = ("_days", "_totals")

    def __init__(self, counts: CallCounts) -> None:
        self._days: dict[str, int] = {}
        self._totals = {"succeeded": counts.succeeded, "empty": counts.empty, "failed": counts.failed}

    def set_day(self, day: str, calls: int) -> None:
        """What is known of a day from before the start."""
        self._days[day] = calls

    def add(self, count: str, day: str) -> None:
        self._totals[count] += 1
        if day in self._days:
            self._days[day] += 1
        else:
            self._days[day] = 1
            if len(self._days) > 3:
                del self._days[min(self._days)]

    def counts(self, day: str) -> CallCounts:
        return CallCounts(self._days.get(day, 0), **self._totals)
