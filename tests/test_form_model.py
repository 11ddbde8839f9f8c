"""The model that an upload names is found as its form passes by, however that is cut; nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.form_model import FormModel

TYPE = "multipart/form-data; boundary=abc"


def part(name: str, value: bytes, filename: str = "") -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    head = f'--abc\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def found(*pieces: bytes, content_type: str = TYPE) -> str | None:
    form = FormModel(content_type)
    for piece in pieces:
        form.feed(piece)
    return form.model


FILE = part("file", b'x\r\n\r\nContent-Disposition: form-data; name="model"\r\n\r\ncheap\r\n--ab\r\n' * 20, "a.mp3")
END = b"--abc--\r\n"
MODEL = part("model", b"whisper-1")


@pytest.mark.parametrize("form", [MODEL + FILE + END, FILE + MODEL + END, part("language", b"en") + MODEL + FILE + END])
def test_it_is_found_wherever_it_stands_and_however_the_form_is_cut(form: bytes) -> None:
    assert found(form) == "whisper-1"
    for cut in range(1, len(form)):
        assert found(form[:cut], form[cut:]) == "whisper-1"
    assert found(*(form[i : i + 1] for i in range(len(form)))) == "whisper-1"


@pytest.mark.parametrize(
    ("form", "model"),
    [
        (FILE + END, None),
        (MODEL + MODEL + END, "whisper-1"),
        (MODEL + part("model", b"other") + END, None),
        (part("model", b"whisper-1", "a.txt") + END, None),
        (part("model", b"") + END, ""),
        (part("model", b"m" * 1000) + END, None),
        (part("models", b"x") + END, None),
        (b"preamble\r\n" + MODEL + END, "whisper-1"),
        (b"", None),
    ],
)
def test_what_is_no_single_name_is_none(form: bytes, model: str | None) -> None:
    assert found(form) == model


def test_the_boundary_may_be_quoted_or_missing() -> None:
    assert found(MODEL + END, content_type='multipart/form-data; charset=utf-8; boundary="abc"') == "whisper-1"
    assert found(MODEL + END, content_type="multipart/form-data") is None


@given(st.lists(st.binary(max_size=200)))
def test_any_bytes_are_borne_within_bounds(pieces: list[bytes]) -> None:
    form = FormModel(TYPE)
    for piece in pieces:
        form.feed(piece)
        assert len(form._held) < 9000
