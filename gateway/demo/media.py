"""Pictures, sounds and subtitles, made from a digest. No I/O, no HTTP."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SAMPLE_RATE_HZ = 16_000
_NOTE_SAMPLES = SAMPLE_RATE_HZ // 8
_SCALE_HZ = (262, 294, 330, 392, 440, 523)

# MPEG-1 layer III, 128 kbit/s, 44.1 kHz, mono: a frame whose side information is all zeros is 26 ms of silence.
_MP3_FRAME = b"\xff\xfb\x90\xc4" + bytes(413)


def flower_png(seed: bytes, size_px: int = 64) -> bytes:
    """A PNG of a flower; the seed gives its petals and colours."""
    petals = 5 + seed[0] % 8
    sky, heart = bytes((140 + seed[1] // 4, 200, 255)), bytes((90, 50 + seed[2] // 8, 20))
    petal = bytes((255, 120 + seed[3] // 2, seed[4] // 3))
    rows = bytearray()
    for y in range(size_px):
        rows.append(0)  # this row has no filter
        rows.extend(_flower_pixel(x, y, size_px, petals) for x in range(size_px))
    header = struct.pack(">IIBBBBB", size_px, size_px, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", sky + petal + heart), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in chunks)


def _flower_pixel(x: int, y: int, size_px: int, petals: int) -> int:
    """The palette's index: 0 is the sky, 1 a petal, 2 the heart."""
    across, down = 2 * x / (size_px - 1) - 1, 2 * y / (size_px - 1) - 1
    radius = math.hypot(across, down)
    if radius < 0.3:
        return 2
    return int(radius < 0.6 + 0.3 * math.cos(petals * math.atan2(down, across)))


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def melody(notes: Sequence[int]) -> Iterator[bytes]:
    """One short note after the other: 16-bit mono samples, little-endian, SAMPLE_RATE_HZ."""
    for note in notes:
        turn = 2 * math.pi * _SCALE_HZ[note % len(_SCALE_HZ)] / SAMPLE_RATE_HZ
        fade = (1 - sample / _NOTE_SAMPLES for sample in range(_NOTE_SAMPLES))
        yield struct.pack(
            f"<{_NOTE_SAMPLES}h", *(int(9000 * loudness * math.sin(turn * at)) for at, loudness in enumerate(fade))
        )


def wav_head(notes: int) -> bytes:
    """What stands before the samples of a melody in a WAV file."""
    size_bytes = 2 * _NOTE_SAMPLES * notes
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + size_bytes, b"WAVE") + form + struct.pack("<4sI", b"data", size_bytes)


def silent_mp3(notes: int) -> Iterator[bytes]:
    """An MP3 as long as a melody; composing one is beyond a demonstration, so it is silent."""
    for _ in range(5 * notes):
        yield _MP3_FRAME


@dataclass(frozen=True, slots=True)
class Segment:
    """A sentence of a recording, and when it is spoken."""

    start_s: float
    end_s: float
    text: str


def segments_of(sentences: Sequence[str], duration_s: float) -> list[Segment]:
    """The sentences spread over the recording, long ones longer."""
    segments, said_chars, all_chars = [], 0, sum(map(len, sentences))
    for text in sentences:
        start_s = duration_s * said_chars / all_chars
        said_chars += len(text)
        segments.append(Segment(round(start_s, 2), round(duration_s * said_chars / all_chars, 2), text))
    return segments


def srt(segments: Sequence[Segment]) -> str:
    """SubRip subtitles."""
    cues = (
        f"{number}\n{_clock(each.start_s, ',')} --> {_clock(each.end_s, ',')}\n{each.text}\n\n"
        for number, each in enumerate(segments, start=1)
    )
    return "".join(cues)


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT subtitles."""
    cues = (f"{_clock(each.start_s, '.')} --> {_clock(each.end_s, '.')}\n{each.text}\n\n" for each in segments)
    return "WEBVTT\n\n" + "".join(cues)


def _clock(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
