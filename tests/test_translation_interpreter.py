"""The engine as translators see it: batches, memory, turns, a pause for one that fails, and what it all costs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.charging import Price
from gateway.progress import Translating
from gateway.translation import interpreter as module
from gateway.translation.engines import Translated
from gateway.translation.interpreter import FAILURES, MAX_BATCH_CHARS, MAX_BATCH_TEXTS, Interpreter
from gateway.translation.memory import Memory
from gateway.types import TranslationFailed, Usage

PRICE = Price(per_call=1000, per_1k_prompt=10_000, per_1k_completion=20_000)


class Scripted:
    """An engine that puts the tag before each text, keeps what it was asked, and fails when it is told to."""

    name = "scripted"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.fails = False
        self.refuses: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.wait_s = 0.0

    async def translate(self, texts: Sequence[str], tag: str) -> Translated:
        self.asked.append(list(texts))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.wait_s)
        self.at_once -= 1
        if self.fails:
            raise TranslationFailed("it is told to")
        return Translated(tuple(None if text in self.refuses else f"{tag}:{text}" for text in texts), Usage(100, 50))


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def interpreter(scripted: Scripted) -> Interpreter:
    return Interpreter(scripted, PRICE, concurrency=2, memory_bytes=1_000_000, deadline_s=5.0)


async def test_texts_go_in_one_request_and_its_cost_is_noted(interpreter: Interpreter, scripted: Scripted) -> None:
    notes = Translating()
    assert await interpreter.for_call(1, notes)(["a", "b", "a"], "ru") == ["ru:a", "ru:b", "ru:a"]
    assert scripted.asked == [["a", "b"]]
    assert (notes.micros, notes.engine) == (1000 + 1000 + 1000, "scripted")


def test_memory_forgets_what_was_used_least_recently_and_stays_within_its_bytes() -> None:
    memory = Memory(2_000)
    for number in range(4):
        memory.put(1, "ru", f"text {number}", "x" * 10)
        memory.get(1, "ru", "text 0")
    memory.put(1, "ru", "text 4", "x" * 100)
    assert memory.get(1, "ru", "text 0") == "x" * 10
    assert memory.get(1, "ru", "text 1") is None
    memory.put(1, "ru", "huge", "x" * 10_000)
    assert memory.get(1, "ru", "huge") is None
    memory.put(1, "ru", "again", "a")
    memory.put(1, "ru", "again", "b")
    assert memory.get(1, "ru", "again") == "b"


async def test_a_long_answer_goes_in_several_requests_of_bounded_size(
    interpreter: Interpreter, scripted: Scripted
) -> None:
    short = [f"{number}" for number in range(MAX_BATCH_TEXTS + 1)]
    long = ["x" * (MAX_BATCH_CHARS - 1), "yy", "z"]
    got = await interpreter.for_call(1, Translating())(short + long, "ru")
    assert got == [f"ru:{text}" for text in short + long]
    assert sum(map(len, scripted.asked)) == len(short + long)
    assert all(len(batch) <= MAX_BATCH_TEXTS and len("".join(batch)) <= MAX_BATCH_CHARS for batch in scripted.asked)
    assert len(scripted.asked) == 4


async def test_no_more_requests_run_at_once_than_the_operator_allows(
    interpreter: Interpreter, scripted: Scripted
) -> None:
    scripted.wait_s = 0.01
    await asyncio.gather(*(interpreter.for_call(1, Translating())([str(n)], "ru") for n in range(7)))
    assert scripted.most_at_once == 2


async def test_what_is_late_costs_nothing_else(scripted: Scripted) -> None:
    interpreter = Interpreter(scripted, PRICE, concurrency=1, memory_bytes=0, deadline_s=0.2)
    scripted.wait_s = 0.12
    notes = Translating()
    texts = ["x" * MAX_BATCH_CHARS, "y" * MAX_BATCH_CHARS]
    assert await interpreter.for_call(1, notes)(texts, "ru") == [f"ru:{texts[0]}", None]
    assert notes.micros == 3000
    await asyncio.sleep(0.2)
    assert scripted.at_once == 1  # what was cancelled
    scripted.wait_s = 0.0
    assert await interpreter.for_call(1, notes)(["z"], "ru") == ["ru:z"]


async def test_no_account_stands_in_anothers_way(scripted: Scripted) -> None:
    interpreter = Interpreter(scripted, PRICE, concurrency=1, memory_bytes=0, deadline_s=5.0)
    scripted.wait_s = 0.01
    crowd = [asyncio.ensure_future(interpreter.for_call(1, Translating())([f"a{n}"], "ru")) for n in range(20)]
    await asyncio.sleep(0.005)
    await interpreter.for_call(2, Translating())(["b"], "ru")
    assert [batch[0] for batch in scripted.asked].index("b") < 4
    await asyncio.gather(*crowd)


async def test_one_refused_piece_costs_the_others_nothing(interpreter: Interpreter, scripted: Scripted) -> None:
    scripted.refuses = {"b"}
    translate = interpreter.for_call(1, Translating())
    assert await translate(["a", "b"], "ru") == ["ru:a", None]


async def test_an_engine_that_fails_again_and_again_is_left_alone_for_a_while(
    interpreter: Interpreter, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    translate = interpreter.for_call(1, Translating())
    scripted.fails = True
    for _ in range(FAILURES + 3):
        with pytest.raises(TranslationFailed):
            await translate(["a"], "ru")
    assert len(scripted.asked) == FAILURES
    assert caplog.text.count("fails again and again") == 1
    now += 60
    with pytest.raises(TranslationFailed):
        await translate(["a"], "ru")  # one attempt
    with pytest.raises(TranslationFailed):
        await translate(["a"], "ru")  # and another pause
    assert len(scripted.asked) == FAILURES + 1
    now += 60
    scripted.fails = False
    assert await translate(["a"], "ru") == ["ru:a"]
    scripted.fails = True
    with pytest.raises(TranslationFailed):
        await translate(["b"], "ru")
    scripted.fails = False
    assert await translate(["b"], "ru") == ["ru:b"]
