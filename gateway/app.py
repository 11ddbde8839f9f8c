"""Builds the server from the settings and lives its life: start, readiness, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import orjson
from aiohttp import web

from gateway.accounts import AccountDirectory
from gateway.billing import Billing
from gateway.cache_store import MemoryCache
from gateway.caching import Cache
from gateway.charging import Prices, translation_price
from gateway.config import LogSettings, Settings, UpstreamSettings, api_key
from gateway.delivery import Delivery
from gateway.detours import Detours, routed_names
from gateway.errors import ERROR_CODES, ConfigurationError
from gateway.formatting import Renderer
from gateway.fronts.client import Client
from gateway.fronts.native import error_object
from gateway.fronts.reading import Known
from gateway.fronts.writing import Writing
from gateway.ids import CallIds, microseconds_of
from gateway.jobs.files import PATH as FILES_PATH
from gateway.jobs.office import Office, open_office
from gateway.jobs.serving import send_file
from gateway.limits import MemoryLimits
from gateway.login_guard import LoginGuard
from gateway.logs import configure_logging
from gateway.own_methods import OwnMethods
from gateway.page_tokens import PageTokens
from gateway.plain import PlainConnection
from gateway.plugin_loading import Plugins, load_plugins
from gateway.request_head import RequestHead, is_valid
from gateway.route import Road, Upstream
from gateway.server import SENT, SENT_LAST, ClientConnection, Server
from gateway.store.cache_entries import Clearing
from gateway.store.counting import Days
from gateway.store.sqlite import CHECK_LIMIT_S, SqliteStore, open_store
from gateway.store.sqlite_cache import DiskCache
from gateway.tokens import counter_of
from gateway.translation.answers import languages
from gateway.translation.engines import ChatEngine, Engine, LibreTranslateEngine, Service
from gateway.translation.interpreter import Interpreter
from gateway.translation.stage import Translation
from gateway.upstream.head import lines_named
from gateway.upstream.pool import Deadlines, Pool
from gateway.upstream.request import Target, target_of

LOG = logging.getLogger("gateway")
DRAIN_LOOK_S = 0.05
FINISH_LIMIT_S = 2.0
SWITCH_S = 0.0005
"""How long a thread that computes keeps the event loop, or the store's writer, waiting for its turn."""

PASSED_HEADERS = (
    "content-disposition", "content-language", "openai-processing-ms", "openai-version", "retry-after",
    "retry-after-ms", "x-should-retry",
)  # fmt: skip
"""Headers of the upstream that a client sees; the operator's `pass_headers` are added."""


