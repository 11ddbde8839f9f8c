"""The embedded upstream's other text interfaces: completions, edits, embeddings and moderations."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence

from aiohttp import web

from gateway.demo import answers
from gateway.demo.answers import Text, tokens_of
from gateway.demo.shapes import Answer, inputs_of, interleaved, stops_of, streamed_usage, text_of, usage_of
from gateway.demo.wire import (
    DONE,
    RefusalError,
    event,
    json_response,
    known_model,
    read_body,
    send_events,
    send_json,
    trouble_asked,
)
from gateway.types import JsonValue

_DIMENSIONS = {"text-embedding-3-large": 3072}
_DEFAULT_DIMENSIONS = 1536


async def completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions"""
    body = await read_body(request)
    model = known_model(body.text("model"))
    prompts = inputs_of(body, "prompt")
    limit, stops = body.number("max_tokens", 16 if "davinci" in model else 2**31), stops_of(body)
    texts = [
        answers.limited((prompt if body.flag("echo") else "") + answers.answer_text(prompt, number), limit, stops)
        for prompt in prompts
        for number in range(body.number("n", 1, highest=128))
    ]
    answer = Answer.to(body, "cmpl-", model)
    usage = usage_of(sum(len(tokens_of(prompt)) for prompt in prompts), *map(str, texts))
    trouble = trouble_asked(model, prompts[0])
    if body.flag("stream"):
        return await send_events(request, _completion_events(answer, texts, streamed_usage(body, usage)), trouble)
    choices = [_completion_choice(number, str(text), text.finish) for number, text in enumerate(texts)]
    return await send_json(request, answer.wrapped("text_completion", choices, usage=usage), trouble)


def _completion_choice(number: int, text: str, finish: str | None) -> JsonValue:
    return {"text": text, "index": number, "logprobs": None, "finish_reason": finish}


def _completion_events(answer: Answer, texts: Sequence[Text], usage: dict[str, JsonValue] | None) -> Iterator[bytes]:
    more: dict[str, JsonValue] = {} if usage is None else {"usage": None}
    for number, token in interleaved(texts):
        yield event(answer.wrapped("text_completion", [_completion_choice(number, token, None)], **more))
    for number, text in enumerate(texts):
        yield event(answer.wrapped("text_completion", [_completion_choice(number, "", text.finish)], **more))
    if usage is not None:
        yield event(answer.wrapped("text_completion", [], usage=usage))
    yield DONE


async def edits(request: web.Request) -> web.StreamResponse:
    """POST /v1/edits, an interface that OpenAI has retired: tidies the input up, whatever the instruction."""
    body = await read_body(request)
    model = known_model(body.text("model"))
    instruction, source = body.text("instruction"), body.text("input", "")
    tidy = " ".join(source.split()) or answers.answer_text(instruction)
    texts = [tidy[0].upper() + tidy[1:]] * body.number("n", 1, highest=20)
    answer = Answer.to(body, "edit-", model)
    choices: list[JsonValue] = [{"text": text, "index": number} for number, text in enumerate(texts)]
    usage = usage_of(len(tokens_of(instruction)) + len(tokens_of(source)), *texts)
    value: JsonValue = {"object": "edit", "created": answer.created, "choices": choices, "usage": usage}
    return await send_json(request, value, trouble_asked(model, instruction))


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings"""
    body = await read_body(request)
    model = known_model(body.text("model"))
    inputs = inputs_of(body, "input")
    if not all(inputs):
        raise RefusalError(400, "Invalid 'input': input cannot be an empty string.", param="input")
    dimensions = body.number("dimensions", _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS), highest=3072)
    encoding = body.text("encoding_format", "float")
    data: list[JsonValue] = []
    for number, text in enumerate(inputs):
        vector = answers.embedding(text, dimensions)
        coded: JsonValue = [*vector]
        if encoding == "base64":
            coded = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"object": "embedding", "index": number, "embedding": coded})
    tokens = sum(len(tokens_of(text)) for text in inputs)
    usage: JsonValue = {"prompt_tokens": tokens, "total_tokens": tokens}
    value: JsonValue = {"object": "list", "data": data, "model": model, "usage": usage}
    return await send_json(request, value, trouble_asked(model, inputs[0]))


async def moderations(request: web.Request) -> web.StreamResponse:
    """POST /v1/moderations; a list of parts (`{"type": "text", …}`) is one input."""
    body = await read_body(request)
    model = known_model(body.text("model", "omni-moderation-latest"))
    given = body.values.get("input")
    is_parts = isinstance(given, list) and any(isinstance(part, dict) for part in given)
    inputs = [text_of(given)] if is_parts else inputs_of(body, "input")
    results: list[JsonValue] = [answers.moderation(text) for text in inputs]
    return json_response({"id": Answer.to(body, "modr-", model).id, "model": model, "results": results})
