# Law of this file: what is read of a text is what Mercurial wrote, and no other bytes are a text.

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.hg.texts import (
    NULL,
    ChangesetText,
    Entry,
    TextError,
    entries,
    find,
    manifest_node,
    node_of,
    parse_changeset,
    unhex,
)

MANIFEST = "1ef7b2d5ef2c4e8a2ec9d2f2b3a3f8b3ea0f9f7a"
NODE = bytes.fromhex(MANIFEST)


def test_nodes() -> None:
    """A node is the hash of both parents, in order, and the text: as Mercurial computes it."""
    # The first revision of a file with the text "a\n", in any Mercurial repository.
    assert node_of(b"a\n", NULL, NULL).hex() == "b789fdd96dc2f3bd229c1dd8eedf0fc60e2b68e3"
    one, other = b"\1" * 20, b"\2" * 20
    assert node_of(b"x", one, other) == node_of(b"x", other, one) != node_of(b"x", one, NULL)


def test_a_changeset() -> None:
    """The manifest and the files are read, whatever the description looks like."""
    text = f"{MANIFEST}\nA U Thor\n0 0 branch:b\na b\nc/d\n\nsubject\n\nbody\n".encode()
    assert parse_changeset(text) == ChangesetText(NODE, (b"a b", b"c/d"))
    assert manifest_node(text) == NODE
    nothing = f"{'0' * 40}\nA U Thor\n0 0\n\nsubject".encode()
    assert parse_changeset(nothing) == ChangesetText(NULL, ())


@pytest.mark.parametrize(
    "text",
    [b"", b"\n\n", b"abc\nd\ne\n\n", b"f" * 40, b"f" * 40 + b"\nuser\n\nx", b"f" * 38 + b"\n"],
)
def test_no_changeset(text: bytes) -> None:
    """What lacks its lines is no changeset."""
    with pytest.raises(TextError):
        parse_changeset(text)


@given(st.binary(max_size=120))
def test_any_text(text: bytes) -> None:
    """Whatever the bytes are, they are read or refused by that error."""
    for read in (parse_changeset, manifest_node, lambda text: list(entries(text)), unhex):
        with suppress(TextError):
            read(text)
    with suppress(TextError):
        find(text, b"a")


PATHS = st.lists(
    st.binary(min_size=1, max_size=6).filter(lambda path: not {0, 10} & set(path)), unique=True
)


@given(PATHS, st.binary(min_size=1, max_size=6).filter(lambda path: not {0, 10} & set(path)))
def test_a_manifest(paths: list[bytes], other: bytes) -> None:
    """Every file of a manifest is listed and found, and no other one is."""
    made = [
        Entry(path, bytes((number,)) * 20, (b"", b"x", b"l")[number % 3])
        for number, path in enumerate(sorted(paths))
    ]
    text = b"".join(e.path + b"\0" + e.node.hex().encode() + e.flag + b"\n" for e in made)
    assert list(entries(text)) == made
    for entry in made:
        assert find(text, entry.path) == entry.node
    assert (find(text, other) is None) == (other not in paths)


@pytest.mark.parametrize("text", [b"a\0" + b"f" * 40, b"\n", b"\0" + b"f" * 40 + b"\n", b"a\0f\n"])
def test_no_manifest(text: bytes) -> None:
    """Lines without a path, a node or an end are no manifest."""
    with pytest.raises(TextError):
        list(entries(text))