class Application:
    """The running gateway: requests by path to the road, health and readiness, and the drain."""

    def __init__(self, settings: Settings, road: Road, jobs: Office | None) -> None:
        self._settings = settings
        self._road = road
        self._jobs = jobs
        self._trusted = tuple(ip_network(text, strict=False) for text in settings.server.trusted_proxies)
        self.draining = False
        self._answering = 0

    @property
    def under_way(self) -> int:
        """Calls that are not over, those among them whose clients have left, and jobs that would be lost."""
        jobs = self._jobs.workers.under_way if self._jobs is not None else 0
        return self._answering + len(self._road.reading_on) + jobs

    async def finish(self) -> None:
        """Once every connection was ended: waits until their calls have heard of it, and settles what is read on.

        A call that runs in a task of its own hears of it some rounds of the loop later.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_LIMIT_S):
                while self._answering:  # noqa: ASYNC110  # no call tells anyone that it is over
                    await asyncio.sleep(0.001)
        await self._road.finish_reading_on()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request that aiohttp read."""
        connection = cast(ClientConnection, request.protocol)
        head = RequestHead(
            request.method,
            request.raw_path,
            request.headers,
            request.content_type,
            http11=request.version >= (1, 1),
            # HTTP/1.0 clients that ask for keep-alive get a closed connection: the honest answer to the older protocol.
            keep_alive=request.keep_alive and request.version >= (1, 1),
        )
        content = request.content if request.body_exists else None
        client = Client(head, connection, self._settings.server, content=content, incoming=connection)
        connection.answer_begun = False
        if connection.has_pipelined:
            # From Python 3.12 on aiohttp runs handlers eagerly: a row of refusals would not let anyone else in.
            await asyncio.sleep(0)
        valid = request.version[0] == 1 and is_valid(head)
        return SENT if await self._answer(client, valid=valid) else SENT_LAST

    def handle_plain(self, connection: PlainConnection, head: RequestHead, body: bytes) -> Coroutine[Any, Any, bool]:
        """Answers a plain request; the coroutine returns whether the connection may carry another."""
        return self._answer(Client(head, connection, self._settings.server, body=body), valid=True)

    async def _answer(self, client: Client, *, valid: bool) -> bool:
        if self._trusted:
            client.trust(self._trusted)
        if self.draining:
            client.keep_alive = False
        if self._settings.server.cors_origins:
            client.cors = _cors(client.head, self._settings.server.cors_origins)
        self._answering += 1
        try:
            await self._dispatch(client, valid=valid)  # not a coroutine of its own: one less to step through
        finally:
            self._answering -= 1
        return client.keep_alive and not self.draining

    def _dispatch(self, client: Client, *, valid: bool) -> Awaitable[None]:
        """What answers a request of this path."""
        path = client.head.path
        if not valid:
            client.keep_alive = False
            return _say(client, 400, "4003", "the request's target, Host or version is not valid")
        if client.head.method == "OPTIONS":
            return _preflight(client)
        if path.startswith("/v1/"):
            return self._road.native(client)
        if path == "/openai/custom/":
            return self._road.custom(client, "openai", "custom")
        if path == "/healthz":
            return client.send(200, "text/plain", b"ok\n")
        if path == "/readyz":
            ready = not self.draining and self._road.takes_calls
            why = b"ready\n" if ready else b"draining\n" if self.draining else b"the store cannot be written\n"
            return client.send(200 if ready else 503, "text/plain", why)
        if path == "/openai/api_call.php":
            return self._road.custom(client, "openai", None)
        if path.startswith(FILES_PATH):
            return send_file(client, self._jobs.files if self._jobs is not None else None)
        segments = path.strip("/").split("/")
        if len(segments) == 2 and all(segments):
            return self._road.custom(client, segments[0], segments[1])
        return _say(client, 404, "4010", "calls go to /openai/custom/ or to /v1/…")


def _say(client: Client, status: int, code: str, reason: str) -> Awaitable[None]:
    """An error outside of any call."""
    return client.send(
        status, "application/json", error_object(ERROR_CODES[code], reason, None), f"X-Error-Code: {code}\r\n"
    )


def _cors(request: RequestHead, origins: tuple[str, ...]) -> str:
    """The header lines that let a listed origin's page read the answer."""
    origin = request.headers.get("Origin", "")
    if not origin or ("*" not in origins and origin not in origins):
        return "Vary: Origin\r\n"
    allowed = "*" if "*" in origins else origin
    exposed = (
        "X-Request-Id, X-Last-Id, X-Error-Code, X-Cache, X-Translate-Status, X-Prompt-Translate-Status, Server-Timing,"
        " Retry-After, Age, X-Cache-Shared, X-Cache-Made-Of"
    )
    return f"Access-Control-Allow-Origin: {allowed}\r\nAccess-Control-Expose-Headers: {exposed}\r\nVary: Origin\r\n"


def _preflight(client: Client) -> Awaitable[None]:
    """What a browser asks before it lets a page call."""
    fields = "Allow: GET, HEAD, POST, DELETE, PUT, PATCH, OPTIONS\r\n"
    if "Allow-Origin" in client.cors:
        fields += (
            "Access-Control-Allow-Methods: GET, POST, DELETE, PUT, PATCH\r\n"
            "Access-Control-Allow-Headers: *, Authorization\r\n"  # SDKs send a dozen of their own
            "Access-Control-Max-Age: 600\r\n"
        )
    return client.send(204, "", b"", fields)


