# Law of this file: one value has one encoding, nothing outside the subset is read, and nothing
# depends on how a stream was cut into chunks. cbor2 is the judge where RFC 8949 is.

from __future__ import annotations

import tracemalloc
from enum import IntEnum
from itertools import pairwise
from types import MappingProxyType

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.hg import cbor
from wire.hg.cbor import CborError, Chunk, Decoder, Item, Limits, Value

NODE = bytes(range(20))

integers = st.integers(-(2**64), 2**64 - 1) | st.integers(-300, 300)
scalars = st.none() | st.booleans() | integers | st.binary(max_size=30)
sets = st.frozensets(scalars, max_size=6)


def nested(leaves: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    """Values with ``leaves`` in lists and maps."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(scalars, inner, max_size=5),
        max_leaves=20,
    )


values = nested(scalars | sets)
places_of = st.lists(st.integers(0, 400), max_size=12)
# Whole tokens in any order come further into the decoder than bytes that are merely random.
TOKENS = [
    *(bytes((byte,)) for byte in b"\x00\x17\x20\x40\x41\x54\x5f\x80\x81\x82\x83\xa0\xa1\xa2\xf4"),
    *(
        b"\xf5",
        b"\xf6",
        b"\xff",
        b"\x18\x01",
        b"\x39\x01\x00",
        b"\x41a",
        b"\x58\x02ab",
        b"\x98\x03",
    ),
    *(b"\xd9\x01\x02", b"\xd9\x01\x02\x81", b"\xd9\x01\x03", b"\x60", b"\xf7", b"\x9f", b"\x1c"),
    *(b"\x54" + NODE, b"\x89", b"\x5a\x00\x00\x00\x40", b"\x9a\x00\x00\x00\x20", b"\xb8\x18"),
]
garbage = st.binary(max_size=60) | st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in chunks that end at ``places``."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def decode(chunks: list[bytes], limits: Limits = cbor.DEFAULT) -> list[Item]:
    """All items of a complete sequence that comes in ``chunks``."""
    decoder = Decoder(limits)
    items = [item for chunk in chunks for item in decoder.feed(chunk)]
    decoder.end()
    return items


def singly(data: bytes) -> list[bytes]:
    """``data`` byte by byte."""
    return [data[i : i + 1] for i in range(len(data))]


# --- golden bytes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        # RFC 8949, appendix A
        ("00", 0),
        ("01", 1),
        ("0a", 10),
        ("17", 23),
        ("1818", 24),
        ("1819", 25),
        ("1864", 100),
        ("1903e8", 1000),
        ("1a000f4240", 1000000),
        ("1b000000e8d4a51000", 1000000000000),
        ("1bffffffffffffffff", 18446744073709551615),
        ("3bffffffffffffffff", -18446744073709551616),
        ("20", -1),
        ("29", -10),
        ("3863", -100),
        ("3903e7", -1000),
        ("f4", False),
        ("f5", True),
        ("f6", None),
        ("40", b""),
        ("4401020304", b"\x01\x02\x03\x04"),
        ("80", []),
        ("83010203", [1, 2, 3]),
        ("8301820203820405", [1, [2, 3], [4, 5]]),
        ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", [*range(1, 26)]),
        ("a0", {}),
        ("a201020304", {1: 2, 3: 4}),
        # where a length or an integer grows by a byte
        ("37", -24),
        ("3818", -25),
        ("18ff", 255),
        ("190100", 256),
        ("19ffff", 65535),
        ("1a00010000", 65536),
        ("1affffffff", 2**32 - 1),
        ("1b0000000100000000", 2**32),
        ("57" + "61" * 23, b"a" * 23),
        ("5818" + "61" * 24, b"a" * 24),
        ("590100" + "61" * 256, b"a" * 256),
        ("5a00010000" + "61" * 65536, b"a" * 65536),
        # sets
        ("d9010280", frozenset()),
        ("d901028241614162", frozenset({b"b", b"a"})),
        ("a14170d901028245706174683a4c726f6f7466696c6573696e3a", {
            b"p": frozenset({b"path:", b"rootfilesin:"}),
        }),
        # plain byte order, not shortest key first
        ("a2426161014162f6", {b"b": None, b"aa": 1}),
        ("d90102834041004400000000", frozenset({b"\0", b"\0\0\0\0", b""})),
        # by the name of the type first: NoneType, bool, bytes, int
        ("d9010286f6f4416220021818", frozenset({24, 2, -1, b"b", False, None})),
        ("a4f600f501416102030a", {3: 10, b"a": 2, True: 1, None: 0}),
        # the specification's smallest request
        ("a1446e616d65456865616473", {b"name": b"heads"}),
    ],
)  # fmt: skip
def test_golden_values(encoded: str, value: Value):
    """Each type is written and read as the standard, and where it is silent Mercurial, has it."""
    data = bytes.fromhex(encoded)
    assert cbor.encode(value) == data
    read = cbor.decode_one(data)
    assert read == value
    assert type(read) is type(value)
    assert decode(singly(data)) == [value]


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("1801", 1),
        ("190001", 1),
        ("1a00000001", 1),
        ("1b0000000000000001", 1),
        ("3b0000000000000000", -1),
        ("580161", b"a"),
        ("59000161", b"a"),
        ("5a0000000161", b"a"),
        ("5b000000000000000161", b"a"),
        ("980100", [0]),
        ("9b000000000000000100", [0]),
        ("b90001416100", {b"a": 0}),
        ("d90102980100", frozenset({0})),
        ("da000001028100", frozenset({0})),
        ("db00000000000001029a0000000100", frozenset({0})),
        ("a2416200416100", {b"a": 0, b"b": 0}),
        ("d901028341620220", frozenset({-1, 2, b"b"})),
    ],
)
def test_other_writers_are_read(encoded: str, value: Value):
    """Lengths longer than needed and keys in any order mean the same."""
    data = bytes.fromhex(encoded)
    assert decode([data]) == decode(singly(data)) == [value]


def test_headers_are_what_streaming_writers_need():
    """A collection written piece by piece is the one written at once."""
    assert cbor.bytes_header(23) + cbor.bytes_header(256) == b"\x57\x59\x01\x00"
    assert cbor.array_header(2) + b"\x01\x02" == cbor.encode([1, 2])
    assert cbor.map_header(1) + b"\x01\x02" == cbor.encode({1: 2})
    assert cbor.set_header(2) + b"\x01\x02" == cbor.encode({1, 2})
    assert cbor.array_header(2**64 - 1) == b"\x9b" + b"\xff" * 8
    for length in (-1, 2**64):
        with pytest.raises(ValueError, match=f"{length} is no length"):
            cbor.map_header(length)


def test_wider_types_are_written_as_what_they_stand_for():
    """What callers have at hand need not be copied into lists and dicts first."""

    class Level(IntEnum):
        HIGH = 7

    class Path(bytes):
        pass

    assert cbor.encode((1, 2)) == cbor.encode(range(1, 3)) == cbor.encode([1, 2])
    assert cbor.encode(bytearray(b"ab")) == cbor.encode(memoryview(b"xaby")[1:3]) == b"\x42ab"
    assert cbor.encode(MappingProxyType({Path(b"b"): Level.HIGH, b"a": 0})) == cbor.encode(
        {b"a": 0, b"b": 7}
    )
    assert cbor.encode({2: 0, 1: 0}.keys()) == cbor.encode(frozenset({1, 2}))


@pytest.mark.parametrize(
    "value",
    ["text", 1.5, object(), {"a": 1}, {(1,): 1}, {1.5}, {memoryview(b"a"): 1}, [[b"a", "b"]]],
)
def test_what_the_subset_lacks_is_not_written(value: object):
    """A value that no reader of the subset knows is the caller's mistake, said at once."""
    with pytest.raises(TypeError, match="a value of the type"):
        cbor.encode(value)


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1])
def test_larger_integers_are_not_written(value: int):
    """An integer that has no encoding is named."""
    with pytest.raises(ValueError, match=f"{value} has more than the 64 bits"):
        cbor.encode([value])


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ("60", "a text string.* at offset 0$"),
        ("6161", "a text string"),
        ("7801", "a text string"),
        ("7f", "a text string"),
        ("f90000", "a float"),
        ("fa00000000", "a float"),
        ("fb0000000000000000", "a float"),
        ("f7", "a simple value"),
        ("e0", "a simple value"),
        ("f3", "a simple value"),
        ("f820", "a simple value"),
        ("9fff", "an array of indefinite length"),
        ("bfff", "a map of indefinite length"),
        ("dfff", "a tag of indefinite length"),
        ("1f", "an integer of indefinite length"),
        ("3f", "an integer of indefinite length"),
        *((f"{major << 5 | n:02x}", f"{n}, which is reserved")
          for major in range(8) for n in (28, 29, 30)),
        ("c0", "the tag 0,"),
        ("d9010300", "the tag 259,"),
        ("dbffffffffffffffff", "the tag 18446744073709551615,"),
        ("d9010200", "a set that is no array, at offset 3"),
        ("d901024161", "a set that is no array"),
        ("d90102a0", "a set that is no array"),
        ("d90102f6", "a set that is no array"),
        ("d90102d9010280", "a set that is no array"),
        ("d901029fff", "an array of indefinite length, at offset 3"),
        ("a18000", r"a collection \(array\) as the key of a map, at offset 1"),
        ("a1a000", r"a collection \(map\) as the key of a map"),
        ("a1d901028000", r"a collection \(set\) as the key of a map"),
        ("a20000a0", r"a collection \(map\) as the key of a map, at offset 3"),
        ("d901028180", r"a collection \(array\) as the member of a set"),
        ("d9010281a0", r"a collection \(map\) as the member of a set"),
        ("d9010281d9010280", r"a collection \(set\) as the member of a set"),
        ("815f4100ff", "an indefinite byte string that is not a top-level item, at offset 1"),
        ("a15f", "an indefinite byte string"),
        ("a1005f", "an indefinite byte string"),
        ("d90102815f", "an indefinite byte string"),
        ("5f5fffff", "an indefinite byte string that is not a top-level item, at offset 1"),
        ("5f00", "a chunk that is no byte string, at offset 1"),
        ("5f1864", "a chunk that is no byte string, at offset 1"),
        ("5f41aaf6", "a chunk that is no byte string, at offset 3"),
        ("5f82", "a chunk that is no byte string, at offset 1"),
        ("5fa1", "a chunk that is no byte string, at offset 1"),
        ("5fd9010282", "a chunk that is no byte string, at offset 4"),
        ("5f6161", "a text string"),
        ("ff", "a break outside"),
        ("81ff", "a break outside.*, at offset 1"),
        ("a100ff", "a break outside"),
        ("5fffff", "a break outside.*, at offset 2"),
        ("a2416101416102", "a map that has b'a' twice, at offset 7"),
        ("a2f600f600", "a map that has None twice"),
        ("d90102824161580161", "a set that has b'a' twice"),
        ("d90102820000", "a set that has 0 twice"),
        # two keys for CBOR, one for a dict
        ("a20100f500", "a map that has 1 twice"),
        ("d9010282f400", "a set that has False twice"),
    ],
)  # fmt: skip
def test_what_the_subset_lacks_is_not_read(encoded: str, message: str):
    """Everything that is CBOR but not of the subset is refused, and the message says where."""
    data = bytes.fromhex(encoded)
    with pytest.raises(CborError, match=message):
        decode([data])
    with pytest.raises(CborError, match=message):
        decode(singly(data))


