"""Every documented method, called through the custom front in every way and format, against the demonstration."""

from __future__ import annotations

import io
import json
import re
import wave
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import aiohttp
import orjson
import pytest
import pytest_asyncio

from gateway.config import PluginsSettings
from gateway.demo.media import flower_png
from gateway.plugin_loading import load_plugins
from gateway.types import Document
from tests.support import Gateway, gateway_process

FORMATS = load_plugins(PluginsSettings()).formatters
RESULT_TYPES = ("json", "jsonu", "xml", "serialize", "var_export")

# How parameters travel: "multipart" has all of them in fields, "multipart, URL" key, secret and method in the URL.
Way: TypeAlias = Literal["query", "form", "JSON", "multipart", "multipart, URL"]
PICTURE, RECORDING = flower_png(bytes(8)), bytes(range(256)) * 100


@dataclass(frozen=True)
class Answered:
    """An answer: its body is an envelope, unless it is a file."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def response_text(self) -> bytes:
        """Of an envelope in jsonu the upstream's own text."""
        return self.body.removeprefix(b'{"response":').rpartition(b',"error":"')[0]

    @property
    def response(self) -> Any:
        return json.loads(self.body)["response"]


@dataclass(frozen=True)
class Case:
    """A call, and what its answer looks like."""

    method: str
    way: Way
    arguments: Mapping[str, object]
    is_right: Callable[[Any], object]
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} by {self.way}"


@dataclass(frozen=True)
class Caller:
    """Calls the custom front."""

    gateway: Gateway
    session: aiohttp.ClientSession

    async def ask(
        self,
        method: str,
        result_type: str,
        way: Way = "query",
        arguments: Mapping[str, object] | None = None,
        files: Mapping[str, bytes] | None = None,
        verb: str = "GET",
    ) -> Answered:
        """One call, its arguments flat; `verb` is of calls by query only."""
        credentials = {"key": self.gateway.key, "secret": self.gateway.secret, "method": method}
        values = {"result_type": result_type, **(arguments or {})}
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        if way == "query":
            return await self._send(verb, params={**credentials, **texts})
        if way == "form":
            return await self._send("POST", data={**credentials, **texts})
        if way == "JSON":
            return await self._send("POST", json={**credentials, **values})
        in_url = credentials if way == "multipart, URL" else {}
        form = aiohttp.FormData(texts if in_url else {**credentials, **texts}, default_to_multipart=True)
        for name, content in (files or {}).items():
            form.add_field(name, content, filename=f"{name}.bin", content_type="application/octet-stream")
        return await self._send("POST", params=in_url, data=form)

    async def _send(self, verb: str, **options: Any) -> Answered:
        async with self.session.request(verb, f"{self.gateway.origin}/openai/custom/", **options) as answer:
            assert answer.status == 200
            return Answered(answer.headers, await answer.read())


@pytest.fixture(scope="module")
def demo() -> Iterator[Gateway]:
    with gateway_process() as gateway:
        yield gateway


@pytest_asyncio.fixture
async def caller(demo: Gateway) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(demo, session)


def envelope(response_text: bytes, answer: Answered, code: str = "0000") -> bytes:
    """The envelope that the answer should be, in jsonu; only its ids are the answer's own."""
    ids = (answer.headers["X-Request-Id"].encode(), answer.headers["X-Last-Id"].encode())
    assert re.fullmatch(rb"\d+\.[0-9a-f]{13} \d{10,}", b" ".join(ids))
    return (
        b'{"response":%b,"error":"","reason":"","error_code":"%b","request_id":"%b","last_id":"%b"}'
        % (response_text, code.encode(), *ids)
    )  # fmt: skip


def check_envelope(answer: Answered, result_type: str, response_text: bytes, code: str = "0000") -> None:
    """The answer is this response in its envelope, in this format."""
    spec = FORMATS[result_type]
    assert answer.headers["Content-Type"] == spec.content_type
    assert answer.headers["X-Error-Code"] == code
    assert answer.body == spec.render(Document(envelope(response_text, answer, code)))


