# Law of this file: what stands in payloads is written in one form, the specification's, and what is
# not of it is refused in words that fit into a frame.

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.hg_wire import refusal
from wire.hg import cbor
from wire.hg.cbor import Encodable, Value
from wire.hg.errors import ProtocolViolation
from wire.hg.messages import (
    CommandRequest,
    Failed,
    Location,
    Moved,
    Offer,
    Ok,
    Progress,
    RemoteError,
    SenderSettings,
    Status,
    Text,
    encode_error,
    encode_progress,
    encode_request,
    encode_settings,
    encode_status,
    encode_texts,
    format_text,
    parse_error,
    parse_progress,
    parse_request,
    parse_settings,
    parse_status,
    parse_texts,
    sorted_names,
)

names = st.binary(max_size=8)
tuples = st.lists(names, max_size=3).map(tuple)
scalars = st.integers(-(2**64), 2**64 - 1) | names | st.booleans() | st.none()
values: st.SearchStrategy[Value] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)

# --- requests -------------------------------------------------------------------------


def test_golden_request():
    """A request is a map of the command's name, its arguments, and what is said of redirects."""
    request = CommandRequest(b"known", {b"nodes": [bytes(20)]}, Offer((b"s3",), (b"sha256",)))
    written = (
        b"\xa3"
        b"\x44args\xa1\x45nodes\x81\x54" + bytes(20) + b"\x44name\x45known"
        b"\x48redirect\xa2\x46hashes\x81\x46sha256\x47targets\x81\x42s3"
    )
    assert encode_request(request) == written
    assert parse_request(written) == request


def test_smallest_request():
    """Arguments that there are none of are left out; so is what is said of no redirects."""
    assert encode_request(CommandRequest(b"heads")) == b"\xa1\x44name\x45heads"
    assert parse_request(b"\xa1\x44name\x45heads") == CommandRequest(b"heads")


def test_no_target_is_not_no_offer():
    """A client that has no target that it can use is told apart from one that knows of none."""
    request = CommandRequest(b"heads", {}, Offer(()))
    assert parse_request(encode_request(request)) == request


@given(
    st.builds(
        CommandRequest,
        names,
        st.dictionaries(names, values, max_size=3),
        st.none() | st.builds(Offer, tuples, tuples),
    )
)
def test_requests_round_trip(request_: CommandRequest):
    """What is written of a request is what is read of it."""
    assert parse_request(encode_request(request_)) == request_


@pytest.mark.parametrize(
    ("redirect", "offer"),
    [
        (None, None),
        ({}, Offer(())),
        ({b"targets": None}, Offer(())),
        ({b"targets": frozenset((b"b", b"a")), b"more": 1}, Offer((b"a", b"b"))),
    ],
)
def test_offers_as_others_write_them(redirect: Encodable, offer: Offer | None):
    """Lists of names may be sets, absent or null; keys that are not known are passed over."""
    payload = cbor.encode({b"name": b"heads", b"redirect": redirect, b"unknown": [1]})
    assert parse_request(payload).offer == offer


@pytest.mark.parametrize(
    ("payload", "wrong"),
    [
        (b"", "cannot be read"),
        (b"\xa1", "cannot be read"),
        (b"\xa0\xa0", "2 items"),
        (b"\x5f\xff", "indefinite"),
        (b"\x80", "a request that is no map"),
        (b"\xa0", "without the name"),
        (b"\xa1\x44name\x01", "without the name"),
        (b"\xa1\x64name\x45heads", "text string"),
        (b"\xa2\x44args\x80\x44name\x41x", "arguments of b'x' are no map"),
        (b"\xa2\x44args\xf6\x44name\x41x", "arguments of b'x' are no map"),
        (b"\xa2\x44args\xa1\x01\x01\x44name\x41x", "argument of b'x' whose name"),
        (b"\xa2\x44name\x41x\x48redirect\x80", "'redirect' is no map"),
        (b"\xa2\x44name\x41x\x48redirect\xa1\x47targets\x01", "targets of redirects that"),
        (b"\xa2\x44name\x41x\x48redirect\xa1\x46hashes\x81\x01", "hashes of redirects that"),
        (
            b"\xa2\x44args\x01\x44name\x59\xff\xff" + bytes(65535),
            "are no map",
        ),
    ],
)
def test_bad_requests(payload: bytes, wrong: str):
    """What is no request is refused, and the reason fits into an error frame."""
    with pytest.raises(ProtocolViolation, match=wrong) as caught:
        parse_request(payload)
    assert len(encode_error("protocol", str(caught.value).encode())) < 1000


