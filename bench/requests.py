"""A chat call's arguments as the bytes of an HTTP request, the way each proxy's callers send them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlencode

KEY = "bench"
SECRET = "bench-secret"
UPSTREAM_KEY = "sk-bench"

Arguments = Mapping[str, object]


def native_request(arguments: Arguments, token: str = f"{KEY}:{SECRET}") -> bytes:
    """As an OpenAI SDK calls."""
    return chat({"Authorization": f"Bearer {token}"}, arguments)


def cached_request(arguments: Arguments) -> bytes:
    """A call that the cache may answer and keep."""
    return chat({"Authorization": f"Bearer {KEY}:{SECRET}", "X-Cache": "yes"}, arguments)


def repeated_request(arguments: Arguments) -> bytes:
    """The same without the number by which the client tells its calls apart."""
    return cached_request(arguments).replace(b"serial-", b"number-")


def custom_request(arguments: Arguments) -> bytes:
    """As the documented API's clients call: the account in the URL, the arguments in a form; never from the cache."""
    query = urlencode({"key": KEY, "secret": SECRET, "method": "v1/chat/completions", "cache": "no"})
    form = urlencode({"_o_args": compact_json(arguments)}).encode()
    return post(f"/openai/custom/?{query}", {"Content-Type": "application/x-www-form-urlencoded"}, form)


def portkey_request(arguments: Arguments, upstream_port: int) -> bytes:
    """As an OpenAI SDK calls, with the headers that tell Portkey's gateway where to."""
    route = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1"}
    return chat({"Authorization": f"Bearer {UPSTREAM_KEY}", **route}, arguments)


def chat(headers: Mapping[str, str], arguments: Arguments) -> bytes:
    return post("/v1/chat/completions", {**headers, "Content-Type": "application/json"}, compact_json(arguments))


def compact_json(value: object) -> bytes:
    """JSON as OpenAI's SDKs write it: no spaces, UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def post(target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """An HTTP request with the headers an OpenAI SDK sends."""
    lines = {
        "Host": "127.0.0.1",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "OpenAI/Python 2.0.0",
        "X-Stainless-Lang": "python",
        "X-Stainless-Runtime": "CPython",
        **headers,
        "Content-Length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {target} HTTP/1.1\r\n{head}\r\n".encode() + body
