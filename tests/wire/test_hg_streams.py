# Law of this file: what streams.py demands of frames, frame by frame; and what outgoing.py sends
# is what streams.py takes.

from __future__ import annotations

import pytest

from tests.wire.hg_wire import (
    BEGIN,
    ENCODED,
    GOES_ON,
    LAST,
    RESPONSE,
    STREAM,
    STREAM_END,
    frame,
)
from wire.hg import cbor
from wire.hg.encodings import Encoding, encoder
from wire.hg.errors import LimitExceeded, Misuse, ProtocolViolation
from wire.hg.frames import FrameDecoder, FrameType
from wire.hg.outgoing import OutgoingStreams
from wire.hg.streams import (
    MAX_SETTINGS,
    TRANSITIONS,
    IncomingStreams,
    StreamEvent,
    StreamState,
    encode_settings,
)

ZLIB = b"\x44zlib"


def coded(*texts: bytes) -> list[bytes]:
    """Payloads of one zlib context, each flushed."""
    coder = encoder(Encoding.ZLIB)
    return [coder.encode(text) + coder.flush() for text in texts]


def take(streams: IncomingStreams, *frames: bytes) -> list[bytes]:
    """What frames tell, taken at once; what is taken in pieces is tested to be the same."""
    return [streams.take(each) for each in FrameDecoder().feed(b"".join(frames))]


def from_server(max_open: int = 4, max_decoded: int = 1000) -> IncomingStreams:
    """Streams that come from a server."""
    return IncomingStreams(odd=False, max_open=max_open, max_decoded=max_decoded)


# --- the table ------------------------------------------------------------------------

FIRST, SECOND = coded(b"first", b"second")

# Frames that bring a new stream into each state. Settings of two frames: "zl", "ib".
INTO = {
    StreamState.CLOSED: (),
    StreamState.FRESH: (frame(1, 2, BEGIN, RESPONSE, GOES_ON),),
    StreamState.SETTING: (frame(1, 2, BEGIN, STREAM, GOES_ON, ZLIB[:3]),),
    StreamState.SET: (frame(1, 2, BEGIN, STREAM, LAST, ZLIB),),
    StreamState.CODED: (
        frame(1, 2, BEGIN, STREAM, LAST, ZLIB),
        frame(1, 2, ENCODED, RESPONSE, GOES_ON, FIRST),
    ),
}
NOT_BEGUN, BEGUN = "was not begun", "begins while it is open"
LATE, INSIDE = "not at its beginning", "in the middle of its settings"
AFTER = {
    StreamEvent.BEGIN: (BEGIN, RESPONSE, GOES_ON, b"raw"),
    StreamEvent.SETTINGS_MORE: (0, STREAM, GOES_ON, b""),
    StreamEvent.SETTINGS_END: (0, STREAM, LAST, b""),
    StreamEvent.RAW: (0, RESPONSE, GOES_ON, b"raw"),
    StreamEvent.ENCODED: (ENCODED, RESPONSE, GOES_ON, b""),
    StreamEvent.END: (STREAM_END, RESPONSE, GOES_ON, b"raw"),
}
REFUSED: dict[tuple[StreamState, StreamEvent], str] = {
    **{(StreamState.CLOSED, event): NOT_BEGUN for event in StreamEvent},
    **{(state, StreamEvent.BEGIN): BEGUN for state in StreamState},
    (StreamState.SETTING, StreamEvent.RAW): INSIDE,
    (StreamState.SETTING, StreamEvent.ENCODED): INSIDE,
    (StreamState.SETTING, StreamEvent.END): INSIDE,
    (StreamState.SET, StreamEvent.SETTINGS_MORE): LATE,
    (StreamState.SET, StreamEvent.SETTINGS_END): LATE,
    (StreamState.CODED, StreamEvent.SETTINGS_MORE): LATE,
    (StreamState.CODED, StreamEvent.SETTINGS_END): LATE,
}
del REFUSED[StreamState.CLOSED, StreamEvent.BEGIN]


@pytest.mark.parametrize("event", StreamEvent)
@pytest.mark.parametrize("state", StreamState)
def test_every_transition(state: StreamState, event: StreamEvent):
    """In each state each event is allowed or refused, as the specification has it."""
    streams = from_server()
    take(streams, *INTO[state])
    stream_flags, kind, flags, payload = AFTER[event]
    if event is StreamEvent.SETTINGS_END:
        payload = ZLIB[3:] if state is StreamState.SETTING else ZLIB
    after = frame(7, 2, stream_flags, kind, flags, payload)
    assert ((state, event) in TRANSITIONS) is ((state, event) not in REFUSED)
    if (state, event) in REFUSED:
        with pytest.raises(ProtocolViolation, match=REFUSED[state, event]) as caught:
            take(streams, after)
        assert caught.value.request_id == 7
    else:
        assert take(streams, after) == [payload if kind == RESPONSE else b""]
        ended = TRANSITIONS[state, event] is StreamState.CLOSED
        assert streams.open == (frozenset() if ended else {2})


