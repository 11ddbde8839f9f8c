"""The cache's stage of the road: which calls it takes part in, what answers them, and what is kept of an answer.

What is kept is what the upstream said, before language and format: one entry serves them all. Knows no client.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import Final

from gateway.assembly import assembled
from gateway.cache_key import DELIVERY, cache_key, form_key
from gateway.cache_store import Entry, MemoryCache, Selection, packed_chunks
from gateway.config import CacheSettings
from gateway.formatting import NotJson, check_json
from gateway.methods import matches_any
from gateway.slicing import sliced
from gateway.store.sqlite_cache import DiskCache
from gateway.types import Account, Call, JsonValue, PerCall, RenderingRefused
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.head import UNTIL_CLOSE, ResponseHead, parse_head
from gateway.upstream.pool import Pool
from gateway.upstream.sharing import Flight, Shared, Source, alone, paced, sliced_body

DAY_S: Final = 86_400.0
LIVES_S: Final[Mapping[str, float]] = {
    "v1/chat/completions": DAY_S,
    "v1/completions": DAY_S,
    "v1/edits": DAY_S,
    "v1/embeddings": 7 * DAY_S,
    "v1/moderations": DAY_S,
    "v1/audio/transcriptions": DAY_S,
    "v1/audio/translations": DAY_S,
    "v1/models": 60.0,
    "v1/models/*": 60.0,
}
"""How long answers live by method (globs), unless the operator says otherwise."""

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
_READ: Final = ("v1/models", "v1/models/*")
_WITH_USAGE: Final = frozenset({"v1/chat/completions", "v1/completions"})
_DONE = re.compile(rb"(?:[\r\n]|\A)data:[ \t]*\[DONE\][ \t]*[\r\n]*\Z")
_ERROR = re.compile(rb'"error"[ \t\r\n]*+:[ \t\r\n]*+(?!null)')
_TOOL_CALL = re.compile(rb'"tool_calls"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*\{|"function_call"[ \t\r\n]*:[ \t\r\n]*\{')
_OPENING_S: Final = 2.0
_CLEARINGS_S: Final = 7_200.0  # longer than any call takes
_SLICED_BYTES: Final = 262_144


class Wish(PerCall, frozen=True):
    """What a client says of the cache: whether it may answer, may keep, and how old an answer may be."""

    may_answer: bool = True
    may_keep: bool = True
    max_age_s: float = inf


class Plan(PerCall, frozen=True):
    """The cache's part in one call: the keys under which its answer may be kept, its own first."""

    key: bytes
    others: tuple[tuple[str, bytes], ...]  # what it could be made of: "stream" or "whole", and its key
    wish: Wish
    life_s: float
    account_id: int
    method: str
    model: str | None
    streamed: bool
    with_usage: bool


class Kept(PerCall, frozen=True):
    """An entry that answers a call. `made_of`: what it was made of where it was kept in another form."""

    entry: Entry
    age_s: float
    made_of: str = ""


def wish_of(wanted: bool, control: str | None) -> Wish | None:
    """What a call may have of the cache; None: nothing.

    `control` is the client's Cache-Control (RFC 9111, section 5.2.1): no-store, no-cache and max-age count.
    """
    if not wanted:
        return None
    if not control:
        return Wish()
    may_answer, max_age_s = True, inf
    for directive in control.lower().split(","):
        name, _, value = (part.strip(' \t"') for part in directive.partition("="))
        if name == "no-store":
            return None
        if name == "no-cache":
            may_answer = False
        if name == "max-age":  # one that cannot be read means that nothing is fresh
            max_age_s = float(value[:12]) if value.isascii() and value.isdigit() else 0.0
    return Wish(may_answer and max_age_s > 0, max_age_s=max_age_s)


