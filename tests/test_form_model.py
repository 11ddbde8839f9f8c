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
        (b"preamble\r\n" + MODEL + END, None),
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


CHEAP, DEAR = part("model", b"cheap"), part("model", b"dear")


@pytest.mark.parametrize(
    "form",
    [
        # By a reader that takes a delimiter only where its line ends with it, the file ends after both.
        part("file", b"x\r\n--abcd\r\nContent-Disposition: form-data; filename=y\r\n" + DEAR, "a") + CHEAP + END,
        (DEAR + part("file", b"x", "a")).replace(b"\r\n", b"\n") + CHEAP + END,
        b"preamble\r\n" + CHEAP + END,
        CHEAP + b"--abc\nContent-Disposition: form-data; name=model\n\ndear\n" + END,
        CHEAP + DEAR.replace(b' name="model"', b" name*=utf-8''model") + END,
        CHEAP + DEAR.replace(b' name="model"', b'\r\n name="model"') + END,
        CHEAP + DEAR.replace(b'name="model"', b'name="m\\odel"') + END,
        CHEAP + DEAR.replace(b"Content-", b'Content-Disposition: form-data; name="a"\r\nContent-', 1) + END,
        CHEAP + DEAR.replace(b"form-data;", b'form-data; x="; name=a";') + END,
    ],
)  # fmt: skip
def test_a_form_that_may_be_read_in_two_ways_names_no_model(form: bytes) -> None:
    for size in (1, 7, len(form)):
        assert found(*(form[i : i + size] for i in range(0, len(form), size))) is None


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; xboundary=abc; boundary=xyz",
        "multipart/form-data; boundary=abc; boundary=xyz",
        'multipart/form-data; x="; boundary=abc"; boundary=xyz',
        "multipart/form-data; boundary=abc; boundary*=utf-8''xyz",
        f"multipart/form-data; boundary=abc{'c' * 70}",
    ],
)
def test_a_boundary_that_may_be_another_is_none(content_type: str) -> None:
    assert found(CHEAP + END, content_type=content_type) is None


def test_what_clients_write_into_heads_is_borne() -> None:
    file = part("file", b"x", "a").replace(b"\r\n\r\n", b"\r\nContent-Type: audio/mpeg\r\nContent-Length: 1\r\n\r\n", 1)
    accented = part("file", b"x", "a").replace(b'filename="a"', b"filename*=UTF-8''%e2%82%ac.mp3")
    bare = CHEAP.replace(b'"model"', b"model").replace(b"Content-Disposition", b"content-disposition")
    assert found(file + accented + bare + END + b"an epilogue") == "cheap"
