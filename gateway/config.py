"""The configuration: a TOML file and the environment become frozen settings. The only reader of either.

A key that nobody knows and a value that cannot be are refused with the file, the key and what would be allowed, all
of them at once.
Environment names are `GATEWAY_SECTION__KEY` (`GATEWAY_SERVER__PORT=9000`) and win over the file; secrets are never in
the file itself but named by it (`api_key_env`, `api_key_file`), and never in the text of an error.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from gateway.config_checks import (
    amount_fault,
    base_url_fault,
    chat_arguments_fault,
    cidr_fault,
    code_fault,
    header_fault,
    host_fault,
    libretranslate_url_fault,
    method_glob_fault,
    name_fault,
    origin_fault,
    path_fault,
    scheme,
    shared_fault,
    through_chat_fault,
    timezone_fault,
    variable_fault,
)
from gateway.config_values import SectionType, Source, from_text, key_types, nearest, read_section
from gateway.errors import ConfigurationError

# A year bounds every time, so that infinity, which the event loop's timers refuse, never gets there.
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=31_536_000)]
PositiveBytes = Annotated[int, Meta(ge=1)]
Days = Annotated[float, Meta(ge=0, le=36_500)]
Count = Annotated[int, Meta(ge=0, le=10_000_000)]
Port = Annotated[int, Meta(ge=0, le=65535)]
NodeId = Annotated[int, Meta(ge=0, le=1023)]

AMOUNTS = ("per_call", "per_1k_prompt", "per_1k_cached", "per_1k_completion", "per_image", "per_second")
"""The keys of a price that are amounts."""

ENVIRONMENT_PREFIX = "GATEWAY_"
RESERVED_ENVIRONMENT = frozenset({"GATEWAY_CONFIG"})
_KUBERNETES = re.compile(
    r"GATEWAY_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT|PORT_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)"
)
_SQLITE = "sqlite:///"


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; unknown keys are refused."""


class ServerSettings(Section, frozen=True):
    """How clients reach the gateway, and what it bears from them."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 8080
    node_id: NodeId = 1
    header_timeout_s: PositiveSeconds = 10.0
    body_timeout_s: PositiveSeconds = 20.0
    body_min_rate_bytes: PositiveBytes = 1024
    write_timeout_s: PositiveSeconds = 120.0
    keepalive_timeout_s: PositiveSeconds = 75.0
    drain_s: Seconds = 30.0
    max_line_bytes: Annotated[int, Meta(ge=1024, le=1_048_576)] = 65_536
    max_json_bytes: PositiveBytes = 33_554_432
    max_upload_bytes: PositiveBytes = 1_073_741_824
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()


class StoreSettings(Section, frozen=True):
    """Where accounts and the call log live, and the pepper of the secrets' hashes beside it."""

    url: str = "sqlite:///gateway.db"
    pepper_file: str = ""  # empty: beside the database
    pepper_env: str = ""
    keep_calls_days: Days = 90.0  # 0: for ever
    patience_s: PositiveSeconds = 30.0


class SharedSettings(Section, frozen=True):
    """State shared by several processes."""

    url: str = "memory:"


class UpstreamSettings(Section, frozen=True):
    """One OpenAI-compatible upstream; `base_url` as the SDKs write it, with its `/v1`."""

    name: str = "openai"
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str = ""
    api_key_file: str = ""
    connect_timeout_s: PositiveSeconds = 10.0
    first_byte_timeout_s: PositiveSeconds = 600.0
    idle_timeout_s: PositiveSeconds = 120.0
    total_timeout_s: PositiveSeconds = 3600.0
    keepalive_timeout_s: Seconds = 60.0
    max_answer_bytes: PositiveBytes = 67_108_864
    ca_file: str = ""
    pass_headers: tuple[str, ...] = ()
    ask_usage: bool = True
    client_left: Literal["cancel", "drain"] = "cancel"
    drain_s: PositiveSeconds = 60.0
    drain_bytes: PositiveBytes = 4_194_304
    upstream_cut: Literal["nothing", "delivered"] = "nothing"


class PriceSettings(Section, frozen=True):
    """A row of the price list; the first that matches counts. Amounts are decimal strings of the currency unit."""

    method: Annotated[str, Meta(min_length=1)] = "*"  # a glob
    model: Annotated[str, Meta(min_length=1)] = "*"  # a glob
    list: str = ""  # of accounts; empty: of all
    per_call: str = "0"
    per_1k_prompt: str = "0"
    per_1k_cached: str = ""  # empty: as the rest of the prompt
    per_1k_completion: str = "0"
    per_image: str = "0"
    per_second: str = "0"
    max_prompt_tokens: Count = 128_000
    max_completion_tokens: Count = 16_384
    max_seconds: Count = 3_600


