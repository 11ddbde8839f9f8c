"""The text of one choice of a stream: cut into segments as it grows, each decided on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gateway.hookspecs import TranslatorSpec
from gateway.sse import Event
from gateway.translation.pieces import Judge
from gateway.translation.prose import Protected, protect
from gateway.translation.sentences import Segment, SentenceSplitter
from gateway.translation.shapes import Delta, Members
from gateway.translation.spacing import Spacing

_SURROGATE = re.compile("[\ud800-\udfff]")
_ASKED_EVERY_CHARS = 6


@dataclass(frozen=True, slots=True)
class Decided:
    """A whole segment: where it starts among its lane's characters, and what of it is to be translated."""

    start: int
    text: str
    piece: Protected | None


@dataclass(slots=True)
class Lane:
    """`segmented` and `released` count its characters: those in whole segments, and those that went on as they came.

    `passing`: the segment that runs is in the language for certain. `judged`: words have decided on a segment.
    """

    translator: TranslatorSpec
    max_chars: int
    splitter: SentenceSplitter = field(init=False)
    judge: Judge = field(init=False)
    spacing: Spacing = field(init=False)
    segmented: int = 0
    released: int = 0
    passing: bool = False
    judged: bool = False
    undecided_from: int | None = None  # the first event of the segment that runs
    has_role: bool = False
    last: tuple[Event, Members, Delta] | None = None  # its latest event with text, for the shape of others
    said: list[str] | None = None  # what went out, where an event will repeat it
    _half: str = ""  # of a surrogate pair whose other half is still to come
    _asked_at: int = 0

    def __post_init__(self) -> None:
        self.splitter = SentenceSplitter(self.max_chars)
        self.judge = Judge(self.translator)
        self.spacing = Spacing(self.translator.tag)

    @property
    def reach(self) -> int:
        """How many characters have come."""
        return self.segmented + len(self.splitter.pending)

    def feed(self, text: str) -> list[Decided]:
        """The segments that this text completes."""
        text = self._half + text
        self._half = ""
        if _SURROGATE.search(text):
            if "\ud800" <= text[-1] <= "\udbff":
                self._half, text = text[-1], text[:-1]
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return self._decide(self.splitter.feed(text))

    def end(self) -> list[Decided]:
        """What was unfinished."""
        rest, self._half = "\ufffd" if self._half else "", ""
        return self._decide([*self.splitter.feed(rest), *self.splitter.finish()])

    def _decide(self, segments: list[Segment]) -> list[Decided]:
        decided = []
        for segment in segments:
            piece = protect(segment.text) if segment.is_prose else None
            if piece is not None and not piece.has_words:
                piece = None
            if piece is not None:
                self.judged = True
                if self.judge.is_already(piece.words) or self.passing:
                    piece = None
            decided.append(Decided(self.segmented, segment.text, piece))
            self.segmented += len(segment.text)
            self.passing = False
            self._asked_at = 0
        return decided

    def look_ahead(self) -> bool:
        """Whether the segment that runs is still undecided, so that the events which it is made of have to wait."""
        splitter = self.splitter
        pending = splitter.pending
        if pending.strip() and not self.passing and splitter.pending_is_prose:
            if self._asked_at and len(pending) < self._asked_at + _ASKED_EVERY_CHARS:
                return True
            self._asked_at = len(pending)
            piece = protect(pending)
            self.passing = piece.has_words and self.judge.is_surely_already(piece.words)
            self.judged = self.judged or self.passing
        if self._half:
            return True
        return bool(pending) and (splitter.pending_is_prose or not pending.strip()) and not self.passing
