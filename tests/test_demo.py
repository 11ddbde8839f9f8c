"""The embedded upstream, seen by OpenAI's own SDK and by plain HTTP; and the gateway's demonstration in front of it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import wave
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from gateway.demo import answers, media, serving, start
from gateway.demo.multipart import MAX_FILE_BYTES
from gateway.demo.upstream import MODELS

KEY = "demo-upstream-key"
# Any: the SDK's types of arguments are unions of dozens of dictionaries.
ASK: Any = [{"role": "user", "content": "What makes a good garden?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        },
    },
}


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """The base URL of an upstream that streams without pauses."""
    runner, base_url = await start("127.0.0.1", 0, KEY, pace_s=0)
    try:
        yield base_url
    finally:
        await runner.cleanup()


@asynccontextmanager
async def sdk() -> AsyncIterator[AsyncOpenAI]:
    async with upstream() as base_url, AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
        yield client


@asynccontextmanager
async def http() -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with upstream() as base_url, aiohttp.ClientSession(headers=headers) as session:
        yield session, base_url


async def test_it_lists_its_models_and_retrieves_each() -> None:
    async with sdk() as client:
        assert [model.id async for model in client.models.list()] == list(MODELS)
        assert (await client.models.retrieve("gpt-4o-mini")).object == "model"
        assert (await client.models.retrieve("org/name")).id == "org/name"


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("向日葵", "zh"),
        ("中国队什么时候进世界杯", "zh"),
        ("今天 weather 怎么样?", "zh"),
        ("Как дела?", "ru"),
        ("Hi!", "en"),
        ("", "en"),
    ],
)
async def test_an_answer_is_in_the_language_of_its_prompt_and_always_the_same(prompt: str, language: str) -> None:
    async with sdk() as client:
        first, second = [
            await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": prompt}])
            for _ in range(2)
        ]
    assert first == second
    text = first.choices[0].message.content
    assert text
    assert answers.language_of(text) == language
    assert first.choices[0].finish_reason == "stop"


async def test_usage_counts_what_was_said() -> None:
    async with sdk() as client:
        whole = await client.chat.completions.create(model="gpt-4o", messages=ASK)
        twice = await client.chat.completions.create(model="gpt-4o", messages=[*ASK, *ASK], n=2)
    assert whole.usage
    assert twice.usage
    assert whole.usage.completion_tokens == len(answers.tokens_of(whole.choices[0].message.content or ""))
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.prompt_tokens < twice.usage.prompt_tokens
    assert len({choice.message.content for choice in twice.choices}) == 2


async def test_a_stream_says_what_the_whole_answer_says() -> None:
    async with sdk() as client:
        whole = await client.chat.completions.create(model="gpt-4o", messages=ASK, n=2)
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="gpt-4o", messages=ASK, n=2, stream=True, stream_options={"include_usage": True}
            )
        ]
    for choice in whole.choices:
        parts = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert parts[0].delta.role == "assistant"
        assert parts[-1].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_without_usage_ends_with_done() -> None:
    async with http() as (session, base_url):
        body = {"model": "gpt-4o", "messages": ASK, "stream": True}
        async with session.post(f"{base_url}/chat/completions", json=body) as response:
            assert response.content_type == "text/event-stream"
            text = await response.text()
    assert text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in text


async def test_a_limit_or_a_stop_sequence_ends_an_answer_early() -> None:
    async with sdk() as client:
        limited = await client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=5)
        stopped = await client.chat.completions.create(model="gpt-4o", messages=ASK, stop=["?", "."])
    assert limited.usage
    assert (limited.choices[0].finish_reason, limited.usage.completion_tokens) == ("length", 5)
    assert not {"?", "."} & set(stopped.choices[0].message.content or "?")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_when_the_prompt_names_it_or_it_is_required(stream: bool) -> None:
    async def called(client: AsyncOpenAI, prompt: str, choice: Any) -> Any:
        asked: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}
        asked |= {"tools": [WEATHER], "tool_choice": choice}
        if not stream:
            answer = (await client.chat.completions.create(**asked)).choices[0]
            calls = answer.message.tool_calls
            return answer.finish_reason, calls and (calls[0].function.name, json.loads(calls[0].function.arguments))
        name, arguments, finish = "", "", None
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            choice = chunk.choices[0]
            for call in choice.delta.tool_calls or []:
                name, arguments = name or call.function.name, arguments + call.function.arguments
            finish = choice.finish_reason or finish
        return finish, (name, json.loads(arguments)) if name else None

    async with sdk() as client:
        expected = ("tool_calls", ("get_weather", {"city": "Weather in Paris", "unit": "celsius"}))
        assert await called(client, "Weather in Paris", "auto") == expected
        assert (
            await called(client, "Weather in Paris", {"type": "function", "function": {"name": "get_weather"}})
            == expected
        )
        assert (await called(client, "Hello", "required"))[0] == "tool_calls"
        assert await called(client, "Hello", "auto") == ("stop", None)
        assert await called(client, "Weather in Paris", "none") == ("stop", None)


async def test_the_result_of_a_tool_is_answered_with_text() -> None:
    messages: Any = [{"role": "user", "content": "weather?"}, {"role": "tool", "tool_call_id": "1", "content": "sunny"}]
    async with sdk() as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content


async def test_json_answers_are_json_and_fit_their_schema() -> None:
    schema = {
        "$defs": {"Step": {"type": "object", "properties": {"title": {"type": "string"}, "done": {"type": "boolean"}}}},
        "type": "object",
        "properties": {
            "steps": {"type": "array", "items": {"$ref": "#/$defs/Step"}},
            "count": {"type": "integer", "minimum": 3},
            "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        },
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "plan", "schema": schema}}
    async with sdk() as client:
        shaped = await client.chat.completions.create(model="gpt-4o", messages=ASK, response_format=wanted)
        free = await client.chat.completions.create(
            model="gpt-4o", messages=ASK, response_format={"type": "json_object"}
        )
    value = json.loads(shaped.choices[0].message.content or "")
    assert value == {"steps": [{"title": ASK[0]["content"], "done": True}], "count": 3, "note": None}
    assert json.loads(free.choices[0].message.content or "")["language"] == "en"


async def test_completions_take_prompts_in_all_their_shapes() -> None:
    async with sdk() as client:
        for prompt, choices in (("Once", 1), (["Once", "Twice"], 2), ([1, 2, 3], 1), ([[1], [2]], 2)):
            answer = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt=prompt, n=2)
            assert [choice.index for choice in answer.choices] == list(range(2 * choices))
        echo = await client.completions.create(model="text-davinci-003", prompt="Once", echo=True)
        assert echo.choices[0].text.startswith("Once")
        assert echo.choices[0].finish_reason == "length"
        stream = await client.completions.create(
            model="gpt-3.5-turbo-instruct", prompt="Once", stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        whole = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once")
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


async def test_edits_return_the_input_tidied() -> None:
    async with http() as (session, base_url):
        body = {"model": "text-davinci-edit-001", "input": "what  day of the wek is it?", "instruction": "Fix it"}
        async with session.post(f"{base_url}/edits", json=body) as response:
            value = await response.json()
    assert value["object"] == "edit"
    assert value["choices"] == [{"text": "What day of the wek is it?", "index": 0}]


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_speak_and_call_functions(stream: bool) -> None:
    tool: Any = {"type": "function", **WEATHER["function"]}
    kinds: list[str] = []

    async def asked(client: AsyncOpenAI, **more: Any) -> Any:
        if not stream:
            return await client.responses.create(model="gpt-4o", **more)
        events = [event async for event in await client.responses.create(model="gpt-4o", stream=True, **more)]
        kinds.extend(event.type for event in events)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        deltas = "".join(event.delta for event in events if event.type.endswith("text.delta"))
        assert deltas == events[-1].response.output_text
        return events[-1].response

    async with sdk() as client:
        answer = await asked(client, input="向日葵")
        assert answer.output_text.startswith("向日葵")
        assert answer.usage.total_tokens > answer.usage.output_tokens > 50
        limited = await asked(client, input=[{"role": "user", "content": "Hello"}], max_output_tokens=3)
        assert (limited.status, limited.usage.output_tokens) == ("incomplete", 3)
        called = await asked(client, input="Weather in Paris", tools=[tool])
        assert json.loads(called.output[0].arguments)["city"] == "Weather in Paris"
        shaped = {"format": {"type": "json_schema", "name": "n", "schema": WEATHER["function"]["parameters"]}}
        assert json.loads((await asked(client, input="Rome", text=shaped)).output_text)["city"] == "Rome"
    if stream:
        assert {"response.created", "response.output_text.delta", "response.completed", "response.incomplete"} < set(
            kinds
        )


async def test_embeddings_are_unit_vectors_the_same_in_both_encodings() -> None:
    async with sdk() as client:
        texts = ["the red rose", "the red tulip", "Квартальный отчёт"]
        plain = await client.embeddings.create(
            model="text-embedding-3-small", input=texts, encoding_format="float", dimensions=256
        )
        packed = await client.embeddings.create(model="text-embedding-3-small", input=texts, dimensions=256)
        tokens = await client.embeddings.create(model="text-embedding-3-large", input=[[1, 2], [3]])
    rose, tulip, report = (each.embedding for each in plain.data)
    assert len(rose) == 256
    assert math.hypot(*rose) == pytest.approx(1)
    assert closeness(rose, tulip) > 0.5 > closeness(rose, report)
    for floats, decoded in zip(plain.data, packed.data, strict=True):
        assert floats.embedding == pytest.approx(decoded.embedding, rel=1e-6)
    assert [len(each.embedding) for each in tokens.data] == [3072, 3072]


async def test_moderations_flag_a_few_words_of_each_language() -> None:
    as_parts: Any = [{"type": "text", "text": "杀"}]
    async with sdk() as client:
        answer = await client.moderations.create(input=["I will kill you", "我爱你", "я хочу тебя убить"])
        parts = await client.moderations.create(input=as_parts)
    assert [result.flagged for result in answer.results] == [True, False, True]
    assert answer.results[0].categories.violence
    assert parts.results[0].category_scores.violence > 0.9


def closeness(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def png_size(png: bytes) -> tuple[int, int]:
    """The size of a PNG whose checksums hold."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        body = png[at + 4 : at + 8 + length]
        assert zlib.crc32(body) == int.from_bytes(png[at + 8 + length : at + 12 + length], "big")
        chunks[body[:4]] = body[4:]
        at += 12 + length
    width, height = (int.from_bytes(chunks[b"IHDR"][start : start + 4], "big") for start in (0, 4))
    assert len(zlib.decompress(chunks[b"IDAT"])) == height * (width + 1)
    return width, height