class AliasSettings(Section, frozen=True):
    """Calls that name a model go upstream under another name, or to another upstream; the first match counts."""

    model: Annotated[str, Meta(min_length=1)] = "*"  # a glob
    method: Annotated[str, Meta(min_length=1)] = "*"  # a glob
    to: str = ""  # empty: its own name
    upstream: str = ""  # by name; empty: the first


class ChargingSettings(Section, frozen=True):
    """How calls are charged where there is a price list."""

    unpriced: Literal["refused", "free"] = "refused"
    charged: tuple[str, ...] = ("0000", "2000")
    stream_hold: Literal["greatest", "running"] = "greatest"
    running_tokens: Count = 1_000
    tokenizer: str = ""  # of tiktoken; empty: by script


class LimitsSettings(Section, frozen=True):
    """Limits that are not an account's own."""

    failed_logins_per_minute: Annotated[int, Meta(ge=0, le=1_000_000)] = 60  # from one address; 0: any number


class IdempotencySettings(Section, frozen=True):
    """Answers that are kept for a repeated `Idempotency-Key`."""

    keep_hours: Annotated[float, Meta(gt=0, le=8_784)] = 24.0
    max_answer_bytes: PositiveBytes = 1_048_576


class TranslationSettings(Section, frozen=True):
    """Who translates answers whose `lang` is asked for, and on whose account. Amounts as in [[price]]."""

    engine: Literal["upstream", "libretranslate", "none"] = "upstream"
    upstream: str = ""  # by name; empty: the first
    model: Annotated[str, Meta(min_length=1)] = "gpt-4o-mini"
    arguments: str = '{"temperature": 0}'  # more of the chat completion's, as JSON
    url: str = ""  # of LibreTranslate
    api_key_env: str = ""
    api_key_file: str = ""
    codes: dict[str, str] = {}
    timeout_s: PositiveSeconds = 10.0
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 32
    memory_bytes: Annotated[int, Meta(ge=0)] = 16_777_216
    max_sentence_chars: Annotated[int, Meta(ge=40, le=10_000)] = 1_000
    enforce_default: bool = False
    charged: bool = False
    per_call: str = "0"
    per_1k_prompt: str = "0"
    per_1k_completion: str = "0"


class CacheSettings(Section, frozen=True):
    """Answers that are kept and given again: where, how long, and to whom."""

    memory_bytes: Annotated[int, Meta(ge=0)] = 67_108_864  # 0: nothing is kept
    disk_file: str = ""  # empty: in memory only
    disk_bytes: Annotated[int, Meta(ge=1_048_576)] = 1_073_741_824
    life: dict[str, Seconds] = {}  # by method; 0: not kept
    groups: dict[str, list[str]] = {}  # of accounts, by name, that share their answers
    share: bool = True  # one upstream call for identical ones that are under way at the same time
    pace: bool = False  # a stream comes again as it came, not at once
    upload_bytes: Annotated[int, Meta(ge=0)] = 33_554_432  # a longer upload is not looked at
    tool_calls: bool = False  # answers that call tools are kept too
    charged_percent: Annotated[int, Meta(ge=0, le=100)] = 100  # of the price, for an answer that was kept


class JobsSettings(Section, frozen=True):
    """Image jobs: who makes the images, how many at a time, and where what becomes of them is kept and told."""

    backend: Literal["images", "midjourney", "none"] = "images"
    upstream: str = ""  # by name; empty: the first
    url: str = ""  # of the Midjourney proxy
    api_key_env: str = ""
    api_key_file: str = ""
    workers: Annotated[int, Meta(ge=1, le=10_000)] = 8
    per_account: Annotated[int, Meta(ge=1, le=10_000)] = 3
    most_open: Annotated[int, Meta(ge=1, le=10_000_000)] = 1_000  # of one account
    timeout_s: PositiveSeconds = 600.0
    poll_s: PositiveSeconds = 2.0
    retry_interrupted: bool = False
    notify_hosts: tuple[str, ...] = ()
    data_dir: str = ""  # empty: beside the database
    public_url: str = ""  # of the gateway, as clients reach it; empty: where it listens
    link_hours: Annotated[float, Meta(gt=0, le=87_600)] = 24.0
    keep_days: Days = 30.0  # 0: for ever


