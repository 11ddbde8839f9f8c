"""The key of a kept answer: a keyed hash of everything that the upstream's answer may depend on.

Two requests have one key only if an upstream cannot tell them apart. An argument that nobody thought of is a part of
it, since all of them are; what only the gateway reads (format, language, envelope) is no part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from json import JSONDecoder

import msgspec

from gateway.formatting import uncollected
from gateway.types import Arguments, Call

KEY_BYTES = 32

DELIVERY = frozenset({"stream", "stream_options"})
"""Arguments that change how an answer is delivered and not what it says: left out, a streamed and a whole answer of
one request have one key."""

_PERSON = b"gateway cache"
_MOST_ZEROS = 400  # appended to an integer written with an exponent: no double, and so no argument, has more than 309
_MOST_POWER_DIGITS = 9
_ENCODE = msgspec.json.Encoder(order="deterministic").encode
_NEGATIVE_ZERO = re.compile(rb"-0[\s,}\]]")  # also finds some in strings, which does no harm


def cache_key(
    secret: bytes,
    scope: str,
    upstream: str,
    call: Call,
    *,
    headers: Iterable[tuple[str, str]] = (),
    content: bytes = b"",
    without: frozenset[str] = frozenset(),
) -> bytes:
    """A keyed BLAKE2b of KEY_BYTES over a call as its upstream sees it. `secret` is a key of at most 64 bytes.

    `scope` says who shares the answer: `account:ID` or `group:NAME`. `headers` are those of the client that are passed
    on, in their order. `content` is a digest of what an upload holds: its fields and files. `without` names arguments
    that are left out (DELIVERY); keys that leave out different ones are never equal.
    """
    named = [part for name, value in headers for part in (name.lower(), value)]
    texts = (scope, upstream, call.method, call.verb, call.query, str(len(named)), *named, ",".join(sorted(without)))
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    parts += (content, canonical(call.arguments, without))
    encoding = b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return blake2b(encoding, key=secret, digest_size=KEY_BYTES, person=_PERSON).digest()


def form_key(secret: bytes, key: bytes, form: str) -> bytes:
    """The key of one form of an answer, by the key of the request."""
    return blake2b(key + form.encode(), key=secret, digest_size=KEY_BYTES, person=_PERSON).digest()


def canonical(arguments: Arguments, without: frozenset[str] = frozenset()) -> bytes:
    """The arguments as a JSON text that is the same for equal ones, however they are written, and for no others.

    Members are sorted by name, and no white space is left. Numbers are written by their value, to the last digit that
    the client wrote: what the parsed values have lost may still be seen by the upstream. Zero and minus zero differ.
    """
    text = arguments.text
    decode = _decode_zeros if b"-0" in text and _NEGATIVE_ZERO.search(text) else _DECODE
    values = uncollected(decode, text)
    for name in without:
        values.pop(name, None)
    return _ENCODE(values)


def _number(text: str) -> msgspec.Raw:
    """A number as JSON text of exactly the same value (whence no two values share one), in one way for each value.

    Only an exponent of a length that no value needs stays as it is.
    """
    mantissa, _, power = text.lower().partition("e")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    sign = "-" if mantissa[0] == "-" else ""
    all_digits = (whole + fraction).lstrip("0")
    if not all_digits:
        return msgspec.Raw(f"{sign}0.0" if sign else "0")
    if len(power) > _MOST_POWER_DIGITS:
        return msgspec.Raw(text)
    digits = all_digits.rstrip("0")
    exponent = int(power or 0) - len(fraction) + len(all_digits) - len(digits)
    if 0 <= exponent <= _MOST_ZEROS:
        return msgspec.Raw(f"{sign}{digits}{'0' * exponent}")
    return msgspec.Raw(f"{sign}{digits}e{exponent}")


_DECODE = msgspec.json.Decoder(dict[str, object], float_hook=_number).decode
_SLOW_DECODE = JSONDecoder(parse_float=_number, parse_int=_number).decode


def _decode_zeros(text: bytes) -> dict[str, object]:
    """As `_DECODE`, at a third of its speed, where an integer may be minus zero, of which msgspec loses the sign."""
    values: dict[str, object] = _SLOW_DECODE(text.decode())
    return values
