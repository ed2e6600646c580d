# Law of this file: everything that affects the server's state machine lives here. Bytes of one
# request body in, events out; answers in, bytes of the response out. No socket, no clock.
#
# Three tables say what may follow what: of the body as a whole, of each request, and (streams.py)
# of each stream. What stands in no table is a violation.

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from wire.hg.encodings import Encoding, choose
from wire.hg.errors import LimitExceeded, Misuse, ProtocolViolation
from wire.hg.frames import (
    CONTINUATION,
    END,
    REQUEST_HAS_DATA,
    REQUEST_MORE,
    REQUEST_NEW,
    Frame,
    FrameDecoder,
    FrameType,
)
from wire.hg.messages import SenderSettings, parse_settings
from wire.hg.outgoing import OutgoingStreams, OutputStream
from wire.hg.streams import IncomingStreams


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request body may make us hold.

    Attributes:
        request: bytes of one command request; the longest list of nodes that Mercurial asks in one
            (100,000) takes 2.1 MB.
        data: bytes of one request's command data.
        held: bytes of all requests of one body together, half received or answered.
        requests: commands in one body.
        frames: in one body. Mercurial fills its frames; empty ones cost us more than the client.
        streams: open at a time; each may hold a window of 8 MiB.
        settings: bytes of the sender's settings.
        decoded: bytes that the payload of one frame may tell.
    """

    request: int = 32 << 20
    data: int = 32 << 20
    held: int = 64 << 20
    requests: int = 4096
    frames: int = 16384
    streams: int = 4
    settings: int = 64 << 10
    decoded: int = 4 << 20


DEFAULT: Final = Limits()


class BodyState(Enum):
    """Where the body stands."""

    BEGINNING = auto()
    SETTINGS = auto()
    SET = auto()
    REQUESTS = auto()
    ENDED = auto()
    BROKEN = auto()


class BodyEvent(Enum):
    """What a frame means to the body."""

    SETTINGS_MORE = auto()
    SETTINGS_END = auto()
    REQUEST = auto()
    END = auto()


# What the sender says of itself comes before its requests, or not at all. A stream's settings are
# no event here: they come first on their stream, so on the first one before what the sender says.
BODY: Final[dict[tuple[BodyState, BodyEvent], BodyState]] = {
    (BodyState.BEGINNING, BodyEvent.SETTINGS_MORE): BodyState.SETTINGS,
    (BodyState.BEGINNING, BodyEvent.SETTINGS_END): BodyState.SET,
    (BodyState.BEGINNING, BodyEvent.REQUEST): BodyState.REQUESTS,
    (BodyState.SETTINGS, BodyEvent.SETTINGS_MORE): BodyState.SETTINGS,
    (BodyState.SETTINGS, BodyEvent.SETTINGS_END): BodyState.SET,
    (BodyState.SET, BodyEvent.REQUEST): BodyState.REQUESTS,
    (BodyState.REQUESTS, BodyEvent.REQUEST): BodyState.REQUESTS,
    (BodyState.REQUESTS, BodyEvent.END): BodyState.ENDED,
}

_BODY_WRONG: Final = {
    BodyEvent.SETTINGS_MORE: "sender settings that do not come first",
    BodyEvent.SETTINGS_END: "sender settings that do not come first",
    BodyEvent.REQUEST: "a request in the middle of the sender's settings",
    BodyEvent.END: "the request ends before any command",
}


class RequestState(Enum):
    """Where a request stands."""

    IDLE = auto()
    PARTIAL = auto()
    DATA = auto()
    RECEIVED = auto()
    ANSWERING = auto()


class RequestEvent(Enum):
    """What happens to a request."""

    NEW_MORE = auto()
    NEW = auto()
    NEW_DATA = auto()
    MORE = auto()
    LAST = auto()
    LAST_DATA = auto()
    DATA_MORE = auto()
    DATA_END = auto()
    ANSWER = auto()
    ANSWER_END = auto()


# An id whose answer has ended is idle, and may be used again.
REQUEST: Final[dict[tuple[RequestState, RequestEvent], RequestState]] = {
    (RequestState.IDLE, RequestEvent.NEW_MORE): RequestState.PARTIAL,
    (RequestState.IDLE, RequestEvent.NEW): RequestState.RECEIVED,
    (RequestState.IDLE, RequestEvent.NEW_DATA): RequestState.DATA,
    (RequestState.PARTIAL, RequestEvent.MORE): RequestState.PARTIAL,
    (RequestState.PARTIAL, RequestEvent.LAST): RequestState.RECEIVED,
    (RequestState.PARTIAL, RequestEvent.LAST_DATA): RequestState.DATA,
    (RequestState.DATA, RequestEvent.DATA_MORE): RequestState.DATA,
    (RequestState.DATA, RequestEvent.DATA_END): RequestState.RECEIVED,
    (RequestState.RECEIVED, RequestEvent.ANSWER): RequestState.ANSWERING,
    (RequestState.RECEIVED, RequestEvent.ANSWER_END): RequestState.IDLE,
    (RequestState.ANSWERING, RequestEvent.ANSWER): RequestState.ANSWERING,
    (RequestState.ANSWERING, RequestEvent.ANSWER_END): RequestState.IDLE,
}

_REQUEST_WRONG: Final = {
    RequestEvent.NEW_MORE: "begins while it is under way",
    RequestEvent.NEW: "begins while it is under way",
    RequestEvent.NEW_DATA: "begins while it is under way",
    RequestEvent.MORE: "is continued and was not begun, or is complete",
    RequestEvent.LAST: "is continued and was not begun, or is complete",
    RequestEvent.LAST_DATA: "is continued and was not begun, or is complete",
    RequestEvent.DATA_MORE: "has data that it did not announce, too early, or after their end",
    RequestEvent.DATA_END: "has data that it did not announce, too early, or after their end",
}


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """A request is complete.

    Attributes:
        request_id: to be answered under.
        payload: the request's map; :func:`wire.hg.messages.parse_request` reads it.
        data: the command's data; None if there is none.
    """

    request_id: int
    payload: bytes
    data: bytes | None


@dataclass(slots=True)
class _Request:
    """What has come of a request.

    One buffer each for the command and its data, not a list of pieces: those of frames that carry
    nothing, or little, would take more room than the limits count.
    """

    state: RequestState = RequestState.IDLE
    announces_data: bool = False
    command: bytearray = field(default_factory=bytearray)
    data: bytearray = field(default_factory=bytearray)


class ServerReactor:
    """The server's side of one HTTP exchange: a body of requests, and their answers.

    Attributes:
        settings: what the client said of itself.
        held: bytes of all requests so far.
    """

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.settings = SenderSettings()
        self.held = 0
        self._limits = limits
        self._state = BodyState.BEGINNING
        self._frames = FrameDecoder()
        self._streams = IncomingStreams(
            odd=True, max_open=limits.streams, max_decoded=limits.decoded
        )
        self._settings = bytearray()
        self._requests: dict[int, _Request] = {}
        self._begun = 0
        self._taken = 0
        self._violation: ProtocolViolation | None = None
        self._outgoing = OutgoingStreams(odd=False)

    @property
    def encoding(self) -> Encoding:
        """Of our preference, the first that the client can decode."""
        return choose(self.settings.encodings)

    # --- what comes in ---------------------------------------------------------------------

    def receive(self, data: bytes | memoryview) -> list[CommandReceived]:
        """Take in bytes of the body; returns the requests that they complete.

        Raises:
            ProtocolViolation: the client breaks the protocol; nothing more is taken in, and each
                later call raises the same. Requests that were complete before can be answered
                still: if ``data`` completes some, they are returned and the next call raises, of
                this or of :meth:`end`, so that nothing depends on how the body was cut.
            Misuse: after the end.
        """
        self._check_open()
        received: list[CommandReceived] = []
        try:
            for frame in self._frames.feed(data):
                self._taken += 1
                if self._taken > self._limits.frames:
                    raise LimitExceeded(f"more than {self._limits.frames} frames", frame.request_id)
                self._take(frame, received)
        except ProtocolViolation as violation:
            self._break(violation)
            if not received:
                raise
        return received

    def end(self) -> None:
        """The body has ended.

        Raises:
            ProtocolViolation: in the middle of something, before any command, or it was broken.
            Misuse: it has ended before.
        """
        self._check_open()
        try:
            self._frames.end()
            self._streams.end()
            for request_id, request in self._requests.items():
                if request.state in {RequestState.PARTIAL, RequestState.DATA}:
                    raise ProtocolViolation(
                        f"the body ends in the middle of request {request_id}", request_id
                    )
            self._step_body(BodyEvent.END)
        except ProtocolViolation as violation:
            self._break(violation)
            raise

    def _break(self, violation: ProtocolViolation) -> None:
        """Take in nothing more, and let go of what can no longer be completed."""
        self._state, self._violation = BodyState.BROKEN, violation
        for request in self._requests.values():
            request.command.clear()
            request.data.clear()

    def _check_open(self) -> None:
        if self._violation is not None:
            raise self._violation.with_traceback(None)
        if self._state is BodyState.ENDED:
            raise Misuse("the body has ended before")

    def _take(self, frame: Frame, received: list[CommandReceived]) -> None:
        payload = self._streams.take(frame)
        match frame.kind:
            case FrameType.STREAM_SETTINGS:
                pass  # they are the stream's
            case FrameType.SENDER_SETTINGS:
                self._take_settings(frame, payload)
            case FrameType.COMMAND_REQUEST:
                self._take_request(frame, payload, received)
            case FrameType.COMMAND_DATA:
                self._take_data(frame, payload, received)
            case _:
                raise ProtocolViolation(
                    f"frames of type {frame.kind} come from servers only", frame.request_id
                )

    def _take_settings(self, frame: Frame, payload: bytes) -> None:
        more = frame.flags == CONTINUATION
        # Whatever id their frames carry, they belong to no request: there is none yet.
        self._step_body(BodyEvent.SETTINGS_MORE if more else BodyEvent.SETTINGS_END)
        if len(self._settings) + len(payload) > self._limits.settings:
            raise LimitExceeded(f"sender settings of more than {self._limits.settings} bytes")
        self._settings += payload
        if not more:
            self.settings = parse_settings(bytes(self._settings))

    def _take_request(self, frame: Frame, payload: bytes, received: list[CommandReceived]) -> None:
        request_id = frame.request_id
        self._step_body(BodyEvent.REQUEST, request_id)
        if request_id % 2 == 0:
            raise ProtocolViolation(f"request {request_id}: ids of clients are odd", request_id)
        announces = bool(frame.flags & REQUEST_HAS_DATA)
        request = self._requests.get(request_id) or _Request()
        self._step(request_id, request, _request_event(frame.flags))
        if frame.flags & REQUEST_NEW:
            self._count(request_id)
            request.announces_data = announces
            self._requests[request_id] = request
        elif announces != request.announces_data:
            raise ProtocolViolation(
                f"request {request_id} says of some of its frames that data follow,"
                " and of some that they do not",
                request_id,
            )
        self._hold(request_id, payload, request.command, self._limits.request, "command")
        self._complete(request_id, request, received)

    def _take_data(self, frame: Frame, payload: bytes, received: list[CommandReceived]) -> None:
        request_id = frame.request_id
        request = self._requests.get(request_id) or _Request()
        event = RequestEvent.DATA_END if frame.flags == END else RequestEvent.DATA_MORE
        self._step(request_id, request, event)
        self._hold(request_id, payload, request.data, self._limits.data, "data")
        self._complete(request_id, request, received)

    def _complete(
        self, request_id: int, request: _Request, received: list[CommandReceived]
    ) -> None:
        if request.state is not RequestState.RECEIVED:
            return
        data = bytes(request.data) if request.announces_data else None
        received.append(CommandReceived(request_id, bytes(request.command), data))
        request.command, request.data = bytearray(), bytearray()

    def _count(self, request_id: int) -> None:
        self._begun += 1
        if self._begun > self._limits.requests:
            raise LimitExceeded(f"more than {self._limits.requests} commands", request_id)

    def _hold(
        self, request_id: int, payload: bytes, held: bytearray, limit: int, what: str
    ) -> None:
        """Add a payload to what is ``held`` of a request's ``what``."""
        if len(held) + len(payload) > limit:
            raise LimitExceeded(
                f"request {request_id} has a {what} of more than {limit} bytes", request_id
            )
        if self.held + len(payload) > self._limits.held:
            raise LimitExceeded(f"requests of more than {self._limits.held} bytes", request_id)
        held += payload
        self.held += len(payload)

    def _step_body(self, event: BodyEvent, request_id: int = 0) -> None:
        after = BODY.get((self._state, event))
        if after is None:
            raise ProtocolViolation(_BODY_WRONG[event], request_id)
        self._state = after

    def _step(self, request_id: int, request: _Request, event: RequestEvent) -> None:
        after = REQUEST.get((request.state, event))
        if after is None:
            wrong = _REQUEST_WRONG.get(event)
            if wrong is None:
                raise Misuse(f"request {request_id} is {request.state.name}, not to be answered")
            raise ProtocolViolation(f"request {request_id} {wrong}", request_id)
        request.state = after

    # --- what goes out -----------------------------------------------------------------------

    def begin_stream(self, encoding: Encoding) -> OutputStream:
        """A new stream for answers, on the lowest id that is free.

        Raises:
            Misuse: all 127 are open.
        """
        return self._outgoing.begin(encoding)

    def answer(
        self,
        stream: OutputStream,
        request_id: int,
        payload: bytes | memoryview,
        *,
        end: bool,
        encoded: bool,
        close: bool = False,
    ) -> bytes:
        """Frames with a piece of an answer.

        Args:
            stream: which carries them.
            request_id: of the request that is answered.
            payload: of any size; encoded by the stream's encoder if ``encoded``.
            end: this is the last of the answer.
            encoded: the payload went through the stream's encoding.
            close: the stream ends with the last of these frames, and its id is free.

        Raises:
            Misuse: that request is not one to be answered now.
        """
        event = RequestEvent.ANSWER_END if end else RequestEvent.ANSWER
        self._step(request_id, self._requests.get(request_id) or _Request(), event)
        return stream.frames(
            FrameType.COMMAND_RESPONSE,
            request_id,
            payload,
            flags=(CONTINUATION, END if end else CONTINUATION),
            encoded=encoded,
            close=close,
        )

    def fail(
        self, stream: OutputStream, request_id: int, error: bytes, *, close: bool = False
    ) -> bytes:
        """An error frame, which ends the request that it names, and the stream if ``close``.

        ``request_id`` may be one that never became a request: what broke it is the error.

        Raises:
            Misuse: the stream has ended, or the error is too long for a frame.
        """
        if request_id in self._requests:
            self._requests[request_id] = _Request()
        return stream.frame(FrameType.ERROR, request_id, error, close=close)

    def notice(
        self, stream: OutputStream, request_id: int, kind: FrameType, payload: bytes
    ) -> bytes:
        """A frame with text output or progress.

        Raises:
            Misuse: the client did not say that it can read those, or made no such request.
        """
        if request_id not in self._requests:
            raise Misuse(f"a frame of type {kind.name} for request {request_id}: there is none")
        if _EXTRA.get(kind) not in self.settings.extra_frames:
            raise Misuse(f"a frame of type {kind.name} to a client that breaks on it")
        return stream.frame(kind, request_id, payload)


# What clients say to get frames of a type.
_EXTRA: Final = {FrameType.TEXT_OUTPUT: b"text", FrameType.PROGRESS: b"progress"}


def _request_event(flags: int) -> RequestEvent:
    new = bool(flags & REQUEST_NEW)
    if flags & REQUEST_MORE:
        return RequestEvent.NEW_MORE if new else RequestEvent.MORE
    if flags & REQUEST_HAS_DATA:
        return RequestEvent.NEW_DATA if new else RequestEvent.LAST_DATA
    return RequestEvent.NEW if new else RequestEvent.LAST
