"""What an account is told of itself: `account/balance` is its money and its limits, `account/calls` its call log,
`account/jobs` its image jobs.
"""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.hookspecs import MethodContext, MethodSpec, hookimpl
from gateway.types import Call, CallRecord, JsonValue, MethodRefused, amount_text

MAX_LIMIT = 100
DEFAULT_LIMIT = 20


@hookimpl
def gateway_methods() -> list[MethodSpec]:
    return [
        MethodSpec("account/balance", balance),
        MethodSpec("account/calls", calls),
        MethodSpec("account/jobs", jobs),
    ]


async def balance(call: Call, context: MethodContext) -> JsonValue:
    account, now = context.account, await context.balance()
    return {
        "balance": amount_text(now.balance_micros),
        "held": amount_text(now.held_micros),
        "available": amount_text(now.available_micros),
        "calls_today": now.counts.today,
        "calls_total": now.counts.total,
        "running": now.running,
        "limits": {
            "concurrency": account.concurrency,
            "per_minute": account.per_minute,
            "tokens_per_minute": account.tokens_per_minute,
            "per_day": account.per_day,
            "total": account.total,
        },
        "expires": None if account.expires_at is None else _moment(account.expires_at).date().isoformat(),
    }


async def calls(call: Call, context: MethodContext) -> JsonValue:
    """A page of the log. The token is the last id of the page before, so calls that are added change no later page."""
    limit, before_id = _limit(call), _before_id(call, context)
    records = await context.calls(before_id, limit + 1)  # one more tells whether there is another page
    page = records[:limit]
    following = context.page_token(page[-1].id) if len(records) > limit else None
    return {"calls": [_row(record) for record in page], "nextPageToken": following}


async def jobs(call: Call, context: MethodContext) -> JsonValue:
    """A page of the image jobs, as `calls` of the log."""
    limit, before_id = _limit(call), _before_id(call, context)
    found = await context.jobs(before_id, limit + 1)
    page = found[:limit]
    following = context.page_token(int(page[-1].imgid)) if len(found) > limit else None
    return {"jobs": [job.document for job in page], "nextPageToken": following}


def _limit(call: Call) -> int:
    limit = call.arguments.values.get("limit")
    if limit is None:
        return DEFAULT_LIMIT
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise MethodRefused("4003", f"limit must be an integer from 1 to {MAX_LIMIT}", "limit")
    return limit


def _before_id(call: Call, context: MethodContext) -> int | None:
    token = call.arguments.values.get("pageToken")
    if token is None:
        return None
    return context.position(token if isinstance(token, str) else "")  # "" was given to nobody


def _row(record: CallRecord) -> JsonValue:
    return {
        "last_id": str(record.id),  # outgrows what JavaScript calls a number
        "request_id": record.request_id,
        "started": _moment(record.started_at).isoformat(timespec="milliseconds"),
        "method": record.method,
        "model": record.model,
        "error_code": record.outcome,
        "streamed": record.streamed,
        "cut": record.cut,
        "cache": record.cache,
        "duration": f"{record.duration_s:.3f}",
        "first_byte": None if record.first_byte_s is None else f"{record.first_byte_s:.3f}",
        "bytes": record.sent_bytes,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "cached_tokens": record.cached_tokens,
        "charge": amount_text(record.charge_micros),
        "estimated": record.settled == "estimated",
    }


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
