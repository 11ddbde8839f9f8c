"""What is measured: the loads, and the figures that are told of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.tools import Observation, Quantiles


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `of` returns None where an observation does not tell it (no process, nothing finished).

    An added figure is what a proxy adds: its value less that of the load without a proxy, in the same round.
    """

    name: str
    of: Callable[[Observation], float | None]
    added: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load. `wish` tells the upstream how to answer; `chunks` is the length of a stream, 0 for one JSON answer.

    `beside` streams more stand open and say nothing. `rounds` is in how many rounds it is measured, at most.
    """

    name: str
    title: str
    wish: str
    connections: int
    peers: tuple[str, ...]
    figures: tuple[Figure, ...]
    chunks: int = 0
    beside: int = 0
    warm_up_s: float = 1.0
    window_s: float = 3.0
    rounds: int | None = None

    def arguments(self) -> tuple[Mapping[str, object], ...]:
        """The chat calls, sent in turn: 300 to 650 bytes, as small real calls are."""
        return tuple(chat(self.wish, question, stream=self.chunks > 0) for question in QUESTIONS)

    def client_options(self, scale: float = 1.0) -> Mapping[str, float]:
        return {
            "connections": self.connections,
            "chunks": self.chunks,
            "beside": self.beside,
            "warm-up": self.warm_up_s * scale,
            "seconds": self.window_s * scale,
        }


@dataclass(frozen=True, slots=True)
class Growth:
    """How a cost changes over loads that differ in how many streams are open, and in nothing else."""

    title: str
    name: str
    figure: Figure
    scenarios: tuple[str, ...]


# Eight calls of different length, so that a proxy which remembers what it parsed last has nothing to gain.
TOPICS = (
    "the currents of the North Atlantic",
    "the salt of the Dead Sea and of the lakes around it",
    "glass",
    "the migration of the painted lady from the Sahel to Scandinavia, over six generations",
    "向日葵",
    "the first programmable looms of Lyon, and what became of those who wove by hand",
    "yeast",
    "the moons of Jupiter: their orbits, their ages and what Galileo noted of them in his first winter of looking",
)
ASIDES = (
    "Two examples that a child of ten can follow will do.",
    'Keep it under 200 words, and do not use "therefore".',
    "End with one question that shows whether I understood.\nThen give its answer, on a line of its own.",
    "Say what is still disputed, and by whom; name years, and places where they matter for the argument.",
    "Where a number helps, give it with its unit; where it does not, leave it out.",
)
QUESTIONS = tuple(
    f"Please sum up what is known about {topic}. {' '.join(ASIDES[: number % (len(ASIDES) + 1)])}"
    for number, topic in enumerate(TOPICS, start=3)
)
ENDLESS = 1_000_000
ONE_HOUR_US = 3_600_000_000
SILENT = f"chunks={ENDLESS} every_us={ONE_HOUR_US}"


def chat(wish: str, question: str, *, stream: bool) -> Mapping[str, object]:
    """The client writes the call's number over the digits after `serial-`: no two calls have the same bytes."""
    return {
        "model": "bench",
        "messages": [
            {"role": "system", "content": f"You are a helpful assistant. {wish}"},
            {"role": "user", "content": f"{question} (serial-00000000)"},
        ],
        "temperature": 0.7,
        "max_tokens": 512,
        "stream": stream,
    }


def silent_stream() -> Mapping[str, object]:
    """The call of a stream that only stands open."""
    return chat(SILENT, QUESTIONS[0], stream=True)


def p50(pick: Callable[[Observation], Quantiles | None]) -> Callable[[Observation], float | None]:
    def of(observation: Observation) -> float | None:
        quantiles = pick(observation)
        return quantiles.p50 if quantiles else None

    return of


def p99(pick: Callable[[Observation], Quantiles | None]) -> Callable[[Observation], float | None]:
    def of(observation: Observation) -> float | None:
        quantiles = pick(observation)
        return quantiles.p99 if quantiles else None

    return of


def share(part: float, whole: float) -> float | None:
    """A quotient; None where there is nothing to tell: no process was measured, or nothing happened."""
    return part / whole if part and whole else None


DELAY_OF_P50, DELAY_OF_P99 = p50(lambda seen: seen.delay_us), p99(lambda seen: seen.delay_us)
FIRST_BYTE_OF = p50(lambda seen: seen.first_byte_us)