async def test_images_come_as_base64_or_by_a_url_that_works() -> None:
    async with sdk() as client, aiohttp.ClientSession() as session:
        coded = await client.images.generate(model="dall-e-3", prompt="向日葵", response_format="b64_json")
        linked = await client.images.generate(model="dall-e-3", prompt="向日葵", n=1)
        assert coded.data
        assert linked.data
        assert png_size(base64.b64decode(coded.data[0].b64_json or "")) == (64, 64)
        async with session.get(linked.data[0].url or "") as response:
            assert response.content_type == "image/png"
            assert base64.b64encode(await response.read()).decode() == coded.data[0].b64_json


async def test_images_are_edited_and_varied() -> None:
    picture = media.flower_png(bytes(8))
    async with sdk() as client:
        edited = await client.images.edit(model="dall-e-2", image=picture, prompt="More petals", n=2)
    assert len(edited.data or []) == 2
    async with http() as (session, base_url):
        for number, status in (("3", 200), ("11", 400), ("x", 400)):
            form = aiohttp.FormData({"image": io.BytesIO(picture), "n": number})
            async with session.post(f"{base_url}/images/variations", data=form) as response:
                assert response.status == status
                assert len((await response.json()).get("data", [])) == (3 if status == 200 else 0)


async def test_transcriptions_come_in_every_format_and_language() -> None:
    recording = ("a.mp3", bytes(range(256)) * 200)
    async with sdk() as client:
        audio = client.audio.transcriptions
        plain = await audio.create(file=recording, model="whisper-1", language="zh")
        verbose = await audio.create(file=recording, model="whisper-1", language="ru", response_format="verbose_json")
        srt = await audio.create(file=recording, model="whisper-1", response_format="srt")
        vtt = await audio.create(file=recording, model="whisper-1", response_format="vtt")
        text = await audio.create(file=recording, model="whisper-1", response_format="text")
        events = [event async for event in await audio.create(file=recording, model="whisper-1", stream=True)]
    async with http() as (session, base_url):
        form = aiohttp.FormData({"file": io.BytesIO(recording[1]), "model": "whisper-1"})
        async with session.post(f"{base_url}/audio/translations", data=form) as response:
            english = (await response.json())["text"]
    assert answers.language_of(plain.text) == "zh"
    assert verbose.segments
    assert (verbose.language, verbose.segments[-1].end) == ("russian", verbose.duration)
    assert srt.startswith("1\n00:00:00,000 --> 00:00:0")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:0")
    assert text == f"{english}\n"
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == english


