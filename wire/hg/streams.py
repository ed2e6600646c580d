# Law of this file: a stream is a sequence of frames that share one content encoding context.
# Streams begin, say their encoding, carry frames and end; whoever breaks that order is refused. Ids
# that ended may begin again, with a new context. A stream need not end before the whole does:
# Mercurial never ends one.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from wire.hg import cbor
from wire.hg.encodings import MAX_DECODED, Decoder, Encoding, decoder
from wire.hg.errors import LimitExceeded, ProtocolViolation, shown
from wire.hg.frames import CONTINUATION, STREAM_BEGIN, STREAM_ENCODED, STREAM_END, Frame, FrameType

# A name of an encoding and what little may come with it.
MAX_SETTINGS: Final = 4096


class StreamState(Enum):
    """Where a stream stands."""

    CLOSED = auto()
    FRESH = auto()
    SETTING = auto()
    SET = auto()
    CODED = auto()


class StreamEvent(Enum):
    """What a frame means to its stream."""

    BEGIN = auto()
    SETTINGS_MORE = auto()
    SETTINGS_END = auto()
    RAW = auto()
    ENCODED = auto()
    END = auto()


# Settings are for the beginning of a stream. Mercurial's server may send an error before them, so
# what is not encoded does not end the beginning; what is encoded does. A stream that says nothing
# of its encoding is one of identity.
TRANSITIONS: Final[dict[tuple[StreamState, StreamEvent], StreamState]] = {
    (StreamState.CLOSED, StreamEvent.BEGIN): StreamState.FRESH,
    (StreamState.FRESH, StreamEvent.SETTINGS_MORE): StreamState.SETTING,
    (StreamState.FRESH, StreamEvent.SETTINGS_END): StreamState.SET,
    (StreamState.FRESH, StreamEvent.RAW): StreamState.FRESH,
    (StreamState.FRESH, StreamEvent.ENCODED): StreamState.CODED,
    (StreamState.FRESH, StreamEvent.END): StreamState.CLOSED,
    (StreamState.SETTING, StreamEvent.SETTINGS_MORE): StreamState.SETTING,
    (StreamState.SETTING, StreamEvent.SETTINGS_END): StreamState.SET,
    (StreamState.SET, StreamEvent.RAW): StreamState.SET,
    (StreamState.SET, StreamEvent.ENCODED): StreamState.CODED,
    (StreamState.SET, StreamEvent.END): StreamState.CLOSED,
    (StreamState.CODED, StreamEvent.RAW): StreamState.CODED,
    (StreamState.CODED, StreamEvent.ENCODED): StreamState.CODED,
    (StreamState.CODED, StreamEvent.END): StreamState.CLOSED,
}

_WRONG: Final = {
    StreamEvent.BEGIN: "begins while it is open",
    StreamEvent.SETTINGS_MORE: "has settings that are not at its beginning",
    StreamEvent.SETTINGS_END: "has settings that are not at its beginning",
    StreamEvent.RAW: "has a frame in the middle of its settings",
    StreamEvent.ENCODED: "has a frame in the middle of its settings",
    StreamEvent.END: "ends in the middle of its settings",
}


@dataclass(slots=True)
class _Stream:
    state: StreamState
    decoder: Decoder
    settings: bytearray = field(default_factory=bytearray)


