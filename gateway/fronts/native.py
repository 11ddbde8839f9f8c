"""The native front: OpenAI's own API, as official SDKs speak it (contract, section 1)."""

from __future__ import annotations

import re
from collections.abc import Collection

import orjson

from gateway.credentials import Credentials
from gateway.errors import ErrorCode, GatewayError
from gateway.formatting import read_object
from gateway.fronts.client import Client
from gateway.fronts.reading import (
    Authenticate,
    Known,
    Reading,
    Upload,
    decode,
    idempotency_key,
    with_default_model,
    yes_or_no,
)
from gateway.methods import Method, check_required, known_method, name_from_path
from gateway.request_head import RequestHead
from gateway.types import NO_ARGUMENTS, Arguments, Call, PerCall

OWN_PARAMETERS = frozenset(
    {"result_type", "lang", "lang_prompt", "cache", "cache_pace", "key", "secret", "idempotency_key"}
)
"""Query parameters that are the gateway's; every other one is the upstream's."""

VERBS = ("GET", "POST", "DELETE", "PUT", "PATCH")

_MISLABELLED = frozenset({"application/x-www-form-urlencoded", "application/octet-stream", "text/plain"})
"""What tools call a JSON body that nobody told them the type of."""

_BETA = re.compile(r"[A-Za-z0-9_=;,. -]{1,200}")
_MEDIA_TYPE = re.compile(r"[ -~]{1,300}")


async def read_call(
    client: Client, own: dict[str, str], known: Known, request_id: str, authenticate: Authenticate
) -> Reading:
    """Reads a call. Raises 4014 for what is missing, then 4003 for what is wrong; 4004 to 4007 before a long body.

    `own` is filled with the gateway's own parameters, so that a refusal can be written in the format asked for.
    """
    head = client.head.notes
    if not isinstance(head, _Head):
        head = _read_head(client.head, own)
    elif head.own:
        own.update(head.own)
    arguments = NO_ARGUMENTS
    upload = None
    if client.has_body:
        if not client.body_in_hand:
            authenticate(head.credentials)
        if head.holds_arguments:
            arguments = await _arguments(client)
        else:
            upload = Upload(_content_type(client), client.content_length, client.body_pieces())
    name = head.name
    if upload is None and head.verb == "POST":
        check_required(head.method, arguments.values)
        if arguments.values:
            arguments = with_default_model(arguments, name, known.default_models)
    if head.fault is not None:
        raise head.fault
    call = Call(
        request_id=request_id,
        front="native",
        method=name,
        verb=head.verb,
        arguments=arguments,
        query=head.query,
        result_type=_one_of(own, "result_type", known.result_types) if own else None,
        lang=(_one_of(own, "lang", known.languages) if own else None) or known.enforced_lang,
        lang_prompt=yes_or_no(_one_of(own, "lang_prompt", ("yes", "no"))) if own else None,
        cache=yes_or_no((_one_of(own, "cache", ("yes", "no")) if own else None) or head.cache),
        cache_pace=yes_or_no(_one_of(own, "cache_pace", ("yes", "no"))) if own else None,
        stream=arguments.values.get("stream") is True,
        client_ip=client.ip,
    )
    key = None
    if head.idempotency or own:
        key = idempotency_key(own.get("idempotency_key"), head.idempotency)
    return Reading(head.credentials, call, upload, head.passed_headers, key, head.path)


class _Head(PerCall, frozen=True):
    """What a request's head alone says of a call. `own` are the gateway's own parameters in its query."""

    credentials: Credentials
    verb: str
    name: str
    method: Method | None
    query: str
    path: str  # as Reading's
    own: dict[str, str]
    holds_arguments: bool
    passed_headers: str
    idempotency: str | None  # the header
    cache: str | None  # the header
    fault: GatewayError | None  # of the query; a missing argument is told before it


