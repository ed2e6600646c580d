# Law of this file: small answers of protocol version 1, byte for byte as hgweb writes them. Names
# are as they are on the wire, in UTF-8; whoever gives them has them from there.

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote


def encode_heads(heads: Iterable[bytes]) -> bytes:
    """The answer to ``heads``: nodes in hex, in the order in which they are given."""
    return _hex(heads) + b"\n"


def encode_known(known: Iterable[bool]) -> bytes:
    """The answer to ``known``: a digit for each node that was asked about."""
    return b"".join(b"1" if each else b"0" for each in known)


def encode_found(node: bytes) -> bytes:
    """The answer to a ``lookup`` that found a changeset."""
    return b"1 %b\n" % node.hex().encode()


def encode_not_found(message: bytes) -> bytes:
    """The answer to a ``lookup`` that found none; clients show the message after `abort: `."""
    return b"0 %b\n" % message


def encode_branchmap(branches: Mapping[bytes, Iterable[bytes]]) -> bytes:
    """The answer to ``branchmap``: a line for each branch; nothing ends the last one.

    Mercurial's order is that of its cache: of the names, once it was written.

    Args:
        branches: name -> heads, closed ones too, oldest first.
    """
    return b"\n".join(
        b"%b %b" % (quote(name).encode(), _hex(heads)) for name, heads in sorted(branches.items())
    )


def encode_listkeys(keys: Mapping[bytes, bytes]) -> bytes:
    """The answer to ``listkeys``, and the payload of a bundle's part ``listkeys``.

    Lines sorted by key, and nothing ends the last one. In a bundle Mercurial does not sort them.
    """
    return b"\n".join(b"%b\t%b" % pair for pair in sorted(keys.items()))


def _hex(nodes: Iterable[bytes]) -> bytes:
    return b" ".join(node.hex().encode() for node in nodes)
