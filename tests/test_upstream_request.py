"""The request that goes upstream is built anew: the gateway's own headers, and nothing of the client's but the call."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from gateway import __version__
from gateway.config import UpstreamSettings
from gateway.upstream.request import Target, target_of


def target(base_url: str, key: str = "") -> Target:
    return target_of(UpstreamSettings(base_url=base_url), key)


def lines(raw: bytes) -> list[str]:
    head, end, rest = raw.partition(b"\r\n\r\n")
    assert (end, rest) == (b"\r\n\r\n", b"")
    return head.decode("latin-1").split("\r\n")


@pytest.mark.parametrize(
    ("base_url", "host", "port", "authority", "first_line"),
    [
        ("http://upstream.test/v1", "upstream.test", 80, "upstream.test", "GET /v1/models HTTP/1.1"),
        ("https://upstream.test/v1", "upstream.test", 443, "upstream.test", "GET /v1/models HTTP/1.1"),
        ("http://upstream.test:8000/v1", "upstream.test", 8000, "upstream.test:8000", "GET /v1/models HTTP/1.1"),
        ("http://[::1]:8000/v1", "::1", 8000, "[::1]:8000", "GET /v1/models HTTP/1.1"),
        ("http://[::1]/v1", "::1", 80, "[::1]", "GET /v1/models HTTP/1.1"),
        ("http://upstream.test/openai/v1/", "upstream.test", 80, "upstream.test", "GET /openai/v1/models HTTP/1.1"),
        ("http://upstream.test", "upstream.test", 80, "upstream.test", "GET /models HTTP/1.1"),
    ],
)
def test_base_urls_are_read_as_the_sdks_write_them(
    base_url: str, host: str, port: int, authority: str, first_line: str
) -> None:
    read = target(base_url)
    assert (read.host, read.port) == (host, port)
    request = lines(read.request("GET", "v1/models", "", "", None, ""))
    assert request[0] == first_line
    assert f"Host: {authority}" in request


def test_a_request_carries_the_operators_key_and_asks_for_no_compression() -> None:
    request = lines(target("http://a/v1", "sk-key").request("GET", "v1/models", "limit=2&a=%20", "", None, ""))
    assert request == [
        "GET /v1/models?limit=2&a=%20 HTTP/1.1",
        "Host: a",
        "Authorization: Bearer sk-key",
        f"User-Agent: streaming-openai-gateway/{__version__}",
        "Accept: */*",
        "Accept-Encoding: identity",
    ]


def test_without_a_key_there_is_no_authorization() -> None:
    assert not any(
        line.startswith("Authorization")
        for line in lines(target("http://a/v1").request("GET", "v1/models", "", "", None, ""))
    )


@pytest.mark.parametrize(
    ("verb", "content_type", "length", "framing"),
    [
        ("POST", "application/json", 12, ["Content-Type: application/json", "Content-Length: 12"]),
        (
            "POST",
            "multipart/form-data; boundary=b",
            None,
            ["Content-Type: multipart/form-data; boundary=b", "Transfer-Encoding: chunked"],
        ),
        ("POST", "", None, ["Content-Length: 0"]),
        ("GET", "", None, []),
        ("DELETE", "", None, []),
    ],
)
def test_the_body_is_announced_in_one_framing(
    verb: str, content_type: str, length: int | None, framing: list[str]
) -> None:
    request = lines(target("http://a/v1").request(verb, "v1/files", "", content_type, length, "OpenAI-Beta: a=v2\r\n"))
    assert request[5:] == ["OpenAI-Beta: a=v2", *framing] if framing else request[-1] == "OpenAI-Beta: a=v2"


def test_only_https_is_spoken_with_tls_and_always_verified(tmp_path: Path) -> None:
    assert target("http://a/v1").tls is None
    context = target("https://a/v1").tls
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
