"""What is measured: the loads, and the figures that are told of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.tools import Observation, Quantiles


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `of` returns None where an observation does not tell it (no process, nothing finished)."""

    name: str
    of: Callable[[Observation], float | None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load. `wish` tells the upstream how to answer; `chunks` is the length of a stream, 0 for one JSON answer."""

    name: str
    title: str
    wish: str
    connections: int
    peers: tuple[str, ...]
    figures: tuple[Figure, ...]
    chunks: int = 0
    warm_up_s: float = 1.0
    window_s: float = 3.0

    def arguments(self) -> Mapping[str, object]:
        """The chat call: some 600 bytes, as small real calls are."""
        return {
            "model": "bench",
            "messages": [
                {"role": "system", "content": f"You are a helpful assistant. {self.wish}"},
                {"role": "user", "content": QUESTION},
            ],
            "temperature": 0.7,
            "max_tokens": 512,
            "stream": self.chunks > 0,
        }

    def client_options(self, scale: float = 1.0) -> Mapping[str, float]:
        return {
            "connections": self.connections,
            "chunks": self.chunks,
            "warm-up": self.warm_up_s * scale,
            "seconds": self.window_s * scale,
        }


QUESTION = (
    "Please sum up how the currents of the North Atlantic shape the weather of western Europe, summer and winter, "
    "with two examples that a child of ten can follow, and end with one question that shows whether I understood. "
    "Keep it under two hundred words, and do not use the words gyre, thermohaline or salinity without explaining them."
)

ENDLESS = 1_000_000
ONE_HOUR_US = 3_600_000_000


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


CALL_COST = Figure("processor time a call, µs", lambda seen: share(seen.processor_us, seen.calls))
CALL_RATE = Figure("calls a second", lambda seen: share(seen.calls, seen.seconds))
CALL_P50 = Figure("time of a call, p50, µs", p50(lambda seen: seen.latency_us))
CALL_P99 = Figure("time of a call, p99, µs", p99(lambda seen: seen.latency_us))
CHUNK_COST = Figure("processor time a chunk, µs", lambda seen: share(seen.processor_us, seen.chunks))
CHUNK_RATE = Figure("chunks a second", lambda seen: share(seen.chunks, seen.seconds))
CHUNK_READS = Figure("reads a chunk", lambda seen: share(seen.reads_with_chunks, seen.chunks))
DELAY_P50 = Figure("delay of a chunk, p50, µs", p50(lambda seen: seen.delay_us))
DELAY_P99 = Figure("delay of a chunk, p99, µs", p99(lambda seen: seen.delay_us))
FIRST_BYTE = Figure("time to the first byte, p50, µs", p50(lambda seen: seen.first_byte_us))
MEMORY = Figure("memory a stream, KB", lambda seen: share(seen.resident_kb - seen.resident_before_kb, seen.connections))

CALLERS = ("direct", "nginx", "gateway native", "gateway custom")
STREAMERS = ("direct", "nginx", "gateway native")
PROXIES = ("nginx", "gateway native")


def paced(streams: int, every_us: int) -> Scenario:
    return Scenario(
        f"paced-{streams}",
        f"{streams:,} streams, a chunk every {every_us // 1000} ms",
        f"chunks={ENDLESS} every_us={every_us}",
        streams,
        STREAMERS,
        (CHUNK_COST, CHUNK_RATE, CHUNK_READS, DELAY_P50, DELAY_P99),
        chunks=ENDLESS,
    )


def idle(streams: int) -> Scenario:
    return Scenario(
        f"idle-{streams}",
        f"{streams:,} open streams that say nothing",
        f"chunks={ENDLESS} every_us={ONE_HOUR_US}",
        streams,
        PROXIES,
        (MEMORY,),
        chunks=ENDLESS,
        window_s=1.0,
    )


SCENARIOS = (
    Scenario(
        "calls-32",
        "1 KB JSON answers, 32 callers at once",
        "bytes=1024",
        32,
        CALLERS,
        (CALL_COST, CALL_RATE, CALL_P50, CALL_P99),
    ),
    Scenario("calls-1", "1 KB JSON answers, one call at a time", "bytes=1024", 1, CALLERS, (CALL_COST, CALL_P50)),
    Scenario(
        "stream-1",
        "streams of 8 chunks, one at a time",
        "chunks=8 every_us=0",
        1,
        STREAMERS,
        (FIRST_BYTE, CALL_COST),
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
    paced(200, 20_000),
    paced(1000, 100_000),
    idle(1000),
    idle(5000),
)
