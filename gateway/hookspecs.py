"""The plugin API. A plugin is one module that implements any of these hooks and is registered under the entry-point
group `gateway`, or lies as a file in the directory named by `--plugins-dir`.

    from gateway.hookspecs import FormatterSpec, hookimpl

    @hookimpl
    def gateway_formatters():
        return [FormatterSpec("upper", "text/plain", lambda document: document.text.upper())]

Each hook is called once, at start, and fills a table; the road of a call never calls a hook.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pluggy

from gateway.types import Document, TranslationContext

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
    `translate` returns as many texts as it was given, in their order; if it raises or returns anything else, the
    source texts are delivered and the answer says so.
    """

    name: str
    tag: str
    is_already: Callable[[str], bool]
    translate: Callable[[Sequence[str], TranslationContext], Awaitable[Sequence[str]]]


class GatewaySpec:
    """The hooks, for pluggy."""

    @hookspec
    def gateway_formatters(self) -> Sequence[FormatterSpec]:  # type: ignore[empty-body]  # pluggy calls implementations only
        """Formats of answers: one spec for each `result_type`."""

    @hookspec
    def gateway_translators(self) -> Sequence[TranslatorSpec]:  # type: ignore[empty-body]  # as above
        """Languages of answers: one spec for each `lang`."""
