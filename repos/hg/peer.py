# Law of this file: a Mercurial server is asked here as a client of protocol version 1 asks it, over
# HTTP. What comes back is its whole answer, its refusal, or a failure; never half an answer. These
# calls block; async callers use a thread.
#
# That an answer is whole, HTTP says: by its length or its last chunk. hgweb that fails in the
# middle writes an error text where the answer would go on, and ends properly: a compressed stream
# shows it, in an uncompressed one who reads it must see it (a bundle2 says where it ends).

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from wire.hg.v1.media import (
    ENGINES,
    HG_ERROR,
    MERCURIAL_0_1,
    MERCURIAL_0_2,
    BadAnswer,
    decompressor,
)
from wire.hg.v1.requests import COMMANDS, Answer

# A string answer: the heads, branches or phases of a repository with a million of them.
ANSWER_LIMIT: Final = 64 << 20

# What a server says to its users.
_ERROR_LIMIT: Final = 64 << 10

# Arguments of up to so many bytes go in headers, as stock clients send all of theirs: they are in
# what proxies and caches look at. Python's server takes 100 headers, Apache 8 KiB in each, nginx
# 32 KiB in all. Longer ones go in a body, which hgweb reads since 3.8 whether or not it offers it.
POST_OVER: Final = 8 << 10

_PIECE: Final = 64 << 10

# Nothing is said of partial pulls: an answer with a part of what was asked for is nothing to keep.
_PROTO: Final = "0.1 0.2 comp="

_SAID: Final = {401: "unauthorized", 403: "forbidden", 404: "not found"}


class PeerRefused(Exception):  # noqa: N818 - what happened
    """The server says no, in words that are for who asked.

    Attributes:
        text: what it says.
        status: of HTTP: 200 for an error of the protocol; 401, 403 or 404.
    """

    def __init__(self, text: str, status: int = 200) -> None:
        self.text = text
        self.status = status
        super().__init__(text if status == 200 else f"{status} {text}")


class PeerFailed(Exception):  # noqa: N818 - what happened
    """The server gave no answer of the protocol, or half of one; the message is for the log."""


