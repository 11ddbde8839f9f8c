"""How a call of the documented API is read (contract, section 1): query, form, JSON or multipart become one call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlencode

import msgspec
import orjson

from gateway.arguments import members_of, with_members, without_members
from gateway.credentials import Credentials
from gateway.errors import GatewayError
from gateway.formatting import NotJson, check_json, read_object
from gateway.fronts.client import SMALL_BODY_BYTES, Client
from gateway.fronts.multipart import Form
from gateway.fronts.reading import (
    Authenticate,
    Known,
    Reading,
    Upload,
    credentials_come_first,
    decode,
    idempotency_key,
    split_pairs,
    with_default_model,
    yes_or_no,
)
from gateway.methods import TEXT_ARGUMENTS, TEXT_OR_LIST_ARGUMENTS, Method, check_name, check_required, known_method
from gateway.request_head import RequestHead
from gateway.types import NO_ARGUMENTS, Arguments, Call, JsonValue, PerCall, RenderingRefused

OWN_PARAMETERS = frozenset({
    "key", "secret", "api_name", "method", "api", "_o_args", "cache", "cache_pace", "result_type", "lang",
    "lang_prompt", "version", "_method", "idempotency_key",
})  # fmt: skip
IGNORED_PARAMETERS = frozenset({
    "sign", "dateline", "guest_ip", "source_data", "session", "desc_lang", "prop_lang", "API_type",
})  # fmt: skip
"""The reseller's own clients send these: accepted, ignored, never sent upstream."""
NOT_ARGUMENTS = OWN_PARAMETERS | IGNORED_PARAMETERS

MAX_QUERY_BYTES = 16_384
"""The longest query that is made of arguments: upstreams take a request line of some such length and no longer."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


@dataclass(slots=True)
class _Parameters:
    """The parameters of one call as they are found. The first fault waits: a missing parameter is told before it."""

    own: dict[str, str]
    flat: dict[str, bytes] = field(default_factory=dict)  # arguments given flat, as JSON
    texts: list[tuple[str, str]] = field(default_factory=list)  # the same as they were given, for a multipart upstream
    body: Arguments | None = None  # a JSON body that holds nothing but arguments
    form: Form | None = None
    fault: GatewayError | None = None
    unread: bool = False  # a part of them could not be read
    _credentials: Credentials | None = None

    @property
    def has_files(self) -> bool:
        """Whether the call is an upload."""
        return self.form is not None and bool(self.form.files)

    def add(self, name: str, value: str) -> None:
        """A parameter given as text."""
        if name in OWN_PARAMETERS:
            self.add_own(name, value)
        elif name not in IGNORED_PARAMETERS:
            self.add_flat(name, flat_json(name, value))
            self.texts.append((name, value))

    def add_encoded(self, raw: str) -> None:
        """The parameters of a query string or a form."""
        for name, value in split_pairs(raw):
            try:
                self.add(decode(name), decode(value))
            except GatewayError as error:
                self.lose(error)

    def add_query(self, head: RequestHead) -> None:
        """The parameters of a request's query, noted where they are faultless and the head may come again."""
        noted = head.notes
        if isinstance(noted, _Query):
            self.own.update(noted.own)
            self.flat.update(noted.flat)
            self.texts += noted.texts
            self._credentials = noted.credentials
        elif head.query:
            self.add_encoded(head.query)
            if self.fault is None:
                known = self.own.get("key") and self.own.get("secret")
                credentials = self.credentials if known else None
                head.notes = _Query(dict(self.own), dict(self.flat), list(self.texts), credentials)

    @property
    def credentials(self) -> Credentials:
        """The caller's key and secret, which must have been given."""
        if self._credentials is None:
            self._credentials = Credentials(self.own["key"], self.own["secret"])
        return self._credentials

    def add_own(self, name: str, value: str) -> None:
        """One of the gateway's own parameters."""
        if name == "api_name":  # several may be given: each has to be right, and which one is wrong is told as 4010
            value = value if self.own.get(name, "custom") == "custom" else self.own[name]
            self.own[name] = value
        name = "method" if name == "api" else name
        value = value.upper() if name == "_method" else value
        if self.own.setdefault(name, value) != value:
            self.wrong(GatewayError("4003", f"{name} is given twice with different values", param=name))

    def add_flat(self, name: str, text: bytes) -> None:
        """An argument, as JSON."""
        if self.flat.setdefault(name, text) != text:
            self.wrong(GatewayError("4003", f"{name} is given twice with different values", param=name))

    def wrong(self, fault: GatewayError) -> None:
        """Remembers the first fault."""
        self.fault = self.fault or fault

    def lose(self, fault: GatewayError) -> None:
        """Remembers that something could not be read, so that nobody misses what may stand in it."""
        self.unread = True
        self.wrong(fault)


