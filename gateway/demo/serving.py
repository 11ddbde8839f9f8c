"""Runs the embedded upstream, alone or with the gateway in front of it."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

from aiohttp import web

from gateway.config import DefaultsSettings, LogSettings, ServerSettings, Settings, StoreSettings, UpstreamSettings
from gateway.demo.upstream import build_app
from gateway.store import open_store
from gateway.types import Account

NAME = KEY = "demo"
_DRAIN_S = 2.0  # whoever ends a demonstration does not wait for an answer that hangs on purpose
SECRET = "demo-secret"  # noqa: S105 – of an account that lives as long as the process

_DEFAULT_MODELS = {
    "v1/audio/speech": "tts-1",
    "v1/audio/transcriptions": "whisper-1",
    "v1/audio/translations": "whisper-1",
    "v1/chat/completions": "gpt-4o-mini",
    "v1/completions": "gpt-3.5-turbo-instruct",
    "v1/edits": "text-davinci-edit-001",
    "v1/embeddings": "text-embedding-3-small",
    "v1/responses": "gpt-4o-mini",
}

# The commands stand at the margin, so that they can be pasted as they are, Python's indentation included.
_BANNER = """\
The gateway serves made-up answers on {origin} (key {key}, secret {secret}); Ctrl-C ends it.

# a stream
curl -N '{origin}/openai/custom/?key={key}&secret={secret}&method=v1/chat/completions' \\
  --data-urlencode '_o_args={{"messages":[{{"role":"user","content":"向日葵"}}],"stream":true}}'

# an answer in XML
curl '{origin}/openai/custom/?key={key}&secret={secret}&method=v1/chat/completions&result_type=xml' \\
  --data-urlencode '_o_args={{"messages":[{{"role":"user","content":"中国队什么时候进世界杯"}}]}}'

# the official SDK, after: pip install openai
python3 -c '
from openai import OpenAI
client = OpenAI(base_url="{origin}/v1", api_key="{key}:{secret}")
question = [{{"role": "user", "content": "Почему подсолнух любит солнце?"}}]
for chunk in client.chat.completions.create(model="gpt-4o-mini", messages=question, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()'
"""


async def start(host: str, port: int, key: str, pace_s: float = 0.025) -> tuple[web.AppRunner, str]:
    """Serves the upstream; returns its runner, whose cleanup() ends it, and its base URL with the real port."""
    # Without handler_cancellation a hanging answer would hang on when its client has left.
    app = build_app(key=key, pace_s=pace_s)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    real_port = runner.addresses[0][1]
    return runner, f"http://{f'[{host}]' if ':' in host else host}:{real_port}/v1"


def run(host: str, port: int) -> int:
    """`gateway demo`: the upstream and the gateway in one process, with a store that goes when they end."""
    from gateway import app

    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as directory:
        app.run_process(serve(host, port, Path(directory), print_banner), LogSettings())
    return 0


def print_banner(origin: str) -> None:
    """Tells how to call the gateway at this origin."""
    sys.stdout.write(_BANNER.format(origin=origin, key=KEY, secret=SECRET))
    sys.stdout.flush()


async def serve(
    host: str, port: int, directory: Path, ready: Callable[[str], None], stop: asyncio.Event | None = None
) -> None:
    """Serves the upstream and the gateway, whose store is in `directory`; as gateway.app.serve() in all else."""
    from gateway import app  # the upstream alone, in tests and benchmarks, needs no gateway

    upstream_key = f"demo-upstream-{token_hex(16)}"
    runner, base_url = await start("127.0.0.1", 0, upstream_key)
    try:
        key_file = directory / "upstream.key"
        await asyncio.to_thread(key_file.write_text, upstream_key)
        settings = _settings(host, port, directory, base_url, key_file)
        await asyncio.to_thread(_add_account, settings)
        await app.serve(settings, ready=ready, stop=stop)
    finally:
        await runner.cleanup()


def _settings(host: str, port: int, directory: Path, base_url: str, key_file: Path) -> Settings:
    return Settings(
        server=ServerSettings(host=host, port=port, drain_s=_DRAIN_S),
        store=StoreSettings(url=f"sqlite:///{directory / 'gateway.db'}"),
        upstream=(UpstreamSettings(name="demo", base_url=base_url, api_key_file=str(key_file)),),
        defaults=DefaultsSettings(model=_DEFAULT_MODELS),
    )


def _add_account(settings: Settings) -> None:
    with open_store(settings) as store:
        digest = store.pepper.digest(SECRET)
        store.accounts.add(Account(id=0, name=NAME, key=KEY, secret_digest=digest))
