# Law of this file: everything that affects the client's state machine lives here. Requests in,
# bytes of one request body out; bytes of the response in, events out. No socket, no clock.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from wire.hg.encodings import MAX_DECODED, PREFERENCE, Encoding, encoder
from wire.hg.errors import Misuse, ProtocolViolation
from wire.hg.frames import (
    CONTINUATION,
    END,
    MAX_PAYLOAD,
    MAX_REQUEST_ID,
    REQUEST_CONTINUATION,
    REQUEST_HAS_DATA,
    REQUEST_MORE,
    REQUEST_NEW,
    Frame,
    FrameDecoder,
    FrameType,
)
from wire.hg.messages import (
    CommandRequest,
    Progress,
    RemoteError,
    SenderSettings,
    Text,
    encode_request,
    encode_settings,
    parse_error,
    parse_progress,
    parse_texts,
)
from wire.hg.outgoing import OutgoingStreams
from wire.hg.streams import IncomingStreams

# Streams of one response that may be open at a time; each may hold a window of 8 MiB.
MAX_STREAMS: Final = 32

# Bytes of a request after which its encoding is flushed: servers limit what one frame may tell, and
# of what compresses well a frame could tell any amount. A whole number of frames.
_FLUSHED: Final = 16 * MAX_PAYLOAD


class CallState(Enum):
    """Where a request of ours stands."""

    IDLE = auto()
    SENT = auto()
    ANSWERING = auto()
    DONE = auto()


class CallEvent(Enum):
    """What happens to a request of ours."""

    SEND = auto()
    RESPONSE = auto()
    RESPONSE_END = auto()
    ERROR = auto()
    NOTICE = auto()


CALL: Final[dict[tuple[CallState, CallEvent], CallState]] = {
    (CallState.IDLE, CallEvent.SEND): CallState.SENT,
    (CallState.SENT, CallEvent.RESPONSE): CallState.ANSWERING,
    (CallState.SENT, CallEvent.RESPONSE_END): CallState.DONE,
    (CallState.SENT, CallEvent.ERROR): CallState.DONE,
    (CallState.SENT, CallEvent.NOTICE): CallState.SENT,
    (CallState.ANSWERING, CallEvent.RESPONSE): CallState.ANSWERING,
    (CallState.ANSWERING, CallEvent.RESPONSE_END): CallState.DONE,
    (CallState.ANSWERING, CallEvent.ERROR): CallState.DONE,
    (CallState.ANSWERING, CallEvent.NOTICE): CallState.ANSWERING,
    # A last word on how far something got may come late.
    (CallState.DONE, CallEvent.NOTICE): CallState.DONE,
}


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """A piece of a response: a status and then objects, cut anywhere.

    Attributes:
        request_id: what it answers.
        data: decoded.
        end: it is the last.
    """

    request_id: int
    data: bytes
    end: bool


@dataclass(frozen=True, slots=True)
class ErrorReceived:
    """A request ended in an error; ``request_id`` 0 or unknown: the whole exchange did."""

    request_id: int
    error: RemoteError


@dataclass(frozen=True, slots=True)
class TextReceived:
    """Text for a person."""

    request_id: int
    texts: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class ProgressReceived:
    """How far something is."""

    request_id: int
    progress: Progress


Event = ResponseReceived | ErrorReceived | TextReceived | ProgressReceived


