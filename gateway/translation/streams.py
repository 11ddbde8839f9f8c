"""A stream in another language, a sentence at a time, as it runs.

It begins exact: events are held until the sentence that they belong to proves to be in the language already, and go on
byte for byte. With the first sentence that is not, the stream is made anew: its sentences become events of their own,
each as soon as it is translated and every one before it of the same choice has gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

import orjson

from gateway.hookspecs import TranslatorSpec
from gateway.progress import Translating
from gateway.sse import Event
from gateway.translation.answers import ALREADY, FAILED, PARTIAL, STREAMING, TRANSLATED
from gateway.translation.pieces import Judge, spaced, translate_pieces
from gateway.translation.prose import Protected, protect
from gateway.translation.sentences import Segment, SentenceSplitter
from gateway.translation.shapes import (
    Delta,
    Members,
    Template,
    choices_of,
    deltas_of,
    ended_lanes,
    repeats_of,
    says_more,
    without_text,
)
from gateway.types import TranslationContext

MAX_UNDER_WAY: Final = 8
"""So many requests of one stream are at the engine at once; sentences that wait meanwhile share the next one."""

_MAX_SLOTS: Final = 64
_MAX_HELD_BYTES: Final = 1_048_576
_MAX_LANES: Final = 256
_DONE: Final = b"[DONE]"
_FAILED_MARK: Final = Event((b": translate_status=failed",), None, b": translate_status=failed\n\n")

Events: TypeAlias = AsyncGenerator[Event, None]


@dataclass(slots=True)
class _Lane:
    """The text of one choice. `segmented` and `released` count its characters: those in whole segments, and those
    that went on as they came. `passing`: the segment that runs is in the language for certain.
    """

    splitter: SentenceSplitter
    judge: Judge
    segmented: int = 0
    released: int = 0
    before: str = ""  # the segment that was completed last
    passing: bool = False
    undecided_from: int | None = None  # the first event of the segment that runs
    has_role: bool = False
    last: tuple[Event, Members, Delta] | None = None  # its latest event with text, for the shape of others
    said: list[str] | None = None  # what went out, where an event will repeat it


@dataclass(frozen=True, slots=True)
class _Decided:
    """A whole segment: where it starts among its lane's characters, and what of it is to be translated."""

    start: int
    text: str
    piece: Protected | None


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of text in an event, where it ends, and the segments that it completed. `delta` None: the lane's end."""

    lane: _Lane
    delta: Delta | None
    end: int
    decided: list[_Decided]


@dataclass(frozen=True, slots=True)
class _Seen:
    """An event of the upstream's. `value` None: it is passed on as it came."""

    number: int
    event: Event
    value: Members | None
    parts: list[_Part]


@dataclass(slots=True)
class _Slot:
    """A place in what goes out. `key` None: everything before it goes first. `events` None: still being translated."""

    key: Hashable
    events: list[Event] | None
    lane: _Lane | None = None
    text: str = ""  # of the lane, when it has gone
    template: tuple[Event, Template] | None = None
    piece: Protected | None = None
    repeats: tuple[Event, Members] | None = None  # an event that says again what its lanes said
    size: int = field(default=0)


