"""Priced calls of every kind, made without pause, and the comparison of what client, upstream and books know of each.

    async with Load(gateway, seed=7) as load:
        load.begin()
        ...something happens to the gateway...
        await load.quiet()
        load.compare()

Each order has a number of its own, which is a part of its model's name: the upstream sees it in the arguments, and the
store has it in the rows of calls and holds. What a call costs follows from its number.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson

from tests.books import check_books, connect, database_of, rows
from tests.chaos import LAST_CHUNK, Chaos, Exchange, chunk, json_answer, sse_head
from tests.support import Answer, Gateway, custom_path, exchange, request_bytes

CLIENTS = 30
ANSWER_LIMIT_S = 60.0
QUIET_LIMIT_S = 60.0
PRICES = """
[[price]]
method = "v1/chat/completions"
model = "unit-*"
per_call = "0.001"
per_1k_prompt = "0.001"
per_1k_completion = "0.002"
"""
MONEY = "1000000"
TEXTS = ("Be", "cause", " of", " rivers.")


def usage_of(number: int) -> dict[str, int]:
    """What the upstream says that the order used: no more than is held for it."""
    return {"prompt_tokens": 10 + number % 37, "completion_tokens": 1 + number % 101}


def charge_of(number: int) -> int:
    """What the order costs, in millionths."""
    usage = usage_of(number)
    return 1000 + usage["prompt_tokens"] + 2 * usage["completion_tokens"]


@dataclass(slots=True)
class Order:
    """What a client wants once; a keyed one is asked for again until it is there. `leaves_s`: after which it leaves."""

    number: int
    front: str
    streamed: bool
    result_type: str
    keyed: bool
    leaves_s: float | None

    def request(self, gateway: Gateway) -> bytes:
        arguments = {
            "model": f"unit-{self.number}", "messages": [{"role": "user", "content": "Why is the sea salty?"}],
            "max_tokens": 200, "stream": self.streamed,
        }  # fmt: skip
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self.keyed:
            headers["Idempotency-Key"] = f"key-{self.number}"
        if self.front == "native":
            headers["Authorization"] = f"Bearer {gateway.token}"
            return request_bytes("POST", "/v1/chat/completions", orjson.dumps(arguments), headers)
        target = custom_path(gateway, method="v1/chat/completions", result_type=self.result_type)
        return request_bytes("POST", target, orjson.dumps({"_o_args": arguments}), headers)


def new_order(number: int, random: Random) -> Order:
    return Order(
        number,
        front=random.choice(("native", "custom")),
        streamed=random.random() < 0.5,
        result_type=random.choice(("json", "json", "xml")),
        keyed=random.random() < 0.25,
        leaves_s=random.uniform(0, 0.04) if random.random() < 0.2 else None,
    )


class Told(NamedTuple):
    """A whole answer with code 0000 that a client got."""

    order: Order
    last_id: int
    request_id: str
    replayed: bool


class Row(NamedTuple):
    """A row of the call log."""

    id: int
    request_id: str
    number: int
    outcome: str
    charge: int
    settled: str
    cache: str


@dataclass(slots=True)
class Figures:
    """What was compared so far. `answers` are the whole ones with code 0000; the rest counts rows of the call log."""

    answers: int = 0
    replays: int = 0
    charged: int = 0
    uncharged: int = 0
    unknown: int = 0

    @property
    def calls(self) -> int:
        return self.charged + self.uncharged + self.unknown

    def __str__(self) -> str:
        return (
            f"{self.calls} calls: {self.charged} charged, {self.unknown} unknown, {self.uncharged} not charged;"
            f" {self.answers} whole answers, {self.replays} of them given again"
        )


def code_of(answer: Answer) -> str:
    """The four digits; of an answer that is not whole, and of none, nothing."""
    if not (answer.status and answer.complete):
        return ""
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return "0000"  # only a clean end upstream is one for the client
    return answer.headers.get("x-error-code", "")


def holds_all(body: bytes, order: Order) -> bool:
    """Whether nothing of what the upstream wrote for the client is missing, in whatever format."""
    if not order.streamed:
        return "".join(TEXTS).encode() in body
    texts = iter(body.split(b"data: "))
    return all(any(text.encode() in each for each in texts) for text in TEXTS) and body.endswith(b"data: [DONE]\n\n")


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
        self.figures = Figures()
        self.codes: Counter[str] = Counter()  # of every attempt; "" was cut or reset
        self.seen: Counter[int] = Counter()  # by the upstream, since the last comparison
        self.unheld: list[int] = []  # what reached the upstream without money held for it
        self.told: list[Told] = []  # since the last comparison
        self.charged_refusals: list[int] = []  # calls that were told 4000, and are charged
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
        self._books = connect(database_of(gateway))
        self._floor = 0
        self._ids: set[int] = set()
        self._request_ids: set[str] = set()
        self._failed: set[int] = set()  # orders that were told 4000, and are not made again
        self._charges: Counter[int] = Counter()  # by the orders' numbers

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
        self._books.close()
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
            while self._books.execute("SELECT EXISTS (SELECT 1 FROM holds)").get:
                await asyncio.sleep(0.02)
            while self._missing():
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
        assert code in {"", "0000", *self._refusals}, f"{order}: {answer}, {self._history(order)}"
        if code == "4000" and not order.keyed:
            self._failed.add(order.number)
        if code != "0000":
            return False
        assert holds_all(answer.body, order), f"{order}: {answer}, {self._history(order)}"
        replayed = "idempotent-replayed" in answer.headers
        assert order.keyed or not replayed, f"order {order.number} was answered with another's answer"
        self.told.append(Told(order, int(answer.headers["x-last-id"]), answer.headers["x-request-id"], replayed))
        return True

    def _history(self, order: Order) -> list[dict[str, Any]]:
        """The rows that the call log has of an order."""
        cursor = self._books.execute("SELECT * FROM calls WHERE model = ?", (f"unit-{order.number}",))
        return [dict(zip((name for name, *_ in cursor.get_description()), row, strict=True)) for row in cursor]

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
        model = arguments["model"]
        number = int(model.removeprefix("unit-"))
        self.seen[number] += 1
        if not self._in_books(model):
            self.unheld.append(number)
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

    def _in_books(self, model: str) -> bool:
        """Whether something is held for the call, or was until its client left, a moment ago."""
        tables = ("holds", "calls")
        return any(self._books.execute(f"SELECT 1 FROM {table} WHERE model = ?", (model,)).get for table in tables)

    # the comparison

    def compare(self) -> None:
        """Fails on whatever client, upstream and books disagree about. Nothing may be under way."""
        database = database_of(self.gateway)
        check_books(database)
        with closing(connect(database)) as connection:
            assert not connection.execute("SELECT * FROM holds").fetchall(), "something is still held"
        found = self._rows()
        entries: dict[int, int] = dict(
            rows(database, "SELECT call_id, -amount_micros FROM entries WHERE call_id > ?", self._floor)
        )
        self._compare_rows(found, entries)
        self._compare_upstream(found, entries)
        for told in self.told:
            self._compare_answer(told, entries)
        assert not self.unheld, f"the upstream was asked before anything was held: {self.unheld}"
        self._floor = max((row.id for row in found), default=self._floor)
        self.seen.clear()
        self.told.clear()

    def _rows(self) -> list[Row]:
        query = (
            "SELECT id, request_id, CAST(substr(model, 6) AS INTEGER), outcome, charge_micros, settled, cache"
            " FROM calls WHERE id > ?"
        )
        return [Row(*values) for values in self._books.execute(query, (self._floor,))]

    def _missing(self) -> set[int]:
        logged = Counter(row.number for row in self._rows() if row.cache != "replay")
        return {number for number, times in self.seen.items() if logged[number] < times}

    def _compare_rows(self, found: list[Row], entries: Mapping[int, int]) -> None:
        for row in found:
            assert row.request_id not in self._request_ids, f"an id is given twice: {row}"
            self._request_ids.add(row.request_id)
            assert row.charge == entries.get(row.id, 0), row
            if row.cache == "replay":
                assert not row.charge, row
                continue
            if row.settled == "unknown":
                assert (row.outcome, row.charge) == ("5000", 0), row
                self.figures.unknown += 1
            elif row.outcome == "0000":
                assert row.charge, row
                self.figures.charged += 1
                self._charges[row.number] += 1
                assert self._charges[row.number] == 1, f"order {row.number} is charged twice"
                if row.number in self._failed:
                    self.charged_refusals.append(row.id)
            else:
                assert not row.charge, row
                self.figures.uncharged += 1
        assert entries.keys() <= {row.id for row in found}, "a charge without a call"

    def _compare_upstream(self, found: list[Row], entries: Mapping[int, int]) -> None:
        """What is charged was asked for, and what was asked for is in the log."""
        by_number: defaultdict[int, list[Row]] = defaultdict(list)
        for row in found:
            if row.cache != "replay":
                by_number[row.number].append(row)
        for number, logged in by_number.items():
            charged = sum(row.id in entries for row in logged)
            assert charged <= self.seen[number], f"order {number} is charged and was never made: {logged}"
        for number, times in self.seen.items():
            assert len(by_number[number]) >= times, f"order {number} was made and is not in the log"

    def _compare_answer(self, told: Told, entries: Mapping[int, int]) -> None:
        order, figures = told.order, self.figures
        charge: Any = entries.get(told.last_id)
        if charge is None and told.replayed:  # it was charged when it was first answered, maybe long before
            charge = self._books.execute("SELECT -amount_micros FROM entries WHERE call_id = ?", (told.last_id,)).get
        assert charge == charge_of(order.number), f"{told} is charged {charge}"
        figures.answers += 1
        if told.replayed:
            figures.replays += 1
        else:
            assert told.last_id not in self._ids, f"an id is given twice: {told}"
            self._ids.add(told.last_id)
        if not order.keyed:
            assert self.seen[order.number] == 1, f"{told} was asked for {self.seen[order.number]} times"


def _event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
