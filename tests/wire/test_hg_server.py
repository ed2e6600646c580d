# Law of this file: the server's machine takes what the specification allows a client and refuses
# the rest, wherever the body was cut; what it holds is bounded before it is held.

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
from wire.hg import cbor
from wire.hg.encodings import Encoding, encoder
from wire.hg.errors import LimitExceeded, Misuse, ProtocolViolation
from wire.hg.frames import (
    REQUEST_CONTINUATION,
    REQUEST_MORE,
    REQUEST_NEW,
    STREAM_BEGIN,
    FrameType,
    frame_header,
)
from wire.hg.messages import SenderSettings
from wire.hg.server import (
    BODY,
    DEFAULT,
    BodyEvent,
    BodyState,
    CommandReceived,
    Limits,
    RequestEvent,
    RequestState,
    ServerReactor,
)
from wire.hg.server import REQUEST as TABLE

STOCK_SETTINGS = b"\xa1\x50contentencodings\x83\x48zstd-8mb\x44zlib\x48identity"
SETTINGS = frame(1, 1, BEGIN, SENDER, LAST, STOCK_SETTINGS)
BEGINS = frame(1, 1, BEGIN, REQUEST, NEW, HEADS)
READS_ALL = cbor.encode({b"extraframes": [b"progress", b"text"]})
ONE = CommandReceived(1, HEADS, None)


def server(*frames: bytes, limits: Limits = DEFAULT) -> ServerReactor:
    """A server that took in frames."""
    reactor = ServerReactor(limits)
    for each in frames:
        reactor.receive(each)
    return reactor


def reader(limits: Limits = DEFAULT):
    """A new server's two ways in."""
    reactor = ServerReactor(limits)
    return reactor.receive, reactor.end


# --- what is understood ---------------------------------------------------------------


def test_smallest_request():
    """The smallest request of the specification is one, and asks for identity."""
    reactor = ServerReactor()
    body = bytes.fromhex("0c0000 0100 01 01 11 a1446e616d65456865616473")
    assert reactor.receive(body) == [ONE]
    reactor.end()
    assert reactor.settings == SenderSettings()
    assert reactor.encoding is Encoding.IDENTITY


def test_stock_request():
    """What Mercurial's client sends first is understood, and we choose among what it names."""
    reactor = ServerReactor()
    assert reactor.receive(SETTINGS + frame(1, 1, 0, REQUEST, NEW, HEADS)) == [ONE]
    reactor.end()
    assert reactor.settings.encodings == (b"zstd-8mb", b"zlib", b"identity")
    assert reactor.encoding is Encoding.ZSTD


def test_multirequest():
    """Several requests of one body may be interleaved, frame by frame, with their data."""
    reactor = ServerReactor()
    received = reactor.receive(
        frame(1, 1, BEGIN, REQUEST, NEW | MORE, HEADS[:4])
        + frame(3, 1, 0, REQUEST, NEW | HAS_DATA, HEADS)
        + frame(5, 3, BEGIN, REQUEST, NEW, HEADS)
        + frame(3, 1, 0, DATA, GOES_ON, b"da")
        + frame(1, 1, 0, REQUEST, CONTINUED | MORE, b"")
        + frame(3, 3, 0, DATA, LAST, b"ta")
        + frame(1, 1, 0, REQUEST, CONTINUED, HEADS[4:])
    )
    reactor.end()
    assert received == [
        CommandReceived(5, HEADS, None),
        CommandReceived(3, HEADS, b"data"),
        CommandReceived(1, HEADS, None),
    ]
    assert reactor.held == 3 * len(HEADS) + len(b"data")


def test_data_of_no_bytes():
    """Data that were announced and are empty are not the same as no data."""
    body = frame(1, 1, BEGIN, REQUEST, NEW | HAS_DATA, HEADS) + frame(1, 1, 0, DATA, LAST)
    assert ServerReactor().receive(body) == [CommandReceived(1, HEADS, b"")]


