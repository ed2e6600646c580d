# Law of this file: whatever a Range header says, the answer is within the content, and is what
# RFC 9110 says it is.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ranges import Part, Unsatisfiable, Whole, names, parse_range, range_applies

ETAG = f'"{"ab" * 32}"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, Whole()),
        ("bytes=0-", Part(0, 1000)),
        ("bytes=0-0", Part(0, 1)),
        ("bytes=500-599", Part(500, 600)),
        ("bytes=999-", Part(999, 1000)),
        ("bytes=0-999", Part(0, 1000)),
        ("bytes=0-5000", Part(0, 1000)),
        (f"bytes=1-{'9' * 40}", Part(1, 1000)),
        ("bytes=-1", Part(999, 1000)),
        ("bytes=-5000", Part(0, 1000)),
        ("BYTES=5-6", Part(5, 7)),
        ("bytes= 5-6 ", Part(5, 7)),
        ("bytes=007-008", Part(7, 9)),
        ("bytes=1000-", Unsatisfiable()),
        ("bytes=1000-2000", Unsatisfiable()),
        (f"bytes={'9' * 40}-", Unsatisfiable()),
        ("bytes=-0", Unsatisfiable()),
        ("bytes=6-5", Whole()),
        ("bytes=0-1,5-6", Whole()),
        ("bytes=", Whole()),
        ("bytes=-", Whole()),
        ("bytes=a-b", Whole()),
        ("bytes=1-2x", Whole()),
        ("bytes=--1", Whole()),
        ("bytes=+1-2", Whole()),
        ("bytes=\u0661-", Whole()),
        ("bytes=1_0-", Whole()),
        (f"bytes={'1' * 6000}-", Whole()),
        ("lines=1-2", Whole()),
        ("bytes 1-2", Whole()),
    ],
)
def test_golden(header: str | None, expected: object) -> None:
    """Each form of a range of 1000 bytes, and what is no range."""
    assert parse_range(header, 1000) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [("bytes=0-", Unsatisfiable()), ("bytes=-1", Whole()), ("bytes=-0", Unsatisfiable())],
)
def test_of_nothing(header: str, expected: object) -> None:
    """Nothing has no first byte; the last bytes of it are all of it."""
    assert parse_range(header, 0) == expected


@given(st.binary(max_size=50), st.integers(0, 60), st.none() | st.integers(0, 60))
def test_first_and_last(content: bytes, first: int, last: int | None) -> None:
    """`first-last` and `first-` are the slice that they say."""
    found = parse_range(f"bytes={first}-{'' if last is None else last}", len(content))
    if last is not None and last < first:
        assert found == Whole()
    elif isinstance(found, Part):
        expected = content[first:] if last is None else content[first : last + 1]
        assert content[found.start : found.end] == expected
        assert expected
    else:
        assert found == Unsatisfiable()
        assert not content[first:]


@given(st.binary(min_size=1, max_size=50), st.integers(1, 60))
def test_suffix(content: bytes, suffix: int) -> None:
    """`-n` is the last n bytes."""
    found = parse_range(f"bytes=-{suffix}", len(content))
    assert isinstance(found, Part)
    assert content[found.start : found.end] == content[-suffix:]


@given(st.text() | st.from_regex(r"bytes=[0-9,\- ]*", fullmatch=True), st.integers(0, 2**63))
def test_garbage(header: str, size: int) -> None:
    """Any text is a range within the content or none; it is never an error."""
    found = parse_range(header, size)
    if isinstance(found, Part):
        assert 0 <= found.start < found.end <= size


def test_if_range() -> None:
    """Only our own strong tag lets a range be heeded; a date is none."""
    assert range_applies(None, ETAG)
    assert range_applies(ETAG, ETAG)
    assert range_applies(f" {ETAG} ", ETAG)
    for other in (f"W/{ETAG}", '"other"', "Wed, 21 Oct 2015 07:28:00 GMT", "", "*"):
        assert not range_applies(other, ETAG)


def test_lists_of_tags() -> None:
    """A list names a tag if it holds it or is a star; a weak one counts where that is allowed."""
    for header in (ETAG, "*", f'"a", {ETAG}', f"{ETAG},"):
        assert names(header, ETAG, weak=False)
    assert names(f"W/{ETAG}", ETAG, weak=True)
    assert not names(f"W/{ETAG}", ETAG, weak=False)
    for header in (None, "", '"other"', ETAG.strip('"')):
        assert not names(header, ETAG, weak=True)


@given(st.text())
def test_garbage_names_nothing(header: str) -> None:
    """No text that does not hold the tag or a star names it."""
    assert names(header, ETAG, weak=True) == (header.strip() == "*")