@pytest.mark.parametrize("first", [0x60, 0x78, 0xF8, 0xF9, 0xFB, 0x9F, 0xBF, 0x1C, 0xFC, 0xE0])
def test_a_forbidden_item_is_seen_at_its_first_byte(first: int):
    """Nothing is waited for that would be refused when it comes."""
    decoder = Decoder()
    assert decoder.feed(b"\x82\x00") == []
    with pytest.raises(CborError, match="at offset 2"):
        decoder.feed(bytes((first,)))


def test_true_is_a_key_of_its_own():
    """True and 1 stay what they are where they stand alone."""
    for value in ({True: 0}, {1: 0}, frozenset({False}), frozenset({0})):
        assert cbor.encode(cbor.decode_one(cbor.encode(value))) == cbor.encode(value)


def test_a_stream_that_was_refused_cannot_be_read_on():
    """What comes after a violation is not taken for items, and nothing is held for it."""
    decoder = Decoder()
    decoder.feed(b"\x82\x58\x20abc")
    with pytest.raises(CborError, match=r"a text string, .*, at offset 35"):
        decoder.feed(bytes(29) + b"\x60")
    assert decoder.pending == 0
    assert decoder._open == []
    assert not decoder.at_boundary
    with pytest.raises(CborError, match="at offset 35"):
        decoder.feed(b"\x01")
    with pytest.raises(CborError, match="at offset 35"):
        decoder.end()


