"""The plugin API. A plugin is one module that implements any of these hooks and is registered under the entry-point
group `gateway`, or lies as a file in the directory named by `--plugins-dir`.

    from gateway.hookspecs import FormatterSpec, hookimpl

    @hookimpl
    def gateway_formatters():
        return [FormatterSpec("upper", "text/plain", lambda document: document.text.upper())]

Each hook is called once, at start, and fills a table; the road of a call never calls a hook.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pluggy

from gateway.types import Account, Balance, Call, CallRecord, Document, Job, JsonValue, TranslationContext

PROJECT = "gateway"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True)
class FormatterSpec:
    """A `result_type`.

    `render` turns a document into the answer's bytes; it must not block on I/O and may run in a thread. It raises
    gateway.types.RenderingRefused for what the format cannot say. `render_event`, where given, renders a streamed
    event whose ordinary rendering holds a carriage return, which a line of an event stream cannot carry.
    A `standby` formatter is used only where the configuration picks it by its plugin's name.
    """

    name: str
    content_type: str
    render: Callable[[Document], bytes]
    render_event: Callable[[Document], bytes] | None = None
    standby: bool = False


@dataclass(frozen=True, slots=True)
class TranslatorSpec:
    """A `lang`.

    `tag` is the language's BCP 47 tag. `is_already` decides locally, in microseconds, that a text needs no work.
    `translate` returns as many texts as it was given, in their order, None for one that stays as it is; most await
    `context.engine(texts, tag)`. If it raises or returns anything else, the source texts are delivered, and the answer
    says so.
    """

    name: str
    tag: str
    is_already: Callable[[str], bool]
    translate: Callable[[Sequence[str], TranslationContext], Awaitable[Sequence[str | None]]]


class MethodContext(Protocol):
    """What a method may ask of the gateway, for the account that calls and no other."""

    @property
    def account(self) -> Account:
        """Who calls. Its balance is that of some moment: `balance()` asks."""

    async def balance(self) -> Balance:
        """The account's money, counts and open calls now."""

    async def calls(self, before_id: int | None, limit: int) -> Sequence[CallRecord]:
        """The account's own call log, newest first: at most `limit` rows, those below `before_id` where it is given.

        A row is written within a fraction of a second after its call has ended.
        """

    async def submit_job(self, prompt: str, arguments: Mapping[str, JsonValue], notify: str | None = None) -> JsonValue:
        """Makes an image job of this call, which is what `opens_jobs` is for, and returns the answer to give:
        `{"imgid": …}`. It is on the disk by then, and kept under the call's idempotency key.

        `arguments` are for the backend, `prompt` is shown to the caller. Where prompts are translated, the translation
        takes the place of an argument `prompt` that is the same text. `notify` is an address to be told of the end.
        MethodRefused 4003 for an address that the operator does not allow; errors of the call's own, such as 4016.
        """

    async def job(self, imgid: str, wait_s: float = 0.0) -> Job | None:
        """An image job of the account; None where it has no such. Waits so long, and half a minute at most, for its
        end.
        """

    def job_changes(self, imgid: str) -> AsyncIterator[Job]:
        """The same as it is now, and then whenever it has changed, up to its end. Nothing where there is no such."""

    async def jobs(self, before_id: int | None, limit: int) -> Sequence[Job]:
        """The account's image jobs, newest first: at most `limit`, those whose number is below `before_id`."""

    def page_token(self, position: int) -> str:
        """A token for a place in this method's list (a call's id, say; 64 bits with sign). Safe in URLs."""

    def position(self, token: str) -> int:
        """The place that a token stands for. MethodRefused 4015 unless this account was given it by this method."""


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method that the gateway answers itself, on the custom front.

    `name` is `word/word`, and does not begin with `v1/`, which is the upstream's. `handle` returns the value of the
    envelope's `response`, as a JSON value or as JSON text in bytes. It refuses a call with gateway.types.MethodRefused;
    whatever else it raises, and more than 30 seconds, is 4000. It runs in the event loop: it awaits, and never blocks.

    `stream`, where given, answers calls with `stream: true`: each value becomes an event, and `[DONE]` the last one.
    Until the first value it may refuse the call as `handle` does. `opens_jobs`: the method's price is not that of the
    call but of the job that it submits.
    """

    name: str
    handle: Callable[[Call, MethodContext], Awaitable[JsonValue | bytes]]
    stream: Callable[[Call, MethodContext], AsyncIterator[JsonValue]] | None = None
    opens_jobs: bool = False


class GatewaySpec:
    """The hooks, for pluggy."""

    @hookspec
    def gateway_formatters(self) -> Sequence[FormatterSpec]:  # type: ignore[empty-body]  # pluggy calls implementations only
        """Formats of answers: one spec for each `result_type`."""

    @hookspec
    def gateway_translators(self) -> Sequence[TranslatorSpec]:  # type: ignore[empty-body]  # as above
        """Languages of answers: one spec for each `lang`."""

    @hookspec
    def gateway_methods(self) -> Sequence[MethodSpec]:  # type: ignore[empty-body]  # as above
        """Methods of the custom front that the gateway answers itself: one spec for each."""
