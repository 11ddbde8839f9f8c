"""Segments: the same wherever a text is cut, together the text, and sentences where a reader sees them."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.translation.sentences import Segment, SentenceSplitter, segments

SENTENCES = [
    # English
    "Hello there.| How are you?| Fine!",
    "Dr. Smith met Mr. Jones at 5 p.m. on Monday.| They talked.",
    "We came at 5 p.m.| Then we left.",
    "See e.g. the manual, i.e. page 3.| It helps.",
    "It costs $5.| You pay $6.50 in all.",
    "Version v1.2.3 of main.py is at example.com/a.b now.| Get it.",
    "Pi is 3.14 and a thousand is 1,000.50.| Right?",
    "J. R. R. Tolkien wrote it.| I did not.| So do I.| Then stop.",
    "No. 5 is alive.| No.| I will not.",
    "Wait... what is this?| Well...| Then it began.",
    "Really?!| Yes!!",
    '"Stop!" she said.| "Go on."| He went.',
    "(This is one.)| Another **one.**| Last.",
    "He uses `a. b` and `c! d`.| Then $x. y$ and \\(a. B\\).| Done.",
    "A [link](https://a.b/c. d) here.| End.",
    "Call <tag a. b> now.| End.",
    "Apples, pears, etc. are fruit.| Nuts, etc.| Then tea.",
    "Fish & chips.|\nNext line without a stop|\n\nA new paragraph.",
    "The U.S. economy grew.| It is 3 a < b.| Then",
    "An unclosed `tick here.| Goes on|\nand on.",
    "OK.Next is glued and stays.",
    # Chinese
    "你好。|今天怎么样？|很好！|我们走吧",
    "他说：“你好。”|然后走了。",
    "他说：“真的吗？！”|她点头。",
    "圆周率是3.14。|版本v1.2。|完了",
    "请看 example.com 的说明。| 谢谢。",
    "好。|Python 3.11 很快。|是的！",
    "（这是一句。）|另一句。",
    '他说"好。"|她说"不。"|',
    "等等……然后呢？|走吧。",
    # Russian
    "Привет.| Как дела?| Хорошо!",
    "В 1999 г. мы жили в г. Москве на ул. Мира, д. 5.| Потом уехали.",
    "Это т.е. яблоки, груши и т.д. лежали.| Всё и т.д.| Потом чай.",
    "А. С. Пушкин родился в Москве.| Он писал стихи.",
    "Цена 5 тыс. руб. за штуку.| Дорого!",
    "См. рис. 3 на стр. 15.| Там всё видно.",
    "«Стой!» — сказал он.| «Иду.»| Вот.",
    "Он пришёл... и ушёл.| Всё...| Потом тишина.",
    # lists and headings
    "1. First item.| More of it.|\n2. Second item.|\n10) Third.",
    "- One.|\n- Two.|\n* Three",
    "# A heading. With a stop|\n\nText.",
    "a. first thing|\nb. second thing",
    "> Quoted one.| Quoted two.|\n> Three.",
]


@pytest.mark.parametrize("marked", SENTENCES)
def test_sentences_end_where_a_reader_sees_their_end(marked: str) -> None:
    wanted = [part for part in marked.split("|") if part]
    assert [segment.text for segment in segments("".join(wanted))] == wanted


BLOCKS = [
    [("Code:", True), ("\n```python\n", False), ("a = 1. b\n", False), ("```", False), ("\nDone.", True)],
    [("~~~~\n", False), ("```\n", False), ("~~~\n", False), ("~~~~", False), ("\nText.", True)],
    [("- Item:", True), ("\n  ```\n", False), ("  code\n", False), ("  ```", False), ("\n- Next", True)],
    [("```inline``` is code.", True), (" Yes.", True)],
    [("```\n", False), ("never closed. Not. Ever.", False)],
    [("$$\n", False), ("E = mc^2. x\n", False), ("$$", False), (" holds.", True), (" Yes.", True)],
    [("Then", True), (" $$\n", False), ("x\n", False), ("$$", False), (" and so on.", True)],
    [("\\[ a. b \\]", False), ("\nText.", True)],
    [("\\begin{align}\n", False), ("a. b\n", False), ("\\end{align}", False), ("\nText.", True)],
    [("$$\n", False), ("never closed\n", False), ("\nA paragraph.", True), (" It is text.", True)],
    [('{"a": "b. c", "d": [1]}', False), (" That was it.", True)],
    [('[{"a": 1},\n', False), (' {"b": "]}"}]', False)],
    [("[Note] this is text.", True), (" Yes.", True)],
    [
        ("| a. b ", True),
        ("| c ", True),
        ("|", False),
        ("\n|---", False),
        ("|:-:", False),
        ("|", False),
        ("\n| one. Two ", True),
        ("| `a|b` x\\|y ", True),
        ("| 5 ", False),
        ("|", False),
        ("\n\nText.", True),
    ],
    [("# A heading. Long", True), ("\n\nText.", True)],
    [("Code:", True), ("\n\n    a = b. c", False), ("\n    d = e", False), ("\n\nText.", True)],
    [("- Item.", True), ("\n\n    More of it.", True), ("\n    - Inner.", True), ("\n\nText.", True)],
    [("<!-- a. b\n", False), ("c -->", False), ("\nText.", True)],
    [("One", True), ("\n\n---", False), ("\n\nTwo", True), ("\n1 2 3", False)],
    [("Inline $$a. b$$ stays.", True), (" End.", True)],
]


@pytest.mark.parametrize("blocks", BLOCKS, ids=range(len(BLOCKS)))
def test_what_is_no_prose_is_told_apart(blocks: list[tuple[str, bool]]) -> None:
    text = "".join(part for part, _ in blocks)
    assert [(segment.text, segment.is_prose) for segment in segments(text)] == blocks


TEXTS = [text.replace("|", "") for text in SENTENCES] + ["".join(part for part, _ in blocks) for blocks in BLOCKS]
PIECES = st.sampled_from(
    [*"ab.!? \n\r`$\\<>[]()|#*_-~'\"{},:;1", "。", "！", "”", "你", "…", "\u0301", "\u200d", "\ud800", "\0", "\u2028",
     "``", "```", "~~~", "$$", "\\[", "\\]", "\\(", "\\begin{x}", "\\end{x}", "<!--", "-->", "Mr.", "т.д.", "1. ", "](",
     "{\"", "Да. "]
)  # fmt: skip
ANY_TEXT = st.lists(PIECES, max_size=40).map("".join)


@given(ANY_TEXT)
@settings(max_examples=400, deadline=None)
def test_joined_the_segments_are_the_text(text: str) -> None:
    assert "".join(segment.text for segment in segments(text, 40)) == text


@given(ANY_TEXT, st.lists(st.integers(0, 120), max_size=4), st.sampled_from([20, 40, 1000]))
@settings(max_examples=600, deadline=None)
def test_segments_do_not_depend_on_where_the_text_was_cut(text: str, cuts: list[int], limit: int) -> None:
    whole = segments(text, limit)
    assert in_pieces(list(text), limit) == whole
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert in_pieces([text[a:b] for a, b in pairwise(places)], limit) == whole


@pytest.mark.parametrize("text", TEXTS)
def test_every_cut_of_the_hard_texts_gives_the_same(text: str) -> None:
    whole = segments(text)
    for cut in range(len(text) + 1):
        assert in_pieces([text[:cut], text[cut:]]) == whole


def in_pieces(pieces: list[str], limit: int = 1000) -> list[Segment]:
    splitter = SentenceSplitter(limit)
    found = [segment for piece in pieces for segment in splitter.feed(piece)]
    return found + splitter.finish()


def test_a_sentence_is_given_with_the_first_character_that_shows_its_end() -> None:
    for text, after in [("你好。", "再"), ("Hello there.", " N"), ("Привет!", " К"), ("One line", "\n")]:
        splitter = SentenceSplitter()
        assert splitter.feed(text) == []
        assert splitter.pending == text
        assert splitter.feed(after) == [Segment(text, True)]


@pytest.mark.parametrize(
    "word", ["word ", "слово, ", "字", "x", "`a b ", "a\u0301", "👨\u200d👩", "1 ", "\u200d", "\n"]
)
def test_an_endless_sentence_is_cut_and_never_gathers(word: str) -> None:
    splitter = SentenceSplitter(200)
    found = []
    for _ in range(2000):
        found += splitter.feed(word)
        assert len(splitter.pending) < 200 + 500
    found += splitter.finish()
    assert "".join(segment.text for segment in found) == word * 2000
    assert all(len(segment.text) <= 210 for segment in found if segment.is_prose)


@pytest.mark.parametrize("word", ["https://a.b/" + "x%20/y.z?" * 200, "data:image/png;base64," + "Ab9/" * 800])
def test_an_address_however_long_is_no_language(word: str) -> None:
    found = segments(f"Look at ![this]({word}) now. Right?")
    assert "".join(segment.text for segment in found) == f"Look at ![this]({word}) now. Right?"
    assert [segment.text for segment in found if segment.is_prose] == ["Look at", " now.", " Right?"]


@pytest.mark.parametrize("opening", ["```\n", "$$\n", '{"a": "', "<!-- ", "| a "])
def test_what_never_closes_is_given_as_it_comes(opening: str) -> None:
    splitter = SentenceSplitter(200)
    splitter.feed(opening)
    for _ in range(2000):
        splitter.feed("some code ")
        assert len(splitter.pending) < 700


@pytest.mark.parametrize("piece", ["`", "$a", "$", "\\(", "<a", "](", "[", "```", ". ", '"', "a.", "（", "\\", "$1"])
def test_time_is_linear_in_hard_text(piece: str) -> None:
    def spent(count: int) -> float:
        best = 1e9
        for _ in range(3):
            started = time.perf_counter()
            segments(piece * count)
            best = min(best, time.perf_counter() - started)
        return best

    spent(500)
    assert spent(40_000) < 40 * spent(4_000) + 0.2