def test_encoded_requests():
    """A client may encode its requests, on several streams, after saying what it reads itself."""
    coder = encoder(Encoding.ZSTD)
    first, second = (coder.encode(part) + coder.flush() for part in (HEADS[:5], HEADS[5:]))
    reactor = ServerReactor()
    received = reactor.receive(
        frame(1, 1, BEGIN, STREAM, LAST, b"\x48zstd-8mb")
        + frame(1, 1, 0, SENDER, LAST, STOCK_SETTINGS)
        + frame(1, 1, ENCODED, REQUEST, NEW | MORE, first)
        + frame(3, 3, BEGIN | STREAM_END, REQUEST, NEW, HEADS)
        + frame(1, 1, ENCODED, REQUEST, CONTINUED, second)
    )
    assert received == [CommandReceived(3, HEADS, None), ONE]


def test_settings_in_pieces():
    """Sender settings may come in several frames."""
    reactor = server(
        frame(1, 1, BEGIN, SENDER, GOES_ON, STOCK_SETTINGS[:9]),
        frame(1, 1, 0, SENDER, LAST, STOCK_SETTINGS[9:]),
        frame(1, 1, 0, REQUEST, NEW, HEADS),
    )
    assert reactor.settings.encodings == (b"zstd-8mb", b"zlib", b"identity")


def test_ids_of_answered_requests():
    """The id of a request whose answer has ended may name another one, with data or without."""
    reactor = ServerReactor()
    stream = reactor.begin_stream(Encoding.IDENTITY)
    body = frame(1, 1, BEGIN, REQUEST, NEW | HAS_DATA, HEADS) + frame(1, 1, 0, DATA, LAST, b"x")
    assert reactor.receive(body) == [CommandReceived(1, HEADS, b"x")]
    reactor.answer(stream, 1, b"", end=True, encoded=False)
    assert reactor.receive(frame(1, 1, 0, REQUEST, NEW, HEADS)) == [ONE]


# --- the tables -----------------------------------------------------------------------

# Each event of a request, as the client's frame that it is; answers are ours.
FRAMES = {
    RequestEvent.NEW_MORE: (REQUEST, NEW | MORE),
    RequestEvent.NEW: (REQUEST, NEW),
    RequestEvent.NEW_DATA: (REQUEST, NEW | HAS_DATA),
    RequestEvent.MORE: (REQUEST, CONTINUED | MORE),
    RequestEvent.LAST: (REQUEST, CONTINUED),
    RequestEvent.LAST_DATA: (REQUEST, CONTINUED | HAS_DATA),
    RequestEvent.DATA_MORE: (DATA, GOES_ON),
    RequestEvent.DATA_END: (DATA, LAST),
}
TO_STATE = {
    RequestState.IDLE: (),
    RequestState.PARTIAL: (RequestEvent.NEW_MORE,),
    RequestState.DATA: (RequestEvent.NEW_DATA,),
    RequestState.RECEIVED: (RequestEvent.NEW,),
    RequestState.ANSWERING: (RequestEvent.NEW, RequestEvent.ANSWER),
}
ALLOWED = {
    RequestState.IDLE: {RequestEvent.NEW_MORE, RequestEvent.NEW, RequestEvent.NEW_DATA},
    RequestState.PARTIAL: {RequestEvent.MORE, RequestEvent.LAST, RequestEvent.LAST_DATA},
    RequestState.DATA: {RequestEvent.DATA_MORE, RequestEvent.DATA_END},
    RequestState.RECEIVED: {RequestEvent.ANSWER, RequestEvent.ANSWER_END},
    RequestState.ANSWERING: {RequestEvent.ANSWER, RequestEvent.ANSWER_END},
}
WORDS = {
    REQUEST | NEW << 8: "begins while it is under way",
    REQUEST | CONTINUED << 8: "is continued and was not begun, or is complete",
    DATA | NEW << 8: "has data that it did not announce, too early, or after their end",
    DATA | CONTINUED << 8: "has data that it did not announce, too early, or after their end",
}


def happen(reactor: ServerReactor, event: RequestEvent, stream_flags: int = 0) -> int:
    """Let an event happen to request 1; returns how many requests it completes."""
    if event in FRAMES:
        kind, flags = FRAMES[event]
        return len(reactor.receive(frame(1, 1, stream_flags, kind, flags, b"x")))
    stream = reactor.begin_stream(Encoding.IDENTITY)
    end = event is RequestEvent.ANSWER_END
    reactor.answer(stream, 1, b"", end=end, encoded=False, close=True)
    return 0


