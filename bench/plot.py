"""The processor time of a call and of a chunk as a plot in SVG: a dot a proxy, on one logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10

from bench.report import Row, columns, number
from bench.scenarios import CALL_COST, CHUNK_COST

PLOTTED = (("calls-32", CALL_COST.name), ("paced-200", CHUNK_COST.name), ("paced-1000", CHUNK_COST.name))
WIDTH, LEFT, RIGHT = 760, 150, 700  # of the picture; where the scale begins and ends
TOP, LINE, BETWEEN = 72, 24, 26
OURS, REFERENCE, OTHERS = "#1f6feb", "#1a7f37", "#8c959f"


def svg(rows: Sequence[Row]) -> str:
    groups = [
        row for wanted in PLOTTED for row in rows if (row.scenario, row.figure) == wanted and any(row.medians.values())
    ]
    values = [value for row in groups for value in row.medians.values() if value > 0] or [1.0]
    low, high = floor(log10(min(values)) - 0.1), log10(max(values)) + 0.3
    order = columns(groups)

    def x_of(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (log10(value) - low) / (high - low)

    shapes, y = [], TOP
    for row in groups:
        figure = row.figure.removesuffix(", µs")
        shapes.append(f'<text x="20" y="{y + 4}" class="title halo">{escape(row.title)}: {escape(figure)}</text>')
        for peer in sorted(row.medians, key=order.index):
            y += LINE
            shapes += dot(peer, row.medians[peer], x_of(row.medians[peer]), y)
        y += LINE + BETWEEN
    bottom = y - LINE - BETWEEN + 18
    scale = [tick(x_of(10**power), 10**power, bottom) for power in range(low, floor(high) + 1)]
    return PICTURE.format(width=WIDTH, height=bottom + 34, shapes="\n".join([*scale, *shapes]))


def dot(peer: str, value: float, x: float, y: int) -> list[str]:
    colour = OURS if peer.startswith("gateway") else REFERENCE if peer == "nginx" else OTHERS
    return [
        f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(peer)}</text>',
        f'<line x1="{LEFT}" y1="{y}" x2="{x:.1f}" y2="{y}" stroke="{colour}" stroke-width="2" opacity="0.35"/>',
        f'<circle cx="{x:.1f}" cy="{y}" r="5.5" fill="{colour}"/>',
        f'<text x="{x + 11:.1f}" y="{y + 4}" class="halo">{told(value)}</text>',
    ]


def tick(x: float, value: float, bottom: int) -> str:
    line = f'<line x1="{x:.1f}" y1="{TOP + 12}" x2="{x:.1f}" y2="{bottom}" stroke="#d8dee4"/>'
    return f'{line}\n<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" class="scale">{told(value, 1)}</text>'


def told(value: float, digits: int = 3) -> str:
    """Microseconds, as milliseconds from a thousand on."""
    amount, unit = (value / 1000, "ms") if value >= 1000 else (value, "µs")
    return f"{amount:g} {unit}" if digits == 1 else f"{number(amount)} {unit}"


PICTURE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
svg {{ font: 13px sans-serif }}
text {{ fill: #1f2328 }} .title {{ font-weight: bold }} .head {{ font-size: 17px; font-weight: bold }}
.scale {{ fill: #59636e; font-size: 12px }} .halo {{ stroke: #ffffff; stroke-width: 4px; paint-order: stroke }}
</style>
<rect x="0.5" y="0.5" width="{width}" height="{height}" fill="#ffffff"/>
<text x="20" y="32"><tspan class="head">Processor time</tspan>
<tspan class="scale" dx="8">less is better; each vertical line is ten times the one before</tspan></text>
{shapes}
</svg>
"""
