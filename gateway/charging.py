"""What calls cost: the price list, the greatest cost of a call before it is made, and its cost once it is known.

Pure arithmetic on integers: amounts are millionths of the currency unit. Knows no store and no connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate

from gateway.amounts import amount_micros
from gateway.config import PriceSettings, TranslationSettings
from gateway.types import Arguments, Call, JsonValue, PerCall, Usage

MAX_TOKENS = 10_000_000
"""More tokens than any model takes or gives: what a caller names beyond is cut to it."""

_SENTENCE_TOKENS = 16  # a short one
_INSTRUCTION_TOKENS = 300
_FRAME_TOKENS = 20
_GROWTH = 2
MAX_COST = 2**62  # the store's integers have 64 bits
_MAX_KNOWN = 4096  # results of look-ups that are remembered; callers choose models' names
_MAX_NAME_CHARS = 256
_COMPLETION_LIMITS = {
    "v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "v1/completions": ("max_tokens",),
    "v1/responses": ("max_output_tokens",),
}
_ANY_LIMIT = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_NOT_IN_BYTES = re.compile(
    rb'"(?:image_url|input_audio|file|file_id|file_data|previous_response_id|conversation)"\s*:'
    rb'|"type"\s*:\s*"(?:input_\w+|file_search|web_search\w*|code_interpreter|mcp)"'
    rb"|\\u00[2-7]"
)
"""Arguments by which a prompt can grow beyond its own bytes: pictures, sounds, files, what the upstream remembers. An
escape of an ASCII character, which nobody needs, could hide one of their names."""


@dataclass(frozen=True, slots=True)
class Price:
    """A row of the price list, in millionths; `per_1k_…` of a thousand tokens. The bounds are for what is held.

    `counts_tokens`: whether what a call costs depends on its tokens.
    """

    per_call: int = 0
    per_1k_prompt: int = 0
    per_1k_cached: int = 0
    per_1k_completion: int = 0
    per_image: int = 0
    per_second: int = 0
    max_prompt_tokens: int = 128_000
    max_completion_tokens: int = 16_384
    max_seconds: int = 3_600
    counts_tokens: bool = field(init=False)

    def __post_init__(self) -> None:
        counts = bool(self.per_1k_prompt or self.per_1k_cached or self.per_1k_completion)
        object.__setattr__(self, "counts_tokens", counts)  # the dataclass is frozen

    def cost(self, use: Use) -> int:
        """What a use costs, rounded up to the next millionth, once for all of it; absurd sums are cut to 2**62."""
        prompt, completion, cached = tokens_of(use.usage)
        thousandths = (
            (prompt - cached) * self.per_1k_prompt + cached * self.per_1k_cached + completion * self.per_1k_completion
        )
        seconds = -(-use.milliseconds * self.per_second // 1000)
        return min(self.per_call + -(-thousandths // 1000) + use.images * self.per_image + seconds, MAX_COST)


_COUNTING = Price(per_1k_completion=1)


class Use(PerCall, frozen=True):
    """What a call used, or may use at most. `estimated`: a part of it was counted by us."""

    usage: Usage | None = None
    images: int = 0
    milliseconds: int = 0  # of sound
    estimated: bool = False


NOTHING = Use()


def tokens_of(usage: Usage | None) -> tuple[int, int, int]:
    """Prompt, completion and cached tokens; absurd ones clamped: none is negative, the cached are of the prompt's."""
    if usage is None:
        return 0, 0, 0
    prompt = max(usage.prompt_tokens or 0, 0)
    return prompt, max(usage.completion_tokens or 0, 0), min(max(usage.cached_tokens or 0, 0), prompt)


@dataclass(frozen=True, slots=True)
class _Row:
    price_list: str
    takes_method: Callable[[str], object]
    takes_model: Callable[[str], object] | None  # None: any, and a call without one
    price: Price


class Prices:
    """The price list. An empty one means that calls are free."""

    def __init__(self, rows: Iterable[PriceSettings]) -> None:
        self._rows = [_row(row) for row in rows]
        self._known: dict[tuple[str, str, str | None], Price | None] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def find(self, price_list: str, method: str, model: str | None) -> Price | None:
        """The first row for this account's list, method and model."""
        key = (price_list, method, model)
        try:
            return self._known[key]
        except KeyError:
            pass
        price = next((row.price for row in self._matching(price_list, method) if _takes(row, model)), None)
        if len(method) + len(model or "") <= _MAX_NAME_CHARS:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = price
        return price

    def possible(self, price_list: str, method: str) -> list[Price]:
        """Every price that the method may have, whatever the model: that of an upload is not known at its start."""
        return [row.price for row in self._matching(price_list, method)]

    def _matching(self, price_list: str, method: str) -> Iterable[_Row]:
        return (row for row in self._rows if row.price_list in {"", price_list} and row.takes_method(method))


def _takes(row: _Row, model: str | None) -> bool:
    return row.takes_model is None or (model is not None and row.takes_model(model) is not None)