@pytest.mark.parametrize("event", RequestEvent)
@pytest.mark.parametrize("state", RequestState)
def test_every_transition_of_a_request(state: RequestState, event: RequestEvent):
    """In each state of a request each event is allowed or refused, as the specification has it."""
    # Another request, under way, so that the stream and the body have begun.
    reactor = server(frame(3, 1, BEGIN, REQUEST, NEW | MORE))
    for before in TO_STATE[state]:
        happen(reactor, before)
    if state is RequestState.PARTIAL and event is RequestEvent.LAST_DATA:
        reactor = server(frame(1, 1, BEGIN, REQUEST, NEW | MORE | HAS_DATA))
    assert ((state, event) in TABLE) is (event in ALLOWED[state])
    if event in ALLOWED[state]:
        completes = TABLE[state, event] is RequestState.RECEIVED
        assert happen(reactor, event) == completes
    elif event in FRAMES:
        kind, flags = FRAMES[event]
        with pytest.raises(ProtocolViolation, match=WORDS[kind | (flags & 3) << 8]) as caught:
            happen(reactor, event)
        assert caught.value.request_id == 1
    else:
        with pytest.raises(Misuse, match=f"request 1 is {state.name}"):
            happen(reactor, event)


BODY_FRAMES = {
    BodyEvent.SETTINGS_MORE: (SENDER, GOES_ON, b"\xa0"),
    BodyEvent.SETTINGS_END: (SENDER, LAST, b""),
    BodyEvent.REQUEST: (REQUEST, NEW, HEADS),
}
TO_BODY = {
    BodyState.BEGINNING: (),
    BodyState.SETTINGS: (BodyEvent.SETTINGS_MORE,),
    BodyState.SET: (BodyEvent.SETTINGS_MORE, BodyEvent.SETTINGS_END),
    BodyState.REQUESTS: (BodyEvent.REQUEST,),
}
BODY_ALLOWED = {
    BodyState.BEGINNING: {BodyEvent.SETTINGS_MORE, BodyEvent.SETTINGS_END, BodyEvent.REQUEST},
    BodyState.SETTINGS: {BodyEvent.SETTINGS_MORE, BodyEvent.SETTINGS_END},
    BodyState.SET: {BodyEvent.REQUEST},
    BodyState.REQUESTS: {BodyEvent.REQUEST, BodyEvent.END},
}
BODY_WORDS = {
    BodyEvent.SETTINGS_MORE: "do not come first",
    BodyEvent.SETTINGS_END: "do not come first",
    BodyEvent.REQUEST: "in the middle of the sender's settings",
    BodyEvent.END: "before any command",
}


@pytest.mark.parametrize("event", BodyEvent)
@pytest.mark.parametrize("state", TO_BODY)
def test_every_transition_of_a_body(state: BodyState, event: BodyEvent):
    """Settings come first or not at all, requests after them, and the end after a request."""
    reactor = ServerReactor()
    stream_flags = BEGIN
    for before in TO_BODY[state]:
        kind, flags, payload = BODY_FRAMES[before]
        reactor.receive(frame(1, 1, stream_flags, kind, flags, payload))
        stream_flags = 0

    def next_() -> None:
        if event is BodyEvent.END:
            reactor.end()
            return
        kind, flags, payload = BODY_FRAMES[event]
        if (state, event) == (BodyState.BEGINNING, BodyEvent.SETTINGS_END):
            payload = b"\xa0"
        if (state, event) == (BodyState.SETTINGS, BodyEvent.SETTINGS_MORE):
            payload = b""
        reactor.receive(frame(3, 1, stream_flags, kind, flags, payload))

    assert ((state, event) in BODY) is (event in BODY_ALLOWED[state])
    if event in BODY_ALLOWED[state]:
        next_()
    else:
        with pytest.raises(ProtocolViolation, match=BODY_WORDS[event]):
            next_()


def test_nothing_leaves_the_end():
    """After the end of a body, or a violation, there is no further state."""
    assert not {state for state, _ in BODY} & {BodyState.ENDED, BodyState.BROKEN}


# --- bad input ------------------------------------------------------------------------