def _read_head(request: RequestHead, own: dict[str, str]) -> _Head:
    """Reads a head, and notes what it says where the head may come again. Raises 4014, then 4003."""
    credentials = _credentials(request.headers.get("Authorization"))
    query, fault = request.query, None
    if query:
        try:
            query = _split_query(query, own)
        except GatewayError as error:
            fault = error
    verb = "GET" if request.method == "HEAD" else request.method
    name = name_from_path(request.path)
    if verb not in VERBS:
        raise GatewayError("4003", f"the HTTP method must be one of {', '.join(VERBS)}")
    method = known_method(name)
    head = _Head(
        credentials=credentials,
        verb=verb,
        name=name,
        method=method,
        query=query,
        path=request.path[1:] if "%" in request.path else "",
        own=dict(own),
        holds_arguments=_holds_arguments(request, method),
        passed_headers=_passed_headers(request),
        idempotency=request.headers.get("Idempotency-Key"),
        cache=_cache(request.headers.get("X-Cache")),
        fault=fault,
    )
    if fault is None:
        request.notes = head
    return head


def _credentials(authorization: str | None) -> Credentials:
    """Key and secret of `Authorization: Bearer KEY:SECRET`; raises 4014 where they are missing."""
    scheme, _, token = (authorization or "").partition(" ")
    if (scheme != "Bearer" and scheme.lower() != "bearer") or not token:
        raise GatewayError("4014", "the header Authorization: Bearer KEY:SECRET is missing", param="key")
    key, _, secret = token.strip().partition(":")
    if not key or not secret:
        raise GatewayError("4014", "the bearer token must be KEY:SECRET", param="secret")
    return Credentials(key, secret)


def _split_query(query: str, own: dict[str, str]) -> str:
    """A query without the gateway's own parameters, which go to `own`."""
    rest = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        name = decode(name)
        if name in OWN_PARAMETERS:
            if own.setdefault(name, decode(value)) != decode(value):
                raise GatewayError("4003", f"{name} is given twice with different values", param=name)
        elif part:
            rest.append(part)
    upstream = "&".join(rest)
    if not re.fullmatch(r"[!-~]*", upstream):
        raise GatewayError("4003", "the query must be percent-encoded")
    return upstream


def _one_of(own: dict[str, str], name: str, allowed: Collection[str]) -> str | None:
    value = own.get(name)
    if value and value not in allowed:
        raise GatewayError("4003", f"{name} must be one of {', '.join(sorted(allowed))}", param=name)
    return value or None


def _holds_arguments(request: RequestHead, method: Method | None) -> bool:
    """Whether the body is read as JSON, by its type; any other one (a form, an SDP offer) goes on as it comes."""
    if not request.headers.get("Content-Type"):
        return True
    kind = request.content_type
    return kind.endswith(("/json", "+json")) or (method is not None and kind in _MISLABELLED)


async def _arguments(client: Client) -> Arguments:
    """The arguments in a JSON body; raises 4003 for one that is none, or too long."""
    limit = client.settings.max_json_bytes
    body = client.body_with_head()
    if body is None:
        body = await client.read_body(limit)
    if body is None or len(body) > limit:
        raise GatewayError("4003", f"a body may hold {limit} bytes; larger ones are for files only")
    return Arguments(body, read_object(body)) if body.strip() else NO_ARGUMENTS


def _content_type(client: Client) -> str:
    content_type: str = client.head.headers["Content-Type"]
    if not _MEDIA_TYPE.fullmatch(content_type):
        raise GatewayError("4003", "Content-Type holds characters that no header may")
    return content_type


def _cache(header: str | None) -> str | None:
    """What the header X-Cache asks for; anything but yes and no asks for nothing."""
    return header if header in {"yes", "no"} else None


def _passed_headers(request: RequestHead) -> str:
    """The few headers of a client that mean something to the upstream."""
    beta = request.headers.get("OpenAI-Beta")
    return f"OpenAI-Beta: {beta}\r\n" if beta and _BETA.fullmatch(beta) else ""


def error_object(code: ErrorCode, reason: str, param: str | None) -> bytes:
    """OpenAI's error object for a failure of the gateway's own."""
    message = f"{code.message}: {reason}" if reason else code.message
    return orjson.dumps({"error": {"message": message, "type": code.kind, "param": param, "code": code.code}})
