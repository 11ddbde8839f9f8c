"""JSON as upstreams write it in streams: a character may be cut between the two escapes of its surrogate pair."""

from __future__ import annotations

import json
from typing import cast

import orjson

from gateway.types import JsonValue


def read_json(text: bytes) -> JsonValue:
    """The value of a text that may hold half of a surrogate pair. Raises ValueError for what is not JSON."""
    try:
        return cast(JsonValue, orjson.loads(text))
    except orjson.JSONDecodeError:
        try:
            return cast(JsonValue, json.loads(text))
        except RecursionError as error:
            raise ValueError("it nests too deep") from error


def write_json(value: JsonValue) -> bytes:
    """The text of a value, half of a surrogate pair as the escape that it was. ValueError where it nests too deep."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        pass
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
