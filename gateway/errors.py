"""The table of error codes, and the one exception that carries a code: all that a client is told of a failure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row of the contract's table (section 4).

    `native_status` is the HTTP status on the native front. `dispatched` tells the rows that stand in the call log as
    work done from those refused before it. `kind` is the `type` of OpenAI's error object.
    """

    code: str
    message: str
    native_status: int
    kind: str
    dispatched: bool
    charged: bool = False


_ROWS = (
    ErrorCode("0000", "success", 200, "", dispatched=True, charged=True),
    ErrorCode("2000", "Search success but no result", 404, "invalid_request_error", dispatched=True, charged=True),
    ErrorCode("4000", "Server internal error", 500, "server_error", dispatched=True),
    ErrorCode("4001", "Network error", 502, "upstream_error", dispatched=True),
    ErrorCode("4002", "Target server error", 502, "upstream_error", dispatched=True),
    ErrorCode("4003", "Param error", 400, "invalid_request_error", dispatched=False),
    ErrorCode("4004", "Account not found", 401, "authentication_error", dispatched=False),
    ErrorCode("4005", "Invalid authentication credentials", 401, "authentication_error", dispatched=False),
    ErrorCode("4006", "API stopped", 403, "permission_error", dispatched=False),
    ErrorCode("4007", "Account stopped", 403, "permission_error", dispatched=False),
    ErrorCode("4008", "API rate limit exceeded", 429, "rate_limit_error", dispatched=False),
    ErrorCode("4009", "API maintenance", 503, "server_error", dispatched=False),
    ErrorCode("4010", "API not found with these values", 404, "invalid_request_error", dispatched=False),
    ErrorCode("4012", "Please add api first", 403, "permission_error", dispatched=False),
    ErrorCode("4013", "Number of calls exceeded", 429, "insufficient_quota", dispatched=False),
    ErrorCode("4014", "Missing url param", 400, "invalid_request_error", dispatched=False),
    ErrorCode("4015", "Wrong pageToken", 400, "invalid_request_error", dispatched=False),
    ErrorCode("4016", "Insufficient balance", 402, "insufficient_quota", dispatched=False),
    ErrorCode("4017", "timeout error", 504, "timeout_error", dispatched=True),
    ErrorCode("5000", "unknown error", 502, "upstream_error", dispatched=True),
)

ERROR_CODES = {row.code: row for row in _ROWS}

CHECK_ORDER = ("4014", "4003", "4004", "4005", "4007", "4010", "4009", "4006", "4012", "4008", "4013", "4016")
"""The order in which a call is checked, so that one wrong call gives one answer (contract, section 4)."""


class GatewayError(Exception):
    """A failure that a client is told of: a code of the table and a reason for a person, free of secrets.

    `param` names the parameter at fault, where one is. `retry_after_s` becomes the header `Retry-After`.
    """

    def __init__(self, code: str, reason: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(f"{code} {reason}")
        self.code = ERROR_CODES[code]
        self.reason = reason
        self.param = param
        self.retry_after_s = retry_after_s


class ConfigurationError(Exception):
    """The operator's configuration or environment is wrong. The text names file and key and fits on a terminal."""
