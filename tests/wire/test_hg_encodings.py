# Law of this file: what goes into a stream's encoder comes out of its decoder after each flush, and
# no payload makes a reader hold more than it was told it may.

from __future__ import annotations

import tracemalloc
import zlib
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.hg.encodings import PREFERENCE, Encoding, choose, decoder, encoder
from wire.hg.errors import LimitExceeded, ProtocolViolation

MIB = 1 << 20
CODED = (Encoding.ZLIB, Encoding.ZSTD)


def bomb(encoding: Encoding, size: int) -> bytes:
    """A payload that tells ``size`` bytes of zeros."""
    coder = encoder(encoding)
    return b"".join([*(coder.encode(bytes(MIB)) for _ in range(size // MIB)), coder.flush()])


@settings(max_examples=40)
@given(
    st.sampled_from(PREFERENCE),
    st.lists(st.lists(st.binary(max_size=40) | st.integers(0, 3 * 10**5).map(bytes), max_size=3)),
)
def test_round_trip(encoding: Encoding, answers: list[list[bytes]]):
    """Each answer can be read when its flush has come, whatever was on the stream before."""
    coder, at_once, stepwise = encoder(encoding), decoder(encoding), decoder(encoding)
    for pieces in answers:
        payload = b"".join([*map(coder.encode, pieces), coder.flush()])
        assert at_once.decode(payload) == b"".join(pieces)
        assert b"".join(stepwise.pieces(payload)) == b"".join(pieces)


@pytest.mark.parametrize("encoding", CODED)
@pytest.mark.parametrize("blocks", range(1, 18))
def test_flush_tells_all(encoding: Encoding, blocks: int):
    """Nothing is left behind where an answer fills the decoder's own buffers to the brim."""
    for size in (blocks * 128 * 1024 + more for more in (-1, 0, 1)):
        coder = encoder(encoding)
        payload = coder.encode(bytes(size)) + coder.flush()
        assert len(decoder(encoding).decode(payload)) == size
        assert sum(map(len, decoder(encoding).pieces(payload))) == size


@pytest.mark.parametrize("encoding", CODED)
def test_context_lives_on(encoding: Encoding):
    """A thousand small answers on one stream take less than half of what they take apart."""
    answers = [b"an answer that is much like the others, but number %d" % n for n in range(1000)]
    together = encoder(encoding)
    one = sum(len(together.encode(answer) + together.flush()) for answer in answers)
    each = 0
    for answer in answers:
        apart = encoder(encoding)
        each += len(apart.encode(answer) + apart.flush())
    assert one * 2 < each


@pytest.mark.parametrize("encoding", PREFERENCE)
def test_views(encoding: Encoding):
    """A view is encoded as its bytes are."""
    coder = encoder(encoding)
    payload = coder.encode(memoryview(b"xabcx")[1:4]) + coder.flush()
    assert decoder(encoding).decode(payload) == b"abc"


def test_golden_zlib():
    """The zlib encoding is one RFC 1950 stream, with a synchronisation mark after each answer."""
    coder = encoder(Encoding.ZLIB)
    first = coder.encode(b"abc") + coder.flush()
    second = coder.encode(b"abc") + coder.flush()
    assert first[:2] == b"\x78\x9c"
    assert first.endswith(b"\x00\x00\xff\xff")
    assert second.endswith(b"\x00\x00\xff\xff")
    assert zlib.decompressobj().decompress(first + second) == b"abcabc"


def test_golden_zstd():
    """The zstd encoding is one frame, whose window is granted by readers of 8 MiB."""
    coder = encoder(Encoding.ZSTD)
    payload = coder.encode(b"abc") + coder.flush()
    parameters = zstandard.get_frame_parameters(payload)
    assert payload[:4] == b"\x28\xb5\x2f\xfd"
    assert parameters.window_size <= 8 * MIB
    assert not parameters.has_checksum
    assert coder.flush() == b""


@pytest.mark.parametrize("level", [1, 19, 20])
def test_zstd_levels(level: int):
    """At each level, even those that would have larger windows, our own readers can follow."""
    coder = encoder(Encoding.ZSTD, level)
    payload = coder.encode(b"abc" * 1000) + coder.flush()
    assert decoder(Encoding.ZSTD).decode(payload) == b"abc" * 1000


def test_zlib_levels():
    """A level is the compressor's: none at all is longer than the best."""
    data = bytes(1000)
    none, best = encoder(Encoding.ZLIB, 0), encoder(Encoding.ZLIB, 9)
    sizes = [len(each.encode(data) + each.flush()) for each in (none, best)]
    assert sizes[0] > len(data) > sizes[1]


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", CODED)
def test_limit(encoding: Encoding):
    """A payload may tell as much as the limit, and not one byte more."""
    coder = encoder(encoding)
    payload = coder.encode(bytes(1000)) + coder.flush()
    assert decoder(encoding, 1000).decode(payload) == bytes(1000)
    with pytest.raises(LimitExceeded, match="999"):
        decoder(encoding, 999).decode(payload)


@pytest.mark.parametrize("encoding", CODED)
def test_bomb(encoding: Encoding):
    """A payload of 64 MiB of zeros never takes more memory than the limit and one piece."""
    payload = bomb(encoding, 64 * MIB)
    tracemalloc.start()
    with pytest.raises(LimitExceeded):
        decoder(encoding, MIB).decode(payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * MIB


@pytest.mark.parametrize("encoding", CODED)
def test_pieces_of_a_bomb(encoding: Encoding):
    """Taken in pieces, as much as there is can be read, and no piece is large."""
    told = 0
    for piece in decoder(encoding).pieces(bomb(encoding, 32 * MIB)):
        assert len(piece) <= 9 * MIB
        told += len(piece)
    assert told == 32 * MIB


def test_large_window():
    """A zstd frame that wants a window of more than 8 MiB is refused."""
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    coder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    payload = coder.compress(b"abc") + coder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    with pytest.raises(ProtocolViolation, match="too much memory"):
        decoder(Encoding.ZSTD).decode(payload)


ENDED = {
    Encoding.ZLIB: zlib.compress(b"abc"),
    Encoding.ZSTD: zstandard.ZstdCompressor().compress(b"abc"),
}


@pytest.mark.parametrize("encoding", CODED)
def test_encodings_that_end(encoding: Encoding):
    """A context that was compressed once, to its end, is read; empty payloads may follow."""
    coder = decoder(encoding)
    assert coder.decode(ENDED[encoding]) == b"abc"
    assert coder.decode(b"") == b""


@pytest.mark.parametrize("encoding", CODED)
@pytest.mark.parametrize("more", [b"x", b"the same again", bytes(1000)])
def test_bytes_after_the_end(encoding: Encoding, more: bytes):
    """Bytes after the end of an encoding are refused, in the same payload and in the next."""
    more = ENDED[encoding] if more == b"the same again" else more
    with pytest.raises(ProtocolViolation, match="after the end"):
        decoder(encoding).decode(ENDED[encoding] + more)
    coder = decoder(encoding)
    coder.decode(ENDED[encoding])
    with pytest.raises(ProtocolViolation, match="after the end"):
        coder.decode(more)


@pytest.mark.parametrize("encoding", CODED)
def test_end_at_the_edge_of_what_is_given_at_a_time(encoding: Encoding):
    """Bytes after an end are found wherever the end lies in a payload."""
    for size in range(200, 300):
        noise = bytes((n * n * 7 + n // 3) % 251 for n in range(size))
        whole = (
            zlib.compress(noise, 0)
            if encoding is Encoding.ZLIB
            else zstandard.ZstdCompressor().compress(noise)
        )
        assert decoder(encoding).decode(whole) == noise
        with pytest.raises(ProtocolViolation, match="after the end"):
            decoder(encoding).decode(whole + b"x")


@pytest.mark.parametrize("encoding", CODED)
def test_not_of_the_encoding(encoding: Encoding):
    """What is not of the encoding is refused in its name."""
    with pytest.raises(ProtocolViolation, match=encoding.value.split("-")[0]):
        decoder(encoding).decode(b"neither of them")


def test_zlib_with_a_dictionary():
    """A zlib stream that wants a dictionary is refused: there is none."""
    coder = zlib.compressobj(zdict=b"abc")
    with pytest.raises(ProtocolViolation, match="no zlib"):
        decoder(Encoding.ZLIB).decode(coder.compress(b"abc") + coder.flush())


@given(st.sampled_from(CODED), st.lists(st.binary(max_size=300), max_size=4), st.booleans())
def test_arbitrary_payloads(encoding: Encoding, payloads: list[bytes], begun: bool):
    """Arbitrary payloads are read or refused, and nothing else."""
    coder = decoder(encoding, 1000)
    with suppress(ProtocolViolation):
        if begun:
            writer = encoder(encoding)
            coder.decode(writer.encode(b"abc") + writer.flush())
        for payload in payloads:
            assert len(coder.decode(payload)) <= 1000


# --- which one ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ((), Encoding.IDENTITY),
        ((b"identity",), Encoding.IDENTITY),
        ((b"brotli",), Encoding.IDENTITY),
        ((b"identity", b"zlib", b"zstd-8mb"), Encoding.ZSTD),
        ((b"zlib", b"zstd"), Encoding.ZLIB),
        ((b"ZLIB",), Encoding.IDENTITY),
    ],
)
def test_choice(accepted: tuple[bytes, ...], chosen: Encoding):
    """The first that we prefer of those a peer accepts is used; identity if there is none."""
    assert choose(accepted) is chosen


def test_choice_of_few():
    """What we are told not to use is not used."""
    assert choose((b"zstd-8mb", b"zlib"), (Encoding.ZLIB,)) is Encoding.ZLIB
