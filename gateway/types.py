"""The values that pass between the stages of a call. With hookspecs.py, all that a plugin author must read.

Nothing here does I/O or knows of HTTP, SQL or a configuration file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, TypeAlias

import msgspec
import orjson

from gateway.amounts import amount_text as amount_text  # open to plugins

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_DEPTH = 250
"""The deepest nesting that is rendered (contract, section 5)."""

DEFAULT_RENDERING_LIMIT_BYTES = 64 * 1024 * 1024


class RenderingRefused(ValueError):  # noqa: N818  # a formatter's verdict, not its fault
    """A document cannot be rendered: too deep, too large, or not expressible in the format. Its text is the reason."""


class MethodRefused(Exception):  # noqa: N818  # a method's verdict on a call, not its fault
    """A method does not answer a call. `code` is one of the error codes that clients see (docs/api.md) but for 0000.

    `reason` is for the person who called, and stays empty with 2000; `param` names the argument at fault, where one is.
    """

    def __init__(self, code: str, reason: str, param: str | None = None) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason
        self.param = param


class PerCall(msgspec.Struct, frozen=True):
    """A value that is made for every call: a frozen dataclass in all but the cost of making one."""


class Document(PerCall, frozen=True):
    """What a formatter renders: one JSON value, kept as the text it arrived in.

    `text` is valid JSON in UTF-8 with the author's own spacing and number spellings; a format that is JSON itself
    embeds it as it is. `limit_bytes` is the operator's limit of a rendering: a formatter whose output can outgrow its
    input stops there with RenderingRefused.
    """

    text: bytes
    limit_bytes: int = DEFAULT_RENDERING_LIMIT_BYTES

    @property
    def value(self) -> JsonValue:
        """The text as Python objects, parsed anew at each use; of duplicate keys the last one counts."""
        value: JsonValue = orjson.loads(self.text)
        return value


@dataclass(frozen=True, slots=True)
class Account:
    """Who calls, and what they may. `secret_digest` is a keyed hash; the secret itself is stored nowhere."""

    id: int
    name: str
    key: str
    secret_digest: bytes
    stopped: bool = False
    expires_at: float | None = None  # seconds since the epoch
    methods: tuple[str, ...] | None = None  # globs; None: every method
    stopped_methods: tuple[str, ...] = ()  # globs
    allow_from: tuple[IPv4Network | IPv6Network, ...] = ()  # empty: from anywhere
    concurrency: int | None = None
    per_minute: int | None = None
    tokens_per_minute: int | None = None
    per_day: int | None = None
    total: int | None = None
    price_list: str = ""  # of the configuration's prices; empty: those for everyone
    cache: bool | None = None  # whether its calls use the cache; None: as the front has it
    lang_prompt: bool = False  # whether prompts of image methods are translated to English
    balance_micros: int = 0  # as it was when the account was read: what counts is in the store
    held_micros: int = 0  # likewise
    created_at: float = 0.0


class Arguments(PerCall, frozen=True):
    """A call's arguments: the JSON object that goes upstream, as text, and what the gateway reads of it.

    `text` is what the client wrote wherever that is possible, so number spellings and key order survive.
    """

    text: bytes
    values: Mapping[str, JsonValue]

    @property
    def model(self) -> str | None:
        model = self.values.get("model")
        return model if isinstance(model, str) else None


NO_ARGUMENTS = Arguments(b"{}", {})


class Call(PerCall, frozen=True):
    """One call, whichever front it came by."""

    request_id: str  # the node's id, a dot, 13 hex digits
    front: str  # "custom" or "native"
    method: str  # "v1/chat/completions"
    verb: str  # the HTTP method upstream
    arguments: Arguments = NO_ARGUMENTS
    query: str = ""  # for the upstream, percent-encoded, without "?"
    result_type: str | None = "json"  # None: the native front's plain body
    lang: str | None = None  # None: not asked for
    lang_prompt: bool | None = None  # whether the prompt is to be translated; None: not said
    cache: bool | None = None  # whether it may come from the cache; None: not said
    cache_pace: bool | None = None  # a kept stream comes as it came; None: not said
    version: int = 1  # of the envelope
    stream: bool = False
    client_ip: str = ""


class TranslationFailed(Exception):  # noqa: N818  # a finding about texts that stay as they are, not a fault of ours
    """Texts could not be translated. Its own text is the reason, for the operator; it quotes nothing of theirs."""


async def no_engine(texts: Sequence[str], tag: str) -> Sequence[str | None]:
    """The engine where none is configured."""
    raise TranslationFailed("no engine is configured")


@dataclass(frozen=True, slots=True)
class TranslationContext:
    """What a translator may know of the call whose texts it is given, and the engine that it may use.

    `engine` takes texts and the BCP 47 tag of the language they are wanted in, and returns as many: None for one that
    it has no good translation of. It raises TranslationFailed where it has none at all. Marks like `⟦1⟧` in a text
    stand for what must not be translated, and belong into the translation.
    """

    method: str
    request_id: str
    account: str
    engine: Callable[[Sequence[str], str], Awaitable[Sequence[str | None]]] = no_engine


class Usage(PerCall, frozen=True):
    """The tokens of one call, as its upstream counted them; None is what it did not tell.

    `cached_tokens` are a part of the prompt's.
    """

    prompt_tokens: int | None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


Settled: TypeAlias = Literal["free", "exact", "estimated", "unknown"]
"""How a call's charge came about: nothing was held for it; by the upstream's count; by ours; its process died."""


class CallRecord(PerCall, frozen=True):
    """One row of the call log: written once, when the call has ended.

    `outcome` is the four-digit error code; times are monotonic differences but for `started_at` (seconds since the
    epoch).
    """

    id: int  # last_id
    request_id: str
    account_id: int
    front: str
    method: str
    model: str | None
    outcome: str
    status: int  # the HTTP status the client was given; 0: none was sent
    streamed: bool
    cut: bool  # a stream that did not reach its end, by whosever fault
    started_at: float
    duration_s: float
    first_byte_s: float | None
    sent_bytes: int
    cache: str = "off"  # hit, miss, shared (with another call that was under way), replay (of an idempotency key), off
    client_ip: str = ""
    prompt_tokens: int | None = None  # as the upstream counted them; None: it said nothing
    completion_tokens: int | None = None
    cached_tokens: int | None = None  # of the prompt's
    charge_micros: int = 0
    shortfall_micros: int = 0  # what was used beyond the hold and the balance, and is not charged
    settled: Settled = "free"
    translate_status: str = ""  # of the answer; empty: no language was asked for
    translation_micros: int = 0  # what translating cost, charged or not


@dataclass(frozen=True, slots=True)
class CallCounts:
    """How often an account called: today (in the operator's time zone) and in all, by outcome."""

    today: int = 0
    succeeded: int = 0  # 0000
    empty: int = 0  # 2000
    failed: int = 0  # reached dispatch and was not charged

    @property
    def total(self) -> int:
        return self.succeeded + self.empty + self.failed


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has at one moment, in millionths, and how often it called. `running`: its calls that are open."""

    balance_micros: int
    held_micros: int  # a part of the balance: what is set aside for open calls
    counts: CallCounts
    running: int

    @property
    def available_micros(self) -> int:
        return self.balance_micros - self.held_micros


JobStatus: TypeAlias = Literal["NOT_START", "SUBMITTED", "IN_PROGRESS", "SUCCESS", "FAILURE"]


@dataclass(frozen=True, slots=True)
class Job:
    """An image job as its account sees it. Times are milliseconds since the epoch, None as long as they are to come.

    `images` are addresses, the first of them the most important; `fail_reason` is empty unless the job has failed.
    """

    imgid: str  # 16 digits, rising with the time of the submission
    status: JobStatus
    progress_percent: int
    prompt: str  # as the caller wrote it
    submitted_ms: int
    started_ms: int | None = None
    finished_ms: int | None = None
    images: tuple[str, ...] = ()
    fail_reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.finished_ms is not None

    @property
    def document(self) -> JsonValue:
        """The job as clients are told of it (contract, section 7)."""
        return {
            "imgid": self.imgid,
            "status": self.status,
            "progress": f"{self.progress_percent}%",
            "prompt": self.prompt,
            "submitTime": self.submitted_ms,
            "startTime": self.started_ms,
            "finishTime": self.finished_ms,
            "imageUrl": self.images[0] if self.images else None,
            "images": list(self.images),
            "failReason": self.fail_reason or None,
        }
