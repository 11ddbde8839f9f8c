"""The proxies that are measured: how each is started and how it is called. A new one is a new Peer in `peers()`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from bench.tools import BenchError

KEY = "bench"
SECRET = "bench-secret"
UPSTREAM_KEY_ENV = "BENCH_UPSTREAM_KEY"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy is started: a directory of its own, the port to listen on, the upstream's port."""

    directory: Path
    port: int
    upstream_port: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy. `command` writes what it needs into the place and returns how to start it; None: no proxy at all.

    `request` turns the arguments of a chat call into the bytes of an HTTP request. `missing` says why this machine
    cannot measure it.
    """

    name: str
    command: Callable[[Place], list[str]] | None
    request: Callable[[Mapping[str, object]], bytes]
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


def peers() -> tuple[Peer, ...]:
    """Every proxy the harness knows; nginx is what the others are compared with."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return (
        Peer("direct", None, native_request),
        Peer(
            "nginx",
            lambda place: nginx_command(str(nginx), place),
            native_request,
            missing="" if nginx else "nginx is not installed",
        ),
        Peer("gateway native", gateway_command, native_request, {UPSTREAM_KEY_ENV: "sk-bench"}),
        Peer("gateway custom", gateway_command, custom_request, {UPSTREAM_KEY_ENV: "sk-bench"}),
    )


def native_request(arguments: Mapping[str, object]) -> bytes:
    headers = {"Authorization": f"Bearer {KEY}:{SECRET}", "Content-Type": "application/json"}
    return post("/v1/chat/completions", headers, compact_json(arguments))


def custom_request(arguments: Mapping[str, object]) -> bytes:
    """As the documented API's clients call: the account in the URL, the arguments in a form; never from the cache."""
    query = urlencode({"key": KEY, "secret": SECRET, "method": "v1/chat/completions", "cache": "no"})
    form = urlencode({"_o_args": compact_json(arguments)}).encode()
    return post(f"/openai/custom/?{query}", {"Content-Type": "application/x-www-form-urlencoded"}, form)


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


NGINX_CONFIGURATION = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid nginx.pid;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  upstream model {{ server 127.0.0.1:{upstream_port}; keepalive 6000; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def nginx_command(nginx: str, place: Place) -> list[str]:
    """One worker that relays unbuffered over kept-alive connections: the least that a proxy can do."""
    configuration = place.directory / "nginx.conf"
    configuration.write_text(NGINX_CONFIGURATION.format(port=place.port, upstream_port=place.upstream_port))
    return [nginx, "-p", str(place.directory), "-c", str(configuration), "-e", "stderr"]


GATEWAY_CONFIGURATION = """
[server]
port = {port}

[store]
url = "sqlite:///bench.db"

[[upstream]]
name = "bench"
base_url = "http://127.0.0.1:{upstream_port}/v1"
api_key_env = "{key_env}"
"""


def gateway_command(place: Place) -> list[str]:
    """The gateway as an operator starts it: its defaults, one account, a SQLite store on disk."""
    configuration = place.directory / "gateway.toml"
    configuration.write_text(
        GATEWAY_CONFIGURATION.format(port=place.port, upstream_port=place.upstream_port, key_env=UPSTREAM_KEY_ENV)
    )
    gateway = [sys.executable, "-m", "gateway"]
    add = ["accounts", "add", "bench", "--key", KEY, "--secret", SECRET, "--config", str(configuration)]
    environment = {**os.environ, UPSTREAM_KEY_ENV: "sk-bench"}
    added = subprocess.run([*gateway, *add], capture_output=True, text=True, env=environment, timeout=60, check=False)
    if added.returncode != 0:
        raise BenchError(f"`gateway accounts add` failed:\n{added.stderr[-1000:]}")
    return [*gateway, "serve", "--config", str(configuration)]
