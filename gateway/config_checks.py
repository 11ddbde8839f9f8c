"""What the type of a configuration's value cannot say. Each function returns what is wrong with a text, or None."""

from __future__ import annotations

import difflib
import re
from fnmatch import fnmatchcase
from ipaddress import ip_network
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

import orjson

from gateway.amounts import amount_micros
from gateway.chat_arguments import ANSWERED_BY_CHAT
from gateway.errors import ERROR_CODES

_NEVER_PASSED = frozenset({
    "authorization", "connection", "content-length", "cookie", "expect", "host", "keep-alive", "proxy-authorization",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip


def scheme(url: str) -> str:
    """All of a URL that can be shown: what follows may hold a password."""
    found = re.match(r"[a-z][a-z0-9+.-]*:", url)
    return found[0] if found else "this"


def name_fault(name: str) -> str | None:
    return None if re.fullmatch(r"[A-Za-z0-9._-]+", name) else "expected letters, digits, dots, dashes and underscores"


def path_fault(path: str) -> str | None:
    return "control characters are not allowed in a path" if re.search(r"[\x00-\x1f\x7f]", path) else None


def base_url_fault(url: str) -> str | None:
    """Never shows the URL: it may hold a password where none is allowed."""
    expected = "expected http://HOST[:PORT][/PATH] or https://…, as the SDKs write it"
    if not re.fullmatch(r"[!-~]+", url):
        return f"{expected}: only printable ASCII without spaces"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return expected
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return expected
    if "@" in parts.netloc:
        return f"{expected}: no credentials in the URL; api_key_env or api_key_file names the key"
    return f"{expected}: no query and no fragment" if "?" in url or "#" in url else None


def variable_fault(name: str) -> str | None:
    # Not shown: the likely mistake is the secret itself in the place of the name.
    if not name or re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        return None
    return "expected the name of an environment variable (capitals, digits, underscores), not the secret itself"


def header_fault(name: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        return f"{name[:80]!r} is not a header's name"
    return f"{name} is never passed on" if name.lower() in _NEVER_PASSED else None


def host_fault(host: str) -> str | None:
    if re.fullmatch(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", host):
        return None
    return f"expected a host in lower case, with its port where that is not the usual one, found {host[:80]!r}"


def cidr_fault(text: str) -> str | None:
    try:
        ip_network(text)
    except ValueError as error:
        return f"expected addresses or networks such as 10.0.0.0/8: {error}"
    return None


def origin_fault(origin: str) -> str | None:
    if origin == "*" or re.fullmatch(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", origin):
        return None
    return f'expected "*" or what browsers send (scheme://host[:port], lower case, no path), found {origin[:80]!r}'


def timezone_fault(name: str) -> str | None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; a path; a directory of zones such as "America"
        near = difflib.get_close_matches(name, available_timezones(), n=1)
        hint = f"did you mean {near[0]}?" if near else "expected a name such as Asia/Shanghai or UTC"
        return f"no time zone is named {name[:80]!r}; {hint}"
    return None


def shared_fault(url: str) -> str | None:
    return None if url == "memory:" else f"{scheme(url)} is not supported yet; allowed: memory:"


def amount_fault(text: str) -> str | None:
    """An empty text stands for another key's amount."""
    if not text:
        return None
    try:
        amount_micros(text)
    except ValueError as error:
        return str(error)
    return None


_TRANSLATIONS_OWN = ("messages", "model", "n", "stream", "tools")


def chat_arguments_fault(text: str) -> str | None:
    """Some arguments of a chat completion are not the operator's to choose where it translates."""
    fault = json_object_fault(text)
    if fault is not None:
        return fault
    own = [name for name in _TRANSLATIONS_OWN if name in orjson.loads(text)]
    return f"{', '.join(own)} cannot be given here" if own else None


def json_object_fault(text: str) -> str | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"expected a JSON object: {error}"
    return None if isinstance(value, dict) else "expected a JSON object"


def libretranslate_url_fault(url: str) -> str | None:
    if url.endswith("/translate"):
        return "expected the service's address, without /translate"
    return base_url_fault(url) if url else "expected where LibreTranslate is, since it is the engine"


def method_glob_fault(glob: str) -> str | None:
    return None if glob.startswith(("v1/", "*")) else f"{glob[:80]!r} names no method of an upstream (v1/…)"


def through_chat_fault(glob: str) -> str | None:
    if any(fnmatchcase(name, glob) for name in ANSWERED_BY_CHAT):
        return None
    return f"{glob[:80]!r} covers none of {', '.join(ANSWERED_BY_CHAT)}; chat completions can answer no other"


def code_fault(code: str) -> str | None:
    """What is charged by other codes is for `upstream_cut` to say."""
    charged = [row.code for row in ERROR_CODES.values() if row.charged]
    return None if code in charged else f"{code[:20]!r} is not one of {', '.join(charged)}"
