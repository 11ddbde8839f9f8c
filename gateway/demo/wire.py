"""How the embedded upstream reads requests and writes answers: OpenAI's error object, typed arguments, paced events,
and the failures that a request can ask for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal, TypeAlias, cast, get_args

import orjson
from aiohttp import web

from gateway.types import JsonValue

PACE_S = web.AppKey("pace_s", float)
DONE = b"data: [DONE]\n\n"

Trouble: TypeAlias = Literal["demo-slow", "demo-cut", "demo-stall", "demo-hang", "demo-error"]

_SLOW_START_PACES = 80
_SLOW_FACTOR = 10


class RefusalError(Exception):
    """An error that OpenAI would answer with."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error: dict[str, JsonValue] = {"message": message, "type": kind, "param": param, "code": code}

    def response(self) -> web.Response:
        return json_response({"error": self.error}, self.status)


def missing(param: str) -> RefusalError:
    """The refusal of a request without this parameter."""
    return RefusalError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


class Body:
    """A request's JSON object; values of a wrong type are refused as OpenAI refuses them."""

    def __init__(self, values: dict[str, JsonValue]) -> None:
        self.values = values

    def text(self, name: str, default: str | None = None) -> str:
        return cast(str, self._get(name, (str,), "a string", default))

    def number(self, name: str, default: int, lowest: int = 1, highest: int = 2**31) -> int:
        value = cast(int, self._get(name, (int,), "an integer", default))
        if not lowest <= value <= highest:
            raise RefusalError(400, f"Invalid '{name}': {value} is not between {lowest} and {highest}.", param=name)
        return value

    def flag(self, name: str) -> bool:
        return self.values.get(name) is True

    def array(self, name: str, default: Sequence[JsonValue] | None = None) -> Sequence[JsonValue]:
        return cast(Sequence[JsonValue], self._get(name, (list,), "an array", default))

    def mapping(self, name: str) -> dict[str, JsonValue]:
        return cast(dict[str, JsonValue], self._get(name, (dict,), "an object", {}))

    def _get(self, name: str, types: tuple[type, ...], expected: str, default: object) -> object:
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise missing(name)
            return default
        if not isinstance(value, types) or isinstance(value, bool):
            raise RefusalError(400, f"Invalid type for '{name}': expected {expected}.", param=name, code="invalid_type")
        return value


def object_of(value: JsonValue) -> dict[str, JsonValue]:
    """The value if it is an object, and an empty one if it is anything else."""
    return value if isinstance(value, dict) else {}


def string_of(value: JsonValue) -> str:
    """The value if it is a string, and an empty one if it is anything else."""
    return value if isinstance(value, str) else ""


async def read_body(request: web.Request) -> Body:
    """The request's JSON object."""
    try:
        value = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise RefusalError(400, "We could not parse the JSON body of your request.") from error
    if not isinstance(value, dict):
        raise RefusalError(400, "The JSON body of your request must be an object.")
    return Body(value)


def known_model(name: str) -> str:
    """The name, unless it is one of the models that there are not."""
    if name.startswith("no-such-"):
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise RefusalError(404, message, param="model", code="model_not_found")
    return name


def trouble_asked(model: str, prompt: str = "") -> Trouble | None:
    """The failure that the model's name or the prompt asks for."""
    for trouble in get_args(Trouble):
        if model.endswith(trouble) or f"[{trouble}]" in prompt:
            return cast(Trouble, trouble)
    return None


def json_response(value: JsonValue, status: int = 200) -> web.Response:
    """A JSON answer, spaced as OpenAI's are."""
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type="application/json")


def event(value: JsonValue, name: str | None = None) -> bytes:
    """A server-sent event."""
    prefix = f"event: {name}\n".encode() if name else b""
    return prefix + b"data: " + orjson.dumps(value) + b"\n\n"


async def send_json(request: web.Request, value: JsonValue, trouble: Trouble | None) -> web.StreamResponse:
    """Answers with JSON, or fails on the way if that was asked for."""
    await _before_head(request, trouble)
    whole = json_response(value)
    if trouble not in {"demo-cut", "demo-stall"}:
        return whole
    body = cast(bytes, whole.body)
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    await _break_off(request, trouble)
    return response


async def send_events(request: web.Request, events: Iterable[bytes], trouble: Trouble | None) -> web.StreamResponse:
    """Answers with an event stream at the pace of the application, or fails on the way if that was asked for."""
    await _before_head(request, trouble)
    pace_s = request.app[PACE_S] * (_SLOW_FACTOR if trouble == "demo-slow" else 1)
    if trouble in {"demo-cut", "demo-stall"}:
        events = list(events)
        events = islice(events, len(events) // 2)
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for each in events:
        await response.write(each)
        await asyncio.sleep(pace_s)
    await _break_off(request, trouble)
    return response


async def _before_head(request: web.Request, trouble: Trouble | None) -> None:
    if trouble == "demo-error":
        message = "The server had an error while processing your request. Sorry about that!"
        raise RefusalError(500, message, kind="server_error")
    if trouble == "demo-hang":
        await asyncio.Event().wait()
    if trouble == "demo-slow":
        await asyncio.sleep(_SLOW_START_PACES * request.app[PACE_S])


async def _break_off(request: web.Request, trouble: Trouble | None) -> None:
    if trouble == "demo-stall":
        await asyncio.Event().wait()
    if trouble == "demo-cut" and request.transport is not None:
        request.transport.close()  # sends what was written, but neither the rest nor a last chunk
