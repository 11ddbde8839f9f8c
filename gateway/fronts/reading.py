"""What reading a call yields, whichever front read it, and the small parsers that both fronts share."""

from __future__ import annotations

import re
from binascii import a2b_qp
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import orjson

from gateway.arguments import with_members
from gateway.credentials import Credentials
from gateway.detours import Detour
from gateway.errors import GatewayError
from gateway.fronts.client import SMALL_BODY_BYTES
from gateway.types import Account, Arguments, Call, PerCall

MAX_PARAMETERS = 1000

_KEY = re.compile(r"[!-~]{1,255}")
_AS_QUOTED_PRINTABLE = bytes.maketrans(b"%", b"=")

Authenticate = Callable[[Credentials], Account]
"""Finds the account of a key and a secret, or raises 4004, 4005 or 4007."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a call may name: the formats and languages that are loaded, and the default models by method.

    `enforced_lang` is what a call gets that names no `lang`. `values` are those that each of the gateway's own
    parameters may have, where they are known.
    """

    result_types: Collection[str]
    languages: Collection[str]
    default_models: Mapping[str, str]
    enforced_lang: str | None = None
    values: Mapping[str, Collection[str]] = field(init=False)

    def __post_init__(self) -> None:
        values: dict[str, Collection[str]] = {
            "cache": ("yes", "no"),
            "cache_pace": ("yes", "no"),
            "result_type": self.result_types,
            "lang": self.languages,
            "lang_prompt": ("yes", "no"),
            "version": ("1", "2"),
            "_method": ("GET", "POST", "DELETE"),
        }
        object.__setattr__(self, "values", values)  # the dataclass is frozen


@dataclass(frozen=True, slots=True)
class Upload:
    """A request's body that is sent upstream as it arrives. `length` in bytes, or None where it is not known."""

    content_type: str
    length: int | None
    pieces: AsyncIterator[bytes]


class Reading(PerCall, frozen=True):
    """A call as a front read it: who says they call, the call, and an upload where it has one.

    With a `detour` the call is the one that goes upstream.
    """

    credentials: Credentials
    call: Call
    upload: Upload | None = None
    headers: str = ""  # header lines that go upstream as they are
    idempotency_key: str | None = None
    path: str = ""  # the method as the caller percent-encoded it; empty where that is the method itself
    detour: Detour | None = None


def credentials_come_first() -> GatewayError:
    """The refusal of a stranger's body that is too long to read before the account is known."""
    return GatewayError("4014", f"with a body over {SMALL_BODY_BYTES} bytes, key and secret must stand in the URL")


def idempotency_key(parameter: str | None, header: str | None) -> str | None:
    """The key that a caller names a call by, given either way; None where there is none. Raises 4003."""
    if parameter and header and parameter != header:
        raise GatewayError("4003", "idempotency_key and Idempotency-Key differ", param="idempotency_key")
    key = parameter or header
    if not key:
        return None
    if not _KEY.fullmatch(key):
        raise GatewayError(
            "4003", "an idempotency key has 1 to 255 printable ASCII characters and no spaces", param="idempotency_key"
        )
    return key


def yes_or_no(text: str | None) -> bool | None:
    """A switch that was checked already; None where it was not given."""
    return None if not text else text == "yes"


def split_pairs(raw: str) -> list[tuple[str, str]]:
    """The pairs of a query string or a form, still encoded; empty parts (`a=1&&b=2`) are passed over.

    Raises 4003 for more than MAX_PARAMETERS pairs.
    """
    parts = raw.split("&", MAX_PARAMETERS)
    if len(parts) > MAX_PARAMETERS:
        raise GatewayError("4003", f"more than {MAX_PARAMETERS} parameters")
    return [(name, value) for name, _, value in (part.partition("=") for part in parts if part)]


def decode(text: str) -> str:
    """Form decoding of one name or value: `+` is a space, `%XX` a byte of UTF-8. Bytes may also stand raw."""
    if "+" in text:
        text = text.replace("+", " ")
    if "%" not in text and text.isascii():
        return text
    try:
        # What was not ASCII in the request line came through as UTF-8 or as surrogate escapes.
        return unquoted(text.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError:
        raise GatewayError("4003", "a parameter is not valid UTF-8") from None


def unquoted(raw: bytes) -> bytes:
    """As urllib's unquote_to_bytes(), which takes some 0.1 µs for each escape: a prompt in a form is made of them.

    Quoted-printable differs by its sign, and the standard library decodes it in C. What that decoder has own rules
    for, line ends and signs without two digits, shows in the length or is looked for, and goes to urllib.
    """
    escapes = raw.count(b"%")
    if escapes and b"\n" not in raw and b"\r" not in raw:
        decoded = a2b_qp(raw.replace(b"=", b"=3D").translate(_AS_QUOTED_PRINTABLE))
        if len(decoded) == len(raw) - 2 * escapes:
            return decoded
    return unquote_to_bytes(raw)


def with_default_model(arguments: Arguments, method: str, defaults: Mapping[str, str]) -> Arguments:
    """Arguments with the operator's model for the method, where they name none."""
    if "model" in arguments.values or (model := defaults.get(method)) is None:
        return arguments
    return with_members(arguments, {"model": orjson.dumps(model)}, {"model": model})
