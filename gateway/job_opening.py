"""A call that may submit an image job: what the job will hold, and what it will cost if it succeeds.

The hold is made together with the job, so that there is never one without the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.billing import Bill, Billing, fingerprint
from gateway.progress import Progress
from gateway.store.interface import Hold
from gateway.store.jobs import JobPrice
from gateway.types import Account, Call


class JobOpening:
    """`translated` gives the prompt for the backend where the caller wants it in another language; it costs, so it is
    asked for only when nothing else stands against the job. Raises GatewayError. `opened`: a job was made, or may have
    been, and the call's end is the job's.
    """

    __slots__ = ("_billing", "_price", "_progress", "account", "hold", "opened", "translated")

    def __init__(
        self,
        billing: Billing,
        bill: Bill | None,
        account: Account,
        hold: Hold,
        progress: Progress,
        translated: Callable[[], Awaitable[str]] | None,
    ) -> None:
        self._billing = billing
        self._price = None if bill is None or "0000" not in billing.charging.charged else bill.price
        self._progress = progress
        self.account = account
        self.hold = hold
        self.translated = translated
        self.opened = False

    @property
    def price(self) -> JobPrice:
        """What the job will cost, with what its prompt's translation has cost by now."""
        translation = extra = 0
        if (translating := self._progress.translating) is not None:
            translation = translating.micros
            extra = translating.charged_micros if self._billing.translations is not None else 0
        price = self._price
        if price is None:
            return JobPrice(translation_micros=translation)
        return JobPrice(price.per_call, price.per_image, extra, translation)


def opening_of(
    billing: Billing,
    bill: Bill | None,
    account: Account,
    call: Call,
    progress: Progress,
    translated: Callable[[], Awaitable[str]] | None,
) -> JobOpening:
    """The opening of a call; `bill` None: it is free, and has no idempotency key."""
    key = None if bill is None else bill.key
    hold = Hold(
        progress.row_id, account.id, 0 if bill is None else bill.at_most_micros, call.request_id, call.front,
        call.method, call.arguments.model, progress.started_at, call.client_ip, key,
        b"" if key is None else fingerprint(call),
    )  # fmt: skip
    return JobOpening(billing, bill, account, hold, progress, translated)
