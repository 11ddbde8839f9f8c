"""The life of the process: start, readiness, plugins from a directory, drain and end, and starts that cannot work."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import LAST_CHUNK, Chaos, Hang, ReadBody, Step, WaitFor, chunk, json_answer, sse_head
from tests.support import (
    Gateway,
    call,
    custom_path,
    free_port,
    gateway_before_chaos,
    gateway_process,
    native,
    parse_answer,
    read_to_end,
    request_bytes,
)

PLUGIN = """
from gateway.hookspecs import FormatterSpec, hookimpl


def shout(document):
    return document.text.upper()


@hookimpl
def gateway_formatters():
    return [FormatterSpec("shout", "text/x-shout", shout)]
"""


@pytest.fixture
def short_lived() -> Iterator[Gateway]:
    """A gateway of this test alone, which may end it."""
    with gateway_before_chaos("[server]\ndrain_s = 1.5") as gateway:
        yield gateway


async def ended(gateway: Gateway) -> int:
    """The process's exit status, once it has ended."""
    return await asyncio.to_thread(gateway.process.wait, 10)


# While it serves


@pytest.mark.parametrize(
    ("path", "body"), [("/healthz", b"ok\n"), ("/readyz", b"ready\n"), ("/readyz?x=1", b"ready\n")]
)
async def test_health_and_readiness_need_no_credentials(gateway: Gateway, path: str, body: bytes) -> None:
    got = await call(gateway, "GET", path)
    assert (got.status, got.body) == (200, body)
    assert (await call(gateway, "HEAD", path)).body == b""


async def test_a_formatter_from_the_plugins_directory_serves_both_fronts(tmp_path: Path) -> None:
    (tmp_path / "shouting.py").write_text(PLUGIN)
    port = free_port()
    with gateway_process(f"http://127.0.0.1:{port}/v1", arguments=("--plugins-dir", str(tmp_path))) as gateway:
        async with Chaos(json_answer({"a": "b"}), port=port):
            enveloped = await call(gateway, "GET", custom_path(gateway, method="v1/models", result_type="shout"))
            alone = await native(gateway, "GET", "/v1/models?result_type=shout")
        refused = await call(gateway, "GET", "/openai/custom/?result_type=shout")
    assert enveloped.body.startswith(b'{"RESPONSE":{"A": "B"},"ERROR":"","REASON":"","ERROR_CODE":"0000",')
    assert (alone.body, alone.headers["content-type"]) == (b'{"A": "B"}', "text/x-shout")
    assert b'"ERROR_CODE":"4014"' in refused.body


# When it ends


async def test_an_open_stream_outlives_the_signal_and_nothing_new_is_accepted(short_lived: Gateway) -> None:
    go_on = asyncio.Event()
    script: list[bytes | Step] = [
        sse_head(),
        chunk(b"data: 1\n\n"),
        WaitFor(go_on),
        chunk(b"data: [DONE]\n\n") + LAST_CHUNK,
    ]
    bearer = {"Authorization": f"Bearer {short_lived.token}"}
    async with Chaos(script, port=short_lived.upstream_port):
        probe, ask = await asyncio.open_connection("127.0.0.1", short_lived.port)
        ask.write(request_bytes("GET", "/readyz"))
        assert b"200 OK" in await probe.readuntil(b"ready\n")
        stream, writer = await asyncio.open_connection("127.0.0.1", short_lived.port)
        writer.write(request_bytes("POST", "/v1/chat/completions", b'{"messages":[],"stream":true}', bearer))
        first = await stream.readuntil(b"data: 1\n\n\r\n")
        short_lived.process.send_signal(signal.SIGTERM)
        await refuses_connections(short_lived)
        ask.write(request_bytes("GET", "/readyz"))
        drained = parse_answer(await read_to_end(probe))
        assert (drained.status, drained.body, drained.headers["connection"]) == (503, b"draining\n", "close")
        assert short_lived.process.poll() is None
        go_on.set()
        got = parse_answer(first + await read_to_end(stream))
        assert (got.body, got.complete) == (b"data: 1\n\ndata: [DONE]\n\n", True)
        assert await ended(short_lived) == 0
        ask.close()
        writer.close()


async def refuses_connections(gateway: Gateway) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                continue  # it lay in the listener's queue
            writer.close()
            await asyncio.sleep(0.01)


