"""What a job will hold and cost is what its call would: the price of its method, as it is at the submission."""

from __future__ import annotations

import pytest

from gateway.billing import Billing
from gateway.charging import Price, Prices
from gateway.config import ChargingSettings, IdempotencySettings, PriceSettings, UpstreamSettings
from gateway.errors import GatewayError
from gateway.job_opening import opening_of
from gateway.progress import Progress, Translating
from gateway.store.interface import Charged, Extension, Hold, Settlement
from gateway.store.jobs import JobPrice
from gateway.tokens import counter_of
from gateway.types import Account, Arguments, Call

ACME = Account(7, "acme", "acme-key", bytes(32))
ARGUMENTS = Arguments(b'{"prompt":"x","n":3}', {"prompt": "x", "n": 3})
CALL = Call("1.6403f86cd67f6", "custom", "images/submit", "POST", ARGUMENTS, client_ip="::1")
ROW = PriceSettings(method="images/*", per_call="0.5", per_image="0.25")


class NoBooks:
    """Nothing is held here: that is the job's business."""

    async def hold(self, hold: Hold) -> None:
        raise AssertionError

    async def extend(self, extension: Extension) -> None:
        raise AssertionError

    async def settle(self, settlement: Settlement) -> Charged:
        raise AssertionError


def billing(
    *rows: PriceSettings, charging: ChargingSettings | None = None, translations: Price | None = None
) -> Billing:
    return Billing(
        Prices(rows), charging or ChargingSettings(), IdempotencySettings(), UpstreamSettings(), counter_of(""),
        NoBooks(), translations,
    )  # fmt: skip


def opened(
    billing: Billing, *, key: str | None = None, translating: Translating | None = None
) -> tuple[Hold, JobPrice]:
    bill = billing.open(5, ACME, CALL, key, upload=False, with_prompt=translating is not None, opens_job=True)
    progress = Progress(CALL.request_id, 5, "custom", 0.0, 1_000.0)
    progress.translating = translating
    opening = opening_of(billing, bill, ACME, CALL, progress, None)
    return opening.hold, opening.price


def test_it_holds_what_its_images_may_cost() -> None:
    hold, price = opened(billing(ROW))
    assert hold.amount_micros == 1_250_000
    assert price == JobPrice(500_000, 250_000)
    assert (hold.call_id, hold.account_id, hold.method, hold.started_at, hold.client_ip) == (
        5, 7, "images/submit", 1_000.0, "::1",
    )  # fmt: skip


def test_without_prices_it_holds_nothing_and_costs_nothing() -> None:
    hold, price = opened(billing())
    assert (hold.amount_micros, price, hold.idempotency_key) == (0, JobPrice(), None)


def test_where_successes_are_not_charged_it_costs_nothing() -> None:
    assert opened(billing(ROW, charging=ChargingSettings(charged=("2000",))))[1] == JobPrice()


def test_its_key_tells_its_request_from_others() -> None:
    hold, _ = opened(billing(), key="k")
    assert hold.idempotency_key == "k"
    assert len(hold.fingerprint) == 16


def test_its_prompt_s_translation_is_paid_with_it_only_where_that_is_charged() -> None:
    translating = Translating()
    translating.micros, translating.prompt_status = 40, "translated"
    assert opened(billing(ROW), translating=translating)[1] == JobPrice(500_000, 250_000, 0, 40)
    hold, price = opened(billing(ROW, translations=Price(per_call=40)), translating=translating)
    assert price == JobPrice(500_000, 250_000, 40, 40)
    assert hold.amount_micros >= 1_250_040
    translating.prompt_status = "failed"
    assert opened(billing(ROW, translations=Price(per_call=40)), translating=translating)[1].extra_micros == 0


def test_without_a_price_of_its_own_it_is_refused() -> None:
    with pytest.raises(GatewayError, match="4010"):
        opened(billing(PriceSettings(method="v1/*", per_call="1")))
