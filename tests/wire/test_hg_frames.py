# Law of this file: frames are eight bytes and a payload, wherever the bytes were cut, and what is
# wrong with a header is told when it is there.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.hg_wire import HEADS, chunkings, cut, frame, frames_like, outcome
from wire.hg.errors import LimitExceeded, Misuse, ProtocolViolation
from wire.hg.frames import (
    MAX_PAYLOAD,
    Frame,
    FrameDecoder,
    FrameType,
    encode_frame,
    frame_header,
)

T = FrameType

# "Smallest valid request" of the specification, and one of each type as it would be on the wire.
GOLDEN = {
    "0c0000 0100 01 01 11 a1446e616d65456865616473": Frame(1, 1, 1, T.COMMAND_REQUEST, 1, HEADS),
    "030000 0100 01 00 22 616263": Frame(1, 1, 0, T.COMMAND_DATA, 2, b"abc"),
    "000000 0100 02 04 31": Frame(1, 2, 4, T.COMMAND_RESPONSE, 1, b""),
    "010000 ffff 02 00 32 f6": Frame(0xFFFF, 2, 0, T.COMMAND_RESPONSE, 2, b"\xf6"),
    "010000 0300 02 00 50 a0": Frame(3, 2, 0, T.ERROR, 0, b"\xa0"),
    "010000 0001 fe 02 60 80": Frame(256, 0xFE, 2, T.TEXT_OUTPUT, 0, b"\x80"),
    "010000 0100 02 00 70 a0": Frame(1, 2, 0, T.PROGRESS, 0, b"\xa0"),
    "010000 0100 01 01 82 a0": Frame(1, 1, 1, T.SENDER_SETTINGS, 2, b"\xa0"),
    "050000 0100 02 01 92 447a6c6962": Frame(1, 2, 1, T.STREAM_SETTINGS, 2, b"\x44zlib"),
}

# The specification's table of flags.
ALLOWED = {
    T.COMMAND_REQUEST: {1, 2, 1 | 4, 2 | 4, 1 | 8, 2 | 8, 1 | 4 | 8, 2 | 4 | 8},
    T.COMMAND_DATA: {1, 2},
    T.COMMAND_RESPONSE: {1, 2},
    T.ERROR: {0},
    T.TEXT_OUTPUT: {0},
    T.PROGRESS: {0},
    T.SENDER_SETTINGS: {1, 2},
    T.STREAM_SETTINGS: {1, 2},
}

valid = st.sampled_from(list(FrameType)).flatmap(
    lambda kind: st.builds(
        Frame,
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFF),
        st.integers(0, 7),
        st.just(kind),
        st.sampled_from(sorted(ALLOWED[kind])),
        st.binary(max_size=30),
    )
)


@pytest.mark.parametrize("written", GOLDEN)
def test_golden(written: str):
    """A frame of each type is written and read as the specification lays it out."""
    assert encode_frame(GOLDEN[written]) == bytes.fromhex(written)
    assert FrameDecoder().feed(bytes.fromhex(written)) == [GOLDEN[written]]


@pytest.mark.parametrize("kind", range(16))
def test_types_and_flags(kind: int):
    """Of all types and flags, those of the specification's table are read, and no others."""
    for flags in range(16):
        read = outcome(*reader(), [frame(1, 1, 0, kind, flags)])
        if kind in ALLOWED and flags in ALLOWED[FrameType(kind)]:
            assert read == ([Frame(1, 1, 0, FrameType(kind), flags, b"")], None)
        else:
            assert read[0] == []
            assert read[1] is not None
            assert f"type {kind}" in read[1][0]


@pytest.mark.parametrize("kind", list(FrameType))
def test_flags_that_we_may_not_send(kind: FrameType):
    """Flags that a type does not have are not sent."""
    for flags in set(range(17)) - ALLOWED[kind]:
        with pytest.raises(Misuse, match=kind.name):
            frame_header(0, 1, 1, 0, kind, flags)


