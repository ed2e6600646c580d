# Law of this file: what befalls a request of ours is told in words, by real failures.

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import closing
from socket import socket

import aiohttp
import pytest

from server.http_faults import why

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def failure(url: str) -> str:
    """What is said of a request."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises((aiohttp.ClientError, OSError)) as caught:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=30)) as answer:
                await answer.read()
    said = why(caught.value)
    assert "127.0.0.1" not in said
    assert "secret" not in said
    return said


def sends(data: bytes) -> Answer:
    """A server that reads something, sends this, and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(data)
        await writer.drain()
        writer.close()

    return answer


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "it closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "its answer breaks off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "its answer is no HTTP"),
    ],
)
async def test_bad_answers(sent: bytes, said: str) -> None:
    """None, half of one, and one of another protocol."""
    server = await asyncio.start_server(sends(sent), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await failure(f"http://127.0.0.1:{port}/?secret") == said


async def test_nobody_there() -> None:
    """A port at which nobody listens, and a name that leads nowhere."""
    with closing(socket()) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        said = await failure(f"http://127.0.0.1:{port}/?secret")
    assert said == "no connection: connection refused"
    assert await failure("http://nowhere.invalid/?secret") == "its name leads nowhere from here"


async def test_no_tls() -> None:
    """A server that speaks none."""
    server = await asyncio.start_server(sends(b"HTTP/1.1 400\r\n\r\n"), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        said = await failure(f"https://127.0.0.1:{port}/?secret")
    assert said == "its certificate cannot be verified, or TLS fails"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "no answer in time"),
        (aiohttp.ServerTimeoutError("http://h/?secret"), "no answer in time"),
        (aiohttp.InvalidURL("http://h/?secret"), "its URL is none"),
        (ConnectionResetError(104, "x"), "it broke the connection off"),
        (aiohttp.ClientOSError(32, "secret"), "it broke the connection off"),
        (EOFError(), "its answer breaks off"),
        (ssl.SSLError("secret"), "its certificate cannot be verified, or TLS fails"),
        (OSError("secret"), "no connection"),
        (ValueError("secret"), "it fails with ValueError"),
    ],
)
def test_others(error: Exception, said: str) -> None:
    """No text of a library is in it."""
    assert why(error) == said
