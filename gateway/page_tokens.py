"""Page tokens of lists: places in a list that a caller can hand back, and can neither make up nor take from another.

Nothing is remembered of them: each carries its place and a keyed hash.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b

_POSITION_BYTES = 8
_TAG_BYTES = 16
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")  # 24 bytes, without bits to spare: each token has one spelling


class PageTokens:
    """Gives tokens and reads them. `key` has to be secret, and the same for as long as tokens are to be good."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def give(self, account_id: int, method: str, position: int) -> str:
        """A token of an account for a place in a method's list. OverflowError beyond 64 bits with sign."""
        place = position.to_bytes(_POSITION_BYTES, signed=True)
        return urlsafe_b64encode(place + self._tag(account_id, method, place)).decode()

    def read(self, account_id: int, method: str, token: str) -> int | None:
        """The place, or None for what is no token of this account for this list."""
        if not _TOKEN.fullmatch(token):  # the decoder would pass over other characters
            return None
        raw = urlsafe_b64decode(token)
        place, tag = raw[:_POSITION_BYTES], raw[_POSITION_BYTES:]
        if not hmac.compare_digest(tag, self._tag(account_id, method, place)):
            return None
        return int.from_bytes(place, signed=True)

    def _tag(self, account_id: int, method: str, place: bytes) -> bytes:
        bound = place + account_id.to_bytes(8) + method.encode()  # only the last has no fixed length
        return blake2b(bound, key=self._key, digest_size=_TAG_BYTES).digest()
