"""Which calls go upstream as others, and as which."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.config import AliasSettings, DefaultsSettings, MethodsSettings, Settings, UpstreamSettings
from gateway.detours import Detour, Detours, routed_names
from gateway.errors import GatewayError
from gateway.types import NO_ARGUMENTS, Arguments, Call

CHAT = "v1/chat/completions"
UPSTREAMS = (UpstreamSettings(name="first"), UpstreamSettings(name="second"))


def detours(*aliases: AliasSettings, through_chat: tuple[str, ...] = (), **default_models: str) -> Detours:
    models = {name.replace("_", "/"): model for name, model in default_models.items()}
    return Detours(
        Settings(
            upstream=UPSTREAMS,
            alias=aliases,
            methods=MethodsSettings(through_chat=through_chat),
            defaults=DefaultsSettings(model=models),
        )
    )


def call(method: str = CHAT, verb: str = "POST", **values: Any) -> Call:
    arguments = Arguments(json.dumps(values).encode(), values) if values else NO_ARGUMENTS
    return Call("1.abc", "native", method, verb, arguments)


def found(table: Detours, asked: Call) -> Detour:
    detour = table.of(asked)
    assert detour is not None
    return detour


def test_without_a_row_or_a_method_there_are_none() -> None:
    assert not detours()
    assert detours(AliasSettings())
    assert detours(through_chat=("v1/edits",))


def test_a_model_goes_by_another_name() -> None:
    detour = found(detours(AliasSettings(model="text-davinci-*", to="new")), call(model="text-davinci-003", top_p=0.5))
    assert detour.sent is detour.called
    assert detour.sent.arguments.model == "new"
    assert json.loads(detour.sent.arguments.text) == {"model": "new", "top_p": 0.5}
    assert (detour.upstream, detour.shape, detour.each) == ("", None, ())


def test_a_row_without_a_name_only_routes_and_leaves_the_text_as_it_is() -> None:
    asked = call(model="a")
    detour = found(detours(AliasSettings(model="a", upstream="second")), asked)
    assert detour.sent is asked
    assert detour.upstream == "second"


def test_the_first_upstream_needs_no_name() -> None:
    assert found(detours(AliasSettings(model="a", upstream="first")), call(model="a")).upstream == ""


def test_the_first_row_that_matches_counts_and_leads_to_no_other() -> None:
    table = detours(
        AliasSettings(model="a", to="b"), AliasSettings(model="b", to="c"), AliasSettings(model="?", to="d")
    )
    assert [found(table, call(model=name)).sent.arguments.model for name in "abx"] == ["b", "c", "d"]


def test_a_row_may_be_for_some_methods_only() -> None:
    table = detours(AliasSettings(model="a", to="b", method="v1/chat/*"))
    assert found(table, call(model="a")).sent.arguments.model == "b"
    assert table.of(call("v1/embeddings", model="a")) is None


@pytest.mark.parametrize(
    "asked",
    [
        call(messages=[]),  # no model
        call(model=5),
        call("v1/models", "GET", model="a"),
        call("v1/files/x", "DELETE", model="a"),
        call("images/submit", model="a"),
        call(),
    ],
)
def test_what_names_no_model_in_a_body_for_the_upstream_goes_as_it_is(asked: Call) -> None:
    assert detours(AliasSettings(to="b"), through_chat=("v1/*",)).of(asked) is None


def test_names_beyond_all_measure_are_looked_up_and_not_remembered() -> None:
    table = detours(AliasSettings(model="x*", to="b"))
    for number in range(5_000):
        assert table.of(call(model=f"m{number}")) is None
    assert len(table._known) <= 4_096
    assert found(table, call(model="x" * 10_000)).sent.arguments.model == "b"
    assert all(len(model) < 300 for _, model in table._known)


def test_a_completion_becomes_a_chat_under_the_alias_of_the_method_that_was_called() -> None:
    table = detours(
        AliasSettings(model="old", method=CHAT, to="wrong"),
        AliasSettings(model="old", method="v1/completions", to="new", upstream="second"),
        through_chat=("v1/compl*",),
    )
    detour = found(table, call("v1/completions", model="old", prompt="a", echo=True))
    assert (detour.called.method, detour.sent.method, detour.upstream) == ("v1/completions", CHAT, "second")
    assert detour.called.arguments.values == {"model": "new", "prompt": "a", "echo": True}
    assert detour.sent.arguments.values == {"model": "new", "messages": [{"role": "user", "content": "a"}]}
    assert detour.shape is not None
    assert (detour.shape.method, detour.shape.prompts, detour.each) == ("v1/completions", ("a",), ())
    assert table.of(call("v1/edits", instruction="a")) is None


def test_several_prompts_are_several_chats() -> None:
    detour = found(detours(through_chat=("v1/completions",)), call("v1/completions", prompt=["a", "b"], n=3))
    assert [each.values["n"] for each in detour.each] == [3, 3]
    assert (detour.choices, detour.sent.arguments.values["n"]) == (3, 6)


def test_without_a_model_it_is_the_chats_default() -> None:
    table = detours(AliasSettings(model="d", to="e"), through_chat=("*",), v1_chat_completions="d")
    detour = found(table, call("v1/edits", instruction="a"))
    assert detour.sent.arguments.model == detour.called.arguments.model == "e"


def test_what_a_chat_cannot_do_is_4003() -> None:
    with pytest.raises(GatewayError) as caught:
        detours(through_chat=("*",)).of(call("v1/completions", prompt="a", logprobs=1))
    assert (caught.value.code.code, caught.value.param) == ("4003", "logprobs")


def test_the_upstreams_that_calls_may_go_to_are_those_of_the_rows() -> None:
    rows = (AliasSettings(upstream="second"), AliasSettings(upstream="first"), AliasSettings(to="x"))
    assert routed_names(Settings(upstream=UPSTREAMS, alias=rows)) == {"second"}
