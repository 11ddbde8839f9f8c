"""What is noted of one call on its way: the only value of the road that changes. It ends as a row of the call log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import ERROR_CODES, ErrorCode
from gateway.types import Account, Call, CallRecord, Settled, Usage

if TYPE_CHECKING:
    from gateway.job_opening import JobOpening
    from gateway.limits import Slot
    from gateway.settling import Settler

SUCCESS = ERROR_CODES["0000"]
NO_RESULT = ERROR_CODES["2000"]


class Translating:
    """What is noted of how the texts of one call came into the language that was asked for.

    `status` is what clients are told of the answer, `prompt_status` of the prompt; `engine` who was asked. `micros` is
    what that cost, `seconds` how long the answer's texts were in work.
    """

    __slots__ = ("engine", "micros", "prompt_status", "seconds", "source_lang", "status")

    def __init__(self) -> None:
        self.status = ""
        self.prompt_status = ""
        self.engine = ""
        self.source_lang = ""
        self.micros = 0
        self.seconds = 0.0

    @property
    def charged_micros(self) -> int:
        """What the caller may be charged of that: nothing for what came to nothing."""
        return 0 if self.status == "failed" or (not self.status and self.prompt_status == "failed") else self.micros

    @property
    def fields(self) -> str:
        """The header lines about it."""
        status = f"X-Translate-Status: {self.status}\r\n" if self.status else ""
        return status + (f"X-Prompt-Translate-Status: {self.prompt_status}\r\n" if self.prompt_status else "")


class Progress:
    """`started` and `upstream_s` are monotonic seconds, `started_at` seconds since the epoch.

    `asked` holds the gateway's own parameters as the caller wrote them, for refusals before there is a call. `outcome`
    is what the row will say if nothing more happens: while a success of the upstream's is delivered it is success, and
    a client that leaves then changes nothing about it. `replayed` are request_id and row of the call whose answer is
    given again. `cache` is hit, miss, shared (another's call answered), off or replay; of a hit `age_s` tells its age,
    and `made_of` what it was made of where it was kept as the other of stream and whole. `translating` is None where no
    text is to be translated; `memory_only`: only what is remembered is, since nobody would pay for more. `logged` is
    the row that was settled before the answer's end. `detached`: the client has left, and what the upstream still sends
    is read to its end. `opening` is there where the call may submit a job, which then takes over its end.
    """

    __slots__ = (
        "account",
        "age_s",
        "asked",
        "cache",
        "call",
        "charge_micros",
        "cut",
        "detached",
        "first_byte_at",
        "front",
        "logged",
        "made_of",
        "memory_only",
        "opening",
        "outcome",
        "replayed",
        "request_id",
        "row_id",
        "settled",
        "settler",
        "slot",
        "started",
        "started_at",
        "streamed",
        "translating",
        "upstream_s",
        "usage",
    )

    def __init__(self, request_id: str, row_id: int, front: str, started: float, started_at: float) -> None:
        self.request_id = request_id
        self.row_id = row_id
        self.front = front
        self.started = started
        self.started_at = started_at
        self.asked: dict[str, str] = {}
        self.account: Account | None = None
        self.call: Call | None = None
        self.outcome: ErrorCode = ERROR_CODES["5000"]
        self.streamed = False
        self.cut = False
        self.first_byte_at: float | None = None
        self.upstream_s: float | None = None
        self.translating: Translating | None = None
        self.usage: Usage | None = None
        self.settler: Settler | None = None
        self.slot: Slot | None = None
        self.charge_micros = 0
        self.settled: Settled = "free"
        self.logged: CallRecord | None = None
        self.cache = "off"
        self.age_s: float | None = None
        self.made_of = ""
        self.replayed: tuple[str, int] | None = None
        self.detached = False
        self.memory_only = False
        self.opening: JobOpening | None = None

    @property
    def ids(self) -> tuple[str, str]:
        """request_id and last_id, the row in the log: empty while no account is known, for then there is no row."""
        if self.replayed is not None:
            return self.replayed[0], str(self.replayed[1])
        return self.request_id, str(self.row_id) if self.account is not None else ""

    def fields(self, now: float, code: ErrorCode | None) -> str:
        """The header lines that every answer carries. `code` None: how the call ends is not known yet."""
        error_code = f"X-Error-Code: {code.code}\r\n" if code is not None else ""
        upstream = f"upstream;dur={self.upstream_s * 1e3:.1f}, " if self.upstream_s is not None else ""
        translated = self.translating.fields if self.translating is not None else ""
        request_id, last_id = self.ids
        if self.replayed is not None:
            error_code += "Idempotent-Replayed: true\r\n"
        return (
            f"X-Request-Id: {request_id}\r\nX-Last-Id: {last_id}\r\n{error_code}{self._cache_fields}{translated}"
            f"Server-Timing: {upstream}total;dur={(now - self.started) * 1e3:.1f}\r\n"
        )

    @property
    def _cache_fields(self) -> str:
        """What the cache had to do with it."""
        if self.cache in {"off", "replay"}:
            return "X-Cache: off\r\n"
        if self.cache == "miss":
            return "X-Cache: miss\r\n"
        if self.cache == "shared":
            return "X-Cache: miss\r\nX-Cache-Shared: true\r\n"
        made_of = f"X-Cache-Made-Of: {self.made_of}\r\n" if self.made_of else ""
        return f"X-Cache: hit\r\nAge: {int(self.age_s or 0)}\r\n{made_of}"

    def record(self, account: Account, now: float, status: int, sent_at: float | None, sent_bytes: int) -> CallRecord:
        """The row of the call log."""
        call = self.call
        first = self.first_byte_at or sent_at
        usage, translating = self.usage, self.translating
        return CallRecord(
            id=self.row_id,
            request_id=self.request_id,
            account_id=account.id,
            front=self.front,
            method=call.method if call is not None else "",
            model=self._model(),
            outcome=self.outcome.code,
            status=status,
            streamed=self.streamed,
            cut=self.cut,
            started_at=self.started_at,
            duration_s=now - self.started,
            first_byte_s=first - self.started if first is not None else None,
            sent_bytes=sent_bytes,
            cache=self.cache,
            client_ip=call.client_ip if call is not None else "",
            prompt_tokens=usage.prompt_tokens if usage is not None else None,
            completion_tokens=usage.completion_tokens if usage is not None else None,
            cached_tokens=usage.cached_tokens if usage is not None else None,
            charge_micros=self.charge_micros,
            settled=self.settled,
            translate_status=translating.status if translating is not None else "",
            translation_micros=translating.micros if translating is not None else 0,
        )

    def _model(self) -> str | None:
        """What the arguments name, or an upload's form."""
        model = self.call.arguments.model if self.call is not None else None
        return self.settler.bill.model if model is None and self.settler is not None else model