# Bodies, what is said of them, and the request that is to blame.
BAD = {
    "a frame over the limit": (b"\x00\x00\x01\x01\x00\x01\x01\x11", "65536 bytes", 1),
    "an unknown type": (frame(5, 1, BEGIN, 4, 0), "type 4", 5),
    "an even stream": (frame(1, 2, BEGIN, REQUEST, NEW, HEADS), "are odd", 1),
    "stream 0": (frame(1, 0, BEGIN, REQUEST, NEW, HEADS), "are odd", 1),
    "a stream that was not begun": (frame(1, 1, 0, REQUEST, NEW, HEADS), "was not begun", 1),
    "a stream begun twice": (BEGINS + frame(3, 1, BEGIN, REQUEST, NEW), "while it is open", 3),
    "an even request": (frame(2, 1, BEGIN, REQUEST, NEW, HEADS), "are odd", 2),
    "request 0": (frame(0, 1, BEGIN, REQUEST, NEW, HEADS), "are odd", 0),
    "data of an even request": (frame(2, 1, BEGIN, DATA, LAST), "did not announce", 2),
    "an id used twice": (BEGINS + frame(1, 1, 0, REQUEST, NEW, HEADS), "under way", 1),
    "data not announced": (BEGINS + frame(1, 1, 0, DATA, LAST), "did not announce", 1),
    "data first": (frame(1, 1, BEGIN, DATA, LAST), "did not announce", 1),
    "data after their end": (
        frame(1, 1, BEGIN, REQUEST, NEW | HAS_DATA, HEADS)
        + frame(1, 1, 0, DATA, LAST)
        + frame(1, 1, 0, DATA, LAST),
        "after their end",
        1,
    ),
    "data announced too late": (
        frame(1, 1, BEGIN, REQUEST, NEW | MORE) + frame(1, 1, 0, REQUEST, CONTINUED | HAS_DATA),
        "of some that they do not",
        1,
    ),
    "data not announced again": (
        frame(1, 1, BEGIN, REQUEST, NEW | MORE | HAS_DATA) + frame(1, 1, 0, REQUEST, CONTINUED),
        "of some that they do not",
        1,
    ),
    "settings after a request": (BEGINS + frame(1, 1, 0, SENDER, LAST, b"\xa0"), "come first", 0),
    "settings twice": (SETTINGS + frame(1, 1, 0, SENDER, LAST, b"\xa0"), "come first", 0),
    "settings that are none": (frame(1, 1, BEGIN, SENDER, LAST, b"\x80"), "no map", 0),
    "stream settings too late": (
        BEGINS + frame(1, 1, 0, STREAM, LAST, b"\x44zlib") * 2,
        "at its",
        1,
    ),
    "an unknown encoding": (frame(1, 1, BEGIN, STREAM, LAST, b"\x41x"), "not known", 1),
    "a response": (frame(1, 1, BEGIN, RESPONSE, LAST), "servers only", 1),
    "an error": (frame(1, 1, BEGIN, ERROR, 0), "servers only", 1),
    "a text": (frame(1, 1, BEGIN, TEXT, 0), "servers only", 1),
    "a progress": (frame(1, 1, BEGIN, PROGRESS, 0), "servers only", 1),
    "no end of a frame": (BEGINS + BEGINS[:9], "9 bytes into it", 0),
    "a length that lies": (b"\x0d" + BEGINS[1:], "20 bytes into it", 0),
    "no end of a request": (BEGINS + frame(3, 1, 0, REQUEST, NEW | MORE), "of request 3", 3),
    "no end of data": (frame(1, 1, BEGIN, REQUEST, NEW | HAS_DATA), "of request 1", 1),
    "no end of stream settings": (BEGINS + frame(1, 3, BEGIN, STREAM, GOES_ON), "stream 3 ends", 0),
    "nothing": (b"", "before any command", 0),
    "settings alone": (SETTINGS, "before any command", 0),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "bytes; frames hold up to", 12064),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str):
    """Each way to break the protocol is refused in its own words, wherever the body is cut."""
    body, words, request_id = BAD[what]
    whole = outcome(*reader(), [body])
    assert whole[1] is not None
    assert words in whole[1][0]
    assert whole[1][1] == request_id
    assert outcome(*reader(), cut(body, range(len(body)))) == whole


