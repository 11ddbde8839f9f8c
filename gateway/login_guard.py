"""Bounds the guessing of keys and secrets, for each address. Looks at no secret, and knows nothing of accounts.

An address that failed too often is refused whatever it says, or a guesser would still learn which secret is right. Its
neighbours behind the same address go on: what authenticated from there before is let through until it fails once.
"""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.errors import GatewayError
from gateway.minute import LastMinute

MAX_ADDRESSES = 10_000
MAX_PAIRS = 10_000

_MAX_ADDRESS_CHARS = 64
_V4_MAPPED = bytes(10) + b"\xff\xff"


class LoginGuard:
    """Refuses addresses after `per_minute` failures within 60 s; 0: none ever. `clock` is monotonic seconds.

    Belongs to one event loop. The three methods take a caller's address as the connection or a proxy gave it.
    """

    __slots__ = ("_clock", "_failures", "_pairs", "_per_minute")

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._failures: OrderedDict[str | bytes, LastMinute] = OrderedDict()  # by origin; the latest to fail is last
        # Origins and keys that authenticated and have not failed since; the latest to authenticate is last.
        self._pairs: OrderedDict[tuple[str | bytes, str], None] = OrderedDict()

    def check(self, client_ip: str, key: str) -> None:
        """To be asked before the credentials are looked at. GatewayError 4008."""
        if not self._failures:
            return
        origin = _origin(client_ip)
        failures = self._failures.get(origin)
        if failures is None or (origin, key) in self._pairs:
            return
        wait_s = failures.wait_s(self._per_minute, self._clock())
        if wait_s:
            raise GatewayError("4008", "too many wrong keys or secrets came from this address", retry_after_s=wait_s)

    def failed(self, client_ip: str, key: str) -> None:
        """No account has the key, or the secret was wrong."""
        if not self._per_minute:
            return
        origin, now, known = _origin(client_ip), self._clock(), self._failures
        self._pairs.pop((origin, key), None)
        failures = known.get(origin)
        if failures is None:
            self._forget_old(now)
            failures = known[origin] = LastMinute()
        else:
            known.move_to_end(origin)
        failures.add(1, now)

    def succeeded(self, client_ip: str, key: str) -> None:
        """The secret was the key's."""
        if not self._per_minute:
            return
        pair = (_origin(client_ip), key)
        try:
            self._pairs.move_to_end(pair)
        except KeyError:
            if len(self._pairs) >= MAX_PAIRS:
                self._pairs.popitem(last=False)
            self._pairs[pair] = None

    def _forget_old(self, now: float) -> None:
        """Makes room for one address: drops up to two that are past their minute, or else the oldest."""
        known = self._failures
        for _ in range(2):
            if not known:
                return
            oldest = next(iter(known))
            if len(known) < MAX_ADDRESSES and known[oldest].sum(now):
                return
            del known[oldest]


def _origin(client_ip: str) -> str | bytes:
    """What addresses count as one: an IPv4 address by its text, an IPv6 address by its /64, which one host can fill.

    inet_pton takes a tenth of the time of ip_address. What is no address (a proxy's fancy) counts by its text.
    """
    if ":" in client_ip:
        try:
            packed = socket.inet_pton(socket.AF_INET6, client_ip.partition("%")[0])
        except (OSError, ValueError):
            pass
        else:
            return packed[:8] if packed[:12] != _V4_MAPPED else socket.inet_ntop(socket.AF_INET, packed[12:])
    return client_ip[:_MAX_ADDRESS_CHARS]
