"""What an upstream says that a call used: read from the end of its answer, where it stands, without parsing the rest.

Pure: bytes in, a value out.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.types import Usage

MAX_TOKENS: Final = 10**12
"""More is nonsense, and is counted as so many."""

_REACH_BYTES: Final = 2048
_COUNT = re.compile(
    rb'"(prompt_tokens|completion_tokens|input_tokens|output_tokens|cached_tokens)"[ \t\r\n]*:[ \t\r\n]*(-?[0-9]{1,30})'
    rb"(?![0-9.eE])"
)
# As OpenAI writes it, and nearly everyone after it: one match instead of a list of findings.
_CHAT = re.compile(
    rb'"usage": ?\{"prompt_tokens": ?([0-9]{1,12}), ?"completion_tokens": ?([0-9]{1,12}), ?"total_tokens": ?[0-9]+'
    rb'(?:\}|, ?"prompt_tokens_details": ?\{"cached_tokens": ?([0-9]{1,12})[,}])'
)
_PROMPT = frozenset({b"prompt_tokens", b"input_tokens"})
_COMPLETION = frozenset({b"completion_tokens", b"output_tokens"})
_OPENING = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*(\{|null)')


def usage_of(text: bytes) -> Usage | None:
    """The usage that stands last in a JSON answer, or in the last events of a stream; None where there is none.

    `"usage"` is a name there: within a JSON string its quotes would be escaped. Of chat completions and of completions,
    embeddings and transcriptions the counts are prompt_tokens and completion_tokens, of responses and images
    input_tokens and output_tokens (OpenAI's API reference).
    """
    at = text.rfind(b'"usage"')
    if at >= 0 and (chat := _CHAT.match(text, at)) is not None:
        prompt, completion, cached = chat.groups()
        return Usage(int(prompt), int(completion), None if cached is None else int(cached))
    while at >= 0:
        opening = _OPENING.match(text, at)
        if opening is not None:
            found = _COUNT.findall(text, opening.end(), opening.end() + _REACH_BYTES) if opening[1] == b"{" else []
            return _usage(found)
        at = text.rfind(b'"usage"', 0, at)  # that one was a text, or a caller's own name for one, as in metadata
    return None


def _usage(found: list[tuple[bytes, bytes]]) -> Usage | None:
    """The usage that these names and numbers tell; of two of one name the first is the usage's own."""
    prompt = completion = cached = None
    for name, digits in found:
        count = min(max(int(digits), 0), MAX_TOKENS)
        if name in _PROMPT:
            prompt = count if prompt is None else prompt
        elif name in _COMPLETION:
            completion = count if completion is None else completion
        else:
            cached = count if cached is None else cached
    return None if prompt is None and completion is None else Usage(prompt, completion, cached)
