# Law of this file: an answer is understood the same way wherever it was cut, its head is kept to
# the byte, and an answer that failed or broke off is never taken for a whole one.

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.git import pktline, response
from wire.git.pktline import DELIM, FLUSH, PktLineError, ProtocolError, encode, text
from wire.git.response import (
    End,
    Event,
    FetchResponseParser,
    Head,
    PackData,
    Progress,
    RemoteError,
    Truncated,
)

A = "a" * 40
ACKS = text(b"acknowledgments") + text(b"ACK " + A.encode()) + text(b"ready") + DELIM
SHALLOW = text(b"shallow-info") + text(b"shallow " + A.encode()) + DELIM
WANTED = text(b"wanted-refs") + text(f"{A} refs/heads/main".encode()) + DELIM
PACK = b"0009\x01PACK" + b"000a\x02Hello" + b"0005\x01" + b"0005\x02" + b"0007\x01\x00\xff" + FLUSH


def events(data: bytes, places: list[int] | None = None) -> list[Event]:
    """All events of a complete answer, fed in chunks that end at ``places``."""
    parser = FetchResponseParser()
    edges = [0, *sorted(min(place, len(data)) for place in places or []), len(data)]
    found = [event for a, b in pairwise(edges) for event in parser.feed(data[a:b])]
    parser.close()
    return found


def joined(found: list[Event]) -> tuple[Head, bytes]:
    """The head and the whole pack."""
    (head,) = (event for event in found if isinstance(event, Head))
    assert isinstance(found[-1], End)
    return head, b"".join(event.data for event in found if isinstance(event, PackData))


@pytest.mark.parametrize("raw", [b"", ACKS, SHALLOW, ACKS + SHALLOW + WANTED])
def test_a_pack_after_its_head(raw: bytes):
    """The head is what stands before the line packfile, with the last delimiter."""
    assert events(raw + response.PACKFILE + PACK) == [
        Head(raw, has_pack=True),
        PackData(b"PACK"),
        Progress(b"Hello"),
        PackData(b"\x00\xff"),
        End(),
    ]


def test_golden_answer():
    """The bytes of a real answer, a depth-1 fetch, are read into their parts."""
    answer = (
        b"0011shallow-info\n"
        b"0034shallow 487ebffd1bcc35edafe84e62dcd03f4a04c3dfc8"
        b"0001"
        b"000dpackfile\n"
        b"0010\x01PACK\x00\x00\x00\x02\x00\x00\x00"
        b"0006\x01\x01"
        b"0000"
    )
    head, pack = joined(events(answer))
    assert head.raw == answer[: answer.index(b"000dpackfile")]
    assert pack == b"PACK\x00\x00\x00\x02\x00\x00\x00\x01"


def test_an_answer_without_a_pack():
    """A round of negotiation is a head without its flush, and the end."""
    acks = text(b"acknowledgments") + text(b"NAK")
    assert events(acks + FLUSH) == [Head(acks, has_pack=False), End()]
    assert events(FLUSH) == [Head(b"", has_pack=False), End()]


def test_a_line_that_looks_like_a_title():
    """Inside a section, the word packfile opens nothing."""
    odd = text(b"acknowledgments") + text(b"packfile")
    assert events(odd + FLUSH) == [Head(odd, has_pack=False), End()]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (encode(b"ERR upload-pack: not our ref " + A.encode()), "upload-pack: not our ref " + A),
        (ACKS + encode(b"ERR out of memory\n"), "out of memory"),
        (encode(b"ERR "), "unknown error"),
        (response.PACKFILE + encode(b"\x01PACK") + encode(b"\x03disk full\n"), "disk full"),
        (response.PACKFILE + encode(b"\x03\xff"), "\ufffd"),
    ],
)
def test_the_backends_error(answer: bytes, message: str):
    """An error is raised with the backend's own words, before the pack and inside it."""
    with pytest.raises(RemoteError) as caught:
        events(answer)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (DELIM, "unexpected DELIM"),
        (ACKS + DELIM, "unexpected DELIM"),
        (ACKS + FLUSH, "unexpected FLUSH"),
        (b"0002", "unexpected RESPONSE_END"),
        (response.PACKFILE + DELIM, "without a band"),
        (response.PACKFILE + b"0004", "without a band"),
        (response.PACKFILE + b"0005\x09", "unknown band 9"),
        (FLUSH + FLUSH, "goes on after"),
        (response.PACKFILE + PACK + text(b"x"), "goes on after"),
        (b"zzzz", "not hex"),
    ],
)
def test_no_answer(answer: bytes, message: str):
    """What is not an answer is refused."""
    with pytest.raises(ProtocolError, match=message):
        events(answer)


def test_half_a_packet_after_the_end():
    """A part of a packet after the final flush is not overlooked."""
    with pytest.raises(PktLineError):
        events(response.PACKFILE + PACK + b"00")


def test_every_truncation_is_noticed():
    """Cut anywhere before its last byte, an answer is truncated; nothing else, and never whole."""
    whole = ACKS + response.PACKFILE + PACK
    for size in range(len(whole)):
        with pytest.raises(Truncated):
            events(whole[:size])


@given(
    st.lists(st.sampled_from([ACKS, SHALLOW, WANTED]), unique=True),
    st.binary(max_size=300),
    st.integers(1, 60),
    st.lists(st.integers(0, 900), max_size=12),
)
def test_chunks_do_not_matter(sections: list[bytes], pack: bytes, step: int, places: list[int]):
    """Head and pack come out the same wherever the answer was cut."""
    raw = b"".join(sections)
    frames = [response.sideband(pack[i : i + step]) for i in range(0, len(pack), step)]
    answer = raw + response.PACKFILE + b"".join(frames) + FLUSH
    assert events(answer, places) == events(answer)
    assert joined(events(answer, places)) == (Head(raw, has_pack=True), pack)


