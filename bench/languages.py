"""How well and how fast the plugins cn, en and ru tell their language: `python -m bench.languages` prints the tables.

The texts are tests/data/languages.jsonl. The plugins were made with its half `dev` in view; `test` was held out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import timeit
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway_plugins import cn, en, ru

from bench import report

CORPUS = Path(__file__).parent.parent / "tests" / "data" / "languages.jsonl"
OWN_LANGUAGES = {"cn": {"zh-Hans", "zh"}, "en": {"en"}, "ru": {"ru"}}
NAMES = "und"  # texts of names alone: in no language, and so in each
SETS = ("dev", "test")
COST_OF_LOADING = """
import os, time
import gateway.hookspecs, unicodedata
def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
memory, started = resident(), time.perf_counter()
from gateway_plugins import cn, en, ru
specs = [plugin.gateway_translators()[0] for plugin in (cn, en, ru)]
assert not any(spec.is_already("Ja, 謝謝, дякую") for spec in specs)
print(time.perf_counter() - started, resident() - memory)
"""


@dataclass(frozen=True, slots=True)
class Sample:
    text: str
    lang: str
    kind: str
    set: str


@dataclass(frozen=True, slots=True)
class Errors:
    """Texts in other languages that were taken for this one, texts in it that were not, and how many there are."""

    false_already: Sequence[Sample]
    false_not_already: Sequence[Sample]
    others: int
    own: int


def samples(of_set: str) -> list[Sample]:
    read = (Sample(**json.loads(line)) for line in CORPUS.read_text(encoding="utf-8").splitlines())
    return [sample for sample in read if sample.set == of_set]


def recognisers() -> dict[str, Callable[[str], bool]]:
    specs = (plugin.gateway_translators()[0] for plugin in (cn, en, ru))
    return {spec.name: spec.is_already for spec in specs}


def errors(name: str, is_already: Callable[[str], bool], of: Iterable[Sample]) -> Errors:
    own: list[Sample] = []
    others: list[Sample] = []
    for sample in of:
        (own if sample.lang in OWN_LANGUAGES[name] | {NAMES} else others).append(sample)
    taken = [sample for sample in others if is_already(sample.text)]
    missed = [sample for sample in own if not is_already(sample.text)]
    return Errors(taken, missed, len(others), len(own))


def error_table() -> list[str]:
    lines = [report.line(["lang", "texts", "already, and should not be", "not already, and should be"])]
    lines.append(report.line(["---"] * 4))
    for name, is_already in recognisers().items():
        for of_set in SETS:
            found = errors(name, is_already, samples(of_set))
            counts = [f"{len(found.false_already)} of {found.others}{_places(found.false_already)}"]
            counts.append(f"{len(found.false_not_already)} of {found.own}{_places(found.false_not_already)}")
            lines.append(report.line([f"`{name}`", of_set, *counts]))
    return lines


def _places(wrong: Sequence[Sample]) -> str:
    """The languages and kinds of some texts, the most frequent first."""
    counts = Counter(f"{sample.lang} {sample.kind}" for sample in wrong).most_common()
    return f": {', '.join(f'{count} {place}' for place, count in counts)}" if counts else ""


def time_table() -> list[str]:
    kinds = ("short", "sentence", "paragraph")
    lines = [report.line(["lang", *(f"{kind}, µs" for kind in kinds), "1,000,000 characters, ms"])]
    lines.append(report.line(["---", *["---:"] * 4]))
    corpus = [sample for of_set in SETS for sample in samples(of_set)]
    for name, is_already in recognisers().items():
        own = [sample for sample in corpus if sample.lang in OWN_LANGUAGES[name]]
        costs = [_cost_us(is_already, [sample.text for sample in own if sample.kind == kind]) for kind in kinds]
        whole = " ".join(sample.text for sample in own if sample.kind == "paragraph")
        costs.append(_cost_us(is_already, [(whole * (1_000_000 // len(whole) + 1))[:1_000_000]]) / 1000)
        lines.append(report.line([f"`{name}`", *map(report.number, costs)]))
    return lines


def _cost_us(is_already: Callable[[str], bool], texts: Sequence[str]) -> float:
    timer = timeit.Timer(lambda: [is_already(text) for text in texts])
    rounds, _ = timer.autorange()
    return min(timer.repeat(3, rounds)) / rounds / len(texts) * 1e6


def main() -> None:
    done = subprocess.run([sys.executable, "-c", COST_OF_LOADING], capture_output=True, text=True, check=True)
    seconds, size_bytes = map(float, done.stdout.split())
    loading = f"Loading the three: {seconds * 1000:.0f} ms, {size_bytes / 1024 / 1024:.1f} MB."
    print("\n".join([*error_table(), "", *time_table(), "", loading]))


if __name__ == "__main__":
    main()