CALL_COST = Figure("processor time a call, µs", lambda seen: share(seen.processor_us, seen.calls))
CALL_RATE = Figure("calls a second", lambda seen: share(seen.calls, seen.seconds))
CALL_P50 = Figure("time of a call, p50, µs", p50(lambda seen: seen.latency_us))
CALL_P99 = Figure("time of a call, p99, µs", p99(lambda seen: seen.latency_us))
STREAMS = Figure("streams answered", lambda seen: seen.connections)
CHUNK_COST = Figure("processor time a chunk, µs", lambda seen: share(seen.processor_us, seen.chunks))
CHUNK_RATE = Figure("chunks a second", lambda seen: share(seen.chunks, seen.seconds))
CHUNK_READS = Figure("reads a chunk", lambda seen: share(seen.reads_with_chunks, seen.chunks))
DELAY_P50 = Figure("delay of a chunk, p50, µs", DELAY_OF_P50)
DELAY_P99 = Figure("delay of a chunk, p99, µs", DELAY_OF_P99)
ADDED_P50 = Figure("added delay of a chunk, p50, µs", DELAY_OF_P50, added=True)
ADDED_P99 = Figure("added delay of a chunk, p99, µs", DELAY_OF_P99, added=True)
FIRST_BYTE = Figure("time to the first byte, p50, µs", FIRST_BYTE_OF)
ADDED_FIRST_BYTE = Figure("added time to the first byte, p50, µs", FIRST_BYTE_OF, added=True)
MEMORY = Figure("memory a stream, KB", lambda seen: share(seen.resident_kb - seen.resident_before_kb, seen.connections))
MEMORY_YOUNG = Figure(
    "memory a stream after some 10 chunks, KB",
    lambda seen: share(seen.resident_at_opening_kb - seen.resident_before_kb, seen.connections),
)
MEMORY_OLD = Figure("memory a stream after some 2,000 chunks, KB", MEMORY.of)
MEMORY_GROWTH = Figure(
    "growth of a stream's memory, KB",
    lambda seen: (seen.resident_kb - seen.resident_at_opening_kb) / seen.connections if seen.resident_kb else None,
)

GUESTS = ("HAProxy", "LiteLLM", "Portkey")
CALLERS = (
    "direct",
    "nginx",
    "gateway native",
    "gateway custom",
    "gateway cache miss",
    "gateway cache hit",
    "gateway ledger",
)
STREAMERS = ("direct", "nginx", "gateway native", "gateway ledger")
PROXIES = ("nginx", "gateway native")


def paced(name: str, streams: int, every_us: int, peers: tuple[str, ...], rounds: int | None = None) -> Scenario:
    """10,000 chunks a second, whatever the number of streams."""
    figures = (CHUNK_COST, STREAMS, CHUNK_RATE, CHUNK_READS, DELAY_P50, DELAY_P99, ADDED_P50, ADDED_P99)
    return Scenario(
        name,
        f"{streams:,} streams, a chunk every {every_us // 1000} ms",
        f"chunks={ENDLESS} every_us={every_us}",
        streams,
        peers,
        figures if "direct" in peers else figures[:1],
        chunks=ENDLESS,
        rounds=rounds,
    )


def idle(streams: int) -> Scenario:
    return Scenario(
        f"idle-{streams}",
        f"{streams:,} open streams that say nothing",
        SILENT,
        streams,
        PROXIES,
        (MEMORY,),
        chunks=ENDLESS,
        window_s=1.0,
    )


def beside(streams: int) -> Scenario:
    return Scenario(
        f"calls-32-beside-{streams}",
        f"1 KB JSON answers, 32 callers at once, beside {streams:,} open streams",
        "bytes=1024",
        32,
        PROXIES,
        (CALL_COST,),
        beside=streams,
        rounds=GROWTH_ROUNDS,
    )


GROWTH_ROUNDS = 3
SCENARIOS = (
    Scenario(
        "calls-32",
        "1 KB JSON answers, 32 callers at once",
        "bytes=1024",
        32,
        (*CALLERS, *GUESTS),
        (CALL_COST, CALL_RATE, CALL_P50, CALL_P99),
    ),
    Scenario("calls-1", "1 KB JSON answers, one call at a time", "bytes=1024", 1, CALLERS, (CALL_COST, CALL_P50)),
    Scenario(
        "stream-1",
        "streams of 8 chunks, one at a time",
        "chunks=8 every_us=0",
        1,
        STREAMERS,
        (FIRST_BYTE, ADDED_FIRST_BYTE, CALL_COST),
        chunks=8,
    ),
    Scenario(
        "flat-out",
        "32 streams as fast as they go",
        "chunks=500 every_us=0",
        32,
        STREAMERS,
        (CHUNK_COST, CHUNK_RATE, CHUNK_READS),
        chunks=500,
    ),
    paced("growth-10", 10, 1_000, PROXIES, GROWTH_ROUNDS),
    paced("paced-200", 200, 20_000, (*STREAMERS, *GUESTS)),
    paced("paced-1000", 1000, 100_000, (*STREAMERS, *GUESTS)),
    paced("growth-5000", 5000, 500_000, PROXIES, GROWTH_ROUNDS),
    beside(10),
    beside(1000),
    beside(5000),
    idle(1000),
    idle(5000),
    Scenario(
        "length",
        "1,000 streams of 2,000 chunks each",
        f"chunks={ENDLESS} every_us=20000",
        1000,
        PROXIES,
        (MEMORY_YOUNG, MEMORY_OLD, MEMORY_GROWTH),
        chunks=ENDLESS,
        warm_up_s=0.0,
        window_s=40.0,
        rounds=1,
    ),
)
GROWTHS = (
    Growth(
        "10,000 chunks a second, over 10, 200, 1,000 and 5,000 streams",
        "processor time a chunk, largest ÷ smallest",
        CHUNK_COST,
        ("growth-10", "paced-200", "paced-1000", "growth-5000"),
    ),
    Growth(
        "32 callers at once, beside 10, 1,000 and 5,000 open streams",
        "processor time a call, largest ÷ smallest",
        CALL_COST,
        ("calls-32-beside-10", "calls-32-beside-1000", "calls-32-beside-5000"),
    ),
)
