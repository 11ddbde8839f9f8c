"""OpenAI's own SDK for Node gets through the gateway what it would get from OpenAI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import gateway_process

NODE = shutil.which("node")
PACKAGE = Path(__file__).parent / "node"

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (PACKAGE / "node_modules/openai").is_dir(), reason="OpenAI's Node SDK is not installed (make node-sdk)"
    ),
]


def call(mode: str, base_url: str, api_key: str) -> Any:
    """What call.mjs tells of one call."""
    environment = {**os.environ, "BASE_URL": base_url, "API_KEY": api_key}
    command = [str(NODE), "call.mjs", mode]
    done = subprocess.run(
        command, cwd=PACKAGE, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_chat_call_and_its_stream_tell_the_node_sdk_the_same() -> None:
    with gateway_process() as gateway:
        api_key = f"{gateway.key}:{gateway.secret}"
        whole = call("chat", gateway.base_url, api_key)
        streamed = call("stream", gateway.base_url, api_key)
    assert whole["content"]
    assert whole["finish_reason"] == "stop"
    assert whole["usage"]["total_tokens"] > 0
    assert streamed.pop("chunks") > 2
    assert streamed == whole