class _Query(PerCall, frozen=True):
    """The parameters that a query gave, as in _Parameters."""

    own: dict[str, str]
    flat: dict[str, bytes]
    texts: list[tuple[str, str]]
    credentials: Credentials | None  # where both stand in it


async def read_call(
    client: Client, own: dict[str, str], known: Known, request_id: str, authenticate: Authenticate
) -> Reading:
    """Reads a call. Raises 4014 for what is missing, then 4003 for what is wrong; 4004 to 4007 before a long body.

    `own` is filled with the gateway's own parameters as they are found, so that a refusal can be written in the format
    that was asked for; it may hold `api_name` from the path already.
    """
    parameters = _Parameters(own)
    await _collect(parameters, client, authenticate)
    if not (own.get("key") and own.get("secret") and own.get("method")):
        missing = [name for name in ("key", "secret", "method") if not own.get(name)]
        raise GatewayError(
            "4014", f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing", param=missing[0]
        )
    call, upload = _call(parameters, client, known, request_id)
    key = idempotency_key(own.get("idempotency_key"), client.head.headers.get("Idempotency-Key"))
    return Reading(parameters.credentials, call, upload, idempotency_key=key)


async def _collect(parameters: _Parameters, client: Client, authenticate: Authenticate) -> None:
    try:
        parameters.add_query(client.head)
        if client.has_body:
            body = await _read_body(parameters, client, authenticate)
            if body is not None:
                _add_body(parameters, client.head.content_type, body)
    except GatewayError as error:
        if error.code.code != "4003":
            raise
        parameters.lose(error)


async def _read_body(parameters: _Parameters, client: Client, authenticate: Authenticate) -> bytes | None:
    """The whole body, or None for a form of several parts, which is added as it is read."""
    own = parameters.own
    identified = bool(own.get("key") and own.get("secret"))
    if not client.body_in_hand:
        if identified:
            authenticate(parameters.credentials)
        elif client.content_length is not None:
            raise credentials_come_first()
    if client.head.content_type == "multipart/form-data":
        parameters.form = form = Form(client, identified=identified)
        await form.read()
        for name, value in form.fields:
            parameters.add(name, value)
        return None
    limit = client.settings.max_json_bytes if identified else SMALL_BODY_BYTES
    body = client.body_with_head()
    if body is None:
        body = await client.read_body(limit)
    if body is None or len(body) > limit:
        if not identified:
            raise credentials_come_first()
        raise GatewayError("4003", f"a body may hold {limit} bytes; larger ones are for files only")
    return body


def _add_body(parameters: _Parameters, media_type: str, body: bytes) -> None:
    if media_type == "application/json" or body.lstrip()[:1] in {b"{", b"["}:
        _add_json(parameters, body)
    elif media_type in {"application/x-www-form-urlencoded", "application/octet-stream", "text/plain"}:
        parameters.add_encoded(_form_text(body))
    else:
        raise GatewayError("4003", "a body is a form, JSON or multipart/form-data")


def _form_text(body: bytes) -> str:
    try:
        return body.strip().decode("utf-8")
    except UnicodeDecodeError:
        raise GatewayError("4003", "the form is not valid UTF-8") from None


