# Law of this file: what a server speaks is known after one request, or it is told why not; what
# belongs to the server goes nowhere else.

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from client import (
    BadAddress,
    BrokenAnswer,
    ClientError,
    Limits,
    NotSpoken,
    Refused,
    TooLarge,
    Unreachable,
    connect,
)
from client.address import next_hop, parse_address, shown
from client.errors import told
from tests.client.scripted import NODE, REPOSITORY, Scripted, answer, scripted_server
from wire.hg import cbor
from wire.hg.messages import CBOR_MEDIA_TYPE

Greeting = Callable[[web.Request], Awaitable[web.StreamResponse]]


def says(
    status: int, body: bytes = b"", content_type: str = "text/plain", **headers: str
) -> Greeting:
    """A fixed answer to the handshake."""

    async def greeting(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type=content_type, headers=headers)

    return greeting


async def test_the_upgrade_is_asked_for(server: Scripted) -> None:
    """The handshake names the API and CBOR, by the door of version 1."""
    async with connect(server.url) as repository:
        assert b"heads" in repository.api.commands
        assert repository.descriptor[b"rawrepoformats"] == [b"revlogv1"]
    asked = server.asked[0]
    assert asked.path == f"{REPOSITORY}?cmd=capabilities"
    assert asked.headers["X-HgUpgrade-1"] == "exp-http-v2-0003"
    assert asked.headers["X-HgProto-1"] == "cbor"
    assert asked.headers["Accept"] == "application/mercurial-0.1"
    assert asked.headers["Vary"] == "X-HgProto-1,X-HgUpgrade-1"
    assert "Authorization" not in asked.headers


V1 = "application/mercurial-0.1"
OTHER_FRAMES = {b"commands": {}, b"framingmediatypes": [b"application/x-frames-0007"]}


def handshake(descriptor: cbor.Encodable) -> bytes:
    """An answer to the handshake with this descriptor."""
    return cbor.encode({b"apibase": b"api/", b"apis": {b"exp-http-v2-0003": descriptor}})


@pytest.mark.parametrize(
    ("greeting", "kind", "words"),
    [
        (says(200, b"batch known", V1), NotSpoken, "version 1 only"),
        (says(200, b"<html>", "text/html"), NotSpoken, "not that of a page"),
        (says(404), Refused, "check the URL"),
        (says(401), Refused, "user:password@host"),
        (says(403, b"go away"), Refused, "go away"),
        (says(500, b"no\x1b[31m", "application/hg-error"), Refused, "no\\x1b[31m"),
        (says(301), Refused, "redirect to nowhere"),
        (says(302, Location="ftp://example.org/"), Refused, "redirect to nowhere"),
        (says(302, Location="http://[bad/"), Refused, "redirect to nowhere"),
        (says(200, b"\xff\xff", CBOR_MEDIA_TYPE), BrokenAnswer, "cannot be read"),
        (says(200, b"", CBOR_MEDIA_TYPE), BrokenAnswer, "cannot be read"),
        (says(200, cbor.encode([1]), CBOR_MEDIA_TYPE), BrokenAnswer, "without apibase"),
        (says(200, handshake([]), CBOR_MEDIA_TYPE), BrokenAnswer, "no map"),
        (says(200, handshake({}), CBOR_MEDIA_TYPE), BrokenAnswer, "without commands"),
        (says(200, handshake(OTHER_FRAMES), CBOR_MEDIA_TYPE), NotSpoken, "framing-0006"),
        (
            says(200, cbor.encode({b"apibase": b"api/", b"apis": {}}), CBOR_MEDIA_TYPE),
            NotSpoken,
            "must be enabled",
        ),
        (says(200, bytes(5000), CBOR_MEDIA_TYPE), TooLarge, "more than 4096 bytes"),
    ],
)
async def test_servers_that_do_not_speak_it(
    server: Scripted, greeting: Greeting, kind: type[ClientError], words: str
) -> None:
    """Whatever else is at a URL, it is told what that is."""
    server.greeting = greeting
    with pytest.raises(kind) as caught:
        async with connect(server.url, limits=Limits(handshake=4096)):
            pass
    assert words in str(caught.value)
    assert server.url in str(caught.value)


async def test_a_redirect_on_the_same_server(server: Scripted) -> None:
    """A server may send us to another path of its own, and is asked there from then on."""
    server.replies[b"heads"] = answer([NODE])

    async def greeting(request: web.Request) -> web.StreamResponse:
        server.greeting = None
        return web.Response(status=301, headers={"Location": f"{REPOSITORY}?cmd=capabilities"})

    server.greeting = greeting
    async with connect(f"{server.url}?".removesuffix("?")) as repository:
        assert repository.url == server.url
        assert await repository.call(b"heads") == [[NODE]]


