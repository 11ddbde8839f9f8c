"""What the embedded upstream says: texts, vectors and values, made from a digest of the prompt. No I/O, no HTTP."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, shake_256
from typing import Literal, TypeAlias

from gateway.types import JsonValue

Language: TypeAlias = Literal["zh", "ru", "en"]

_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]| ?[A-Za-z]{1,7}| ?[\u0400-\u04ff]{1,5}| ?[0-9]{1,3}|\s+|.", re.DOTALL
)
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_RUSSIAN = re.compile(r"[\u0400-\u04ff]")
_ENGLISH = re.compile(r"[A-Za-z]")
_ASKS_FOR_CODE = re.compile(r"代码|程序|\bкод|программ|\b(?:code|python|script)\b", re.IGNORECASE)
_TOPIC_CHARS = 28
_MAX_SCHEMA_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Phrases:
    """What can be said in one language: `{topic}` stands for the beginning of the prompt."""

    openings: tuple[str, ...]
    thoughts: tuple[str, ...]
    closings: tuple[str, ...]
    code: str
    gap: str = " "


PHRASES: dict[Language, Phrases] = {
    "zh": Phrases(
        (
            "关于“{topic}”，可以先从一个简单的角度来看。",
            "“{topic}”这个问题比看上去更有意思。",
            "“{topic}”，我有几点想法。",
        ),
        (
            "好的答案往往不在远处，而在我们忽略的小事里。",
            "先把问题拆成几步，每一步都会变得清楚。",
            "经验告诉我们，耐心比速度更可靠。",
            "不妨听听不同的声音，再作自己的判断。",
            "同一件事，换一个季节去看，味道就不一样。",
            "数据可以告诉我们发生了什么，却不总能说明为什么。",
            "从今天能做的一小步开始，比等待完美的计划更好。",
            "如果还有疑问，可以用一个小例子来验证。",
        ),
        ("希望这些对您有帮助。", "愿您找到满意的答案。", "需要的话，我可以再说得详细一些。"),
        "下面是一段示例代码：",
        gap="",
    ),
    "ru": Phrases(
        (
            "Если говорить о теме «{topic}», начать стоит с простого.",
            "Вопрос «{topic}» интереснее, чем кажется.",
            "Вот что можно сказать на тему «{topic}».",
        ),
        (
            "Хороший ответ часто прячется в мелочах, мимо которых мы проходим.",
            "Разделите задачу на шаги, и каждый из них станет понятным.",
            "Опыт учит, что терпение надёжнее спешки.",
            "Полезно выслушать разные мнения и лишь потом решать.",
            "Одно и то же летом и зимой выглядит совсем по-разному.",
            "Цифры говорят, что произошло, но не всегда объясняют почему.",
            "Маленький шаг сегодня лучше безупречного плана на завтра.",
            "Если остались сомнения, проверьте мысль на небольшом примере.",
        ),
        ("Надеюсь, это поможет.", "Удачи вам!", "Если нужно, расскажу подробнее."),
        "Вот пример кода:",
    ),
    "en": Phrases(
        (
            "On the subject of “{topic}”, it helps to begin with something simple.",
            "“{topic}” is a better question than it looks.",
            "Here are a few thoughts about “{topic}”.",
        ),
        (
            "A good answer often hides in the small things we walk past.",
            "Take the question apart, and each step becomes clear.",
            "Experience says that patience is more reliable than speed.",
            "Listen to several voices before you trust your own.",
            "The same field looks different in another season.",
            "Numbers tell what happened, though not always why.",
            "A small step today beats a perfect plan for tomorrow.",
            "Where a doubt remains, try the idea on a small example.",
        ),
        ("I hope this helps.", "Good luck with it!", "I can go into more detail if you like."),
        "Here is an example:",
    ),
}

REMARKS = (
    (
        "向日葵，又叫葵花，是菊科的一年生草本植物。",
        "The sunflower is an annual plant of the daisy family.",
        "Подсолнух — однолетнее растение семейства астровых.",
    ),
    (
        "年轻的花盘清晨朝东，傍晚朝西，像是在跟太阳说早安和晚安；等到花盘成熟，它就安静地面向东方，让第一缕阳光温暖自己，也引来最早的蜜蜂。",
        "Young it turns from east to west with the sun; ripe it looks calmly to the east, and bees find it warm.",
        "Молодой он поворачивается за солнцем; созрев, спокойно смотрит на восток, и первые пчёлы находят его тёплым.",
    ),
    (
        "它的种子沿着螺旋排列，数一数，常常正好是三十四和五十五。",
        "Its seeds lie along spirals, and whoever counts them often finds thirty-four and fifty-five.",
        "Семена лежат по спиралям, и если их посчитать, часто выходит тридцать четыре и пятьдесят пять.",
    ),
    ("它代表光明、忠诚与希望。", "It stands for light, loyalty and hope.", "Он означает свет, верность и надежду."),
    (
        "中国男足曾经在二〇〇二年踢进世界杯决赛圈，那个夏天，许多人至今记得。",
        "China's men reached the finals of the World Cup in two thousand and two, a summer that many still remember.",
        "Мужская сборная Китая вышла в финал чемпионата мира в две тысячи втором, и то лето многие помнят до сих пор.",
    ),
    (
        "下一次是什么时候，没有人能给出准确的日期；但每一个在雨里坚持训练的孩子，都在把那一天拉近一点。",
        "Nobody can name the date of the next time; but every child who trains in the rain brings it a little closer.",
        "Дату следующего раза не назовёт никто; но каждый ребёнок, который тренируется под дождём, её приближает.",
    ),
    (
        "与其猜测年份，不如周末去球场踢一场。",
        "Rather than guess the year, play a match at the weekend.",
        "Чем гадать о годе, лучше в выходные сыграть самим.",
    ),
)
"""Sentences about the subjects that the documentation of the API asks for, in Chinese, English and Russian."""

_REMARKS = {
    "向日葵": f"{''.join(zh for zh, *_ in REMARKS[:2])}🌻{''.join(zh for zh, *_ in REMARKS[2:4])}",
    "世界杯": f"{''.join(zh for zh, *_ in REMARKS[4:])}⚽",
}

_CODE = "```python\ndef answer(question: str) -> str:\n    return question.strip() or 'nothing asked'\n```"

_CATEGORIES = {
    "harassment": ("idiot", "白痴", "идиот"),
    "harassment/threatening": (),
    "hate": ("hate", "仇恨", "ненавижу"),
    "hate/threatening": (),
    "illicit": (),
    "illicit/violent": (),
    "self-harm": (),
    "self-harm/instructions": (),
    "self-harm/intent": (),
    "sexual": (),
    "sexual/minors": (),
    "violence": ("kill", "杀", "убить"),
    "violence/graphic": (),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """An answer in tokens, and why it ended: `stop`, or `length` where the limit was reached."""

    tokens: Sequence[str]
    finish: str = "stop"

    def __str__(self) -> str:
        return "".join(self.tokens)


def digest(*parts: object) -> bytes:
    """32 bytes that depend on all parts."""
    return blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=32).digest()


def tokens_of(text: str) -> list[str]:
    """The text in pieces about as long as a model's tokens; joined they give the text."""
    return _TOKEN.findall(text)


