"""The embedded upstream's image interfaces: every picture is a small flower."""

from __future__ import annotations

import base64

from aiohttp import web

from gateway.demo import media
from gateway.demo.answers import digest
from gateway.demo.multipart import read_upload
from gateway.demo.wire import Body, RefusalError, known_model, read_body, send_json, trouble_asked
from gateway.types import JsonValue

_CREATED = 1_700_000_000


async def generate_images(request: web.Request) -> web.StreamResponse:
    """POST /v1/images/generations"""
    body = await read_body(request)
    prompt = body.text("prompt")
    return await _send_images(request, body, prompt, body.number("n", 1, highest=10), digest("image", prompt))


async def edit_images(request: web.Request) -> web.StreamResponse:
    """POST /v1/images/edits"""
    upload = await read_upload(request)
    prompt = upload.fields.text("prompt")
    seed = digest("edit", prompt, upload.file("image").digest.hex())
    return await _send_images(request, upload.fields, prompt, _count(upload.fields), seed)


async def vary_images(request: web.Request) -> web.StreamResponse:
    """POST /v1/images/variations"""
    upload = await read_upload(request)
    seed = digest("variation", upload.file("image").digest.hex())
    return await _send_images(request, upload.fields, "", _count(upload.fields), seed)


async def image_file(request: web.Request) -> web.Response:
    """GET /images/{seed}.png: what a URL of the answers leads to; like OpenAI's, it needs no key."""
    png = media.flower_png(bytes.fromhex(request.match_info["seed"]))
    return web.Response(body=png, content_type="image/png")


async def _send_images(request: web.Request, body: Body, prompt: str, number: int, seed: bytes) -> web.StreamResponse:
    model = known_model(body.text("model", "dall-e-2"))
    as_base64 = body.text("response_format", "url") == "b64_json" or model.startswith("gpt-image")
    data: list[JsonValue] = []
    for each in range(number):
        image_seed = digest(seed.hex(), each)[:8]
        if as_base64:
            image = {"b64_json": base64.b64encode(media.flower_png(image_seed)).decode()}
        else:
            image = {"url": f"{request.scheme}://{request.host}/images/{image_seed.hex()}.png"}
        revised = {"revised_prompt": prompt} if model == "dall-e-3" else {}
        data.append({**revised, **image})
    created = _CREATED + int.from_bytes(seed[:3], "big")
    return await send_json(request, {"created": created, "data": data}, trouble_asked(model, prompt))


def _count(fields: Body) -> int:
    """`n`, which a form gives as text."""
    text = fields.text("n", "1")
    if not (text.isdecimal() and 1 <= int(text[:3]) <= 10):
        raise RefusalError(400, "Invalid 'n': expected an integer between 1 and 10.", param="n")
    return int(text)
