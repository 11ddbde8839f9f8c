"""A first start with nothing but a key of the upstream: the log says what is missing, and its command provides it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from openai import AsyncOpenAI, AuthenticationError

from tests.chaos import Chaos, json_answer


async def models(client: AsyncOpenAI) -> list[str]:
    """The models' names, as soon as the gateway knows of the account: it looks for changes twice a second."""
    async with asyncio.timeout(10):
        while True:
            try:
                return [model.id async for model in client.models.list()]
            except AuthenticationError:
                await asyncio.sleep(0.05)


async def test_the_log_tells_how_to_add_the_first_account(tmp_path: Path) -> None:
    """The command is pasted as it stands, but for the name."""
    model = {"id": "gpt-4o", "object": "model", "created": 1, "owned_by": "x"}
    async with Chaos(json_answer({"object": "list", "data": [model]})) as upstream:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "OPENAI_API_KEY": "sk-upstream",
            "OPENAI_BASE_URL": upstream.base_url,
        }
        serving = [sys.executable, "-m", "gateway", "serve", "--port", "0"]
        gateway = await asyncio.create_subprocess_exec(*serving, stderr=PIPE, env=environment)
        assert gateway.stderr
        try:
            origin = re.search(r"serving at (\S+)", (await gateway.stderr.readline()).decode())
            told = re.search(r"no account yet.*; add one: (.*)", (await gateway.stderr.readline()).decode())
            assert origin
            assert told
            adding = await asyncio.create_subprocess_shell(
                told[1].replace("NAME", "me"), stdout=PIPE, stderr=DEVNULL, env=environment
            )
            added = (await adding.communicate())[0].decode()
            key, secret = re.findall(r"^(?:key|secret) +(\S+)$", added, re.MULTILINE)
            async with AsyncOpenAI(base_url=f"{origin[1]}/v1", api_key=f"{key}:{secret}") as client:
                assert await models(client) == ["gpt-4o"]
        finally:
            gateway.terminate()
            assert await gateway.wait() == 0
        assert upstream.exchanges[0].header("authorization") == "Bearer sk-upstream"
