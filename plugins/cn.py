"""`lang=cn`: answers in Chinese, in Simplified characters.

Traditional characters become Simplified here, by OpenCC; only what is no Chinese goes to the engine. Characters are
converted and vocabulary is not: Taiwan's and Hong Kong's words are Chinese, and a list of words that suits one of them
changes the other's meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

from opencc import OpenCC

from gateway.hookspecs import TranslatorSpec, hookimpl
from gateway.types import TranslationContext, TranslationFailed

from ._latin import count_words
from ._scripts import CYRILLIC_WORD, HAN, KANA, KANA_BESIDE_HAN, count, foreign_words, in_every_part

_TAG = "zh-Hans"
# Japan's own short forms, in neither script of Chinese. Without kana nothing else tells a heading like 営業時間.
_JAPANESE = re.compile(
    "[両乗亀亜仏仮価働児円処剣剤剰労効勅勧勲匂単厳収営団囲図圏圧塩増壊壌壱売変奨嬢実対専峠巣巻帯帰庁広廃弐弾従応恵悩悪懐戦戯払抜択拝拠拡挙挿捜掲摂撃斉斎晩暦枠栃栄桜検楽様権歓歩歯歴殻毎気"
    "沢浄涙済渋渓満瀬焼犠猟獣産畑畳発県砕稲穂穏穣窓竜粋粛経絵継続総緑縁縄縦繊聡聴脳臓舗荘蔵薫薬覇覚覧観訳読謡譲賛転軽辺辻込遅酔醸釈鉄鉱銭鋳錬録関闘陥険雑雫頬頼顔顕駅駆騒験髄髪鶏黒黙齢]"
)
# `t2s` leaves 著 as it is, where Taiwan writes 看著 and the mainland 看着; in these words 著 is right.
_PARTICLE_ZHE = re.compile("(?<![显名原编土卓昭巨遗专较])著(?![名作称者述有])")


@hookimpl
def gateway_translators() -> list[TranslatorSpec]:
    convert = OpenCC("t2s").convert
    return [TranslatorSpec("cn", _TAG, partial(is_already, convert), partial(translate, convert))]


def is_already(convert: Callable[[str], str], text: str) -> bool:
    """Whether a text is Chinese in Simplified characters, or nothing but Latin names."""
    return in_every_part(text, lambda part: _is_chinese(part) and convert(part) == part)


async def translate(
    convert: Callable[[str], str], texts: Sequence[str], context: TranslationContext
) -> Sequence[str | None]:
    """Converts what is Chinese, and asks the engine for the others: its failure is the call's only if all failed."""
    results: list[str | None] = [simplified(convert, text) if is_chinese(text) else None for text in texts]
    others = [number for number, result in enumerate(results) if result is None]
    if not others:
        return results
    try:
        answers = await context.engine([texts[number] for number in others], _TAG)
    except TranslationFailed:
        if len(others) == len(texts):
            raise
        return results
    for number, answer in zip(others, answers, strict=True):
        results[number] = None if answer is None else simplified(convert, answer)
    return results


def simplified(convert: Callable[[str], str], text: str) -> str:
    """A Chinese text in Simplified characters: itself, where it was already."""
    result = convert(text)
    return result if result == text else _PARTICLE_ZHE.sub("着", result)


def is_chinese(text: str) -> bool:
    """Whether a text is Chinese in either script."""
    return in_every_part(text, _is_chinese)


def _is_chinese(part: str) -> bool:
    signs = count(HAN, part)
    latin = count_words(part)
    if not signs:
        return not foreign_words(part) and not CYRILLIC_WORD.search(part) and latin.plain == 0
    if KANA_BESIDE_HAN.search(part) or _JAPANESE.search(part):
        return False
    foreign = foreign_words(part) - signs / 2 + len(CYRILLIC_WORD.findall(part))
    if foreign * 3 > signs or count(KANA, part) > signs:
        return False
    return latin.plain <= signs * 2 and (latin.english + latin.other) * 2 <= signs
