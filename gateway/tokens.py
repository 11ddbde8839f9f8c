"""How many tokens a call took, where its upstream does not say: counted from its texts.

Text in, numbers out: by the scripts that a text is written in, or by a tokenizer of tiktoken where that is installed.
Knows no price and no connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from gateway.errors import ConfigurationError
from gateway.types import Arguments, JsonValue

if TYPE_CHECKING:
    from tiktoken import Encoding

MEDIA_TOKENS: Final = 800
"""What a picture, a sound or a file counts, which no text tells."""

PER_MESSAGE_TOKENS: Final = 4
"""What a chat's message costs beside its texts, its role included (OpenAI's chat format)."""

PER_NAME_TOKENS: Final = 1
"""What a message's `name` costs beside its text."""

PER_CHAT_TOKENS: Final = 3
"""What opens the answer to a chat."""


class TokenCounter(Protocol):
    """Counts the tokens of a text, in bounded time: 0 for an empty one, at least 1 for any other. Raises nothing."""

    @property
    def name(self) -> str: ...

    def count(self, text: str) -> int: ...


def counter_of(tokenizer: str) -> TokenCounter:
    """The counter that the setting `charging.tokenizer` names: an encoding of tiktoken; empty: by script.

    Takes a moment, and a download where tiktoken has no vocabulary at hand. ConfigurationError where it cannot be had.
    """
    return TiktokenCounter(_encoding(tokenizer)) if tokenizer else ScriptCounter()


_SAMPLES: Final = 16


