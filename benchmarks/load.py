# Law of this file: the clients. Whole clones are made by stock git; where a server is to be kept
# busy, the very request that stock git sent is sent again.

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_CONNECTIONS: Final = 16
_CHUNK: Final = 1 << 20

_WRK_SCRIPT: Final = """
local file = io.open("%(body)s", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
%(headers)s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "microseconds": %%d, "errors": %%d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class LoadFailed(Exception):  # noqa: N818 - what happened
    """A client was not answered as it must be."""


REDIRECTED: Final = ("-c", "fetch.uriProtocols=http,https")


def start_clone(
    url: str, path: Path, environ: dict[str, str], *, config: Sequence[str], options: Sequence[str]
) -> subprocess.Popen[str]:
    """Start ``git clone --bare``: nothing is checked out, which is no matter of the server."""
    shutil.rmtree(path, ignore_errors=True)
    return subprocess.Popen(
        ("git", *config, "clone", "--quiet", "--bare", *options, url, str(path)),
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a client.

    Raises:
        LoadFailed: it ended badly; what it said is in the message.
    """
    _, complaint = process.communicate()
    if process.returncode:
        raise LoadFailed(f"{process.args!r} exited with {process.returncode}: {complaint.strip()}")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a client sent it.

    Attributes:
        target: path and query.
        headers: all but Host, Connection and Content-Length.
        body: as it was on the wire, compressed or not.
    """

    target: str
    headers: dict[str, str]
    body: bytes

    def raw(self, url: str, *, close: bool) -> bytes:
        """Its bytes, for the server at ``url``; ``close``: it is the connection's only one."""
        lines = [
            f"POST {self.target} HTTP/1.1",
            f"Host: {urlsplit(url).netloc}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            f"Content-Length: {len(self.body)}",
            *(("Connection: close",) if close else ()),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(slots=True)
class Relay:
    """Stands between clients and a server, and counts each byte on its way: headers too.

    Attributes:
        url: where clients connect.
        received: bytes that the server sent.
        sent: what the clients sent, a connection each.
    """

    server: tuple[str, int]
    listener: socket.socket
    received: int = 0
    sent: list[bytearray] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Base URL for clients."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def last_post(self) -> Request:
        """The last POST that a client sent."""
        posts = [request for stream in self.sent for request in _posts(bytes(stream))]
        return posts[-1]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(self.server)
            stream = bytearray()
            self.sent.append(stream)
            for work, *sockets in ((self._up, client, server), (self._down, server, client)):
                thread = threading.Thread(target=work, args=(*sockets, stream))
                thread.start()
                self._threads.append(thread)

    def _up(self, client: socket.socket, server: socket.socket, stream: bytearray) -> None:
        while data := client.recv(_CHUNK):
            stream += data
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket, _: bytearray) -> None:
        while data := server.recv(_CHUNK):
            self.received += len(data)
            client.sendall(data)
        client.close()
        server.close()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


@contextmanager
def relay(url: str) -> Iterator[Relay]:
    """A relay to the server at ``url``."""
    host, port = _address(url)
    listener = socket.create_server(("127.0.0.1", 0))
    between = Relay((host, port), listener)
    accepting = threading.Thread(target=between._accept)  # noqa: SLF001 - our own
    accepting.start()
    try:
        yield between
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in between._threads:  # noqa: SLF001 - our own
            thread.join()


def _posts(stream: bytes) -> Iterator[Request]:
    """The POSTs of one connection; git sends no chunked body below http.postBuffer."""
    while stream:
        head, _, stream = stream.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers.pop("Content-Length", "0"))
        body, stream = stream[:size], stream[size:]
        for name in ("Host", "Connection"):
            headers.pop(name, None)
        method, target, _ = first.split(" ")
        if method == "POST":
            yield Request(target, headers, body)