async def test_speech_is_a_sound_as_long_as_its_text() -> None:
    async with sdk() as client:
        speech = client.audio.speech
        wav = await speech.create(model="tts-1", voice="alloy", input="Hello there, world", response_format="wav")
        mp3 = await speech.create(model="tts-1", voice="alloy", input="Hello there, world")
        with pytest.raises(openai.BadRequestError, match="mp3, wav, pcm"):
            await speech.create(model="tts-1", voice="alloy", input="Hello", response_format="opus")
    with wave.open(io.BytesIO(wav.content)) as sound:
        assert sound.getnframes() == 4 * media.SAMPLE_RATE_HZ // 8
        assert sound.getframerate() == media.SAMPLE_RATE_HZ
    assert len(mp3.content) == 4 * 5 * 417
    assert mp3.response.headers["content-type"] == "audio/mpeg"


async def test_a_file_is_uploaded_listed_read_and_deleted() -> None:
    content = bytes(range(256)) * 10_000
    async with sdk() as client:
        file = await client.files.create(file=("数据.jsonl", content), purpose="batch")
        assert (file.filename, file.bytes, file.purpose) == ("数据.jsonl", len(content), "batch")
        other = await client.files.create(file=("other", b"{}"), purpose="assistants")
        assert [each.id async for each in client.files.list()] == [other.id, file.id]
        assert [each.id async for each in client.files.list(purpose="batch")] == [file.id]
        assert await client.files.retrieve(file.id) == file
        assert (await client.files.content(file.id)).content == content
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError, match=file.id):
            await client.files.retrieve(file.id)


