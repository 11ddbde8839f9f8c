from __future__ import annotations

import re

import pytest

from gateway.credentials import checked_credential, new_key, new_secret


def test_made_up_credentials_are_readable_and_valid() -> None:
    """No character is easily taken for another, and what is made up is also accepted."""
    assert re.fullmatch(r"gk_[2-9a-hj-km-np-z]{32}", checked_credential(new_key()))
    assert re.fullmatch(r"gs_[2-9a-hj-km-np-z]{52}", checked_credential(new_secret()))


def test_made_up_credentials_do_not_repeat() -> None:
    """A thousand are a thousand different ones."""
    assert len({new_secret() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("text", ["demo", "demo-secret", "a+b/c=%&", "x" * 256])
def test_an_operators_own_credential_is_taken_as_it_is(text: str) -> None:
    """Any visible ASCII can be escaped in a URL."""
    assert checked_credential(text) == text


@pytest.mark.parametrize("text", ["", "x" * 257, "key:secret", "two words", "tab\t", "line\r\n", "ключ", "nul\0"])
def test_what_cannot_travel_is_refused_without_being_repeated(text: str) -> None:
    """A colon would split `KEY:SECRET` elsewhere; a refusal must not print a secret."""
    with pytest.raises(ValueError, match=r"characters|header") as refusal:
        checked_credential(text)
    assert len(text) < 4 or text not in str(refusal.value)