def test_one_item_is_one():
    """Where one value is expected, none, two and a string in chunks are refused."""
    assert cbor.decode_one(memoryview(b"\x82\x01\x02")) == [1, 2]
    with pytest.raises(CborError, match="0 items"):
        cbor.decode_one(b"")
    with pytest.raises(CborError, match="2 items where one is expected, in 2 bytes"):
        cbor.decode_one(b"\x01\x02")
    with pytest.raises(CborError, match="an indefinite byte string"):
        cbor.decode_one(b"\x5f\xff")
    with pytest.raises(CborError, match="ends at offset 2, in the middle of an item"):
        cbor.decode_one(b"\x82\x01")


# --- indefinite byte strings ----------------------------------------------------------


def test_a_string_in_chunks():
    """The chunks of an indefinite byte string come out as they were cut, between other items."""
    data = bytes.fromhex("015f42010243030405ff5fff5f40ff02")
    items = [
        1,
        Chunk(b"\x01\x02", first=True, last=False),
        Chunk(b"\x03\x04\x05", first=False, last=False),
        Chunk(b"", first=False, last=True),
        Chunk(b"", first=True, last=True),
        Chunk(b"", first=True, last=False),
        Chunk(b"", first=False, last=True),
        2,
    ]
    assert decode([data]) == decode(singly(data)) == items


