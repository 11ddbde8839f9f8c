"""Image jobs: `images/submit` takes one and answers at once, `images/get` tells how it is, or waits for its end."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gateway.hookspecs import MethodContext, MethodSpec, hookimpl
from gateway.types import Call, JsonValue, MethodRefused

MAX_PROMPT_CHARS = 32_000
_NOT_FOR_THE_BACKEND = frozenset({"notify", "stream"})


@hookimpl
def gateway_methods() -> list[MethodSpec]:
    return [MethodSpec("images/submit", submit, opens_jobs=True), MethodSpec("images/get", get, stream=progress)]


async def submit(call: Call, context: MethodContext) -> JsonValue:
    values = call.arguments.values
    prompt, notify = values.get("prompt"), values.get("notify")
    if prompt is None:
        raise MethodRefused("4014", "images/submit needs the argument prompt", "prompt")
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > MAX_PROMPT_CHARS:
        raise MethodRefused("4003", f"prompt must be text of 1 to {MAX_PROMPT_CHARS} characters", "prompt")
    if notify is not None and not isinstance(notify, str):
        raise MethodRefused("4003", "notify must be an address", "notify")
    arguments = {name: value for name, value in values.items() if name not in _NOT_FOR_THE_BACKEND}
    return await context.submit_job(prompt, arguments, notify or None)


async def get(call: Call, context: MethodContext) -> JsonValue:
    job = await context.job(_imgid(call), _wait_s(call))
    if job is None:
        raise MethodRefused("2000", "")
    return job.document


async def progress(call: Call, context: MethodContext) -> AsyncIterator[JsonValue]:
    async for job in context.job_changes(_imgid(call)):
        yield job.document


def _imgid(call: Call) -> str:
    imgid = call.arguments.values.get("imgid")
    if imgid is None:
        raise MethodRefused("4014", "images/get needs the argument imgid", "imgid")
    if isinstance(imgid, int) and not isinstance(imgid, bool):  # as careless clients write it
        return str(imgid)
    if not isinstance(imgid, str):
        raise MethodRefused("4003", "imgid must be text", "imgid")
    return imgid


def _wait_s(call: Call) -> float:
    wait = call.arguments.values.get("wait")
    if wait is None:
        return 0.0
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
        raise MethodRefused("4003", "wait must be a number of seconds", "wait")
    return float(wait)
