"""A plugin from elsewhere: built and installed as its users would, found by a fresh interpreter, and used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

USE_BOTH = """
import asyncio, json
from gateway.config import PluginsSettings
from gateway.plugin_loading import load_plugins
from gateway.types import Document, TranslationContext

plugins = load_plugins(PluginsSettings())
ja = plugins.translators["ja"]
context = TranslationContext("v1/chat/completions", "1.0", "someone")
print(json.dumps({
    "rows": [[row.plugin, row.source, row.kind, row.name, row.status] for row in plugins.rows],
    "upper": plugins.formatters["upper"].render(Document('{"a": "Grüße"}'.encode())).decode(),
    "translated": asyncio.run(ja.translate(["Hello", "Well"], context)),
    "is_already": [ja.is_already("こんにちは"), ja.is_already("你好")],
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory into which the distribution is installed; nothing is fetched for it."""
    root = tmp_path_factory.mktemp("third_party")
    source = shutil.copytree(TESTS / "third_party", root / "source")  # building leaves files behind
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(root / "site"), str(source)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return root / "site"


def test_an_installed_plugin_is_found_and_serves(installed: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", USE_BOTH],
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONIOENCODING": "utf-8"},
        cwd=TESTS.parent,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    said = json.loads(finished.stdout)
    assert ["phrasebook", "gateway-phrasebook 1.2.3", "formatter", "upper", "active"] in said["rows"]
    assert ["phrasebook", "gateway-phrasebook 1.2.3", "translator", "ja", "active"] in said["rows"]
    assert said["upper"] == '{"A": "GRÜSSE"}'
    assert said["translated"] == ["こんにちは", "Well"]
    assert said["is_already"] == [True, False]
