# Law of this file: each small answer is the bytes that the protocol's clients split up again.

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from wire.hg.v1.answers import (
    encode_branchmap,
    encode_found,
    encode_heads,
    encode_known,
    encode_listkeys,
    encode_not_found,
)

ONE, TWO = b"\1" * 20, b"\2" * 20
NODES = st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=4)


def test_heads() -> None:
    """Heads stay in their order; a line's end follows the last."""
    assert encode_heads([TWO, ONE]) == b"02" * 20 + b" " + b"01" * 20 + b"\n"


def test_known() -> None:
    """There is a digit for each node, and nothing else."""
    assert encode_known([True, False, True]) == b"101"
    assert encode_known([]) == b""


def test_lookup() -> None:
    """A node follows a 1, a message a 0."""
    assert encode_found(ONE) == b"1 " + b"01" * 20 + b"\n"
    assert encode_not_found(b"unknown revision 'x'") == b"0 unknown revision 'x'\n"


def test_keys() -> None:
    """Keys are sorted, and no line's end follows the last."""
    assert encode_listkeys({b"b": b"1", b"a c": b""}) == b"a c\t\nb\t1"
    assert encode_listkeys({}) == b""


@given(st.dictionaries(st.binary(min_size=1, max_size=20), NODES, max_size=5))
def test_branchmap(branches: dict[bytes, list[bytes]]) -> None:
    """Any name is one word of its line, and is read again as it was; heads keep their order."""
    found = {}
    for line in encode_branchmap(branches).splitlines():
        name, *heads = line.split(b" ")
        found[unquote_to_bytes(name)] = [bytes.fromhex(head.decode()) for head in heads]
    assert found == branches
    assert list(found) == sorted(branches)