class DefaultsSettings(Section, frozen=True):
    """What a call gets that does not say."""

    lang: str = "cn"
    timezone: str = "Asia/Shanghai"
    model: dict[str, str] = {}


class MethodsSettings(Section, frozen=True):
    """Methods (globs) that the operator has closed (4010) or has in maintenance (4009; `"*"` is everything), and those
    of the old interfaces that chat completions answer.
    """

    closed: tuple[str, ...] = ()
    maintenance: tuple[str, ...] = ()
    through_chat: tuple[str, ...] = ()


class PluginsSettings(Section, frozen=True):
    """Which plugins serve: `off` names plugins not to load; the tables pick one for a format, language or method."""

    off: tuple[str, ...] = ()
    directory: str = ""
    formatters: dict[str, str] = {}
    translators: dict[str, str] = {}
    methods: dict[str, str] = {}


class FormatsSettings(Section, frozen=True):
    """Bounds of a rendering; those above `thread_above_bytes` run in at most `threads` threads for each format."""

    max_bytes: PositiveBytes = 67_108_864
    thread_above_bytes: PositiveBytes = 65_536
    threads: Annotated[int, Meta(ge=1, le=64)] = 4
    timeout_s: PositiveSeconds = 30.0


class StreamSettings(Section, frozen=True):
    """Streams: comments on an idle line (0: none), and the largest event that is re-formatted."""

    keepalive_s: Seconds = 0.0
    max_event_bytes: PositiveBytes = 8_388_608


class LogSettings(Section, frozen=True):
    """The process's own log on standard error. `access`: a line for all calls, those with an error, or none."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access: Literal["all", "errors", "off"] = "errors"


Keyed: TypeAlias = UpstreamSettings | TranslationSettings | JobsSettings
"""Sections that may name a key."""


class Settings(Section, frozen=True):
    """The whole configuration."""

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    shared: SharedSettings = SharedSettings()
    upstream: tuple[UpstreamSettings, ...] = ()
    alias: tuple[AliasSettings, ...] = ()
    price: tuple[PriceSettings, ...] = ()
    charging: ChargingSettings = ChargingSettings()
    limits: LimitsSettings = LimitsSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    translation: TranslationSettings = TranslationSettings()
    cache: CacheSettings = CacheSettings()
    jobs: JobsSettings = JobsSettings()
    defaults: DefaultsSettings = DefaultsSettings()
    methods: MethodsSettings = MethodsSettings()
    plugins: PluginsSettings = PluginsSettings()
    formats: FormatsSettings = FormatsSettings()
    stream: StreamSettings = StreamSettings()
    log: LogSettings = LogSettings()


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of `path` (None: no file) with the environment laid over them.

    Raises one ConfigurationError with a line for each fault.
    """
    settings, faults = examine_settings(path, environ)
    if faults:
        raise ConfigurationError("\n".join(line for lines in faults.values() for line in lines))
    return settings


def examine_settings(path: Path | None, environ: Mapping[str, str]) -> tuple[Settings, dict[str, list[str]]]:
    """The settings, with defaults where there are faults, and the faults' lines by their key.

    Raises ConfigurationError for a file that is not TOML: nothing more is known of it.
    """
    raw = _read_toml(path) if path else {}
    source = Source(path)
    unknown_variables = _overlay(raw, environ, source)
    settings = _locate(_settings(raw, source), source, environ)
    _check(settings, source)
    named = {
        settings.store.pepper_env,
        settings.translation.api_key_env,
        settings.jobs.api_key_env,
        *(upstream.api_key_env for upstream in settings.upstream),
    }
    for variable in sorted(unknown_variables - named):
        source.faults[variable] = [f"environment: {variable}: unknown name; {nearest(variable, _variables())}"]
    return settings, source.faults


