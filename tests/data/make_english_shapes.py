"""Writes plugins/_english_shapes.py anew: the runs of three letters in the English of Python's own documentation.

Run it from the checkout's root; another Python gives a few runs more or less.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from gateway_plugins._words import ENGLISH

TARGET = Path("plugins/_english_shapes.py")
# Words of prose: nothing that touches the signs of code.
PROSE = re.compile(r"(?<![\w.`'*<-])[A-Za-z]?[a-z]{2,}(?=[\s,;:)]|\.\s)")
LEAST_OFTEN = 3
LINE = 110
HEAD = '''"""Runs of three letters in English words, `_` for a word's edge: an entry is two letters and what may follow.

tests/data/make_english_shapes.py writes this file, from the documentation of Python's standard library.
"""

# fmt: off
FOLLOWERS = """
'''


def docstrings() -> Iterator[str]:
    yield from topics.values()
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        if not {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(file.relative_to(library).parts):
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    yield ast.get_docstring(node) or ""


def main() -> None:
    counts = Counter(word.lower() for text in docstrings() for word in PROSE.findall(text))
    words = {word for word, count in counts.items() if count >= LEAST_OFTEN} | {w for w in ENGLISH if w.isalpha()}
    followers: dict[str, set[str]] = defaultdict(set)
    for word in words:
        edged = f"_{word}_"
        for start in range(len(edged) - 2):
            followers[edged[start : start + 2]].add(edged[start + 2])
    lines, line = [], ""
    for entry in (pair + "".join(sorted(after)) for pair, after in sorted(followers.items())):
        if len(line) + len(entry) >= LINE:
            lines.append(line)
            line = ""
        line += f" {entry}" if line else entry
    TARGET.write_text(HEAD + "\n".join([*lines, line]) + '\n"""\n')
    print(sum(map(len, followers.values())), "runs")


main()
