# Law of this file: a text of Mercurial is what its node says, and only what a server must know of
# it is read: a changeset's manifest and files, a manifest's entries.
#
# Formats: a node is the SHA-1 of both parents' nodes (the smaller first) and the text. A changeset
# is lines: the manifest's node in hex, the user, `time zone[ extras]`, the files, an empty line,
# the description. A manifest is sorted lines `path NUL 40 hex digits [flag] LF`.

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

NULL: Final = bytes(20)
"""The node of what does not exist: the parent of a first revision, the manifest of no files."""

_HEX: Final = 40


class TextError(ValueError):
    """These bytes are no such text."""


def node_of(text: bytes, p1: bytes, p2: bytes) -> bytes:
    """The node of a revision with this full text and these parents."""
    first, second = (p1, p2) if p1 < p2 else (p2, p1)
    return hashlib.sha1(first + second + text, usedforsecurity=False).digest()


def unhex(digits: bytes) -> bytes:
    """A node of its 40 hexadecimal digits.

    Raises:
        TextError: it is something else.
    """
    try:
        node = binascii.unhexlify(digits)
    except binascii.Error as error:
        raise TextError(f"{digits[:60]!r} is no node in hex: {error}") from None
    if len(node) != len(NULL):
        raise TextError(f"{digits[:60]!r} has {len(digits)} digits; a node has {_HEX}")
    return node


@dataclass(frozen=True, slots=True)
class ChangesetText:
    """What a changeset says of its content.

    Attributes:
        manifest: the node of its manifest; NULL if it has no files.
        files: the paths that it touches, removed ones as well.
    """

    manifest: bytes
    files: tuple[bytes, ...]


def parse_changeset(text: bytes) -> ChangesetText:
    """Read a changeset's text; user, date and description are not looked at.

    Raises:
        TextError: it is no changeset.
    """
    head, separator, _description = text.partition(b"\n\n")
    if not separator:
        # A changeset without files: its empty line follows the date's line at once.
        raise TextError("the changeset has no empty line before its description")
    lines = head.split(b"\n")
    if len(lines) < 3:
        raise TextError(f"the changeset has {len(lines)} lines of 3 before its description")
    return ChangesetText(unhex(lines[0]), tuple(lines[3:]))


def manifest_node(text: bytes) -> bytes:
    """The node of a changeset's manifest.

    Raises:
        TextError: it is no changeset.
    """
    return unhex(text[: max(text.find(b"\n"), 0)])


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a manifest.

    Attributes:
        path: where it is, from the root, with slashes.
        node: the file's revision.
        flag: empty, ``x`` (executable), ``l`` (symbolic link) or ``t`` (another manifest).
    """

    path: bytes
    node: bytes
    flag: bytes


def entries(text: bytes) -> Iterator[Entry]:
    """The files of a manifest, in its order.

    Raises:
        TextError: it is no manifest.
    """
    if not text:
        return
    if not text.endswith(b"\n"):
        raise TextError("the manifest's last line has no end")
    for line in text[:-1].split(b"\n"):
        yield _entry(line)


def _entry(line: bytes) -> Entry:
    path, separator, rest = line.partition(b"\0")
    if not separator or not path:
        raise TextError(f"{line[:80]!r} is no entry of a manifest")
    return Entry(path, unhex(rest[:_HEX]), rest[_HEX:])


def find(text: bytes, path: bytes) -> bytes | None:
    """The node of one file in a manifest, or None; by halving, since the lines are sorted.

    Raises:
        TextError: what is found there is no entry of a manifest.
    """
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        start = text.rfind(b"\n", low, middle) + 1 or low
        end = text.find(b"\n", middle, high)
        end = high if end < 0 else end
        nul = text.find(b"\0", start, end)
        if nul < 0:
            raise TextError(f"{text[start : start + 80]!r} is no entry of a manifest")
        name = text[start:nul]
        if name == path:
            return unhex(text[nul + 1 : nul + 1 + _HEX])
        if name < path:
            low = end + 1
        else:
            high = start
    return None
