# Law of this file: a delta makes just the text that was meant, or nothing.

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wire.hg.delta import DeltaError, apply, single, whole


def hunk(start: int, end: int, data: bytes = b"") -> bytes:
    """One replacement."""
    return struct.pack(">III", start, end, len(data)) + data


def test_replacements() -> None:
    """Text is replaced, inserted and removed, at the ends and in between."""
    base = b"0123456789"
    assert apply(base, hunk(2, 4, b"xyz")) == b"01xyz456789"
    assert apply(base, hunk(0, 0, b"<") + hunk(10, 10, b">")) == b"<0123456789>"
    assert apply(base, hunk(0, 1) + hunk(1, 3, b"a") + hunk(9, 10)) == b"a345678"
    assert apply(base, b"") == base
    assert apply(b"", whole(base)) == base


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        (b"\0" * 11, "cut off in a header at byte 0"),
        (hunk(0, 1) + b"\0", "cut off in a header at byte 12"),
        (hunk(0, 1, b"abc")[:-1], "3 bytes were promised at 12"),
        (hunk(0, 11), "replaces bytes 0 to 11 after byte 0 of 10"),
        (hunk(11, 11, b"x"), "replaces bytes 11 to 11"),
        (hunk(3, 2, b"x"), "replaces bytes 3 to 2"),
        (hunk(4, 6) + hunk(5, 7), "replaces bytes 5 to 7 after byte 6"),
        (hunk(0, 0, b"")[:8] + b"\xff\xff\xff\xff", "4294967295 bytes were promised"),
    ],
)
def test_a_delta_that_does_not_fit(delta: bytes, said: str) -> None:
    """A delta that is cut off, runs backwards or leaves its base is refused, and says where."""
    with pytest.raises(DeltaError, match=said):
        apply(b"0123456789", delta)


@given(st.binary(max_size=60), st.binary(max_size=80))
def test_any_delta(base: bytes, delta: bytes) -> None:
    """Whatever the bytes are, they are a text or that error."""
    with suppress(DeltaError):
        apply(base, delta)


@given(st.binary(max_size=200), st.binary(max_size=200))
@example(b"aaaa", b"aaaaaaa")
@example(b"abab", b"ab")
def test_one_replacement_is_enough(base: bytes, text: bytes) -> None:
    """The delta that is made of two texts makes the one of the other."""
    made = single(base, text)
    assert apply(base, made) == text
    assert len(made) <= 12 + len(text)


def test_one_replacement_is_small() -> None:
    """What both texts share at their ends is not sent."""
    before, after = b"x" * 5000 + b"\n", b"y" * 5000 + b"\n"
    made = single(before + b"an old one\n" + after, before + b"a newer one\n" + after)
    assert made == hunk(5001, 5012, b"a newer one\n")
    assert single(b"same", b"same") == b""


@given(*(st.lists(st.sampled_from((b"a", b"ab", b"b", b"")), max_size=9) for _ in range(2)))
def test_one_replacement_is_of_whole_lines(base: list[bytes], text: list[bytes]) -> None:
    """Whoever reads the delta of a manifest alone finds lines of a manifest in it."""
    old, new = (b"".join(line + b"\n" for line in lines) for lines in (base, text))
    made = single(old, new)
    assert apply(old, made) == new
    if made:
        start, end, _ = struct.unpack_from(">III", made)
        assert all(old[place - 1 : place] in {b"", b"\n"} for place in (start, end))
        assert made[12:][-1:] in {b"", b"\n"}