@pytest.mark.parametrize("numbers", [(-1, 1, 1, 0), (0, 65536, 1, 0), (0, 1, 256, 0), (0, 1, 1, 8)])
def test_numbers_that_do_not_fit(numbers: tuple[int, int, int, int]):
    """Lengths, ids and stream flags that the header has no room for are not sent."""
    with pytest.raises(Misuse):
        frame_header(*numbers, FrameType.ERROR, 0)


def test_longest_frame():
    """65535 bytes are a frame, for us and from others; one more is none, and is not sent."""
    longest = Frame(1, 2, 0, FrameType.COMMAND_RESPONSE, 1, bytes(MAX_PAYLOAD))
    assert FrameDecoder().feed(encode_frame(longest)) == [longest]
    with pytest.raises(Misuse, match="65536"):
        encode_frame(Frame(1, 2, 0, FrameType.COMMAND_RESPONSE, 1, bytes(MAX_PAYLOAD + 1)))


@pytest.mark.parametrize("length", [65536, 0xFFFFFF])
def test_too_long_is_refused_at_its_header(length: int):
    """A frame over the limit is refused before a byte of its payload has come."""
    decoder = FrameDecoder()
    header = length.to_bytes(3, "little") + bytes.fromhex("0700 02 00 31")
    assert decoder.feed(header[:-1]) == []
    with pytest.raises(LimitExceeded, match=str(length)) as caught:
        decoder.feed(header[-1:])
    assert caught.value.request_id == 7
    assert decoder.pending == 0


def test_limit_of_ones_own():
    """A reader may set a limit below that of the protocol."""
    with pytest.raises(LimitExceeded, match="up to 10"):
        FrameDecoder(max_payload=10).feed(frame(1, 1, 0, 3, 1, bytes(11)))


@pytest.mark.parametrize("flags", [0x08, 0x80, 0xFF])
def test_unknown_stream_flags(flags: int):
    """A stream flag that is not known is refused, for it may change what all else means."""
    with pytest.raises(ProtocolViolation, match="stream flags"):
        FrameDecoder().feed(frame(1, 1, flags, 3, 1))


def test_what_is_held():
    """Of a frame that is incomplete, what came of it is held, and nothing after it is complete."""
    decoder = FrameDecoder()
    written = frame(1, 1, 0, 3, 1, b"abc")
    for place in range(1, len(written)):
        decoder = FrameDecoder()
        assert decoder.feed(written[:place]) == []
        assert decoder.pending == place
        assert len(decoder.feed(written[place:])) == 1
        assert decoder.pending == 0


@given(st.lists(valid, max_size=6), chunkings)
def test_round_trip(frames: list[Frame], places: list[int]):
    """What was written is read, wherever it is cut."""
    written = b"".join(map(encode_frame, frames))
    assert outcome(*reader(), cut(written, places)) == (frames, None)
    assert outcome(*reader(), cut(written, range(len(written)))) == (frames, None)


@given(
    st.lists(frames_like((1, 2), range(16)) | st.binary(max_size=9), max_size=6).map(b"".join),
    chunkings,
)
def test_cuts_change_nothing(data: bytes, places: list[int]):
    """Frames and the violation after them are the same wherever the bytes are cut."""
    whole = outcome(*reader(), [data])
    assert outcome(*reader(), cut(data, places)) == whole
    assert outcome(*reader(), cut(data, range(len(data)))) == whole


def test_frames_before_a_violation():
    """Frames that came with what is no frame are returned first; then nothing is read any more."""
    decoder = FrameDecoder()
    good = frame(1, 1, 0, 3, 1, b"abc")
    assert len(decoder.feed(good + bytes(20))) == 1
    for _ in range(2):
        with pytest.raises(ProtocolViolation, match="type 0"):
            decoder.feed(good)
        with pytest.raises(ProtocolViolation, match="type 0"):
            decoder.end()


def test_end_in_a_frame():
    """Input that ends in a frame is a violation; at its edge it is none."""
    decoder = FrameDecoder()
    decoder.end()
    decoder.feed(frame(1, 1, 0, 3, 1, b"abc")[:-1])
    with pytest.raises(ProtocolViolation, match="10 bytes into it"):
        decoder.end()


def reader():
    """A new decoder's two ways in."""
    decoder = FrameDecoder()
    return decoder.feed, decoder.end