def test_a_string_in_chunks_does_not_end_between_them():
    """Between two chunks nothing is held, and yet the stream may not end there."""
    decoder = Decoder()
    decoder.feed(cbor.INDEFINITE_BYTES + cbor.encode(b"ab"))
    assert decoder.pending == 0
    assert not decoder.at_boundary
    with pytest.raises(CborError, match="offset 4, in the middle of an indefinite byte string"):
        decoder.end()
    decoder.feed(cbor.BREAK)
    assert decoder.at_boundary
    decoder.end()


# --- limits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "encoded", "message"),
    [
        (
            Limits(item_size=100),
            "5863",
            "of at least 101 bytes, where the limit is 100, at offset 0",
        ),
        (Limits(item_size=100), "5bffffffffffffffff", "of at least 18446744073709551624 bytes"),
        (Limits(item_size=100), "824100" + "5861", "at least 102 bytes, .* at offset 0"),
        (Limits(item_size=100), "5f5863", "at least 101 bytes, .* at offset 1"),
        (Limits(item_size=100), "9863", "at least 101 bytes"),
        (Limits(item_size=100), "b832", "at least 102 bytes"),
        (Limits(depth=4), "83" * 5, "more than 4 collections within each other, at offset 4"),
        (Limits(depth=2), "81a100d9010280", "more than 2 collections"),
        (Limits(members=50), "9833", "51 entries .*, where the limit is 50, at offset 0"),
        (Limits(members=50), "b833", "51 entries"),
        (Limits(members=50), "d901029833", "51 entries"),
        (Limits(members=50), "82" + "9818" + "00" * 24 + "9819", "51 entries.*, at offset 27"),
        (Limits(members=50), "9bffffffffffffffff", "18446744073709551615 entries"),
    ],
)
def test_a_limit_holds_when_the_header_is_seen(limits: Limits, encoded: str, message: str):
    """What is declared and too much is refused before any of it has come."""
    data = bytes.fromhex(encoded)
    for chunks in ([data], singly(data)):
        decoder = Decoder(limits)
        for chunk in chunks[:-1]:
            assert decoder.feed(chunk) == []
        with pytest.raises(CborError, match=message):
            decoder.feed(chunks[-1])