def api_key(settings: Keyed, environ: Mapping[str, str]) -> str:
    """The key for an upstream or an engine, `""` where the configuration names none (one that asks for none).

    Raises ConfigurationError, which names the variable or the file and never what is in it.
    """
    section = "jobs" if isinstance(settings, JobsSettings) else "translation"
    whose = f"upstream {settings.name}" if isinstance(settings, UpstreamSettings) else section
    if settings.api_key_file:
        where = f"the file {settings.api_key_file}"
        try:
            key = Path(settings.api_key_file).read_bytes().decode("latin-1").strip()
        except OSError as error:
            raise ConfigurationError(f"{whose}: {where} cannot be read: {error.strerror}") from error
    elif settings.api_key_env:
        where = f"the environment variable {settings.api_key_env}"
        key = environ.get(settings.api_key_env, "")
    else:
        return ""
    if not key:
        raise ConfigurationError(f"{whose}: no API key: {where} is not set or empty")
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigurationError(
            f"{whose}: {where} holds no usable API key: only printable ASCII without spaces is allowed"
        )
    return key


def store_path(settings: Settings) -> Path:
    """The SQLite database's file."""
    return Path(settings.store.url.removeprefix(_SQLITE))


def jobs_directory(settings: Settings) -> Path:
    """Where the images of jobs are kept that came as data."""
    path = store_path(settings)
    return Path(settings.jobs.data_dir) if settings.jobs.data_dir else path.with_name(f"{path.name}.files")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        # utf-8-sig: editors on Windows begin a file with a byte order mark.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text: byte {error.start}: {error.reason}") from error
    except (ValueError, RecursionError) as error:  # a syntax error names line and column itself
        raise ConfigurationError(f"{path}: is not valid TOML: {error}") from error


def _variables() -> dict[str, tuple[str, str, Any]]:
    """Every environment name: its section, key and type. `upstream` stands for the first one; prices and aliases have
    none.
    """
    sections = {name: UpstreamSettings if name == "upstream" else type_ for name, type_ in key_types(Settings).items()}
    del sections["price"], sections["alias"]
    return {
        f"{ENVIRONMENT_PREFIX}{section}__{key}".upper(): (section, key, type_)
        for section, section_type in sections.items()
        for key, type_ in key_types(section_type).items()
    }


def _overlay(raw: dict[str, Any], environ: Mapping[str, str], source: Source) -> set[str]:
    """Lays the environment over `raw` in place; returns the GATEWAY_ names that are nobody's key."""
    implied = "upstream" not in raw
    if implied:
        raw["upstream"] = [{}]
        if base_url := environ.get("OPENAI_BASE_URL"):
            raw["upstream"][0]["base_url"] = base_url
            source.variables["upstream[0].base_url"] = "OPENAI_BASE_URL"
    known = _variables()
    ours = {name for name in environ if name.startswith(ENVIRONMENT_PREFIX)} - RESERVED_ENVIRONMENT
    ours = {name for name in ours if not _is_from_kubernetes(name, environ[name])}
    for variable in sorted(ours & known.keys()):
        section, key, type_ = known[variable]
        tables = raw.setdefault(section, {})
        table = tables[0] if section == "upstream" and isinstance(tables, list) and tables else tables
        if not isinstance(table, dict):
            continue  # the file's fault, which _settings() reports
        dotted = f"upstream[0].{key}" if section == "upstream" else f"{section}.{key}"
        source.variables[dotted] = variable
        table[key] = from_text(environ[variable], type_)
    if implied and not {"api_key_env", "api_key_file"} & raw["upstream"][0].keys():
        raw["upstream"][0]["api_key_env"] = "OPENAI_API_KEY"
    return ours - known.keys()