class Connections:
    """Connections of peers, in whatever threads, which can all be ended at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False

    def close(self) -> None:
        """End all, whatever is waited for on them; from now on peers ask nobody, and fail."""
        with self._lock:
            self._closed = True
            for connection in self._open:
                with suppress(OSError):  # the other side was faster
                    # Not that of SSL, which would take its state from under who reads.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def check(self) -> None:
        """See that peers may ask.

        Raises:
            PeerFailed: all was closed.
        """
        if self._closed:
            raise PeerFailed("this server stops, and asks nobody any more")

    @contextmanager
    def holding(self, connection: socket.socket) -> Iterator[None]:
        """In this block, which does not close the connection, it is among those to be ended.

        Raises:
            PeerFailed: all was closed.
        """
        with self._lock:
            self.check()
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)


@dataclass(frozen=True, slots=True)
class Peer:
    """A repository of a Mercurial server.

    Attributes:
        base_url: of the server or, without ``repository``, of the repository itself; http or https.
            It may hold a secret: no message shows its path.
        repository: its path below that, percent-encoded.
        authorization: the value of that header.
        connect_timeout: seconds for a connection.
        silence: seconds in which the server must say something.
        header_length: the server's capability ``httpheader``: of one header line of arguments.
        ssl_context: for https; the default one otherwise.
        user_agent: how we call ourselves. Some servers know Mercurial's clients by theirs.
        engines: that may compress a stream, the best first; we read any of ``ENGINES``.
        post_over: bytes of arguments, encoded, that go in headers; more go in a body. None: all go
            in headers, however many it takes.
        connections: by which others can end what is asked.
    """

    base_url: str = field(repr=False)
    repository: str = ""
    authorization: str | None = field(default=None, repr=False)
    connect_timeout: float = 10.0
    silence: float = 300.0
    header_length: int = 1024
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    user_agent: str = "mercurial/proto-1.0 (Offramp)"
    engines: tuple[str, ...] = ENGINES
    post_over: int | None = POST_OVER
    connections: Connections = field(default_factory=Connections, repr=False, compare=False)

    def call(
        self, command: str, arguments: Mapping[bytes, bytes] | None = None, *, limit: int = 0
    ) -> bytes:
        """The string that a command answers.

        Args:
            command: its name.
            arguments: their values, as the protocol writes them.
            limit: bytes that it may have; 0 is :data:`ANSWER_LIMIT`.

        Raises:
            PeerRefused: the server says no.
            PeerFailed: it gave no answer of the protocol, or half of one, or a longer one.
        """
        limit = limit or ANSWER_LIMIT
        with self._asked(command, arguments or {}) as answer:
            if answer.media_type != MERCURIAL_0_1:
                raise answer.failed(f"it answered with {answer.media_type!r} in place of a string")
            found = bytearray()
            for piece in answer.pieces():
                found += piece
                if len(found) > limit:
                    raise answer.failed(f"it answered with more than {limit} bytes")
        return bytes(found)

    @contextmanager
    def stream(
        self, command: str, arguments: Mapping[bytes, bytes] | None = None
    ) -> Iterator[Iterator[bytes]]:
        """The stream that a command answers, uncompressed, in pieces.

        Leaving the block early ends it.

        Raises:
            PeerRefused: the server says no; here, not while it is read.
            PeerFailed: it gave no answer of the protocol; or half of one, which is seen while it is
                read.
        """
        with self._asked(command, arguments or {}) as answer:
            plain = command in COMMANDS and COMMANDS[command].answer is Answer.PLAIN_STREAM
            yield answer.pieces() if plain else answer.decoded()

    @contextmanager
    def _asked(self, command: str, arguments: Mapping[bytes, bytes]) -> Iterator[_Response]:
        where = f"{self._place} ({command})"
        with ExitStack() as opened:
            connection = opened.enter_context(closing(self._connected(where)))
            # Ends first: what is closed is no longer anybody's to shut down.
            with self.connections.holding(connection.sock):
                response = self._exchanged(connection, where, command, arguments)
                opened.enter_context(closing(response))
                answer = _Response(where, response, self.silence)
                answer.judge()
                yield answer

    def _connected(self, where: str) -> HTTPConnection:
        self.connections.check()
        connection = self._connection()
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise PeerFailed(f"{where}: no connection: {_words(error)}") from error
        connection.sock.settimeout(self.silence)
        return connection

    def _exchanged(
        self,
        connection: HTTPConnection,
        where: str,
        command: str,
        arguments: Mapping[bytes, bytes],
    ) -> HTTPResponse:
        method, headers, body = self._request(command, arguments)
        path = urlsplit(self.base_url).path.rstrip("/")
        if self.repository:
            path += "/" + self.repository
        try:
            connection.request(method, f"{path or '/'}?cmd={quote(command)}", body, headers)
            return connection.getresponse()
        except TimeoutError as error:
            raise PeerFailed(f"{where}: nothing was said for {self.silence:g} s") from error
        except (OSError, HTTPException) as error:
            raise PeerFailed(f"{where}: no answer: {_words(error)}") from error

    def _request(
        self, command: str, arguments: Mapping[bytes, bytes]
    ) -> tuple[str, dict[str, str], bytes | None]:
        """Method, headers and body."""
        headers = {
            "Accept": MERCURIAL_0_1,
            "Accept-Encoding": "identity",
            "User-Agent": self.user_agent,
        }
        if self.authorization is not None:
            headers["Authorization"] = self.authorization
        if command != "capabilities":  # asked before anybody knows what the other one speaks
            headers["X-HgProto-1"] = _PROTO + ",".join(self.engines)
        said = urlencode(sorted(arguments.items()))
        if self.post_over is not None and len(said) > self.post_over:
            headers["Content-Type"] = MERCURIAL_0_1
            headers["X-HgArgs-Post"] = str(len(said))
            return "POST", headers, said.encode("ascii")
        # The line counts, with the longest name that a header of arguments can have.
        size = max(self.header_length - len("X-HgArg-000: \r\n"), 1)
        for number, start in enumerate(range(0, len(said), size), 1):
            headers[f"X-HgArg-{number}"] = said[start : start + size]
        return "GET", headers, None

    def _connection(self) -> HTTPConnection:
        parts = urlsplit(self.base_url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return HTTPSConnection(
                host, parts.port, timeout=self.connect_timeout, context=self.ssl_context
            )
        return HTTPConnection(host, parts.port, timeout=self.connect_timeout)

    @property
    def _place(self) -> str:
        # Neither user and password, nor the path.
        host = urlsplit(self.base_url).netloc.rpartition("@")[2]
        return f"{host}/{self.repository}" if self.repository else host


@dataclass(frozen=True, slots=True)
class _Response:
    """What a server answers.

    Attributes:
        where: who, and to what, for messages.
        response: of HTTP.
        silence: seconds in which it must go on.
    """

    where: str
    response: HTTPResponse
    silence: float

    @property
    def media_type(self) -> str:
        return self.response.getheader("Content-Type", "").partition(";")[0].strip().lower()

    def failed(self, message: str) -> PeerFailed:
        return PeerFailed(f"{self.where}: {message}")

    def judge(self) -> None:
        """Let only an answer of the protocol pass.

        Raises:
            PeerRefused: it says no.
            PeerFailed: it is something else.
        """
        status, reason = self.response.status, self.response.reason
        if status in _SAID:
            raise PeerRefused(reason or _SAID[status], status)
        if 300 <= status < 400:
            raise self.failed(f"it is elsewhere (status {status}): ask it there")
        if status != 200:
            raise self.failed(f"it answered with status {status} ({reason})")
        if self.media_type not in {MERCURIAL_0_1, MERCURIAL_0_2, HG_ERROR}:
            raise self.failed(f"it answered with {self.media_type!r}, as no Mercurial server does")
        if not self.response.chunked and self.response.length is None:
            raise self.failed("it does not say how long its answer is, so nobody could see its end")
        if self.media_type == HG_ERROR:
            raise PeerRefused(self._said())

    def _said(self) -> str:
        said = b""
        for piece in self.pieces():
            said += piece
            if len(said) > _ERROR_LIMIT:
                break
        return said[:_ERROR_LIMIT].decode("utf-8", "replace").strip()

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes.

        Raises:
            PeerFailed: it is cut short.
        """
        got = 0
        try:
            while piece := self.response.read(_PIECE):
                got += len(piece)
                yield piece
        except TimeoutError as error:
            raise self.failed(
                f"nothing was said for {self.silence:g} s after {got} bytes"
            ) from error
        except (OSError, HTTPException) as error:
            raise self.failed(f"it broke off after {got} bytes: {_words(error)}") from error
        if self.response.length:
            raise self.failed(f"it broke off {self.response.length} bytes before its end")

    def decoded(self) -> Iterator[bytes]:
        """The stream in the body.

        Raises:
            PeerFailed: it is cut short, or cannot be decoded.
        """
        decoder = decompressor(self.media_type)
        try:
            for piece in self.pieces():
                yield from decoder.feed(piece)
            decoder.end()
        except BadAnswer as error:
            raise self.failed(f"its answer cannot be read: {error}") from None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