def test_limits_of_requests():
    """Whoever reads requests says how large they may be."""
    payload = encode_request(CommandRequest(b"known", {b"nodes": [bytes(20)] * 10}))
    with pytest.raises(ProtocolViolation, match="where the limit is 100"):
        parse_request(payload, cbor.Limits(item_size=100))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([b"b", b"a"], (b"b", b"a")),
        (frozenset((b"b", b"a")), (b"a", b"b")),
        ([b"b", 1], None),
        (frozenset((b"b", 1)), None),
        (b"ab", None),
        (None, None),
    ],
)
def test_names(value: Value, expected: tuple[bytes, ...] | None):
    """Names are read in their order, of a set in the only one that it has."""
    assert sorted_names(value) == expected


# --- statuses -------------------------------------------------------------------------

LOCATION = Location("https://x/y", size=5, hashes=(("sha256", b"\x01" * 32), ("sha1", b"\x02")))
STATUSES: dict[bytes, Status] = {
    b"\xa1\x46status\x42ok": Ok(),
    b"\xa2\x45error\xa1\x47message\x42no\x46status\x45error": Failed(b"no"),
    b"\xa2\x45error\xa2\x44args\x81\x41x\x47message\x45no %s\x46status\x45error": Failed(
        b"no %s", (b"x",)
    ),
    b"\xa2\x48location\xa2\x43url\x41u\x49mediatype\x41m\x46status\x48redirect": Moved(
        Location("u", "m")
    ),
    b"\xa2\x48location\xa4\x43url\x4bhttps://x/y\x44size\x05"
    b"\x49mediatype\x58\x1aapplication/mercurial-cbor\x4afullhashes\x82"
    b"\x82\x46sha256\x58\x20" + b"\x01" * 32 + b"\x82\x44sha1\x41\x02"
    b"\x46status\x48redirect": Moved(LOCATION),
}


@pytest.mark.parametrize("written", STATUSES)
def test_golden_statuses(written: bytes):
    """Each form of a status is the specification's map."""
    fields = cbor.decode_one(written)
    assert parse_status(fields) == STATUSES[written]
    # The order of keys is the encoder's affair: it has tests of its own.
    assert encode_status(STATUSES[written]) == cbor.encode(fields)


@pytest.mark.parametrize(
    "value",
    [
        1,
        [],
        {},
        cbor.Chunk(b"", first=True, last=True),
        {b"status": b"other"},
        {b"status": b"error"},
        {b"status": b"error", b"error": b"x"},
        {b"status": b"error", b"error": {}},
        {b"status": b"error", b"error": {b"message": 1}},
        {b"status": b"error", b"error": {b"message": b"x", b"args": [1]}},
        {b"status": b"redirect"},
        {b"status": b"redirect", b"location": {b"url": b"u"}},
        {b"status": b"redirect", b"location": {b"url": 1, b"mediatype": b"m"}},
        *(
            {b"status": b"redirect", b"location": {b"url": b"u", b"mediatype": b"m", **more}}
            for more in (
                {b"url": b"\xff"},
                {b"mediatype": b"\xff"},
                {b"size": b"1"},
                {b"size": True},
                {b"size": -1},
                {b"fullhashes": b"x"},
                {b"fullhashes": [[b"sha1"]]},
                {b"fullhashes": [b"sha1"]},
                {b"fullhashes": [[b"\xff", b"x"]]},
            )
        ),
    ],
)
def test_bad_statuses(value: cbor.Item):
    """What does not begin a response as the specification has it is refused."""
    with pytest.raises(ProtocolViolation):
        parse_status(value)


def test_unknown_keys_of_a_location():
    """What else a location says, such as certificates to pin, is passed over."""
    location = {b"url": b"u", b"mediatype": b"m", b"size": None, b"serverdercerts": [b"x"]}
    assert parse_status({b"status": b"redirect", b"location": location}) == Moved(
        Location("u", "m")
    )


# --- errors, texts, progress ----------------------------------------------------------


def test_golden_error():
    """An error frame says its type, and what happened as pieces of text."""
    written = b"\xa2\x47message\x81\xa2\x44args\x81\x41x\x43msg\x45no %s\x44type\x46server"
    assert encode_error("server", b"no %s", (b"x",)) == written
    assert parse_error(written) == RemoteError("server", (Text(b"no %s", (b"x",)),))
    assert parse_error(written).text == "no x"