SMALL = Limits(request=20, data=10, held=30, requests=3, streams=1, settings=50, decoded=100)
CODED = encoder(Encoding.ZLIB)
OVER = {
    "request": (
        frame(1, 1, BEGIN, REQUEST, NEW | MORE, bytes(20)),
        frame(1, 1, 0, REQUEST, CONTINUED, b"x"),
        "command of more than 20",
    ),
    "data": (
        frame(1, 1, BEGIN, REQUEST, NEW | HAS_DATA) + frame(1, 1, 0, DATA, GOES_ON, bytes(10)),
        frame(1, 1, 0, DATA, LAST, b"x"),
        "data of more than 10",
    ),
    "held": (
        frame(3, 1, BEGIN, REQUEST, NEW, bytes(20))
        + frame(1, 1, 0, REQUEST, NEW | MORE, bytes(10)),
        frame(1, 1, 0, REQUEST, CONTINUED, b"x"),
        "requests of more than 30",
    ),
    "requests": (
        frame(3, 1, BEGIN, REQUEST, NEW)
        + frame(5, 1, 0, REQUEST, NEW)
        + frame(7, 1, 0, REQUEST, NEW | MORE),
        frame(1, 1, 0, REQUEST, NEW),
        "more than 3 commands",
    ),
    "streams": (
        frame(3, 1, BEGIN, REQUEST, NEW),
        frame(1, 3, BEGIN, REQUEST, NEW),
        "more than 1 streams",
    ),
    "settings": (
        frame(1, 1, BEGIN, SENDER, GOES_ON, bytes(50)),
        frame(1, 1, 0, SENDER, LAST, b"x"),
        "settings of more than 50",
    ),
    "decoded": (
        frame(1, 1, BEGIN, STREAM, LAST, b"\x44zlib"),
        frame(1, 1, ENCODED, REQUEST, NEW, CODED.encode(bytes(101)) + CODED.flush()),
        "more than 100 bytes",
    ),
}


@pytest.mark.parametrize("limit", OVER)
def test_limits(limit: str):
    """What reaches a limit is taken, and what exceeds it is refused, for that limit alone."""
    before, after, words = OVER[limit]
    reactor = server(before, limits=SMALL)
    assert reactor.receive(b"") == []
    with pytest.raises(LimitExceeded, match=words) as caught:
        reactor.receive(after)
    assert caught.value.request_id == (0 if limit == "settings" else 1)
    if limit != "settings":  # those bytes are no settings either
        server(before).receive(after)


def test_requests_are_counted_once_each():
    """A request that is answered still counts: a body is one piece of work."""
    reactor = server(limits=SMALL)
    stream = reactor.begin_stream(Encoding.IDENTITY)
    flags = BEGIN
    for _ in range(3):
        reactor.receive(frame(1, 1, flags, REQUEST, NEW, b"x"))
        reactor.answer(stream, 1, b"", end=True, encoded=False)
        flags = 0
    with pytest.raises(LimitExceeded, match="more than 3 commands"):
        reactor.receive(frame(1, 1, 0, REQUEST, NEW, b"x"))


def test_small_and_empty_frames():
    """Frames that carry next to nothing take no more memory than what they carry."""
    reactor = server(frame(1, 1, BEGIN, REQUEST, NEW | MORE))
    chunk = frame(1, 1, 0, REQUEST, CONTINUED | MORE) * 500
    chunk += frame(1, 1, 0, REQUEST, CONTINUED | MORE, b"xy") * 500
    reactor.receive(chunk)
    tracemalloc.start()
    for _ in range(10):
        reactor.receive(chunk)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 10 * 1000 * 4
    assert reactor.held == 11 * 1000


def test_bomb_in_a_request():
    """A request that decodes to more than it may is refused before it is all there."""
    coder = encoder(Encoding.ZSTD)
    bomb = b"".join([*(coder.encode(bytes(1 << 20)) for _ in range(100)), coder.flush()])
    reactor = server(frame(1, 1, BEGIN, STREAM, LAST, b"\x48zstd-8mb"))
    tracemalloc.start()
    with pytest.raises(LimitExceeded):
        reactor.receive(frame(1, 1, ENCODED, REQUEST, NEW | MORE, bomb))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20


# --- after a violation ----------------------------------------------------------------


def test_requests_before_a_violation():
    """Requests that came in one piece with a violation are not lost: it is raised after them."""
    reactor = ServerReactor()
    assert reactor.receive(BEGINS + frame(2, 1, 0, REQUEST, NEW, HEADS)) == [ONE]
    for _ in range(2):
        with pytest.raises(ProtocolViolation, match="request 2: ids of clients are odd"):
            reactor.receive(b"")
        with pytest.raises(ProtocolViolation, match="request 2: ids of clients are odd"):
            reactor.end()


