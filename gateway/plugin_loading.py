"""Plugins become frozen tables, once, at start: from the entry-point group `gateway` and from a directory of files.

Whatever is wrong shows here as one ConfigurationError: a line for each fault, with the plugin and where it comes from.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Generic, Literal, TypeAlias, TypeVar

import pluggy

from gateway.config import PluginsSettings
from gateway.errors import ConfigurationError
from gateway.hookspecs import PROJECT, FormatterSpec, GatewaySpec, MethodSpec, TranslatorSpec

Status: TypeAlias = Literal["active", "standby", "off", "not picked", "provides nothing"]
Spec = TypeVar("Spec", FormatterSpec, TranslatorSpec, MethodSpec)


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One line of `gateway plugins`. A plugin that is off or provides nothing has neither kind nor name."""

    plugin: str
    source: str  # "DISTRIBUTION VERSION", or the file
    kind: str  # "formatter", "translator", "method"
    name: str
    status: Status


@dataclass(frozen=True, slots=True)
class Plugins:
    """What serves, by its name in a call, and a row for everything that was found."""

    formatters: Mapping[str, FormatterSpec]
    translators: Mapping[str, TranslatorSpec]
    methods: Mapping[str, MethodSpec]
    rows: tuple[PluginRow, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A plugin that was found and not yet imported."""

    name: str
    source: str
    load: Callable[[], object]

    def fault(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"plugin {self.name} ({self.source}): {what}")


@dataclass(frozen=True, slots=True)
class _Offer(Generic[Spec]):
    """One spec that a plugin gave."""

    plugin: _Candidate
    spec: Spec
    standby: bool


def load_plugins(settings: PluginsSettings, *, directory: Path | None = None) -> Plugins:
    """Imports every plugin but those that are off; `directory` wins over the one in the settings.

    Raises one ConfigurationError with a line for each fault.
    """
    if directory is None and settings.directory:
        directory = Path(settings.directory)
    candidates = [*_from_entry_points(), *(_from_directory(directory) if directory else ())]
    wrong = _unknown_names(settings.off, candidates)  # what is wrong with the settings
    broken = _doubled_names(candidates)  # what is wrong with the plugins
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(GatewaySpec)
    serving = {candidate.name: candidate for candidate in candidates if candidate.name not in settings.off}
    for candidate in serving.values():
        with _noted(broken):
            _register(manager, candidate)
    hook = manager.hook
    format_offers = _offers(hook.gateway_formatters, FormatterSpec, _formatter_fault, serving, broken)
    language_offers = _offers(hook.gateway_translators, TranslatorSpec, _translator_fault, serving, broken)
    method_offers = _offers(hook.gateway_methods, MethodSpec, _method_fault, serving, broken)
    if broken:  # what a faulty plugin would provide is not known, so neither is what to choose from
        raise ConfigurationError("\n".join([*wrong, *broken]))
    providers = {offer.plugin.name for offers in (format_offers, language_offers, method_offers) for offer in offers}
    silent = serving.keys() - providers
    formatters, formatter_rows = _choose("formatter", format_offers, settings.formatters, silent, wrong)
    translators, translator_rows = _choose("translator", language_offers, settings.translators, silent, wrong)
    methods, method_rows = _choose("method", method_offers, settings.methods, silent, wrong)
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    others = [
        PluginRow(each.name, each.source, "", "", "off" if each.name in settings.off else "provides nothing")
        for each in candidates
        if each.name in silent or each.name in settings.off
    ]
    return Plugins(formatters, translators, methods, (*formatter_rows, *translator_rows, *method_rows, *others))


@contextmanager
def _noted(faults: list[str]) -> Iterator[None]:
    """Notes a fault, so that the next plugin is looked at too."""
    try:
        yield
    except ConfigurationError as error:
        faults.append(str(error))


def _from_entry_points() -> Iterable[_Candidate]:
    for entry in sorted(entry_points(group=PROJECT), key=lambda entry: entry.name):
        source = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        yield _Candidate(entry.name, source, entry.load)


def _from_directory(directory: Path) -> Iterable[_Candidate]:
    """Every `*.py` but those beginning with `_` or `.`, which are helpers and what editors leave behind."""
    try:
        files = sorted(file for file in directory.iterdir() if file.suffix == ".py" and file.name[0] not in "._")
    except OSError as error:
        raise ConfigurationError(f"{directory}: the plugins' directory cannot be read: {error.strerror}") from error
    for file in files:
        yield _Candidate(file.stem, str(file), partial(_import_file, file))


def _import_file(file: Path) -> object:
    name = f"gateway_plugin_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _doubled_names(candidates: Sequence[_Candidate]) -> list[str]:
    faults = []
    sources: dict[str, str] = {}
    for candidate in candidates:
        if candidate.name in sources:
            faults.append(str(candidate.fault(f"another plugin has the same name: {sources[candidate.name]}")))
        sources[candidate.name] = candidate.source
    return faults


def _unknown_names(off: Iterable[str], candidates: Sequence[_Candidate]) -> list[str]:
    faults = []
    names = sorted({candidate.name for candidate in candidates})
    for name in off:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"
            faults.append(f"plugins.off: no plugin is named {name!r}; {hint}")
    return faults


def _register(manager: pluggy.PluginManager, candidate: _Candidate) -> None:
    """Imports the plugin and has pluggy check its hooks, one plugin at a time, so that a fault has a name."""
    try:
        plugin = candidate.load()
    except (Exception, SystemExit) as error:
        raise candidate.fault(f"cannot be imported: {type(error).__name__}: {error}") from error
    try:
        manager.register(plugin, name=candidate.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        if manager.is_registered(plugin):  # or the next plugin's check would find its hooks again
            manager.unregister(plugin)
        raise candidate.fault(" ".join(str(error).split())) from error
    except ValueError as error:
        raise candidate.fault("the same module is registered under another plugin's name too") from error
    if not manager.get_hookcallers(plugin):
        raise candidate.fault("it implements no hook; is @hookimpl missing?")


def _offers(
    hook: pluggy.HookCaller,
    kind: type[Spec],
    fault_of: Callable[[Spec], str | None],
    serving: Mapping[str, _Candidate],
    faults: list[str],
) -> list[_Offer[Spec]]:
    """What the plugins give to one hook, each called once and on its own, so that a fault has a name."""
    offers: list[_Offer[Spec]] = []
    for implementation in hook.get_hookimpls():
        candidate = serving[implementation.plugin_name]
        with _noted(faults):
            specs = _specs(candidate, hook.name, implementation.function, kind, fault_of)
            offers += [_Offer(candidate, spec, getattr(spec, "standby", False)) for spec in specs]
    return sorted(offers, key=lambda offer: (offer.spec.name, offer.plugin.name))


def _specs(
    candidate: _Candidate,
    hook: str,
    function: Callable[[], object],
    kind: type[Spec],
    fault_of: Callable[[Spec], str | None],
) -> list[Spec]:
    """What one plugin gives to one hook."""
    try:
        given = function()
    except (Exception, SystemExit) as error:
        raise candidate.fault(f"{hook}() raised {type(error).__name__}: {error}") from error
    if not isinstance(given, list | tuple):
        raise candidate.fault(f"{hook}() returned {type(given).__name__}, not a list of specs")
    specs: dict[str, Spec] = {}
    for spec in given:
        if not isinstance(spec, kind):
            raise candidate.fault(f"{hook}(): a {type(spec).__name__} is not a {kind.__name__}")
        if fault := fault_of(spec):
            raise candidate.fault(f"{hook}(): {fault}")
        if spec.name in specs:
            raise candidate.fault(f"{hook}(): two specs are named {spec.name!r}")
        specs[spec.name] = spec
    return list(specs.values())


def _choose(
    kind: str, offers: Sequence[_Offer[Spec]], picks: Mapping[str, str], silent: Collection[str], faults: list[str]
) -> tuple[Mapping[str, Spec], list[PluginRow]]:
    """The one offer that serves each name, and a row for every offer. `silent` names plugins that provide nothing."""
    chosen: dict[str, _Offer[Spec]] = {}
    for offer in offers:
        name = offer.spec.name
        if name in picks:
            if offer.plugin.name == picks[name]:
                chosen[name] = offer
        elif not offer.standby:
            if name in chosen:
                faults.append(
                    f"two plugins provide the {kind} {name!r}: {_named(chosen[name])} and {_named(offer)}; "
                    f'pick one in [plugins.{kind}s]: {_key(name)} = "{offer.plugin.name}"'
                )
            chosen[name] = offer
    for name in sorted(picks.keys() - chosen.keys()):
        those = ", ".join(_named(offer) for offer in offers if offer.spec.name == name) or "no plugin that is loaded"
        why = "does not provide it;"
        if picks[name] in silent:
            why = "provides nothing here, is its optional dependency installed?"
        faults.append(f"plugins.{kind}s.{_key(name)}: plugin {picks[name]!r} {why} provided by: {those}")
    rows = [
        PluginRow(
            offer.plugin.name, offer.plugin.source, kind, offer.spec.name, _status(offer, chosen.get(offer.spec.name))
        )
        for offer in offers
    ]
    return MappingProxyType({name: offer.spec for name, offer in chosen.items()}), rows


def _status(offer: _Offer[Spec], chosen: _Offer[Spec] | None) -> Status:
    if offer is chosen:
        return "active"
    return "standby" if offer.standby else "not picked"


def _key(name: str) -> str:
    """A name as a key of TOML."""
    return name if _is_name(name) else f'"{name}"'


def _named(offer: _Offer[Spec]) -> str:
    return f"{offer.plugin.name} ({offer.plugin.source})"


def _formatter_fault(spec: FormatterSpec) -> str | None:
    if not _is_name(spec.name):
        return f"the name {spec.name!r} is not made of a-z, 0-9, _ and -"
    if not _matches(r"[!-~]+/[ -~]*[!-~]", spec.content_type):
        return f"the content type {spec.content_type!r} of {spec.name!r} cannot stand in a header"
    if not callable(spec.render) or not (spec.render_event is None or callable(spec.render_event)):
        return f"render of {spec.name!r} cannot be called"
    return None if isinstance(spec.standby, bool) else f"standby of {spec.name!r} is neither True nor False"


def _translator_fault(spec: TranslatorSpec) -> str | None:
    if not _is_name(spec.name):
        return f"the name {spec.name!r} is not made of a-z, 0-9, _ and -"
    if not _matches(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", spec.tag):
        return f"the tag {spec.tag!r} of {spec.name!r} is not a BCP 47 language tag"
    if not callable(spec.is_already) or not callable(spec.translate):
        return f"is_already or translate of {spec.name!r} cannot be called"
    return None


def _method_fault(spec: MethodSpec) -> str | None:
    if not _matches(r"[a-z0-9_-]+/[a-z0-9_-]+", spec.name):
        return f"the name {spec.name!r} is not two words of a-z, 0-9, _ and - with a slash between them"
    if spec.name.startswith("v1/"):
        return f"the name {spec.name!r} is the upstream's: a method of ours does not begin with v1/"
    if not callable(spec.handle) or not (spec.stream is None or callable(spec.stream)):
        return f"handle or stream of {spec.name!r} cannot be called"
    return None if isinstance(spec.opens_jobs, bool) else f"opens_jobs of {spec.name!r} is neither True nor False"


def _is_name(name: object) -> bool:
    return _matches(r"[a-z0-9_-]+", name)


def _matches(pattern: str, text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(pattern, text) is not None
