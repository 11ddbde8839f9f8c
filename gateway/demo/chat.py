"""The embedded upstream's chat completions: texts, JSON answers and tool calls, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson
from aiohttp import web

from gateway.demo import answers
from gateway.demo.answers import Text, tokens_of
from gateway.demo.phrase_book import asked_translation
from gateway.demo.shapes import Answer, interleaved, stops_of, streamed_usage, text_of, usage_of
from gateway.demo.wire import (
    DONE,
    Body,
    RefusalError,
    event,
    known_model,
    missing,
    object_of,
    read_body,
    send_events,
    send_json,
    string_of,
    trouble_asked,
)
from gateway.types import JsonValue


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the answer wants called, with its arguments as JSON text."""

    id: str
    name: str
    arguments: str


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions"""
    body = await read_body(request)
    model = known_model(body.text("model"))
    messages = _messages(body)
    prompt = prompt_of(messages)
    answer = Answer.to(body, "chatcmpl-", model)
    translation = asked_translation(messages)
    call = None if translation is not None else _tool_call(body, messages, prompt, answer)
    limit = body.number("max_completion_tokens", body.number("max_tokens", 2**31))
    texts = [_chat_text(body, prompt, number, limit) for number in range(body.number("n", 1, highest=128))]
    if translation is not None:
        texts = [answers.limited(translation, limit, stops_of(body))]
    said = [call.arguments] if call else map(str, texts)
    usage = usage_of(3 + sum(3 + len(tokens_of(text_of(message.get("content")))) for message in messages), *said)
    trouble = trouble_asked(model, prompt)
    if body.flag("stream"):
        return await send_events(request, _chat_events(answer, texts, call, streamed_usage(body, usage)), trouble)
    choices = [_chat_choice(number, text, call) for number, text in enumerate(texts)]
    value = answer.wrapped(
        "chat.completion", choices, usage=usage, service_tier="default", system_fingerprint="fp_demo"
    )
    return await send_json(request, value, trouble)


def _messages(body: Body) -> list[dict[str, JsonValue]]:
    messages = [object_of(message) for message in body.array("messages")]
    if not messages:
        raise RefusalError(400, "Invalid 'messages': empty array.", param="messages", code="empty_array")
    for number, message in enumerate(messages):
        if "role" not in message:
            raise missing(f"messages[{number}].role")
    return messages


def prompt_of(messages: Sequence[dict[str, JsonValue]]) -> str:
    """What the user said last, or else the last thing anyone said."""
    said = [message for message in messages if message.get("role") == "user"] or messages
    return text_of(said[-1].get("content")) if said else ""


def _chat_text(body: Body, prompt: str, number: int, limit: int) -> Text:
    wanted = body.mapping("response_format")
    match wanted:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            text = orjson.dumps(answers.example(schema, prompt)).decode()
        case {"type": "json_object"}:
            text = json_answer(prompt, number)
        case _:
            text = answers.answer_text(prompt, number)
    return answers.limited(text, limit, stops_of(body))


def json_answer(prompt: str, number: int = 0) -> str:
    """An answer to a prompt that wants a JSON object."""
    value = {"language": answers.language_of(prompt), "answer": answers.answer_text(prompt, number), "number": number}
    return orjson.dumps(value).decode()


def _tool_call(body: Body, messages: Sequence[dict[str, JsonValue]], prompt: str, answer: Answer) -> ToolCall | None:
    """The call of a tool that was demanded, or that the prompt names when no result of one is there yet."""
    functions = [object_of(object_of(tool).get("function")) for tool in body.array("tools", [])]
    choice = body.values.get("tool_choice")
    demanded = object_of(object_of(choice).get("function")).get("name")
    has_result = messages[-1].get("role") == "tool"
    function = chosen_function(functions, choice, demanded, prompt, has_result)
    if function is None:
        return None
    arguments = orjson.dumps(answers.example(object_of(function.get("parameters")), prompt)).decode()
    return ToolCall(f"call_{answer.id[-24:]}", string_of(function.get("name")), arguments)


def chosen_function(
    functions: Sequence[dict[str, JsonValue]], choice: JsonValue, demanded: JsonValue, prompt: str, has_result: bool
) -> dict[str, JsonValue] | None:
    """The function that an answer calls: the one demanded, any if one is required, or one that the prompt names."""
    if choice == "none" or not functions:
        return None
    if demanded is not None:
        return next((function for function in functions if function.get("name") == demanded), functions[0])
    lowered = prompt.lower()
    for function in () if has_result else functions:
        words = string_of(function.get("name")).lower().replace("-", "_").split("_")
        if any(len(word) > 3 and word in lowered for word in words):
            return function
    return functions[0] if choice == "required" else None


def _chat_choice(number: int, text: Text, call: ToolCall | None) -> JsonValue:
    message: dict[str, JsonValue] = {"role": "assistant", "content": None if call else str(text), "refusal": None}
    if call:
        function: JsonValue = {"name": call.name, "arguments": call.arguments}
        message["tool_calls"] = [{"id": call.id, "type": "function", "function": function}]
    finish = "tool_calls" if call else text.finish
    return {"index": number, "message": message, "logprobs": None, "finish_reason": finish}


def _chat_events(
    answer: Answer, texts: Sequence[Text], call: ToolCall | None, usage: dict[str, JsonValue] | None
) -> Iterator[bytes]:
    more: dict[str, JsonValue] = {"service_tier": "default", "system_fingerprint": "fp_demo"}
    if usage is not None:
        more["usage"] = None

    def chunk(number: int, delta: dict[str, JsonValue], finish: str | None = None) -> bytes:
        choice: JsonValue = {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(answer.wrapped("chat.completion.chunk", [choice], **more))

    for number in range(len(texts)):
        yield chunk(number, {"role": "assistant", "content": None if call else "", "refusal": None})
    if call:
        for number in range(len(texts)):
            for delta in _tool_deltas(call):
                yield chunk(number, {"tool_calls": [delta]})
    else:
        for number, token in interleaved(texts):
            yield chunk(number, {"content": token})
    for number, text in enumerate(texts):
        yield chunk(number, {}, "tool_calls" if call else text.finish)
    if usage is not None:
        yield event(answer.wrapped("chat.completion.chunk", [], **(more | {"usage": usage})))
    yield DONE


def _tool_deltas(call: ToolCall) -> Iterator[JsonValue]:
    opening: JsonValue = {"name": call.name, "arguments": ""}
    yield {"index": 0, "id": call.id, "type": "function", "function": opening}
    for token in tokens_of(call.arguments):
        yield {"index": 0, "function": {"arguments": token}}