@dataclass(slots=True)
class Cache:
    """Answers that are kept, and calls that are shared while they are under way. `secret` keys both."""

    settings: CacheSettings
    secret: bytes
    pool: Pool
    memory: MemoryCache
    disk: DiskCache | None = None
    flights: dict[bytes, Flight] = field(default_factory=dict)
    clearings: list[tuple[Selection, float]] = field(default_factory=list)

    def takes_upload(self, call: Call, wish: Wish | None) -> bool:
        """Whether an upload is worth looking at before it goes upstream: its answer may be kept."""
        return wish is not None and bool(self.memory.max_bytes) and self._life_s(call) > 0

    def plan(
        self,
        call: Call,
        account: Account,
        wish: Wish | None,
        headers: str,
        upstream: str,
        *,
        with_usage: bool,
        content: bytes = b"",
        path: str = "",
    ) -> Plan | None:
        """The cache's part in a call to the `upstream` of that name; None where it has none.

        `upstream` is the identity of the one that is asked. `with_usage`: a stream is asked for its usage. `content` is
        what tells the call apart beside its arguments: an upload's digest, say; `path` the method's name as the caller
        spelt it where that goes upstream.
        """
        if wish is None or not self.memory.max_bytes or not (life_s := self._life_s(call)):
            return None
        values = call.arguments.values
        options = values.get("stream_options")
        # What an upstream may read otherwise than we do is a part of the key, as it stands.
        is_plain = values.get("stream", False) in (True, False) and isinstance(values.get("stream", False), bool)
        if "stream_options" in values:
            is_plain = is_plain and call.stream and _is_plain_options(options)
        scope = self._scope(account)
        passed = [(name, text) for name, text in (("headers", headers), ("path", path)) if text]
        without = DELIVERY if is_plain else frozenset[str]()
        request = cache_key(self.secret, scope, upstream, call, headers=passed, content=content, without=without)
        whole = form_key(self.secret, request, "whole")
        own = whole
        others: tuple[tuple[str, bytes], ...] = ()
        if call.stream:
            own = form_key(self.secret, request, "stream with usage" if with_usage else "stream")
        if is_plain and call.method in _WITH_USAGE:
            other = ("whole", whole)
            if not call.stream:
                other = ("stream", form_key(self.secret, request, "stream with usage"))
            others = (other,)
        return Plan(own, others, wish, life_s, account.id, call.method, call.arguments.model, call.stream, with_usage)

    async def find(self, plan: Plan) -> Kept | None:
        """What is kept and answers the call, in its own form or made of the other."""
        if not plan.wish.may_answer:
            return None
        entry = await self._get(plan.key, plan)
        if entry is not None:
            return self._kept(entry)
        for form, key in plan.others:
            other = await self._get(key, plan)
            if other is not None and (made := _remade(other, plan)) is not None:
                return self._kept(made, form)
        return None

    def replay(self, kept: Kept, *, at_its_pace: bool) -> UpstreamConnection:
        """A connection on which what is kept has just come, or comes as it came once."""
        entry = kept.entry
        if at_its_pace and entry.chunks:
            source = paced(f"Content-Type: {entry.content_type}\r\n".encode("latin-1"), entry.pieces())
            return alone(self.pool, source, len(entry.body) + 1)
        if entry.streamed and len(entry.body) > _SLICED_BYTES:  # no more of it at once than its reader takes
            return alone(
                self.pool, sliced_body(f"Content-Type: {entry.content_type}\r\n".encode("latin-1"), entry.body)
            )
        link = UpstreamConnection(self.pool)
        link.take_whole(_head_of(entry.status, entry.content_type), entry.body)
        return link

    def shared(self, plan: Plan, source: Source) -> tuple[UpstreamConnection, bool]:
        """A connection for the call's answer, and whether it is another's call that answers: one that is under way."""
        asked_at = time.time()
        flight = self.flights.get(plan.key) if self.settings.share else None
        joins = flight is not None and flight.is_open and plan.wish.may_answer
        if flight is None or not joins:
            flight = Flight(
                self.pool,
                source,
                self._max_kept_bytes,
                lambda shared: self._keep(plan, shared, asked_at),
                lambda ended: self._forget(plan.key, ended),
            )
            self.flights[plan.key] = flight
        return flight.join(), joins

    async def open(self) -> None:
        """Waits a moment for the file, so that the first calls find what is in it."""
        if self.disk is not None:
            await asyncio.to_thread(self.disk.flush, _OPENING_S)
            await self.disk.get(b"", time.time())

    def close(self) -> None:
        """Ends what is under way, and closes the file."""
        for flight in list(self.flights.values()):
            flight.cancel()
        if self.disk is not None:
            self.disk.close()

    @property
    def _max_kept_bytes(self) -> int:
        return self.memory.max_bytes // 10

    def _forget(self, key: bytes, flight: Flight) -> None:
        if self.flights.get(key) is flight:
            del self.flights[key]

    def _life_s(self, call: Call) -> float:
        """How long an answer lives. Only what is asked for has one: never what is deleted, stored or changed."""
        if call.verb != ("GET" if matches_any(call.method, _READ) else "POST") or call.arguments.values.get("store"):
            return 0.0
        for lives in (self.settings.life, LIVES_S):
            for glob, life_s in lives.items():
                if matches_any(call.method, (glob,)):
                    return life_s
        return 0.0

    def _scope(self, account: Account) -> str:
        for name, members in self.settings.groups.items():
            if account.name in members:
                return f"group:{name}"
        return f"account:{account.id}"

    async def _get(self, key: bytes, plan: Plan) -> Entry | None:
        now = time.time()
        entry = self.memory.get(key, now, plan.wish.max_age_s)
        if entry is None and self.disk is not None:
            entry = await self.disk.get(key, now, plan.wish.max_age_s)
            if entry is not None and self._is_cleared(entry, entry.stored_at):
                entry = None
            elif entry is not None:
                self.memory.put(key, entry)
        elif entry is not None and self.disk is not None:
            self.disk.touch(key, now)
        return entry

    def cleared(self, selection: Selection, at: float) -> None:
        """An operator wants entries forgotten that were asked for before `at`; calls under way among them."""
        self.memory.clear(selection, until=at)
        self.clearings = [(each, moment) for each, moment in self.clearings if moment > at - _CLEARINGS_S]
        self.clearings.append((selection, at))
        for flight in self.flights.values():
            flight.is_open = False

    def _is_cleared(self, entry: Entry, asked_at: float) -> bool:
        return any(asked_at <= at and selection.covers(entry) for selection, at in self.clearings)

    @staticmethod
    def _kept(entry: Entry, made_of: str = "") -> Kept:
        return Kept(entry, max(0.0, time.time() - entry.stored_at), made_of)

    def _keep(self, plan: Plan, shared: Shared, asked_at: float) -> None:
        """Keeps an answer that came to its end, if it is one to keep."""
        head = shared.head
        if head is None or head.status != 200 or head.is_compressed or not plan.wish.may_keep:
            return
        if plan.streamed != (shared.body is None):  # the upstream reads the arguments otherwise than we do
            return
        body = shared.body if shared.body is not None else b"".join(shared.pieces)
        media_type = head.media_type.decode("latin-1")
        if shared.body is None and head.length == UNTIL_CLOSE and not _ends_with_done(body):
            return
        if media_type not in ({EVENTS} if shared.body is None else {JSON, ""}):
            return
        if not _is_whole(plan.method, body, streamed=shared.body is None) or not self._is_harmless(body):
            return
        now = time.time()
        ends, end = [], 0
        for at_s, piece in zip(shared.at_s, shared.pieces, strict=True):
            end += len(piece)
            ends.append((at_s, end))
        entry = Entry(
            status=200,
            content_type=head.content_type.decode("latin-1"),
            fields="",
            body=body,
            stored_at=now,
            expires_at=now + plan.life_s,
            account_id=plan.account_id,
            method=plan.method,
            model=plan.model,
            streamed=shared.body is None,
            chunks=packed_chunks(ends),
        )
        if self._is_cleared(entry, asked_at):
            return
        if self.memory.put(plan.key, entry) and self.disk is not None:
            self.disk.put(plan.key, entry)

    def _is_harmless(self, body: bytes) -> bool:
        """Whether an answer calls no tool, which would be called again."""
        return self.settings.tool_calls or _TOOL_CALL.search(body) is None


