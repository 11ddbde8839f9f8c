"""What the gateway knows of each interface: its arguments, what it takes, and how a method's name is checked.

An interface that is not listed here is passed through as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import unquote_to_bytes

from gateway.errors import GatewayError
from gateway.types import JsonValue

MAX_METHOD_CHARS = 512

_NAME = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*")


@dataclass(frozen=True, slots=True)
class Method:
    """One interface. `pattern` is its name, `{id}` standing for one segment of it.

    `required` names the arguments without which the interface cannot work. `takes_arguments` is False where the
    interface is read with GET even if arguments are given; then they join the query. `file` names the part that
    makes a call an upload.
    """

    pattern: str
    required: tuple[str, ...] = ()
    takes_arguments: bool = True
    file: str | None = None
    binary: bool = False  # the answer is a file, whatever its Content-Type


_METHODS = (
    Method("v1/chat/completions", ("messages",)),
    Method("v1/completions", ("prompt",)),
    Method("v1/edits", ("instruction",)),
    Method("v1/images/generations", ("prompt",)),
    Method("v1/images/edits", ("prompt",), file="image"),
    Method("v1/images/variations", file="image"),
    Method("v1/embeddings", ("input",)),
    Method("v1/audio/transcriptions", file="file"),
    Method("v1/audio/translations", file="file"),
    Method("v1/audio/speech", ("input",)),
    Method("v1/moderations", ("input",)),
    Method("v1/responses"),
    Method("v1/models", takes_arguments=False),
    Method("v1/models/{id}", takes_arguments=False),
    Method("v1/files", takes_arguments=False, file="file"),
    Method("v1/files/{id}", takes_arguments=False),
    Method("v1/files/{id}/content", takes_arguments=False, binary=True),
)

_EXACT = {method.pattern: method for method in _METHODS if "{id}" not in method.pattern}
_WITH_ID = tuple(
    (re.compile(method.pattern.replace("{id}", "[^/]+")), method) for method in _METHODS if "{id}" in method.pattern
)
# A model's id may hold slashes (`v1/models/org/name`), a file's may not.
_MODEL = re.compile(r"v1/models/.+")

TEXT_ARGUMENTS = frozenset({
    "after", "background", "before", "encoding_format", "imgid", "input", "instruction", "instructions", "language",
    "model", "moderation", "name", "notify", "order", "output_format", "pageToken", "previous_response_id", "prompt",
    "prompt_cache_key", "purpose", "quality", "reasoning_effort", "safety_identifier", "service_tier", "size",
    "style", "suffix", "user", "voice",
})  # fmt: skip
"""Arguments that OpenAI, or a method of ours, types as strings: given flat they stay text, whatever they look like."""

TEXT_OR_LIST_ARGUMENTS = frozenset({"stop"})
"""Arguments that are a string or a list of strings: only a list is read as JSON."""


def known_method(name: str) -> Method | None:
    """The interface of this name, or None for one that is passed through unseen."""
    method = _EXACT.get(name)
    if method is not None:
        return method
    for pattern, candidate in _WITH_ID:
        if pattern.fullmatch(name):
            return candidate
    return _EXACT["v1/models"] if _MODEL.fullmatch(name) else None


def is_relayed(name: str) -> bool:
    """Whether the name is the upstream's to answer."""
    return name.startswith("v1/")


def is_counted(name: str) -> bool:
    """Whether calls of the method count against quotas. What an account is told of itself and its jobs is free."""
    return not name.startswith("account/") and name != "images/get"


def is_given_to_all(name: str) -> bool:
    """Whether every account has the method: one can always see what it has, whatever else it may call."""
    return not is_counted(name)


def check_name(name: str) -> str:
    """Returns a method's name without a slash at either end; raises 4003 for what is a path to somewhere else."""
    name = name.removeprefix("/").removesuffix("/")
    if name in _EXACT:
        return name
    if len(name) > MAX_METHOD_CHARS:
        raise GatewayError("4003", f"method is longer than {MAX_METHOD_CHARS} characters", param="method")
    if not _NAME.fullmatch(name) or any(segment in {".", ".."} for segment in name.split("/")) or "://" in name:
        raise GatewayError(
            "4003", "method is not an interface name like v1/chat/completions; '..', '//' and '%' are not allowed",
            param="method",
        )  # fmt: skip
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name):
        raise GatewayError("4003", "method must not name a scheme or a host", param="method")
    return name


def name_from_path(raw_path: str) -> str:
    """The method's name in a path of the native front, percent-decoded once; raises 4003 for what is not a name."""
    if "%" in raw_path:
        try:
            raw_path = unquote_to_bytes(raw_path).decode("ascii")
        except UnicodeDecodeError:
            raise GatewayError("4003", "the path holds characters that no method has", param="method") from None
    return check_name(raw_path)


def check_required(method: Method | None, values: Mapping[str, JsonValue]) -> None:
    """Raises 4014 when an argument that the method needs is missing."""
    if method is None:
        return
    missing = [name for name in method.required if name not in values]
    if missing:
        raise GatewayError("4014", f"{method.pattern} needs the argument {' and '.join(missing)}", param=missing[0])


def matches_any(name: str, globs: Iterable[str]) -> bool:
    """Whether one of the operator's globs covers the method."""
    return any(fnmatchcase(name, glob) for glob in globs)
