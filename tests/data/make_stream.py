"""Writes stream.sse.gz: a chat completion's event stream, made up, with all that makes streams hard to relay.

Hundreds of chunks in Chinese, Russian, English and emoji; comments, `id:`, `event:` and `retry:` lines; CRLF and LF
line ends side by side; payloads spread over several `data:` lines, and `data:` without its space; one event of 600 KB;
the usage event and `[DONE]`. The same bytes at every run: `python tests/data/make_stream.py` writes them anew.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

ID = "chatcmpl-7f3d0c5e91a84b26"
CREATED = 1_701_388_800
MODEL = "gpt-4o-mini-2024-07-18"
BIG_EVENT_BYTES = 600 * 1024

TEXT = (
    "向日葵总是朝着太阳的方向生长，它的花盘由上千朵小花组成。🌻 "
    "清晨，露水挂在叶子上，像一颗颗小小的镜子；到了傍晚，整片田野都变成了金色。\n\n"
    "Подсолнух поворачивается вслед за солнцем, пока он молод; взрослое растение смотрит на восток. 🌅 "
    "Семена лежат спиралями, и число спиралей — почти всегда число Фибоначчи: 34 и 55.\n\n"
    "A grown sunflower faces east, because a warm head in the morning draws more bees. 👩‍🌾🐝 "
    'Quotes "like these", a backslash \\ and a tab\tsurvive the trip.\n\n'
    "```python\nfor seed in range(1, 144):\n    angle = seed * 137.508  # 黄金角\n```\n"
    "繁體字也會出現：葵花籽、陽光與蜜蜂。Ещё немного текста, 𝒂𝒏𝒅 𝒎𝒂𝒕𝒉 𝒍𝒆𝒕𝒕𝒆𝒓𝒔, e\u0301 and ﷽. "
)


def pieces() -> Iterator[str]:
    """The text twice over, in tokens of one to four characters."""
    sizes = (1, 2, 3, 1, 4, 2)
    start = turn = 0
    while start < 2 * len(TEXT):
        size = sizes[turn % len(sizes)]
        yield (TEXT * 2)[start : start + size]
        start += size
        turn += 1


def payload(
    delta: dict[str, object] | None, finish: str | None = None, usage: dict[str, int] | None = None
) -> dict[str, object]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {
        "id": ID,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "choices": choices,
        "usage": usage,
    }


def event(value: dict[str, object], number: int) -> bytes:
    """An event whose spelling changes with its number."""
    compact = json.dumps(value, ensure_ascii=number % 5 == 0, separators=(",", ":"))
    end = "\r\n" if number % 7 == 3 else "\n"
    lines = [f"data: {compact}"]
    if number % 19 == 8:
        lines = [f"data: {line}" for line in json.dumps(value, ensure_ascii=False, indent=1).split("\n")]
    elif number % 11 == 4:
        lines = [f"data:{compact}"]
    if number % 13 == 6:
        lines.insert(0, f"id: {number}")
    if number % 29 == 9:
        lines.append("event: message")
    if number % 41 == 2:
        lines.insert(0, ": ping")
    return end.join([*lines, "", ""]).encode()


def stream() -> bytes:
    events = [b"retry: 3000\n\n", b": connected\n\n", event(payload({"role": "assistant", "content": ""}), 0)]
    for number, piece in enumerate(pieces(), start=1):
        events.append(event(payload({"content": piece}), number))
        if number == 200:
            big = "巨大的事件 " + "0123456789abcdef" * (BIG_EVENT_BYTES // 16)
            events.append(event(payload({"content": big}), number))
        if number % 97 == 0:
            events.append(b": ping - 2023-12-01 00:00:00+00:00\r\n\r\n")
    usage = {"prompt_tokens": 23, "completion_tokens": len(events), "total_tokens": 23 + len(events)}
    return b"".join([*events, event(payload({}, "stop"), 1), event(payload(None, usage=usage), 1), b"data: [DONE]\n\n"])


if __name__ == "__main__":
    target = Path(__file__).with_name("stream.sse.gz")
    target.write_bytes(gzip.compress(stream(), mtime=0))
