# Law of this file: one POST carries requests there and answers back. What has come is handed out
# before more is read, so who reads slowly slows the server down and not our memory up; who leaves
# early closes the connection, which is how the server learns of it.

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp

from client.answers import AnswerReader
from client.errors import BadCall, CallError, Refused, told
from client.handshake import refusal
from client.link import USER_AGENT, Link
from client.watch import Call
from wire.hg.cbor import Item
from wire.hg.client import (
    ClientReactor,
    ErrorReceived,
    Event,
    ProgressReceived,
    ResponseReceived,
    TextReceived,
)
from wire.hg.encodings import Encoding
from wire.hg.frames import FrameDecoder
from wire.hg.messages import FRAMING_MEDIA_TYPE, CommandRequest, Failed, Offer, Status

# Requests below this are sent as they are: compressed they would hardly be smaller.
ENCODE_FROM: Final = 2048

_HEADERS: Final = {
    "Accept": FRAMING_MEDIA_TYPE,
    "Accept-Encoding": "identity",
    "Content-Type": FRAMING_MEDIA_TYPE,
    "User-Agent": USER_AGENT,
}


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of one answer.

    Attributes:
        index: which call it answers.
        status: of the answer, in each of its pieces but those before the status.
        items: objects.
        size: bytes of the answer, decoded.
        end: it is the last.
        error: the call failed; it is the last.
    """

    index: int
    status: Status | None
    items: list[Item]
    size: int
    end: bool
    error: CallError | None = None


Pieces = AsyncGenerator[Piece, None]


@asynccontextmanager
async def exchange(
    link: Link, calls: Sequence[Call], offer: Offer | None
) -> AsyncGenerator[Pieces]:
    """Send calls, and read what comes of them, in whatever order that is.

    Raises:
        ClientError: nobody answers, or not with frames. Iterating raises it, too, if the exchange
            breaks; an error of one call is in its piece.
    """
    body, reactor, indexes = _request(link, calls, offer)
    url = link.url(calls)
    where = str(link.address)
    with told(where):
        response = await link.session.post(
            url,
            data=body,
            headers=_HEADERS | link.address.credentials(url),
            allow_redirects=False,
            timeout=link.timeout,
        )
    pieces: Pieces | None = None
    try:
        with told(where):
            await _accept(response, where)
        pieces = _Reading(link, calls, reactor, indexes).pieces(response)
        yield pieces
    finally:
        if pieces is not None:
            await pieces.aclose()
        # Of an answer that was read to its end the connection is free already.
        response.close()


def _request(
    link: Link, calls: Sequence[Call], offer: Offer | None
) -> tuple[bytes, ClientReactor, dict[int, int]]:
    reactor, indexes, pieces = _encoded(link, calls, offer, Encoding.IDENTITY)
    read = [each for each in link.encodings if each.encode() in link.api.encodings]
    if read and sum(map(len, pieces)) >= ENCODE_FROM:
        reactor, indexes, pieces = _encoded(link, calls, offer, read[0])
    body = b"".join(pieces)
    if link.watch.frame is not None:
        for frame in FrameDecoder().feed(body):
            link.watch.frame(frame, True)
    return body, reactor, indexes


def _encoded(
    link: Link, calls: Sequence[Call], offer: Offer | None, encoding: Encoding
) -> tuple[ClientReactor, dict[int, int], list[bytes]]:
    reactor = ClientReactor(link.encodings, encoding=encoding, max_decoded=link.limits.decoded)
    indexes: dict[int, int] = {}
    pieces: list[bytes] = []
    for index, call in enumerate(calls):
        request = CommandRequest(call.name, call.args, offer)
        try:
            request_id, frames = reactor.request(request, call.data)
        except (TypeError, ValueError) as error:  # a value that the protocol has no form for
            raise BadCall(f"{call.name.decode('utf-8', 'replace')}: {error}") from None
        indexes[request_id] = index
        pieces.append(frames)
    return reactor, indexes, pieces


async def _accept(response: aiohttp.ClientResponse, where: str) -> None:
    if response.status == 200 and response.content_type == FRAMING_MEDIA_TYPE:
        return
    refused = await refusal(response, where)
    if response.status == 200:
        raise Refused(
            200, f"{where}: {response.content_type!r} where frames are expected. {refused}"
        )
    raise refused


class _Reading:
    """One response while it comes in."""

    def __init__(
        self,
        link: Link,
        calls: Sequence[Call],
        reactor: ClientReactor,
        indexes: Mapping[int, int],
    ) -> None:
        self._link = link
        self._calls = calls
        self._reactor = reactor
        self._indexes = indexes
        self._readers = [AnswerReader(link.limits.objects) for _ in calls]
        self._frames = FrameDecoder()

    async def pieces(self, response: aiohttp.ClientResponse) -> Pieces:
        """What comes, as it comes."""
        where = str(self._link.address)
        while True:
            with told(where):
                chunk = await response.content.readany()
            if not chunk:
                break
            taken = self._take(chunk)
            while True:
                with told(where):
                    piece = next(taken, None)
                if piece is None:
                    break
                yield piece
        with told(where):
            self._reactor.end()

    def _take(self, data: bytes) -> Iterator[Piece]:
        if self._link.watch.frame is not None:
            for frame in self._frames.feed(data):
                self._link.watch.frame(frame, False)
        # Each event is made when it is asked for: a few compressed bytes can tell very much.
        for event in self._reactor.receive(data):
            piece = self._piece(event)
            if piece is not None:
                yield piece

    def _piece(self, event: Event) -> Piece | None:
        watch = self._link.watch
        index = self._indexes.get(event.request_id)
        if index is None:
            # Only errors can be about no request of ours: what we sent as a whole was no good.
            assert isinstance(event, ErrorReceived)  # noqa: S101 - see ClientReactor
            raise CallError(b"request", event.error.kind, event.error.text)
        call = self._calls[index]
        match event:
            case ResponseReceived(_, data, end):
                return self._answered(index, data, end)
            case ErrorReceived(_, error):
                failed = CallError(call.name, error.kind, error.text)
                return Piece(index, self._readers[index].status, [], 0, end=True, error=failed)
            case TextReceived(_, texts):
                for text in texts:
                    if watch.text is not None:
                        watch.text(call, text)
            case ProgressReceived(_, progress):
                if watch.progress is not None:
                    watch.progress(call, progress)
        return None

    def _answered(self, index: int, data: bytes, end: bool) -> Piece:
        reader = self._readers[index]
        items = reader.feed(data, end=end)
        error = None
        if end and isinstance(reader.status, Failed):
            error = CallError(self._calls[index].name, "status", reader.status.text)
        return Piece(index, reader.status, items, len(data), end=end, error=error)