async def test_an_upload_without_a_purpose_is_refused_and_leaves_nothing_behind() -> None:
    async with http() as (session, base_url):
        form = aiohttp.FormData({"file": io.BytesIO(b"content")})
        async with session.post(f"{base_url}/files", data=form) as response:
            assert (response.status, (await response.json())["error"]["param"]) == (400, "purpose")
        async with session.get(f"{base_url}/files") as response:
            assert (await response.json())["data"] == []


async def test_a_file_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_FILE_BYTES == 512 * 1024 * 1024
    monkeypatch.setattr("gateway.demo.multipart.MAX_FILE_BYTES", 1000)
    async with sdk() as client:
        with pytest.raises(openai.APIStatusError, match="exceeded") as refused:
            await client.files.create(file=bytes(1001), purpose="batch")
    assert refused.value.status_code == 413


CHAT = {"model": "gpt-4o", "messages": ASK}


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "param"),
    [
        ("POST", "chat/completions", {"model": "gpt-4o"}, 400, "messages"),
        ("POST", "chat/completions", {"messages": ASK}, 400, "model"),
        ("POST", "chat/completions", CHAT | {"messages": []}, 400, "messages"),
        ("POST", "chat/completions", CHAT | {"messages": [{"content": "x"}]}, 400, "messages[0].role"),
        ("POST", "chat/completions", CHAT | {"messages": "x"}, 400, "messages"),
        ("POST", "chat/completions", CHAT | {"n": 0}, 400, "n"),
        ("POST", "chat/completions", CHAT | {"n": True}, 400, "n"),
        ("POST", "chat/completions", CHAT | {"model": "no-such-model"}, 404, "model"),
        ("POST", "chat/completions", [], 400, None),
        ("GET", "models/no-such-model", None, 404, "model"),
        ("POST", "completions", {"model": "gpt-4o"}, 400, "prompt"),
        ("POST", "embeddings", {"model": "text-embedding-3-small", "input": ""}, 400, "input"),
        ("POST", "embeddings", {"model": "text-embedding-3-small", "input": {}}, 400, "input"),
        ("POST", "audio/transcriptions", {"model": "whisper-1"}, 400, None),
        ("POST", "images/generations", {}, 400, "prompt"),
        ("GET", "files/file-nothing", None, 404, "id"),
        ("DELETE", "files/file-nothing", None, 404, "id"),
        ("GET", "fine_tuning/jobs", None, 404, None),
        ("DELETE", "models", None, 405, None),
    ],
)
async def test_what_is_wrong_with_a_request_is_said_as_openai_says_it(
    verb: str, path: str, body: object, status: int, param: str | None
) -> None:
    async with http() as (session, base_url), session.request(verb, f"{base_url}/{path}", json=body) as response:
        error = (await response.json())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (response.status, error["type"], error["param"]) == (status, "invalid_request_error", param)
    assert response.headers["x-request-id"].startswith("req_")


async def test_a_missing_or_wrong_key_is_refused() -> None:
    async with upstream() as base_url, aiohttp.ClientSession() as session:
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            async with session.get(f"{base_url}/models", headers=headers) as response:
                assert response.status == 401
                assert KEY not in await response.text()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", [{"model": "demo-cut"}, {"messages": [{"role": "user", "content": "[demo-cut]"}]}])
