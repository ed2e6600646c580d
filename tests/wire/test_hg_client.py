# Law of this file: the client's machine sends what the specification lets it send, and takes of a
# response what answers its requests, wherever the response was cut.

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.hg_wire import (
    BEGIN,
    CONTINUED,
    DATA,
    ENCODED,
    ERROR,
    GOES_ON,
    HAS_DATA,
    HEADS,
    LAST,
    MORE,
    NEW,
    PROGRESS,
    REQUEST,
    RESPONSE,
    SENDER,
    STREAM,
    STREAM_END,
    TEXT,
    chunkings,
    cut,
    frame,
    frames_like,
    outcome,
)
from wire.hg.client import (
    CALL,
    MAX_STREAMS,
    CallEvent,
    CallState,
    ClientReactor,
    ErrorReceived,
    Event,
    ProgressReceived,
    ResponseReceived,
    TextReceived,
)
from wire.hg.encodings import Encoding, encoder
from wire.hg.errors import LimitExceeded, Misuse, ProtocolViolation
from wire.hg.frames import FrameDecoder
from wire.hg.messages import (
    CommandRequest,
    Progress,
    RemoteError,
    Text,
    encode_error,
    encode_progress,
    encode_texts,
)

ASKED = CommandRequest(b"heads")
STOCK = frame(
    1, 1, BEGIN, SENDER, LAST, b"\xa1\x50contentencodings\x83\x48zstd-8mb\x44zlib\x48identity"
)
NO = encode_error("server", b"no")
PROGRESSED = encode_progress(Progress(b"t", 1, 2))
SAID = encode_texts([Text(b"hello")])


def client(requests: int = 1, max_decoded: int = 1000) -> ClientReactor:
    """A client that asked."""
    reactor = ClientReactor(max_decoded=max_decoded)
    for _ in range(requests):
        reactor.request(ASKED)
    return reactor


def take(reactor: ClientReactor, *frames: bytes) -> list[Event]:
    """What a client makes of frames."""
    return [event for each in frames for event in reactor.receive(each)]


# --- requests ---------------------------------------------------------------------------


def test_golden_requests():
    """Without words of our own, what we send is what Mercurial's client sends."""
    reactor = ClientReactor(extra_frames=False)
    assert reactor.request(ASKED) == (1, STOCK + frame(1, 1, 0, REQUEST, NEW, HEADS))
    assert reactor.request(ASKED) == (3, frame(3, 1, 0, REQUEST, NEW, HEADS))
    assert reactor.unanswered == (1, 3)


def test_what_we_read():
    """We say which encodings we read, and that text and progress do not break us."""
    _, written = ClientReactor((Encoding.ZLIB,)).request(ASKED)
    (settings, _) = FrameDecoder().feed(written)
    assert settings.payload == (
        b"\xa2\x50contentencodings\x81\x44zlib\x4bextraframes\x82\x48progress\x44text"
    )


@pytest.mark.parametrize("data", [None, b"", b"data", bytes(70_000)])
@pytest.mark.parametrize("size", [0, 65_535, 65_536, 200_000])
def test_long_requests(size: int, data: bytes | None):
    """A long request is new in its first frame, goes on in the others, and announces its data."""
    _, written = ClientReactor().request(CommandRequest(b"x", {b"a": bytes(size)}), data)
    frames = FrameDecoder().feed(written)[1:]
    commands = [each for each in frames if each.kind == REQUEST]
    has_data = 0 if data is None else HAS_DATA
    last = len(commands) - 1
    assert [each.flags for each in commands] == [
        (NEW if n == 0 else CONTINUED) | (MORE if n < last else 0) | has_data
        for n in range(last + 1)
    ]
    rest = frames[last + 1 :]
    assert b"".join(each.payload for each in rest) == (data or b"")
    assert [(each.kind, each.flags) for each in rest] == (
        [] if data is None else [(DATA, GOES_ON)] * (len(rest) - 1) + [(DATA, LAST)]
    )


@pytest.mark.parametrize("encoding", [Encoding.ZLIB, Encoding.ZSTD])
def test_encoded_requests(encoding: Encoding):
    """Requests that we encode say so first; what we read ourselves is said without encoding."""
    reactor = ClientReactor(encoding=encoding)
    frames = FrameDecoder().feed(reactor.request(ASKED, b"data")[1] + reactor.request(ASKED)[1])
    assert [(each.kind, each.stream_flags) for each in frames] == [
        (STREAM, BEGIN),
        (SENDER, 0),
        (REQUEST, ENCODED),
        (DATA, ENCODED),
        (REQUEST, ENCODED),
    ]


