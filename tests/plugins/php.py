"""Real PHP as an oracle: one process that answers many questions, and the answers recorded in tests/data."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

_RECORDED = Path(__file__).parent.parent / "data" / "php.jsonl.gz"

_PROGRAM = r"""
while (($line = fgets(STDIN)) !== false) {
    [$what, $text] = explode(" ", trim($line) . " ");
    $text = base64_decode($text);
    $answer = match ($what) {
        "serialize" => serialize(json_decode($text, true)),
        "var_export" => var_export(json_decode($text, true), true),
        "unserialize" => serialize(unserialize($text)),
        "eval" => serialize(eval("return $text;")),
    };
    echo base64_encode($answer), "\n";
    flush();
}
"""


class Php:
    """A PHP process. Each question gives bytes; `unserialize` and `evaluate` answer with the value serialized anew."""

    def __init__(self, command: str) -> None:
        self._process = subprocess.Popen(
            [command, "-n", "-d", "serialize_precision=-1", "-d", "display_errors=stderr", "-r", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def serialize(self, json_text: bytes) -> bytes:
        return self._ask("serialize", json_text)

    def var_export(self, json_text: bytes) -> bytes:
        return self._ask("var_export", json_text)

    def unserialize(self, text: bytes) -> bytes:
        return self._ask("unserialize", text)

    def evaluate(self, text: bytes) -> bytes:
        return self._ask("eval", text)

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, what: str, text: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%b %b\n" % (what.encode(), base64.b64encode(text)))
        self._process.stdin.flush()
        return base64.b64decode(self._process.stdout.readline())


@dataclass(frozen=True)
class Vector:
    """A JSON document and what PHP made of it; the fields' names are in tests/data/README.md."""

    id: str
    text: bytes
    fields: dict[str, Any]

    def matches(self, what: str, rendering: bytes) -> bool:
        """Whether `rendering` is PHP's, of which only the digest is kept where it is long."""
        recorded = self.fields[f"php_{what}"]
        if recorded is not None:
            return base64.b64decode(recorded) == rendering
        digest, length = self.fields[f"php_{what}_sha256"], self.fields[f"php_{what}_len"]
        return (digest, length) == (hashlib.sha256(rendering).hexdigest(), len(rendering))


@cache
def decoded_vectors() -> list[Vector]:
    """The documents that PHP decodes."""
    return [vector for vector in _vectors() if not vector.fields["php_decode_error"]]


@cache
def lone_surrogate_vectors() -> list[Vector]:
    """The documents that PHP refuses for nothing but a lone surrogate."""
    return [vector for vector in _vectors() if "surrogate" in (vector.fields["php_decode_error"] or "")]


def _vectors() -> list[Vector]:
    lines = gzip.decompress(_RECORDED.read_bytes()).splitlines()
    rows = cast(list[dict[str, Any]], [json.loads(line) for line in lines])
    return [Vector(row["id"], row["json"].encode(), row) for row in rows]