def test_limits_are_of_one_item():
    """A stream may be longer than any limit; each of its items and chunks is measured alone."""
    limits = Limits(depth=1, item_size=30, members=3)
    item = cbor.encode([b"a" * 9, b"b" * 9, 1])
    chunk = cbor.encode(bytes(28))
    assert len(decode([item * 5], limits)) == len(decode(singly(item * 5), limits)) == 5
    stream = cbor.INDEFINITE_BYTES + chunk * 5 + cbor.BREAK
    assert len(decode([stream], limits)) == len(decode(singly(stream), limits)) == 6


def test_an_item_at_the_limit_is_read_and_one_above_is_not():
    """The size of an item counts every byte of it, whether it comes at once or in pieces."""
    data = cbor.encode([1000, {b"a": -1000}, b"b" * 20, None])
    for chunks in ([data], singly(data)):
        assert len(decode(chunks, Limits(item_size=len(data)))) == 1
        with pytest.raises(CborError, match=f"limit is {len(data) - 1}, at offset 0"):
            decode(chunks, Limits(item_size=len(data) - 1))


def test_many_small_values_reach_the_limit_as_well():
    """An item that declares little and goes on is refused as soon as more than the limit came."""
    decoder = Decoder(Limits(item_size=100))
    decoder.feed(b"\x98\x60" + b"\x1b\x00\x00\x00\x00\x00\x00\x00\x01" * 10)
    decoder.feed(bytes(8))
    assert decoder.pending == 100
    with pytest.raises(CborError, match="at least 101 bytes, where the limit is 100, at offset 0"):
        decoder.feed(b"\x00")


@pytest.mark.parametrize(
    "header", [cbor.bytes_header(60 * 2**20), cbor.array_header(2**20), cbor.map_header(2**20)]
)
def test_nothing_is_set_aside_for_bytes_that_have_not_come(header: bytes):
    """A header alone costs no memory, whatever it declares."""
    decoder = Decoder()
    tracemalloc.start()
    try:
        decoder.feed(header + b"\x00")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_large_byte_string_is_copied_once():
    """The pieces of a large string are put together where the string will be."""
    size = 2**22
    decoder = Decoder()
    piece = bytes(2**16)
    tracemalloc.start()
    try:
        decoder.feed(b"\x81" + cbor.bytes_header(size))
        for _ in range(size // len(piece) - 1):
            decoder.feed(piece)
        (item,) = decoder.feed(memoryview(piece))
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()
    assert item == [bytes(size)]


# --- lists of nodes -------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 20, 23, 24, 32, 64, 65, 255, 256])
@pytest.mark.parametrize("count", [2, 3, 4, 255, 256, 257, 258, 600])
def test_lists_of_equally_long_strings(length: int, count: int):
    """A list of nodes is read the same at once, in pieces, and as each of its strings."""
    nodes = [bytes((i * 31 + j) % 256 for j in range(length)) for i in range(count)]
    data = cbor.array_header(count) + b"".join(map(cbor.encode, nodes))
    assert cbor.encode(nodes) == data
    assert cbor.decode(data + b"\x01") == [nodes, 1]
    step = 1000
    assert decode([data[i : i + step] for i in range(0, len(data), step)]) == [nodes]


def test_sets_of_nodes():
    """A set of nodes is written in their order and read from any."""
    nodes = [bytes((255 - i,)) * 20 for i in range(255)]
    written = cbor.encode(set(nodes))
    assert written == b"\xd9\x01\x02" + cbor.encode(nodes[::-1])
    assert cbor.decode_one(cbor.set_header(255) + cbor.encode(nodes)[2:]) == frozenset(nodes)
    with pytest.raises(CborError, match="twice"):
        cbor.decode_one(cbor.set_header(256) + cbor.encode([*nodes, nodes[7]])[3:])


@given(st.data())
def test_lists_of_nearly_equally_long_strings(data: st.DataObject):
    """One string of another length, anywhere in a list, shifts nothing."""
    # Strings of header bytes look most like the headers that the decoder compares.
    length = data.draw(st.sampled_from([1, 20, 24]))
    strings: list[Value] = [cbor.bytes_header(length)[:1] * length] * data.draw(st.integers(2, 40))
    odd = st.binary(max_size=30) | st.just([]) | st.none() | st.integers(0, 30)
    for _ in range(data.draw(st.integers(0, 3))):
        strings[data.draw(st.integers(0, len(strings) - 1))] = data.draw(odd)
    encoded = cbor.encode(strings)
    assert encoded == cbor.array_header(len(strings)) + b"".join(map(cbor.encode, strings))
    assert decode(cut(encoded, data.draw(places_of))) == [strings]


# --- any values, any bytes ------------------------------------------------------------


@given(st.lists(values, max_size=4), places_of)
def test_what_is_written_is_read_in_any_chunks(sequence: list[Value], places: list[int]):
    """Any values survive the way through bytes, wherever the stream was cut."""
    data = b"".join(map(cbor.encode, sequence))
    for chunks in ([data], singly(data), cut(data, places)):
        items = decode(chunks)
        assert items == sequence
        # True equals 1, but its encoding does not.
        assert b"".join(cbor.encode(item) for item in items if not isinstance(item, Chunk)) == data


@given(st.lists(st.binary(max_size=30), max_size=6), places_of)
def test_strings_in_chunks_in_any_chunks(pieces: list[bytes], places: list[int]):
    """A string in chunks is put together again, wherever the stream was cut."""
    data = cbor.INDEFINITE_BYTES + b"".join(map(cbor.encode, pieces)) + cbor.BREAK
    for chunks in ([data], singly(data), cut(data, places)):
        items = [item for item in decode(chunks) if isinstance(item, Chunk)]
        assert [item.data for item in items] == [*pieces, b""]
        assert [item.first for item in items] == [True] + [False] * len(pieces)
        assert [item.last for item in items] == [False] * len(pieces) + [True]
        assert cbor2.loads(data) == b"".join(pieces)


def in_order(value: Value) -> Value:
    """``value`` with the keys of its maps in the order in which they are to be written."""
    if isinstance(value, list):
        return [in_order(inner) for inner in value]
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (type(key).__name__, key is not None and key))
        return {key: in_order(value[key]) for key in keys}
    return value


