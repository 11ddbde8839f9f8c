"""The request that goes upstream: built from nothing of the client's but the method's name and its arguments."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway import __version__
from gateway.config import UpstreamSettings


@dataclass(frozen=True, slots=True)
class Target:
    """Where an upstream is, and the header lines that every request to it carries."""

    name: str
    host: str
    port: int
    tls: ssl.SSLContext | None
    base_path: str
    fields: bytes

    def request(self, verb: str, method: str, query: str, content_type: str, length: int | None, extra: str) -> bytes:
        """A request's head. `length` None: the body is chunked; a GET without a body has `content_type` empty."""
        target = f"{self.base_path}{method[2:]}{'?' if query else ''}{query}"
        if not content_type:
            framing = "" if verb in {"GET", "DELETE"} else "Content-Length: 0\r\n"
        elif length is None:
            framing = f"Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n"
        else:
            framing = f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n"
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
            verb.encode(),
            target.encode("ascii"),
            self.fields,
            f"{extra}{framing}".encode("latin-1"),
        )


def target_of(settings: UpstreamSettings, api_key: str) -> Target:
    """The target that an upstream's settings describe."""
    url = urlsplit(settings.base_url)
    host = url.hostname or ""
    tls = None
    if url.scheme == "https":
        tls = ssl.create_default_context(cafile=settings.ca_file or None)
    port = url.port or (443 if tls else 80)
    shown = f"[{host}]" if ":" in host else host
    authority = shown if url.port is None else f"{shown}:{url.port}"
    authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
    fields = (
        f"Host: {authority}\r\n{authorization}User-Agent: streaming-openai-gateway/{__version__}\r\n"
        "Accept: */*\r\nAccept-Encoding: identity\r\n"
    )
    return Target(settings.name, host, port, tls, url.path.rstrip("/"), fields.encode("latin-1"))
