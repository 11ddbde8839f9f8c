"""The process's own log: its set-up, the access log, and how a failure of ours is told. No caller's secret gets in."""

from __future__ import annotations

import logging
import traceback
import warnings
from time import monotonic

from gateway.config import LogSettings
from gateway.fronts.client import Client
from gateway.methods import known_method
from gateway.progress import Progress
from gateway.types import Call

LOG = logging.getLogger("gateway.route")
ACCESS = logging.getLogger("gateway.access")

_ACCESS_LEVELS = {"all": logging.INFO, "errors": logging.WARNING, "off": logging.CRITICAL}


def configure_logging(settings: LogSettings) -> None:
    """The log goes to standard error, as journald likes it: without time stamps of its own."""
    logging.basicConfig(level=settings.level.upper(), format="%(levelname)s %(name)s: %(message)s", force=True)
    ACCESS.setLevel(_ACCESS_LEVELS[settings.access])
    # aiohttp's text quotes requests; server.py says what is needed.
    logging.getLogger("gateway.aiohttp").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # a library's warning may quote what a client sent, and is kept for ever


def log_failure(error: BaseException) -> None:
    """Where and what kind of failure: its text and its values may hold a caller's secrets and are left out."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    LOG.error("internal error %s at %s", type(error).__name__, where)


def log_access(client: Client, progress: Progress) -> None:
    """One line a call, where it is asked for: the route's template and what came of it, nothing of the query."""
    code = progress.outcome.code
    level = logging.INFO if code == "0000" else logging.WARNING
    if not ACCESS.isEnabledFor(level):
        return
    account = progress.account
    ACCESS.log(
        level,
        "%s %s %s account=%s method=%s code=%s status=%d bytes=%d ms=%.1f%s",
        client.ip,
        client.head.method if client.head.method.isalpha() else "?",
        "/v1/{method}" if progress.front == "native" else "/{platform}/{api_name}/",
        account.name if account is not None else "-",
        _shown(progress.call) if progress.call is not None else "-",
        code,
        client.sent_status,
        client.sent_bytes,
        (monotonic() - progress.started) * 1e3,
        " cut" if progress.cut else "",
    )


def _shown(call: Call) -> str:
    """The interface, without what the caller wrote into its name: an id, or by mistake a secret."""
    method = known_method(call.method)
    return method.pattern if method is not None else "other"