def language_of(text: str) -> Language:
    """The language whose script prevails; a Chinese character says as much as two letters."""
    counts: dict[Language, int] = {
        "en": len(_ENGLISH.findall(text)),
        "ru": len(_RUSSIAN.findall(text)),
        "zh": 2 * len(_CHINESE.findall(text)),
    }
    return max(counts, key=lambda language: counts[language])


def answer_text(prompt: str, number: int = 0, language: Language | None = None) -> str:
    """The answer to a prompt; `number` tells several answers to one prompt apart."""
    if number == 0:
        for subject, remark in _REMARKS.items():
            if subject in prompt:
                return remark
    phrases = PHRASES[language or language_of(prompt)]
    seed = digest("text", prompt, number)
    topic = " ".join(prompt.split())[:_TOPIC_CHARS].strip(" ?？。.!！") or "…"
    sentences = [
        _pick(phrases.openings, seed[0]).format(topic=topic),
        *_shuffled(phrases.thoughts, seed)[: 3 + seed[1] % 3],
        _pick(phrases.closings, seed[2]),
    ]
    text = phrases.gap.join(sentences)
    return f"{text}\n\n{phrases.code}\n\n{_CODE}\n" if _ASKS_FOR_CODE.search(prompt) else text


def limited(text: str, max_tokens: int | None, stops: Sequence[str]) -> Text:
    """The text up to a stop sequence or the limit, whichever comes first."""
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    tokens = tokens_of(text)
    if max_tokens is not None and len(tokens) > max_tokens:
        return Text(tokens[:max_tokens], "length")
    return Text(tokens)


