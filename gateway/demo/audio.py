"""The embedded upstream's audio interfaces: sentences for recordings, and notes for texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from aiohttp import web

from gateway.demo import answers, media
from gateway.demo.answers import digest, tokens_of
from gateway.demo.multipart import Upload, read_upload
from gateway.demo.wire import (
    DONE,
    RefusalError,
    event,
    known_model,
    read_body,
    send_events,
    send_json,
    trouble_asked,
)
from gateway.types import JsonValue

_MAX_NOTES = 240


async def transcriptions(request: web.Request) -> web.StreamResponse:
    """POST /v1/audio/transcriptions: what a recording might say, in the `language` asked for."""
    upload = await read_upload(request)
    asked = upload.fields.text("language", "") or answers.language_of(upload.fields.text("prompt", ""))
    language: answers.Language = "zh" if asked[:2] in {"zh", "yu"} else "ru" if asked[:2] == "ru" else "en"
    return await _send_transcript(request, upload, language, "transcribe")


async def translations(request: web.Request) -> web.StreamResponse:
    """POST /v1/audio/translations: the same, in English."""
    return await _send_transcript(request, await read_upload(request), "en", "translate")


async def _send_transcript(
    request: web.Request, upload: Upload, language: answers.Language, task: str
) -> web.StreamResponse:
    fields, recording = upload.fields, upload.file("file")
    model = known_model(fields.text("model"))
    if recording.size_bytes == 0:
        raise RefusalError(400, "Audio file is too short. Minimum audio length is 0.1 seconds.", param="file")
    duration_s = round(min(max(recording.size_bytes / 16_000, 1.0), 3600.0), 2)
    segments = media.segments_of(answers.spoken_text(recording.digest, language), duration_s)
    text = ("" if language == "zh" else " ").join(each.text for each in segments)
    trouble = trouble_asked(model, fields.text("prompt", ""))
    if fields.text("stream", "") == "true":
        return await send_events(request, _transcript_events(text), trouble)
    plain: dict[str, Callable[[], str]] = {
        "text": lambda: f"{text}\n",
        "srt": lambda: media.srt(segments),
        "vtt": lambda: media.vtt(segments),
    }
    wanted = fields.text("response_format", "json")
    if wanted in plain:
        return web.Response(text=plain[wanted]())
    if wanted == "verbose_json":
        return await send_json(request, _verbose(task, language, duration_s, text, segments), trouble)
    return await send_json(request, {"text": text}, trouble)


def _transcript_events(text: str) -> Iterator[bytes]:
    for token in tokens_of(text):
        yield event({"type": "transcript.text.delta", "delta": token})
    yield event({"type": "transcript.text.done", "text": text})
    yield DONE


def _verbose(
    task: str, language: answers.Language, duration_s: float, text: str, segments: list[media.Segment]
) -> JsonValue:
    rows: list[JsonValue] = [
        {
            "id": number,
            "seek": 0,
            "start": each.start_s,
            "end": each.end_s,
            "text": each.text,
            "tokens": [int.from_bytes(digest(token)[:2], "big") for token in tokens_of(each.text)],
            "temperature": 0.0,
            "avg_logprob": -0.25,
            "compression_ratio": 1.2,
            "no_speech_prob": 0.01,
        }
        for number, each in enumerate(segments)
    ]
    name = {"zh": "chinese", "ru": "russian", "en": "english"}[language]
    return {"task": task, "language": name, "duration": duration_s, "text": text, "segments": rows}


async def speech(request: web.Request) -> web.StreamResponse:
    """POST /v1/audio/speech: a note for each token (`wav`, `pcm`), or as long a silence (`mp3`)."""
    body = await read_body(request)
    model, text = known_model(body.text("model")), body.text("input")
    body.text("voice")
    notes = [digest(token)[0] for token in tokens_of(text)[:_MAX_NOTES]]
    wanted = body.text("response_format", "mp3")
    if trouble_asked(model, text) is not None:
        return await send_json(request, {"text": text}, trouble_asked(model, text))
    sounds: dict[str, tuple[str, Callable[[], Iterator[bytes]]]] = {
        "mp3": ("audio/mpeg", lambda: media.silent_mp3(len(notes))),
        "wav": ("audio/wav", lambda: chain([media.wav_head(len(notes))], media.melody(notes))),
        "pcm": ("audio/pcm", lambda: media.melody(notes)),
    }
    if wanted not in sounds:
        raise RefusalError(400, f"The demonstration speaks {', '.join(sounds)}, not {wanted}.", param="response_format")
    content_type, pieces = sounds[wanted]
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    for piece in pieces():
        await response.write(piece)
    return response
