"""A call that may submit an image job: what the job will hold, and what it will cost if it succeeds.

The hold is made together with the job, so that there is never one without the other.
"""

from __future__ import annotations

from gateway.billing import Bill, Billing, fingerprint
from gateway.progress import Progress
from gateway.store.interface import Hold
from gateway.store.jobs import JobPrice
from gateway.types import Account, Call


class JobOpening:
    """`prompt` is the one for the backend where that is not the caller's own. `opened`: a job was made, or may have
    been, and the call's end is the job's.
    """

    __slots__ = ("account", "hold", "opened", "price", "prompt")

    def __init__(self, account: Account, hold: Hold, price: JobPrice, prompt: str | None) -> None:
        self.account = account
        self.hold = hold
        self.price = price
        self.prompt = prompt
        self.opened = False


def opening_of(
    billing: Billing, bill: Bill | None, account: Account, call: Call, progress: Progress, prompt: str | None
) -> JobOpening:
    """The opening of a call; `bill` None: it is free, and has no idempotency key."""
    key = None if bill is None else bill.key
    hold = Hold(
        progress.row_id, account.id, 0 if bill is None else bill.at_most_micros, call.request_id, call.front,
        call.method, call.arguments.model, progress.started_at, call.client_ip, key,
        b"" if key is None else fingerprint(call),
    )  # fmt: skip
    translation = extra = 0
    if progress.translating is not None:
        translation = progress.translating.micros
        extra = progress.translating.charged_micros if billing.translations is not None else 0
    price = None if bill is None or "0000" not in billing.charging.charged else bill.price
    if price is None:
        return JobOpening(account, hold, JobPrice(translation_micros=translation), prompt)
    return JobOpening(account, hold, JobPrice(price.per_call, price.per_image, extra, translation), prompt)
