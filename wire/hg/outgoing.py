# Law of this file: whatever we send is cut into frames here, so that every stream begins, says its
# encoding and ends as streams.py demands it of others.

from __future__ import annotations

from wire.hg.encodings import Encoding
from wire.hg.errors import Misuse
from wire.hg.frames import (
    END,
    MAX_PAYLOAD,
    MAX_STREAM_ID,
    STREAM_BEGIN,
    STREAM_ENCODED,
    STREAM_END,
    FrameType,
    frame_header,
)
from wire.hg.streams import encode_settings


class OutgoingStreams:
    """The ids of the streams that we send; those that ended are given out again."""

    def __init__(self, *, odd: bool) -> None:
        self._free = set(range(1 if odd else 2, MAX_STREAM_ID + 1, 2))

    def begin(self, encoding: Encoding) -> OutputStream:
        """A new stream on the lowest free id.

        Raises:
            Misuse: there is none.
        """
        if not self._free:
            raise Misuse("all ids of streams are in use")
        stream_id = min(self._free)
        self._free.discard(stream_id)
        return OutputStream(self, stream_id, encoding)

    def give_back(self, stream_id: int) -> None:
        """A stream has ended."""
        self._free.add(stream_id)


class OutputStream:
    """One stream that we send. Who sends brings the payloads, encoded in the stream's encoding.

    Attributes:
        id: on the wire.
        encoding: of its encoded frames.
        ended: no frame can follow.
    """

    def __init__(self, streams: OutgoingStreams, stream_id: int, encoding: Encoding) -> None:
        self.id = stream_id
        self.encoding = encoding
        self.ended = False
        self._streams = streams
        self._begun = False

    def frames(
        self,
        kind: FrameType,
        request_id: int,
        payload: bytes | memoryview,
        *,
        flags: tuple[int, int],
        encoded: bool,
        close: bool = False,
    ) -> bytes:
        """Frames of one type that carry ``payload``, as few as there can be.

        Args:
            kind: their type.
            request_id: what they belong to.
            payload: any size; of no bytes, one empty frame.
            flags: of frames that others follow, and of the last.
            encoded: the payload went through the stream's encoding.
            close: the last frame ends the stream.

        Raises:
            Misuse: the stream has ended.
        """
        view = memoryview(payload)
        # Identity has nothing to encode; its payloads are what they are.
        encoded = encoded and self.encoding is not Encoding.IDENTITY
        pieces: list[bytes | memoryview] = [self._settings(request_id)]
        flag = STREAM_ENCODED if encoded else 0
        for offset in range(0, max(len(view), 1), MAX_PAYLOAD):
            piece = view[offset : offset + MAX_PAYLOAD]
            last = offset + MAX_PAYLOAD >= len(view)
            stream_flags = self._flags() | flag | (STREAM_END if last and close else 0)
            pieces += (
                frame_header(
                    len(piece), request_id, self.id, stream_flags, kind, flags[1 if last else 0]
                ),
                piece,
            )
        if close:
            self._end()
        return b"".join(pieces)

    def frame(
        self, kind: FrameType, request_id: int, payload: bytes, *, close: bool = False
    ) -> bytes:
        """One frame without flags, never encoded: errors, text output, progress.

        ``close``: it ends the stream.

        Raises:
            Misuse: the stream has ended, or the payload is too long for one frame.
        """
        settings = self._settings(request_id)
        flags = self._flags() | (STREAM_END if close else 0)
        header = frame_header(len(payload), request_id, self.id, flags, kind, 0)
        if close:
            self._end()
        return settings + header + payload

    def _settings(self, request_id: int) -> bytes:
        """The frame that says the encoding: the first of a stream, whose default is identity."""
        if self._begun or self.encoding is Encoding.IDENTITY:
            return b""
        payload = encode_settings(self.encoding)
        header = frame_header(
            len(payload), request_id, self.id, self._flags(), FrameType.STREAM_SETTINGS, END
        )
        return header + payload

    def _end(self) -> None:
        self.ended = True
        self._streams.give_back(self.id)

    def _flags(self) -> int:
        if self.ended:
            raise Misuse(f"a frame on stream {self.id}, which has ended")
        flags = 0 if self._begun else STREAM_BEGIN
        self._begun = True
        return flags
