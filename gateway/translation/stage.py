"""The stage of the road that knows languages: answers into the one that was asked for, prompts into English."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import orjson

from gateway.arguments import with_members, without_members
from gateway.config import TranslationSettings
from gateway.hookspecs import TranslatorSpec
from gateway.progress import Progress, Translating
from gateway.running import own_task
from gateway.translation.answers import ALREADY, PARTIAL, TRANSLATED, UNAVAILABLE, translate_answer, translate_texts
from gateway.translation.interpreter import Interpreter
from gateway.translation.memory import Remembered
from gateway.translation.streams import StreamTranslation
from gateway.types import Account, Arguments, Call, TranslationContext

PROMPT_LANGUAGE = "en"
"""What image models understand best."""

PROMPT_METHODS = frozenset({"v1/images/generations", "images/submit"})
TEXT_METHODS = frozenset({
    "v1/chat/completions", "v1/completions", "v1/edits", "v1/responses", "v1/audio/transcriptions",
    "v1/audio/translations",
})  # fmt: skip
"""Whose answers hold natural-language text."""

_SLACK_S = 1.0  # a translator may take a little longer than its engine


@dataclass(frozen=True, slots=True)
class Translation:
    """What translating needs to know, the same for every call. `interpreter` None: there is no engine."""

    translators: Mapping[str, TranslatorSpec]
    interpreter: Interpreter | None
    settings: TranslationSettings

    async def whole(self, text: bytes, call: Call, progress: Progress) -> bytes:
        """A JSON answer with its texts in the call's language; what became of them is noted."""
        translator, notes = self._begin(call, progress)
        if translator is None or _asks_for_json(call):
            return text
        await own_task()
        context, started = self._context(call, progress, notes), monotonic()
        remembered = self._remembered(progress, translator.name)
        text, notes.status, sample = await translate_answer(text, translator, context, self._deadline_s, remembered)
        notes.seconds = monotonic() - started
        if notes.status != ALREADY:
            notes.source_lang = self._language_of(sample, translator.name)
        elif sample:
            notes.source_lang = translator.name
        return text

    @staticmethod
    def leave(progress: Progress) -> None:
        """Notes that an answer is plain text, which is left as it is."""
        progress.translating = progress.translating or Translating()
        progress.translating.status = UNAVAILABLE

    def stream(self, call: Call, progress: Progress) -> StreamTranslation | None:
        """What translates a stream as it runs; None where it stays as it is, and why is noted."""
        translator, notes = self._begin(call, progress)
        if translator is None or _asks_for_json(call):
            return None
        return StreamTranslation(
            translator,
            self._context(call, progress, notes),
            notes,
            deadline_s=self._deadline_s,
            max_sentence_chars=self.settings.max_sentence_chars,
            remembered=self._remembered(progress, translator.name),
        )

    def wants_prompt(self, account: Account, call: Call) -> bool:
        """Whether the call's prompt is to be translated before it goes upstream."""
        wanted = account.lang_prompt if call.lang_prompt is None else call.lang_prompt
        return wanted and call.method in PROMPT_METHODS and isinstance(call.arguments.values.get("prompt"), str)

    async def prompt(self, call: Call, progress: Progress) -> Arguments:
        """The call's arguments with the prompt in English; as they are where that fails, which is noted."""
        notes = progress.translating = progress.translating or Translating()
        translator = self.translators.get(PROMPT_LANGUAGE)
        if translator is None:
            notes.prompt_status = UNAVAILABLE
            return call.arguments
        await own_task()
        context = self._context(call, progress, notes)
        prompt = str(call.arguments.values["prompt"])
        remembered = self._remembered(progress, translator.name)
        outcome = await translate_texts([prompt], translator, context, self._deadline_s, remembered)
        [result], notes.prompt_status = outcome.texts, outcome.status
        notes.engine = ""  # of the answer's texts
        if notes.prompt_status not in {TRANSLATED, PARTIAL}:
            return call.arguments
        rest = without_members(call.arguments, frozenset({"prompt"}))
        return with_members(rest, {"prompt": orjson.dumps(result)}, {"prompt": result})

    def _begin(self, call: Call, progress: Progress) -> tuple[TranslatorSpec | None, Translating]:
        notes = progress.translating = progress.translating or Translating()
        translator = self.translators.get(call.lang or "")
        notes.status = UNAVAILABLE if translator is None else ALREADY if _asks_for_json(call) else ""
        return translator, notes

    def _context(self, call: Call, progress: Progress, notes: Translating) -> TranslationContext:
        account = progress.account
        name = account.name if account is not None else ""
        if self.interpreter is None or account is None or progress.memory_only:
            return TranslationContext(call.method, call.request_id, name)
        return TranslationContext(call.method, call.request_id, name, self.interpreter.for_call(account.id, notes))

    def may_translate(self, call: Call) -> bool:
        """Whether translating the call's answer may cost anything."""
        return (
            call.lang in self.translators
            and self.interpreter is not None
            and call.verb == "POST"
            and call.method in TEXT_METHODS
            and not _asks_for_json(call)
        )

    def _remembered(self, progress: Progress, lang: str) -> Remembered | None:
        if self.interpreter is None or progress.account is None:
            return None
        return Remembered(self.interpreter.memory, progress.account.id, lang)

    @property
    def _deadline_s(self) -> float:
        return self.settings.timeout_s + _SLACK_S

    def _language_of(self, words: str, other_than: str) -> str:
        """The `lang` that a text is in, where one of the translators knows it."""
        for name, translator in self.translators.items():
            with suppress(Exception):  # a plugin's decision
                if name != other_than and words and translator.is_already(words):
                    return name
        return ""


def _asks_for_json(call: Call) -> bool:
    """Whether the answer's text is JSON for a program to read, which no translation may touch."""
    values = call.arguments.values
    asked, text = values.get("response_format"), values.get("text")
    if not isinstance(asked, dict) and isinstance(text, dict):  # as v1/responses has it
        asked = text.get("format")
    return isinstance(asked, dict) and str(asked.get("type")).startswith("json")