async def test_redirects_without_end(server: Scripted) -> None:
    """A circle of redirects is left."""
    server.greeting = says(302, Location=f"{REPOSITORY}?cmd=capabilities")
    with pytest.raises(Unreachable, match="more than 2 HTTP redirects"):
        async with connect(server.url, limits=Limits(hops=2)):
            pass
    assert len(server.asked) == 3


async def test_a_redirect_to_another_server(server: Scripted) -> None:
    """Another server is not followed to, with our credentials; its URL is told."""
    async with scripted_server() as other:
        server.greeting = says(302, Location=f"{other.url}?cmd=capabilities&secret=1")
        with pytest.raises(BadAddress) as caught:
            async with connect(server.url.replace("//", "//ann:hunter2@")):
                pass
        assert other.url in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert "secret" not in str(caught.value)
        assert not other.asked


async def test_nobody_there(unused_tcp_port: int) -> None:
    """A port that nobody listens on is told with its URL."""
    with pytest.raises(Unreachable, match=f"{unused_tcp_port}/x: no connection: "):
        async with connect(f"http://127.0.0.1:{unused_tcp_port}/x"):
            pass


@pytest.mark.parametrize("said", [b"", b"220 mail.example.org ESMTP\r\n", b"\x00" * 20])
async def test_no_http(said: bytes) -> None:
    """A server of something else is told to be no HTTP server."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    other = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match="HTTP"):
            async with connect(f"http://127.0.0.1:{port}/"):
                pass


async def test_tls_where_there_is_none(server: Scripted) -> None:
    """A server without TLS cannot be asked with it."""
    with pytest.raises(Unreachable, match="no connection: "):
        async with connect(server.url.replace("http:", "https:")):
            pass


def test_certificates() -> None:
    """A certificate that is not trusted is told to be the reason."""
    reason = ssl.SSLCertVerificationError("self-signed certificate")
    key = cast("ConnectionKey", None)
    with pytest.raises(Unreachable, match=r"not trusted: .*self-signed"), told("https://h/"):
        raise aiohttp.ClientConnectorCertificateError(key, reason)
    with pytest.raises(Unreachable, match="too many open files"), told("https://h/"):
        raise aiohttp.ClientOSError(24, "too many open files")


async def test_silence(server: Scripted) -> None:
    """A server that says nothing is given up."""

    async def greeting(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.greeting = greeting
    with pytest.raises(Unreachable, match="nothing came"):
        async with connect(server.url, limits=Limits(silence=0.05)):
            pass


async def test_credentials(server: Scripted) -> None:
    """Credentials in the URL are sent with every request, and printed nowhere."""
    server.replies[b"heads"] = answer([NODE])
    url = server.url.replace("//", "//ann:p%40ss%C3%A4@")
    async with connect(url) as repository:
        await repository.call(b"heads")
        assert repository.url == server.url
        assert "p@ss" not in repr(repository._link)
    expected = f"Basic {base64.b64encode('ann:p@ssä'.encode()).decode()}"
    assert [each.headers.get("Authorization") for each in server.asked] == [expected] * 2


# --- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://ann:hunter2@example.org/", "ftp://example.org/: a URL must begin"),
        ("example.org/repo", "must begin with http://"),
        ("http:///repo", "name a host"),
        ("http://ann:hunter2@h:port/", "no URL"),
        ("http://ann:hunter2@h/r?x=hunter2", "neither ? nor #"),
        ("http://ann:hunter2@h/r#hunter2", "neither ? nor #"),
        ("", "must begin"),
    ],
)
def test_bad_addresses(url: str, words: str) -> None:
    """What is no repository's URL is refused, without its password."""
    with pytest.raises(BadAddress) as caught:
        parse_address(url)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_shown_urls() -> None:
    """What is printed of a URL has no secrets."""
    url = "https://ann:hunter2@cdn.example.org/a%2Fb?X-Amz-Signature=abc#x"
    assert shown(url) == "https://cdn.example.org/a%2Fb?..."
    assert shown("http://[") == "(a URL that cannot be read)"


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("http://h/r", "https://h/r", True),
        ("http://h:81/r", "http://h:81/s", True),
        ("http://h/r", "https://h:8443/r", False),
        ("http://h/r", "https://h.example.org/r", False),
        ("https://h/r", "https://h:444/r", False),
    ],
)
def test_moves(before: str, after: str, allowed: bool) -> None:
    """Credentials follow to another path, and to TLS on the same host, and to nowhere else."""
    address = parse_address(before.replace("//", "//ann:secret@"))
    assert (address.moved(URL(after)) is not None) is allowed


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b?c", "https://h/b?c"),
        ("https://o/x", "https://o/x"),
        ("http://h/b", None),
        ("file:///etc/passwd", None),
        ("http://[", None),
        (None, None),
    ],
)
def test_hops(location: str | None, expected: str | None) -> None:
    """HTTP redirects are followed to HTTP, and never out of TLS."""
    found = next_hop(URL("https://h/a"), location)
    assert (None if found is None else str(found)) == expected