def _add_json(parameters: _Parameters, body: bytes) -> None:
    """A JSON body: parameters and flat arguments together, or nothing but arguments, which then stay as written."""
    values = read_object(body)
    if NOT_ARGUMENTS.isdisjoint(values):
        parameters.body = Arguments(body, values)
        return
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for name, text in members.items():
        value = values[name]
        if name == "_o_args" and (value is None or isinstance(value, dict)):
            parameters.add_own(name, "" if value is None else bytes(text).decode())
        elif name in OWN_PARAMETERS:
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise GatewayError("4003", f"{name} must be text", param=name)
            parameters.add_own(name, str(value))
        elif name not in IGNORED_PARAMETERS:
            parameters.add_flat(name, bytes(text))
            parameters.texts.append((name, value if isinstance(value, str) else bytes(text).decode()))


def flat_json(name: str, value: str) -> bytes:
    """A flat argument as JSON: numbers, true, false, null, arrays and objects are read as such, all else is text.

    Raises 4003 for what is JSON and could not stand in `_o_args` either: a repeated key, half a surrogate pair, …
    """
    if name in TEXT_ARGUMENTS or not _is_json(name, value):
        return orjson.dumps(value)
    text = value.encode()
    try:
        read_object(b'{"":%b}' % text)
    except GatewayError as error:
        raise GatewayError("4003", f"{name}: {error.reason}", param=name) from None
    return text


def _is_json(name: str, value: str) -> bool:
    """Whether an argument's text is meant as JSON."""
    if value[:1] in {"[", "{"}:
        try:
            check_json(value.encode())
        except NotJson:
            return False
        except RenderingRefused:
            return True
        return True
    if name in TEXT_OR_LIST_ARGUMENTS:
        return False
    return value in {"true", "false", "null"} or _NUMBER.fullmatch(value) is not None


def _call(parameters: _Parameters, client: Client, known: Known, request_id: str) -> tuple[Call, Upload | None]:
    """Puts the call together, in the order in which its faults are told."""
    own = parameters.own
    name = own["method"]
    arguments = NO_ARGUMENTS
    method: Method | None = None
    try:
        name = check_name(name)
        method = known_method(name)
        arguments = _arguments(parameters)
    except GatewayError as error:
        parameters.lose(error)
    _check(parameters, client, method, arguments, known)
    verb = _verb(own, client, method, bool(arguments.values), has_files=parameters.has_files)
    arguments, query, upload = _upstream_form(parameters, name, verb, arguments, known)
    call = Call(
        request_id=request_id,
        front="custom",
        method=name,
        verb=verb,
        arguments=arguments,
        query=query,
        result_type=own.get("result_type") or "json",
        lang=own.get("lang") or known.enforced_lang,
        lang_prompt=yes_or_no(own.get("lang_prompt")),
        cache=yes_or_no(own.get("cache")),
        cache_pace=yes_or_no(own.get("cache_pace")),
        version=2 if own.get("version") == "2" else 1,
        stream=arguments.values.get("stream") is True,
        client_ip=client.ip,
    )
    return call, upload


def _check(parameters: _Parameters, client: Client, method: Method | None, arguments: Arguments, known: Known) -> None:
    """Raises 4014 for an argument or a file that is missing, then 4003 for the first fault."""
    own = parameters.own
    if not parameters.unread:
        deleting = own.get("_method") == "DELETE" or client.head.method == "DELETE"
        check_required(None if deleting else method, arguments.values)
        if method is not None and method.file and method.takes_arguments and not (parameters.has_files or deleting):
            _check_file(method, arguments)
    fault = parameters.fault or _wrong_value(own, known)
    if fault is not None:
        raise fault


