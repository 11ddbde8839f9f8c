"""The price list and its arithmetic: integers, rounded up once, and never more than was held."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.charging import Price, Prices, Use, greatest_use, price_of
from gateway.config import PriceSettings
from gateway.types import Arguments, Call, JsonValue, Usage

FULL = Price(per_call=1000, per_1k_prompt=2500, per_1k_cached=1250, per_1k_completion=10_000)


def call_of(values: dict[str, JsonValue], method: str = "v1/chat/completions") -> Call:
    return Call("1.x", "native", method, "POST", Arguments(orjson.dumps(values), values))


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (None, 1000),
        (Usage(1, 0), 1003),  # 2.5, rounded up
        (Usage(1000, 1000), 13_500),
        (Usage(1000, 0, 1000), 2250),
        (Usage(1000, 0, 5000), 2250),
        (Usage(-4, -4, -4), 1000),
        (Usage(None, 1000), 11_000),
        (Usage(10**12, 10**12), 1000 + 12_500 * 10**9),
    ],
)
def test_a_cost_is_exact(usage: Usage | None, cost: int) -> None:
    assert FULL.cost(Use(usage)) == cost


def test_images_and_sound() -> None:
    price = Price(per_image=40_000, per_second=100)
    assert price.cost(Use(images=3)) == 120_000
    assert price.cost(Use(milliseconds=1)) == 1
    assert price.cost(Use(milliseconds=12_500)) == 1250


def test_a_sum_is_rounded_up_once() -> None:
    price = Price(per_1k_prompt=1, per_1k_cached=1, per_1k_completion=1)
    assert price.cost(Use(Usage(1, 1))) == 1
    assert price.cost(Use(Usage(500, 501, 100))) == 2


@given(*[st.integers(0, 10**7)] * 3, *[st.integers(0, 10**9)] * 3)
def test_what_was_used_within_the_bounds_never_costs_more_than_was_held(
    prompt: int, completion: int, cached: int, prompt_price: int, cached_price: int, completion_price: int
) -> None:
    price = Price(
        per_call=7, per_1k_prompt=prompt_price, per_1k_cached=cached_price, per_1k_completion=completion_price
    )
    call = call_of({"messages": "x" * 50, "max_tokens": completion})
    most = greatest_use(price, call)
    used = Usage(min(prompt, len(call.arguments.text)), completion, cached)
    assert price.cost(Use(used)) <= price.cost(most)


@pytest.mark.parametrize(
    ("values", "completion"),
    [
        ({}, 16_384),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 9, "max_completion_tokens": 5}, 9),  # which one the upstream heeds is its own affair
        ({"max_output_tokens": 7}, 16_384),  # that is no argument of this interface
        ({"max_tokens": 5, "n": 3}, 15),
        ({"max_tokens": 5, "n": 2, "best_of": 4}, 20),
        ({"max_tokens": 5, "n": "3"}, 15),  # some upstreams take a text for a number
        ({"max_tokens": 5, "n": "nan"}, 5),
        ({"max_tokens": -1}, 16_384),  # no limit, for some upstreams
        ({"max_tokens": 0}, 16_384),
        ({"max_tokens": 0.5}, 16_384),
        ({"max_tokens": "100000"}, 100_000),
        ({"max_tokens": 5.9, "n": 0}, 5),
        ({"max_tokens": "5"}, 16_384),
        ({"max_tokens": True, "n": None}, 16_384),
        ({"max_tokens": 10**18}, 10_000_000),
    ],
)
def test_the_greatest_completion(values: dict[str, JsonValue], completion: int) -> None:
    usage = greatest_use(FULL, call_of(values)).usage
    assert usage is not None
    assert usage.completion_tokens == completion


def test_each_interface_has_a_limit_of_its_own() -> None:
    values: dict[str, JsonValue] = {"max_tokens": 1, "max_output_tokens": 7}
    for method, tokens in (("v1/responses", 7), ("v1/completions", 1), ("v1/messages", 7)):
        usage = greatest_use(FULL, call_of(values, method)).usage
        assert usage is not None
        assert usage.completion_tokens == tokens


def test_the_prompt_of_an_upload_is_in_its_file() -> None:
    usage = greatest_use(FULL, call_of({}, "v1/audio/transcriptions"), upload=True).usage
    assert usage is not None
    assert usage.prompt_tokens == 128_000


@pytest.mark.parametrize(
    ("values", "is_text"),
    [
        ({"messages": [{"role": "user", "content": 'say "image_url": {'}]}, True),
        ({"prompt": "a text"}, True),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, False),
        ({"input": [{"type": "input_image", "file_id": "f"}]}, False),
        ({"input": "a", "previous_response_id": "r"}, False),
        ({"prompt": {"id": "p"}}, False),
    ],
)
def test_a_prompt_is_at_most_a_token_a_byte_unless_more_than_text_is_in_it(
    values: dict[str, JsonValue], is_text: bool
) -> None:
    call = call_of(values)
    usage = greatest_use(FULL, call).usage
    assert usage is not None
    assert usage.prompt_tokens == (len(call.arguments.text) if is_text else 128_000)


def test_an_escaped_name_does_not_hide_a_picture() -> None:
    text = rb'{"messages":[{"content":[{"type":"text","image\u005furl":{"url":"x"}}]}]}'
    usage = greatest_use(FULL, Call("1.x", "native", "v1/chat/completions", "POST", Arguments(text, {}))).usage
    assert usage is not None
    assert usage.prompt_tokens == 128_000


def prices(*rows: PriceSettings) -> Prices:
    return Prices(rows)


def test_the_first_match_counts() -> None:
    found = prices(
        PriceSettings(method="v1/chat/*", model="gpt-4o-mini*", per_call="1"),
        PriceSettings(method="v1/chat/*", model="gpt-4o*", per_call="2"),
        PriceSettings(method="v1/*", list="vip", per_call="3"),
        PriceSettings(method="v1/embeddings", per_call="4"),
    )

    def cost(price_list: str, method: str, model: str | None) -> int | None:
        price = found.find(price_list, method, model)
        return None if price is None else price.per_call // 1_000_000

    for _ in range(2):  # what is remembered is the same
        assert cost("", "v1/chat/completions", "gpt-4o-mini-2024") == 1
        assert cost("", "v1/chat/completions", "gpt-4o") == 2
        assert cost("vip", "v1/chat/completions", "other") == 3
        assert cost("", "v1/chat/completions", "other") is None
        assert cost("", "v1/chat/completions", None) is None
        assert cost("", "v1/embeddings", None) == 4
        assert cost("", "v1/embeddings", "any") == 4


def test_what_callers_name_is_remembered_within_bounds() -> None:
    found = prices(PriceSettings(per_call="1"))
    for number in range(10_000):
        found.find("", "v1/x", f"model-{number}")
    assert len(found._known) <= 4096
    found.find("", "v1/x", "m" * 100_000)
    assert all(len(model or "") < 300 for _, _, model in found._known)


def test_a_cached_token_costs_what_a_prompts_does_unless_it_has_a_price() -> None:
    assert price_of(PriceSettings(per_1k_prompt="0.01")).per_1k_cached == 10_000
    assert price_of(PriceSettings(per_1k_prompt="0.01", per_1k_cached="0")).per_1k_cached == 0


def test_no_prices_are_false() -> None:
    assert not prices()
    assert prices(PriceSettings())
