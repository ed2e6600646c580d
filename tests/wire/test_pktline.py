# Law of this file: framing is exact, and nothing depends on how a stream was cut into chunks.

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.git import pktline
from wire.git.pktline import Decoder, Packet, PktLineError, Special

GOLDEN = b"000ccommand\n0001000babc\x00def00000004000200050"
GOLDEN_PACKETS = [
    b"command\n",
    Special.DELIM,
    b"abc\x00def",
    Special.FLUSH,
    b"",
    Special.RESPONSE_END,
    b"0",
]

payloads = st.binary(max_size=40)
packets_of = st.lists(payloads | st.sampled_from(Special), max_size=12)


def written(packets: list[Packet]) -> bytes:
    """The bytes of ``packets``."""
    return b"".join(
        b"%04x" % packet.value if isinstance(packet, Special) else pktline.encode(packet)
        for packet in packets
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in chunks that end at ``places``."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def decode(chunks: list[bytes]) -> list[Packet]:
    """All packets of a complete stream."""
    decoder = Decoder()
    packets = [packet for chunk in chunks for packet in decoder.feed(chunk)]
    decoder.close()
    return packets


def test_golden_body():
    """A body is read into the packets that the specification names."""
    assert pktline.parse(GOLDEN) == GOLDEN_PACKETS


def test_golden_packets():
    """Packets are written with their length in lower-case hex, and text with a line feed."""
    assert pktline.encode(b"") == b"0004"
    assert pktline.text(b"hello") == b"000ahello\n"
    assert pktline.encode(b"x" * 65516)[:5] == b"fff0x"
    assert pktline.FLUSH + pktline.DELIM == b"00000001"


def test_too_long_a_payload_is_refused():
    """No packet is written that git would not read."""
    with pytest.raises(ValueError, match="65517 bytes do not fit"):
        pktline.encode(b"x" * 65517)
    with pytest.raises(ValueError, match="65517 bytes do not fit"):
        pktline.text(b"x" * 65516)


def test_upper_case_lengths_are_read():
    """A length in upper-case hex is a length, as stock git reads it."""
    assert pktline.parse(b"000Ahello\n") == [b"hello\n"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"0003", "bad line length: 3"),
        (b"fff1" + b"x" * 65517, "bad line length: 65521"),
        (b"0x1f", "'0x1f' is not hex"),
        (b"+00a", "is not hex"),
        (b" 00a", "is not hex"),
        (b"0_0a", "is not hex"),
        (b"\xff\x00\x1b\n", "is not hex"),
        (b"0", "1 bytes into it"),
        (b"000", "3 bytes into it"),
        (b"0005", "4 bytes into it"),
        (b"00000009done", "8 bytes into it"),
    ],
)
def test_malformed_bodies(body: bytes, message: str):
    """A bad length and a cut-off body are told apart, and neither is read as something else."""
    with pytest.raises(PktLineError, match=message):
        pktline.parse(body)
    with pytest.raises(PktLineError, match=message):
        decode([body])


def test_messages_can_be_printed():
    """What is quoted from the other side is short and does nothing to a terminal."""
    assert pktline.shown(b"a\x1b[2J\nb\xff") == "a\ufffd[2J\ufffdb\ufffd"
    assert len(pktline.shown(b"x" * 5000)) == 200


def test_a_bad_length_is_seen_at_once():
    """A stream with a bad length is given up without waiting for its payload."""
    decoder = Decoder()
    assert decoder.feed(b"000") == []
    with pytest.raises(PktLineError):
        decoder.feed(b"3")


def test_a_large_packet_in_single_bytes():
    """A packet comes out whole with its last byte, however small the chunks."""
    decoder = Decoder()
    body = pktline.encode(bytes(65516))
    for i in range(len(body) - 1):
        assert decoder.feed(body[i : i + 1]) == []
    assert decoder.feed(body[-1:]) == [bytes(65516)]
    decoder.close()


def test_the_decoder_keeps_at_most_one_packet():
    """Of a long stream no more is kept than the packet that is incomplete."""
    decoder = Decoder()
    stream = pktline.encode(b"x" * 65516) * 40
    for start in range(0, len(stream), 100_000):
        decoder.feed(stream[start : start + 100_000])
        assert len(decoder._rest) < 65520


@given(packets_of)
def test_what_is_written_is_read(packets: list[Packet]):
    """Any packets survive the way through bytes."""
    assert pktline.parse(written(packets)) == packets


@given(packets_of, st.lists(st.integers(0, 600), max_size=20))
def test_chunks_do_not_matter(packets: list[Packet], places: list[int]):
    """A stream gives the same packets wherever it was cut."""
    assert decode(cut(written(packets), places)) == packets


@given(packets_of, st.integers(1, 600))
def test_a_cut_stream_is_noticed(packets: list[Packet], short: int):
    """A stream that lost its end either ends between two packets or is refused."""
    body = written(packets)
    body = body[: max(0, len(body) - short)]
    try:
        read = pktline.parse(body)
    except PktLineError:
        return
    assert read == packets[: len(read)]


@given(
    st.binary(max_size=60) | st.text("0123456789abcdefA", max_size=60).map(str.encode),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_garbage(body: bytes, places: list[int]):
    """Any bytes are packets or the framing's own error, whole and in chunks alike."""
    try:
        packets = pktline.parse(body)
    except PktLineError:
        with pytest.raises(PktLineError):
            decode(cut(body, places))
    else:
        assert decode(cut(body, places)) == packets
