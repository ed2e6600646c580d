# Law of this file: a changegroup is read the same in any chunking, and what is none is refused.

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repos.hg_bundles import Made, changegroup, chunk
from wire.hg.changegroup import (
    MAX_PATH,
    MAX_REVISION,
    ChangegroupError,
    ChangegroupReader,
    Event,
    Log,
    LogBegin,
    LogEnd,
    RevisionDelta,
)

NODES = st.binary(min_size=20, max_size=20)
REVISIONS = st.lists(
    st.builds(Made, NODES, NODES, NODES, NODES, NODES, st.binary(max_size=30)), max_size=3
)
FILES = st.lists(st.tuples(st.binary(min_size=1, max_size=9), REVISIONS), max_size=3)


def read(pieces: Iterable[bytes]) -> list[Event]:
    """The events of a changegroup."""
    reader = ChangegroupReader()
    found = [event for piece in pieces for event in reader.feed(piece)]
    reader.end()
    return found


def expected(log: Log, path: bytes, revisions: list[Made]) -> list[Event]:
    """The events of one log."""
    middle = [RevisionDelta(r.node, r.p1, r.p2, r.base, r.link, r.delta) for r in revisions]
    return [LogBegin(log, path), *middle, LogEnd()]


@given(REVISIONS, REVISIONS, FILES, st.integers(1, 50))
def test_what_was_written_is_read(
    changesets: list[Made], manifests: list[Made], files: list[tuple[bytes, list[Made]]], size: int
) -> None:
    """Logs and revisions come as they were written, whatever pieces they come in."""
    whole = b"".join(changegroup(changesets, manifests, files))
    events = expected(Log.CHANGELOG, b"", changesets) + expected(Log.MANIFEST, b"", manifests)
    for path, revisions in files:
        events += expected(Log.FILE, path, revisions)
    assert read([whole]) == events
    assert read(whole[at : at + size] for at in range(0, len(whole), size)) == events


def test_a_changegroup_that_is_cut_off() -> None:
    """No beginning of a changegroup is one."""
    made = Made(*(bytes((n,)) * 20 for n in range(5)), b"delta")
    whole = b"".join(changegroup([made], [made], [(b"a", [made])]))
    for end in range(len(whole)):
        with pytest.raises(ChangegroupError, match="cut off"):
            read([whole[:end]])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (struct.pack(">I", 4), "of 4 bytes"),
        (struct.pack(">I", 1), "of 1 bytes"),
        (struct.pack(">I", MAX_REVISION + 1), f"of {MAX_REVISION} at most"),
        (chunk(b"x" * 99), "of 99 bytes is cut off"),
        (bytes(8) + struct.pack(">I", MAX_PATH + 1), f"of {MAX_PATH} at most"),
        (bytes(13), "1 bytes follow"),
    ],
)
def test_what_is_no_changegroup(data: bytes, said: str) -> None:
    """Lengths that lie and bytes behind the end are refused as soon as they are seen."""
    with pytest.raises(ChangegroupError, match=said):
        read([data])


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes are, they are read or refused by that error."""
    with suppress(ChangegroupError):
        read([data])