def _sampled(text: str, limit_chars: int, count: Callable[[str], int]) -> int:
    """What `count` makes of a text, in bounded time: of a longer one than `limit_chars` evenly spaced samples, so many
    characters together, stand for the rest. The event loop waits for it.
    """
    size = len(text)
    if size <= limit_chars:
        return count(text)
    length = limit_chars // _SAMPLES
    starts = (number * (size - length) // (_SAMPLES - 1) for number in range(_SAMPLES))
    sampled = sum(count(text[start : start + length]) for start in starts)
    return -(-sampled * size // limit_chars)


# By script

_WEIGHED_CHARS: Final = 1 << 18
_CONTINUATION: Final = bytes(range(0x80, 0xC0))
_MILLI: Final = 1000


class _Script:
    """Characters that are written alike, by the first bytes of their UTF-8; weights in thousandths of a token.

    A run is what stands together, such as a word: a tokenizer never joins two.
    """

    def __init__(self, first_bytes: Iterable[int], per_character: int, per_run: int = 0) -> None:
        self.table = bytes(b"-x"[byte in set(first_bytes)] for byte in range(256))
        self.per_character = per_character
        self.per_run = per_run

    def weight(self, characters: bytes) -> int:
        """Of a text that is given as the first byte of each character."""
        mask = characters.translate(self.table)
        found = mask.count(b"x") * self.per_character
        if found and self.per_run:
            found += (mask.count(b"x-") + mask.endswith(b"x")) * self.per_run
        return found


_DIGITS: Final = range(0x30, 0x3A)
_UPPER: Final = range(0x41, 0x5B)
_LOWER: Final = range(0x61, 0x7B)
_LATIN_EXTENDED: Final = (*range(0xC3, 0xCE), 0xE1)
_PUNCTUATION: Final = set(range(0x21, 0x7F)) - {*_DIGITS, *_UPPER, *_LOWER}

# Least-squares fits to what o200k_base counts in manuals, messages of programs, aphorisms and source code. Cheap
# scripts are those that o200k_base has many words of.
_ASCII: Final = (
    _Script({*_UPPER, *_LOWER, *_LATIN_EXTENDED}, 150, 340),
    _Script(_PUNCTUATION, 150, 650),
    _Script(b"\r\n", 60, 600),
)
_OTHERS: Final = (
    _Script(range(0xC3, 0xCE), 1200),  # letters with accents, beside what any letter weighs
    _Script((0xE1,), 160),  # Vietnamese, Georgian, and Greek with all its accents: likewise
    _Script(range(0xCE, 0xD0), 350, 400),  # Greek
    _Script(range(0xD0, 0xD4), 140, 870),  # Cyrillic
    _Script(range(0xD4, 0xD8), 440, 250),  # Hebrew, Armenian
    _Script(range(0xD8, 0xE0), 300, 350),  # Arabic
    _Script((0xE0,), 320, 600),  # the scripts of India, Thai
    _Script((0xE3,), 740),  # Kana, and the punctuation of East Asia
    _Script(range(0xE4, 0xEA), 760),  # Chinese characters
    _Script(range(0xEA, 0xEE), 380, 800),  # Hangul
    _Script((0xEE, 0xEF), 550),  # fullwidth forms
    _Script((0xC2, 0xE2), 800),  # quotation marks, dashes, symbols
    _Script(range(0xF0, 0x100), 1400),  # emoji, rare Chinese characters
)
_PAIRS: Final = (
    (b"\xe0\xb8", 70),  # Thai, which has no spaces
    (b"\xe0\xb9", 70),
    (b"\xd1\x96", 1300),  # the letters of Ukrainian that Russian has not
    (b"\xd1\x97", 1300),
    (b"\xd1\x94", 1300),
)
"""Two bytes of UTF-8 that weigh more than their script says."""

_DIGIT_TABLE: Final = bytes(b"-x"[byte in _DIGITS] for byte in range(256))
_SPACE_TABLE: Final = bytes(b"-x"[byte in b"\t "] for byte in range(256))
_CASE_TABLE: Final = bytes(b"-aA"[(byte in _LOWER) + 2 * (byte in _UPPER)] for byte in range(256))


@dataclass(frozen=True, slots=True)
class ScriptCounter:
    """An estimate that needs no vocabulary: 10 ms at the most.

    Within 15 percent of o200k_base on ordinary English, Chinese, Russian and code; up to 25 percent too low in
    languages that it has few words of (Finnish, Lithuanian, Punjabi), lower still for what is random, such as Base64.
    """

    name: str = "script"

    def count(self, text: str) -> int:
        """Never 0 for a text that is not empty."""
        weight = _sampled(text, _WEIGHED_CHARS, _weight)
        return max(-(-weight // _MILLI), 1) if text else 0


def _weight(text: str) -> int:
    """In thousandths of a token."""
    encoded = text.encode("utf-8", "surrogatepass")
    characters = encoded.translate(None, _CONTINUATION)
    scripts = _ASCII if text.isascii() else _ASCII + _OTHERS
    weight = sum(script.weight(characters) for script in scripts)
    if not text.isascii():
        weight += sum(encoded.count(pair) * more for pair, more in _PAIRS)
    return weight + _digits(characters) + _spaces(characters) + _humps(characters)


def _digits(characters: bytes) -> int:
    """A token for every three digits, and for what is left at the end of a number."""
    mask = characters.translate(_DIGIT_TABLE).replace(b"xxx", b"3")
    return (mask.count(b"3") + mask.count(b"x-") + mask.endswith(b"x")) * _MILLI


def _spaces(characters: bytes) -> int:
    """A space belongs to the word that it precedes; several are one token, however many they are."""
    mask = characters.translate(_SPACE_TABLE)
    return (mask.count(b"xx-") + mask.endswith(b"xx")) * 900 + mask.count(b"xxxx") * 60


def _humps(characters: bytes) -> int:
    """Capitals, and those within words, as in `camelCase` and Base64."""
    mask = characters.translate(_CASE_TABLE)
    return mask.count(b"aA") * 500 + mask.count(b"A") * 30


# By a tokenizer

_EXACT_CHARS: Final = 16_384  # some 10 ms at the most; a million spaces make the tokenizer panic


class TiktokenCounter:
    """What an encoding of tiktoken makes of a text: exactly, up to 16,384 characters."""

    def __init__(self, encoding: Encoding) -> None:
        self.name = encoding.name
        self._encoding = encoding

    def count(self, text: str) -> int:
        """The name of a special token in a text, such as <|endoftext|>, is text like any other."""
        return _sampled(text, _EXACT_CHARS, self._exactly)

    def _exactly(self, text: str) -> int:
        return len(self._encoding.encode(text, disallowed_special=()))


def _encoding(name: str) -> Encoding:
    at = f"charging.tokenizer: {name!r}"
    try:
        import tiktoken  # an extra
    except ImportError as error:
        raise ConfigurationError(
            f"{at} needs tiktoken: pip install 'streaming-openai-gateway[tokens]'; empty counts by script"
        ) from error
    try:
        known = tiktoken.list_encoding_names()
        found = tiktoken.get_encoding(name) if name in known else None
    except Exception as error:  # whatever fetches a vocabulary, or a plugin of tiktoken, comes up with
        raise ConfigurationError(
            f"{at}: its vocabulary cannot be had ({type(error).__name__}); put it in the directory that "
            "TIKTOKEN_CACHE_DIR names, or let this machine download it once"
        ) from error
    if found is None:
        raise ConfigurationError(f"{at} is no encoding of tiktoken; allowed: {', '.join(sorted(known))}")
    return found


# What of a call is text

_MAX_PIECES: Final = 50_000
_MAX_DEPTH: Final = 8
_MAX_APART: Final = 256

_PROMPT_FIELDS: Final = ("messages", "input", "prompt", "instruction", "instructions", "suffix")
_SCHEMA_FIELDS: Final = ("tools", "functions", "response_format")
_TEXT_FIELDS: Final = (
    "name", "content", "text", "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call", "function",
    "custom", "arguments", "input", "output", "summary", "audio", "transcript",
)  # fmt: skip
"""What holds the texts of messages, of their parts and calls of tools, and of the items of responses."""

_MEDIA: Final = re.compile(r"(?:^|_)(?:image|audio|video|file|document|screenshot)(?:_(?!search)|$)")
_OF_FILES: Final = ("v1/models", "v1/files")
_OF_MEDIA: Final = ("v1/images/", "v1/audio/")
_TRANSCRIBING: Final = ("v1/audio/transcriptions", "v1/audio/translations")
_WRITING_NO_TEXT: Final = (*_OF_FILES, "v1/images/", "v1/audio/speech", "v1/embeddings", "v1/moderations")


def prompt_tokens(counter: TokenCounter, method: str, arguments: Arguments) -> int:
    """The tokens of what was sent upstream; an uploaded file is no argument and counts nothing.

    The arguments of an interface that nobody knows count by their JSON text, and so do absurd ones.
    """
    if method.startswith(_OF_FILES) or not arguments.values:
        return 0
    try:
        pieces = list(islice(_prompt_pieces(arguments.values), _MAX_PIECES + 1))
    except orjson.JSONEncodeError:  # nested too deeply to be written
        return _count_json(counter, arguments.text)
    if not pieces and method.startswith(_OF_MEDIA):
        return 0
    return _count(counter, pieces) if 0 < len(pieces) <= _MAX_PIECES else _count_json(counter, arguments.text)


def completion_tokens(counter: TokenCounter, method: str, body: bytes) -> int:
    """The tokens of a whole answer's texts; 0 of an answer that is no text, or none that is known."""
    if method.startswith(_WRITING_NO_TEXT):
        return 0
    try:
        answer: JsonValue = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):  # a transcription can be a bare text
        return _count_json(counter, body) if method.startswith(_TRANSCRIBING) else 0
    try:
        pieces = list(islice(_answer_pieces(answer), _MAX_PIECES + 1))
    except orjson.JSONEncodeError:
        return _count_json(counter, body)
    return _count(counter, pieces) if len(pieces) <= _MAX_PIECES else _count_json(counter, body)


def _count_json(counter: TokenCounter, text: bytes) -> int:
    return counter.count(text.decode("utf-8", "replace"))


def _count(counter: TokenCounter, pieces: list[str | int]) -> int:
    """The tokens of texts and of what has been counted already.

    Each text on its own, unless they are many or long: a tokenizer's samples are of all of them together then.
    """
    texts = [piece for piece in pieces if isinstance(piece, str)]
    counted = sum(piece for piece in pieces if isinstance(piece, int))
    if len(texts) > _MAX_APART or sum(map(len, texts)) > _EXACT_CHARS:
        return counted + counter.count(" ".join(texts))
    return counted + sum(map(counter.count, texts))


def _prompt_pieces(values: Mapping[str, JsonValue]) -> Iterator[str | int]:
    """Texts, and numbers of tokens for what is none."""
    for name in _PROMPT_FIELDS:
        yield from _pieces(values.get(name))
        yield from _chat_format(values.get(name))
    for name in _SCHEMA_FIELDS:
        if value := values.get(name):
            yield _json(value)
    text = values.get("text")  # of responses: {"format": …}
    if isinstance(text, dict) and "format" in text:
        yield _json(text["format"])


def _chat_format(messages: JsonValue) -> Iterator[int]:
    """What OpenAI's chat format adds to the texts of messages."""
    items = messages if isinstance(messages, list) else []
    spoken = [item for item in items if isinstance(item, dict) and "role" in item]
    if spoken:
        names = sum("name" in message for message in spoken)
        yield PER_CHAT_TOKENS + len(spoken) * PER_MESSAGE_TOKENS + names * PER_NAME_TOKENS


def _answer_pieces(answer: Mapping[str, JsonValue]) -> Iterator[str | int]:
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            yield from _pieces(choice.get("message"))
            yield from _pieces(choice.get("text"))
    yield from _pieces(answer.get("output"))
    text = answer.get("text")
    if isinstance(text, str):  # an object is what a response was asked for
        yield text


def _pieces(value: JsonValue, depth: int = 0) -> Iterator[str | int]:
    """The texts of a message, a part, an item, or a list of them; a list of token ids is so many tokens."""
    if value is None:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth < _MAX_DEPTH:
        if set(map(type, value)) == {int}:
            yield len(value)
        else:
            for item in value:
                yield from _pieces(item, depth + 1)
    elif isinstance(value, dict) and depth < _MAX_DEPTH:
        yield from _object_pieces(value, depth + 1)
    else:
        yield _json(value)


def _object_pieces(value: dict[str, JsonValue], depth: int) -> Iterator[str | int]:
    kind = value.get("type")
    if isinstance(kind, str) and _MEDIA.search(kind):
        yield MEDIA_TOKENS
        return
    held = [name for name in _TEXT_FIELDS if name in value]
    if "reasoning_content" in held and "reasoning" in held:
        held.remove("reasoning")  # some upstreams write one text under both names
    for name in held:
        yield from _pieces(value[name], depth)
    if not held:
        yield MEDIA_TOKENS if any(map(_MEDIA.search, value)) else _json(value)


def _json(value: JsonValue) -> str:
    return orjson.dumps(value).decode()
