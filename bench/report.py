"""Observations become figures: medians and ratios, as Markdown, JSON and a plot in SVG."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from statistics import median

from bench.scenarios import CALL_COST, CHUNK_COST, Figure, Scenario
from bench.tools import Observation

REFERENCE = "nginx"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one scenario: the medians by peer, and the median of each round's ratio to the reference."""

    scenario: str
    title: str
    figure: str
    peers: tuple[str, ...]
    medians: Mapping[str, float]
    ratios: Mapping[str, float]


@dataclass(slots=True)
class Results:
    """Everything seen, by scenario and peer, one observation a round (None: it could not be made)."""

    facts: Mapping[str, str]
    seen: dict[tuple[str, str], list[Observation | None]] = field(default_factory=lambda: defaultdict(list))

    def add(self, scenario: Scenario, peer: str, observation: Observation | None) -> None:
        self.seen[scenario.name, peer].append(observation)

    def rows(self, scenarios: Sequence[Scenario]) -> list[Row]:
        return [self._row(scenario, figure) for scenario in scenarios for figure in scenario.figures]

    def _row(self, scenario: Scenario, figure: Figure) -> Row:
        values = {peer: self._values(scenario, peer, figure) for peer in scenario.peers}
        medians = {peer: median(told) for peer, of in values.items() if (told := [x for x in of if x is not None])}
        ratios = {}
        for peer, of in values.items():
            pairs = [x / y for x, y in zip(of, values.get(REFERENCE, []), strict=False) if x is not None and y]
            if pairs and peer not in ("direct", REFERENCE):
                ratios[peer] = median(pairs)
        return Row(scenario.name, scenario.title, figure.name, scenario.peers, medians, ratios)

    def _values(self, scenario: Scenario, peer: str, figure: Figure) -> list[float | None]:
        return [figure.of(seen) if seen else None for seen in self.seen.get((scenario.name, peer), [])]


def markdown(results: Results, rows: Sequence[Row]) -> str:
    peers = _columns(rows)
    compared = [peer for peer in peers if any(peer in row.ratios for row in rows)]
    header = ["load", "figure", *peers, *(f"{peer} ÷ {REFERENCE}" for peer in compared)]
    lines = [_line(header), _line(["---", "---"] + ["---:"] * (len(header) - 2))]
    title = ""
    for row in rows:
        cells = [_number(row.medians.get(peer)) for peer in peers]
        cells += [f"{row.ratios[peer]:.2f}" if peer in row.ratios else "" for peer in compared]
        lines.append(_line([row.title if row.title != title else "", row.figure, *cells]))
        title = row.title
    facts = "; ".join(f"{name}: {fact}" for name, fact in results.facts.items())
    return "\n".join([*lines, "", f"{facts}."]) + "\n"


def as_json(results: Results, rows: Sequence[Row]) -> str:
    return (
        json.dumps({"facts": results.facts, "rows": [asdict(row) for row in rows]}, indent=2, ensure_ascii=False) + "\n"
    )


def svg(rows: Sequence[Row]) -> str:
    """Bars of the processor time that a call and a chunk cost, one group a load, all on one scale."""
    groups = [row for row in rows if row.figure in (CALL_COST.name, CHUNK_COST.name) and row.medians]
    peers = _columns(rows)
    longest = max((value for row in groups for value in row.medians.values()), default=1.0)
    shapes, y = [], 40
    for row in groups:
        y += 24
        shapes.append(f'<text x="16" y="{y}" class="title">{escape(row.title)}: {escape(row.figure)}</text>')
        for peer, value in row.medians.items():
            y += 20
            width, colour = 400 * value / longest, COLOURS[peers.index(peer) % len(COLOURS)]
            shapes.append(f'<text x="136" y="{y}" text-anchor="end">{escape(peer)}</text>')
            shapes.append(f'<rect x="144" y="{y - 12}" width="{width:.1f}" height="15" rx="2" fill="{colour}"/>')
            shapes.append(f'<text x="{150 + width:.1f}" y="{y}">{_number(value)}</text>')
        y += 8
    return SVG.format(height=y + 20, shapes="\n".join(shapes))


COLOURS = ("#8a8f98", "#2f6fde", "#12a594", "#d9822b", "#a855f7")
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" font-size="13">
<style>text {{ fill: #24292f }} .title {{ font-weight: bold }} .head {{ font-size: 16px }}</style>
<rect width="640" height="{height}" fill="#ffffff"/>
<text x="16" y="30" class="head">Processor time, µs (less is better)</text>
{shapes}
</svg>
"""


def _columns(rows: Sequence[Row]) -> list[str]:
    """The peers of which anything is known, in the scenarios' order."""
    return list(
        dict.fromkeys(peer for row in rows for peer in row.peers if any(peer in other.medians for other in rows))
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    """Three significant digits or so: more would claim what a noisy machine cannot know."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