def test_each_state_can_be_reached():
    """No state and no event stands in the table in vain."""
    assert {*TRANSITIONS.values()} == {*StreamState}
    assert {event for _, event in TRANSITIONS} == {*StreamEvent}


# --- what streams carry ---------------------------------------------------------------


def test_encoded_and_raw_frames():
    """On a stream with an encoding, a frame without the flag is as it is; the context lives on."""
    streams = from_server()
    told = take(
        streams,
        frame(1, 2, BEGIN, STREAM, LAST, ZLIB),
        frame(1, 2, ENCODED, RESPONSE, GOES_ON, FIRST),
        frame(1, 2, 0, RESPONSE, GOES_ON, b"raw"),
        frame(3, 2, ENCODED, RESPONSE, LAST, SECOND),
    )
    assert told == [b"", b"first", b"raw", b"second"]


def test_pieces_are_the_same():
    """Taken in pieces, frames tell what they tell at once, and change their stream alike."""
    streams = from_server()
    frames = FrameDecoder().feed(
        frame(1, 2, BEGIN, STREAM, LAST, ZLIB)
        + frame(1, 2, 0, RESPONSE, GOES_ON, b"raw")
        + frame(1, 2, ENCODED | STREAM_END, RESPONSE, LAST, FIRST)
    )
    assert streams.take(frames[0]) == b""
    assert [b"".join(streams.take_pieces(each)) for each in frames[1:]] == [b"raw", b"first"]
    assert not streams.open


def test_no_settings():
    """A stream that says nothing of its encoding is one of identity, whatever its flags are."""
    streams = from_server()
    assert take(
        streams,
        frame(1, 2, BEGIN | ENCODED, RESPONSE, GOES_ON, b"a"),
        frame(1, 2, ENCODED, RESPONSE, GOES_ON, b"b"),
    ) == [b"a", b"b"]


def test_error_before_settings():
    """Settings may come after frames that are not encoded, as Mercurial's server sends errors."""
    streams = from_server()
    assert take(
        streams,
        frame(1, 2, BEGIN, int(FrameType.ERROR), 0, b"\xa0"),
        frame(1, 2, 0, STREAM, LAST, ZLIB),
        frame(1, 2, ENCODED, RESPONSE, GOES_ON, FIRST),
    ) == [b"\xa0", b"", b"first"]


def test_ids_are_used_again():
    """An id whose stream has ended may begin again, with a context that knows nothing of before."""
    streams = from_server()
    begin = frame(1, 2, BEGIN, STREAM, LAST, ZLIB)
    one = frame(1, 2, ENCODED | STREAM_END, RESPONSE, GOES_ON, FIRST)
    assert take(streams, begin, one, begin, one) == [b"", b"first"] * 2
    with pytest.raises(ProtocolViolation, match="zlib"):
        take(streams, begin, frame(1, 2, ENCODED, RESPONSE, GOES_ON, SECOND))


def test_stream_of_one_frame():
    """A stream may begin and end in one frame."""
    streams = from_server()
    assert take(streams, frame(1, 2, BEGIN | STREAM_END, RESPONSE, LAST, b"all")) == [b"all"]
    assert not streams.open


def test_settings_in_pieces():
    """Settings may come in several frames, with values after the name that we do not know."""
    streams = from_server()
    assert take(
        streams,
        frame(1, 2, BEGIN, STREAM, GOES_ON, ZLIB[:2]),
        frame(1, 2, 0, STREAM, GOES_ON, ZLIB[2:] + b"\x01"),
        frame(1, 2, 0, STREAM, LAST, b"\xa0"),
        frame(1, 2, ENCODED, RESPONSE, GOES_ON, FIRST),
    ) == [b"", b"", b"", b"first"]


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(("odd", "stream_id"), [(True, 0), (True, 2), (False, 0), (False, 255)])
def test_wrong_side(odd: bool, stream_id: int):
    """Each side has ids of its own: odd ones the client, even ones but 0 the server."""
    streams = IncomingStreams(odd=odd, max_open=4)
    with pytest.raises(ProtocolViolation, match="odd" if odd else "even, and not 0"):
        take(streams, frame(1, stream_id, BEGIN, RESPONSE, GOES_ON))