class ClientReactor:
    """The client's side of one HTTP exchange.

    Args:
        accepted: encodings that the server may use.
        extra_frames: say that text output and progress are read.
        encoding: of our own requests. Mercurial's server reads identity only.
        max_decoded: bytes that an error, a text or a progress may tell. Responses have no limit
            here: they come in pieces of a few megabytes, and who keeps them counts.
    """

    def __init__(
        self,
        accepted: Sequence[Encoding] = PREFERENCE,
        *,
        extra_frames: bool = True,
        encoding: Encoding = Encoding.IDENTITY,
        max_decoded: int = MAX_DECODED,
    ) -> None:
        self._accepted = tuple(accepted)
        self._extra = frozenset((b"progress", b"text")) if extra_frames else frozenset[bytes]()
        self._calls: dict[int, CallState] = {}
        self._failure: ProtocolViolation | Misuse | None = None
        self._settings_sent = False
        self._next_id = 1
        self._encoder = encoder(encoding)
        self._output = OutgoingStreams(odd=True).begin(encoding)
        self._frames = FrameDecoder()
        self._streams = IncomingStreams(odd=False, max_open=MAX_STREAMS, max_decoded=max_decoded)

    # --- what goes out -------------------------------------------------------------------------

    def request(self, request: CommandRequest, data: bytes | None = None) -> tuple[int, bytes]:
        """The next request's id, and the frames that send it, with command data if there are any.

        Raises:
            Misuse: the ids are used up.
        """
        request_id = self._next_id
        if request_id > MAX_REQUEST_ID:
            raise Misuse("all ids of requests are used up")
        self._next_id += 2
        self._step(request_id, CallEvent.SEND)
        pieces = [self._settings(request_id)]
        has_data = 0 if data is None else REQUEST_HAS_DATA
        payloads = self._payloads(encode_request(request))
        for number, payload in enumerate(payloads):
            flags = REQUEST_CONTINUATION if number else REQUEST_NEW
            more = REQUEST_MORE if number < len(payloads) - 1 else 0
            pieces.append(
                self._sent(FrameType.COMMAND_REQUEST, request_id, payload, flags | more | has_data)
            )
        payloads = [] if data is None else self._payloads(data)
        for number, payload in enumerate(payloads):
            flags = CONTINUATION if number < len(payloads) - 1 else END
            pieces.append(self._sent(FrameType.COMMAND_DATA, request_id, payload, flags))
        return request_id, b"".join(pieces)

    def _payloads(self, content: bytes) -> list[bytes]:
        """What says ``content``, encoded and cut for frames."""
        found: list[bytes] = []
        for start in range(0, len(content) or 1, _FLUSHED):
            block = self._encoder.encode(content[start : start + _FLUSHED]) + self._encoder.flush()
            found += (
                block[place : place + MAX_PAYLOAD]
                for place in range(0, len(block) or 1, MAX_PAYLOAD)
            )
        return found

    def _sent(self, kind: FrameType, request_id: int, payload: bytes, flags: int) -> bytes:
        return self._output.frames(kind, request_id, payload, flags=(flags, flags), encoded=True)

    def _settings(self, request_id: int) -> bytes:
        if self._settings_sent:
            return b""
        self._settings_sent = True
        names = tuple(encoding.encode() for encoding in self._accepted)
        return self._output.frames(
            FrameType.SENDER_SETTINGS,
            request_id,
            encode_settings(SenderSettings(names, self._extra)),
            flags=(CONTINUATION, END),
            encoded=False,
        )

    # --- what comes in ---------------------------------------------------------------------------

    @property
    def unanswered(self) -> tuple[int, ...]:
        """Ids of requests whose answers have not ended."""
        return tuple(each for each, state in self._calls.items() if state is not CallState.DONE)

    def receive(self, data: bytes | memoryview) -> Iterator[Event]:
        """Take in bytes of the response, as far as their events are taken.

        A frame is decoded when its event is asked for, so that no more than a piece of a response
        is ever held.

        Raises:
            ProtocolViolation: the server breaks the protocol, after the events that came before
                that. So does each later call.
            Misuse: the events of an earlier call were not taken to the end.
        """
        self._raise_failure()
        try:
            for frame in self._frames.feed(data):
                yield from self._take(frame)
        except ProtocolViolation as violation:
            self._failure = violation
            raise
        except GeneratorExit:
            self._failure = Misuse("some bytes' events were not taken: what follows has no meaning")
            raise

    def end(self) -> None:
        """The response has ended.

        Raises:
            ProtocolViolation: in the middle of something, or before all requests were answered.
        """
        self._raise_failure()
        self._frames.end()
        self._streams.end()
        missing = self.unanswered
        if missing:
            raise ProtocolViolation(
                f"the response ends before the answer to request {missing[0]} does", missing[0]
            )

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _take(self, frame: Frame) -> Iterator[Event]:
        request_id = frame.request_id
        match frame.kind:
            case FrameType.COMMAND_RESPONSE:
                yield from self._take_response(frame)
            case FrameType.ERROR:
                error = parse_error(self._streams.take(frame))
                # It may be about a request that the server could not make out, or about none.
                if self._calls.get(request_id) in {CallState.SENT, CallState.ANSWERING}:
                    self._step(request_id, CallEvent.ERROR)
                yield ErrorReceived(request_id, error)
            case FrameType.TEXT_OUTPUT:
                payload = self._streams.take(frame)
                self._step(request_id, CallEvent.NOTICE)
                yield TextReceived(request_id, parse_texts(payload))
            case FrameType.PROGRESS:
                payload = self._streams.take(frame)
                self._step(request_id, CallEvent.NOTICE)
                yield ProgressReceived(request_id, parse_progress(payload))
            case FrameType.STREAM_SETTINGS | FrameType.SENDER_SETTINGS:
                # The specification lets servers send the latter too; none does, and what they could
                # say (encodings of requests) is in our descriptor. So it is not read.
                self._streams.take(frame)
            case FrameType.COMMAND_REQUEST | FrameType.COMMAND_DATA:
                raise ProtocolViolation(
                    f"frames of type {frame.kind} come from clients only", request_id
                )

    def _take_response(self, frame: Frame) -> Iterator[Event]:
        request_id, end = frame.request_id, frame.flags == END
        self._step(request_id, CallEvent.RESPONSE_END if end else CallEvent.RESPONSE)
        piece: bytes | None = None
        for following in self._streams.take_pieces(frame):
            if piece is not None:
                yield ResponseReceived(request_id, piece, end=False)
            piece = following
        # Encoders have frames that tell nothing; those are nobody's event, unless they end.
        if piece or end:
            yield ResponseReceived(request_id, piece or b"", end)

    def _step(self, request_id: int, event: CallEvent) -> None:
        before = self._calls.get(request_id, CallState.IDLE)
        after = CALL.get((before, event))
        if after is None:
            raise ProtocolViolation(
                f"an answer to request {request_id}, which waits for none", request_id
            )
        self._calls[request_id] = after
