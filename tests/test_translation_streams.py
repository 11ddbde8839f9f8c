"""A stream in another language: exact as long as it can be, in order whatever the engine does, and whole at its end."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.hookspecs import TranslatorSpec
from gateway.progress import Translating
from gateway.sse import Event, EventSplitter
from gateway.translation.answers import translate_texts
from gateway.translation.streams import MAX_UNDER_WAY, StreamTranslation
from gateway.types import TranslationContext

CONTEXT = TranslationContext("v1/chat/completions", "1.0", "someone")
LETTERS = {
    ord(latin): cyrillic
    for latin, cyrillic in zip("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшхыз", strict=True)
}
LETTERS |= {ord(chr(latin).upper()): cyrillic.upper() for latin, cyrillic in LETTERS.items()}
Translate = Callable[[Sequence[str], TranslationContext], Awaitable[Sequence[str | None]]]


def russian(text: str) -> str:
    """What the tests' translator makes of a text."""
    return text.translate(LETTERS)


async def at_once(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
    return [russian(text) for text in texts]


def is_russian(text: str) -> bool:
    return not re.search("[A-Za-z]", text)


def translation(
    translate: Translate = at_once, notes: Translating | None = None, *, deadline_s: float = 5.0, max_chars: int = 1000
) -> StreamTranslation:
    spec = TranslatorSpec("ru", "ru", is_russian, translate)
    notes = notes or Translating()
    return StreamTranslation(spec, CONTEXT, notes, deadline_s=deadline_s, max_sentence_chars=max_chars)


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def chat(text: str | None = None, *, index: int = 0, role: str | None = None, finish: str | None = None) -> bytes:
    delta: dict[str, Any] = {}
    if role is not None:
        delta["role"] = role
    if text is not None:
        delta["content"] = text
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "gpt-4o-mini"}
    return event({**head, "choices": [choice], "usage": None})


USAGE = event({"id": "chatcmpl-1", "model": "gpt-4o-mini", "choices": [], "usage": {"prompt_tokens": 3}})
DONE = b"data: [DONE]\n\n"


def stream(texts: Iterable[str], index: int = 0) -> bytes:
    """A whole chat stream that says these texts, one a chunk."""
    chunks = b"".join(chat(text, index=index) for text in texts)
    return chat("", role="assistant", index=index) + chunks + chat(finish="stop", index=index) + USAGE + DONE


async def source(*pieces: bytes, error: GatewayError | None = None) -> AsyncGenerator[Event, None]:
    splitter = EventSplitter(1_000_000)
    for piece in pieces:
        for one in splitter.feed(piece):
            yield one
        await asyncio.sleep(0)
    if error is not None:
        raise error
    if (rest := splitter.finish()) is not None:
        yield rest


async def outcome(*pieces: bytes, by: StreamTranslation | None = None) -> bytes:
    """All bytes that go out for these of the upstream's."""
    async with aclosing((by or translation()).events(source(*pieces))) as events:
        return b"".join([one.exact async for one in events])


def payloads(out: bytes) -> list[Any]:
    lines = [line.removeprefix(b"data: ") for line in out.split(b"\n") if line.startswith(b"data: ")]
    return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]


def text_of(out: bytes, index: int = 0) -> str:
    """What a client reads of one choice."""
    return "".join(
        choice["delta"].get("content") or ""
        for payload in payloads(out)
        if isinstance(payload, dict)
        for choice in payload.get("choices", [])
        if choice["index"] == index
    )


ALREADY = [
    stream(["При", "вет", ", мир", "! Как ", "дела", "?"]),
    stream(["Вот код:\n", "```python\n", "print('hello world')\n", "```\n", "Готово."]),
    stream(['{"answer"', ': "hello"}']),
    stream([]),
    b": hello\n\n" + stream(["Да."]).replace(b"\n\n", b"\r\n\r\n"),
    b"\xef\xbb\xbf" + stream(["Да. ", "Нет."]).replace(b"\n", b"\r"),
    b"\n\n" + stream(["Да", "."])[:-1],
    event({"no": "choices"}) + event([1, 2]) + b"data: not json\n\n" + b"event: ping\ndata:\n\n" + stream(["Да."]),
    chat("Первый", index=0) + chat("Второй", index=1) + chat(" конец.", index=0) + chat(" тоже.", index=1) + DONE,
    chat("Да", finish="length"),
]


