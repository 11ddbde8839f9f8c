"""The proxies that are measured: how each is started and how it is called. A new one is a new Peer in `peers()`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gateway
from bench.requests import (
    KEY,
    SECRET,
    UPSTREAM_KEY,
    Arguments,
    cached_request,
    custom_request,
    native_request,
    portkey_request,
    repeated_request,
)
from bench.tools import BenchError

UPSTREAM_KEY_ENV = "BENCH_UPSTREAM_KEY"
LITELLM_KEY = "sk-bench-master"
ENVS = Path(__file__).parent / ".peers"


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
    cannot measure it. `repeats`: the same calls come again and again, for a cache to answer. A guest is there for
    comparison only: it is measured in fewer rounds, and may fail.
    """

    name: str
    command: Callable[[Place], list[str]] | None
    request: Callable[[Place, Arguments], bytes]
    environment: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    missing: str = ""
    guest: bool = False
    repeats: bool = False


def peers() -> tuple[Peer, ...]:
    """Every proxy the harness knows; nginx is what the others are compared with."""
    ours = {UPSTREAM_KEY_ENV: UPSTREAM_KEY}
    return (
        Peer("direct", None, native),
        nginx_peer(),
        Peer("gateway native", gateway_command, native, ours, version=gateway.__version__),
        Peer("gateway custom", gateway_command, lambda _, arguments: custom_request(arguments), ours),
        Peer("gateway cache miss", gateway_command, lambda _, arguments: cached_request(arguments), ours),
        Peer(
            "gateway cache hit", gateway_command, lambda _, arguments: repeated_request(arguments), ours, repeats=True
        ),
        Peer("gateway ledger", priced_gateway_command, native, ours),
        haproxy_peer(),
        litellm_peer(),
        portkey_peer(),
    )


def native(_: Place, arguments: Arguments) -> bytes:
    return native_request(arguments)


def installed(name: str) -> str | None:
    """A program's path; Debian keeps servers where a person's own path does not lead."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def version_told(*command: str) -> str:
    """The first thing that looks like a version in what a command prints."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\d+\.\d+(\.\d+)?", told.stdout + told.stderr)
    return found.group() if found else ""


def nginx_peer() -> Peer:
    nginx = installed("nginx")
    if nginx is None:
        return Peer("nginx", None, native, missing="nginx is not installed")
    return Peer("nginx", lambda place: nginx_command(nginx, place), native, version=version_told(nginx, "-v"))


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


# Limits that are looked at for every call, and never reached.
LIMITS = ["--concurrency", "100000", "--per-minute", "100000000", "--per-day", "1000000000", "--total", "1000000000"]


PRICES = """
[[price]]
per_call = "0.001"
per_1k_prompt = "0.0025"
per_1k_completion = "0.01"
"""


def priced_gateway_command(place: Place) -> list[str]:
    """The same with prices: each call is held and settled, both on the disk before it goes on."""
    return gateway_command(place, PRICES, ["--balance", "999999999999"])


def gateway_command(place: Place, more: str = "", options: Sequence[str] = ()) -> list[str]:
    """The gateway as an operator starts it: its defaults, one account with limits, a SQLite store on disk."""
    configuration = place.directory / "gateway.toml"
    text = GATEWAY_CONFIGURATION.format(port=place.port, upstream_port=place.upstream_port, key_env=UPSTREAM_KEY_ENV)
    configuration.write_text(text + more)
    program = [sys.executable, "-m", "gateway"]
    add = ["accounts", "add", "bench", "--key", KEY, "--secret", SECRET, *LIMITS, *options]
    environment = {**os.environ, UPSTREAM_KEY_ENV: UPSTREAM_KEY}
    try:
        added = subprocess.run(
            [*program, *add, "--config", str(configuration)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError("`gateway accounts add` did not end") from error
    if added.returncode != 0:
        raise BenchError(f"`gateway accounts add` failed:\n{added.stderr[-1000:]}")
    return [*program, "serve", "--config", str(configuration)]


HAPROXY_CONFIGURATION = """
global
  nbthread 1
defaults
  mode http
  option http-keep-alive
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 2h
  timeout server 2h
frontend callers
  bind 127.0.0.1:{port} backlog 4096
  default_backend model
backend model
  server model 127.0.0.1:{upstream_port}
"""


def haproxy_peer() -> Peer:
    haproxy = installed("haproxy")
    if haproxy is None:
        return Peer("HAProxy", None, native, missing="haproxy is not installed", guest=True)

    def command(place: Place) -> list[str]:
        """One thread that forwards each piece at once over kept-alive connections, as nginx is told to."""
        configuration = place.directory / "haproxy.cfg"
        configuration.write_text(HAPROXY_CONFIGURATION.format(port=place.port, upstream_port=place.upstream_port))
        return [haproxy, "-db", "-f", str(configuration)]

    return Peer("HAProxy", command, native, version=version_told(haproxy, "-v"), guest=True)


LITELLM_CONFIGURATION = """
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{upstream_port}/v1
      api_key: {upstream_key}
general_settings:
  master_key: {key}
"""
# Prices from its own package and no telemetry: nothing here may ask the network.
LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}


def litellm_peer() -> Peer:
    python, program = ENVS / "litellm" / "bin" / "python", ENVS / "litellm" / "bin" / "litellm"
    if not program.exists():
        return Peer("LiteLLM", None, native, missing="not installed: `make peers` does it", guest=True)

    def command(place: Place) -> list[str]:
        """One worker without a database: the master key is checked, and the one model is routed."""
        configuration = place.directory / "litellm.yaml"
        configuration.write_text(
            LITELLM_CONFIGURATION.format(upstream_port=place.upstream_port, upstream_key=UPSTREAM_KEY, key=LITELLM_KEY)
        )
        where = ["--host", "127.0.0.1", "--port", str(place.port)]
        return [str(program), "--config", str(configuration), *where, "--num_workers", "1", "--telemetry", "False"]

    ask = "from importlib.metadata import version; print(version('litellm'))"
    return Peer(
        "LiteLLM",
        command,
        lambda _, arguments: native_request(arguments, LITELLM_KEY),
        LITELLM_ENVIRONMENT,
        version=version_told(str(python), "-c", ask),
        guest=True,
    )


def portkey_peer() -> Peer:
    package = ENVS / "portkey" / "node_modules" / "@portkey-ai" / "gateway"
    node, program = installed("node"), package / "build" / "start-server.js"
    if node is None or not program.exists():
        return Peer("Portkey", None, native, missing="not installed: `make peers` does it", guest=True)
    version = re.search(r'"version":\s*"([^"]+)"', (package / "package.json").read_text())
    return Peer(
        "Portkey",
        lambda place: [node, str(program), "--headless", f"--port={place.port}"],
        lambda place, arguments: portkey_request(arguments, place.upstream_port),
        {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"},
        version=version.group(1) if version else "",
        guest=True,
    )
