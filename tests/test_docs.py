"""What the documentation says is so: its examples run, its tables are the code's, its links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_plugins.xml import render

from gateway.config import AliasSettings, PriceSettings, Settings, UpstreamSettings
from gateway.config_values import key_types
from gateway.demo import start
from gateway.errors import ERROR_CODES
from gateway.hookspecs import FormatterSpec, MethodSpec, TranslatorSpec
from gateway.methods import TEXT_ARGUMENTS
from gateway.types import Document
from tests.support import UPSTREAM_KEY, Gateway, call, custom_path, gateway_process

ROOT = Path(__file__).parent.parent
README, API, OPERATING, PLUGINS = (ROOT / name for name in (
    "README.md", "docs/api.md", "docs/operating.md", "docs/plugins.md"
))  # fmt: skip
PAGES = (README, API, OPERATING, PLUGINS, ROOT / "CHANGELOG.md", ROOT / "docs/benchmarks.md")
MADE_BY_BENCH = "../bench/results/"

TOOLS = {name: shutil.which(name) for name in ("curl", "node", "php")}
NODE_PACKAGE = ROOT / "tests/node"

QUESTION: dict[str, object] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "向日葵"}]}


TABLES = {"upstream": UpstreamSettings, "price": PriceSettings, "alias": AliasSettings}  # there may be several of each


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of a page in one language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no {language}"
    return found


def block_with(page: Path, language: str, text: str) -> str:
    """The one block that holds a text."""
    [found] = [block for block in blocks(page, language) if text in block]
    return found


def commands(page: Path) -> list[tuple[str, str]]:
    """Every command of a page's console blocks, continuation lines included, with the output shown under it."""
    pairs = []
    for block in blocks(page, "console"):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = entry.splitlines()
            size = next(i for i, line in enumerate(lines, 1) if not line.endswith("\\"))
            pairs.append(("\n".join(lines[:size]), "\n".join(lines[size:]).strip()))
    return pairs


def tables(page: Path) -> dict[str, list[list[str]]]:
    """The cells of a page's tables, by the heading above them."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in page.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def shell(command: str, directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as a person would who pasted it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(directory), "XDG_DATA_HOME": "", "COLUMNS": "200", **environ}
    return subprocess.run(
        ["bash", "-c", command], cwd=directory, env=environment, capture_output=True, encoding="utf-8", timeout=60,
        check=False,
    )  # fmt: skip


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(TOOLS[tool] is None, reason=f"{tool} is not installed")


# The examples, against a demonstration


@pytest.fixture(scope="module")
def demo() -> Iterator[Gateway]:
    with gateway_process() as running:
        yield running


def at(demo: Gateway, text: str) -> str:
    """An example that calls this demonstration."""
    assert "127.0.0.1:8080" in text
    return text.replace("127.0.0.1:8080", f"127.0.0.1:{demo.port}")


@needs("curl")
@pytest.mark.parametrize("page", [README, API], ids=lambda page: page.stem)
def test_the_curl_commands_get_answers(demo: Gateway, page: Path, tmp_path: Path) -> None:
    for command, shown in commands(page):
        if not command.startswith("curl"):
            continue
        done = shell(at(demo, command), tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said = done.stdout
        if '"stream": true' in command:
            assert said.endswith("data: [DONE]\n\n"), command
        elif "result_type=xml" in command:
            assert "<error_code>0000</error_code>" in said, command
        elif "-o speech.mp3" in command:
            assert (tmp_path / "speech.mp3").stat().st_size > 1000
        elif "/v1/files" in command:
            assert json.loads(said)["object"] == "file", command
        else:
            expected = re.search(r'"error_code":"(\d{4})"', shown)
            assert json.loads(said)["error_code"] == (expected[1] if expected else "0000"), command


@pytest.mark.parametrize("page", [README, API], ids=lambda page: page.stem)
def test_the_python_sdk_examples_print_an_answer(demo: Gateway, page: Path, tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(at(demo, block_with(page, "python", "from openai import")), "utf-8")
    done = shell("python example.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sea" in done.stdout


def test_every_python_block_is_python() -> None:
    for page in (README, API, PLUGINS):
        for block in blocks(page, "python"):
            compile(block, page.name, "exec")


@needs("php")
def test_the_php_example_prints_the_answer(demo: Gateway, tmp_path: Path) -> None:
    [block] = blocks(API, "php")
    (tmp_path / "example.php").write_text(at(demo, block), "utf-8")
    done = shell("php example.php", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("向日葵"), done.stdout


@needs("node")
@pytest.mark.parametrize("kind", ["custom", "native", "browser"])
def test_the_javascript_examples_run(demo: Gateway, kind: str, tmp_path: Path) -> None:
    starts = "// browser" if kind == "browser" else f"// node: the {kind} front"
    [block] = [block for block in blocks(API, "js") if block.startswith(starts)]
    (tmp_path / "example.mjs").write_text(at(demo, block), "utf-8")
    if kind == "native":
        if not (NODE_PACKAGE / "node_modules/openai").is_dir():
            pytest.skip("OpenAI's Node SDK is not installed (make node-sdk)")
        (tmp_path / "node_modules").symlink_to(NODE_PACKAGE / "node_modules")
    done = shell("node --check example.mjs" if kind == "browser" else "node example.mjs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert kind == "browser" or len(done.stdout) > 20


async def test_the_event_source_example_s_call_is_a_stream(demo: Gateway) -> None:
    """An EventSource can only GET: its flat arguments make the same stream."""
    messages = json.dumps(QUESTION["messages"])
    path = custom_path(demo, method="v1/chat/completions", stream="true", messages=messages)
    answer = await call(demo, "GET", path, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")


# The operator's commands


@pytest.mark.parametrize("page", [README, OPERATING], ids=lambda page: page.stem)
def test_the_account_commands_say_what_is_shown(page: Path, tmp_path: Path) -> None:
    ran = 0
    for command, shown in commands(page):
        if not command.startswith("gateway accounts"):
            continue
        done = shell(command, tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if shown:
            assert [_label(line) for line in done.stdout.splitlines()] == [_label(line) for line in shown.splitlines()]
        ran += 1
    assert ran


def _label(line: str) -> str:
    """What stands at a line's left, the same for every account."""
    return re.split(r"\s{2,}", line)[0]