def _row(settings: PriceSettings) -> _Row:
    return _Row(
        settings.list,
        re.compile(translate(settings.method)).match,
        None if settings.model == "*" else re.compile(translate(settings.model)).match,
        price_of(settings),
    )


def price_of(settings: PriceSettings) -> Price:
    """A row's amounts as integers. ValueError for what is no amount."""
    prompt = _micros(settings.per_1k_prompt)
    return Price(
        per_call=_micros(settings.per_call),
        per_1k_prompt=prompt,
        per_1k_cached=_micros(settings.per_1k_cached) if settings.per_1k_cached else prompt,
        per_1k_completion=_micros(settings.per_1k_completion),
        per_image=_micros(settings.per_image),
        per_second=_micros(settings.per_second),
        max_prompt_tokens=settings.max_prompt_tokens,
        max_completion_tokens=settings.max_completion_tokens,
        max_seconds=settings.max_seconds,
    )


def translation_price(settings: TranslationSettings) -> Price:
    """What translating costs, as the configuration has it."""
    return Price(
        per_call=_micros(settings.per_call),
        per_1k_prompt=_micros(settings.per_1k_prompt),
        per_1k_cached=_micros(settings.per_1k_prompt),
        per_1k_completion=_micros(settings.per_1k_completion),
    )


def greatest_translation(price: Price, call: Call, *, with_answer: bool, with_prompt: bool) -> int:
    """What translating a call's answer, and its prompt, may cost, for its hold: sentence by sentence, and each with
    the instruction. A model that says more than it was given leaves a shortfall.
    """
    text = len(str(call.arguments.values.get("prompt"))) if with_prompt else 0
    if with_answer:
        text += greatest_tokens(call)
    requests = 1 + text // _SENTENCE_TOKENS
    use = Use(Usage(_GROWTH * text + requests * _INSTRUCTION_TOKENS, _GROWTH * text + requests * _FRAME_TOKENS))
    return min(price.cost(use) + (requests - 1) * price.per_call, MAX_COST)


def greatest_tokens(call: Call) -> int:
    """The most tokens that an answer may hold, all its choices together."""
    use = greatest_use(_COUNTING, call).usage
    return 0 if use is None else use.completion_tokens or 0


def _micros(text: str) -> int:
    return amount_micros(text) if text else 0


def greatest_use(price: Price, call: Call, *, running_tokens: int | None = None, upload: bool = False) -> Use:
    """The most that a call can use, for its hold.

    A token is at least a byte, so the arguments' length bounds a prompt that is nothing but text. `running_tokens`: so
    many completion tokens are held at first, since more are held as the stream runs.
    """
    values = call.arguments.values
    prompt = completion = cached = images = 0
    choices = _count(values["n"], 1) if "n" in values else 1
    if price.counts_tokens:
        prompt = price.max_prompt_tokens if upload else _greatest_prompt(price, call.arguments)
        completion = _greatest_completion(price, call.method, values)
        if running_tokens is not None:
            completion = min(completion, running_tokens)
        completion *= max(choices, _count(values["best_of"], 1)) if "best_of" in values else choices
        if price.per_1k_cached > price.per_1k_prompt:
            cached = prompt
    if price.per_image:
        images = choices
    return Use(Usage(prompt, completion, cached), images, price.max_seconds * 1000 if price.per_second else 0)


def _greatest_prompt(price: Price, arguments: Arguments) -> int:
    text = arguments.text
    if _may_hold_more(text) or isinstance(arguments.values.get("prompt"), dict):
        return max(price.max_prompt_tokens, len(text))
    return len(text)


def _may_hold_more(text: bytes) -> bool:
    """Whether there is more than text in a prompt. The pattern is asked only where a plain search finds its trace."""
    traced = (
        b"_url" in text or b"input_" in text or b"file" in text or b"_id" in text or b"conversation" in text
        or b"search" in text or b"_interpreter" in text or b"mcp" in text or b"\\u00" in text
    )  # fmt: skip
    return traced and _NOT_IN_BYTES.search(text) is not None


def _greatest_completion(price: Price, method: str, values: Mapping[str, JsonValue]) -> int:
    """The highest limit that the call names and its interface knows: which one counts is for the upstream to say.

    What is no limit everywhere (some take 0 or -1 for none, and texts for numbers) is held by the price's bound.
    """
    limits = [
        _limit(price, values[name])
        for name in _COMPLETION_LIMITS.get(method, _ANY_LIMIT)
        if values.get(name) is not None
    ]
    return max(limits, default=price.max_completion_tokens)


def _limit(price: Price, given: JsonValue) -> int:
    count = _count(given, 0)
    return max(count, price.max_completion_tokens) if isinstance(given, str) else count or price.max_completion_tokens


def _count(value: JsonValue, default: int) -> int:
    """A caller's number of something, which may be written as a text; what is none counts as `default`."""
    if isinstance(value, str):
        try:
            value = float(value[:40])
        except ValueError:
            return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # not a number
        return default
    return int(min(max(value, default), MAX_TOKENS))