def test_answers_after_a_violation():
    """Requests that were complete before a violation can be answered; no other can."""
    reactor = server(BEGINS, frame(3, 1, 0, REQUEST, NEW | MORE, HEADS))
    with pytest.raises(ProtocolViolation):
        reactor.receive(frame(1, 1, 0, REQUEST, NEW, HEADS))
    stream = reactor.begin_stream(Encoding.IDENTITY)
    assert reactor.answer(stream, 1, b"x", end=True, encoded=True)
    with pytest.raises(Misuse, match="request 3 is PARTIAL"):
        reactor.answer(stream, 3, b"x", end=True, encoded=True)
    assert reactor.fail(stream, 3, b"\xa0")


def test_memory_after_a_violation():
    """What can no longer be completed is let go of, though the answers may take long."""
    reactor = server(
        BEGINS,
        frame(3, 1, 0, REQUEST, NEW | MORE, bytes(60_000)),
        frame(5, 1, 0, REQUEST, NEW | HAS_DATA, HEADS),
        frame(5, 1, 0, DATA, GOES_ON, bytes(60_000)),
    )
    with pytest.raises(ProtocolViolation):
        reactor.receive(frame(1, 1, 0, REQUEST, NEW, HEADS))
    assert not any(each.command or each.data for each in reactor._requests.values())


def test_end_that_breaks():
    """A body that ends too early is broken from then on."""
    reactor = server(frame(1, 1, BEGIN, REQUEST, NEW | MORE))
    for _ in range(2):
        with pytest.raises(ProtocolViolation, match="in the middle of request 1"):
            reactor.end()
    with pytest.raises(ProtocolViolation, match="in the middle of request 1"):
        reactor.receive(b"")


def test_after_the_end():
    """Whoever says that the body has ended says it once, and brings no more of it."""
    reactor = server(BEGINS)
    reactor.end()
    with pytest.raises(Misuse, match="ended before"):
        reactor.receive(b"")
    with pytest.raises(Misuse, match="ended before"):
        reactor.end()


@given(
    st.lists(frames_like((1, 1, 3, 2), range(1, 10)), max_size=6).map(b"".join)
    | st.binary(max_size=40),
    chunkings,
    st.booleans(),
)
def test_cuts_change_nothing(body: bytes, places: list[int], begun: bool):
    """Requests and the violation after them are the same wherever a body is cut."""
    body = BEGINS + body if begun else body
    whole = outcome(*reader(SMALL), [body])
    assert outcome(*reader(SMALL), cut(body, places)) == whole
    assert outcome(*reader(SMALL), cut(body, range(len(body)))) == whole


# --- answers --------------------------------------------------------------------------


def test_golden_answer():
    """An answer goes out in frames of its request, the last of which ends it."""
    reactor = server(BEGINS)
    stream = reactor.begin_stream(Encoding.ZLIB)
    assert reactor.answer(stream, 1, b"a", end=False, encoded=False) == (
        frame(1, 2, BEGIN, STREAM, LAST, b"\x44zlib") + frame(1, 2, 0, RESPONSE, GOES_ON, b"a")
    )
    assert reactor.answer(stream, 1, b"b", end=True, encoded=True, close=True) == (
        frame(1, 2, ENCODED | STREAM_END, RESPONSE, LAST, b"b")
    )
    with pytest.raises(Misuse, match="request 1 is IDLE"):
        reactor.answer(reactor.begin_stream(Encoding.ZLIB), 1, b"", end=True, encoded=False)


def test_redirect_in_one_frame():
    """A short answer that is all of it is one frame, which Mercurial needs of a redirect."""
    reactor = server(BEGINS)
    stream = reactor.begin_stream(Encoding.IDENTITY)
    assert reactor.answer(stream, 1, b"moved", end=True, encoded=True) == (
        frame(1, 2, BEGIN, RESPONSE, LAST, b"moved")
    )


def test_answers_to_nobody():
    """What was not asked is not answered."""
    reactor = server(BEGINS)
    with pytest.raises(Misuse, match="request 3 is IDLE"):
        reactor.answer(reactor.begin_stream(Encoding.ZLIB), 3, b"", end=True, encoded=False)