def test_every_command_and_option_shown_exists(tmp_path: Path) -> None:
    shown = re.findall(r"gateway (serve|demo|plugins|calls|audit|accounts \w+)((?: [^`\n|]+)?)", OPERATING.read_text())
    assert shown
    helps: dict[str, str] = {}
    for name, rest in shown:
        if name not in helps:
            helps[name] = shell(f"gateway {name} --help", tmp_path).stdout
            assert helps[name], name
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in helps[name], f"gateway {name} {option}"


def test_the_call_log_looks_as_shown(tmp_path: Path) -> None:
    [(command, shown)] = [(command, shown) for command, shown in commands(OPERATING) if "gateway calls" in command]
    done = shell(command, tmp_path)
    assert done.stdout.split() == shown.splitlines()[0].split()


def test_the_audit_looks_as_shown(tmp_path: Path) -> None:
    [(command, shown)] = [(command, shown) for command, shown in commands(OPERATING) if "gateway audit" in command]
    done = shell(command, tmp_path)
    assert (done.stdout.splitlines()[0].split(), done.stdout.splitlines()[-1]) == (
        shown.splitlines()[0].split(),
        shown.splitlines()[-1],
    )


# The plugins' examples


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    """The embedded upstream's base URL."""
    runner, base_url = await start("127.0.0.1", 0, UPSTREAM_KEY, pace_s=0)
    yield base_url
    await runner.cleanup()


async def test_the_readme_s_plugin_serves_answers_and_streams(upstream: str, tmp_path: Path) -> None:
    block = block_with(README, "python", "# plugins.d/python.py")
    (tmp_path / "python.py").write_text(block)
    path = {"method": "v1/chat/completions", "result_type": "python"}
    with gateway_process(upstream, arguments=("--plugins-dir", str(tmp_path))) as gateway:
        whole = await call(gateway, "POST", custom_path(gateway, **path), QUESTION)
        stream = await call(gateway, "POST", custom_path(gateway, **path), {**QUESTION, "stream": True})
    assert whole.body.startswith(b"{'response': {")
    assert stream.body.startswith(b"data: {'id': ")
    assert stream.body.endswith(b"data: [DONE]\n\n")