def test_ids_are_used_up():
    """There are as many requests as there are odd ids."""
    reactor = ClientReactor()
    reactor._next_id = 65535
    assert reactor.request(ASKED)[0] == 65535
    with pytest.raises(Misuse, match="used up"):
        reactor.request(ASKED)


# --- the table --------------------------------------------------------------------------

FRAMES = {
    CallEvent.RESPONSE: (RESPONSE, GOES_ON, b"x"),
    CallEvent.RESPONSE_END: (RESPONSE, LAST, b"x"),
    CallEvent.ERROR: (ERROR, 0, NO),
    CallEvent.NOTICE: (PROGRESS, 0, PROGRESSED),
}
TO_STATE = {
    CallState.IDLE: (),
    CallState.SENT: (CallEvent.SEND,),
    CallState.ANSWERING: (CallEvent.SEND, CallEvent.RESPONSE),
    CallState.DONE: (CallEvent.SEND, CallEvent.RESPONSE_END),
}
ALLOWED = {
    CallState.IDLE: {CallEvent.SEND},
    CallState.SENT: {*FRAMES},
    CallState.ANSWERING: {*FRAMES},
    CallState.DONE: {CallEvent.NOTICE},
}


@pytest.mark.parametrize("event", CallEvent)
@pytest.mark.parametrize("state", CallState)
def test_every_transition(state: CallState, event: CallEvent):
    """In each state of a request each event is allowed or refused, as the specification has it."""
    assert ((state, event) in CALL) is (event in ALLOWED[state])
    if event is CallEvent.SEND:
        return  # ids are never sent twice: each request has a new one
    reactor = ClientReactor()
    begin = BEGIN
    for before in TO_STATE[state]:
        if before is CallEvent.SEND:
            reactor.request(ASKED)
            continue
        take(reactor, frame(1, 2, begin, *FRAMES[before]))
        begin = 0
    written = frame(1, 2, begin, *FRAMES[event])
    # An error is taken in any state; it may be one of the whole exchange.
    if event in ALLOWED[state] or event is CallEvent.ERROR:
        assert len(take(reactor, written)) == 1
    else:
        with pytest.raises(ProtocolViolation, match="request 1, which waits for none"):
            take(reactor, written)
    done = state is CallState.DONE or event in {CallEvent.RESPONSE_END, CallEvent.ERROR}
    assert reactor.unanswered == (() if done or state is CallState.IDLE else (1,))


def test_each_state_can_be_reached():
    """No state but the first stands in the table in vain, and no event."""
    assert {*CALL.values()} == {*CallState} - {CallState.IDLE}
    assert {event for _, event in CALL} == {*CallEvent}


# --- responses --------------------------------------------------------------------------


def test_golden_response():
    """A response as Mercurial's server sends it with zlib is read."""
    coder = encoder(Encoding.ZLIB)
    first = coder.encode(b"first") + coder.flush()
    second = coder.encode(b"second") + coder.flush()
    reactor = client(2)
    assert take(
        reactor,
        frame(1, 2, BEGIN, STREAM, LAST, b"\x44zlib")
        + frame(1, 2, ENCODED, RESPONSE, GOES_ON, first[:2])
        + frame(1, 2, ENCODED, RESPONSE, GOES_ON, b"")
        + frame(1, 2, ENCODED, RESPONSE, LAST, first[2:])
        + frame(3, 2, ENCODED, RESPONSE, GOES_ON, second[:-1])
        + frame(3, 2, ENCODED, RESPONSE, LAST, second[-1:]),
    ) == [
        ResponseReceived(1, b"first", end=True),
        ResponseReceived(3, b"second", end=False),
        ResponseReceived(3, b"", end=True),
    ]
    reactor.end()