def drain(url: str, request: bytes) -> int:
    """Send ``request`` on a connection of its own, throw the answer away and count its bytes.

    Raises:
        LoadFailed: the answer's status is not 200.
    """
    host, port = _address(url)
    buffer = memoryview(bytearray(_CHUNK))
    with socket.create_connection((host, port)) as connection:
        connection.sendall(request)
        total = connection.recv_into(buffer)
        if not bytes(buffer[:13]).startswith(b"HTTP/1.1 200"):
            raise LoadFailed(f"{url}: {bytes(buffer[:200])!r}")
        while count := connection.recv_into(buffer):
            total += count
    return total


def answer(url: str, request: Request) -> bytes:
    """The body of the answer to ``request``, which must not be chunked."""
    host, port = _address(url)
    with socket.create_connection((host, port)) as connection:
        connection.sendall(request.raw(url, close=True))
        whole = b"".join(iter(lambda: connection.recv(_CHUNK), b""))
    head, _, body = whole.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise LoadFailed(f"{url}: {whole[:200]!r}")
    return body


def requests_per_second(
    url: str, request: Request, seconds: float, here: Path, cpu: int | None
) -> float:
    """Send ``request`` over and over on 16 connections; with ``wrk``, if it is installed.

    Args:
        url: base URL of the server.
        request: what is sent.
        seconds: for how long.
        here: a directory for wrk's script.
        cpu: the only one that the clients use, or None.

    Raises:
        LoadFailed: an answer was not 200, or a connection broke.
    """
    if shutil.which("wrk") is None:
        return asyncio.run(_own_load(url, request.raw(url, close=False), seconds, cpu))
    body, script = here / "body", here / "load.lua"
    body.write_bytes(request.body)
    headers = "\n".join(f'wrk.headers["{k}"] = "{v}"' for k, v in request.headers.items())
    script.write_text(_WRK_SCRIPT % {"body": body, "headers": headers})
    pin = () if cpu is None else ("taskset", "-c", str(cpu))
    options = ("-t1", f"-c{_CONNECTIONS}", f"-d{seconds:.0f}s", "-s", str(script))
    said = subprocess.run(
        (*pin, "wrk", *options, url + request.target), capture_output=True, text=True, check=True
    ).stdout
    figures = json.loads(said.rpartition("\n{")[2].join(("{", "")))
    if figures["errors"] or not figures["requests"]:
        raise LoadFailed(f"{url}: wrk says {said}")
    return float(figures["requests"]) * 1e6 / float(figures["microseconds"])


async def _own_load(url: str, request: bytes, seconds: float, cpu: int | None) -> float:
    """The same without wrk: all answers to equal requests have the size of the first."""
    host, port = _address(url)
    size = _answer_size(url, request)
    allowed = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: _Client(request, size), host, port))[1]
        for _ in range(_CONNECTIONS)
    ]
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    done = sum(client.answered for client in clients)
    took = time.perf_counter() - began
    os.sched_setaffinity(0, allowed)
    if any(client.broken for client in clients):
        raise LoadFailed(f"{url} closed a connection")
    for client in clients:
        client.transport.abort()
    return done / took


def _answer_size(url: str, request: bytes) -> int:
    host, port = _address(url)
    with socket.create_connection((host, port)) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            head = b"".join(iter(stream.readline, b"\r\n"))
    length = re.search(rb"(?mi)^content-length: (\d+)", head)
    if length is None:
        raise LoadFailed(f"{url}: an answer without Content-Length: {head!r}")
    return len(head) + 2 + int(length[1])


@dataclass(slots=True)
class _Client(asyncio.Protocol):
    """Sends the next request when the answer to the last one is whole."""

    request: bytes
    size: int
    answered: int = 0
    broken: bool = False
    transport: asyncio.Transport = field(init=False)
    _waiting: int = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for a TCP connection it is
        self.transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._waiting == self.size and not data.startswith(b"HTTP/1.1 200"):
            self.broken = True
        self._waiting -= len(data)
        if self._waiting == 0:
            self.answered += 1
            self._next()

    def connection_lost(self, _: Exception | None) -> None:
        self.broken = True

    def _next(self) -> None:
        self._waiting = self.size
        self.transport.write(self.request)