def is_flower(texts: Sequence[str]) -> bool:
    return bool(texts) and all("向日葵" in text for text in texts)


CHAT = {"messages": [{"role": "user", "content": "向日葵"}]}

CASES = [
    *(
        Case("v1/chat/completions", way, CHAT, lambda it: is_flower([it["choices"][0]["message"]["content"]]))
        for way in ("query", "form", "JSON", "multipart", "multipart, URL")
    ),
    Case("v1/chat/completions", "form", {"_o_args": CHAT | {"n": 2}}, lambda it: len(it["choices"]) == 2),
    Case("v1/chat/completions", "JSON", {"_o_args": CHAT | {"n": 2}}, lambda it: len(it["choices"]) == 2),
    Case("v1/completions", "query", {"prompt": "向日葵"}, lambda it: is_flower([it["choices"][0]["text"]])),
    Case("v1/completions", "form", {"prompt": "1", "max_tokens": 3}, lambda it: it["usage"]["completion_tokens"] == 3),
    Case(
        "v1/edits",
        "JSON",
        {"input": "what  day of the wek is it?", "instruction": "Fix the spelling mistakes"},
        lambda it: it["choices"][0]["text"] == "What day of the wek is it?",
    ),
    Case(
        "v1/images/generations",
        "query",
        {"prompt": "向日葵", "n": 2, "size": "256x256"},
        lambda it: [image["url"].startswith("http://") for image in it["data"]] == [True, True],
    ),
    Case(
        "v1/images/edits",
        "multipart",
        {"prompt": "More petals", "n": 2},
        lambda it: len(it["data"]) == 2,
        files={"image": PICTURE, "mask": PICTURE},
    ),
    Case("v1/images/variations", "multipart, URL", {"n": 3}, lambda it: len(it["data"]) == 3, {"image": PICTURE}),
    Case(
        "v1/embeddings",
        "JSON",
        {"input": ["one", "two"], "dimensions": 16},
        lambda it: [len(each["embedding"]) for each in it["data"]] == [16, 16],
    ),
    Case("v1/embeddings", "query", {"input": "12"}, lambda it: it["usage"]["prompt_tokens"] == 1),
    *(
        Case(f"v1/audio/{name}", way, arguments, lambda it: set(it) == {"text"}, {"file": RECORDING})
        for name, arguments in (("transcriptions", {"language": "zh"}), ("translations", {}))
        for way in ("multipart", "multipart, URL")
    ),
    Case(
        "v1/audio/transcriptions",
        "multipart",
        {"_o_args": {"model": "whisper-1", "response_format": "srt"}},
        lambda it: it.startswith("1\n00:00:00,000 --> "),  # plain text becomes a string
        {"file": RECORDING},
    ),
    Case("v1/moderations", "form", {"input": "I will kill you"}, lambda it: it["results"][0]["flagged"]),
    Case("v1/responses", "JSON", {"input": "向日葵"}, lambda it: is_flower([it["output"][0]["content"][0]["text"]])),
    Case("v1/models", "query", {}, lambda it: {"id", "object"} < set(it["data"][0])),
    Case("v1/models/gpt-4o", "form", {}, lambda it: it["id"] == "gpt-4o"),
    Case("v1/models/organisation/model", "query", {}, lambda it: it["id"] == "organisation/model"),
    Case("v1/files", "query", {"purpose": "nothing"}, lambda it: it["data"] == []),
]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_method_answers_in_every_format(caller: Caller, case: Case) -> None:
    plain = await caller.ask(case.method, "jsonu", case.way, case.arguments, case.files)
    assert case.is_right(plain.response)
    for result_type in RESULT_TYPES:
        answer = await caller.ask(case.method, result_type, case.way, case.arguments, case.files)
        check_envelope(answer, result_type, plain.response_text)