@given(values)
def test_another_reader_reads_the_same(value: Value):
    """cbor2 reads what we write, and we read what it writes."""
    assert cbor2.loads(cbor.encode(value)) == value
    assert cbor.decode_one(cbor2.dumps(value)) == value


@given(nested(scalars))
def test_another_writer_writes_the_same(value: Value):
    """Byte for byte we write what cbor2 does, given the order of the keys."""
    assert cbor.encode(value) == cbor2.dumps(in_order(value))


@given(values, st.data())
def test_a_sequence_that_was_cut_off_is_noticed(value: Value, data: st.DataObject):
    """A prefix of a sequence is either a shorter sequence or refused at its end."""
    encoded = cbor.encode(value)
    stream = encoded + cbor.INDEFINITE_BYTES + encoded[:0] + b"\x41a\xff" + encoded
    size = data.draw(st.integers(0, len(stream)))
    boundaries = {0, len(encoded), len(encoded) + 4, len(stream)}
    decoder = Decoder()
    decoder.feed(stream[:size])
    assert decoder.at_boundary == (size in boundaries)
    if size in boundaries:
        assert decoder.pending == 0
        decoder.end()
    else:
        with pytest.raises(CborError, match=f"ends at offset {size}, in the middle"):
            decoder.end()


@given(garbage, places_of)
def test_garbage(data: bytes, places: list[int]):
    """Any bytes are items or the codec's own error, in any chunks; what is held is bounded."""
    limits = Limits(depth=3, item_size=40, members=10)
    try:
        items = decode([data], limits)
    except CborError:
        items = None
    for chunks in (singly(data), cut(data, places)):
        decoder = Decoder(limits)
        read: list[Item] = []
        try:
            for chunk in chunks:
                read += decoder.feed(chunk)
                assert decoder.pending <= 40
            decoder.end()
        except CborError:
            assert items is None
            assert decoder.pending <= 40
        else:
            assert read == items


@given(garbage)
def test_what_we_read_another_reader_reads_as_well(data: bytes):
    """We take nothing for an item that is none, or another one, by the standard."""
    try:
        item = cbor.decode_one(data)
    except CborError:
        return
    assert cbor2.loads(data) == item