def test_failures():
    """An error ends its request: it can neither be answered nor continued, and its id is free."""
    reactor = server(BEGINS, frame(3, 1, 0, REQUEST, NEW | MORE, b"lost"))
    stream = reactor.begin_stream(Encoding.IDENTITY)
    assert reactor.fail(stream, 1, b"\xa0") == frame(1, 2, BEGIN, ERROR, 0, b"\xa0")
    reactor.fail(stream, 3, b"\xa0")
    with pytest.raises(Misuse, match="request 1 is IDLE"):
        reactor.answer(stream, 1, b"", end=True, encoded=False)
    assert reactor.receive(frame(3, 1, 0, REQUEST, NEW, HEADS)) == [CommandReceived(3, HEADS, None)]


def test_failures_that_end_a_stream():
    """An answer that breaks off takes its stream with it."""
    reactor = server(BEGINS)
    stream = reactor.begin_stream(Encoding.IDENTITY)
    reactor.answer(stream, 1, b"half", end=False, encoded=False)
    assert reactor.fail(stream, 1, b"\xa0", close=True) == frame(
        1, 2, STREAM_END, ERROR, 0, b"\xa0"
    )
    assert reactor.begin_stream(Encoding.IDENTITY).id == 2


def test_failures_of_nothing():
    """An error may name a request that could not be made out."""
    reactor = ServerReactor()
    stream = reactor.begin_stream(Encoding.IDENTITY)
    assert reactor.fail(stream, 7, b"\xa0") == frame(7, 2, BEGIN, ERROR, 0, b"\xa0")


@pytest.mark.parametrize(
    ("kind", "said"), [(FrameType.PROGRESS, b"progress"), (FrameType.TEXT_OUTPUT, b"text")]
)
def test_notices(kind: FrameType, said: bytes):
    """Text and progress go to clients that said that they read them, also with a last answer."""
    settings = cbor.encode({b"extraframes": [said]})
    reactor = server(
        frame(1, 1, BEGIN, SENDER, LAST, settings), frame(1, 1, 0, REQUEST, NEW, HEADS)
    )
    stream = reactor.begin_stream(Encoding.IDENTITY)
    assert reactor.notice(stream, 1, kind, b"\xa0") == frame(1, 2, BEGIN, int(kind), 0, b"\xa0")
    reactor.answer(stream, 1, b"", end=True, encoded=False)
    assert reactor.notice(stream, 1, kind, b"\xa0") == frame(1, 2, 0, int(kind), 0, b"\xa0")
    other = {FrameType.PROGRESS, FrameType.TEXT_OUTPUT} - {kind}
    with pytest.raises(Misuse, match="breaks on it"):
        reactor.notice(stream, 1, other.pop(), b"\xa0")


def test_notices_to_stock_clients():
    """Mercurial's client breaks on text and progress, so it gets none."""
    reactor = server(SETTINGS, frame(1, 1, 0, REQUEST, NEW, HEADS))
    stream = reactor.begin_stream(Encoding.IDENTITY)
    for kind in FrameType:
        with pytest.raises(Misuse, match="breaks on it"):
            reactor.notice(stream, 1, kind, b"\xa0")


def test_notices_about_nothing():
    """What was not asked has no progress."""
    reactor = server(frame(1, 1, BEGIN, SENDER, LAST, READS_ALL))
    stream = reactor.begin_stream(Encoding.IDENTITY)
    with pytest.raises(Misuse, match="there is none"):
        reactor.notice(stream, 1, FrameType.PROGRESS, b"\xa0")


def test_frames_of_nothing_are_counted() -> None:
    """A body of frames that carry nothing ends at the limit, though it holds nothing."""
    reactor = ServerReactor(Limits(frames=5))
    new, more = REQUEST_NEW | REQUEST_MORE, REQUEST_CONTINUATION | REQUEST_MORE
    begun = frame_header(0, 1, 1, STREAM_BEGIN, FrameType.COMMAND_REQUEST, new)
    following = frame_header(0, 1, 1, 0, FrameType.COMMAND_REQUEST, more)
    reactor.receive(begun + following * 4)
    with pytest.raises(LimitExceeded, match="more than 5 frames"):
        reactor.receive(following)