def test_out_of_order_on_several_streams():
    """Answers may come in any order, interleaved, on streams that end and begin again."""
    reactor = client(3)
    assert take(
        reactor,
        frame(5, 4, BEGIN, RESPONSE, GOES_ON, b"c1"),
        frame(3, 2, BEGIN | STREAM_END, RESPONSE, LAST, b"b"),
        frame(1, 2, BEGIN, RESPONSE, GOES_ON, b"a1"),
        frame(5, 2, STREAM_END, RESPONSE, LAST, b"c2"),
        frame(1, 4, 0, RESPONSE, LAST, b"a2"),
    ) == [
        ResponseReceived(5, b"c1", end=False),
        ResponseReceived(3, b"b", end=True),
        ResponseReceived(1, b"a1", end=False),
        ResponseReceived(5, b"c2", end=True),
        ResponseReceived(1, b"a2", end=True),
    ]
    reactor.end()


def test_errors_texts_and_progress():
    """What is not a response is told apart, and an error ends its request."""
    reactor = client(2)
    assert take(
        reactor,
        frame(1, 2, BEGIN, TEXT, 0, SAID),
        frame(1, 2, 0, PROGRESS, 0, PROGRESSED),
        frame(1, 2, 0, ERROR, 0, NO),
        frame(3, 2, 0, RESPONSE, LAST, b"x"),
        frame(3, 2, 0, PROGRESS, 0, PROGRESSED),
    ) == [
        TextReceived(1, (Text(b"hello"),)),
        ProgressReceived(1, Progress(b"t", 1, 2)),
        ErrorReceived(1, RemoteError("server", (Text(b"no"),))),
        ResponseReceived(3, b"x", end=True),
        ProgressReceived(3, Progress(b"t", 1, 2)),
    ]
    reactor.end()


@pytest.mark.parametrize("request_id", [0, 3, 2])
def test_errors_of_no_request(request_id: int):
    """An error of none of our requests is told, and answers none of them."""
    reactor = client()
    (event,) = take(reactor, frame(request_id, 2, BEGIN, ERROR, 0, NO))
    assert event == ErrorReceived(request_id, RemoteError("server", (Text(b"no"),)))
    assert reactor.unanswered == (1,)


def test_senders_settings():
    """A server may say of itself what it likes: nothing of it is needed."""
    reactor = client()
    assert not take(
        reactor,
        frame(0, 2, BEGIN, SENDER, GOES_ON, b"\xa1"),
        frame(0, 2, 0, SENDER, LAST, b"\x01\x01"),
    )


def test_endless_text_in_a_frame():
    """A frame may tell as much as it likes: it is handed out in pieces, and held in none."""
    coder = encoder(Encoding.ZSTD)
    bomb = b"".join([*(coder.encode(bytes(1 << 20)) for _ in range(256)), coder.flush()])
    reactor = client()
    body = (
        frame(1, 2, BEGIN, STREAM, LAST, b"\x48zstd-8mb")
        + frame(1, 2, ENCODED, RESPONSE, GOES_ON, bomb)
        + frame(1, 2, ENCODED, RESPONSE, LAST)
    )
    told, ends = 0, []
    tracemalloc.start()
    for event in reactor.receive(body):
        assert isinstance(event, ResponseReceived)
        told += len(event.data)
        ends.append(event.end)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told == 256 << 20
    assert ends[-1]
    assert not any(ends[:-1])
    assert peak < 40 << 20


def test_frames_that_tell_nothing():
    """Frames of a response that tell nothing yet are nothing to be told of."""
    reactor = client()
    assert not take(reactor, frame(1, 2, BEGIN, RESPONSE, GOES_ON))
    assert take(reactor, frame(1, 2, 0, RESPONSE, LAST)) == [ResponseReceived(1, b"", end=True)]


# --- bad input --------------------------------------------------------------------------

