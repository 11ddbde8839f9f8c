"""The tables that the documents hold, between marks: docs/benchmarks.md has all of it, the README what matters most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import report
from bench.report import Row
from bench.scenarios import (
    ADDED_FIRST_BYTE,
    ADDED_P50,
    CALL_COST,
    CALL_P50,
    CHUNK_COST,
    FIRST_BYTE,
    GUESTS,
    MEMORY,
    Figure,
)
from bench.tools import BenchError

TABLE_STARTS, TABLE_ENDS = "<!-- table: begin -->\n", "<!-- table: end -->\n"
OURS = ("gateway native", "gateway custom", "gateway cache miss", "gateway cache hit", "gateway ledger")

README_ROWS: tuple[tuple[str, Figure, str], ...] = (
    ("calls-32", CALL_COST, "processor time a call (1 KB JSON), µs"),
    ("calls-1", CALL_P50, "time of a call, one at a time, p50, µs"),
    ("paced-200", CHUNK_COST, "processor time a chunk, 200 streams, µs"),
    ("paced-1000", CHUNK_COST, "processor time a chunk, 1,000 streams, µs"),
    ("paced-200", ADDED_P50, "added delay of a chunk, 200 streams, p50, µs"),
    ("paced-1000", ADDED_P50, "added delay of a chunk, 1,000 streams, p50, µs"),
    ("stream-1", FIRST_BYTE, "time to the first byte, p50, µs"),
    ("stream-1", ADDED_FIRST_BYTE, "added time to the first byte, p50, µs"),
    ("idle-1000", MEMORY, "memory a stream, 1,000 open, KB"),
    ("idle-5000", MEMORY, "memory a stream, 5,000 open, KB"),
)
PEER_COLUMNS: tuple[tuple[str, Figure, str], ...] = (
    ("calls-32", CALL_COST, "a call, µs"),
    ("paced-200", CHUNK_COST, "a chunk, 200 streams, µs"),
    ("paced-1000", CHUNK_COST, "a chunk, 1,000 streams, µs"),
)


def replace_table(document: Path, table: str) -> None:
    """Puts a table between a document's marks."""
    before, starts, rest = document.read_text().partition(TABLE_STARTS)
    _, ends, after = rest.partition(TABLE_ENDS)
    if not starts or not ends:
        raise BenchError(
            f"{document.name} has no place for a table: it lacks {(starts and TABLE_ENDS) or TABLE_STARTS}"
        )
    document.write_text(f"{before}{TABLE_STARTS}{table}{TABLE_ENDS}{after}")


def readme_table(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """The figures that are compared with nginx, the peers' processor time, and when and where they were measured."""
    known = {(row.scenario, row.figure): row for row in rows}
    parts = [_ours(known)]
    if any(peer in GUESTS for peer in report.columns(rows)):
        parts.append(_peers(known))
    rounds = facts.get("rounds", "")
    how = "one round" if rounds == "1" else f"medians of {rounds} rounds"
    told = [facts.get("measured", ""), f"{facts.get('processor', '')}, {facts.get('cores', '')} cores", how]
    return "\n\n".join([*parts, f"{'; '.join(told)}."]) + "\n"


def _ours(known: Mapping[tuple[str, str], Row]) -> str:
    header = ["", "nginx", *OURS, *(f"{peer} ÷ nginx" for peer in OURS)]
    lines = [report.line(header), report.line(["---"] + ["---:"] * (len(header) - 1))]
    for scenario, figure, title in README_ROWS:
        if row := known.get((scenario, figure.name)):
            cells = [report.number(row.medians.get(peer)) for peer in ("nginx", *OURS)]
            lines.append(report.line([title, *cells, *(report.number(row.ratios.get(peer)) for peer in OURS)]))
    return "\n".join(lines)


def _peers(known: Mapping[tuple[str, str], Row]) -> str:
    """Of each proxy the processor time of a call and a chunk, and how many times the gateway's that is."""
    told = [
        (known[scenario, figure.name], title)
        for scenario, figure, title in PEER_COLUMNS
        if (scenario, figure.name) in known
    ]
    header = ["processor time"]
    for _, title in told:
        header += [title, "÷ gateway"]
    lines = [report.line(header), report.line(["---"] + ["---:"] * (len(header) - 1))]
    for peer in (*OURS, "nginx", *GUESTS):
        cells = []
        for row, _ in told:
            cells += [report.number(row.medians.get(peer)), report.number(_times_ours(row, peer))]
        if any(cells):
            lines.append(report.line([peer, *cells]))
    return "\n".join(lines)


def _times_ours(row: Row, peer: str) -> float | None:
    """Through nginx, with which both were compared within a round."""
    ours = row.ratios.get(OURS[0])
    theirs = 1.0 if peer == report.REFERENCE else row.ratios.get(peer)
    return theirs / ours if ours and theirs and peer not in OURS[:1] else None
