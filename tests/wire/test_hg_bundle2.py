# Law of this file: a bundle is read the same in any chunking, and what is none is refused.

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.hg.bundle2 import MAX_CHUNK, MAX_HEADER, BundleError, BundleReader, Event, Part, PartData
from wire.hg.bundle2_writer import bundle

EMPTY = b"HG20" + bytes(4)
PART = struct.pack(">I", 8) + b"\1a" + bytes(4) + b"\0\0"


def read(pieces: Iterable[bytes]) -> list[Event]:
    """The events of a bundle, payloads put together."""
    reader = BundleReader()
    found: list[Event] = []
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, PartData) and isinstance(found[-1], PartData):
                found[-1] = PartData(found[-1].data + event.data)
            else:
                found.append(event)
    reader.end()
    return found


def made() -> bytes:
    """A bundle of two parts."""
    params = {b"version": b"02", b"nbchanges": b"1"}
    parts: list[tuple[Part, list[bytes]]] = [
        (Part(b"changegroup", True, params), [b"abc", b"defg"]),
        (Part(b"cache:x", False, {}), []),
    ]
    return b"".join(bundle(parts, b"note=a%20b"))


def test_parts() -> None:
    """Types, parameters and payloads are what was written; capitals say that it is mandatory."""
    first, data, _, second, _ = read([made()])
    assert first == Part(b"changegroup", True, {b"version": b"02", b"nbchanges": b"1"})
    assert data == PartData(b"abcdefg")
    assert second == Part(b"cache:x", False, {})


def test_advisory_parameters() -> None:
    """A part says which of its parameters may be ignored."""
    header = b"\1a" + bytes(4) + b"\1\1" + b"\1\1\2\1" + b"kv" + b"xxy"
    (found, _) = read([EMPTY + struct.pack(">I", len(header)) + header + bytes(4) + bytes(4)])
    assert found == Part(b"a", False, {b"k": b"v", b"xx": b"y"}, frozenset({b"xx"}))


@given(st.lists(st.integers(1, 20), max_size=30))
def test_any_chunking(sizes: list[int]) -> None:
    """Bytes may come in pieces of any size, one by one as well."""
    whole = made()
    pieces, rest = [], whole
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert read([*pieces, rest]) == read([whole]) == read(bytes((byte,)) for byte in whole)


def test_a_bundle_that_is_cut_off() -> None:
    """No beginning of a bundle is a bundle."""
    whole = made()
    for end in range(len(whole)):
        with pytest.raises(BundleError, match="cut off"):
            read([whole[:end]])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HG10", "does not begin a bundle"),
        (b"HG20" + struct.pack(">I", MAX_HEADER + 1), f"at most {MAX_HEADER}"),
        (b"HG20" + struct.pack(">I", 14) + b"Compression=BZ", "only uncompressed"),
        (EMPTY + struct.pack(">I", MAX_HEADER + 1), f"at most {MAX_HEADER}"),
        (EMPTY + struct.pack(">I", 1) + b"\5", "cut off"),
        (EMPTY + struct.pack(">I", 7) + b"\0" + bytes(4) + b"\0\0", "does not add up"),
        (EMPTY + struct.pack(">I", 9) + b"\1a" + bytes(4) + b"\0\0x", "does not add up"),
        (EMPTY + PART + b"\xff\xff\xff\xff", "interrupted"),
        (
            EMPTY + struct.pack(">I", 8) + b"\1a" + bytes(4) + b"\0\0\xff\xff\xff\0",
            "a chunk of -256",
        ),
        (
            EMPTY
            + struct.pack(">I", 8)
            + b"\1a"
            + bytes(4)
            + b"\0\0"
            + struct.pack(">i", MAX_CHUNK + 1),
            f"at most {MAX_CHUNK}",
        ),
        (EMPTY + bytes(5), "1 bytes follow"),
    ],
)
def test_what_is_no_bundle(data: bytes, said: str) -> None:
    """Other formats, compressed bundles, lying lengths and bytes behind the end are refused."""
    with pytest.raises(BundleError, match=said):
        read([data])


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes(data: bytes, begun: bool) -> None:
    """Whatever the bytes are, they are read or refused by that error."""
    with suppress(BundleError):
        read([EMPTY + data if begun else data])
