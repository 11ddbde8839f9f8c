"""What is known of each interface, and which texts are the name of one."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.methods import (
    check_name,
    check_required,
    is_counted,
    is_given_to_all,
    is_relayed,
    known_method,
    matches_any,
    name_from_path,
)

DOCUMENTED = [
    "v1/models", "v1/models/{id}", "v1/completions", "v1/chat/completions", "v1/edits", "v1/images/generations",
    "v1/images/edits", "v1/images/variations", "v1/embeddings", "v1/audio/transcriptions", "v1/audio/translations",
    "v1/audio/speech", "v1/files", "v1/files/{id}", "v1/files/{id}/content", "v1/moderations", "v1/responses",
]  # fmt: skip


@pytest.mark.parametrize("pattern", DOCUMENTED)
def test_every_documented_interface_is_known(pattern: str) -> None:
    method = known_method(pattern.replace("{id}", "some-id"))
    assert method is not None
    assert method.pattern == pattern


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("v1/models/ft:gpt-4o:org::id", "v1/models/{id}"),
        ("v1/models/org/name", "v1/models"),  # a model's id may hold slashes
        ("v1/files/a/b", None),
        ("v1/files/a/content/b", None),
        ("v1/modelsx", None),
        ("v1/batches", None),
        ("v1", None),
        ("", None),
    ],
)
def test_an_id_is_one_segment(name: str, pattern: str | None) -> None:
    method = known_method(name)
    assert (method and method.pattern) == pattern


def test_what_an_account_is_told_of_itself_is_counted_nowhere_and_given_to_all() -> None:
    for name, of_itself in (("account/balance", True), ("account/calls", True), ("accounts/x", False), ("", False),
                            ("v1/models", False), ("v1/account/balance", False), ("images/get", True),
                            ("images/submit", False)):  # fmt: skip
        assert (is_counted(name), is_given_to_all(name)) == (not of_itself, of_itself), name


def test_reading_interfaces_take_no_arguments_and_uploads_name_their_part() -> None:
    known = {pattern: known_method(pattern.replace("{id}", "x")) for pattern in DOCUMENTED}
    reading = {pattern for pattern, method in known.items() if method is not None and not method.takes_arguments}
    files = {pattern: method.file for pattern, method in known.items() if method is not None and method.file}
    assert reading == {"v1/models", "v1/models/{id}", "v1/files", "v1/files/{id}", "v1/files/{id}/content"}
    assert files == {
        "v1/images/edits": "image", "v1/images/variations": "image", "v1/audio/transcriptions": "file",
        "v1/audio/translations": "file", "v1/files": "file",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "relayed"), [("v1/x", True), ("v1/", True), ("v1", False), ("v2/x", False), ("images/get", False)]
)
def test_the_upstream_answers_what_begins_with_v1(name: str, relayed: bool) -> None:
    assert is_relayed(name) is relayed


@pytest.mark.parametrize("name", ["v1/models", "/v1/models", "v1/models/", "/v1/models/"])
def test_a_slash_at_either_end_is_tolerated(name: str) -> None:
    assert check_name(name) == "v1/models"


def verdict(check: Callable[[str], str], text: str) -> str | GatewayError:
    try:
        return check(text)
    except GatewayError as error:
        return error


@given(st.text(max_size=40) | st.from_regex(r"v1/[a-z./:%\\?#@-]{0,12}", fullmatch=True))
@example("v1/..")
@example("http:x")
@example("v1/models\n")
def test_what_is_taken_for_a_name_is_safe_in_a_request_line(text: str) -> None:
    name = verdict(check_name, text)
    if isinstance(name, GatewayError):
        assert (name.code.code, name.param) == ("4003", "method")
        return
    assert re.fullmatch(r"[!-~]{1,512}", name)
    assert not set(name) & set('%?#\\"<>{}[]|^` ')
    assert all(segment not in {"", ".", ".."} for segment in name.split("/"))
    assert not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name)


@given(st.text(alphabet="v1/.%2eE2fF5c", max_size=16))
@example("v1/%2e%2e/x")
@example("v1/%252e%252e/x")
@example("v1/%2F/x")
def test_a_path_is_decoded_no_more_than_once(path: str) -> None:
    name = verdict(name_from_path, f"/{path}")
    if isinstance(name, GatewayError):
        assert name.code.code == "4003"
    else:
        assert "%" not in name
        assert ".." not in name.split("/")


def test_a_missing_argument_is_named() -> None:
    chat = known_method("v1/chat/completions")
    check_required(chat, {"messages": None})  # there, and the upstream's to judge
    check_required(None, {})
    with pytest.raises(GatewayError, match="needs the argument messages") as caught:
        check_required(chat, {"model": "m"})
    assert (caught.value.code.code, caught.value.param) == ("4014", "messages")


@pytest.mark.parametrize(
    ("name", "globs", "matches"),
    [
        ("v1/models", ["*"], True),
        ("v1/models", ["v1/*"], True),
        ("v1/models/x", ["v1/models"], False),
        ("v1/models/x", ["v1/models*"], True),
        ("v1/models", [], False),
        ("v1/models", ["V1/MODELS"], False),
        ("v1/images/edits", ["v1/audio/*", "v1/images/*"], True),
    ],
)
def test_the_operators_globs_cover_methods(name: str, globs: list[str], matches: bool) -> None:
    assert matches_any(name, globs) is matches