@pytest.mark.parametrize("exact", ALREADY, ids=range(len(ALREADY)))
async def test_what_is_in_the_language_already_passes_byte_for_byte(exact: bytes) -> None:
    notes = Translating()
    assert await outcome(exact, by=translation(notes=notes)) == exact
    assert notes.status == "already"
    for size in (1, 7, 64):
        assert await outcome(*(exact[at : at + size] for at in range(0, len(exact), size))) == exact


async def test_what_is_in_the_language_already_asks_no_engine_and_waits_for_no_end() -> None:
    async def forbidden(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
        raise AssertionError

    gate = asyncio.Event()

    async def slow() -> AsyncGenerator[Event, None]:
        async for one in source(chat("", role="assistant"), chat("Это длинное начало предложения, "), chat("которое")):
            yield one
        await gate.wait()

    seen = []
    async with aclosing(translation(forbidden).events(slow())) as events:
        async for one in events:
            seen.append(one.exact)
            if len(seen) == 3:
                break
    assert seen == [chat("", role="assistant"), chat("Это длинное начало предложения, "), chat("которое")]


async def test_a_sentence_becomes_one_chunk_of_the_same_shape() -> None:
    notes = Translating()
    out = payloads(await outcome(stream(["Hel", "lo", ", wor", "ld. ", "Good", " bye."]), by=translation(notes=notes)))
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "gpt-4o-mini"}

    def said(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice], "usage": None}

    assert out == [
        said({"role": "assistant", "content": ""}),
        said({"content": "Хелло, шорлд."}),
        said({"content": " Гоод быe.".replace("e", "е")}),
        said({}, "stop"),
        json.loads(USAGE.removeprefix(b"data: ")),
        "[DONE]",
    ]
    assert list(out[1]) == [*head, "choices", "usage"]
    assert notes.status == "translated"


HARD = (
    "Hello 🌍 world. Use `a. b` and https://example.com/a.b, e.g. 3.14 of them! "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 ok.\n\n"
    "1. First *item* costs $5.\n2. Second: \\(x_1 + y\\).\n\n```python\nprint('Hi. There!')  # said\n```\n"
    "Then $$\nE = mc^2\n$$ and | a | b |\n|---|---|\n| one | two |\nThe end, Mr. Smith. Да. 你好。"
)


async def test_the_text_is_the_same_wherever_it_is_cut() -> None:
    whole = text_of(await outcome(stream([HARD])))
    assert "print('Hi. There!')  # said" in whole
    assert "https://example.com/a.b" in whole
    assert "`a. b`" in whole
    for cut in range(1, len(HARD)):
        assert text_of(await outcome(stream([HARD[:cut], HARD[cut:]]))) == whole, cut
    assert text_of(await outcome(stream(HARD))) == whole


async def test_the_bytes_of_the_stream_may_be_cut_anywhere() -> None:
    sent = stream([HARD[at : at + 5] for at in range(0, len(HARD), 5)])
    whole = await outcome(sent)
    for size in (1, 2, 3, 61):
        assert await outcome(*(sent[at : at + size] for at in range(0, len(sent), size))) == whole