@pytest.mark.parametrize("way", ["query", "JSON"])
async def test_a_method_that_the_gateway_does_not_know_is_the_upstreams_to_refuse(caller: Caller, way: Way) -> None:
    verb = "POST" if way == "JSON" else "GET"
    arguments = {"training_file": "file-1"} if way == "JSON" else None
    plain = await caller.ask("v1/fine_tuning/jobs", "jsonu", way, arguments)
    assert plain.response["error"]["message"] == f"Invalid URL ({verb} /v1/fine_tuning/jobs)"
    for result_type in RESULT_TYPES:
        answer = await caller.ask("v1/fine_tuning/jobs", result_type, way, arguments)
        check_envelope(answer, result_type, plain.response_text, "2000")


@pytest.mark.parametrize("result_type", RESULT_TYPES)
async def test_speech_is_a_file_whatever_the_format(caller: Caller, result_type: str) -> None:
    asked = {"input": "Hello there", "voice": "alloy", "response_format": "wav"}
    answer = await caller.ask("v1/audio/speech", result_type, "JSON", asked)
    assert answer.headers["Content-Type"] == "audio/wav"
    assert answer.headers["X-Last-Id"]
    with wave.open(io.BytesIO(answer.body)) as sound:
        assert sound.getnframes() > 0


@pytest.mark.parametrize("way", ["multipart", "multipart, URL"])
@pytest.mark.parametrize("result_type", RESULT_TYPES)
async def test_a_file_is_uploaded_listed_read_and_deleted(caller: Caller, result_type: str, way: Way) -> None:
    content = RECORDING + result_type.encode()
    uploaded = await caller.ask("v1/files", result_type, way, {"purpose": "batch"}, {"file": content})
    found = re.search(rb"file-[0-9a-f]{24}", uploaded.body)
    assert found
    name = f"v1/files/{found[0].decode()}"

    stored = await caller.ask(name, "jsonu")
    assert (stored.response["bytes"], stored.response["purpose"]) == (len(content), "batch")
    check_envelope(uploaded, result_type, stored.response_text)
    check_envelope(await caller.ask(name, result_type, "form"), result_type, stored.response_text)

    listed = await caller.ask("v1/files", "jsonu", arguments={"purpose": "batch"})
    assert listed.response["data"] == [stored.response]
    again = await caller.ask("v1/files", result_type, "JSON", {"purpose": "batch"})
    check_envelope(again, result_type, listed.response_text)

    read = await caller.ask(f"{name}/content", result_type)
    assert (read.headers["Content-Type"], read.body) == ("application/octet-stream", content)

    deleting: Any = {"verb": "DELETE"} if way == "multipart" else {"arguments": {"_method": "DELETE"}}
    deleted = await caller.ask(name, result_type, **deleting)
    said = {"id": stored.response["id"], "object": "file", "deleted": True}
    check_envelope(deleted, result_type, orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    gone = await caller.ask(name, "jsonu", **deleting)
    assert gone.headers["X-Error-Code"] == "2000"
    check_envelope(await caller.ask(name, result_type, **deleting), result_type, gone.response_text, "2000")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("v1/chat/completions", CHAT),
        ("v1/completions", {"prompt": "向日葵"}),
        ("v1/responses", {"input": "向日葵", "max_output_tokens": 5}),
    ],
)
async def test_a_stream_is_the_same_events_in_every_format(
    caller: Caller, method: str, arguments: Mapping[str, object]
) -> None:
    asked = {**arguments, "stream": True, "max_tokens": 5}
    plain = (await caller.ask(method, "json", "query", asked)).body
    payloads = re.findall(rb"^data: (\{.*)$", plain, re.MULTILINE)
    assert len(payloads) > 5
    for result_type in RESULT_TYPES:
        expected = plain
        if result_type != "json":
            for payload in payloads:
                data = FORMATS[result_type].render(Document(payload)).replace(b"\n", b"\ndata: ")
                expected = expected.replace(b"data: " + payload + b"\n", b"data: " + data + b"\n", 1)
        answer = await caller.ask(method, result_type, "form", asked)
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.body == expected
