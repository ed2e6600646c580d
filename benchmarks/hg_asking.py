# Law of this file: requests of the frame protocol as bytes that can be sent again and again, and
# what a server answered, looked at before its figure is believed.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Final

from benchmarks.load import LoadFailed, Request
from wire.hg.cbor import Value
from wire.hg.client import ClientReactor, ErrorReceived, ResponseReceived
from wire.hg.encodings import Encoding
from wire.hg.handshake import API_BASE, API_NAME
from wire.hg.messages import FRAMING_MEDIA_TYPE, STATUS_OK, CommandRequest

Call = tuple[bytes, Mapping[bytes, Value]]
"""A command's name and its arguments."""

_HEADERS: Final = {"Accept": FRAMING_MEDIA_TYPE, "Content-Type": FRAMING_MEDIA_TYPE}


@dataclass(frozen=True, slots=True)
class Multirequest:
    """Several commands in one exchange, of a client that takes one encoding and no location.

    Attributes:
        repository: served name.
        calls: the commands.
        encoding: of the answers.
    """

    repository: str
    calls: Sequence[Call]
    encoding: Encoding

    def _begun(self) -> tuple[ClientReactor, bytes]:
        # Like Mercurial's: told no progress, whose frames would come as time goes by.
        reactor = ClientReactor((self.encoding,), extra_frames=False)
        frames = (reactor.request(CommandRequest(*call), None)[1] for call in self.calls)
        return reactor, b"".join(frames)

    @property
    def request(self) -> Request:
        """What is sent."""
        api = f"{API_BASE.strip('/')}/{API_NAME}"
        return Request(f"/{self.repository}/{api}/ro/multirequest", _HEADERS, self._begun()[1])

    def ask(self, url: str) -> bytes:
        """The frames that the server at ``url`` answers.

        Raises:
            LoadFailed: it answers none.
        """
        request = self.request
        connection = HTTPConnection(url.removeprefix("http://"))
        try:
            connection.request("POST", request.target, request.body, request.headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise LoadFailed(f"{url}{request.target}: {response.status} {body[:200]!r}")
        return body

    def read(self, frames: bytes) -> list[bytes]:
        """The answers in the order of the calls: each a status, and its objects.

        Raises:
            LoadFailed: the server could not answer one of them.
            wire.hg.errors.ProtocolViolation: they are not the answers.
        """
        reactor, _ = self._begun()
        found = [bytearray() for _ in self.calls]
        for event in reactor.receive(frames):
            match event:
                case ResponseReceived(request_id, data):
                    found[request_id // 2] += data
                case ErrorReceived(_, error):
                    raise LoadFailed(f"an answer broke off: {error.text}")
        reactor.end()
        for (name, _), answer in zip(self.calls, found, strict=True):
            if not answer.startswith(STATUS_OK):
                raise LoadFailed(f"{name.decode()} was not answered: {bytes(answer[:200])!r}")
        return [bytes(answer) for answer in found]