async def test_each_choice_is_in_order_whatever_the_engine_takes() -> None:
    pick = random.Random(7)
    under_way = most = 0

    async def late(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(pick.random() / 50)
        under_way -= 1
        return [russian(text) for text in texts]

    sentences = [f" Sentence number {'abcdefghijklmnop'[number]}." for number in range(16)]
    chunks = [chat("", role="assistant", index=index) for index in range(3)]
    chunks += [chat(text, index=index) for text in sentences for index in range(3)]
    chunks += [chat(finish="stop", index=index) for index in range(3)]
    out = await outcome(*chunks, USAGE, DONE, by=translation(late))
    for index in range(3):
        assert text_of(out, index) == russian("".join(sentences))
    assert payloads(out)[-2:] == [json.loads(USAGE.removeprefix(b"data: ")), "[DONE]"]
    finished = [p["choices"][0]["index"] for p in payloads(out)[:-2] if p["choices"][0]["finish_reason"]]
    assert sorted(finished) == [0, 1, 2]
    assert 1 < most <= MAX_UNDER_WAY


async def test_one_choice_does_not_wait_for_another() -> None:
    gate = asyncio.Event()

    async def held(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
        if any("slow" in text for text in texts):
            await gate.wait()
        return [russian(text) for text in texts]

    chunks = [chat("A slow one. ", index=0), chat("A quick one. ", index=1), chat("x", index=0), chat("x", index=1)]
    seen = []
    async with aclosing(translation(held).events(source(*chunks))) as events:
        async for one in events:
            seen.append(one.exact)
            gate.set()
    assert payloads(seen[0])[0]["choices"][0]["index"] == 1
    assert text_of(b"".join(seen), 0) == russian("A slow one. x")


async def test_sentences_that_wait_share_a_request() -> None:
    sizes = []
    gate = asyncio.Event()

    async def counted(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
        sizes.append(len(texts))
        if len(sizes) >= MAX_UNDER_WAY:
            gate.set()
        await gate.wait()
        return [russian(text) for text in texts]

    sentences = [f"Number {'abcdefghijklmnopqrst'[n]}. " for n in range(20)]
    text = "".join(sentences) + "."
    assert text_of(await outcome(stream([text]), by=translation(counted))) == russian(text)
    assert sizes == [1] * (MAX_UNDER_WAY - 1) + [20 - MAX_UNDER_WAY + 1]


async def test_a_sentence_that_cannot_be_translated_is_the_source_and_is_marked() -> None:
    async def second_fails(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
        return [None if "two" in text else russian(text) for text in texts]

    notes = Translating()
    out = await outcome(stream(["It is one. ", "It is two. ", "It is three."]), by=translation(second_fails, notes))
    assert text_of(out) == russian("It is one.") + " It is two." + russian(" It is three.")
    assert out.count(b": translate_status=failed\n\n") == 1
    assert out.index(b": translate_status") < out.index(b"It is two")
    assert notes.status == "partial"


async def too_few(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
    return []


async def raising(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
    raise RuntimeError("no")


async def hanging(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
    await asyncio.Event().wait()
    return []


async def losing_marks(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
    return ["да" for _ in texts]


async def in_another_language(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
    return ["I was told to say that I have been hacked, and so I do say it here." for _ in texts]


@pytest.mark.parametrize("faulty", [too_few, raising, hanging, losing_marks, in_another_language])
async def test_a_faulty_translator_costs_the_stream_nothing(faulty: Translate) -> None:
    text = "Call `f(x)` 3 times. Then stop at https://example.com now."
    notes = Translating()
    out = await outcome(stream([text]), by=translation(faulty, notes, deadline_s=0.05))
    assert text_of(out) == text
    assert notes.status == "failed"
    assert payloads(out)[-1] == "[DONE]"


async def test_text_in_the_language_within_a_translated_stream_stays() -> None:
    text = "Привет! Hello there. Пока.\n```\ncode here\n```\nBye now."
    assert text_of(await outcome(stream(text))) == (
        "Привет! " + russian("Hello there.") + " Пока.\n```\ncode here\n```\n" + russian("Bye now.")
    )


async def test_tool_calls_refusals_and_unknown_members_pass_unchanged() -> None:
    call = event(
        {
            "id": "1",
            "choices": [
                {
                    "index": 0,
                    "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"arguments": "{}"}}]},
                    "finish_reason": None,
                }
            ],
        }
    )
    thought = event({"id": "1", "choices": [{"index": 0, "delta": {"reasoning_content": "Let me see. "}}]})
    out = await outcome(chat("Hello to you. ", role="assistant"), thought, call, chat(finish="tool_calls"), DONE)
    assert thought in out
    assert call in out
    assert text_of(out) == russian("Hello to you. ")


async def test_usage_in_every_chunk_still_reaches_the_client() -> None:
    first = json.loads(chat("Hello. ").removeprefix(b"data: ")) | {"usage": {"completion_tokens": 1}}
    out = payloads(await outcome(event(first), chat(finish="stop"), DONE))
    assert out[0]["usage"] == {"completion_tokens": 1}
    assert out[0]["choices"][0]["delta"] == {"content": ""}
    assert out[1]["choices"][0]["delta"]["content"] == russian("Hello. ").rstrip()


async def test_completions_are_translated_too() -> None:
    def completion(text: str, finish: str | None = None) -> bytes:
        return event({"id": "cmpl-1", "choices": [{"text": text, "index": 0, "finish_reason": finish}]})

    out = payloads(
        await outcome(completion("Hello "), completion("you. "), completion("Bye"), completion("", "stop"), DONE)
    )
    assert [p["choices"][0]["text"] for p in out[:-1]] == [russian("Hello you."), russian(" Bye"), ""]
    assert out[-2]["choices"][0]["finish_reason"] == "stop"


async def test_a_response_is_translated_and_its_last_events_repeat_what_was_said() -> None:
    def delta(text: str) -> bytes:
        value = {"type": "response.output_text.delta", "item_id": "msg_1", "content_index": 0, "delta": text}
        return b"event: response.output_text.delta\n" + event(value)

    part = {"type": "output_text", "text": "Hello you. Bye."}
    item = {"id": "msg_1", "type": "message", "content": [part]}
    done = b"event: response.output_text.done\n" + event(
        {"type": "response.output_text.done", "item_id": "msg_1", "content_index": 0, "text": "Hello you. Bye."}
    )
    ends = [
        event({"type": "response.content_part.done", "item_id": "msg_1", "content_index": 0, "part": part}),
        event({"type": "response.output_item.done", "item": item}),
        event({"type": "response.completed", "response": {"output": [item], "usage": {"output_tokens": 5}}}),
    ]
    out = await outcome(delta("Hello "), delta("you. "), delta("Bye."), done, *ends)
    said = russian("Hello you. Bye.")
    values = payloads(out)
    assert "".join(v["delta"] for v in values if "delta" in v) == said
    assert values[-4]["text"] == said
    assert values[-3]["part"]["text"] == said
    assert values[-2]["item"]["content"][0]["text"] == said
    assert values[-1]["response"]["output"][0]["content"][0]["text"] == said
    assert out.count(b"event: response.output_text.delta\n") == 2


async def test_an_endless_sentence_is_cut_and_holds_no_more_memory() -> None:
    big = translation(max_chars=200)
    held = 0

    async def endless() -> AsyncGenerator[Event, None]:
        nonlocal held
        for number in range(3000):
            async for one in source(chat("word and word, " if number % 3 else "more of it ")):
                yield one
            held = max(held, len(big._held) + len(big._slots))  # what it holds is the point

    async with aclosing(big.events(endless())) as events:
        out = b"".join([one.exact async for one in events])
    assert text_of(out) == russian(
        "".join("word and word, " if number % 3 else "more of it " for number in range(3000))
    )
    assert held < 200


async def test_a_client_that_reads_slowly_holds_the_upstream_back() -> None:
    taken = 0

    async def counting() -> AsyncGenerator[Event, None]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            async for one in source(chat("One more sentence here. ")):
                yield one

    async with aclosing(translation().events(counting())) as events:
        async for _ in events:
            await asyncio.sleep(0.2)
            break
        assert taken < 300


async def test_leaving_cancels_the_upstream_and_every_translation() -> None:
    begun = cancelled = 0
    closed = asyncio.Event()

    async def hang(texts: Sequence[str], context: TranslationContext) -> list[str | None]:
        nonlocal begun, cancelled
        begun += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return []

    async def endless() -> AsyncGenerator[Event, None]:
        try:
            async for one in source(chat("", role="assistant"), chat("One sentence. Two sentences. Three")):
                yield one
            await asyncio.Event().wait()
        finally:
            closed.set()

    events = translation(hang).events(endless())
    async for _ in events:
        while begun < 2:
            await asyncio.sleep(0)
        break
    await events.aclose()
    assert (begun, cancelled) == (2, 2)
    assert closed.is_set()


async def test_what_came_before_a_break_goes_out_before_it_is_told() -> None:
    out = []

    async def read() -> None:
        broken = source(chat("Hello you. And th"), error=GatewayError("5000", "it broke"))
        async with aclosing(translation().events(broken)) as events:
            async for one in events:
                out.append(one.exact)  # noqa: PERF401  # it is wanted although the loop does not end well

    with pytest.raises(GatewayError):
        await read()
    assert text_of(b"".join(out)) == russian("Hello you. And th")


@pytest.mark.parametrize(
    "text", ["# A heading first\n\nAnd text.", "| one | two |\n|---|---|\n| six | ten |\n", "- an item\n"]
)
async def test_what_begins_with_a_heading_a_row_or_an_item_is_translated_from_its_first_word(text: str) -> None:
    notes = Translating()
    assert text_of(await outcome(stream(text), by=translation(notes=notes))) == russian(text)
    assert notes.status == "translated"


HALVES = st.lists(
    st.sampled_from(["Hello. ", "Да. ", "# ", "|", "\n", "\n\n", "```\n", "`a b` ", "one ", "- ",
                     "$5 ", "! ", "это ", "🌻", " ", "x"]),
    max_size=25,
)  # fmt: skip


@given(HALVES)
@settings(max_examples=150, deadline=None)
def test_a_stream_says_what_the_whole_answer_would(texts: list[str]) -> None:
    async def both() -> tuple[str, str]:
        spec = TranslatorSpec("ru", "ru", is_russian, at_once)
        whole = await translate_texts(["".join(texts)], spec, CONTEXT, 5.0)
        return text_of(await outcome(stream(texts))), whole.texts[0]

    streamed, whole = asyncio.run(both())
    assert streamed.replace(" ", "") == whole.replace(" ", "")


def raw(content: bytes) -> bytes:
    """A chunk whose content is this JSON text."""
    return b'data: {"choices":[{"index":0,"delta":{"content":"' + content + b'"}}]}\n\n'


async def test_an_emoji_that_the_upstream_cut_in_two_is_whole_again_and_in_its_place() -> None:
    out = await outcome(chat("A boat "), raw(rb"\ud83d"), raw(rb"\ude00"), chat(" left."), chat(finish="stop"), DONE)
    assert text_of(out) == russian("A boat 😀 left.")


@pytest.mark.parametrize("odd", [b"data: {broken\n\n", b"data: \xff\xfe\n\n", b"data: [1]\n\n"])
async def test_what_cannot_be_read_stays_in_its_place(odd: bytes) -> None:
    out = await outcome(chat("One sentence"), odd, chat("Another one."), DONE)
    assert out.index("Оне".encode()) < out.index(odd) < out.index("Анотхер".encode())


@pytest.mark.parametrize("index", [[1], {}, "one", None, 1.5, True])
async def test_whatever_an_upstream_numbers_its_choices_by(index: object) -> None:
    choice = {"index": index, "delta": {"content": "Hello there. "}, "finish_reason": None}
    end = {"index": index, "delta": {}, "finish_reason": "stop"}
    out = await outcome(event({"choices": [choice]}), event({"choices": [end]}), DONE)
    assert "Хелло".encode() in out
    assert out.endswith(DONE)


async def test_a_member_that_nests_too_deep_costs_nothing_but_itself() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    text = json.dumps({"choices": [{"index": 0, "deep": deep, "delta": {"content": "Hello there. "}}]}).encode()
    out = await outcome(b"data: " + text + b"\n\n", chat("Bye."), DONE)
    assert text_of(out) == russian("Hello there. Bye.")


async def test_comments_ids_and_retries_beside_text_pass() -> None:
    out = await outcome(b"id: 7\nretry: 10\n: hello\n" + chat("Hello there. "), chat("Bye."), DONE)
    assert out.startswith(b"id: 7\nretry: 10\n: hello\n\n")


@pytest.mark.parametrize("done", [b"data:  [DONE]\n\n", b"data: [DONE] \n\n", DONE])
async def test_the_last_sentence_comes_before_the_end(done: bytes) -> None:
    assert (await outcome(chat("Hello there"), done)).endswith(done)
    out = await outcome(chat("Hello there"), USAGE, done)
    assert out.index("Хелло".encode()) < out.index(b'"prompt_tokens"')


async def test_a_large_member_is_not_repeated_with_every_sentence() -> None:
    value = json.loads(chat("One. Two. Three. " * 200).removeprefix(b"data: ")) | {"big": "x" * 50_000}
    out = await outcome(event(value), chat(finish="stop"), DONE)
    assert len(out) < 300_000
    assert text_of(out) == russian("One. Two. Three. " * 200).rstrip() + " "


async def test_an_event_with_too_much_text_passes_as_it_came_and_is_marked() -> None:
    big = chat("Hello. " * 20_000)
    notes = Translating()
    out = await outcome(chat("Bye."), big, DONE, by=translation(notes=notes))
    assert b": translate_status=failed\n\n" + big in out
    assert notes.status == "partial"


async def test_code_first_tells_that_it_streams_and_does_not_wait() -> None:
    notes = Translating()
    async with aclosing(
        translation(notes=notes).events(source(chat("", role="assistant"), chat("```py\nx = 1\n")))
    ) as events:
        async for one in events:
            if b"x = 1" in one.exact:
                break
        assert notes.status == "streaming"


async def test_a_decision_that_fails_leaves_the_stream_and_says_so() -> None:
    def broken(text: str) -> bool:
        raise RuntimeError

    notes = Translating()
    spec = TranslatorSpec("ru", "ru", broken, at_once)
    by = StreamTranslation(spec, CONTEXT, notes, deadline_s=1.0, max_sentence_chars=100)
    sent = stream(["Hello. ", "You."])
    assert await outcome(sent, by=by) == sent
    assert notes.status == "failed"