async def serve(
    settings: Settings,
    *,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    add_account: str = "gateway accounts add NAME",
) -> None:
    """Serves until `stop` is set, or SIGTERM or SIGINT where it is not given; then drains.

    `ready` is called with the address that clients use; `add_account` is the command that an operator without any
    account is told. Raises ConfigurationError for what cannot work.
    """
    stop = stop or _stop_on_signals()
    plugins = load_plugins(settings.plugins, directory=_directory(settings))
    keys = {name: api_key(_upstream(settings, name), os.environ) for name in ("", *sorted(routed_names(settings)))}
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(settings, check_limit_s=CHECK_LIMIT_S)
        stack.callback(store.close)
        if unknown := await asyncio.to_thread(store.claim, settings.server.node_id):
            LOG.warning("%d calls of a process that died are unknown and not charged; see gateway audit", unknown)
        accounts = AccountDirectory(store, store.pepper.digest, Days(settings.defaults.timezone))
        await accounts.start()
        stack.push_async_callback(accounts.stop)
        translation = Translation(plugins.translators, _interpreter(settings, stack), settings.translation)
        upstreams = {}
        for name, key in keys.items():
            upstream = upstreams[name] = _open_upstream(_upstream(settings, name), key, translation)
            stack.callback(upstream.pool.close)
        cache = _cache(settings, upstreams[""].pool, store)
        stack.callback(cache.close)
        await cache.open()
        jobs = _jobs(settings, store, stack)
        road = _road(settings, plugins, accounts, upstreams, store, translation, cache, jobs)
        application = Application(settings, road, jobs)
        stack.push_async_callback(application.finish)
        server = Server(application.handle, application.handle_plain, settings.server)
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.callback(server.stop_sweeping)
        listener = _listen(settings.server.host, settings.server.port)
        site = web.SockSite(runner, listener, backlog=4096)
        await site.start()
        if jobs is not None:
            jobs.files.base_url = jobs.files.base_url or _address(listener)
            await jobs.workers.start()
        if ready is not None:
            ready(_address(listener))
        if not len(accounts):
            LOG.warning("there is no account yet, so every call is refused; add one: %s", add_account)
        gc.collect()
        gc.freeze()  # what start-up made stays: no later collection looks at it again
        await stop.wait()
        if jobs is not None:
            jobs.workers.drain()
        await _drain(application, server, site, settings.server.drain_s)


def run(settings: Settings, add_account: str) -> int:
    """Serves in this process until it is told to stop, as serve() does; the exit status."""
    ready = partial(LOG.info, "serving at %s")
    run_process(serve(settings, ready=ready, add_account=add_account), settings.log)
    return 0


def run_process(main: Coroutine[object, object, None], log: LogSettings) -> None:
    """Runs `main` as what this process is for: with its log, its limits, and the fastest loop there is."""
    _raise_file_limit()
    sys.setswitchinterval(SWITCH_S)
    configure_logging(log)
    loop_factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


async def _drain(application: Application, server: Server, site: web.BaseSite, limit_s: float) -> None:
    """Accepts no more, lets open calls finish and clients read their answers to the end, up to the limit."""
    application.draining = True
    await site.stop()
    LOG.info("draining: %d calls under way", application.under_way)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            # No transport tells when its last byte has gone.
            while application.under_way or any(  # noqa: ASYNC110
                client.unsent_bytes or client.is_receiving for client in server.clients()
            ):
                await asyncio.sleep(DRAIN_LOOK_S)
    if application.under_way:
        LOG.warning("%d calls did not finish within %g s and are cut", application.under_way, limit_s)


def _road(
    settings: Settings,
    plugins: Plugins,
    accounts: AccountDirectory,
    upstreams: dict[str, Upstream],
    store: SqliteStore,
    translation: Translation,
    cache: Cache,
    jobs: Office | None,
) -> Road:
    """The road; `upstreams` by name, the first one without."""
    defaults = settings.defaults
    langs = languages(plugins.translators)
    if settings.translation.enforce_default and defaults.lang not in plugins.translators:
        raise ConfigurationError(f"translation.enforce_default: no translator for {defaults.lang!r} is loaded")
    if "json" not in plugins.formatters:
        raise ConfigurationError("plugins: the format json cannot be switched off; errors are written in it")
    limits = MemoryLimits(accounts.counts, Days(defaults.timezone))
    return Road(
        known=Known(
            tuple(plugins.formatters),
            langs,
            defaults.model,
            enforced_lang=defaults.lang if settings.translation.enforce_default else None,
        ),
        methods=settings.methods,
        ids=CallIds(settings.server.node_id, microseconds_of(store.greatest_call_id())),
        accounts=accounts,
        upstream=upstreams[""],
        others=upstreams,
        detours=Detours(settings) or None,
        translation=translation,
        cache=cache,
        writing=Writing(
            plugins.formatters,
            settings.formats,
            Renderer(settings.formats),
            settings.stream,
            ZoneInfo(defaults.timezone),
            defaults.lang,
        ),
        own=OwnMethods(
            plugins.methods,
            store,
            accounts.counts,
            limits.running,
            PageTokens(store.pepper.key_for("page tokens")),
            jobs=None if jobs is None else jobs.desk,
        ),
        store=store,
        guard=LoginGuard(settings.limits.failed_logins_per_minute),
        limits=limits,
        billing=_billing(settings, store),
    )


