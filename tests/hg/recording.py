# Law of this file: a proxy that changes nothing and keeps every body that passes, as it was on the
# wire (without the framing of HTTP itself).

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

_OF_THE_CONNECTION: Final = frozenset({"connection", "host", "transfer-encoding", "content-length"})
_OF_THE_MOMENT: Final = frozenset({"date", "server"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer.

    Attributes:
        method: of HTTP.
        target: path and query.
        headers: of the request, names in lower case, without those of the connection.
        request: the body.
        status: of HTTP.
        answer_headers: as `headers`.
        response: the body.
    """

    method: str
    target: str
    headers: dict[str, str]
    request: bytes
    status: int
    answer_headers: dict[str, str]
    response: bytes


@dataclass(slots=True)
class Recording:
    """What passed a proxy so far.

    Attributes:
        url: of the proxy.
        exchanges: complete ones, in the order of their answers.
    """

    url: str
    exchanges: list[Exchange] = field(default_factory=list)


@contextmanager
def recorded(origin: str) -> Iterator[Recording]:
    """Stand before a server, on a free port of loopback.

    Args:
        origin: its URL without a path.
    """
    behind = urlsplit(origin)
    assert behind.hostname is not None

    class Relay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
            pass

        def relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            onward = HTTPConnection(str(behind.hostname), behind.port)
            try:
                onward.request(self.command, self.path, body or None, dict(self.headers))
                answer = onward.getresponse()
                content = answer.read()
                answered = _kept(answer.getheaders())
            finally:
                onward.close()
            recording.exchanges.append(
                Exchange(
                    self.command,
                    self.path,
                    _kept(self.headers.items()),
                    body,
                    answer.status,
                    answered,
                    content,
                )
            )
            self.send_response(answer.status)
            for name, value in answered.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = relay  # noqa: N815 - as the library wants them

    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    server.daemon_threads = True
    recording = Recording(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield recording
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _kept(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    passed = {name.lower(): value for name, value in headers}
    return {
        name: value
        for name, value in passed.items()
        if name not in _OF_THE_CONNECTION | _OF_THE_MOMENT
    }
