"""A stream in another language, a sentence at a time, as it runs.

It begins exact: events are held until the sentence that they belong to proves to be in the language already, and go on
byte for byte. With the first sentence that is not, the stream is made anew: its sentences become events of their own,
each as soon as it is translated and every one before it of the same choice has gone.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import orjson

from gateway.hookspecs import TranslatorSpec
from gateway.progress import Translating
from gateway.sse import Event
from gateway.translation.answers import ALREADY, FAILED, PARTIAL, STREAMING, TRANSLATED
from gateway.translation.lanes import Decided, Lane
from gateway.translation.memory import Remembered
from gateway.translation.pieces import translate_pieces
from gateway.translation.prose import Protected
from gateway.translation.shapes import (
    Delta,
    Members,
    Template,
    choices_of,
    deltas_of,
    ended_lanes,
    lane_of,
    repeats_of,
    says_more,
    without_text,
)
from gateway.types import TranslationContext

MAX_UNDER_WAY: Final = 8
"""So many requests of one stream are at the engine at once; sentences that wait meanwhile share the next one."""

MAX_DELTA_CHARS: Final = 65_536
"""An event with more text than this is passed on as it came: to take it apart would hold up other calls."""

_MAX_SLOTS: Final = 64
_MAX_HELD_BYTES: Final = 1_048_576
_MAX_LANES: Final = 256
_DONE: Final = b"[DONE]"
_FAILED_MARK: Final = Event((b": translate_status=failed",), None, b": translate_status=failed\n\n")

Events: TypeAlias = AsyncGenerator[Event, None]


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of text in an event, where it ends, and the segments that it completed. `delta` None: the lane's end."""

    lane: Lane
    delta: Delta | None
    end: int
    decided: list[Decided]


@dataclass(frozen=True, slots=True)
class _Seen:
    """An event of the upstream's. `value` None: it passes as it came, marked where its text should be another."""

    number: int
    event: Event
    value: Members | None
    parts: list[_Part]
    is_failed: bool = False