BAD = {
    "a frame over the limit": (b"\x00\x00\x01\x01\x00\x02\x01\x31", "65536 bytes"),
    "an odd stream": (frame(1, 1, BEGIN, RESPONSE, LAST), "even, and not 0"),
    "stream 0": (frame(1, 0, BEGIN, ERROR, 0, NO), "even, and not 0"),
    "a stream that was not begun": (frame(1, 2, 0, RESPONSE, LAST), "was not begun"),
    "a request": (frame(1, 2, BEGIN, REQUEST, NEW, HEADS), "clients only"),
    "data": (frame(1, 2, BEGIN, DATA, LAST), "clients only"),
    "an answer to nobody": (frame(5, 2, BEGIN, RESPONSE, LAST), "request 5"),
    "an answer twice": (frame(1, 2, BEGIN, RESPONSE, LAST) + frame(1, 2, 0, RESPONSE, LAST), "for"),
    "progress of nobody": (frame(5, 2, BEGIN, PROGRESS, 0, PROGRESSED), "request 5"),
    "text of nobody": (frame(5, 2, BEGIN, TEXT, 0, SAID), "request 5"),
    "an error that is none": (frame(1, 2, BEGIN, ERROR, 0, b"\x80"), "an error that is no map"),
    "a text that is none": (frame(1, 2, BEGIN, TEXT, 0, b"\xa0"), "a text that is no list"),
    "a progress that is none": (frame(1, 2, BEGIN, PROGRESS, 0, b"\xa0"), "a progress without"),
    "no end of a frame": (frame(1, 2, BEGIN, RESPONSE, LAST, b"x")[:-1], "8 bytes into it"),
    "no end of an answer": (frame(1, 2, BEGIN, RESPONSE, GOES_ON), "answer to request 1"),
    "no answer": (b"", "answer to request 1"),
    "no end of settings": (frame(1, 2, BEGIN, STREAM, GOES_ON), "middle of its settings"),
    "text": (b"<html><body>", "bytes; frames hold up to"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str):
    """Each way to break the protocol is refused in its own words, wherever the response is cut."""
    body, words = BAD[what]
    reactor = client()
    whole = outcome(reactor.receive, reactor.end, [body])
    assert whole[1] is not None
    assert words in whole[1][0]
    reactor = client()
    assert outcome(reactor.receive, reactor.end, cut(body, range(len(body)))) == whole


def test_too_many_streams():
    """Streams are not held open without end."""
    reactor = client()
    ids = range(2, 2 * MAX_STREAMS + 2, 2)
    take(reactor, *(frame(1, each, BEGIN, RESPONSE, GOES_ON) for each in ids))
    with pytest.raises(LimitExceeded, match=f"more than {MAX_STREAMS} streams"):
        take(reactor, frame(1, 2 * MAX_STREAMS + 2, BEGIN, RESPONSE, GOES_ON))


def test_errors_over_the_limit():
    """What is held as a whole, such as an error, is limited in what it may tell."""
    coder = encoder(Encoding.ZLIB)
    payload = coder.encode(bytes(1001)) + coder.flush()
    with pytest.raises(LimitExceeded, match="1000"):
        take(
            client(),
            frame(1, 2, BEGIN, STREAM, LAST, b"\x44zlib"),
            frame(1, 2, ENCODED, ERROR, 0, payload),
        )


def test_after_a_violation():
    """Events before a violation are handed out; after it there is nothing but the violation."""
    reactor = client(2)
    events = reactor.receive(
        frame(1, 2, BEGIN, RESPONSE, LAST, b"x") + frame(1, 2, 0, RESPONSE, LAST, b"x")
    )
    assert next(events) == ResponseReceived(1, b"x", end=True)
    with pytest.raises(ProtocolViolation, match="waits for none"):
        next(events)
    with pytest.raises(ProtocolViolation, match="waits for none"):
        take(reactor, frame(3, 2, 0, RESPONSE, LAST, b"x"))
    with pytest.raises(ProtocolViolation, match="waits for none"):
        reactor.end()


def test_events_that_were_not_taken():
    """Whoever takes some of a piece's events and leaves the rest cannot go on as if they had."""
    reactor = client(2)
    events = reactor.receive(
        frame(1, 2, BEGIN, RESPONSE, LAST, b"x") + frame(3, 2, 0, RESPONSE, LAST, b"x")
    )
    next(events)
    del events
    with pytest.raises(Misuse, match="were not taken"):
        take(reactor, b"")
    with pytest.raises(Misuse, match="were not taken"):
        reactor.end()


@given(
    st.lists(frames_like((2, 2, 4, 1), range(1, 10)), max_size=6).map(b"".join)
    | st.binary(max_size=40),
    chunkings,
    st.booleans(),
)
def test_cuts_change_nothing(body: bytes, places: list[int], begun: bool):
    """Events and the violation after them are the same wherever a response is cut."""
    body = frame(1, 2, BEGIN, RESPONSE, GOES_ON, b"x") + body if begun else body

    def read(chunks: list[bytes]) -> object:
        reactor = client(2)
        return outcome(reactor.receive, reactor.end, chunks)

    whole = read([body])
    assert read(cut(body, places)) == whole
    assert read(cut(body, range(len(body)))) == whole