def _billing(settings: Settings, store: SqliteStore) -> Billing:
    prices, charging = Prices(settings.price), settings.charging
    if prices:
        without = "refused" if charging.unpriced == "refused" else "free"
        LOG.info("calls that no price matches are %s (charging.unpriced)", without)
        if settings.translation.engine != "none" and not settings.translation.charged:
            LOG.info("what translations cost is not charged (translation.charged)")
    counter = counter_of(charging.tokenizer)
    translations = translation_price(settings.translation) if settings.translation.charged else None
    return Billing(prices, charging, settings.idempotency, _upstream(settings), counter, store, translations)


def _jobs(settings: Settings, store: SqliteStore, stack: contextlib.AsyncExitStack) -> Office | None:
    """What image jobs need; None where the operator wants none."""
    upstream = _upstream(settings, settings.jobs.upstream)
    key = api_key(settings.jobs if settings.jobs.backend == "midjourney" else upstream, os.environ)
    return open_office(settings, store, upstream, key, stack)


def _interpreter(settings: Settings, stack: contextlib.AsyncExitStack) -> Interpreter | None:
    """The engine of translations; None where the operator wants none. Its connections are closed with the stack."""
    translation = settings.translation
    if translation.engine == "none":
        return None
    engine: Engine
    if translation.engine == "upstream":
        upstream = _upstream(settings, translation.upstream)
        service = _service(upstream, api_key(upstream, os.environ), translation.timeout_s, stack)
        arguments = orjson.loads(translation.arguments)
        engine = ChatEngine(service, translation.model, arguments, counter_of(settings.charging.tokenizer).count)
    else:
        service = _service(
            UpstreamSettings(name="libretranslate", base_url=translation.url), "", translation.timeout_s, stack
        )
        engine = LibreTranslateEngine(service, api_key(translation, os.environ), translation.codes)
    return Interpreter(
        engine,
        translation_price(translation),
        concurrency=translation.concurrency,
        memory_bytes=translation.memory_bytes,
        deadline_s=translation.timeout_s,
    )


def _service(settings: UpstreamSettings, key: str, timeout_s: float, stack: contextlib.AsyncExitStack) -> Service:
    """An engine's service, with connections of its own: it may be slow without being in anyone's way."""
    target = target_of(settings, key)
    pool = _pool(settings, target)
    stack.callback(pool.close)
    return Service(target, pool, timeout_s)


def _cache(settings: Settings, pool: Pool, store: SqliteStore) -> Cache:
    chosen, secret = settings.cache, store.pepper.key_for("cache")
    memory = MemoryCache(chosen.memory_bytes)
    cache = Cache(chosen, secret, pool, memory)
    if chosen.disk_file and chosen.memory_bytes:
        loop = asyncio.get_running_loop()

        def cleared(clearing: Clearing) -> None:
            loop.call_soon_threadsafe(cache.cleared, clearing.selection, clearing.at)

        cache.disk = DiskCache(Path(chosen.disk_file), secret, chosen.disk_bytes, cleared=cleared)
    return cache


def _upstream(settings: Settings, name: str = "") -> UpstreamSettings:
    """The upstream of this name, which the configuration was seen to have; the first without one."""
    if not settings.upstream:
        raise ConfigurationError("no upstream: set OPENAI_API_KEY, or name one in [[upstream]] of the configuration")
    return next((upstream for upstream in settings.upstream if upstream.name == name), settings.upstream[0])


def _open_upstream(settings: UpstreamSettings, key: str, translation: Translation) -> Upstream:
    target = target_of(settings, key)
    passed = lines_named(name.encode() for name in (*PASSED_HEADERS, *settings.pass_headers))
    delivery = Delivery(translation, passed, settings.max_answer_bytes)
    return Upstream(settings, target, _pool(settings, target), delivery)


def _pool(settings: UpstreamSettings, target: Target) -> Pool:
    deadlines = Deadlines(
        connect_s=settings.connect_timeout_s,
        first_byte_s=settings.first_byte_timeout_s,
        idle_s=settings.idle_timeout_s,
        total_s=settings.total_timeout_s,
        keepalive_s=settings.keepalive_timeout_s,
    )
    return Pool(target.host, target.port, target.tls, deadlines)


def _directory(settings: Settings) -> Path | None:
    return Path(settings.plugins.directory) if settings.plugins.directory else None


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises ConfigurationError where the address cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _raise_file_limit() -> None:
    """Every stream holds two sockets: the soft limit of open files is lifted to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