async def test_demo_cut_breaks_off_in_the_middle(asked: dict[str, object], stream: bool) -> None:
    body = CHAT | asked | {"stream": stream}
    async with http() as (session, base_url), session.post(f"{base_url}/chat/completions", json=body) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


@pytest.mark.parametrize("stream", [False, True])
async def test_demo_stall_stops_in_the_middle_until_the_client_leaves(stream: bool) -> None:
    async with http() as (session, base_url):
        body = CHAT | {"model": "gpt-4o-mini-demo-stall", "stream": stream}
        async with session.post(f"{base_url}/chat/completions", json=body) as response:
            assert await response.content.readany()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(response.content.read(), 0.2)


async def test_demo_hang_gives_no_head() -> None:
    async with http() as (session, base_url):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                session.post(f"{base_url}/embeddings", json={"model": "demo-hang", "input": "x"}), 0.2
            )


async def test_demo_error_is_a_500_before_any_stream() -> None:
    async with sdk() as client:
        with pytest.raises(openai.InternalServerError, match="The server had an error"):
            await client.chat.completions.create(model="demo-error", messages=ASK, stream=True)


async def test_a_stream_takes_its_time_and_demo_slow_takes_more() -> None:
    loop = asyncio.get_running_loop()
    runner, base_url = await start("127.0.0.1", 0, KEY, pace_s=0.001)
    try:
        async with AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
            took_s = []
            for model in ("gpt-4o", "demo-slow"):
                began = loop.time()
                stream = await client.chat.completions.create(model=model, messages=ASK, max_tokens=20, stream=True)
                assert len([chunk async for chunk in stream]) == 22
                took_s.append(loop.time() - began)
    finally:
        await runner.cleanup()
    assert took_s[0] >= 0.022
    assert took_s[1] >= 0.3


@asynccontextmanager
async def demonstration(directory: Path) -> AsyncIterator[str]:
    """What `gateway demo` serves, and the address that it would print."""
    addresses: asyncio.Queue[str] = asyncio.Queue()
    stop = asyncio.Event()
    serving_demo = asyncio.create_task(serving.serve("127.0.0.1", 0, directory, addresses.put_nowait, stop))
    address = asyncio.create_task(addresses.get())
    await asyncio.wait([address, serving_demo], return_when=asyncio.FIRST_COMPLETED)
    if serving_demo.done():
        address.cancel()
        await serving_demo
    try:
        yield address.result()
    finally:
        stop.set()
        await serving_demo


async def test_the_demonstration_serves_both_fronts(tmp_path: Path) -> None:
    async with demonstration(tmp_path) as origin:
        asked = {"key": "demo", "secret": "demo-secret", "method": "v1/models"}
        async with aiohttp.ClientSession() as session, session.get(f"{origin}/openai/custom", params=asked) as response:
            assert (await response.json())["error_code"] == "0000"
        async with AsyncOpenAI(base_url=f"{origin}/v1", api_key="demo:demo-secret", max_retries=0) as client:
            assert await client.models.retrieve("gpt-4o")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_commands_of_the_banner_work_as_they_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with demonstration(tmp_path) as origin:
        serving.print_banner(origin)
        title, *commands = capsys.readouterr().out.split("\n\n")
        assert all(part in title for part in (origin, "key demo", "secret demo-secret"))
        stream, xml, sdk_stream = await asyncio.gather(*map(output, commands))
    assert stream.startswith("data: {")
    assert stream.endswith("data: [DONE]\n\n")
    assert "<error_code>0000</error_code>" in xml
    assert answers.language_of(sdk_stream) == "ru"


async def output(command: str) -> str:
    """What a shell prints for a command, with this environment's Python."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = await asyncio.create_subprocess_exec("sh", "-c", command, stdout=PIPE, stderr=PIPE, env={"PATH": path})
    printed, complaints = await shell.communicate()
    assert shell.returncode == 0, complaints.decode()
    return printed.decode()


def test_gateway_demo_prints_its_real_port_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from gateway.demo import run; raise SystemExit(run('127.0.0.1', 0))"]
    with subprocess.Popen(command, stdout=PIPE, env={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout
        line = process.stdout.readline().decode()
        assert list(tmp_path.iterdir())
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0
    assert re.search(r"http://127\.0\.0\.1:[1-9][0-9]+ ", line)
    assert list(tmp_path.iterdir()) == []
