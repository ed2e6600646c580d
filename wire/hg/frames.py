# Law of this file: a frame is eight bytes and a payload (wireprotocol-v2, "Frame-Based Protocol").
# What a frame alone can tell to be wrong is refused here, as soon as its header is there.
#
#   0  3 bytes  payload length, little-endian, as sent: after the content encoding
#   3  2 bytes  request id, little-endian
#   5  1 byte   stream id
#   6  1 byte   stream flags
#   7  1 byte   frame type (high four bits) and its flags (low four bits)

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from wire.hg.errors import LimitExceeded, Misuse, ProtocolViolation

HEADER_SIZE: Final = 8

# The format has 24 bits, Mercurial's readers weigh the third byte wrongly: longer frames break
# them. There is no negotiation of it, so nobody may send or expect more. Mercurial's senders stop
# at 32768; its readers take these, and half as many headers cost half as much.
MAX_PAYLOAD: Final = 65535

MAX_REQUEST_ID: Final = 0xFFFF
MAX_STREAM_ID: Final = 0xFF

# Stream flags.
STREAM_BEGIN: Final = 0x01
STREAM_END: Final = 0x02
STREAM_ENCODED: Final = 0x04
_STREAM_FLAGS: Final = STREAM_BEGIN | STREAM_END | STREAM_ENCODED


class FrameType(IntEnum):
    """What a frame is; 4 and 10 to 15 are not assigned."""

    COMMAND_REQUEST = 1
    COMMAND_DATA = 2
    COMMAND_RESPONSE = 3
    ERROR = 5
    TEXT_OUTPUT = 6
    PROGRESS = 7
    SENDER_SETTINGS = 8
    STREAM_SETTINGS = 9


# Flags of command requests.
REQUEST_NEW: Final = 0x1
REQUEST_CONTINUATION: Final = 0x2
REQUEST_MORE: Final = 0x4
REQUEST_HAS_DATA: Final = 0x8

# Flags of all that comes in several frames: data, responses, settings.
CONTINUATION: Final = 0x1
END: Final = 0x2

# Which flags each type may carry. Of those named here, exactly one must be set.
_ONE_OF: Final = {
    FrameType.COMMAND_REQUEST: REQUEST_NEW | REQUEST_CONTINUATION,
    FrameType.COMMAND_DATA: CONTINUATION | END,
    FrameType.COMMAND_RESPONSE: CONTINUATION | END,
    FrameType.SENDER_SETTINGS: CONTINUATION | END,
    FrameType.STREAM_SETTINGS: CONTINUATION | END,
}
_BESIDES: Final = {FrameType.COMMAND_REQUEST: REQUEST_MORE | REQUEST_HAS_DATA}

_TYPES: Final = {int(kind): kind for kind in FrameType}


def _allowed(kind: FrameType) -> frozenset[int]:
    one_of, besides = _ONE_OF.get(kind, 0), _BESIDES.get(kind, 0)
    return frozenset(
        flags
        for flags in range(16)
        if not flags & ~(one_of | besides)
        and ((flags & one_of).bit_count() == 1 if one_of else True)
    )