def test_golden_text():
    """Text output is a list of messages, each with its arguments and labels."""
    written = b"\x82\xa1\x43msg\x41a\xa3\x43msg\x41b\x44args\x81\x41x\x46labels\x81\x41l"
    texts = (Text(b"a"), Text(b"b", (b"x",), (b"l",)))
    assert cbor.decode_one(encode_texts(texts)) == cbor.decode_one(written)
    assert parse_texts(written) == texts
    assert Text(b"%s!", (b"x",)).text == "x!"


def test_golden_progress():
    """Progress is a map; what it says besides topic and numbers may be absent."""
    written = b"\xa3\x43pos\x20\x45topic\x41t\x45total\x05"
    assert encode_progress(Progress(b"t", -1, 5)) == written
    assert parse_progress(written) == Progress(b"t", -1, 5)
    full = Progress(b"t", 1, -1, b"files", b"a/b")
    assert parse_progress(encode_progress(full)) == full


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (parse_error, []),
        (parse_error, {b"type": b"server"}),
        (parse_error, {b"type": 1, b"message": []}),
        (parse_error, {b"type": b"server", b"message": b"x"}),
        (parse_error, {b"type": b"server", b"message": [b"x"]}),
        (parse_texts, {}),
        (parse_texts, [1]),
        (parse_texts, [{}]),
        (parse_texts, [{b"msg": b"x", b"args": b"y"}]),
        (parse_texts, [{b"msg": b"x", b"labels": [1]}]),
        (parse_progress, []),
        (parse_progress, {b"topic": b"t", b"pos": 1}),
        (parse_progress, {b"topic": 1, b"pos": 1, b"total": 1}),
        (parse_progress, {b"topic": b"t", b"pos": True, b"total": 1}),
        (parse_progress, {b"topic": b"t", b"pos": 1, b"total": b"1"}),
        (parse_settings, []),
        (parse_settings, {b"contentencodings": b"zlib"}),
        (parse_settings, {b"contentencodings": [1]}),
        (parse_settings, {b"extraframes": {}}),
    ],
)
def test_bad_messages(parse: Callable[[bytes], object], value: Encodable):
    """What is not of the form of its frame is refused."""
    with pytest.raises(ProtocolViolation):
        parse(cbor.encode(value))


def test_odd_kinds_of_errors():
    """An error of a type that is not known is an error still."""
    error = parse_error(cbor.encode({b"type": b"\xff", b"message": []}))
    assert error == RemoteError("\N{REPLACEMENT CHARACTER}", ())


@pytest.mark.parametrize(
    ("message", "args", "text"),
    [
        (b"plain", (), "plain"),
        (b"%s and %s", (b"a", b"b"), "a and b"),
        (b"%s and %s", (b"a",), "a and %s"),
        (b"%s", (b"a", b"b"), "a"),
        (b"100%% of %s", (b"%%s",), "100% of %%s"),
        (b"100%%s", (b"a",), "100%s"),
        (b"50% %d %", (b"a",), "50% %d %"),
        (b"\xff%s", (b"\xfe",), "\N{REPLACEMENT CHARACTER}" * 2),
    ],
)
def test_format(message: bytes, args: tuple[bytes, ...], text: str):
    """Messages from outside are filled like Mercurial's, and never fail."""
    assert format_text(message, args) == text


def test_status_text():
    """A failure reads as its message with its arguments."""
    assert Failed(b"no %s", (b"x",)).text == "no x"


# --- settings -------------------------------------------------------------------------


def test_golden_settings():
    """What Mercurial's client says first is read; what we say besides it is a key of our own."""
    stock = b"\xa1\x50contentencodings\x83\x48zstd-8mb\x44zlib\x48identity"
    settings = SenderSettings((b"zstd-8mb", b"zlib", b"identity"))
    assert parse_settings(stock) == settings
    assert encode_settings(settings) == stock
    ours = SenderSettings((b"zlib",), frozenset((b"text", b"progress")))
    assert parse_settings(encode_settings(ours)) == ours
    assert parse_settings(b"\xa0") == SenderSettings()


PARSERS = (parse_request, parse_error, parse_texts, parse_progress, parse_settings)


@given(st.sampled_from(PARSERS), st.binary(max_size=40) | values.map(cbor.encode))
def test_arbitrary_payloads(parse: Callable[[bytes], object], payload: bytes):
    """Arbitrary payloads are read or refused, and nothing else."""
    assert len(refusal(lambda: parse(payload))) < 1000


@given(values)
def test_arbitrary_statuses(value: Value):
    """Arbitrary first objects of a response are read or refused, and nothing else."""
    assert len(refusal(lambda: parse_status(value))) < 1000
