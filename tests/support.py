"""A gateway for tests: a process of its own, started as a user starts it, and plain sockets to talk to it.

    with gateway_process(upstream="http://127.0.0.1:9/v1") as gateway:
        answer = await call(gateway, "GET", custom_path(gateway, method="v1/models"))

Without `upstream` the process is `gateway demo`, with the embedded upstream behind it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.pool import Pool

START_LIMIT_S = 30.0
UPSTREAM_KEY = "sk-upstream-canary-5f1d"


@dataclass(slots=True)
class Gateway:
    """A running gateway. `base_url` is what an OpenAI SDK takes; `upstream_port` where its upstream is expected."""

    process: subprocess.Popen[bytes]
    port: int
    key: str
    secret: str
    directory: Path
    log_path: Path
    upstream_port: int = 0
    config_path: Path | None = None
    command: tuple[str, ...] = ()
    environment: dict[str, str] | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    @property
    def token(self) -> str:
        return f"{self.key}:{self.secret}"

    @property
    def log(self) -> str:
        """Everything the process has printed."""
        return self.log_path.read_text(errors="replace")

    @property
    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def sockets(self) -> int:
        """How many sockets the process holds open."""
        count = 0
        for file in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                count += str(file.readlink()).startswith("socket:")
        return count

    def cli(self, *arguments: str) -> str:
        """Runs a command of the gateway on its configuration; its standard output."""
        command = [sys.executable, "-m", "gateway", *arguments, "--config", str(self.config_path)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=START_LIMIT_S, env=self.environment
        )
        return done.stdout

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self.process.kill()
        self.process.wait()

    def restart(self, *, until_ready: bool = True) -> None:
        """Starts the process that has ended anew: the same store, the same port."""
        seen_bytes = self.log_path.stat().st_size
        with self.log_path.open("ab") as log:
            command = [*self.command, "--port", str(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
        if until_ready:
            _wait_for_port(self.process, self.log_path, seen_bytes)


@contextmanager
def gateway_process(
    upstream: str | None = None,
    config: str = "",
    upstream_config: str = "",
    environ: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = (),
) -> Iterator[Gateway]:
    """`gateway serve` with one account in front of `upstream` (a base URL), or `gateway demo` without one.

    `config` is more of the TOML file, `upstream_config` more keys of its `[[upstream]]`. Ends with SIGTERM.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        log_path = directory / "log"
        config_path = None
        key, secret = "demo", "demo-secret"
        command = [sys.executable, "-m", "gateway", "demo", "--port", "0"]
        if upstream is not None:
            config_path = directory / "gateway.toml"
            if "[cache]" not in config:  # most tests call the same thing again and again, and want it asked again
                config += "\n[cache]\nmemory_bytes = 0\n"
            if "[limits]" not in config:  # all tests call from one address, many with wrong keys
                config += "\n[limits]\nfailed_logins_per_minute = 0\n"
            config_path.write_text(
                f'[store]\nurl = "sqlite:///gateway.db"\n{config}\n[[upstream]]\nname = "chaos"\n'
                f'base_url = "{upstream}"\napi_key_env = "UPSTREAM_KEY"\n{upstream_config}\n'
            )
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(config_path), "--port", "0"]
        environment = {**os.environ, "UPSTREAM_KEY": UPSTREAM_KEY, "HOME": name, **(environ or {})}
        with log_path.open("wb") as log:
            if config_path is not None:
                adding = [sys.executable, "-m", "gateway", "accounts", "add", "tester", "--json"]
                adding += ["--config", str(config_path)]
                added = subprocess.run(adding, capture_output=True, check=True, timeout=START_LIMIT_S, env=environment)
                account = json.loads(added.stdout)
                key, secret = account["key"], account["secret"]
            command += arguments
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        gateway = Gateway(process, 0, key, secret, directory, log_path, 0, config_path, tuple(command), environment)
        try:
            gateway.port = _wait_for_port(process, log_path)
            yield gateway
        finally:
            gateway.process.send_signal(signal.SIGTERM)
            try:
                gateway.process.wait(START_LIMIT_S)
            except subprocess.TimeoutExpired:
                gateway.kill()


