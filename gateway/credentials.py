"""Keys and secrets: how new ones are made, and what any must look like to travel in a URL and in a header."""

from __future__ import annotations

import secrets

MAX_CREDENTIAL_CHARS = 256

_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # nothing that a person takes for something else
_KEY_CHARS = 32
_SECRET_CHARS = 52  # 257 bits: only such a secret may be kept under a fast hash


class Credentials:
    """A caller's key and secret. `digest` is the secret's keyed hash, once it was made."""

    __slots__ = ("digest", "key", "secret")

    def __init__(self, key: str, secret: str) -> None:
        self.key = key
        self.secret = secret
        self.digest: bytes | None = None


def new_key() -> str:
    return "gk_" + _random(_KEY_CHARS)


def new_secret() -> str:
    return "gs_" + _random(_SECRET_CHARS)


def checked_credential(text: str) -> str:
    """Returns the text, or raises ValueError saying what a key or a secret must be, without repeating it."""
    if not 1 <= len(text) <= MAX_CREDENTIAL_CHARS:
        raise ValueError(f"it must have 1 to {MAX_CREDENTIAL_CHARS} characters")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("only ASCII letters, digits and signs can travel in a header")
    if ":" in text:
        raise ValueError("a colon separates key and secret in the Authorization header, so neither can hold one")
    return text


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
