# Law of this file: what is written is read again as the same parts, and what cannot be is refused.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repos.hg_bundles import parts_of
from wire.hg import bundle2_writer
from wire.hg.bundle2 import BundleError, Part
from wire.hg.bundle2_writer import DRAFT, PUBLIC, bookmarks_payload, bundle, phase_heads_payload

TYPES = st.text("abcxyz019_:-", max_size=254).map(lambda word: b"a" + word.encode())
PARAMS = st.dictionaries(st.binary(max_size=255), st.binary(max_size=255), max_size=6)


@st.composite
def parts(draw: st.DrawFn) -> tuple[Part, list[bytes]]:
    """Any part, with any of its parameters advisory, and its payload in pieces."""
    params = draw(PARAMS)
    advisory = frozenset(draw(st.sets(st.sampled_from(sorted(params))))) if params else frozenset()
    part = Part(draw(TYPES), draw(st.booleans()), params, advisory)
    return part, draw(st.lists(st.binary(max_size=50), max_size=5))


@given(st.lists(parts(), max_size=5))
def test_what_is_written_is_parts_of(written: list[tuple[Part, list[bytes]]]) -> None:
    """A reader finds the same parts, in the same order, with the same payloads."""
    assert parts_of(b"".join(bundle(written))) == [(part, b"".join(data)) for part, data in written]


def test_the_bytes() -> None:
    """Parts are numbered; mandatory ones have capitals, and mandatory parameters come first."""
    first = Part(b"a", True, {b"x": b"1", b"key": b"val"}, frozenset({b"x"}))
    assert b"".join(bundle([(first, [b"data", b""]), (Part(b"b", False, {}), [])])) == (
        b"HG20\0\0\0\0"
        b"\0\0\0\x14\1A\0\0\0\0\1\1\3\3\1\1keyvalx1\0\0\0\4data\0\0\0\0"
        b"\0\0\0\x08\1b\0\0\0\1\0\0\0\0\0\0"
        b"\0\0\0\0"
    )


def test_large_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that no reader takes as one chunk is cut."""
    monkeypatch.setattr(bundle2_writer, "MAX_CHUNK", 3)
    written = b"".join(bundle([(Part(b"a", False, {}), [b"1234567"])]))
    assert written.count(b"\0\0\0\x03") == 2
    assert parts_of(written)[0][1] == b"1234567"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Part(b"", True, {}), "is no part's type"),
        (Part(b"A", True, {}), "is no part's type"),
        (Part(b"a b", True, {}), "is no part's type"),
        (Part(b"a" * 256, True, {}), "is no part's type"),
        (Part(b"0", True, {}), "has no letter"),
        (Part(b"a", True, {b"k" * 256: b""}), "has 256 bytes"),
        (Part(b"a", True, {b"k": b"v" * 256}), "has 256 bytes"),
        (Part(b"a", True, {b"%d" % n: b"" for n in range(256)}), "parameters; 255 can be told"),
    ],
)
def test_what_cannot_be_written(part: Part, said: str) -> None:
    """A type or parameter that has no place in a header is refused."""
    with pytest.raises(BundleError, match=said):
        b"".join(bundle([(part, [])]))


def test_payloads() -> None:
    """Bookmarks are sorted by name, phases' heads by phase and then by node."""
    one, two = b"\1" * 20, b"\2" * 20
    assert bookmarks_payload({b"b": one, b"aa": two}) == two + b"\0\2aa" + one + b"\0\1b"
    assert phase_heads_payload({DRAFT: [two], PUBLIC: [two, one]}) == (
        b"\0\0\0\0" + one + b"\0\0\0\0" + two + b"\0\0\0\1" + two
    )