@dataclass(slots=True)
class _Slot:
    """A place in what goes out. `key` None: everything before it goes first. `is_ready`: not still being translated.

    `event` is what passes as it is, or whose kind the event of `text` is.
    """

    key: Hashable
    event: Event
    is_ready: bool = True
    is_failed: bool = False
    is_opening: bool = False  # nothing that a status could be told of
    lane: Lane | None = None
    text: str = ""
    template: Template | None = None
    piece: Protected | None = None
    result: str | None = None
    repeats: Members | None = None  # an event that says again what its lanes said

    @property
    def size(self) -> int:
        """About what it takes of memory."""
        return len(self.event.exact) if self.template is None else 4 * len(self.text) + 500


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
        remembered: Remembered | None = None,
    ) -> None:
        self._translator = translator
        self._context = context
        self._notes = notes
        self._deadline_s = deadline_s
        self._max_sentence_chars = max_sentence_chars
        self._remembered = remembered
        self._lanes: dict[Hashable, Lane] = {}
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
                while (slot := self._next()) is not None:
                    for event in self._events_of(slot):
                        yield event
                if reader.done() and not self._slots:
                    if self._notes.status in {"", STREAMING}:
                        self._notes.status = ALREADY
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
        wanted = any(decided.piece is not None for part in seen.parts for decided in part.decided)
        if wanted or seen.is_failed or self._held_bytes > _MAX_HELD_BYTES:
            self._begin_translating()
            return
        for part in seen.parts:
            lane = part.lane
            if part.decided or not lane.look_ahead():
                lane.undecided_from = None
            if lane.undecided_from is None and lane.look_ahead():
                lane.undecided_from = self._beginning(lane)
        self._release()

    def _see(self, event: Event) -> _Seen:
        """Reads an event, and takes its text in."""
        self._number += 1
        if event.data is None:
            return _Seen(self._number, event, None, [])
        value = _read(event.data)
        if value is None:  # what was said before must not come behind it
            return _Seen(self._number, event, None, self._ends())
        deltas = deltas_of(value)
        if any(len(delta.text) > MAX_DELTA_CHARS for delta in deltas):
            return _Seen(self._number, event, None, self._ends(), is_failed=True)
        tells_end = value.get("error") or (value.get("choices") == [] and value.get("usage"))
        parts = self._ends() if tells_end else []
        for delta in deltas:
            lane = self._lane(delta.lane)
            if lane is not None:
                decided = lane.feed(delta.text)
                parts.append(_Part(lane, delta, lane.reach, decided))
        parts += [self._end(self._lanes[key]) for key in ended_lanes(value) if key in self._lanes]
        return _Seen(self._number, event, value, parts)

    def _lane(self, key: Hashable) -> Lane | None:
        lane = self._lanes.get(key)
        if lane is None and len(self._lanes) < _MAX_LANES:
            lane = self._lanes[key] = Lane(self._translator, self._max_sentence_chars)
            if isinstance(key, tuple) and key[0] == "item":
                lane.said = []
        return lane

    def _ends(self) -> list[_Part]:
        return [self._end(lane) for lane in self._lanes.values()]

    def _end(self, lane: Lane) -> _Part:
        decided = lane.end()
        return _Part(lane, None, lane.reach, decided)

    # as long as the stream is exact

    def _beginning(self, lane: Lane) -> int:
        """The event in which the segment that runs began: the space before a sentence may have come with the last."""
        reaching = (
            seen.number for seen in self._held for part in seen.parts if part.lane is lane and part.end > lane.segmented
        )
        return next(reaching, self._number)

    def _release(self) -> None:
        """Lets go on what is decided."""
        undecided = [lane.undecided_from for lane in self._lanes.values() if lane.undecided_from is not None]
        limit = min(undecided, default=None)
        while self._held and (limit is None or self._held[0].number < limit):
            seen = self._held.popleft()
            self._held_bytes -= len(seen.event.exact)
            for part in seen.parts:
                if part.lane.said is not None and part.delta is not None:
                    part.lane.said.append(part.delta.text)
                part.lane.released = part.end
                part.lane.spacing.joined(part.delta.text if part.delta is not None else "", None, is_translated=False)
            self._note_released(seen)
            self._put(_Slot(None, seen.event, is_opening=True))  # what is to be told of it was

    def _note_released(self, seen: _Seen) -> None:
        """What is told of a stream's beginning: nothing yet of one that has only named a role."""
        notes = self._notes
        if any(lane.judge.faulty for lane in self._lanes.values()):
            notes.status = FAILED
        elif any(part.lane.judged for part in seen.parts):
            notes.status = ALREADY if notes.status in {"", STREAMING} else notes.status
        elif not notes.status and (any(part.delta is not None for part in seen.parts) or not _is_opening(seen)):
            notes.status = STREAMING

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
        elif not more:
            self._put_other_lines(seen.event, deltas)
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
                try:
                    event = _remade(without_text(value, deltas), event)
                except TypeError:  # it nests too deep to be written: its text goes, and the rest cannot
                    return
            if next(repeats_of(value), None) is not None:
                repeats = value
        key = lane_of(choices[0]) if len(choices) == 1 else None
        self._put(_Slot(key, event, is_failed=seen.is_failed, is_opening=_is_opening(seen), repeats=repeats))

    def _put_other_lines(self, event: Event, deltas: list[Delta]) -> None:
        """What stands in an event beside its text: a comment, an id."""
        lines = tuple(line for line in event.lines if not line.startswith((b"data", b"event")))
        if lines:
            self._put(_Slot(deltas[0].lane, Event(lines, None, b"\n".join((*lines, b"", b"")))))

    def _put_segments(self, part: _Part) -> None:
        lane = part.lane
        if lane.last is None:
            return
        like, value, delta = lane.last
        template = Template(value, delta) if part.decided else None
        for decided in part.decided:
            text = decided.text[max(0, lane.released - decided.start) :]
            if text:
                slot = _Slot(delta.lane, like, lane=lane, text=text, template=template, piece=decided.piece)
                if decided.piece is not None and lane.released > decided.start:
                    slot.is_failed, slot.piece = True, None  # a part of it has gone already
                elif decided.piece is not None:
                    slot.is_ready = False
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
        results = await translate_pieces(pieces, self._translator, self._context, self._deadline_s, self._remembered)
        for slot, result in zip(batch, results, strict=True):
            slot.result, slot.is_ready, slot.is_failed = result, True, result is None
        self._tasks.discard(cast(asyncio.Task[None], asyncio.current_task()))
        self._start()
        self._changed.set()

    def _finish(self) -> None:
        """No more will come: what is unfinished is a segment too."""
        self._number += 1
        last = _Seen(self._number, Event((), None), None, self._ends())
        self._held.append(last)
        if self._exact and all(decided.piece is None for part in last.parts for decided in part.decided):
            for lane in self._lanes.values():
                lane.undecided_from = None
            self._release()
        else:
            self._begin_translating()

    # the client's side

    def _next(self) -> _Slot | None:
        """Takes the next that may go out: of each choice in order, and all else behind what came before it."""
        held_up: set[Hashable] = set()
        for place, slot in enumerate(self._slots):
            if slot.is_ready and slot.key not in held_up and (slot.key is not None or not held_up):
                del self._slots[place]
                self._slot_bytes -= slot.size
                self._taken.set()
                return slot
            held_up.add(slot.key)
            if slot.key is None:
                break
        return None

    def _events_of(self, slot: _Slot) -> list[Event]:
        """What a slot is to the client, now that it is its turn."""
        event, lane = slot.event, slot.lane
        if slot.template is not None and lane is not None:
            text, is_translated = slot.text, slot.result is not None and slot.result != slot.text
            if slot.result is not None:
                text = slot.result
            text = lane.spacing.joined(text, slot.piece, is_translated=is_translated)
            if lane.said is not None:
                lane.said.append(text)
            event = _remade(slot.template.filled(text), event)
            if slot.piece is not None:
                self._outcomes.add(slot.result is not None)
        elif slot.repeats is not None:
            event = self._repeated(event, slot.repeats)
        if slot.is_failed:
            self._outcomes.add(False)
        if not (self._notes.status or slot.is_opening):
            self._notes.status = STREAMING
        if self._outcomes:
            found, failed = True in self._outcomes, False in self._outcomes
            self._notes.status = PARTIAL if found and failed else TRANSLATED if found else FAILED
        return [_FAILED_MARK, event] if slot.is_failed else [event]

    def _repeated(self, event: Event, value: Members) -> Event:
        """An event that says again what was said, in the words in which it was."""
        for key, holder, name in repeats_of(value):
            lane = self._lanes.get(key)
            if lane is not None and lane.said is not None:
                holder[name] = "".join(lane.said)
        return _remade(orjson.dumps(value), event)


def _read(data: bytes) -> Members | None:
    """An event's object; None for whatever is none."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(data)  # half of a surrogate pair, which upstreams cut
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _is_opening(seen: _Seen) -> bool:
    """Whether an event only begins a choice, or nothing: there is no text yet, nor anything else of interest."""
    value = seen.value
    if value is None:
        return not seen.event.lines
    return bool(choices_of(value)) and not says_more(value, [], role=False)


def _remade(payload: bytes, like: Event) -> Event:
    """An event of the same kind with this payload; what else that one holds was said in its place."""
    lines = tuple(line for line in like.lines if line.startswith(b"event"))
    lines += (b"data: " + payload,)
    return Event(lines, payload, b"\n".join((*lines, b"", b"")), is_remade=True)
