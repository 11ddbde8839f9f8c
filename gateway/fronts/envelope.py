"""The envelope of the documented API (contract, section 3): exactly its fields, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import orjson

from gateway.errors import ErrorCode
from gateway.progress import Translating
from gateway.types import Account, Call, CallCounts

NOT_GIVEN = b"null"
_SECRETS = frozenset({"key", "secret"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What an envelope of version 2 says besides the answer."""

    counts: CallCounts
    started_at: float  # seconds since the epoch
    duration_s: float
    default_lang: str
    translating: Translating | None
    cached: bool = False
    charge: str = "0"


def envelope(response: bytes, code: ErrorCode, reason: str, request_id: str, last_id: str) -> bytes:
    """Version 1. `response` is a JSON text and is embedded as it is."""
    told = b'"","reason":""'
    if not code.charged:
        told = b'%b,"reason":%b' % (orjson.dumps(code.message), orjson.dumps(reason))
    ids = f'"error_code":"{code.code}","request_id":"{request_id}","last_id":"{last_id}"'
    return b'{"response":%b,"error":%b,%b}' % (response, told, ids.encode())


def extended(
    version_1: bytes,
    code: ErrorCode,
    call: Call | None,
    account: Account | None,
    facts: Facts,
    client_ip: str,
    zone: ZoneInfo,
) -> bytes:
    """Version 2: version 1 with the documented fields behind it."""
    lang = call.lang if call is not None else None
    notes = facts.translating or Translating()
    fields = {
        "success": 1 if code.charged else 0,
        "cache": 1 if facts.cached else 0,
        "api_info": _api_info(account, facts.counts),
        "execution_time": f"{facts.duration_s:.3f}",
        "server_time": _server_time(facts.started_at, zone),
        "client_ip": client_ip,
        "call_args": _call_args(call),
        "api_type": "openai",
        "language": {
            "default_lang": facts.default_lang,
            "current_lang": lang or facts.default_lang,
            "source_lang": notes.source_lang,
        },
        "translate_language": lang or "",
        "translate_engine": notes.engine,
        "translate_status": notes.status,
        "translate_time": f"{notes.seconds:.3f}" if notes.seconds else "0",
        "charge": facts.charge,
    }
    return version_1[:-1] + b"," + orjson.dumps(fields)[1:]


def _call_args(call: Call | None) -> object:
    """The arguments as the caller wrote them, but for credentials that stand among them."""
    if call is None:
        return {}
    if call.arguments.values.keys().isdisjoint(_SECRETS):
        return orjson.Fragment(call.arguments.text)
    return {name: value for name, value in call.arguments.values.items() if name not in _SECRETS}


def _api_info(account: Account | None, counts: CallCounts) -> str:
    """Calls today, the day's limit, all = answered + without result + failed: `today:7 max:30000 all[7=7+0+0]`."""
    if account is None:
        return ""
    limit = "unlimited" if account.per_day is None else str(account.per_day)
    info = f"today:{counts.today} max:{limit} all[{counts.total}={counts.succeeded}+{counts.empty}+{counts.failed}]"
    if account.expires_at is not None:
        info += f";expires:{datetime.fromtimestamp(account.expires_at, UTC):%Y-%m-%d}"
    return info


def _server_time(at: float, zone: ZoneInfo) -> str:
    """The operator's clock, as `Beijing/2022-09-04 13:05:54`."""
    place = "Beijing" if zone.key == "Asia/Shanghai" else zone.key.rpartition("/")[2]
    return f"{place}/{datetime.fromtimestamp(at, zone):%Y-%m-%d %H:%M:%S}"