def spoken_text(seed: bytes, language: Language) -> list[str]:
    """The sentences that a recording is taken to hold."""
    return _shuffled(PHRASES[language].thoughts, seed)[: 2 + seed[0] % 3]


def example(schema: dict[str, JsonValue], prompt: str) -> JsonValue:
    """A value that fits a JSON schema, as far as one can tell without being a validator."""
    return _example(schema, schema, prompt, _MAX_SCHEMA_DEPTH)


def _example(schema: JsonValue, root: dict[str, JsonValue], prompt: str, depth: int) -> JsonValue:
    if not isinstance(schema, dict) or depth == 0:
        return None
    match schema:
        case {"const": value}:
            return value
        case {"enum": [value, *_]}:
            return value
        case {"$ref": str(reference)}:
            return _example(_resolved(reference, root), root, prompt, depth - 1)
        case {"anyOf": [first, *_]} | {"oneOf": [first, *_]} | {"allOf": [first, *_]}:
            return _example(first, root, prompt, depth - 1)
        case {"type": "object"} | {"properties": _}:
            properties = schema.get("properties")
            fields = properties.items() if isinstance(properties, dict) else ()
            return {name: _example(field, root, prompt, depth - 1) for name, field in fields}
        case {"type": "array"}:
            return [_example(schema.get("items"), root, prompt, depth - 1)]
        case {"type": [first, *_]}:
            return _example({**schema, "type": first}, root, prompt, depth - 1)
        case {"type": str(kind)}:
            return _plain_example(kind, schema, prompt)
    return None


def _plain_example(kind: str, schema: dict[str, JsonValue], prompt: str) -> JsonValue:
    lowest = schema.get("minimum")
    number = lowest if isinstance(lowest, int | float) else 7
    plain: dict[str, JsonValue] = {
        "string": prompt[:_TOPIC_CHARS] or "demo",
        "integer": math.ceil(number),
        "number": number,
        "boolean": True,
    }
    return plain.get(kind)


def _resolved(reference: str, root: dict[str, JsonValue]) -> JsonValue:
    value: JsonValue = root
    for name in reference.removeprefix("#/").split("/"):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def embedding(text: str, dimensions: int) -> list[float]:
    """A vector of length one, in single precision; texts that share words lie closer together."""
    noise = shake_256(text.encode("utf-8", "surrogatepass")).digest(dimensions)
    vector = [(byte - 127.5) / 2550 for byte in noise]
    for token in tokens_of(text.lower()):
        for mark in struct.unpack("<16H", digest("embedding", token.strip())):
            vector[mark % dimensions] += 1 if mark & 0x8000 else -1
    length = math.hypot(*vector) or 1.0
    single = struct.Struct(f"<{dimensions}f")
    return list(single.unpack(single.pack(*(value / length for value in vector))))


def moderation(text: str) -> dict[str, JsonValue]:
    """The verdict on a text: a few words are flagged, the rest is not."""
    lowered = text.lower()
    flags: dict[str, JsonValue] = {
        name: any(word in lowered for word in words) for name, words in _CATEGORIES.items()
    }  # fmt: skip
    scores: dict[str, JsonValue] = {
        name: round((0.93 if flags[name] else 0.0) + digest("score", name, text)[0] / 10_000, 6) for name in flags
    }
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in flags},
    }


def _pick(choices: Sequence[str], number: int) -> str:
    return choices[number % len(choices)]


def _shuffled(items: Sequence[str], seed: bytes) -> list[str]:
    return sorted(items, key=lambda item: digest(seed.hex(), item))
