"""The embedded upstream as an aiohttp application: its routes, its key check and its models."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from secrets import token_hex

from aiohttp import web

from gateway.demo import audio, chat, files, images, responses, texts
from gateway.demo.wire import PACE_S, RefusalError, json_response, known_model
from gateway.types import JsonValue

KEY = web.AppKey("key", str)

MAX_JSON_BYTES = 64 * 1024 * 1024

MODELS = (
    "dall-e-2",
    "dall-e-3",
    "demo-cut",
    "demo-error",
    "demo-hang",
    "demo-slow",
    "demo-stall",
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-instruct",
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-image-1",
    "omni-moderation-latest",
    "text-davinci-003",
    "text-davinci-edit-001",
    "text-embedding-3-large",
    "text-embedding-3-small",
    "text-embedding-ada-002",
    "tts-1",
    "whisper-1",
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(*, key: str, pace_s: float = 0.025) -> web.Application:
    """The upstream; it wants `Authorization: Bearer KEY`, and streams a token every `pace_s` seconds."""
    app = web.Application(middlewares=[_as_openai_answers], client_max_size=MAX_JSON_BYTES)
    app[KEY] = key
    app[PACE_S] = pace_s
    app.cleanup_ctx.append(files.files_context)
    app.on_response_prepare.append(_add_headers)
    app.add_routes([
        web.get("/v1/models", list_models),
        web.get("/v1/models/{model:.+}", retrieve_model),
        web.post("/v1/chat/completions", chat.chat_completions),
        web.post("/v1/completions", texts.completions),
        web.post("/v1/edits", texts.edits),
        web.post("/v1/embeddings", texts.embeddings),
        web.post("/v1/moderations", texts.moderations),
        web.post("/v1/responses", responses.responses),
        web.post("/v1/images/generations", images.generate_images),
        web.post("/v1/images/edits", images.edit_images),
        web.post("/v1/images/variations", images.vary_images),
        web.post("/v1/audio/transcriptions", audio.transcriptions),
        web.post("/v1/audio/translations", audio.translations),
        web.post("/v1/audio/speech", audio.speech),
        web.get("/v1/files", files.list_files),
        web.post("/v1/files", files.upload_file),
        web.get("/v1/files/{file_id}", files.retrieve_file),
        web.delete("/v1/files/{file_id}", files.delete_file),
        web.get("/v1/files/{file_id}/content", files.file_content),
        web.get("/images/{seed:[0-9a-f]{16}}.png", images.image_file),
    ])  # fmt: skip
    return app


async def list_models(request: web.Request) -> web.Response:
    """GET /v1/models"""
    return json_response({"object": "list", "data": [_model(name) for name in MODELS]})


async def retrieve_model(request: web.Request) -> web.Response:
    """GET /v1/models/{model}: every model that calls may name is there."""
    return json_response(_model(known_model(request.match_info["model"])))


def _model(name: str) -> JsonValue:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "demo"}


@web.middleware
async def _as_openai_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Checks the key, and words every error as OpenAI does."""
    try:
        if request.path.startswith("/v1/"):
            _check_key(request)
        return await handler(request)
    except RefusalError as refusal:
        return refusal.response()
    except web.HTTPNotFound:
        return RefusalError(404, f"Invalid URL ({request.method} {request.path})").response()
    except web.HTTPMethodNotAllowed as error:
        message = f"Not allowed to {request.method} on {request.path}."
        response = RefusalError(405, message, code="method_not_supported").response()
        response.headers["Allow"] = error.headers["Allow"]
        return response
    except web.HTTPRequestEntityTooLarge:
        return RefusalError(413, "The body of your request is too large.").response()


def _check_key(request: web.Request) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise RefusalError(
            401, "You didn't provide an API key. Provide it in an Authorization header, as a Bearer token."
        )
    if not hmac.compare_digest(given.strip().encode(), request.app[KEY].encode()):
        # OpenAI quotes the key it was given, in part: so must we, or nobody would see whether a gateway hides it.
        quoted = f"{given[:8]}{'*' * 8}{given[-4:]}"
        raise RefusalError(401, f"Incorrect API key provided: {quoted}.", code="invalid_api_key")


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-request-id"] = f"req_{token_hex(16)}"
    response.headers["openai-version"] = "2020-10-01"
