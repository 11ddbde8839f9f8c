"""The arguments of OpenAI's published request schemas, by interface, each with values that differ from each other.

What a cache key must tell apart: `variants` gives requests that differ in one argument, `pairs` in two.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

Values = dict[str, list[Any]]  # Any: whatever JSON holds

_FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
_USER = {"role": "user", "content": "Hi"}
_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
_LOW_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
_NUMBERS = [0, 1, 2, -0.0, 0.5, 0.7, 1.5, None]
_COUNTS = [0, 1, 2, 16, 4096, None]
_FLAGS = [True, False, None]
_WORDS = ["", "a", "A", "b", None]
_IMAGES: Values = {
    "prompt": ["a cat", "a dog", ""],
    "model": ["gpt-image-1", "dall-e-3", "dall-e-2", None],
    "background": ["transparent", "opaque", "auto", None],
    "input_fidelity": ["high", "low"],
    "moderation": ["low", "auto"],
    "n": _COUNTS,
    "output_compression": [0, 50, 100],
    "output_format": ["png", "jpeg", "webp"],
    "partial_images": [0, 1, 3],
    "quality": ["auto", "high", "hd", "standard"],
    "response_format": ["url", "b64_json"],
    "size": ["auto", "1024x1024", "1024x1536", "256x256"],
    "stream": _FLAGS,
    "style": ["vivid", "natural"],
    "user": _WORDS,
}

PUBLISHED: dict[str, Values] = {
    "v1/chat/completions": {
        "messages": [
            [],
            [_USER],
            [_USER, _USER],
            [{"role": "system", "content": "Hi"}],
            [{"role": "developer", "content": "Hi"}],
            [{"role": "user", "content": "Hi "}],
            [{"role": "user", "content": "hi"}],
            [{"role": "user", "content": ["Hi"]}],
            [{"role": "user", "content": None}],
            [{"role": "user"}],
            [{"role": "user", "content": "Hi", "name": "a"}],
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}, _IMAGE]}],
            [{"role": "user", "content": [_IMAGE, {"type": "text", "text": "Hi"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}, _LOW_IMAGE]}],
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}],
            [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}],
            [_USER, {"role": "assistant", "content": "a", "refusal": None}],
            [_USER, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]}],
            [_USER, {"role": "tool", "content": "a", "tool_call_id": "1"}],
            [_USER, {"role": "tool", "content": "a", "tool_call_id": "2"}],
        ],
        "model": ["gpt-4o", "gpt-4o-mini", "gpt-4O", ""],
        "audio": [{"voice": "alloy", "format": "wav"}, {"voice": "ash", "format": "wav"}, None],
        "frequency_penalty": _NUMBERS,
        "function_call": ["none", "auto", {"name": "f"}],
        "functions": [[], [_FUNCTION], [_FUNCTION, {"name": "g"}]],
        "logit_bias": [{}, {"1": 1}, {"1": -1}, {"2": 1}, {"1": 1, "2": 1}, None],
        "logprobs": _FLAGS,
        "max_completion_tokens": _COUNTS,
        "max_tokens": _COUNTS,
        "metadata": [{}, {"a": "1"}, {"a": "2"}, {"b": "1"}, None],
        "modalities": [["text"], ["audio"], ["text", "audio"], ["audio", "text"], None],
        "n": _COUNTS,
        "parallel_tool_calls": _FLAGS,
        "prediction": [{"type": "content", "content": "a"}, {"type": "content", "content": "b"}, None],
        "presence_penalty": _NUMBERS,
        "prompt_cache_key": _WORDS,
        "prompt_cache_retention": ["in_memory", "24h"],
        "reasoning_effort": ["minimal", "low", "medium", "high", None],
        "response_format": [{"type": "text"}, {"type": "json_object"}, _SCHEMA],
        "safety_identifier": _WORDS,
        "seed": [0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, None],
        "service_tier": ["auto", "default", "flex", "priority", None],
        "stop": ["", "a", ["a"], ["a", "b"], ["b", "a"], [], None],
        "store": _FLAGS,
        "stream": _FLAGS,
        "stream_options": [{}, {"include_usage": True}, {"include_usage": False}, {"include_obfuscation": False}, None],
        "temperature": _NUMBERS,
        "tool_choice": ["none", "auto", "required", {"type": "function", "function": {"name": "weather"}}],
        "tools": [[], [{"type": "function", "function": _FUNCTION}], [{"type": "custom", "custom": {"name": "c"}}]],
        "top_logprobs": [0, 1, 20, None],
        "top_p": _NUMBERS,
        "user": _WORDS,
        "verbosity": ["low", "medium", "high", None],
        "web_search_options": [{}, {"search_context_size": "low"}, {"search_context_size": "high"}],
    },
    "v1/completions": {
        "model": ["gpt-3.5-turbo-instruct", "davinci-002"],
        "prompt": ["", "a", "b", ["a"], ["a", "b"], ["b", "a"], [1, 2], [[1, 2]], [[1], [2]], [12], None],
        "best_of": _COUNTS,
        "echo": _FLAGS,
        "frequency_penalty": _NUMBERS,
        "logit_bias": [{"50256": -100}, {"50256": 100}, None],
        "logprobs": [0, 1, 5, None],
        "max_tokens": _COUNTS,
        "n": _COUNTS,
        "presence_penalty": _NUMBERS,
        "seed": [0, 1, -1, None],
        "stop": ["a", ["a"], ["a", "b"], None],
        "stream": _FLAGS,
        "stream_options": [{"include_usage": True}, {"include_usage": False}, None],
        "suffix": _WORDS,
        "temperature": _NUMBERS,
        "top_p": _NUMBERS,
        "user": _WORDS,
    },
    "v1/edits": {
        "instruction": ["a", "b"],
        "model": ["text-davinci-edit-001", "code-davinci-edit-001"],
        "input": _WORDS,
        "n": _COUNTS,
        "temperature": _NUMBERS,
        "top_p": _NUMBERS,
    },
    "v1/embeddings": {
        "input": ["", "a", "b", ["a"], ["a", "b"], ["b", "a"], [1, 2], [2, 1], [[1, 2]], [[1], [2]], [12]],
        "model": ["text-embedding-3-small", "text-embedding-3-large"],
        "dimensions": [1, 256, 1024, None],
        "encoding_format": ["float", "base64"],
        "user": _WORDS,
    },
    "v1/moderations": {
        "input": ["a", "b", ["a"], ["a", "b"], [{"type": "text", "text": "a"}], [_IMAGE]],
        "model": ["omni-moderation-latest", "text-moderation-latest"],
    },
    "v1/images/generations": _IMAGES,
    "v1/images/edits": {**_IMAGES, "image": ["file-1", ["file-1"], ["file-1", "file-2"]], "mask": ["file-3", "file-4"]},
    "v1/images/variations": {name: _IMAGES[name] for name in ("model", "n", "response_format", "size", "user")},
    "v1/audio/speech": {
        "input": ["a", "b", ""],
        "model": ["tts-1", "tts-1-hd", "gpt-4o-mini-tts"],
        "voice": ["alloy", "ash", "ballad", {"id": "voice_1"}],
        "instructions": _WORDS,
        "response_format": ["mp3", "opus", "aac", "flac", "wav", "pcm"],
        "speed": [0.25, 1, 1.5, 4],
        "stream_format": ["sse", "audio"],
    },
    "v1/audio/transcriptions": {
        "model": ["whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"],
        "chunking_strategy": ["auto", {"type": "server_vad"}, {"type": "server_vad", "threshold": 0.25}, None],
        "include[]": ["logprobs", ["logprobs"], []],
        "known_speaker_names[]": [["a"], ["b"], ["a", "b"]],
        "known_speaker_references[]": [["data:audio/wav;base64,AA=="], ["data:audio/wav;base64,AB=="]],
        "language": ["en", "zh", ""],
        "prompt": _WORDS,
        "response_format": ["json", "text", "srt", "verbose_json", "vtt", "diarized_json"],
        "stream": _FLAGS,
        "temperature": _NUMBERS,
        "timestamp_granularities[]": [["word"], ["segment"], ["word", "segment"]],
    },
    "v1/audio/translations": {
        "model": ["whisper-1", "whisper-2"],
        "prompt": _WORDS,
        "response_format": ["json", "text", "srt", "verbose_json", "vtt"],
        "temperature": _NUMBERS,
    },
    "v1/responses": {
        "input": ["", "a", [], [_USER], [{"type": "message", **_USER}], [{"type": "item_reference", "id": "msg_1"}]],
        "model": ["gpt-4o", "o3"],
        "background": _FLAGS,
        "conversation": ["conv_1", {"id": "conv_1"}, {"id": "conv_2"}, None],
        "include": [[], ["reasoning.encrypted_content"], ["file_search_call.results"], None],
        "instructions": _WORDS,
        "max_output_tokens": _COUNTS,
        "max_tool_calls": _COUNTS,
        "metadata": [{}, {"a": "1"}, None],
        "parallel_tool_calls": _FLAGS,
        "previous_response_id": ["resp_1", "resp_2", None],
        "prompt": [{"id": "pmpt_1"}, {"id": "pmpt_1", "version": "2"}, {"id": "pmpt_1", "variables": {"a": "b"}}, None],
        "prompt_cache_key": _WORDS,
        "reasoning": [{}, {"effort": "low"}, {"effort": "high"}, {"effort": "low", "summary": "auto"}, None],
        "safety_identifier": _WORDS,
        "service_tier": ["auto", "flex", None],
        "store": _FLAGS,
        "stream": _FLAGS,
        "stream_options": [{"include_obfuscation": True}, {"include_obfuscation": False}, None],
        "temperature": _NUMBERS,
        "text": [{"format": {"type": "text"}}, {"format": {"type": "json_object"}}, {"verbosity": "low"}],
        "tool_choice": ["none", "auto", {"type": "file_search"}, {"type": "function", "name": "weather"}],
        "tools": [[], [{"type": "web_search_preview"}], [{"type": "file_search", "vector_store_ids": ["vs_1"]}]],
        "top_logprobs": [0, 1, 20],
        "top_p": _NUMBERS,
        "truncation": ["auto", "disabled", None],
        "user": _WORDS,
    },
    "v1/models": {},
    "v1/models/gpt-4o": {},
    "v1/models/gpt-4o-mini": {},
    "v1/files": {"purpose": ["assistants", "batch", "fine-tune", "vision", "user_data"], "expires_after": [{}, None]},
    "v1/files/file-1": {},
    "v1/files/file-1/content": {},
    "v1/batches": {
        "input_file_id": ["file-1", "file-2"],
        "endpoint": ["/v1/responses", "/v1/chat/completions"],
        "completion_window": ["24h", "48h"],
        "metadata": [{"a": "1"}, None],
    },
}

QUERIES: dict[str, list[str]] = {
    "v1/models": ["", "limit=1"],
    "v1/files": ["", "limit=1", "limit=2", "order=asc", "order=desc", "after=file-1", "after=file-2", "purpose=batch"],
    "v1/files/file-1": ["", "a"],
    "v1/responses/resp_1": ["", "include[]=a", "include[]=b", "starting_after=1", "stream=true"],
    "v1/chat/completions": ["", "model=a", "model=b", "metadata[a]=1", "metadata[b]=1", "order=asc", "limit=1"],
}

WORKS_WITHOUT: dict[str, Any] = {"messages": [_USER], "prompt": "x", "input": "x", "instruction": "x", "model": "m"}


def base(method: str) -> dict[str, Any]:
    """A plain request of an interface; no value of its arguments is one of the variants' values."""
    known = PUBLISHED[method]
    return {name: value for name, value in WORKS_WITHOUT.items() if name in known}


def variants(method: str) -> Iterator[dict[str, Any]]:
    """The plain request, and it with one argument changed or added, each in every way."""
    plain = base(method)
    yield plain
    for name, values in PUBLISHED[method].items():
        if name in plain:
            yield {other: value for other, value in plain.items() if other != name}
        for value in values:
            if name not in plain or value != plain[name]:
                yield {**plain, name: value}


def pairs(method: str) -> Iterator[dict[str, Any]]:
    """The plain request with two arguments changed or added, each in two ways."""
    plain = base(method)
    for first, second in combinations(PUBLISHED[method], 2):
        for value in PUBLISHED[method][first][:2]:
            for other in PUBLISHED[method][second][-2:]:
                if plain.get(first, object()) != value and plain.get(second, object()) != other:
                    yield {**plain, first: value, second: other}
