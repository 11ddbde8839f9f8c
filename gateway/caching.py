"""The cache's stage of the road: which calls it takes part in, what answers them, and what is kept of an answer.

What is kept is what the upstream said, before language and format: one entry serves them all. Knows no client.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final

import orjson

from gateway.assembly import assembled
from gateway.cache_key import DELIVERY, cache_key
from gateway.cache_store import Entry, MemoryCache, packed_chunks
from gateway.config import CacheSettings
from gateway.methods import matches_any
from gateway.slicing import sliced
from gateway.store.sqlite_cache import DiskCache
from gateway.types import Account, Call, JsonValue, PerCall
from gateway.upstream.connection import UpstreamConnection, recorded
from gateway.upstream.head import UNTIL_CLOSE
from gateway.upstream.pool import Pool
from gateway.upstream.sharing import Flight, Shared, Source, alone, paced

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
_WITH_USAGE: Final = frozenset({"v1/chat/completions", "v1/completions"})
_DONE: Final = b"data: [DONE]"


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
        name, _, value = directive.strip().partition("=")
        if name == "no-store":
            return None
        if name == "no-cache":
            may_answer = False
        if name == "max-age" and value.strip('"').isdigit():
            max_age_s = float(value.strip('"')[:12])
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

    def takes_upload(self, call: Call, wish: Wish | None) -> bool:
        """Whether an upload is worth looking at before it goes upstream: its answer may be kept."""
        return wish is not None and bool(self.memory.max_bytes) and self._life_s(call.method) > 0

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
    ) -> Plan | None:
        """The cache's part in a call to the `upstream` of that name; None where it has none.

        `with_usage`: a stream is asked for its usage. `content` is what tells the call apart beside its arguments: an
        upload's digest, say.
        """
        if wish is None or not self.memory.max_bytes or not (life_s := self._life_s(call.method)):
            return None
        values = call.arguments.values
        options = values.get("stream_options")
        asks_more = isinstance(options, dict) and bool(options.keys() - {"include_usage"})
        scope = self._scope(account)
        passed = [("headers", headers)] if headers else []

        def key(form: str) -> bytes:
            return cache_key(
                self.secret,
                scope,
                upstream,
                call,
                headers=passed,
                content=form.encode() + content,
                without=DELIVERY,
            )

        whole = key("whole")
        others: list[tuple[str, bytes]] = []
        if not call.stream:
            own = whole
            if call.method in _WITH_USAGE and options is None:
                others.append(("stream", key("stream with usage")))
        else:
            form = "stream with usage" if with_usage else "stream"
            if asks_more or (options is not None and not isinstance(options, dict)):
                form += orjson.dumps(options, option=orjson.OPT_SORT_KEYS).decode()
            elif call.method in _WITH_USAGE:
                others.append(("whole", whole))
            own = key(form)
        return Plan(
            own, tuple(others), wish, life_s, account.id, call.method, call.arguments.model, call.stream, with_usage
        )

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
        framing = f"Content-Length: {len(entry.body)}\r\n"
        head = f"HTTP/1.1 {entry.status} Kept\r\nContent-Type: {entry.content_type}\r\n{entry.fields}{framing}\r\n"
        return recorded(self.pool, head.encode("latin-1") + entry.body)

    def shared(self, plan: Plan, source: Source) -> tuple[UpstreamConnection, bool]:
        """A connection for the call's answer, and whether it is another's call that answers: one that is under way."""
        flight = self.flights.get(plan.key) if self.settings.share else None
        joins = flight is not None and flight.is_open and plan.wish.may_answer
        if flight is None or not joins:
            flight = Flight(
                self.pool,
                source,
                self._max_kept_bytes,
                lambda shared: self._keep(plan, shared),
                lambda ended: self._forget(plan.key, ended),
            )
            self.flights[plan.key] = flight
        return flight.join(), joins

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

    def _life_s(self, method: str) -> float:
        for lives in (self.settings.life, LIVES_S):
            for glob, life_s in lives.items():
                if matches_any(method, (glob,)):
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
            if entry is not None:
                self.memory.put(key, entry)
        elif entry is not None and self.disk is not None:
            self.disk.touch(key, now)
        return entry

    @staticmethod
    def _kept(entry: Entry, made_of: str = "") -> Kept:
        return Kept(entry, max(0.0, time.time() - entry.stored_at), made_of)

    def _keep(self, plan: Plan, shared: Shared) -> None:
        """Keeps an answer that came to its end, if it is one to keep."""
        head = shared.head
        if head is None or head.status != 200 or head.is_compressed or not plan.wish.may_keep:
            return
        body = shared.body if shared.body is not None else b"".join(shared.pieces)
        media_type = head.media_type.decode("latin-1")
        if shared.body is None and head.length == UNTIL_CLOSE and _DONE not in body[-64:]:
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
        if self.memory.put(plan.key, entry) and self.disk is not None:
            self.disk.put(plan.key, entry)

    def _is_harmless(self, body: bytes) -> bool:
        """Whether an answer calls no tool, which would be called again."""
        return self.settings.tool_calls or not (b'"tool_calls"' in body or b'"function_call"' in body)


def _is_whole(method: str, body: bytes, *, streamed: bool) -> bool:
    """Whether an answer is complete and a success. `"error"` with its quotes is a name, or nearly always."""
    if b'"error"' in body:
        return False
    if not streamed:
        return _is_object(body)
    return method not in _WITH_USAGE or _DONE in body[-64:]


def _is_object(body: bytes) -> bool:
    try:
        value: JsonValue = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict)


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
