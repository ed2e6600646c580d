# Law of this file: what we choose is what hgweb chooses; what is compressed comes out again, in any
# chunking and in bounded pieces, and what is cut off or followed by more is refused.

from __future__ import annotations

import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.hg_wire import cut
from wire.hg.v1.media import (
    ENGINES,
    HG_ERROR,
    MERCURIAL_0_1,
    MERCURIAL_0_2,
    BadAnswer,
    Decompressor,
    Framing,
    choose,
    compressor,
    decompressor,
    engine_prefix,
)
from wire.hg.v1.requests import ClientProtocol

MIB = 1 << 20
BOTH = frozenset({"0.1", "0.2"})
STOCK = ClientProtocol(BOTH, ("zstd", "zlib", "none", "bzip2"))

FRAMINGS = (
    Framing(MERCURIAL_0_1, "zlib"),
    *(Framing(MERCURIAL_0_2, engine) for engine in ENGINES),
)


def body(framing: Framing, *pieces: bytes) -> bytes:
    """A whole answer."""
    writer = compressor(framing.engine)
    return b"".join([framing.prefix, *map(writer.compress, pieces), writer.flush()])


def content(reader: Decompressor, *chunks: bytes) -> bytes:
    """What a whole answer tells."""
    found = b"".join(piece for chunk in chunks for piece in reader.feed(chunk))
    reader.end()
    return found


# --- choosing -------------------------------------------------------------------------------


def test_choice_for_stock():
    """Stock clients get our first engine, and what compresses badly as it is."""
    assert choose(STOCK, uncompressed=False) == Framing(MERCURIAL_0_2, "zstd")
    assert choose(STOCK, ("zlib", "zstd"), uncompressed=False) == Framing(MERCURIAL_0_2, "zlib")
    assert choose(STOCK, uncompressed=True) == Framing(MERCURIAL_0_2, "none")


@pytest.mark.parametrize(
    ("compression", "engine"),
    [((), "zlib"), (("zlib",), "zlib"), (("none", "zstd"), "zstd")],
)
def test_choice(compression: tuple[str, ...], engine: str):
    """Of what a client takes, our order counts; who says nothing takes zlib."""
    protocol = ClientProtocol(BOTH, compression)
    assert choose(protocol, uncompressed=False) == Framing(MERCURIAL_0_2, engine)


@pytest.mark.parametrize("compression", [("bzip2",), ("",), ("none",)])
def test_nothing_in_common(compression: tuple[str, ...]):
    """Without a common engine, media type 0.1 is what everybody reads."""
    protocol = ClientProtocol(BOTH, compression)
    assert choose(protocol, uncompressed=False) == Framing(MERCURIAL_0_1, "zlib")
    assert choose(protocol, uncompressed=True) == Framing(MERCURIAL_0_2, "none")


def test_old_clients():
    """Who does not take 0.2 gets 0.1, whatever engines it names."""
    for uncompressed in (False, True):
        old = ClientProtocol(frozenset({"0.1"}), STOCK.compression)
        assert choose(old, uncompressed=uncompressed) == Framing(MERCURIAL_0_1, "zlib")


# --- both ways ------------------------------------------------------------------------------


@given(
    st.sampled_from(FRAMINGS),
    st.lists(st.binary(max_size=50) | st.integers(0, 10**5).map(bytes), max_size=4),
    st.lists(st.integers(0, 200)),
)
def test_round_trip(framing: Framing, pieces: list[bytes], places: list[int]):
    """What was compressed comes out, however the body is cut."""
    reader = decompressor(framing.media_type)
    chunks = cut(body(framing, *pieces), places)
    assert content(reader, *chunks) == b"".join(pieces)
    assert reader.engine == framing.engine


@given(st.sampled_from(FRAMINGS), st.binary(min_size=1, max_size=50), st.data())
def test_cut_off(framing: Framing, data: bytes, drawn: st.DataObject):
    """A body that ends early is refused; of the engine none, if it ends before its name does."""
    whole = body(framing, data)
    last = len(framing.prefix) - 1 if framing.engine == "none" else len(whole) - 1
    length = drawn.draw(st.integers(0, last))
    with pytest.raises(BadAnswer, match="ends before"):
        content(decompressor(framing.media_type), whole[:length])


@pytest.mark.parametrize("framing", FRAMINGS[:3])
def test_more(framing: Framing):
    """Bytes after the end of a stream are refused, in the same chunk or the next."""
    whole = body(framing, b"abc")
    for chunks in ((whole + b"x",), (whole, b"x"), (whole, whole)):
        with pytest.raises(BadAnswer, match="after the end"):
            content(decompressor(framing.media_type), *chunks)


@given(
    st.sampled_from((MERCURIAL_0_1, MERCURIAL_0_2)),
    st.sampled_from((*ENGINES, "bzip2")),
    st.lists(st.binary()),
)
def test_any_body(media_type: str, named: str, chunks: list[bytes]):
    """Any body is read or refused."""
    prefix = engine_prefix(named) if media_type == MERCURIAL_0_2 else b""
    try:
        content(decompressor(media_type), prefix, *chunks)
    except BadAnswer as wrong:
        reason = str(wrong)
    else:
        reason = ""
    assert reason.isprintable()


@pytest.mark.parametrize("framing", FRAMINGS[:3])
def test_bombs(framing: Framing):
    """A few bytes that tell many come out in pieces."""
    data = body(framing, *[bytes(MIB)] * 40)
    pieces = list(map(len, decompressor(framing.media_type).feed(data)))
    assert sum(pieces) == 40 * MIB
    assert max(pieces) <= 8 * MIB + (128 << 10)


# --- the bytes ------------------------------------------------------------------------------


def test_golden():
    """Media type, name of the engine, and a stream that others read."""
    assert body(FRAMINGS[0], b"abc") == zlib.compress(b"abc")
    assert body(Framing(MERCURIAL_0_2, "none"), b"abc") == b"\x04noneabc"
    assert body(Framing(MERCURIAL_0_2, "zlib"), b"abc") == b"\x04zlib" + zlib.compress(b"abc")
    zstd = body(Framing(MERCURIAL_0_2, "zstd"), b"abc")
    assert zstd[:5] == b"\x04zstd"
    assert zstandard.ZstdDecompressor().decompressobj().decompress(zstd[5:]) == b"abc"
    assert engine_prefix("zstd") == b"\x04zstd"


def test_large_windows():
    """What a server compressed at its highest level can be read, as stock clients can."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    written = writer.compress(b"abc") + writer.flush()
    assert zstandard.get_frame_parameters(written).window_size == 128 * MIB
    assert content(decompressor(MERCURIAL_0_2), engine_prefix("zstd") + written) == b"abc"


def test_foreign():
    """Engines that were not asked for, and media types of no stream, are refused by name."""
    with pytest.raises(BadAnswer, match="bzip2"):
        content(decompressor(MERCURIAL_0_2), b"\x05bzip2...")
    with pytest.raises(BadAnswer, match="none"):
        content(decompressor(MERCURIAL_0_2, ("zstd",)), b"\x04none")
    for media_type in ("text/html", HG_ERROR, ""):
        with pytest.raises(BadAnswer, match="media type"):
            decompressor(media_type)
    with pytest.raises(ValueError, match="bzip2"):
        compressor("bzip2")