async def test_past_the_drain_limit_open_streams_are_cut_and_look_cut(short_lived: Gateway) -> None:
    async with Chaos([sse_head(), chunk(b"data: 1\n\n"), Hang()], port=short_lived.upstream_port) as upstream:
        streaming = asyncio.create_task(native(short_lived, "POST", "/v1/responses", {"stream": True}))
        await upstream.exchange()
        started = time.monotonic()
        short_lived.process.send_signal(signal.SIGTERM)
        assert await ended(short_lived) == 0
        assert 1.5 <= time.monotonic() - started < 4.5
        got = await streaming
    assert got.body.startswith(b"data: 1\n\n")
    assert not got.complete
    assert b"[DONE]" not in got.body
    assert "did not finish" in short_lived.log


async def test_idle_connections_and_slow_requests_do_not_hold_up_the_end(short_lived: Gateway) -> None:
    idle, writer = await asyncio.open_connection("127.0.0.1", short_lived.port)
    writer.write(request_bytes("GET", "/healthz"))
    await idle.readuntil(b"ok\n")
    silent, other = await asyncio.open_connection("127.0.0.1", short_lived.port)
    other.write(b"GET /healthz HTTP/1.1\r\nHos")
    started = time.monotonic()
    short_lived.process.send_signal(signal.SIGTERM)
    assert await ended(short_lived) == 0
    assert time.monotonic() - started < 2
    assert await read_to_end(idle) == await read_to_end(silent) == b""
    writer.close()
    other.close()


async def test_a_request_that_has_half_arrived_is_taken_and_answered(short_lived: Gateway) -> None:
    async with Chaos(json_answer({"ok": 1}), port=short_lived.upstream_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", short_lived.port)
        request = request_bytes("POST", "/v1/responses", b'{"a":1}', {"Authorization": f"Bearer {short_lived.token}"})
        writer.write(request[:-3])
        await call(short_lived, "GET", "/healthz")  # the loop has gone round
        short_lived.process.send_signal(signal.SIGTERM)
        await refuses_connections(short_lived)
        writer.write(request[-3:])
        got = parse_answer(await read_to_end(reader))
        assert (got.status, got.headers["connection"]) == (200, "close")
        assert await ended(short_lived) == 0
        writer.close()


async def test_a_call_that_ends_within_the_drain_is_in_the_log(short_lived: Gateway) -> None:
    go_on = asyncio.Event()
    async with Chaos([ReadBody(), WaitFor(go_on), json_answer({})], port=short_lived.upstream_port) as upstream:
        calling = asyncio.create_task(native(short_lived, "POST", "/v1/responses", {"a": 1}))
        await upstream.exchange()
        short_lived.process.send_signal(signal.SIGTERM)
        await refuses_connections(short_lived)
        go_on.set()
        got = await calling
        assert (got.status, got.headers["connection"]) == (200, "close")
        assert await ended(short_lived) == 0
    assert got.headers["x-last-id"] in short_lived.cli("calls", "--json")


# When it cannot start


def start(directory: Path, *arguments: str, config: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs `gateway serve`, which must end by itself."""
    path = directory / "gateway.toml"
    path.write_text(f'[store]\nurl = "sqlite:///gateway.db"\n{config}')
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OPENAI_"))}
    return subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "--config", str(path), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env={**inherited, "HOME": str(directory), **environ},
    )


UPSTREAM = '[[upstream]]\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "A_KEY"'


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_port_in_use_is_one_line_and_exit_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = start(tmp_path, "--port", port, config=UPSTREAM, A_KEY="k")
    assert_one_line(done, port, "127.0.0.1")


def test_an_address_that_is_not_ours_is_one_line_and_exit_2(tmp_path: Path) -> None:
    assert_one_line(start(tmp_path, "--host", "203.0.113.1", "--port", "0", config=UPSTREAM, A_KEY="k"), "203.0.113.1")


@pytest.mark.parametrize(
    ("config", "environ", "word"),
    [
        (UPSTREAM, {}, "A_KEY"),
        (UPSTREAM, {"A_KEY": ""}, "A_KEY"),
        (UPSTREAM, {"A_KEY": "two\nlines"}, "A_KEY"),
        (UPSTREAM.replace("api_key_env", "api_key_file"), {}, "A_KEY"),
        ("", {}, "OPENAI_API_KEY"),
        (UPSTREAM + "\n[servre]\nport = 1", {"A_KEY": "k"}, "servre"),
        (UPSTREAM + "\n[plugins]\ndirectory = 'nowhere'", {"A_KEY": "k"}, "nowhere"),
        (UPSTREAM + "\n[plugins]\noff = ['json']", {"A_KEY": "k"}, "json"),
    ],
    ids=["no key", "empty key", "key of two lines", "no key file", "nothing at all", "typo", "no directory", "no json"],
)
def test_what_cannot_work_is_one_line_and_exit_2(
    tmp_path: Path, config: str, environ: dict[str, str], word: str
) -> None:
    assert_one_line(start(tmp_path, "--port", "0", config=config, **environ), word)