@contextmanager
def gateway_before_chaos(
    config: str = "",
    upstream_config: str = "",
    environ: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = (),
) -> Iterator[Gateway]:
    """As `gateway_process`, with an upstream that tests open and close: `Chaos(..., port=gateway.upstream_port)`."""
    port = free_port()
    upstream = f"http://127.0.0.1:{port}/v1"
    with gateway_process(upstream, config, upstream_config, environ, arguments) as gateway:
        gateway.upstream_port = port
        yield gateway


def _wait_for_port(process: subprocess.Popen[bytes], log_path: Path, seen_bytes: int = 0) -> int:
    """The port that the process says it serves at, in what it logs behind `seen_bytes`."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        found = re.search(rb"http://127\.0\.0\.1:(\d+)", log_path.read_bytes()[seen_bytes:])
        if found:
            port = int(found[1])
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                pass
            else:
                return port
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"the gateway did not start:\n{log_path.read_text(errors='replace')}")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(slots=True)
class Answer:
    """An answer as it came: `complete` tells whether its framing ended cleanly."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool
    raw: bytes = field(repr=False, default=b"")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def custom_path(gateway: Gateway, **parameters: str) -> str:
    """The path of a call on the custom front, credentials included."""
    return "/openai/custom/?" + urlencode({"key": gateway.key, "secret": gateway.secret, **parameters})


def request_bytes(
    method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, version: str = "1.1"
) -> bytes:
    """A request as it stands on the wire."""
    fields = {"Host": "gateway.test", **(headers or {})}
    if body:
        fields.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


async def call(
    gateway: Gateway,
    method: str,
    target: str,
    body: bytes | Mapping[str, object] = b"",
    headers: Mapping[str, str] | None = None,
    *,
    limit_s: float = 30.0,
) -> Answer:
    """One call on a connection of its own. A mapping becomes a JSON body."""
    fields = {"Connection": "close", **(headers or {})}
    if isinstance(body, Mapping):
        body = json.dumps(body).encode()
        fields.setdefault("Content-Type", "application/json")
    return await exchange(gateway, request_bytes(method, target, body, fields), limit_s=limit_s)


async def native(
    gateway: Gateway, method: str, target: str, body: bytes | Mapping[str, object] = b"", **headers: str
) -> Answer:
    """One call on the native front with the gateway's account."""
    fields = {"Authorization": f"Bearer {gateway.token}", **headers}
    return await call(gateway, method, target, body, fields)


async def exchange(gateway: Gateway, request: bytes, *, limit_s: float = 30.0) -> Answer:
    """Sends bytes and reads until the server closes the connection."""
    async with asyncio.timeout(limit_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            writer.write(request)
            raw = await read_to_end(reader)
        finally:
            writer.close()
    return parse_answer(raw)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """All that comes, whether the connection is closed or reset behind it."""
    received = bytearray()
    try:
        while data := await reader.read(65_536):
            received += data
    except ConnectionError:
        pass
    return bytes(received)


def parse_answer(raw: bytes) -> Answer:
    """An answer's parts; interim answers are passed over."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, rest = rest.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    status = int(lines[0].split(" ")[1]) if lines[0] else 0
    if headers.get("transfer-encoding") == "chunked":
        body, complete = dechunk(rest)
    elif "content-length" in headers:
        length = int(headers["content-length"])
        body, complete = rest[:length], len(rest) == length
    else:
        body, complete = rest, True
    return Answer(status, headers, body, complete, raw)


def dechunk(data: bytes) -> tuple[bytes, bool]:
    """The payload of a chunked body, as far as it goes, and whether it ends with the last chunk."""
    payload = bytearray()
    while data:
        size_text, separator, rest = data.partition(b"\r\n")
        if not separator:
            break
        size = int(size_text, 16)
        if size == 0:
            return bytes(payload), rest == b"\r\n"
        payload += rest[:size]
        data = rest[size + 2 :]
    return bytes(payload), False


@asynccontextmanager
async def exchange_on(pool: Pool, request: bytes) -> AsyncIterator[UpstreamConnection]:
    """One exchange, taken and released as the road does it."""
    link = pool.take_idle() or await pool.connect()
    try:
        link.send(request)
        yield link
    finally:
        pool.release(link)