def _is_plain_options(options: JsonValue) -> bool:
    """Whether a stream's options ask for its usage, or do not, and for nothing else."""
    return (
        isinstance(options, dict)
        and not options.keys() - {"include_usage"}
        and all(isinstance(value, bool) for value in options.values())
    )


def _is_whole(method: str, body: bytes, *, streamed: bool) -> bool:
    """Whether an answer is complete and a success. In a text these names' quotes would be escaped."""
    if _ERROR.search(body) is not None:
        return False
    if not streamed:
        return _is_object(body)
    return method not in _WITH_USAGE or _ends_with_done(body)


def _ends_with_done(body: bytes) -> bool:
    """Whether the last event is the end that chats and completions have."""
    return _DONE.search(body, max(0, len(body) - 80)) is not None and body[-80:].rfind(b"data:") >= 0


def _is_object(body: bytes) -> bool:
    try:
        check_json(body)
    except (NotJson, RenderingRefused):
        return False
    return body.lstrip(b" \t\r\n").startswith(b"{")


@lru_cache(maxsize=64)
def _head_of(status: int, content_type: str) -> ResponseHead:
    """A head that says no more than that, and that the body's end will be told."""
    fields = f"Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n"
    return parse_head(f"HTTP/1.1 {status} Kept\r\n{fields}\r\n".encode("latin-1"))


def _remade(entry: Entry, plan: Plan) -> Entry | None:
    """A whole answer of a recorded stream, or a stream of a whole answer; None where it cannot be told faithfully."""
    if plan.streamed:
        body, content_type = sliced(plan.method, entry.body, include_usage=plan.with_usage), EVENTS
    else:
        body, content_type = assembled(plan.method, entry.body), JSON
    if body is None:
        return None
    return Entry(
        status=200,
        content_type=content_type,
        fields="",
        body=body,
        stored_at=entry.stored_at,
        expires_at=entry.expires_at,
        account_id=entry.account_id,
        method=entry.method,
        model=entry.model,
        streamed=plan.streamed,
    )