@pytest.mark.parametrize(
    ("payload", "wrong"),
    [
        (b"", "do not begin with a name"),
        (b"\x01", "do not begin with a name"),
        (b"\x5f\x44zlib\xff", "do not begin with a name"),
        (b"\x64zlib", "settings of a stream: a text string"),
        (b"\x44zl", "settings of a stream: the input ends"),
        (b"\x46brotli", "encoding b'brotli' is not known"),
        (b"\x44ZLIB", "is not known"),
        (b"\x42\xff\xfe", "is not known"),
        (b"\x59\x0f\xa0" + bytes(4000), "is not known"),
    ],
)
def test_bad_settings(payload: bytes, wrong: str):
    """Settings that name no encoding that we know are refused, in a message of bounded length."""
    with pytest.raises(ProtocolViolation, match=wrong) as caught:
        take(from_server(), frame(5, 2, BEGIN, STREAM, LAST, payload))
    assert caught.value.request_id == 5
    assert len(str(caught.value)) < 600


def test_encoded_settings():
    """Settings cannot be in the encoding that they are about to name."""
    with pytest.raises(ProtocolViolation, match="not encoded"):
        take(from_server(), frame(1, 2, BEGIN | ENCODED, STREAM, LAST, ZLIB))


def test_endless_settings():
    """Settings that do not come to an end are refused at their limit."""
    streams = from_server()
    take(streams, frame(1, 2, BEGIN, STREAM, GOES_ON, bytes(MAX_SETTINGS)))
    with pytest.raises(LimitExceeded, match=str(MAX_SETTINGS)):
        take(streams, frame(1, 2, 0, STREAM, GOES_ON, b"x"))


def test_end_with_half_of_the_settings():
    """A stream does not end with a frame after which more of its settings should follow."""
    with pytest.raises(ProtocolViolation, match="ends in the middle of its settings"):
        take(from_server(), frame(1, 2, BEGIN | STREAM_END, STREAM, GOES_ON, ZLIB[:2]))


def test_end_with_the_settings():
    """A stream that says its encoding and nothing in it is allowed, and of no use."""
    streams = from_server()
    take(streams, frame(1, 2, BEGIN | STREAM_END, STREAM, LAST, ZLIB))
    assert not streams.open


def test_too_many_streams():
    """More streams than the limit are not held open; one that ends makes room."""
    streams = from_server(max_open=2)
    take(streams, *(frame(1, each, BEGIN, RESPONSE, GOES_ON) for each in (2, 4)))
    take(streams, frame(1, 2, STREAM_END, RESPONSE, GOES_ON))
    take(streams, frame(1, 6, BEGIN, RESPONSE, GOES_ON))
    with pytest.raises(LimitExceeded, match="more than 2 streams"):
        take(streams, frame(1, 8, BEGIN, RESPONSE, GOES_ON))


def test_bombs_name_their_request():
    """A payload over the limit is refused in the request that it belongs to."""
    (payload,) = coded(bytes(1001))
    with pytest.raises(LimitExceeded, match="1000") as caught:
        take(
            from_server(),
            frame(1, 2, BEGIN, STREAM, LAST, ZLIB),
            frame(9, 2, ENCODED, RESPONSE, GOES_ON, payload),
        )
    assert caught.value.request_id == 9


def test_pieces_that_are_wrong_name_their_request():
    """What is wrong within pieces is told as what is wrong at once."""
    streams = from_server()
    take(streams, frame(1, 2, BEGIN, STREAM, LAST, ZLIB))
    (bad,) = FrameDecoder().feed(frame(9, 2, ENCODED, RESPONSE, GOES_ON, b"no zlib"))
    with pytest.raises(ProtocolViolation, match="no zlib") as caught:
        list(streams.take_pieces(bad))
    assert caught.value.request_id == 9


def test_end_in_settings():
    """Input may end with streams open, as Mercurial's does, but not in a stream's settings."""
    streams = from_server()
    take(streams, *INTO[StreamState.CODED])
    streams.end()
    take(streams, frame(1, 4, BEGIN, STREAM, GOES_ON, ZLIB[:1]))
    with pytest.raises(ProtocolViolation, match="stream 4 ends in the middle of its settings"):
        streams.end()


# --- what we send ---------------------------------------------------------------------

FLAGS = (GOES_ON, LAST)


@pytest.mark.parametrize("encoding", Encoding)
def test_encoding_is_said_in_its_name(encoding: Encoding):
    """Settings are the profile's name, as a CBOR byte string."""
    assert encode_settings(encoding) == cbor.encode(encoding.value.encode())


