"""Words that may end in a full stop and no sentence, in English and Russian: without the stop, in small letters."""

from __future__ import annotations

from typing import Final

PLAIN: Final = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "mt", "rev", "hon", "gen", "col", "sgt", "capt", "gov", "sen", "rep",
    "vs", "e.g", "i.e", "cf", "al", "ca", "approx", "dept", "est", "esp", "viz", "т.е", "т.к", "т.н", "т.о", "т.ч",
    "напр", "см", "ср", "им", "ул", "пл", "пер", "просп", "бул", "проф", "акад", "доц", "канд", "рук", "инж", "гр",
    "обл", "р-н", "ред", "изд", "сост", "тел", "факс",
})  # fmt: skip
"""Never at a sentence's end."""

ENDING: Final = frozenset({
    "etc", "inc", "ltd", "co", "corp", "jr", "sr", "u.s", "u.k", "u.n", "e.u", "a.m", "p.m", "b.c", "a.d", "ph.d",
    "b.a", "m.a", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "т.д",
    "т.п", "др", "пр", "г", "гг", "в", "вв", "н.э", "до.н.э", "руб", "коп", "тыс", "млн", "млрд", "трлн", "мин",
    "сек", "ч", "кг", "км", "м", "см", "мм", "л", "шт", "экз", "чел",
})  # fmt: skip
"""At a sentence's end only where a capital follows."""

NUMBERED: Final = frozenset({
    "no", "nos", "fig", "figs", "vol", "ch", "sec", "p", "pp", "eq", "art", "para", "№", "рис", "табл", "стр", "с",
    "гл", "ст", "п", "пп", "разд", "кв", "д", "корп",
})  # fmt: skip
"""Before a number; elsewhere they are words."""

INITIAL: Final = frozenset("гвсдмлчп")
"""Single small letters that stand for a word in Russian."""