def _is_from_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes set it, as it does in every container where a service is named "gateway".

    Its GATEWAY_PORT is a URL; a bare number there is a person's, who means GATEWAY_SERVER__PORT.
    """
    return _KUBERNETES.fullmatch(name) is not None and (name != "GATEWAY_PORT" or "://" in value)


def _settings(raw: dict[str, Any], source: Source) -> Settings:
    sections = key_types(Settings)
    for name in sorted(raw.keys() - sections.keys()):
        source.fault(name, f"unknown section; {nearest(name, sections)}")
    upstreams = raw["upstream"]
    if not isinstance(upstreams, list) or not upstreams:
        source.fault("upstream", "expected at least one table, written [[upstream]]")
        upstreams = []
    values: dict[str, Any] = {
        name: read_section(raw.get(name, {}), type_, name, source)
        for name, type_ in sections.items()
        if name not in {"upstream", "price", "alias"}
    }
    return Settings(
        upstream=tuple(
            read_section(table, UpstreamSettings, f"upstream[{i}]", source) for i, table in enumerate(upstreams)
        ),
        price=_tables(raw, "price", PriceSettings, source),
        alias=_tables(raw, "alias", AliasSettings, source),
        **values,
    )


def _tables(raw: dict[str, Any], name: str, section: type[SectionType], source: Source) -> tuple[SectionType, ...]:
    """A section of which there may be any number."""
    tables = raw.get(name, [])
    if not isinstance(tables, list):
        source.fault(name, f"expected tables, each written [[{name}]]")
        tables = []
    return tuple(read_section(table, section, f"{name}[{i}]", source) for i, table in enumerate(tables))


def _locate(settings: Settings, source: Source, environ: Mapping[str, str]) -> Settings:
    """The settings with every path absolute and every base_url without its last slash."""
    store = settings.store
    implied = source.file is None and "store.url" not in source.variables
    url = _store_in_data_directory(environ, source) if implied else _located_store(store.url, source)
    return msgspec.structs.replace(
        settings,
        store=msgspec.structs.replace(store, url=url, pepper_file=source.path(store.pepper_file)),
        plugins=msgspec.structs.replace(settings.plugins, directory=source.path(settings.plugins.directory)),
        cache=msgspec.structs.replace(settings.cache, disk_file=source.path(settings.cache.disk_file)),
        jobs=msgspec.structs.replace(
            settings.jobs,
            url=settings.jobs.url.rstrip("/"),
            public_url=settings.jobs.public_url.rstrip("/"),
            api_key_file=source.path(settings.jobs.api_key_file),
            data_dir=source.path(settings.jobs.data_dir),
        ),
        translation=msgspec.structs.replace(
            settings.translation,
            url=settings.translation.url.rstrip("/"),
            api_key_file=source.path(settings.translation.api_key_file),
        ),
        upstream=tuple(
            msgspec.structs.replace(
                upstream,
                base_url=upstream.base_url.rstrip("/"),
                api_key_file=source.path(upstream.api_key_file),
                ca_file=source.path(upstream.ca_file),
            )
            for upstream in settings.upstream
        ),
    )


def _located_store(url: str, source: Source) -> str:
    file = url.removeprefix(_SQLITE)
    if not url.startswith("sqlite:"):
        source.fault("store.url", f"{scheme(url)} is not supported yet; allowed: sqlite:///FILE")
    elif file == url or not file or file == ":memory:" or re.search(r"[?#\x00-\x1f\x7f]", file):
        source.fault("store.url", "expected sqlite:///FILE, or sqlite:////FILE for an absolute path")
    return _SQLITE + source.path(file)


def _store_in_data_directory(environ: Mapping[str, str], source: Source) -> str:
    directory = Path(environ.get("XDG_DATA_HOME", ""))
    try:
        if not directory.is_absolute():  # the XDG specification: a relative one is ignored
            directory = Path(environ.get("HOME") or Path.home()) / ".local" / "share"
    except RuntimeError:
        source.fault("store.url", "no home directory for the store: set GATEWAY_STORE__URL or XDG_DATA_HOME")
    return f"{_SQLITE}{directory}/gateway/gateway.db"


_Check: TypeAlias = tuple[str, Sequence[str], Callable[[str], str | None]]


def _check(settings: Settings, source: Source) -> None:
    """What the types cannot say of single values, and what must hold between them."""
    upstream_fault = partial(_upstream_fault, settings)
    checks: list[_Check] = [
        ("server.trusted_proxies", settings.server.trusted_proxies, cidr_fault),
        ("server.cors_origins", settings.server.cors_origins, origin_fault),
        ("store.pepper_file", [settings.store.pepper_file], path_fault),
        ("store.pepper_env", [settings.store.pepper_env], variable_fault),
        ("shared.url", [settings.shared.url], shared_fault),
        ("defaults.timezone", [settings.defaults.timezone], timezone_fault),
        *_cache_checks(settings),
        ("plugins.directory", [settings.plugins.directory], path_fault),
        ("charging.charged", settings.charging.charged, code_fault),
        ("methods.through_chat", settings.methods.through_chat, through_chat_fault),
        *_translation_checks(settings.translation, upstream_fault),
        *_jobs_checks(settings.jobs, upstream_fault),
    ]
    for i, alias in enumerate(settings.alias):
        checks.append((f"alias[{i}].upstream", [alias.upstream], upstream_fault))
        checks.append((f"alias[{i}].method", [alias.method], method_glob_fault))
        if not (alias.to or alias.upstream):
            source.fault(f"alias[{i}].to", "expected another name, or an upstream to go to: this row does nothing")
    for i, price in enumerate(settings.price):
        checks += [(f"price[{i}].{key}", [getattr(price, key)], amount_fault) for key in AMOUNTS]
    for i, upstream in enumerate(settings.upstream):
        checks += _upstream_checks(f"upstream[{i}]", upstream, [other.name for other in settings.upstream[:i]])
    unread = frozenset(source.faults)  # they hold their defaults, of which there is nothing to say
    if "jobs.keep_days" not in unread and 0 < settings.jobs.keep_days < settings.jobs.link_hours / 24:
        source.fault("jobs.keep_days", "links would outlive their files: expected at least link_hours")
    for key, values, fault_of in checks:
        for value in values if key not in unread else ():
            if fault := fault_of(value):
                source.fault(key, fault)


def _upstream_fault(settings: Settings, name: str) -> str | None:
    """What is wrong with a text that names an upstream, or none of them."""
    known = not name or any(upstream.name == name for upstream in settings.upstream)
    return None if known else f"no upstream is named {name!r}"


def _cache_checks(settings: Settings) -> list[_Check]:
    members = [name for names in settings.cache.groups.values() for name in names]

    def file_fault(file: str) -> str | None:
        if file and (file == str(store_path(settings)) or Path(file).is_dir()):
            return "expected a file of its own: this is the store's, or a directory"
        return path_fault(file)

    def member_fault(name: str) -> str | None:
        return f"{name!r} is in more than one group, or twice in one" if members.count(name) > 1 else None

    return [
        ("cache.disk_file", [settings.cache.disk_file], file_fault),
        ("cache.life", tuple(settings.cache.life), method_glob_fault),
        ("cache.groups", tuple(settings.cache.groups), name_fault),
        ("cache.groups", sorted(set(members)), member_fault),
    ]


def _translation_checks(translation: TranslationSettings, upstream_fault: Callable[[str], str | None]) -> list[_Check]:
    def url_fault(url: str) -> str | None:
        if translation.engine != "libretranslate":
            return None
        return libretranslate_url_fault(url)

    amounts = [translation.per_call, translation.per_1k_prompt, translation.per_1k_completion]
    names = ("per_call", "per_1k_prompt", "per_1k_completion")
    return [
        ("translation.upstream", [translation.upstream], upstream_fault),
        ("translation.arguments", [translation.arguments], chat_arguments_fault),
        ("translation.url", [translation.url], url_fault),
        *_key_checks("translation", translation),
        *((f"translation.{name}", [amount], amount_fault) for name, amount in zip(names, amounts, strict=True)),
    ]


def _jobs_checks(jobs: JobsSettings, upstream_fault: Callable[[str], str | None]) -> list[_Check]:
    def url_fault(url: str) -> str | None:
        if jobs.backend != "midjourney":
            return 'counts only with backend = "midjourney"' if url else None
        return base_url_fault(url) if url else "expected where the Midjourney proxy is, since it is the backend"

    return [
        ("jobs.upstream", [jobs.upstream], upstream_fault),
        ("jobs.url", [jobs.url], url_fault),
        *_key_checks("jobs", jobs),
        ("jobs.notify_hosts", jobs.notify_hosts, host_fault),
        ("jobs.data_dir", [jobs.data_dir], path_fault),
        ("jobs.public_url", [jobs.public_url] if jobs.public_url else [], base_url_fault),
    ]


def _key_checks(at: str, section: Keyed) -> list[_Check]:
    def one_too_many(file: str) -> str | None:
        return "api_key_env is given too: give one of them" if file and section.api_key_env else None

    return [
        (f"{at}.api_key_env", [section.api_key_env], variable_fault),
        (f"{at}.api_key_file", [section.api_key_file], path_fault),
        (f"{at}.api_key_file", [section.api_key_file], one_too_many),
    ]


def _upstream_checks(at: str, upstream: UpstreamSettings, names: Sequence[str]) -> list[_Check]:
    """`names` are those of the upstreams before it."""

    def taken(name: str) -> str | None:
        return f"another upstream is named {name!r} too" if name in names else None

    return [
        (f"{at}.name", [upstream.name], name_fault),
        (f"{at}.name", [upstream.name], taken),
        (f"{at}.base_url", [upstream.base_url], base_url_fault),
        *_key_checks(at, upstream),
        (f"{at}.ca_file", [upstream.ca_file], path_fault),
        (f"{at}.pass_headers", upstream.pass_headers, header_fault),
    ]