def test_golden_stream():
    """A stream says its encoding first, marks what is encoded, and ends with its last frame."""
    stream = OutgoingStreams(odd=False).begin(Encoding.ZLIB)
    kind = FrameType.COMMAND_RESPONSE
    assert stream.frames(kind, 1, b"raw", flags=FLAGS, encoded=False) == (
        frame(1, 2, BEGIN, STREAM, LAST, ZLIB) + frame(1, 2, 0, RESPONSE, LAST, b"raw")
    )
    assert stream.frames(kind, 1, FIRST, flags=FLAGS, encoded=True, close=True) == (
        frame(1, 2, ENCODED | STREAM_END, RESPONSE, LAST, FIRST)
    )
    assert stream.ended


def test_identity_says_nothing():
    """A stream of identity needs no settings and has nothing that is encoded."""
    stream = OutgoingStreams(odd=False).begin(Encoding.IDENTITY)
    assert stream.frames(FrameType.COMMAND_RESPONSE, 1, b"raw", flags=FLAGS, encoded=True) == frame(
        1, 2, BEGIN, RESPONSE, LAST, b"raw"
    )


def test_notice_first():
    """An error, too, comes after the settings of its stream, and is never encoded."""
    stream = OutgoingStreams(odd=False).begin(Encoding.ZLIB)
    assert stream.frame(FrameType.ERROR, 3, b"\xa0") == (
        frame(3, 2, BEGIN, STREAM, LAST, ZLIB) + frame(3, 2, 0, 5, 0, b"\xa0")
    )


def test_error_that_ends_a_stream():
    """An error may be the last frame of its stream, whose id is then free."""
    streams = OutgoingStreams(odd=False)
    stream = streams.begin(Encoding.IDENTITY)
    assert stream.frame(FrameType.ERROR, 3, b"\xa0", close=True) == (
        frame(3, 2, BEGIN | STREAM_END, 5, 0, b"\xa0")
    )
    assert stream.ended
    assert streams.begin(Encoding.IDENTITY).id == 2


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        (0, [0]),
        (1, [1]),
        (65535, [65535]),
        (65536, [65535, 1]),
        (131070, [65535, 65535]),
        (131071, [65535, 65535, 1]),
    ],
)
def test_long_payloads(size: int, lengths: list[int]):
    """Payloads are cut into as few frames as can be; flags of ends are those of the last alone."""
    stream = OutgoingStreams(odd=False).begin(Encoding.IDENTITY)
    written = stream.frames(
        FrameType.COMMAND_RESPONSE,
        1,
        memoryview(bytes(size)),
        flags=FLAGS,
        encoded=False,
        close=True,
    )
    frames = FrameDecoder().feed(written)
    last = len(lengths) - 1
    assert [len(each.payload) for each in frames] == lengths
    assert [each.flags for each in frames] == [GOES_ON] * last + [LAST]
    assert [bool(each.stream_flags & BEGIN) for each in frames] == [True] + [False] * last
    assert [bool(each.stream_flags & STREAM_END) for each in frames] == [False] * last + [True]


@pytest.mark.parametrize(("odd", "ids"), [(True, range(1, 256, 2)), (False, range(2, 255, 2))])
def test_ids(odd: bool, ids: range):
    """Streams get the lowest id that is free; when all are in use there is none."""
    streams = OutgoingStreams(odd=odd)
    begun = [streams.begin(Encoding.IDENTITY) for _ in ids]
    assert [stream.id for stream in begun] == [*ids]
    with pytest.raises(Misuse, match="in use"):
        streams.begin(Encoding.IDENTITY)
    for stream in (begun[40], begun[7]):
        stream.frames(FrameType.COMMAND_DATA, 1, b"", flags=FLAGS, encoded=False, close=True)
    assert [streams.begin(Encoding.IDENTITY).id for _ in range(2)] == [ids[7], ids[40]]


def test_after_the_end():
    """Nothing is sent on a stream that has ended."""
    stream = OutgoingStreams(odd=False).begin(Encoding.IDENTITY)
    stream.frames(FrameType.COMMAND_RESPONSE, 1, b"", flags=FLAGS, encoded=False, close=True)
    with pytest.raises(Misuse, match="has ended"):
        stream.frames(FrameType.COMMAND_RESPONSE, 1, b"", flags=FLAGS, encoded=False)
    with pytest.raises(Misuse, match="has ended"):
        stream.frame(FrameType.ERROR, 1, b"")