async def test_the_example_s_methods_answer(upstream: str, tmp_path: Path) -> None:
    (tmp_path / "poems.py").write_text(block_with(PLUGINS, "python", "# plugins.d/poems.py"))
    with gateway_process(upstream, arguments=("--plugins-dir", str(tmp_path))) as gateway:
        for method, word, code, response in (
            ("poems/find", {"word": "sea"}, "0000", {"lines": ["The sea is calm to-night."]}),
            ("poems/find", {"word": "land"}, "2000", None),
            ("poems/find", {}, "4014", None),
            ("poems/left", {}, "0000", {"account": "tester", "left": "0"}),
        ):
            got = (await call(gateway, "GET", custom_path(gateway, method=method, **word))).json
            assert (got["error_code"], got["response"]) == (code, response)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package of docs/plugins.md, its files as they stand there."""
    directory = tmp_path / "gateway-tw"
    directory.mkdir()
    for name, language in (("gateway_tw.py", "python"), ("test_gateway_tw.py", "python"), ("pyproject.toml", "toml")):
        text = block_with(PLUGINS, language, f"# {name}\n")
        assert text.startswith(f"# {name}\n")
        (directory / name).write_text(text, "utf-8")
    return directory


async def test_the_example_package_installs_and_serves(upstream: str, package: Path, tmp_path: Path) -> None:
    """Nothing is fetched for it; the list of plugins is the one shown, but for the version."""
    site = tmp_path / "site"
    installed = shell(
        "python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation"
        f" --target '{site}' .",
        package,
    )
    assert installed.returncode == 0, installed.stderr
    [shown] = [shown for command, shown in commands(PLUGINS) if command == "gateway plugins"]
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    listed = shell("gateway plugins", tmp_path, PYTHONPATH=path).stdout
    assert [_row(line) for line in listed.splitlines()] == [_row(line) for line in shown.splitlines()]
    asked = {"method": "v1/chat/completions", "result_type": "text", "lang": "tw"}
    with gateway_process(upstream, environ={"PYTHONPATH": path}) as gateway:
        whole = await call(gateway, "POST", custom_path(gateway, **asked), QUESTION)
        stream = await call(gateway, "POST", custom_path(gateway, **asked), {**QUESTION, "stream": True})
    assert whole.headers["x-translate-status"] == "translated"
    assert whole.body.decode().startswith("向日葵")
    assert "陽光" in whole.body.decode()
    assert stream.headers["x-translate-status"] in {"already", "translated"}  # of its first sentence
    assert "陽光" in stream.body.decode()
    assert stream.body.endswith(b"data: [DONE]\n\n")


def _row(line: str) -> list[str]:
    """A plugin's row without its source's version."""
    return [cell for cell in line.split() if not re.fullmatch(r"[\d.]+", cell)]


def test_the_example_package_s_tests_pass(package: Path) -> None:
    done = shell("python -m pytest -q -p no:cacheprovider test_gateway_tw.py", package, PYTHONPATH=str(package))
    assert done.returncode == 0, done.stdout


def test_the_specs_have_the_fields_that_are_shown() -> None:
    specs = (("Formatters", FormatterSpec), ("Translators", TranslatorSpec), ("Methods", MethodSpec))
    for heading, spec in specs:
        fields = [re.findall(r"^`(\w+)", row[0]) for row in tables(PLUGINS)[heading]]
        described = [names[0] for names in fields if names and names[0] != "document"]
        assert described == list(spec.__dataclass_fields__), heading


# Tables that are the code's


def test_every_error_code_is_described_as_it_is() -> None:
    rows = {cells[0]: cells for cells in tables(API)["Errors"] if cells[0].isdigit()}
    assert rows.keys() == ERROR_CODES.keys()
    for code, row in ERROR_CODES.items():
        charged = "yes" if row.charged else "no" if row.dispatched else "ignored"
        described = [rows[code][column] for column in (1, 3, 4)]
        assert described == [row.message, charged, str(row.native_status)], code


def test_every_configuration_key_is_described_with_its_default() -> None:
    described = {}
    for heading, rows in tables(OPERATING).items():
        if section := re.fullmatch(r"`\[+(\w+)\]+`", heading):
            for cells in rows[2:]:
                described[f"{section[1]}.{cells[0].strip('`')}"] = tomllib.loads(f"x = {cells[1].strip('`')}")["x"]
    actual: dict[str, object] = {}
    for section_name, section_type in key_types(Settings).items():
        settings = TABLES.get(section_name, section_type)
        defaults: dict[str, Any] = msgspec.to_builtins(settings())
        actual |= {
            f"{section_name}.{key}": list(value) if isinstance(value, tuple) else value
            for key, value in defaults.items()
        }
    assert described == actual


def test_every_configuration_key_in_the_text_exists() -> None:
    keys = {
        f"{section}.{key}"
        for section, type_ in key_types(Settings).items()
        for key in key_types(TABLES.get(section, type_))
    }
    sections = "|".join(key_types(Settings))
    for page in (README, API, OPERATING, PLUGINS):
        for named in re.findall(rf"`((?:{sections})\.[a-z_]+)`", page.read_text()):
            assert named in keys, f"{page.name}: {named}"


def test_the_arguments_that_stay_text_are_listed() -> None:
    paragraph = API.read_text().partition("These stay text")[2].partition(" `stop` is")[0]
    assert set(re.findall(r"`(\w+)`", paragraph)) == TEXT_ARGUMENTS


# What every page holds


def test_the_json_is_json() -> None:
    for block in blocks(API, "json"):
        json.loads(block)


def test_the_configurations_shown_have_no_faults(tmp_path: Path) -> None:
    for number, block in enumerate(blocks(OPERATING, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        done = shell(f"gateway check {file.name}", tmp_path)
        assert done.returncode == 0, done.stderr


def test_the_xml_shown_is_what_the_json_gives() -> None:
    [shown] = blocks(API, "xml")
    found = re.search(r"^is `(\{.*\})`:$", API.read_text(), re.MULTILINE)
    assert found is not None
    assert render(Document(found[1].encode())).decode().split() == shown.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", MADE_BY_BENCH)):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{page.name}: {target}"


def _anchors(page: Path) -> set[str]:
    """The headings of a page as anchors, made as the hosts of Markdown make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
