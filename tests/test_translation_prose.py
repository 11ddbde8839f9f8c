"""What a translation must not touch: taken out of a sentence, and put back into its translation, each once."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.translation.prose import protect

KEPT = [
    ("Call `f(x)` and ``a ` b`` now.", ["`f(x)`", "``a ` b``"]),
    ("See https://example.com/a?b=c#d. Then go.", ["https://example.com/a?b=c#d"]),
    ("See (https://a.org/w/A_(b)) or www.a.org/x, ok?", ["https://a.org/w/A_(b)", "www.a.org/x"]),
    ("请看https://example.com/路径。谢谢", ["https://example.com/路径"]),
    ("Write to a.b+c@example.org.", ["a.b+c@example.org"]),
    ("A [good link](https://a.b/c_d \"title\") and ![pic](x.png).", ['](https://a.b/c_d "title")', "](x.png)"]),
    ("A [ref][1] and a note[^2].", ["][1]", "[^2]"]),
    ("Use <br> and <a href='x'>y</a> and &nbsp; &#39;.", ["<br>", "<a href='x'>", "</a>", "&nbsp;", "&#39;"]),
    ("Let $x + y$ be \\(z_1\\) and $$a$$ and \\frac{1}{2}.", ["$x + y$", "\\(z_1\\)", "$$a$$", "\\frac{1}{2}"]),
    ("It costs $5 or $1,200.50 or 12.5% or 3,000€.", ["$5", "$1,200.50", "12.5%", "3,000€"]),
    ("On 2022-10-11 at 10:30 about -5 °C.", ["2022-10-11", "10:30", "-5 °"]),
    ("Version v1.2.3 of GPT-4o-mini and UTF-8.", ["v1.2.3", "GPT-4o-mini", "UTF-8"]),
    ("The 1st and 2nd of 三 and ２０.", ["1", "2", "２０"]),
    ("Rename snake_case, camelCase, JavaScript, os.path.join() and CONSTANT_CASE.",
     ["snake_case", "camelCase", "JavaScript", "os.path.join()", "CONSTANT_CASE"]),
    ("Open /etc/hosts, ~/x.txt, main.py with --flag and -v now.", ["/etc/hosts", "~/x.txt", "main.py", "--flag", "-v"]),
    ("Ask @bob about #tag and $HOME or ${X}.", ["@bob", "#tag", "$HOME", "${X}"]),
    ("Hello {name}, {{x}} and %s of %(n)d.", ["{name}", "{{x}}", "%s", "%(n)d"]),
    ("A \u27e61\u27e7 that was there.", ["\u27e6", "1", "\u27e7"]),
    ("Это и/или то, 5 км/ч.", ["5"]),
    ("He said e.g. this and either/or that, i.e. nothing.", []),
    ("Escaped \\* star and \\_ too.", ["\\*", "\\_"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kept"), KEPT)
def test_what_must_survive_is_taken_out(text: str, kept: list[str]) -> None:
    protected = protect(text)
    assert list(protected.kept) == kept
    assert protected.restored(protected.text) == text
    assert not re.search("[0-9]{2}|https?:|`", protected.words)


@pytest.mark.parametrize(
    ("text", "before", "words", "after"),
    [
        ("  Hello there. \n", "  ", "Hello there.", " \n"),
        ("\n\n## A heading", "\n\n## ", "A heading", ""),
        ("- [x] done it", "- [x] ", "done it", ""),
        ("\n  12. An item", "\n  12. ", "An item", ""),
        ("> > * quoted item", "> > * ", "quoted item", ""),
        ("| one | two |", "| ", "one\u27e61\u27e7two", " |"),
        ("🌻 Sunny day! ☀️", "🌻 ", "Sunny day!", " ☀️"),
        ("3、第三点", "3、", "第三点", ""),
        ("**Bold** and _it_.", "", "**Bold** and _it_.", ""),
    ],
)
def test_the_structure_of_a_line_stays_outside(text: str, before: str, words: str, after: str) -> None:
    protected = protect(text)
    assert (protected.before, protected.text, protected.after) == (before, words, after)


@pytest.mark.parametrize(
    ("text", "has"), [("Hi", True), ("1 2 3", False), ("`code` https://a.b", False), ("— «» …", False)]
)
def test_without_a_word_there_is_nothing_to_translate(text: str, has: bool) -> None:  # a parameter
    assert protect(text).has_words is has


SOURCE = "Take `a` and `b` of **them**."


@pytest.mark.parametrize(
    ("translation", "restored"),
    [
        ("Возьмите \u27e62\u27e7 и \u27e61\u27e7 из **них**.", "Возьмите `b` и `a` из **них**."),
        (" Возьмите \u27e6 1 \u27e7 и \u27e6\uff12\u27e7 из **них**.\n", "Возьмите `a` и `b` из **них**."),
        ("Возьмите \u27e61\u27e7 из **них**.", None),
        ("Возьмите \u27e61\u27e7 \u27e61\u27e7 и \u27e62\u27e7 из **них**.", None),
        ("Возьмите \u27e61\u27e7 \u27e63\u27e7 и \u27e62\u27e7 из **них**.", None),
        ("Возьмите \u27e61\u27e7 \u27e7 и \u27e62\u27e7 из **них**.", None),
        ("Возьмите \u27e61\u27e7 и \u27e62\u27e7 из них.", None),
        ("Возьмите \u27e61\u27e7 и \u27e62\u27e7 из **них** `c`.", None),
        ("Возьмите \u27e61\u27e7\n\nи \u27e62\u27e7 из **них**.", None),
        ("Возьмите [\u27e61\u27e7] и \u27e62\u27e7 из **них**.", None),
        ("", None),
    ],
)
def test_a_translation_is_used_only_with_everything_in_it(translation: str, restored: str | None) -> None:
    assert protect(SOURCE).restored(translation) == restored


HARD = st.lists(
    st.sampled_from([*"ab`$[](){}<>|*_#.,:;/\\-~@%&1 \n'\"", "\u27e6", "\u27e7", "\u27e61\u27e7",
                     "https://", "www.", "你", "я", "１"]),
    max_size=40,
).map("".join)  # fmt: skip


@given(st.one_of(HARD, st.text(max_size=60)))
def test_whatever_is_taken_out_comes_back(text: str) -> None:
    protected = protect(text)
    whole = protected.restored(protected.text)
    if protected.text == protected.text.strip():
        assert whole == text
    for number, kept in enumerate(protected.kept, 1):
        assert protected.text.count(f"\u27e6{number}\u27e7") == 1, kept


@pytest.mark.parametrize(
    "piece", ["`", "``` ", "$a ", "[a](", "<a ", "{a", "\\a{", "1.", "a_", "aB", "a.", "a-", "https://a.", "%(", "/a"]
)
def test_a_hard_sentence_of_the_greatest_length_takes_no_noticeable_time(piece: str) -> None:
    protected = protect((piece * 1000)[:1000])  # quadratic would be some milliseconds, cubic seconds
    assert protected.before + protected.text + protected.after
