"""How calls go upstream that do not go as they were called: under another model's name, to another upstream, or as
chats where the interface that was called no longer exists.

Pure: a call in, a call out. Knows the operator's table and no connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from typing import Final

import orjson
from msgspec.structs import replace

from gateway.arguments import with_members, without_members
from gateway.chat_arguments import ANSWERED_BY_CHAT, CHAT, chats_of
from gateway.config import AliasSettings, Settings
from gateway.methods import is_relayed
from gateway.reshaping import Shape
from gateway.types import Arguments, Call, PerCall

_MAX_KNOWN: Final = 4_096  # results of look-ups that are remembered; callers choose models' names
_MAX_NAME_CHARS: Final = 256


class Detour(PerCall, frozen=True):
    """How a call goes upstream.

    `called` is the call as its caller made it, but for the name of its model, which is the one that goes upstream;
    `sent` what the upstream is asked. `upstream` is one by name; empty: the first. With a `shape` the answer is given
    that. `each` are the arguments of several chats that answer together, empty where it is one; what they use together,
    `sent` would use alone. `choices` are the answers of each.
    """

    called: Call
    sent: Call
    upstream: str = ""
    shape: Shape | None = None
    each: tuple[Arguments, ...] = ()
    choices: int = 1


@dataclass(frozen=True, slots=True)
class Alias:
    """A row of the table. `upstream` empty: the first."""

    takes_model: Callable[[str], object]
    takes_method: Callable[[str], object]
    to: str
    upstream: str


class Detours:
    """The operator's table of models, and the methods that chats answer. False where there is neither."""

    def __init__(self, settings: Settings) -> None:
        first = settings.upstream[0].name if settings.upstream else ""
        self._aliases = [_alias(row, first) for row in settings.alias]
        globs = settings.methods.through_chat
        self._through_chat = {name for name in ANSWERED_BY_CHAT if any(fnmatchcase(name, glob) for glob in globs)}
        self._default_model = settings.defaults.model.get(CHAT)
        self._known: dict[tuple[str, str], Alias | None] = {}

    def __bool__(self) -> bool:
        return bool(self._aliases or self._through_chat)

    def of(self, call: Call) -> Detour | None:
        """How a call without files goes upstream; None where it goes as it is. Raises 4003 as `chats_of`."""
        if call.verb != "POST" or not call.arguments.values or not is_relayed(call.method):
            return None
        through_chat = call.method in self._through_chat
        if through_chat and self._default_model is not None and "model" not in call.arguments.values:
            call = replace(call, arguments=_with_model(call.arguments, self._default_model))
        model = call.arguments.model
        alias = self._find(call.method, model) if model is not None and self._aliases else None
        if alias is None and not through_chat:
            return None
        upstream = alias.upstream if alias is not None else ""
        if alias is not None and alias.to and alias.to != model:
            call = replace(call, arguments=_with_model(call.arguments, alias.to))
        return _through_chat(call, upstream) if through_chat else Detour(call, call, upstream)

    def _find(self, method: str, model: str) -> Alias | None:
        """The first row that takes this model of this method."""
        key = (method, model)
        try:
            return self._known[key]
        except KeyError:
            pass
        rows = (row for row in self._aliases if row.takes_method(method) and row.takes_model(model))
        alias = next(rows, None)
        if len(method) + len(model) <= _MAX_NAME_CHARS:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = alias
        return alias


def routed_names(settings: Settings) -> set[str]:
    """The upstreams other than the first that calls may be routed to."""
    first = {upstream.name for upstream in settings.upstream[:1]}
    return {row.upstream for row in settings.alias if row.upstream} - first


def _alias(row: AliasSettings, first: str) -> Alias:
    return Alias(
        re.compile(translate(row.model)).match,
        re.compile(translate(row.method)).match,
        row.to,
        "" if row.upstream == first else row.upstream,
    )


def _through_chat(call: Call, upstream: str) -> Detour:
    chats = chats_of(call.method, call.arguments)
    shape = Shape(call.method, f"cmpl-{call.request_id}", chats.prompts, chats.choices)
    sent = replace(call, method=CHAT, arguments=chats.together)
    each = chats.each if len(chats.each) > 1 else ()
    return Detour(call, sent, upstream, shape, each, chats.choices)


def _with_model(arguments: Arguments, model: str) -> Arguments:
    rest = without_members(arguments, frozenset({"model"}))
    return with_members(rest, {"model": orjson.dumps(model)}, {"model": model})
