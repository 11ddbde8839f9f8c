"""A plugin from elsewhere, built and installed as its users would, serves over HTTP; ours give way where told to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import phpserialize  # type: ignore[import-untyped]  # ships no types
import pytest
from dicttoxml import dicttoxml  # type: ignore[import-untyped]  # ships no types

from tests.chaos import Chaos, json_answer, sse_answer
from tests.support import Answer, Gateway, call, custom_path, free_port, gateway_before_chaos, gateway_process

TESTS = Path(__file__).parent

LOUD = """
from gateway.hookspecs import FormatterSpec, MethodSpec, hookimpl

async def fail(call, context):
    raise ValueError(call.arguments.values["prompt"])

@hookimpl
def gateway_methods():
    return [MethodSpec("loud/fail", fail)]

@hookimpl
def gateway_formatters():
    return [FormatterSpec("loud", "text/plain", lambda document: document.text + b"!")]
"""

OTHER_CHOICES = """
[plugins]
off = ["var_export"]
[plugins.formatters]
xml = "xml_dicttoxml"
serialize = "serialize_phpserialize"
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


@pytest.fixture(scope="module")
def extended(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that finds the distribution, and a file in the directory that it is given."""
    directory = tmp_path_factory.mktemp("plugins")
    (directory / "loud.py").write_text(LOUD)
    port = free_port()
    with gateway_process(
        upstream=f"http://127.0.0.1:{port}/v1",
        environ={"PYTHONPATH": str(installed)},
        arguments=("--plugins-dir", str(directory)),
    ) as gateway:
        gateway.upstream_port = port
        yield gateway


@pytest.fixture(scope="module")
def rearranged() -> Iterator[Gateway]:
    """A gateway with one plugin off and stand-bys in the place of two others."""
    with gateway_before_chaos(config=OTHER_CHOICES) as gateway:
        yield gateway


async def asked(gateway: Gateway, **parameters: str) -> Answer:
    return await call(gateway, "GET", custom_path(gateway, method="v1/echo", **parameters))


def chat(text: str) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_gateway_plugins_names_the_distribution_and_its_version(installed: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "gateway", "plugins", "--json"],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [row for row in json.loads(finished.stdout) if row["plugin"] == "phrasebook"]
    assert [(row["kind"], row["name"], row["status"]) for row in rows] == [
        ("formatter", "upper", "active"),
        ("translator", "ja", "active"),
        ("method", "phrases/get", "active"),
    ]
    assert {row["source"] for row in rows} == {"gateway-phrasebook 1.2.3"}


async def test_its_format_is_a_result_type_of_whole_answers(extended: Gateway) -> None:
    async with Chaos(json_answer({"a": "Grüße"}), port=extended.upstream_port):
        answer = await asked(extended, result_type="upper")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body.decode().startswith('{"RESPONSE":{"A": "GRÜSSE"},"ERROR":""')


async def test_its_format_is_a_result_type_of_streams(extended: Gateway) -> None:
    events = ['data: {"a":"Grüße"}\n\n'.encode(), b": comment\n\n", b"id: 7\ndata: {}\n\n", b"data: [DONE]\n\n"]
    async with Chaos(sse_answer(events), port=extended.upstream_port):
        answer = await asked(extended, result_type="upper")
    assert answer.complete
    assert answer.body.decode() == 'data: {"A":"GRÜSSE"}\n\n: comment\n\nid: 7\ndata: {}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("said", "delivered", "status"),
    [("Hello", "こんにちは", "translated"), ("こんばんは", "こんばんは", "already"), ("Well", "Well", "translated")],
)
async def test_its_language_is_a_lang_of_answers(extended: Gateway, said: str, delivered: str, status: str) -> None:
    async with Chaos(json_answer(chat(said)), port=extended.upstream_port):
        answer = await asked(extended, lang="ja")
    assert answer.json["response"] == chat(delivered)
    assert answer.headers["x-translate-status"] == status


async def test_its_format_and_its_language_work_together(extended: Gateway) -> None:
    async with Chaos(json_answer(chat("Thank you")), port=extended.upstream_port):
        answer = await asked(extended, lang="ja", result_type="upper")
    assert '"CONTENT":"ありがとう"' in answer.body.decode()


async def test_a_file_of_the_plugins_directory_serves_beside_it(extended: Gateway) -> None:
    async with Chaos(json_answer([1]), port=extended.upstream_port):
        answer = await asked(extended, result_type="loud")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.body.startswith(b'{"response":[1],')
    assert answer.body.endswith(b"}!")


async def test_the_reason_names_the_formats_and_languages_that_there_are(
    extended: Gateway, rearranged: Gateway
) -> None:
    """Those of a plugin that is off are not among them."""
    for gateway, names in (
        (extended, "json, jsonu, loud, serialize, upper, var_export, xml"),
        (rearranged, "json, jsonu, serialize, xml"),
    ):
        answer = await asked(gateway, result_type="var_export" if gateway is rearranged else "yaml")
        assert (answer.json["error_code"], answer.json["error"]) == ("4003", "Param error")
        assert answer.json["reason"] == f"result_type must be one of {names}"
    answer = await asked(extended, lang="de")
    assert answer.json["reason"] == "lang must be one of cn, en, ja, ru"


async def test_the_configuration_puts_a_library_in_the_place_of_ours(extended: Gateway, rearranged: Gateway) -> None:
    """Each is known by what it writes otherwise: a null of XML, a whole float of PHP."""
    value = {"none": None, "whole": 1.0, "name": "向日葵"}
    by_library = {
        "xml": dicttoxml({"response": value}, root=False, attr_type=False),
        "serialize": phpserialize.dumps("response") + phpserialize.dumps(value),
    }
    for result_type, expected in by_library.items():
        for gateway, is_library in ((extended, False), (rearranged, True)):
            async with Chaos(json_answer(value), port=gateway.upstream_port):
                answer = await asked(gateway, result_type=result_type)
            assert answer.headers["x-error-code"] == "0000"
            assert (expected in answer.body) is is_library
            assert "向日葵".encode() in answer.body


async def test_the_librarys_format_serves_streams_too(rearranged: Gateway) -> None:
    events = [b'data: {"none":null}\n\n', b"data: [DONE]\n\n"]
    async with Chaos(sse_answer(events), port=rearranged.upstream_port):
        xml = await asked(rearranged, result_type="xml")
        php = await asked(rearranged, result_type="serialize")
    assert b"<root><none></none></root>\n\ndata: [DONE]\n\n" in xml.body
    assert php.body == b'data: a:1:{s:4:"none";N;}\n\ndata: [DONE]\n\n'


async def test_its_method_answers_on_the_custom_front_and_the_upstream_is_not_asked(extended: Gateway) -> None:
    path = custom_path(extended, method="phrases/get")
    for got in (
        await call(extended, "GET", custom_path(extended, method="phrases/get", prompt="Goodbye")),
        await call(extended, "POST", path, {"prompt": "Goodbye"}),
        await call(extended, "POST", path, {"_o_args": {"prompt": "Goodbye", "stream": True}}),
    ):
        assert got.json["error_code"] == "0000"
        assert (got.json["response"]["phrase"], got.json["response"]["for"]) == ("さようなら", "tester")


async def test_its_method_takes_every_format_the_plugin_s_own_too(extended: Gateway) -> None:
    for result_type in ("json", "jsonu", "xml", "serialize", "var_export", "upper", "loud"):
        path = custom_path(extended, method="phrases/get", prompt="Hello", result_type=result_type)
        got = await call(extended, "GET", path)
        assert got.headers["x-error-code"] == "0000", result_type
        expected = "\\u3053\\u3093" if result_type == "json" else "こんにちは"
        assert expected in got.body.decode(), result_type


async def test_its_method_refuses_by_the_table(extended: Gateway) -> None:
    needs = (await call(extended, "GET", custom_path(extended, method="phrases/get"))).json
    assert (needs["error_code"], needs["reason"]) == ("4014", "phrases/get needs the argument prompt")
    nothing = (await call(extended, "GET", custom_path(extended, method="phrases/get", prompt="Hm"))).json
    assert [nothing[name] for name in ("response", "error", "reason", "error_code")] == [None, "", "", "2000"]


async def test_its_method_counts_like_any_call_and_has_to_be_given(extended: Gateway) -> None:
    """Unlike the account's own."""
    path = custom_path(extended, method="phrases/get", prompt="Hello", version="2")
    before, after = [(await call(extended, "GET", path)).json["api_info"] for _ in range(2)]
    assert int(after.split()[0][6:]) == int(before.split()[0][6:]) + 1
    added = json.loads(extended.cli("accounts", "add", "narrow", "--methods", "v1/*", "--json"))
    code = "4004"
    while code == "4004":  # until the server knows the account
        narrow = {"key": added["key"], "secret": added["secret"], "method": "phrases/get", "prompt": "Hello"}
        code = (await call(extended, "GET", f"/openai/custom/?{urlencode(narrow)}")).json["error_code"]
    assert code == "4012"


async def test_a_method_that_fails_is_4000_and_the_log_says_where(extended: Gateway) -> None:
    """The client sees no traceback, and the log nothing of what the caller wrote."""
    got = (await call(extended, "GET", custom_path(extended, method="loud/fail", prompt="my secret"))).json
    assert (got["error_code"], got["reason"], got["response"]) == ("4000", "the method loud/fail failed", None)
    [line] = [line for line in extended.log.splitlines() if "loud/fail" in line]
    assert re.search(r"the method loud/fail raised ValueError at .*loud\.py:\d+$", line)
    assert "my secret" not in extended.log
