"""From what the upstream answered to what the client is given: which answers count, and which way each goes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from msgspec.structs import replace

from gateway.errors import ErrorCode, GatewayError
from gateway.formatting import NotJson, check_json
from gateway.fronts.writing import Whole, Writer
from gateway.methods import known_method
from gateway.progress import NO_RESULT, SUCCESS, Progress
from gateway.reshaping import Shape, reshaped
from gateway.settling import Settler
from gateway.translation.stage import Translation
from gateway.types import Call, RenderingRefused
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.head import ResponseHead

JSON = b"application/json"
EVENTS = b"text/event-stream"
REFUSED_CREDENTIALS = frozenset({401, 403, 407, 408})
"""Answers that speak of the operator's own standing with the upstream, not of this request (contract, section 4)."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How answers are delivered, the same for every call.

    `pass_headers` finds the lines of the upstream's head that a client sees.
    """

    translation: Translation
    pass_headers: re.Pattern[bytes]
    max_answer_bytes: int

    async def deliver(
        self,
        writer: Writer,
        link: UpstreamConnection,
        head: ResponseHead,
        call: Call,
        progress: Progress,
        shape: Shape | None = None,
    ) -> None:
        """Writes an answer by what it is: a stream, a file, or JSON or text as a whole. Raises 4002 and 5000.

        `call` is the one that the client made; a success is given the `shape` that its interface has.
        """
        refuse_unusable(head)
        fields = self._passed_fields(head)
        if head.status >= 300:
            await writer.whole(await self._whole(link, head, fields, progress.settler))
        elif head.media_type == EVENTS:
            translation = None if call.lang is None else self.translation.stream(call, progress)
            await writer.stream(link, head, fields, translation, shape)
        elif shape is None and is_file(head, call):
            await writer.file(link, head, fields)
        elif head.media_type == b"text/html":
            raise GatewayError("4002", "the upstream answered with a web page")
        else:
            answer = await self._whole(link, head, fields, progress.settler)
            if shape is not None:
                text = reshaped(shape, answer.body)
                answer = replace(answer, body=text, json=text)
            progress.outcome = answer.code  # a client that leaves from here on has had the upstream's success
            if call.lang is not None and answer.json is None and answer.body:
                self.translation.leave(progress)
            elif call.lang is not None and answer.json is not None:
                text = await self.translation.whole(answer.json, call, progress)
                if text is not answer.json:
                    answer = replace(answer, body=text, json=text)
            await writer.whole(answer)

    async def absorb(self, link: UpstreamConnection, call: Call, settler: Settler, limit_bytes: int) -> ErrorCode:
        """Reads to its end an answer whose client has left, so that what it used is known. Raises as `deliver`.

        `limit_bytes` bounds what is still read of a stream or a file.
        """
        head = await link.answer()
        refuse_unusable(head)
        fields, content_type = self._passed_fields(head), head.content_type.decode("latin-1")
        relayed = head.status < 300 and (head.media_type == EVENTS or is_file(head, call))
        if not relayed:
            return (await self._whole(link, head, fields, settler)).code
        watch = settler.bill.watch
        if watch is None:  # its delivery had not begun
            watch = settler.watch_stream(link.fail) if head.media_type == EVENTS else settler.watch_file()
        read_bytes = 0
        async for piece in link.pieces():
            read_bytes += len(piece)
            watch.feed(piece)
            if settler.is_file:
                settler.bill.received_bytes += len(piece)
            if read_bytes > limit_bytes:
                return SUCCESS
        watch.finish()
        settler.keep(head.status, content_type, fields, watch.kept)
        return SUCCESS

    async def _whole(self, link: UpstreamConnection, head: ResponseHead, fields: str, settler: Settler | None) -> Whole:
        """The whole answer, once it is known to be what it says; as the upstream wrote it, it is what is settled."""
        body = link.whole_body(self.max_answer_bytes)
        if body is None:
            body = await link.read(self.max_answer_bytes)
        code = SUCCESS if head.status < 300 else NO_RESULT
        json = body if is_json(body, head) else None
        answer = Whole(code, head.status, head.content_type.decode("latin-1"), body, json, fields)
        if settler is not None:
            settler.note_whole(answer.status, answer.content_type, fields, body, json)
        return answer

    def _passed_fields(self, head: ResponseHead) -> str:
        """The upstream's headers that a client may see, as lines."""
        lines = head.lines(self.pass_headers)
        return b"\r\n".join((*lines, b"")).decode("latin-1") if lines else ""


def refuse_unusable(head: ResponseHead) -> None:
    """Raises 4002 for an answer that is not one to this request."""
    status = head.status
    if status in REFUSED_CREDENTIALS:
        raise GatewayError("4002", "the upstream does not accept the gateway's own request")
    if status >= 500 or 300 <= status < 400:
        raise GatewayError("4002", f"the upstream answered {status}")
    if head.is_compressed:
        raise GatewayError("4002", "the upstream compressed its answer although it was asked not to")


def is_file(head: ResponseHead, call: Call) -> bool:
    """Whether the answer is relayed as a file: by its interface, or because it is neither JSON nor text."""
    method = known_method(call.method)
    if method is not None and method.binary:
        return True
    return not (_is_json_type(head.media_type) or head.media_type.startswith(b"text/"))


def is_json(body: bytes, head: ResponseHead) -> bool:
    """Whether a whole body is JSON. Raises 4002 for a success that says so and is not, 5000 for what is too deep."""
    if head.status == 204 or not (body or head.media_type):
        return False
    success = head.status < 300
    if success and not _is_json_type(head.media_type):
        return False
    try:
        check_json(body)
    except NotJson as error:
        if success:
            raise GatewayError("4002", "the upstream's answer is not valid JSON") from error
        return False
    except RenderingRefused as error:
        raise GatewayError("5000", f"the upstream's answer cannot be rendered: {error}") from error
    return True


def _is_json_type(media_type: bytes) -> bool:
    """JSON by its type; an upstream that names no type means the API's own."""
    return media_type == JSON or not media_type or media_type.endswith(b"+json")