class IncomingStreams:
    """The streams that come from the peer, each with its decoder.

    Args:
        odd: ids of the peer's streams are odd: it is a client.
        max_open: streams open at a time. Each may hold a window of 8 MiB.
        max_decoded: bytes that one frame's payload may tell where it is taken at once.
    """

    def __init__(self, *, odd: bool, max_open: int, max_decoded: int = MAX_DECODED) -> None:
        self._odd = odd
        self._max_open = max_open
        self._max_decoded = max_decoded
        self._open: dict[int, _Stream] = {}

    @property
    def open(self) -> frozenset[int]:
        """Ids of the streams that are open."""
        return frozenset(self._open)

    def take(self, frame: Frame) -> bytes:
        """What a frame's payload tells; of settings that is nothing, they are for us.

        Raises:
            ProtocolViolation: the frame is not one that its stream can carry now.
            LimitExceeded: it tells more than the limit.
        """
        coder = self._advance(frame)
        if coder is None:
            return b"" if frame.kind is FrameType.STREAM_SETTINGS else frame.payload
        with _in_request(frame.request_id):
            return coder.decode(frame.payload)

    def take_pieces(self, frame: Frame) -> Iterator[bytes]:
        """As :meth:`take`, with no limit, as none of the pieces is large.

        To be taken to the end before the next frame.

        Raises:
            ProtocolViolation: as :meth:`take`.
        """
        coder = self._advance(frame)
        if coder is None:
            yield frame.payload
            return
        with _in_request(frame.request_id):
            yield from coder.pieces(frame.payload)

    def end(self) -> None:
        """There are no more frames.

        Raises:
            ProtocolViolation: in the middle of a stream's settings.
        """
        for stream_id, stream in self._open.items():
            if stream.state is StreamState.SETTING:
                raise ProtocolViolation(f"stream {stream_id} {_WRONG[StreamEvent.END]}")

    def _advance(self, frame: Frame) -> Decoder | None:
        """Do what a frame does to its stream; returns what decodes its payload, if it is encoded.

        The stream may have ended with it: its id is free then, and its decoder still of use.
        """
        if frame.stream_id % 2 != self._odd or frame.stream_id == 0:
            parity = "odd" if self._odd else "even, and not 0"
            raise ProtocolViolation(
                f"stream {frame.stream_id}: ids from this side are {parity}", frame.request_id
            )
        stream = self._of(frame)
        encoded = bool(frame.stream_flags & STREAM_ENCODED)
        if frame.kind is FrameType.STREAM_SETTINGS:
            if encoded:
                raise ProtocolViolation("settings of a stream are not encoded", frame.request_id)
            self._set(stream, frame)
        else:
            self._step(stream, StreamEvent.ENCODED if encoded else StreamEvent.RAW, frame)
        if frame.stream_flags & STREAM_END:
            self._step(stream, StreamEvent.END, frame)
            del self._open[frame.stream_id]
        return stream.decoder if encoded else None

    def _of(self, frame: Frame) -> _Stream:
        stream = self._open.get(frame.stream_id)
        if not frame.stream_flags & STREAM_BEGIN:
            if stream is None:
                raise ProtocolViolation(f"stream {frame.stream_id} was not begun", frame.request_id)
            return stream
        if stream is None:
            if len(self._open) >= self._max_open:
                raise LimitExceeded(
                    f"more than {self._max_open} streams open at a time", frame.request_id
                )
            stream = _Stream(StreamState.CLOSED, decoder(Encoding.IDENTITY))
            self._open[frame.stream_id] = stream
        self._step(stream, StreamEvent.BEGIN, frame)
        return stream

    def _step(self, stream: _Stream, event: StreamEvent, frame: Frame) -> None:
        after = TRANSITIONS.get((stream.state, event))
        if after is None:
            raise ProtocolViolation(f"stream {frame.stream_id} {_WRONG[event]}", frame.request_id)
        stream.state = after

    def _set(self, stream: _Stream, frame: Frame) -> None:
        more = frame.flags == CONTINUATION
        self._step(stream, StreamEvent.SETTINGS_MORE if more else StreamEvent.SETTINGS_END, frame)
        if len(stream.settings) + len(frame.payload) > MAX_SETTINGS:
            raise LimitExceeded(
                f"settings of a stream of more than {MAX_SETTINGS} bytes", frame.request_id
            )
        stream.settings += frame.payload
        if not more:
            encoding = _encoding(bytes(stream.settings), frame.request_id)
            stream.decoder = decoder(encoding, self._max_decoded)


@contextmanager
def _in_request(request_id: int) -> Iterator[None]:
    """What goes wrong in here went wrong in that request."""
    try:
        yield
    except ProtocolViolation as violation:
        violation.request_id = request_id
        raise


def encode_settings(encoding: Encoding) -> bytes:
    """The payload that says a stream's encoding."""
    return cbor.encode(encoding.encode())


def _encoding(settings: bytes, request_id: int) -> Encoding:
    """Read what :func:`encode_settings` writes; values after the name are for later versions."""
    try:
        items = cbor.decode(settings)
    except cbor.CborError as error:
        raise ProtocolViolation(f"settings of a stream: {error}", request_id) from None
    name = items[0] if items else None
    if not isinstance(name, bytes):
        raise ProtocolViolation("settings of a stream do not begin with a name", request_id)
    try:
        return Encoding(name.decode("ascii"))
    except ValueError:
        raise ProtocolViolation(f"the encoding {shown(name)} is not known", request_id) from None
