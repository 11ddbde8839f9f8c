"""OpenAI's own SDK for Python, as it is, gets through the native front what it would get from OpenAI itself."""

from __future__ import annotations

import base64
import io
import re
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from openai.pagination import SyncCursorPage, SyncPage
from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    FileDeleted,
    FileObject,
    ImagesResponse,
    Model,
    ModerationCreateResponse,
)
from openai.types.audio import Transcription, TranscriptionTextDoneEvent, Translation
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseIncompleteEvent, ResponseTextDeltaEvent
from pydantic import BaseModel

from tests.chaos import Chaos, Hang, chunk, json_answer, sse_head
from tests.support import Gateway, gateway_process

SdkType = TypeVar("SdkType", bound=openai.BaseModel)

# Any: the SDK's types of arguments are unions of dozens of dictionaries.
ASK: Any = [{"role": "user", "content": "向日葵"}]
RECORDING = ("speech.mp3", bytes(range(256)) * 100)
PNG_START = b"\x89PNG\r\n\x1a\n"

# Interfaces that OpenAI serves on and its SDK calls old.
deprecated = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def demo() -> Iterator[Gateway]:
    with gateway_process() as gateway:
        yield gateway


@pytest.fixture
def client(demo: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=demo.base_url, api_key=demo.token, max_retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(demo: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=demo.base_url, api_key=demo.token, max_retries=0) as client:
        yield client


def checked(value: object, kind: type[SdkType]) -> SdkType:
    """The value, as the type that the SDK promises. It fills its types unchecked, so they are checked here."""
    assert isinstance(value, kind)
    kind.model_validate(value.to_dict(mode="json"))
    return value


# Chat


def test_a_chat_answer_is_a_chat_completion(client: OpenAI) -> None:
    answer = checked(client.chat.completions.create(model="gpt-4o-mini", messages=ASK), ChatCompletion)
    assert "向日葵" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert re.fullmatch(r"\d+\.[0-9a-f]{13}", answer._request_id or "")


def test_a_chat_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    asked: Any = {"model": "gpt-4o-mini", "messages": ASK, "max_tokens": 20}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = [checked(each, ChatCompletionChunk) for each in stream]
    texts = [each.choices[0].delta.content or "" for each in chunks if each.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert len(texts) > 10
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage


async def test_an_asynchronous_chat_stream_comes_chunk_by_chunk(async_client: AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=10, stream=True)
    chunks = [checked(each, ChatCompletionChunk) async for each in stream]
    assert [each.choices[0].finish_reason for each in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert "".join(each.choices[0].delta.content or "" for each in chunks)


def test_the_sdks_stream_helper_puts_the_same_answer_together(client: OpenAI) -> None:
    asked: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi!"}]}
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    whole = client.chat.completions.create(**asked)
    assert final.choices[0].message.content == whole.choices[0].message.content


class Plan(BaseModel):
    title: str
    steps: list[str]


def test_a_structured_answer_is_parsed_into_the_callers_own_type(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model="gpt-4o", messages=ASK, response_format=Plan)
    plan = answer.choices[0].message.parsed
    assert isinstance(plan, Plan)
    assert plan.title == "向日葵"


# The other texts


def test_completions_come_whole_and_streamed(client: OpenAI) -> None:
    asked: Any = {"model": "gpt-3.5-turbo-instruct", "prompt": "Once upon a time", "max_tokens": 10}
    whole = checked(client.completions.create(**asked), Completion)
    chunks = list(client.completions.create(**asked, stream=True))
    assert all(isinstance(each, Completion) for each in chunks)
    assert whole.choices[0].text
    assert "".join(each.choices[0].text for each in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"


def test_responses_come_whole_and_streamed(client: OpenAI) -> None:
    asked: Any = {"model": "gpt-4o-mini", "input": "向日葵", "max_output_tokens": 16}
    whole = checked(client.responses.create(**asked), Response)
    events = [checked(event, type(event)) for event in client.responses.create(**asked, stream=True)]
    assert (whole.status, whole.output_text[:3]) == ("incomplete", "向日葵")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if isinstance(e, ResponseTextDeltaEvent)) == whole.output_text
    assert isinstance(events[-1], ResponseIncompleteEvent)
    assert events[-1].response.output_text == whole.output_text


def test_embeddings_are_the_same_asked_as_base64_or_as_floats(client: OpenAI) -> None:
    asked: Any = {"model": "text-embedding-3-small", "input": ["向日葵", "sunflower"], "dimensions": 64}
    packed = checked(client.embeddings.create(**asked), CreateEmbeddingResponse)  # the SDK asks for base64 by itself
    plain = checked(client.embeddings.create(**asked, encoding_format="float"), CreateEmbeddingResponse)
    assert [len(each.embedding) for each in plain.data] == [64, 64]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6)


def test_moderations_name_their_categories(client: OpenAI) -> None:
    answer = checked(client.moderations.create(input=["I will kill you", "我爱你"]), ModerationCreateResponse)
    assert [result.flagged for result in answer.results] == [True, False]
    assert answer.results[0].categories.violence


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    page = client.models.list()
    assert isinstance(page, SyncPage)
    models = [checked(model, Model) for model in page]
    assert checked(client.models.retrieve(models[0].id), Model) == models[0]
    assert client.models.retrieve("organisation/model").id == "organisation/model"


# Images and sounds


@deprecated
def test_images_come_by_url_or_as_base64(client: OpenAI) -> None:
    linked = checked(client.images.generate(model="dall-e-2", prompt="向日葵", n=2), ImagesResponse)
    coded = client.images.generate(model="dall-e-2", prompt="向日葵", response_format="b64_json")
    assert [(each.url or "")[:7] for each in linked.data or []] == ["http://"] * 2
    assert coded.data
    picture = base64.b64decode(coded.data[0].b64_json or "")
    assert picture.startswith(PNG_START)
    edited = client.images.edit(model="gpt-image-1", image=[("a.png", picture), ("b.png", picture)], prompt="Greener")
    assert base64.b64decode((edited.data or [])[0].b64_json or "").startswith(PNG_START)
    assert checked(client.images.create_variation(image=picture, n=2), ImagesResponse).data


@deprecated
def test_a_recording_is_transcribed_and_translated(client: OpenAI) -> None:
    audio = client.audio
    said = checked(audio.transcriptions.create(model="whisper-1", file=RECORDING, language="zh"), Transcription)
    assert re.search("[\u4e00-\u9fff]", said.text)
    assert audio.transcriptions.create(model="whisper-1", file=RECORDING, response_format="vtt").startswith("WEBVTT\n")
    *_, done = audio.transcriptions.create(model="gpt-4o-transcribe", file=RECORDING, stream=True)
    english = checked(audio.translations.create(model="whisper-1", file=RECORDING), Translation)
    assert checked(done, TranscriptionTextDoneEvent).text == english.text


def test_speech_comes_whole_or_as_it_is_made(client: OpenAI, tmp_path: Path) -> None:
    asked: Any = {"model": "tts-1", "voice": "alloy", "input": "Hello there, world", "response_format": "wav"}
    whole = client.audio.speech.create(**asked)
    with client.audio.speech.with_streaming_response.create(**asked) as streamed:
        assert streamed.headers["content-type"] == "audio/wav"
        streamed.stream_to_file(tmp_path / "speech.wav")
    assert (tmp_path / "speech.wav").read_bytes() == whole.content
    with wave.open(io.BytesIO(whole.content)) as sound:
        assert sound.getnframes() > 0


# Files


def test_a_file_is_uploaded_listed_read_and_deleted(client: OpenAI) -> None:
    """It is longer than what the gateway holds of a body before it knows who sends it."""
    content = bytes(range(256)) * 12_000
    file = checked(client.files.create(file=("数据 1.jsonl", io.BytesIO(content)), purpose="batch"), FileObject)
    assert (file.filename, file.bytes, file.purpose) == ("数据 1.jsonl", len(content), "batch")
    page = client.files.list(purpose="batch")
    assert isinstance(page, SyncCursorPage)
    assert [each.id for each in page] == [file.id]
    assert not client.files.list(purpose="assistants").data
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    assert checked(client.files.delete(file.id), FileDeleted).deleted
    with pytest.raises(openai.NotFoundError, match=file.id):
        client.files.content(file.id)


# Errors


def test_a_wrong_secret_and_an_unknown_key_are_authentication_errors(demo: Gateway) -> None:
    for token, code in ((f"{demo.key}:wrong", "4005"), ("nobody:wrong", "4004")):
        with (
            OpenAI(base_url=demo.base_url, api_key=token) as client,
            pytest.raises(openai.AuthenticationError) as refused,
        ):
            client.models.list()
        assert (refused.value.status_code, refused.value.code) == (401, code)
        assert refused.value.response.headers["x-error-code"] == code
        assert refused.value.request_id


def test_an_unknown_model_is_the_upstreams_own_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="no-such-model", messages=ASK)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert refused.value.response.headers["x-error-code"] == "2000"


def test_missing_messages_are_refused_by_the_gateway(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="messages") as refused:
        client.chat.completions.create(model="gpt-4o", messages=openai.omit)  # type: ignore[call-overload]  # on purpose
    assert (refused.value.code, refused.value.param) == ("4014", "messages")
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_upstream_is_a_502(client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="demo-error", messages=ASK, stream=stream)
    assert (failed.value.status_code, failed.value.code, failed.value.type) == (502, "4002", "upstream_error")


def test_an_answer_that_breaks_off_is_an_error(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="demo-cut", messages=ASK)
    assert (failed.value.status_code, failed.value.code) == (502, "5000")


def test_a_stream_that_breaks_off_never_looks_finished(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="demo-cut", messages=ASK, max_tokens=20, stream=True)
    finishes: list[str | None] = []
    with pytest.raises(openai.APIError, match="broke off") as cut:
        finishes.extend(each.choices[0].finish_reason for each in stream)
    assert cut.value.code == "5000"
    assert finishes
    assert set(finishes) == {None}


def test_no_other_interfaces_stream_looks_finished_either(client: OpenAI) -> None:
    kinds: list[str] = []
    chunks: list[Completion] = []
    with pytest.raises(openai.APIError, match="broke off"):
        kinds.extend(e.type for e in client.responses.create(model="demo-cut", input="Hi", stream=True))
    with pytest.raises(openai.APIError, match="broke off"):
        chunks.extend(client.completions.create(model="demo-cut", prompt="Hi", max_tokens=20, stream=True))
    assert "response.output_text.delta" in kinds
    assert not {"response.completed", "response.incomplete", "response.failed"} & set(kinds)
    assert {each.choices[0].finish_reason for each in chunks} == {None}


async def test_a_client_that_leaves_a_stream_frees_the_upstream(gateway: Gateway) -> None:
    event = chunk(b'data: {"id": "1", "object": "chat.completion.chunk", "choices": []}\n\n')
    no_models = json_answer({"object": "list", "data": []})
    async with (
        Chaos([sse_head(), event, Hang()], no_models, port=gateway.upstream_port) as upstream,
        AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.token, max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True)
        assert (await anext(stream)).id == "1"
        assert not upstream.connections[0].closed.is_set()
        await stream.close()
        await upstream.connections[0].closed.wait()
        assert [model async for model in client.models.list()] == []


def test_a_stream_is_left_and_the_next_call_works(client: OpenAI) -> None:
    with client.chat.completions.create(model="demo-stall", messages=ASK, stream=True) as stream:
        next(stream)
    assert client.chat.completions.create(model="gpt-4o", messages=ASK).choices