_FLAGS: Final = {kind: _allowed(kind) for kind in FrameType}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        request_id: odd: the client began it.
        stream_id: odd: from the client.
        stream_flags: ``STREAM_*``.
        kind: its type.
        flags: of that type.
        payload: as it was on the wire.
    """

    request_id: int
    stream_id: int
    stream_flags: int
    kind: FrameType
    flags: int
    payload: bytes


def frame_header(  # noqa: PLR0917 - in the order of the wire
    length: int, request_id: int, stream_id: int, stream_flags: int, kind: FrameType, flags: int
) -> bytes:
    """The eight bytes before a payload of ``length`` bytes.

    Raises:
        Misuse: a number does not fit where it goes, or flags are not known or none of that type.
    """
    if not 0 <= length <= MAX_PAYLOAD:
        raise Misuse(f"a payload of {length} bytes; frames hold up to {MAX_PAYLOAD}")
    if not 0 <= request_id <= MAX_REQUEST_ID or not 0 <= stream_id <= MAX_STREAM_ID:
        raise Misuse(f"request {request_id} on stream {stream_id}: ids are of 16 and 8 bits")
    if flags not in _FLAGS[kind]:
        raise Misuse(f"flags {flags:#x} on a frame of type {kind.name}")
    if stream_flags & ~_STREAM_FLAGS:
        raise Misuse(f"stream flags {stream_flags:#x} are not known")
    head = length | request_id << 24 | stream_id << 40 | stream_flags << 48
    return (head | (kind << 4 | flags) << 56).to_bytes(HEADER_SIZE, "little")


def encode_frame(frame: Frame) -> bytes:
    """A frame as it goes on the wire.

    Raises:
        Misuse: as :func:`frame_header`.
    """
    return (
        frame_header(
            len(frame.payload),
            frame.request_id,
            frame.stream_id,
            frame.stream_flags,
            frame.kind,
            frame.flags,
        )
        + frame.payload
    )


class FrameDecoder:
    """Finds the frames in bytes that come in pieces of any size.

    Args:
        max_payload: bytes; a header that announces more is refused before anything is held.
    """

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        self._held = bytearray()
        self._violation: ProtocolViolation | None = None

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame that are held; at most a header and ``max_payload``."""
        return len(self._held)

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Every frame that ``data`` completes.

        Raises:
            ProtocolViolation: what comes next is no frame. If frames came before it in ``data``,
                they are returned and the next call raises, of this or of :meth:`end`: what there is
                to see does not depend on how the bytes were cut.
        """
        if self._violation is not None:
            raise self._violation.with_traceback(None)
        frames: list[Frame] = []
        try:
            self._cut(memoryview(data), frames)
        except ProtocolViolation as violation:
            self._violation = violation
            self._held = bytearray()
            if not frames:
                raise
        return frames

    def end(self) -> None:
        """There are no more bytes.

        Raises:
            ProtocolViolation: in the middle of a frame, or after what is none.
        """
        if self._violation is not None:
            raise self._violation.with_traceback(None)
        if self._held:
            raise ProtocolViolation(f"the input ends in a frame, {len(self._held)} bytes into it")

    def _cut(self, view: memoryview, frames: list[Frame]) -> None:
        offset = self._complete_held(view, frames) if self._held else 0
        end = len(view)
        while end - offset >= HEADER_SIZE:
            head = int.from_bytes(view[offset : offset + HEADER_SIZE], "little")
            start = offset + HEADER_SIZE
            after = start + self._checked(head)
            if after > end:
                break
            frames.append(_frame(head, bytes(view[start:after])))
            offset = after
        self._held += view[offset:]

    def _complete_held(self, view: memoryview, frames: list[Frame]) -> int:
        """Take of ``view`` what the frame lacks that was begun; returns how much that was."""
        held = self._held
        taken = max(0, min(HEADER_SIZE - len(held), len(view)))
        held += view[:taken]
        if len(held) < HEADER_SIZE:
            return taken
        head = int.from_bytes(held[:HEADER_SIZE], "little")
        after = taken + HEADER_SIZE + self._checked(head) - len(held)
        if after > len(view):
            held += view[taken:]
            return len(view)
        with memoryview(held) as begun:
            frames.append(_frame(head, b"".join((begun[HEADER_SIZE:], view[taken:after]))))
        held.clear()
        return after

    def _checked(self, head: int) -> int:
        """The payload's length, if the header is one."""
        length, request_id = head & 0xFFFFFF, head >> 24 & 0xFFFF
        stream_flags, kind, flags = head >> 48 & 0xFF, head >> 60, head >> 56 & 0xF
        if length > self._max_payload:
            raise LimitExceeded(
                f"a frame of {length} bytes; frames hold up to {self._max_payload}", request_id
            )
        known = _TYPES.get(kind)
        if known is None:
            raise ProtocolViolation(f"frames of type {kind} are not known", request_id)
        if flags not in _FLAGS[known]:
            raise ProtocolViolation(f"flags {flags:#x} on a frame of type {kind}", request_id)
        if stream_flags & ~_STREAM_FLAGS:
            raise ProtocolViolation(f"stream flags {stream_flags:#x} are not known", request_id)
        return length


def _frame(head: int, payload: bytes) -> Frame:
    return Frame(
        head >> 24 & 0xFFFF,
        head >> 40 & 0xFF,
        head >> 48 & 0xFF,
        _TYPES[head >> 60],
        head >> 56 & 0xF,
        payload,
    )
