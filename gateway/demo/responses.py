"""The embedded upstream's `v1/responses`: one message or one function call, streamed event by event or whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson
from aiohttp import web

from gateway.demo import answers
from gateway.demo.answers import Text, tokens_of
from gateway.demo.chat import chosen_function, json_answer, prompt_of
from gateway.demo.shapes import Answer, text_of
from gateway.demo.wire import Body, event, known_model, object_of, read_body, send_events, send_json, trouble_asked
from gateway.types import JsonValue


async def responses(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses"""
    body = await read_body(request)
    model = known_model(body.text("model"))
    items = _items(body)
    prompt = prompt_of(items)
    answer = Answer.to(body, "resp_", model)
    item = _function_call(body, items, prompt, answer) or _message(body, prompt, answer)
    usage = _usage(sum(len(tokens_of(text_of(each.get("content")))) for each in items), item)
    trouble = trouble_asked(model, prompt)
    if body.flag("stream"):
        return await send_events(request, _events(body, answer, item, usage), trouble)
    return await send_json(request, _response(body, answer, "completed", [item], usage), trouble)


def _items(body: Body) -> list[dict[str, JsonValue]]:
    given = body.values.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [object_of(item) for item in body.array("input")]


def _message(body: Body, prompt: str, answer: Answer) -> dict[str, JsonValue]:
    match object_of(body.values.get("text")):
        case {"format": {"type": "json_schema", "schema": dict(schema)}}:
            text = orjson.dumps(answers.example(schema, prompt)).decode()
        case {"format": {"type": "json_object"}}:
            text = json_answer(prompt)
        case _:
            text = answers.answer_text(prompt)
    limited: Text = answers.limited(text, body.number("max_output_tokens", 2**31), ())
    status = "completed" if limited.finish == "stop" else "incomplete"
    part: JsonValue = {"type": "output_text", "text": str(limited), "annotations": []}
    return {
        "id": f"msg_{answer.id[5:]}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [part],
    }


def _function_call(
    body: Body, items: Sequence[dict[str, JsonValue]], prompt: str, answer: Answer
) -> dict[str, JsonValue] | None:
    functions = [object_of(tool) for tool in body.array("tools", []) if object_of(tool).get("type") == "function"]
    choice = body.values.get("tool_choice")
    has_result = bool(items) and items[-1].get("type") == "function_call_output"
    function = chosen_function(functions, choice, object_of(choice).get("name"), prompt, has_result)
    if function is None:
        return None
    arguments = orjson.dumps(answers.example(object_of(function.get("parameters")), prompt)).decode()
    return {
        "id": f"fc_{answer.id[5:]}",
        "type": "function_call",
        "status": "completed",
        "call_id": f"call_{answer.id[5:]}",
        "name": function.get("name"),
        "arguments": arguments,
    }


def _usage(input_tokens: int, item: dict[str, JsonValue]) -> dict[str, JsonValue]:
    output_tokens = len(tokens_of(_said(item)))
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def _said(item: dict[str, JsonValue]) -> str:
    arguments = item.get("arguments")
    return arguments if isinstance(arguments, str) else text_of(item.get("content"))


def _response(
    body: Body, answer: Answer, status: str, output: Sequence[dict[str, JsonValue]], usage: JsonValue
) -> dict[str, JsonValue]:
    is_cut = any(item.get("status") == "incomplete" for item in output)
    return {
        "id": answer.id,
        "object": "response",
        "created_at": answer.created,
        "status": "incomplete" if is_cut else status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": body.values.get("instructions"),
        "max_output_tokens": body.values.get("max_output_tokens"),
        "metadata": body.mapping("metadata"),
        "model": answer.model,
        "output": [*output],
        "parallel_tool_calls": True,
        "previous_response_id": body.values.get("previous_response_id"),
        "temperature": body.values.get("temperature") or 1.0,
        "text": body.values.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.values.get("tool_choice") or "auto",
        "tools": [*body.array("tools", [])],
        "top_p": body.values.get("top_p") or 1.0,
        "usage": usage,
    }


def _events(body: Body, answer: Answer, item: dict[str, JsonValue], usage: JsonValue) -> Iterator[bytes]:
    started = _response(body, answer, "in_progress", [], None)
    finished = _response(body, answer, "completed", [item], usage)
    sequence: list[tuple[str, dict[str, JsonValue]]] = [
        ("response.created", {"response": started}),
        ("response.in_progress", {"response": started}),
        *(_call_events(item) if item["type"] == "function_call" else _message_events(item)),
        (f"response.{finished['status']}", {"response": finished}),
    ]
    for number, (name, fields) in enumerate(sequence):
        yield event({"type": name, "sequence_number": number, **fields}, name)


def _message_events(item: dict[str, JsonValue]) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    text = _said(item)
    at: dict[str, JsonValue] = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty: JsonValue = {"type": "output_text", "text": "", "annotations": []}
    full: JsonValue = {"type": "output_text", "text": text, "annotations": []}
    yield "response.output_item.added", {"output_index": 0, "item": item | {"status": "in_progress", "content": []}}
    yield "response.content_part.added", {**at, "part": empty}
    for token in tokens_of(text):
        yield "response.output_text.delta", {**at, "delta": token, "logprobs": []}
    yield "response.output_text.done", {**at, "text": text, "logprobs": []}
    yield "response.content_part.done", {**at, "part": full}
    yield "response.output_item.done", {"output_index": 0, "item": item}


def _call_events(item: dict[str, JsonValue]) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    at: dict[str, JsonValue] = {"item_id": item["id"], "output_index": 0}
    yield "response.output_item.added", {"output_index": 0, "item": item | {"status": "in_progress", "arguments": ""}}
    for token in tokens_of(_said(item)):
        yield "response.function_call_arguments.delta", {**at, "delta": token}
    done: dict[str, JsonValue] = {**at, "arguments": item["arguments"], "name": item["name"]}
    yield "response.function_call_arguments.done", done
    yield "response.output_item.done", {"output_index": 0, "item": item}
