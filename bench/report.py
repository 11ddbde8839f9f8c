"""Observations become figures: medians and ratios, as Markdown and JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, median

from bench.scenarios import GROWTHS, GUESTS, Figure, Growth, Scenario
from bench.tools import Observation

REFERENCE = "nginx"
WITHOUT = "direct"
Values = list[float | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one scenario: the medians by peer, and the median of each round's ratio to the reference.

    `rounds` holds what the medians were taken of: a value a round, None where there is none.
    """

    scenario: str
    title: str
    figure: str
    peers: tuple[str, ...]
    medians: Mapping[str, float]
    ratios: Mapping[str, float]
    rounds: Mapping[str, Values] = field(default_factory=dict)


@dataclass(slots=True)
class Results:
    """Everything seen, by scenario and peer, one observation a round (None: it could not be made).

    Who is not measured in every round is measured in the first ones, so that a round's number is a list's index.
    """

    facts: Mapping[str, str]
    seen: dict[tuple[str, str], list[Observation | None]] = field(default_factory=lambda: defaultdict(list))

    def add(self, scenario: Scenario, peer: str, observation: Observation | None) -> None:
        self.seen[scenario.name, peer].append(observation)

    def rows(self, scenarios: Sequence[Scenario]) -> list[Row]:
        told = [self._row(scenario, figure) for scenario in scenarios for figure in scenario.figures]
        told += [self._growth(growth, scenarios) for growth in GROWTHS]
        return [row for row in told if row.medians]

    def _row(self, scenario: Scenario, figure: Figure) -> Row:
        peers = tuple(peer for peer in scenario.peers if not (figure.added and peer == WITHOUT))
        values = {peer: self._values(scenario.name, peer, figure) for peer in peers}
        medians = {peer: median(told) for peer, of in values.items() if (told := [x for x in of if x is not None])}
        ratios = {}
        for peer, of in values.items():
            pairs = [
                x / y for x, y in zip(of, values.get(REFERENCE, []), strict=False) if x is not None and y and y > 0
            ]
            if pairs and peer not in (WITHOUT, REFERENCE):
                ratios[peer] = median(pairs)
        return Row(scenario.name, scenario.title, figure.name, peers, medians, ratios, values)

    def _values(self, scenario: str, peer: str, figure: Figure) -> Values:
        values = [figure.of(seen) if seen else None for seen in self.seen.get((scenario, peer), [])]
        if not figure.added:
            return values
        without = self._values(scenario, WITHOUT, Figure(figure.name, figure.of))
        return [
            x - y if x is not None and y is not None else None
            for x, y in zip(values, without + [None] * len(values), strict=False)
        ]

    def _growth(self, growth: Growth, scenarios: Sequence[Scenario]) -> Row:
        """The largest of a family's costs over the smallest; each is first taken as a share of its round's mean.

        A machine that is slower in one round than in the next is no growth.
        """
        family = [scenario for scenario in scenarios if scenario.name in growth.scenarios]
        peers = tuple(dict.fromkeys(peer for scenario in family for peer in scenario.peers if peer not in GUESTS))
        medians = {}
        for peer in peers:
            told = [self._values(scenario.name, peer, growth.figure) for scenario in family]
            whole = [costs for costs in zip(*told, strict=False) if None not in costs]
            shares = [[cost / mean(costs) for cost in costs] for costs in _numbers(whole)]
            if shares and len(family) == len(growth.scenarios):
                sizes = [median(of_size) for of_size in zip(*shares, strict=True)]
                medians[peer] = max(sizes) / min(sizes)
        return Row("growth", growth.title, growth.name, peers, medians, {})


def _numbers(rounds: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[value for value in values if value is not None] for values in rounds]


def markdown(results: Results, rows: Sequence[Row]) -> str:
    """A table of nginx and the gateway, one of the guests, and the facts."""
    known = [peer for peer in columns(rows) if peer not in GUESTS]
    guests = [peer for peer in columns(rows) if peer in GUESTS]
    facts = "; ".join(f"{name}: {fact}" for name, fact in results.facts.items())
    parts = [table(rows, known)]
    if guests:
        parts.append(table([row for row in rows if any(peer in row.medians for peer in guests)], guests))
    return "\n\n".join([*parts, f"{facts}."]) + "\n"


def table(rows: Sequence[Row], peers: Sequence[str]) -> str:
    compared = [peer for peer in peers if any(peer in row.ratios for row in rows)]
    header = ["load", "figure", *peers, *(f"{peer} ÷ {REFERENCE}" for peer in compared)]
    lines = [line(header), line(["---", "---"] + ["---:"] * (len(header) - 2))]
    title = ""
    for row in rows:
        cells = [number(row.medians.get(peer)) for peer in peers]
        cells += [number(row.ratios.get(peer)) for peer in compared]
        lines.append(line([row.title if row.title != title else "", row.figure, *cells]))
        title = row.title
    return "\n".join(lines)


def as_json(results: Results, rows: Sequence[Row]) -> str:
    return (
        json.dumps({"facts": results.facts, "rows": [asdict(row) for row in rows]}, indent=2, ensure_ascii=False) + "\n"
    )


def columns(rows: Sequence[Row]) -> list[str]:
    """The peers of which anything is known, in the scenarios' order."""
    return list(
        dict.fromkeys(peer for row in rows for peer in row.peers if any(peer in other.medians for other in rows))
    )


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None) -> str:
    """Three significant digits or so: more would claim what a noisy machine cannot know."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
