"""The arguments of completions and edits as those of chats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.chat_arguments import AT_ONCE, COMPLETIONS, EDITS, MAX_PROMPTS, Chats, chats_of
from gateway.errors import GatewayError
from gateway.types import Arguments


def arguments(text: str) -> Arguments:
    return Arguments(text.encode(), json.loads(text))


def chats(method: str = COMPLETIONS, **values: Any) -> Chats:
    return chats_of(method, arguments(json.dumps(values)))


def sent(found: Chats) -> list[Any]:
    """What each chat's arguments say; text and values must say the same."""
    for one in (*found.each, found.together):
        assert json.loads(one.text) == one.values
    return [one.values for one in found.each]


def refusal(method: str = COMPLETIONS, **values: Any) -> tuple[str | None, str]:
    with pytest.raises(GatewayError) as caught:
        chats(method, **values)
    assert caught.value.code.code == "4003"
    return caught.value.param, caught.value.reason


def test_a_prompt_is_the_users_message() -> None:
    found = chats(model="m", prompt="中国队什么时候进世界杯", max_tokens=200)
    message = {"role": "user", "content": "中国队什么时候进世界杯"}
    assert sent(found) == [{"messages": [message], "model": "m", "max_tokens": 200}]
    assert found.together is found.each[0]
    assert (found.prompts, found.choices) == ((), 1)


def test_what_both_interfaces_have_stays_as_it_was_written() -> None:
    text = '{"temperature": 1.50, "prompt": "a", "stop":["x" ,"y"], "top_k": 1e2, "n": 2, "stream": true}'
    [chat] = chats_of(COMPLETIONS, arguments(text)).each
    assert b'"temperature":1.50' in chat.text
    assert b'"stop":["x" ,"y"]' in chat.text
    assert b'"top_k":1e2' in chat.text
    assert chat.values.keys() == {"messages", "temperature", "stop", "top_k", "n", "stream"}


def test_a_list_of_one_prompt_is_that_prompt() -> None:
    assert sent(chats(prompt=["a"])) == sent(chats(prompt="a"))


def test_several_prompts_are_several_chats_and_what_they_use_together() -> None:
    found = chats(prompt=["a", "b", "c"], n=2, max_tokens=5)
    assert [one["messages"][0]["content"] for one in sent(found)] == ["a", "b", "c"]
    assert all(one["n"] == 2 and one["max_tokens"] == 5 for one in sent(found))
    assert found.choices == 2
    together = found.together.values
    assert (together["n"], len(together["messages"]), together["max_tokens"]) == (6, 3, 5)  # type: ignore[arg-type]  # a list


def test_an_echo_is_remembered_and_not_sent() -> None:
    found = chats(prompt=["a", "b"], echo=True)
    assert found.prompts == ("a", "b")
    assert "echo" not in found.each[0].values
    assert chats(prompt="a", echo=False).prompts == ()
    assert chats(prompt="a", echo=None).prompts == ()


def test_a_suffix_is_a_task_of_its_own() -> None:
    [one] = sent(chats(prompt="def f(", suffix="return 1"))
    system, user = one["messages"]
    assert system["role"] == "system"
    assert json.loads(user["content"]) == {"before": "def f(", "after": "return 1"}
    assert "suffix" not in one
    assert sent(chats(prompt="a", suffix="")) == sent(chats(prompt="a", suffix=None)) == sent(chats(prompt="a"))


def test_an_edit_is_told_its_instruction_apart_from_its_text() -> None:
    [one] = sent(chats(EDITS, model="m", input="what day", instruction="Fix it", temperature=0, n=2))
    system, user = one["messages"]
    assert system["content"].endswith("Fix it")
    assert user == {"role": "user", "content": "what day"}
    assert one.keys() == {"messages", "model", "temperature", "n"}


@pytest.mark.parametrize("more", [{}, {"input": ""}, {"input": None}])
def test_an_edit_of_nothing_writes_what_is_wanted(more: dict[str, Any]) -> None:
    [one] = sent(chats(EDITS, instruction="Write a line", **more))
    assert [message["role"] for message in one["messages"]] == ["system", "user"]
    assert one["messages"][1]["content"] == "Write a line"


@pytest.mark.parametrize("value", [{"logprobs": 5}, {"logprobs": 0}, {"logprobs": True}, {"best_of": 2}])
def test_what_tells_of_tokens_is_refused(value: dict[str, Any]) -> None:
    param, reason = refusal(prompt="a", **value)
    assert [param] == list(value)
    assert "cannot be had" in reason


@pytest.mark.parametrize("value", [{"logprobs": None}, {"logprobs": False}, {"best_of": None}, {"best_of": 1}])
def test_what_asks_for_nothing_of_the_kind_is_dropped(value: dict[str, Any]) -> None:
    assert sent(chats(prompt="a", **value)) == sent(chats(prompt="a"))


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2], [3]], ["a", [1]]])
def test_tokens_are_refused_as_tokens(prompt: Any) -> None:
    param, reason = refusal(prompt=prompt)
    assert param == "prompt"
    assert "no tokens" in reason


@pytest.mark.parametrize("prompt", [None, 1.5, {"id": "x"}, [], ["a", None]])
def test_a_prompt_that_is_no_text_is_refused(prompt: Any) -> None:
    assert refusal(prompt=prompt)[0] == "prompt"


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"prompt": "a", "suffix": 1}, "suffix"),
        ({"prompt": "a", "echo": "yes"}, "echo"),
        ({"prompt": "a", "messages": []}, "messages"),
        ({"prompt": "a", "tools": []}, "tools"),
        ({"prompt": ["a", "b"], "n": "2"}, "n"),
        ({"prompt": ["a", "b"], "n": 0}, "n"),
        ({"prompt": ["a", "b"], "n": True}, "n"),
        ({"prompt": ["a"] * (MAX_PROMPTS + 1)}, "prompt"),
        ({"prompt": ["a"] * (AT_ONCE + 1), "stream": True}, "prompt"),
    ],
)
def test_what_a_chat_cannot_do_is_refused(values: dict[str, Any], param: str) -> None:
    assert refusal(**values)[0] == param


@pytest.mark.parametrize("name", ["input", "instruction"])
def test_an_edits_texts_must_be_texts(name: str) -> None:
    assert refusal(EDITS, **{"instruction": "a", name: ["b"]})[0] == name


def test_as_many_prompts_as_may_be_are_taken() -> None:
    assert len(chats(prompt=["a"] * MAX_PROMPTS).each) == MAX_PROMPTS
    assert len(chats(prompt=["a"] * AT_ONCE, stream=True).each) == AT_ONCE