def outcome(data: bytes, places: list[int]) -> list[Event] | None:
    """The events of an answer, or None for an error: with two errors, chunks say which is first."""
    try:
        return events(data, places)
    except ProtocolError:
        return None


pieces = st.sampled_from([ACKS, response.PACKFILE, PACK, FLUSH, DELIM, b"0005\x03", b"0002"])


@given(st.lists(pieces | st.binary(max_size=12), max_size=6), st.lists(st.integers(0, 200)))
def test_garbage(parts: list[bytes], places: list[int]):
    """Any bytes are an answer or a ProtocolError, in whatever chunks."""
    data = b"".join(parts)
    assert outcome(data, places) == outcome(data, [])


def test_wanted_refs():
    """The refs that were wanted by name are found among the other sections."""
    assert response.wanted_refs(ACKS + SHALLOW + WANTED) == {b"refs/heads/main": A}
    assert response.wanted_refs(ACKS) == {}
    assert response.wanted_refs(b"") == {}
    with pytest.raises(ProtocolError, match="expected an object id and a ref, got 'x'"):
        response.wanted_refs(text(b"wanted-refs") + text(b"x"))


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda b: text(b"wanted-refs") + b))
def test_wanted_refs_of_garbage(head: bytes):
    """Any bytes have wanted refs, or none, or are a ProtocolError."""
    try:
        found = response.wanted_refs(head)
    except ProtocolError:
        return
    assert all(len(oid) in {40, 64} for oid in found.values())


def test_packfile_uris_section():
    """The section names each pack by its checksum and place, and ends with a delimiter."""
    items = [(A, "https://cdn.example.org/a?sig=1%2F"), ("b" * 64, "http://h:1/b")]
    assert response.packfile_uris_section(items) == (
        b"0012packfile-uris\n"
        b"0050aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa https://cdn.example.org/a?sig=1%2F\n"
        b"0052bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb http://h:1/b\n"
        b"0001"
    )
    assert response.packfile_uris_section([]) == b""


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://",
        "https:///path",
        "https://?x",
        "ftp://h/x",
        "file:///etc/passwd",
        "HTTPS://h/x",
        "https://h/a b",
        "https://h/a\n",
        "https://h/a\r\nx",
        "https://h/\x7f",
        "https://h/\u00fc",
        "https://h/" + "x" * 65536,
    ],
)
def test_bad_uris_are_not_named(uri: str):
    """No client is given a location that it could misread."""
    with pytest.raises(ValueError):
        response.packfile_uris_section([(A, uri)])


@pytest.mark.parametrize("checksum", ["", "a" * 39, "A" * 40, "a" * 41, "a" * 40 + "\n"])
def test_bad_checksums_are_not_named(checksum: str):
    """A pack is named by 40 or 64 lower-case hex digits."""
    with pytest.raises(ValueError, match="not the checksum of a pack"):
        response.packfile_uris_section([(checksum, "https://h/x")])


def test_a_refused_uri_is_not_repeated():
    """A location may carry a signature, so an error does not show it."""
    with pytest.raises(ValueError) as caught:
        response.packfile_uris_section([(A, "https://h/x y?sig=secret")])
    assert "secret" not in str(caught.value)


def test_golden_frames():
    """Content is framed in packets as long as git reads them."""
    assert text(b"packfile") == response.PACKFILE
    assert encode(b"\x01") == response.KEEPALIVE
    assert response.FRAME_PAYLOAD == 65515
    assert response.sideband(b"") == b""
    assert response.sideband(b"hi", 2) == b"0007\x02hi"
    two = response.sideband(b"x" * 65516)
    assert two[:6] == b"fff0\x01x"
    assert two[65520:] == b"0006\x01x"


@given(st.integers(0, 3), st.integers(-2, 2), st.sampled_from([1, 2, 3]))
def test_frames_carry_everything(frames: int, off: int, band: int):
    """Framed content is complete, on its band, and as long as was foretold."""
    size = max(0, frames * response.FRAME_PAYLOAD + off)
    data = bytes(i % 251 for i in range(size))
    framed = response.sideband(data, band)
    assert len(framed) == response.framed_size(size)
    packets = pktline.parse(framed)
    assert all(isinstance(p, bytes) and p[0] == band and len(p) <= 65516 for p in packets)
    assert b"".join(p[1:] for p in packets if isinstance(p, bytes)) == data


def test_golden_errors():
    """Errors are one line of plain words."""
    assert response.error_packet("not our ref") == b"0013ERR not our ref"
    assert response.error_packet("two\nlines\x1b[2J") == "0017ERR two lines\ufffd[2J".encode()
    assert response.error_packet("") == b"0015ERR unknown error"
    assert response.band_error("disk\nfull") == b"000e\x03disk full0000"


@given(st.text() | st.text().map(lambda t: t * 9000) | st.just("\u20ac" * 40000))
def test_errors_are_read_again(message: str):
    """Whatever the message, the client reads one error, inside the pack as well as before it."""
    for answer in (
        response.error_packet(message),
        response.PACKFILE + response.band_error(message),
    ):
        with pytest.raises(RemoteError) as caught:
            events(answer)
        assert "\n" not in str(caught.value)
