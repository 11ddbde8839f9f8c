"""Priced calls of every kind, made without pause against one gateway, and its upstream.

async with Load(gateway, seed=7) as load:
    load.begin()
    ...something happens to the gateway...
    await load.quiet()
    load.agreement.compare()
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Self

import orjson

from tests.agreement import Agreement
from tests.chaos import LAST_CHUNK, Chaos, Exchange, chunk, json_answer, sse_head
from tests.orders import TEXTS, Order, code_of, holds_all, new_order, usage_of
from tests.support import Gateway, exchange

CLIENTS = 30
ANSWER_LIMIT_S = 60.0
QUIET_LIMIT_S = 60.0


class Load:
    """Clients that call one gateway, and its upstream. `refusals` are the codes other than 0000 that are no fault."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        seed: int,
        clients: int = CLIENTS,
        refusals: tuple[str, ...] = ("4008",),
        orders: Callable[[int, Random], Order] = new_order,
    ) -> None:
        self.gateway = gateway
        self.agreement = Agreement(gateway)
        self.codes: Counter[str] = Counter()  # of every attempt; "" was cut or reset
        self._seed = seed
        self._refusals = refusals
        self._new_order = orders
        self._clients = clients
        self._numbers = itertools.count(1)
        self._pending: list[Order | None] = [None] * clients
        self._may_call = asyncio.Event()
        self._calling = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._upstream_random = Random(seed)
        self._chaos = Chaos(self._answer, port=gateway.upstream_port)

    async def __aenter__(self) -> Self:
        await self._chaos.__aenter__()
        self._tasks = [asyncio.create_task(self._client(place)) for place in range(self._clients)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.agreement.close()
        await self._chaos.__aexit__(kind, error, traceback)

    def begin(self) -> None:
        """The clients call, and go on calling."""
        self._may_call.set()

    def pause(self) -> None:
        """The clients begin no more calls."""
        self._may_call.clear()

    async def quiet(self) -> None:
        """Pauses the clients, and waits until what they began has ended."""
        self.pause()
        async with asyncio.timeout(QUIET_LIMIT_S):
            while self._calling:
                self._raise_failures()
                await asyncio.sleep(0.01)
        self._raise_failures()

    async def answered(self) -> None:
        """Waits until every keyed order that is pending now has its answer."""
        pending = [order for order in self._pending if order is not None]
        async with asyncio.timeout(QUIET_LIMIT_S):
            while any(order in self._pending for order in pending):
                self._raise_failures()
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Waits until nothing is held any more and every call that the upstream saw is in the log."""
        async with asyncio.timeout(QUIET_LIMIT_S):
            while not self.agreement.is_settled:
                await asyncio.sleep(0.02)

    async def process_gone(self) -> None:
        """Waits until all that a process sent before it was killed has come."""
        async with asyncio.timeout(QUIET_LIMIT_S):
            for connection in self._chaos.connections:
                await connection.closed.wait()
        self.forget_exchanges()

    def forget_exchanges(self) -> None:
        """The upstream's own records grow with every call, and nobody reads them."""
        self._chaos.exchanges.clear()
        self._chaos.connections[:] = [each for each in self._chaos.connections if not each.closed.is_set()]
        for connection in self._chaos.connections:
            connection.exchanges.clear()

    # clients

    async def _client(self, place: int) -> None:
        random = Random(f"{self._seed} {place}")
        while True:
            await self._may_call.wait()
            order = self._pending[place] or self._new_order(next(self._numbers), random)
            self._calling += 1
            try:
                answered = await self._attempt(order)
            finally:
                self._calling -= 1
            self._pending[place] = order if order.keyed and not answered else None
            order.leaves_s = None  # whoever comes back waits for the answer
            if not answered:
                await asyncio.sleep(random.uniform(0, 0.02))

    async def _attempt(self, order: Order) -> bool:
        """Calls once; whether the order's answer is here, whole."""
        leaves_s = order.leaves_s
        try:
            async with asyncio.timeout(leaves_s):
                answer = await exchange(self.gateway, order.request(self.gateway), limit_s=ANSWER_LIMIT_S)
        except TimeoutError:
            assert leaves_s is not None, f"no answer to order {order.number} within {ANSWER_LIMIT_S:g} s"
            return False
        except ConnectionError:
            self.codes[""] += 1
            return False
        code = code_of(answer)
        self.codes[code] += 1
        assert code in {"", "0000", *self._refusals}, f"{order}: {answer}, {self.agreement.history(order)}"
        if code == "4000":
            self.agreement.note_failure(order)
        if code != "0000":
            return False
        assert holds_all(answer.body, order), f"{order}: {answer}, {self.agreement.history(order)}"
        self.agreement.note_answer(order, answer)
        return True

    def _raise_failures(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()
        if self._chaos.failures:
            raise self._chaos.failures[0]

    # the upstream

    async def _answer(self, request: Exchange) -> None:
        await request.read_body()
        arguments = request.json
        number = int(arguments["model"].removeprefix("unit-"))
        self.agreement.note_asked(number)
        random, usage = self._upstream_random, usage_of(number)
        await asyncio.sleep(random.uniform(0, 0.02))
        if not arguments["stream"]:
            message = {"role": "assistant", "content": "".join(TEXTS)}
            await request.send(json_answer({"choices": [{"index": 0, "message": message}], "usage": usage}))
            return
        await request.send(sse_head())
        for text in TEXTS:
            await request.send(chunk(_event({"choices": [{"index": 0, "delta": {"content": text}}], "usage": None})))
            await asyncio.sleep(random.uniform(0, 0.004))
        await request.send(chunk(_event({"choices": [], "usage": usage})))
        await request.send(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)


def _event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
