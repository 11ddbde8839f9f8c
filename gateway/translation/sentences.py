"""Text as it grows, to sentences and what is none: code, formulas, JSON, lines without a letter.

Pure. The segments of a text are the same wherever it was cut on its way, and joined they are the text. A sentence is
given as soon as the character behind it shows that it has ended; the space between two sentences begins the second.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from gateway.translation.abbreviations import ENDING, INITIAL, NUMBERED, PLAIN
from gateway.types import PerCall

MAX_CHARS: Final = 1_000
_FED_CHARS: Final = 1_024
_OPENING_CHARS: Final = 80
_REACH_CHARS: Final = 400  # so far a construct within a line is followed to its end; a longer one is none

_STOP = re.compile(r"[\n\r`$\\<\].!?\u2026\u3002\uff01\uff1f]")
_RUN = re.compile(r"[.!?\u2026\u3002\uff01\uff1f]+")
_CLOSERS = re.compile(r"[)\]}\"'\u201d\u2019\u00bb*_~\uff09\u300d\u300f\u300b\u3011]*")
_CJK_CLOSERS: Final = frozenset("\u201d\u2019\uff09\u300d\u300f\u300b\u3011)]*_~")
_FULL_STOPS: Final = frozenset("\u3002\uff01\uff1f")
_BEFORE_WORD: Final = frozenset(" \t\n\r\u3000(\uff08[\u201c\u2018\u00ab\"'*_")
_CLAUSE = re.compile(r"[\uff0c\uff1b\uff1a\u3001\u2014]|[,;:](?=[ \t])")
_ANY_SPACE = re.compile(r"\s")
_SPACE = re.compile(r"[ \t\u3000](?=[^ \t\u3000])")
_JOINING: Final = frozenset("\u200d\ufe0e\ufe0f")

_PREFIX = r"(?:>[ \t]*|(?:[-*+]|[0-9]{1,3}[.)])[ \t]+)*"
_FENCE = re.compile(_PREFIX + r"(`{3,}|~{3,})")
_END_OF_FENCE = re.compile(r"[ \t>]*(`{3,}|~{3,})[ \t]*")
_FORMULA = re.compile(r"(\$\$|\\\[|\\begin\{([A-Za-z]{1,20}\*?)\}|<!--)")
_ROW = re.compile(r"\||#{1,6}[ \t]")
_BAR = re.compile(r"`[^`\n\r]*`|(?<!\\)\|")
_LIST = re.compile(r"(?:>[ \t]*)*(?:[-*+\u2022]|[0-9]{1,9}[.)])[ \t]")
_MAY_OPEN = re.compile(
    r"(?:>[ \t]*|(?:[-*+]|[0-9]{1,3}[.)]?)[ \t]*)*"
    r"(?:`{1,2}|~{1,2}|\$|\\|\\b|\\be|\\beg|\\begi|\\begin|\\begin\{[A-Za-z]{0,20}\*?|<|<!|<!-|#{1,6})?"
)
_JSON = re.compile(r"\{[ \t\r\n]*[\"}]|\[[ \t\r\n]*[{\[\"]")
_MAY_BE_JSON = re.compile(r"[{\[][ \t\r\n]*")
_JSON_STOP = re.compile(r"[\"\\{}\[\]\n]")


class Segment(PerCall, frozen=True):
    """A sentence, or a piece of what is not to be translated."""

    text: str
    is_prose: bool


def segments(text: str, max_chars: int = MAX_CHARS) -> list[Segment]:
    """The segments of a whole text."""
    splitter = SentenceSplitter(max_chars)
    return [*splitter.feed(text), *splitter.finish()]


class SentenceSplitter:
    """Text in any pieces to segments. A sentence longer than `max_chars` is cut where it hurts least."""

    __slots__ = (
        "_at", "_depth", "_end", "_fence", "_in_block", "_in_list", "_in_string", "_is_first", "_is_leading",
        "_is_line", "_is_opening", "_max_chars", "_mode", "_text",
    )  # fmt: skip

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        self._max_chars = max_chars
        self._text = ""  # of the segment that runs
        self._at = 0  # so far it was looked at
        self._mode = self._prose
        self._is_leading = True  # nothing but white space so far
        self._is_line = True  # at a line's beginning
        self._is_first = True  # of the whole text
        self._in_list = False  # where lines that are set in belong to an item
        self._in_block = False  # of code that is set in by four spaces
        self._is_opening = False  # in the first line of what is no prose
        self._fence = ""  # that opened the code
        self._end = ""  # of the formula or comment
        self._depth = 0  # of the JSON
        self._in_string = False

    @property
    def pending(self) -> str:
        """The text of the segment that runs."""
        return self._text

    @property
    def pending_is_prose(self) -> bool:
        """Whether it is a sentence, as far as one can tell."""
        return self._mode in (self._prose, self._row)

    def feed(self, text: str) -> list[Segment]:
        """The segments that this text completes."""
        found = []
        for start in range(0, len(text), _FED_CHARS):  # each segment that is taken off copies what is behind it
            self._text += text[start : start + _FED_CHARS]
            found += self._scan(final=False)
        return found

    def finish(self) -> list[Segment]:
        """What was unfinished when the text ended."""
        found = self._scan(final=True)
        if self._text:
            found.append(self._cut(len(self._text), is_prose=self.pending_is_prose))
        return found

    def _scan(self, *, final: bool) -> list[Segment]:
        found = []
        while self._text and (segment := self._mode(final)) is not None:
            if segment.text:
                found.append(segment)
        return found

    def _cut(self, end: int, *, is_prose: bool) -> Segment:
        """Takes a segment off the text."""
        text, self._text = self._text[:end], self._text[end:]
        self._at = 0
        return Segment(text, is_prose and any(map(str.isalpha, text)))

    def _sentence(self, end: int) -> Segment:
        """Takes a sentence off; what follows begins with white space, perhaps with a new line."""
        self._is_leading, self._is_line, self._is_first = True, False, False
        return self._cut(end, is_prose=True)

    # prose

    def _prose(self, final: bool) -> Segment | None:
        if self._is_leading and not self._begin(final=final):
            return self._verbatim(self._max_chars) if self._at > self._max_chars else None
        if self._mode != self._prose:
            return Segment("", False)  # another mode goes on from here
        return self._find_end(final=final)

    def _begin(self, *, final: bool) -> bool:
        """Passes over white space, and sees what kind of line follows. False: that cannot be told yet."""
        text, at = self._text, self._at
        while at < len(text) and text[at].isspace():
            self._is_line = self._is_line or text[at] in "\n\r"
            at += 1
        self._at = at
        if at == len(text) or at > self._max_chars:
            return False
        if self._is_first and text[at] in "{[":
            if _JSON.match(text, at):
                self._mode, self._depth, self._in_string = self._json, 0, False
                return True
            if not final and len(text) - at < _OPENING_CHARS and _MAY_BE_JSON.fullmatch(text, at):
                return False
        if self._is_line and not self._opened(at, final=final):
            return False
        self._is_leading = False
        return True

    def _opened(self, at: int, *, final: bool) -> bool:
        """Looks at a line's beginning. False: one has to see more of it."""
        text = self._text
        if not final and len(text) - at < _OPENING_CHARS and _MAY_OPEN.fullmatch(text, at):
            return False
        inset = _inset(text[:at], is_first=self._is_first)
        is_item = _LIST.match(text, at) is not None
        if inset.spaces < 4:  # as CommonMark has it
            self._in_list = (
                is_item or (self._in_list and inset.spaces > 0) or (self._in_list and not inset.is_after_blank)
            )
            self._in_block = False
        elif (inset.is_after_blank or self._in_block) and not (is_item or self._in_list):
            self._mode, self._in_block = self._block, True
            return True
        if fence := _FENCE.match(text, at):
            line_end = text.find("\n", fence.end())
            info = text[fence.end() : line_end if line_end >= 0 else len(text)]
            if "`" not in info and len(info) < _REACH_CHARS:
                if line_end < 0 and not final:
                    return False
                self._mode, self._fence, self._at, self._is_opening = self._code, fence[1], fence.end(), True
        elif formula := _FORMULA.match(text, at):
            ends = {"$$": "$$", "\\[": "\\]", "<!--": "-->"}
            self._end = ends.get(formula[1]) or f"\\end{{{formula[2]}}}"
            self._mode, self._at, self._is_opening = self._formula, formula.end(), True
        elif _ROW.match(text, at):
            self._mode = self._row
        return True

    def _find_end(self, *, final: bool) -> Segment | None:
        """The sentence, once its end is there."""
        text, at = self._text, self._at
        while True:
            stop = _STOP.search(text, at)
            start = stop.start() if stop is not None else len(text)
            if start >= self._max_chars and len(text) > self._max_chars:
                return self._too_long()
            if stop is None:
                self._at = len(text)
                return None
            char = text[start]
            if char in "\n\r":
                return self._sentence(start)
            if char in "`$\\<]":
                after = self._construct(start, final=final)
                if after == -start - 1:  # a formula in lines of its own begins here
                    segment = self._sentence(len(text[:start].rstrip(" \t")))
                    self._is_line = True
                    return segment
            else:
                after, ends = self._ender(start, final=final)
                if ends and after > 0:
                    return self._sentence(after)
            if not after:
                self._at = start
                return None
            at = after

    def _too_long(self) -> Segment:
        """The beginning of a sentence that is too long. What has no space at all is an address, or no language."""
        text = self._text
        cut = self._best_cut()
        if cut:
            return self._sentence(cut)
        begin = len(text) - len(text.lstrip())
        space = max(text.rfind(sign, begin, self._max_chars) for sign in (" ", "\t", "\u3000"))
        if space > begin:
            return self._sentence(space)
        self._mode = self._run
        return self._verbatim(self._max_chars)

    def _run(self, final: bool) -> Segment | None:
        """The rest of what is no language, up to the next space."""
        text = self._text
        space = _ANY_SPACE.search(text, self._at)
        end = space.start() if space is not None else len(text)
        if end >= self._max_chars:
            return self._verbatim(self._max_chars)
        if space is None:
            self._at = len(text)
            return None
        self._mode = self._prose
        self._is_leading, self._is_line = True, False
        return self._verbatim(end)

    def _best_cut(self) -> int:
        """Where a sentence that is too long is cut; 0 where it cannot be, in Latin letters without a space."""
        text, least, most = self._text, self._max_chars // 2, self._max_chars
        for pattern in (_CLAUSE, _SPACE):
            places = [match.end() for match in pattern.finditer(text, least, most)]
            if places:
                return places[-1]
        cut = most
        if text[cut].isascii() and text[cut - 1].isascii():
            return 0
        while cut > least and (unicodedata.combining(text[cut]) or text[cut] in _JOINING or text[cut - 1] in _JOINING):
            cut -= 1
        return cut

    # what may stand within a sentence and hold stops that end nothing; each returns where it ends, 0: not known yet

    def _construct(self, start: int, *, final: bool) -> int:
        text = self._text
        following = text[start + 1 : start + 2]
        if not following and not final:
            return 0
        match text[start], following:
            case "`", _:
                run = len(text) - start - len(text[start:].lstrip("`"))
                if start + run == len(text) and not final:
                    return 0
                return self._closed(start, start + run, re.compile(f"(?<!`){'`' * run}(?!`)"), final=final)
            case "$", "$":
                return self._in_lines(start, "$$", final=final)
            case "\\", "[":
                return self._in_lines(start, "\\]", final=final)
            case "\\", "(":
                return self._closed(start, start + 2, re.compile(r"\\\)"), final=final)
            case "\\", _:
                return start + (1 if following in {"\n", "\r", ""} else 2)
            case "$", _ if following.isdigit():  # money, unless the very word closes
                return self._closed(start, start + 1, re.compile(r"(?<=\S)\$(?!\d)|\s"), final=final, or_space=True)
            case "$", _ if not following.isspace():
                return self._closed(start, start + 1, re.compile(r"(?<=\S)\$(?!\d)"), final=final)
            case "<", _ if following.isalpha() or following in {"/", "!"}:
                return self._closed(start, start + 1, re.compile(">"), final=final)
            case "]", "(":
                return self._closed(start, start + 2, re.compile(r"\)"), final=final)
        return start + 1

    def _closed(self, start: int, inside: int, end: re.Pattern[str], *, final: bool, or_space: bool = False) -> int:
        """Behind the construct, or just behind what seemed to open one where nothing closes it in the same line."""
        text = self._text
        limit = min(inside + _REACH_CHARS, len(text))
        new_line = min(
            (at for at in (text.find("\n", inside, limit), text.find("\r", inside, limit)) if at >= 0), default=-1
        )
        found = end.search(text, inside, new_line if new_line >= 0 else limit)
        if found is not None and (found.end() < len(text) or final):  # what follows may deny it
            return inside if or_space and found[0].isspace() else found.end()
        if new_line >= 0 or limit == inside + _REACH_CHARS or final:
            return inside
        return 0

    def _in_lines(self, start: int, end: str, *, final: bool) -> int:
        """As `_closed`, for a formula that may take lines of its own: -start - 1 where it does."""
        after = self._closed(start, start + 2, re.compile(re.escape(end)), final=final)
        if after != start + 2:
            return after
        rest, new_line, _ = self._text[after:].partition("\n")
        return -start - 1 if new_line and not rest.strip() else after

    # stops

    def _ender(self, start: int, *, final: bool) -> tuple[int, bool]:
        """Behind a run of stops and what closes with it, and whether a sentence ends there. 0: not known yet."""
        text = self._text
        run = _RUN.match(text, start)
        assert run is not None  # noqa: S101  # it begins with one
        end = run.end()
        is_full = not _FULL_STOPS.isdisjoint(run[0])
        if is_full:
            while end < len(text) and (text[end] in _CJK_CLOSERS or self._closes(end)):
                end += 1
            if end == len(text) and not final:
                return 0, False
            return end, self._says_enough(end)
        closers = _CLOSERS.match(text, end)
        end = closers.end() if closers is not None else end
        if end == len(text):
            return (end, True) if final else (0, False)
        if not text[end].isspace():
            ends = text[start] in "!?" or (text[start] == "." and text[start - 1 : start].isalpha())
            return end, ends and _is_ideograph(text[end]) and self._says_enough(end)
        if text[end] in "\n\r":
            return end, self._says_enough(end)
        following = end
        while following < len(text) and text[following] in " \t\u3000\u00a0":
            following += 1
        if following == len(text):
            return (end, True) if final else (0, False)
        if text[following].islower() or text[following] in "\u2013\u2014":
            return end, False
        if run[0] == "." and text[following] not in "\n\r" and self._is_abbreviation(start, text[following]):
            return end, False
        return end, self._says_enough(end)

    def _closes(self, at: int) -> bool:
        """Whether a straight quote closes one that was opened in this sentence."""
        return self._text[at] in "\"'" and self._text.count(self._text[at], 0, at) % 2 == 1

    def _says_enough(self, end: int) -> bool:
        """Whether there is a word, or so little that it belongs to what follows."""
        letters = 0
        for char in self._text[:end]:
            if char.isalpha():
                letters += 2 if _is_ideograph(char) else 1
                if letters > 1:
                    return True
        return False

    def _is_abbreviation(self, stop: int, following: str) -> bool:
        """Whether the full stop belongs to the word before it."""
        text, begin = self._text, stop
        while begin and text[begin - 1] not in _BEFORE_WORD:
            begin -= 1
        word = text[begin:stop]
        if word.isdigit() or (len(word) == 1 and word.isalpha()):
            if not text[:begin].strip("\n\r \t>#*-"):
                return True  # a list's number
            if word.isalpha():
                return word in INITIAL or (word.isupper() and word != "I")
        word = word.casefold()
        if word in NUMBERED:
            return following.isdigit()
        return word in PLAIN or (word in ENDING and not following.isupper())

    # what is no prose

    def _code(self, final: bool) -> Segment | None:
        """A fence's lines, one by one."""
        text = self._text
        line_end = text.find("\n", self._at)
        if line_end >= self._max_chars or (line_end < 0 and len(text) > self._max_chars):
            self._is_opening = True  # whatever the rest of the line looks like, it closes nothing
            return self._verbatim(self._max_chars)
        if line_end < 0:
            self._at = len(text)
            return None
        if not self._is_opening and self._is_end_of_fence(text[:line_end]):
            return self._leave(line_end)
        self._is_opening = False
        return self._verbatim(line_end + 1)

    def _is_end_of_fence(self, line: str) -> bool:
        closing = _END_OF_FENCE.fullmatch(line)
        return closing is not None and closing[1].startswith(self._fence)

    def _formula(self, final: bool) -> Segment | None:
        """A formula or a comment, line by line to its end; a line without anything ends one that was never closed."""
        text = self._text
        found = text.find(self._end, self._at)
        line_end = text.find("\n", self._at)
        reach = min(
            (at for at in (found + len(self._end) if found >= 0 else -1, line_end + 1) if at > 0), default=len(text)
        )
        if reach > self._max_chars:
            return self._verbatim(self._max_chars - len(self._end))
        if found >= 0 and (line_end < 0 or found < line_end):
            return self._leave(found + len(self._end))
        if line_end >= 0:
            if not self._is_opening and not text[:line_end].strip():
                return self._leave(0)
            self._is_opening = False
            return self._verbatim(line_end + 1)
        self._at = max(self._at, len(text) - len(self._end) + 1)
        return None

    def _json(self, final: bool) -> Segment | None:
        """JSON, line by line until its brackets are closed."""
        text, most = self._text, self._max_chars
        while (stop := _JSON_STOP.search(text, self._at)) is not None and stop.end() <= most:
            char, self._at = stop[0], stop.end()
            if char == "\\" and self._in_string:
                if self._at == len(text):
                    self._at -= 1
                    break
                self._at += 1
            elif char == '"':
                self._in_string = not self._in_string
            elif char == "\n":
                return self._verbatim(self._at)
            elif char in "{[" and not self._in_string:
                self._depth += 1
            elif char in "}]" and not self._in_string:
                self._depth -= 1
                if self._depth <= 0:
                    return self._leave(self._at)
        if len(text) > most:
            return self._verbatim(max(self._at, most))
        return None

    def _block(self, final: bool) -> Segment | None:
        """A line of code that is set in."""
        end = self._text.find("\n", self._at)
        if end > self._max_chars or (end < 0 and len(self._text) > self._max_chars):
            return self._verbatim(self._max_chars)
        if end < 0:
            self._at = len(self._text)
            return None
        return self._leave(end)

    def _row(self, final: bool) -> Segment | None:
        """A heading, or a table's row: each cell is a segment, with the bar before it."""
        text = self._text
        begin = len(text) - len(text.lstrip())
        ends = [at for at in (text.find("\n", begin), text.find("\r", begin)) if at >= 0]
        end = min(ends, default=len(text))
        if end > self._max_chars:
            return self._too_long()
        if not ends and not final:
            return None
        if text.startswith("|", begin):
            bars = (bar.start() for bar in _BAR.finditer(text, begin + 1, end) if bar[0] == "|")
            if (bar := next(bars, None)) is not None:
                return self._cell(bar)
        if not ends:
            return None
        self._mode = self._prose
        return self._sentence(end)

    def _cell(self, end: int) -> Segment:
        self._is_first = False
        return self._cut(end, is_prose=True)

    def _verbatim(self, end: int) -> Segment:
        segment = self._cut(end, is_prose=False)
        self._is_first = False
        return segment

    def _leave(self, end: int) -> Segment:
        """The end of what was no prose."""
        self._mode = self._prose
        segment = self._verbatim(end)
        self._is_leading, self._is_line = True, end == 0
        return segment


class _Inset(PerCall, frozen=True):
    """How far a line is set in, a tab counting as four, and whether it begins the text or follows a blank one."""

    spaces: int
    is_after_blank: bool


def _inset(before: str, *, is_first: bool) -> _Inset:
    """`before` is the white space between what was said last and the line."""
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return _Inset(len(lines[-1].replace("\t", "    ")), is_first or len(lines) > 2)


def _is_ideograph(char: str) -> bool:
    return "\u2e80" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff" or char >= "\U00020000"