def _upstream_form(
    parameters: _Parameters, name: str, verb: str, arguments: Arguments, known: Known
) -> tuple[Arguments, str, Upload | None]:
    """How the arguments travel: as the JSON body of a POST, beside its files in a form, or else in the query."""
    if verb != "POST":
        return arguments, _query(arguments), None
    if parameters.has_files:
        return arguments, "", _upload(parameters, arguments, name, known)
    if arguments.values:
        arguments = with_default_model(arguments, name, known.default_models)
    return arguments, "", None


def _query(arguments: Arguments) -> str:
    pairs = [(name, text_of(value)) for name, value in arguments.values.items()]
    # Encoding takes its time and never shortens: what is too long already is not encoded first.
    if sum(len(name) + len(text) + 1 for name, text in pairs) <= MAX_QUERY_BYTES:
        query = urlencode(pairs)
        if len(query) <= MAX_QUERY_BYTES:
            return query
    raise GatewayError("4003", f"the arguments of this method travel in a URL and may hold {MAX_QUERY_BYTES} bytes")


def _check_file(method: Method, arguments: Arguments) -> None:
    """Raises 4014 where a file is missing; newer interfaces take it as an argument too (a URL or an id)."""
    if arguments.values.keys().isdisjoint({method.file, f"{method.file}s"}):
        raise GatewayError("4014", f"{method.pattern} needs a file in the part {method.file!r}", param=method.file)


def _arguments(parameters: _Parameters) -> Arguments:
    """`_o_args`, with the flat arguments that it does not name in front of it."""
    text = parameters.own.get("_o_args", "").strip()
    arguments = parameters.body or NO_ARGUMENTS
    if text:
        raw = text.encode()
        # Its own parameters, which a confused caller may have put among them, have no meaning there.
        named = without_members(Arguments(raw, _o_args(raw)), OWN_PARAMETERS)
        if parameters.body is None and not parameters.flat:
            return named
        extra = members_of(arguments, named.values)
        arguments = with_members(named, extra, {name: orjson.loads(value) for name, value in extra.items()})
    if parameters.flat:
        extra = {name: value for name, value in parameters.flat.items() if name not in arguments.values}
        arguments = with_members(arguments, extra, {name: orjson.loads(value) for name, value in extra.items()})
    return arguments


def _o_args(raw: bytes) -> dict[str, JsonValue]:
    try:
        return read_object(raw)
    except GatewayError as error:
        raise GatewayError("4003", f"_o_args: {error.reason}", param="_o_args") from None


def _wrong_value(own: Mapping[str, str], known: Known) -> GatewayError | None:
    """The first of the gateway's own parameters whose value is not one of those that exist."""
    for name, values in known.values.items():
        value = own.get(name)
        if value and value not in values:
            return GatewayError("4003", f"{name} must be one of {', '.join(sorted(values))}", param=name)
    return None


def _verb(
    own: Mapping[str, str], client: Client, method: Method | None, has_arguments: bool, *, has_files: bool
) -> str:
    """The HTTP method upstream (contract, section 1, Methods)."""
    asked = own.get("_method")
    if asked:
        return asked
    if client.head.method == "DELETE":
        return "DELETE"
    if has_files:
        return "POST"
    return "POST" if has_arguments and (method is None or method.takes_arguments) else "GET"


def _upload(parameters: _Parameters, arguments: Arguments, name: str, known: Known) -> Upload:
    """A call with files: its arguments travel as fields of the form."""
    given = dict(parameters.texts)
    fields: list[tuple[str, str]] = []
    for key, value in arguments.values.items():
        if isinstance(value, list):
            repeated = key if key.endswith("[]") else f"{key}[]"  # made once: the name may be as long as the list
            fields += [(repeated, text_of(item)) for item in value]
        else:
            fields.append((key, given[key] if key in given and "_o_args" not in parameters.own else text_of(value)))
    if "model" not in arguments.values and name in known.default_models:
        fields.append(("model", known.default_models[name]))
    return cast(Form, parameters.form).upload(fields, NOT_ARGUMENTS)


def text_of(value: JsonValue) -> str:
    """An argument as a form or a query writes it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