class StreamTranslation:
    """Translates one stream; `events` is to be called once."""

    def __init__(
        self,
        translator: TranslatorSpec,
        context: TranslationContext,
        notes: Translating,
        *,
        deadline_s: float,
        max_sentence_chars: int,
    ) -> None:
        self._translator = translator
        self._context = context
        self._notes = notes
        self._deadline_s = deadline_s
        self._max_sentence_chars = max_sentence_chars
        self._lanes: dict[Hashable, _Lane] = {}
        self._exact = True
        self._number = 0
        self._held: deque[_Seen] = deque()
        self._held_bytes = 0
        self._slots: deque[_Slot] = deque()
        self._slot_bytes = 0
        self._waiting: deque[_Slot] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._outcomes: set[bool] = set()  # of translations

    async def events(self, source: Events) -> Events:
        """The stream's events. What breaks the source off is raised when all that came before it has gone.

        Must run in a task of its own; closing it cancels whatever is under way.
        """
        reader = asyncio.create_task(self._read(source))
        try:
            while True:
                for event in self._ready():
                    yield event
                if reader.done() and not self._slots:
                    self._notes.status = self._notes.status or ALREADY
                    reader.result()
                    return
                await self._changed.wait()
                self._changed.clear()
        finally:
            tasks = [reader, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # the upstream's side

    async def _read(self, source: Events) -> None:
        try:
            async with aclosing(source):
                async for event in source:
                    while len(self._slots) >= _MAX_SLOTS or self._slot_bytes >= _MAX_HELD_BYTES:
                        self._taken.clear()
                        await self._taken.wait()
                    self._take(event)
                    self._changed.set()
        except asyncio.CancelledError:
            raise
        except Exception:
            self._finish()
            raise
        else:
            self._finish()
        finally:
            self._changed.set()

    def _take(self, event: Event) -> None:
        seen = self._see(event)
        if not self._exact:
            self._place(seen)
            return
        self._held.append(seen)
        self._held_bytes += len(event.exact)
        if self._held_bytes > _MAX_HELD_BYTES or any(
            decided.piece is not None for part in seen.parts for decided in part.decided
        ):
            self._begin_translating()
            return
        self._look_ahead(seen)
        self._release()

    def _see(self, event: Event) -> _Seen:
        """Reads an event, and takes its text in."""
        self._number += 1
        if event.data is None or event.data == _DONE:
            parts = [self._end(lane) for lane in self._lanes.values()] if event.data == _DONE else []
            return _Seen(self._number, event, None, parts)
        try:
            value = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            return _Seen(self._number, event, None, [])
        parts = [self._end(lane) for lane in self._lanes.values()] if value.get("error") else []
        for delta in deltas_of(value):
            lane = self._lane(delta.lane)
            if lane is not None:
                decided = self._decide(lane, lane.splitter.feed(delta.text))
                parts.append(_Part(lane, delta, self._reach(lane), decided))
        parts += [self._end(self._lanes[key]) for key in ended_lanes(value) if key in self._lanes]
        return _Seen(self._number, event, value, parts)

    def _lane(self, key: Hashable) -> _Lane | None:
        lane = self._lanes.get(key)
        if lane is None and len(self._lanes) < _MAX_LANES:
            splitter = SentenceSplitter(self._max_sentence_chars)
            lane = self._lanes[key] = _Lane(splitter, Judge(self._translator))
            if isinstance(key, tuple) and key[0] == "item":
                lane.said = []
        return lane

    def _end(self, lane: _Lane) -> _Part:
        decided = self._decide(lane, lane.splitter.finish())
        return _Part(lane, None, self._reach(lane), decided)

    def _reach(self, lane: _Lane) -> int:
        return lane.segmented + len(lane.splitter.pending)

    def _decide(self, lane: _Lane, segments: list[Segment]) -> list[_Decided]:
        """Whether these whole segments, the first of which may have been running for long, are to be translated."""
        decided = []
        for segment in segments:
            piece = protect(segment.text) if segment.is_prose else None
            if piece is not None and (not piece.has_words or lane.judge.is_already(piece.words) or lane.passing):
                piece = None
            if piece is not None:
                piece = spaced(piece, lane.before, self._translator.tag)
            lane.before = segment.text
            decided.append(_Decided(lane.segmented, segment.text, piece))
            lane.segmented += len(segment.text)
            lane.passing = False
        return decided

    # as long as the stream is exact

    def _look_ahead(self, seen: _Seen) -> None:
        """Notes whose running segment is still undecided; the event that began it has to wait for that."""
        for part in seen.parts:
            lane = part.lane
            if part.decided:
                lane.undecided_from = None
            pending = lane.splitter.pending
            if pending.strip() and not lane.passing and lane.splitter.pending_is_prose:
                piece = protect(pending)
                lane.passing = piece.has_words and lane.judge.is_surely_already(piece.words)
            is_open = pending and (lane.splitter.pending_is_prose or not pending.strip()) and not lane.passing
            if not is_open:
                lane.undecided_from = None
            elif lane.undecided_from is None:
                lane.undecided_from = self._beginning(lane)

    def _beginning(self, lane: _Lane) -> int:
        """The event in which the segment that runs began: the space before a sentence may have come with the last."""
        reaching = (
            seen.number for seen in self._held for part in seen.parts if part.lane is lane and part.end > lane.segmented
        )
        return next(reaching, self._number)

    def _release(self) -> None:
        """Lets go on what is decided."""
        limit = min(
            (lane.undecided_from for lane in self._lanes.values() if lane.undecided_from is not None), default=None
        )
        while self._held and (limit is None or self._held[0].number < limit):
            seen = self._held.popleft()
            self._held_bytes -= len(seen.event.exact)
            for part in seen.parts:
                if part.lane.said is not None and part.delta is not None:
                    part.lane.said.append(part.delta.text)
                part.lane.released = part.end
                if self._notes.status in {"", STREAMING}:
                    self._notes.status = FAILED if part.lane.judge.faulty else ALREADY
            self._put(_Slot(None, [seen.event], size=len(seen.event.exact)))

    def _begin_translating(self) -> None:
        """The stream is exact no longer: what is still held is made anew."""
        self._exact = False
        while self._held:
            self._place(self._held.popleft())

    # when it is made anew

    def _place(self, seen: _Seen) -> None:
        """Gives an event, or what becomes of it, its place."""
        value, deltas = seen.value, [part.delta for part in seen.parts if part.delta is not None]
        ends = any(part.delta is None for part in seen.parts)
        is_first = False
        for part in seen.parts:
            is_first = is_first or not part.lane.has_role
            part.lane.has_role = True
            if part.delta is not None and value is not None:
                part.lane.last = (seen.event, value, part.delta)
        more = value is None or not deltas or says_more(value, deltas, role=is_first)
        if more and not ends:
            self._put_event(seen, deltas)
        for part in seen.parts:
            self._put_segments(part)
        if more and ends:
            self._put_event(seen, deltas)

    def _put_event(self, seen: _Seen, deltas: list[Delta]) -> None:
        event, value = seen.event, seen.value
        choices = choices_of(value) if value is not None else []
        repeats = None
        if value is not None:
            if deltas:
                event = _event(without_text(value, deltas), event)
            if next(repeats_of(value), None) is not None:
                repeats = (event, value)
        key: Hashable = ("choice", choices[0].get("index", 0)) if len(choices) == 1 else None
        self._put(_Slot(key, [event], repeats=repeats, size=len(event.exact)))

    def _put_segments(self, part: _Part) -> None:
        lane = part.lane
        for decided in part.decided:
            text = decided.text[max(0, lane.released - decided.start) :]
            if not text or lane.last is None:
                continue
            piece = decided.piece if lane.released <= decided.start else None  # a part of it has gone already
            like, value, delta = lane.last
            slot = _Slot(delta.lane, None, lane, text, (like, Template(value, delta)), piece, size=2 * len(text))
            if piece is None:
                slot.events = [_made(slot)]
            else:
                self._waiting.append(slot)
            self._put(slot)
        self._start()

    def _put(self, slot: _Slot) -> None:
        self._slots.append(slot)
        self._slot_bytes += slot.size

    def _start(self) -> None:
        """Sends what waits to the translator: each sentence by itself while there is room, else all that wait."""
        while self._waiting and (room := MAX_UNDER_WAY - len(self._tasks)) > 0:
            batch = [self._waiting.popleft()]
            if room == 1:
                batch += self._waiting
                self._waiting.clear()
            task = asyncio.create_task(self._translate(batch))
            self._tasks.add(task)

    async def _translate(self, batch: list[_Slot]) -> None:
        pieces = [slot.piece for slot in batch if slot.piece is not None]
        results = await translate_pieces(pieces, self._translator, self._context, self._deadline_s)
        for slot, result in zip(batch, results, strict=True):
            self._fill(slot, result)
        self._tasks.discard(cast(asyncio.Task[None], asyncio.current_task()))
        self._start()
        self._changed.set()

    def _fill(self, slot: _Slot, result: str | None) -> None:
        slot.text = slot.text if result is None else result
        slot.events = [_made(slot)] if result is not None else [_FAILED_MARK, _made(slot)]
        self._outcomes.add(result is not None)
        self._notes.status = PARTIAL if len(self._outcomes) > 1 else TRANSLATED if result is not None else FAILED

    def _finish(self) -> None:
        """No more will come: what is unfinished is a segment too."""
        self._number += 1
        last = _Seen(self._number, Event((), None), None, [self._end(lane) for lane in self._lanes.values()])
        self._held.append(last)
        if self._exact and all(decided.piece is None for part in last.parts for decided in part.decided):
            for lane in self._lanes.values():
                lane.undecided_from = None
            self._release()
        else:
            self._begin_translating()

    # the client's side

    def _ready(self) -> list[Event]:
        """Takes what may go out: of each choice in order, and all else behind what came before it."""
        ready: list[Event] = []
        waiting: deque[_Slot] = deque()
        held_up: set[Hashable] = set()
        for slot in self._slots:
            if slot.events is None or slot.key in held_up or None in held_up or (slot.key is None and waiting):
                held_up.add(slot.key)
                waiting.append(slot)
                continue
            self._slot_bytes -= slot.size
            if slot.lane is not None and slot.lane.said is not None:
                slot.lane.said.append(slot.text)
            ready += slot.events if slot.repeats is None else [self._repeated(*slot.repeats)]
        self._slots = waiting
        self._taken.set()
        return ready

    def _repeated(self, event: Event, value: Members) -> Event:
        """An event that says again what was said, in the words in which it was."""
        for key, holder, name in repeats_of(value):
            lane = self._lanes.get(key)
            if lane is not None and lane.said is not None:
                holder[name] = "".join(lane.said)
        return _event(orjson.dumps(value), event)


def _made(slot: _Slot) -> Event:
    """The event of a slot's text."""
    assert slot.template is not None  # noqa: S101  # of every slot with text
    like, template = slot.template
    return _event(template.filled(slot.text), like)


def _event(payload: bytes, like: Event) -> Event:
    """An event of the same kind with this payload. What else it holds, comments but not its type, was said once."""
    lines = tuple(line for line in like.lines if line.startswith(b"event"))
    lines += (b"data: " + payload,)
    return Event(lines, payload, b"\n".join((*lines, b"", b"")))
