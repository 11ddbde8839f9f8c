"""Files of jobs: found by their links alone, as long as these are good."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.files import JobFiles

NUMBER = 1_987_378_144_113_570
STARTS = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff\xe0", "gif": b"GIF89a", "webp": b"RIFF", "bin": b"<svg>"}


def files_in(directory: Path, key: bytes = b"k" * 32, clock: Callable[[], float] = time.time) -> JobFiles:
    files = JobFiles(directory / "files", key, link_s=3_600, clock=clock)
    files.base_url = "https://gateway.example"
    return files


def token_of(address: str) -> str:
    return address.removeprefix("https://gateway.example/files/")


@pytest.mark.parametrize("kind", STARTS)
def test_a_file_is_found_by_its_link_and_known_by_how_it_begins(tmp_path: Path, kind: str) -> None:
    files = files_in(tmp_path)
    name = files.keep(NUMBER, 3, STARTS[kind])
    assert name == f"file:{NUMBER}-3.{kind}"
    path = files.find(token_of(files.address(name)))
    assert path is not None
    assert path.read_bytes() == STARTS[kind]


@pytest.mark.parametrize("image", ["https://images.example/1.png", "file:///srv/x.png", f"file:{NUMBER}-99999.png"])
def test_what_is_no_file_of_ours_stays(tmp_path: Path, image: str) -> None:
    assert files_in(tmp_path).address(image) == image


def test_a_link_is_good_for_its_hours_and_no_longer(tmp_path: Path) -> None:
    now = 1_000_000.0
    files = files_in(tmp_path, clock=lambda: now)
    token = token_of(files.address(files.keep(NUMBER, 0, b"x")))
    now += 3_599
    assert files.find(token) is not None
    now += 3_601
    assert files.find(token) is None


def test_a_link_of_another_key_leads_nowhere(tmp_path: Path) -> None:
    name = files_in(tmp_path).keep(NUMBER, 0, b"x")
    assert files_in(tmp_path).find(token_of(files_in(tmp_path, key=b"j" * 32).address(name))) is None


@given(token=st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{40}", fullmatch=True))
def test_no_made_up_text_is_a_link(token: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = files_in(tmp_path_factory.getbasetemp() / "made-up")
    files.keep(NUMBER, 0, b"x")
    assert files.find(token) is None


def test_old_files_go_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.prune(1.0)  # there is no directory yet
    old, new = files.keep(NUMBER, 0, b"x"), files.keep(NUMBER, 1, b"x")
    other = tmp_path / "files" / "notes.txt"
    other.touch()
    for path in (tmp_path / "files" / old.removeprefix("file:"), other):
        os.utime(path, (1, 1))
    files.prune(60.0)
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == [new.removeprefix("file:"), "notes.txt"]
    assert files.find(token_of(files.address(old))) is None
