"""Those who make images, for tests: `v1/images/generations` and a Midjourney proxy, which log what they do.

    async with Generations() as backend:
        ...a gateway whose upstream is backend.base_url...
        assert backend.made == Counter({"a prompt": 1})

The first word of a prompt may say what becomes of it; see the classes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from types import TracebackType
from typing import Any, ClassVar, Self

from aiohttp import web

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


class Backend:
    """An HTTP server on a port of its own."""

    def __init__(self, *, port: int = 0, slowest_s: float = 0.0, seed: int = 0) -> None:
        self.random = Random(seed)
        self.slowest_s = slowest_s
        self.port = port
        self.made: Counter[str] = Counter()  # by prompt
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._runner: web.AppRunner | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def read(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        await asyncio.sleep(self.random.uniform(0, self.slowest_s))
        return body


class Generations(Backend):
    """`refused` or `fails` is a 400 with a message. `idempotent`: it makes nothing twice for one `Idempotency-Key`."""

    def __init__(self, *, idempotent: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.idempotent = idempotent
        self._known: dict[str, asyncio.Future[dict[str, Any]]] = {}

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/images/generations", self._generate)]

    async def _generate(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        if self.idempotent and key in self._known:
            await self.read(request)
            return _answer(await asyncio.shield(self._known[key]))
        known = self._known[key] = asyncio.get_running_loop().create_future()
        prompt = (await request.json())["prompt"]
        self.made[prompt] += 1
        body = await self.read(request)
        count = int(body.get("n", 1))
        if prompt.startswith(("refused", "fails")):
            known.set_result({"error": {"message": f"no: {prompt}", "type": "invalid_request_error"}})
        else:
            known.set_result({"created": 1, "data": [{"url": f"https://images.example/{i}"} for i in range(count)]})
        return _answer(known.result())


def _answer(value: dict[str, Any]) -> web.Response:
    return web.json_response(value, status=400 if "error" in value else 200)


class MidjourneyProxy(Backend):
    """The first word of a prompt decides: `exists`, `queued`, `full`, `banned` and `broken` are 21 to 24 and another
    code, `fails` and `stuck` are what becomes of the task, which takes one step each time it is asked about.
    """

    STEPS = (("NOT_START", "0%"), ("SUBMITTED", ""), ("IN_PROGRESS", "0%"), ("IN_PROGRESS", "62%"))
    CODES: ClassVar = {"exists": 21, "queued": 22, "full": 23, "banned": 24, "broken": 9}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tasks: dict[str, str] = {}  # prompts by id
        self.asked: Counter[str] = Counter()  # ids

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/mj/submit/imagine", self._submit), web.get("/mj/task/{id}/fetch", self._fetch)]

    async def _submit(self, request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        code = self.CODES.get(prompt.split(" ")[0], 1)
        self.made[prompt] += 1
        task = f"{len(self.tasks) + 1:016d}"
        if code in {1, 21, 22}:
            self.tasks[task] = prompt
        await self.read(request)
        return web.json_response({"code": code, "description": f"code {code}", "result": task, "properties": {}})

    async def _fetch(self, request: web.Request) -> web.Response:
        task = request.match_info["id"]
        word = self.tasks[task].split(" ")[0]
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        step = self.asked[task]
        self.asked[task] += 1
        state: dict[str, Any] = {"id": task, "action": "IMAGINE", "imageUrl": None, "failReason": None}
        if step < len(self.STEPS) or word == "stuck":
            status, progress = self.STEPS[min(step, len(self.STEPS) - 1)]
            return web.json_response({**state, "status": status, "progress": progress})
        if word == "fails":
            return web.json_response({**state, "status": "FAILURE", "progress": "", "failReason": "too much of it"})
        url = f"https://images.example/{task}.png"
        return web.json_response({**state, "status": "SUCCESS", "progress": "100%", "imageUrl": url})
