# Law of this file: a bundle is a text header in front of a pack, and only the header is known here.
# What is written is the oldest version that can say it, so that the most clients can read it.
# The format is described in git's gitformat-bundle(5).

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wire.git.arguments import OID_LENGTHS, known_format, object_id
from wire.git.pktline import ProtocolError, shown

_SIGNATURES: Final = {b"# v2 git bundle": 2, b"# v3 git bundle": 3}
_LONGEST_SIGNATURE: Final = max(map(len, _SIGNATURES))
_NAME: Final = re.compile(rb"[^\0-\x20\x7f]+")  # git-check-ref-format(1): neither space nor control
_FILTER: Final = re.compile(r"[!-~]+")


class Incomplete(ProtocolError):  # noqa: N818 - a state of what was read, by the field's habit
    """The header is not all there yet; try again with more bytes."""


@dataclass(frozen=True, slots=True)
class BundleHeader:
    """What precedes the pack of a bundle.

    Attributes:
        version: 2 or 3.
        object_format: ``sha1`` or ``sha256``.
        filter: the filter specification that the pack was made with, or None if it is whole.
        prerequisites: commits, in hex, that a reader must have already.
        refs: pairs of object id in hex and ref name.
        size: length of the header in bytes; the pack begins there.
    """

    version: int
    object_format: str
    filter: str | None
    prerequisites: tuple[str, ...]
    refs: tuple[tuple[str, bytes], ...]
    size: int


def bundle_header(
    object_format: str,
    refs: Sequence[tuple[str, bytes]],
    prerequisites: Sequence[str] = (),
    filter: str | None = None,  # noqa: A002 - git's own word
) -> bytes:
    """The header of a bundle: version 2 where that is enough, else version 3.

    Args:
        object_format: ``sha1`` or ``sha256``.
        refs: pairs of object id in hex and ref name.
        prerequisites: commits, in hex, that the pack is made against.
        filter: the filter specification that the pack was made with.

    Raises:
        ValueError: the object format is unknown, or an object id, a ref name or the filter would
            make it another header.
    """
    if object_format not in OID_LENGTHS:
        raise ValueError(
            f"unknown object format {object_format!r}; known: {', '.join(OID_LENGTHS)}"
        )
    lines = [b"# v2 git bundle"]
    if object_format != "sha1" or filter is not None:
        lines = [b"# v3 git bundle", b"@object-format=" + object_format.encode("ascii")]
    if filter is not None:
        if _FILTER.fullmatch(filter) is None:
            raise ValueError(f"the filter {filter!r} is not printable ASCII without spaces")
        lines.append(b"@filter=" + filter.encode("ascii"))
    lines += [b"-%b " % _checked(oid, object_format) for oid in prerequisites]
    for oid, name in refs:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no ref name")
        lines.append(b"%b %b" % (_checked(oid, object_format), name))
    return b"".join(line + b"\n" for line in [*lines, b""])


def _checked(oid: str, object_format: str) -> bytes:
    try:
        return object_id(oid.encode(), object_format).encode("ascii")
    except ProtocolError as error:
        raise ValueError(str(error)) from None


def parse_header(data: bytes) -> BundleHeader:
    """Read the header at the beginning of ``data``; what follows is not looked at.

    Nothing bounds a header but its end: who reads from a stranger bounds what is passed here.

    Raises:
        Incomplete: so far it is right, but its end is not in ``data``.
        ProtocolError: this is no bundle of version 2 or 3, or one that needs what we do not know.
    """
    header = _Reading()
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        line = data[start:end]
        start = end + 1
        if header.version and not line:
            return header.whole(start)
        header.take(line)
    rest = data[start:]
    if not header.version and not any(known.startswith(rest) for known in _SIGNATURES):
        raise _no_bundle(rest)
    raise Incomplete(f"the bundle's header goes on after its first {len(data)} bytes")


class _Reading:
    """What the lines of a header said so far."""

    def __init__(self) -> None:
        self.version = 0
        self.object_format = "sha1"
        self.filter: str | None = None
        self.prerequisites: list[str] = []
        self.refs: list[tuple[str, bytes]] = []

    def take(self, line: bytes) -> None:
        """Read one line; the order is signature, capabilities, prerequisites, refs."""
        if not self.version:
            if line not in _SIGNATURES:
                raise _no_bundle(line)
            self.version = _SIGNATURES[line]
        elif line.startswith(b"@") and self.version == 3:
            if self.prerequisites or self.refs:
                raise ProtocolError(f"the capability '{shown(line)}' comes after the first object")
            self._take_capability(line)
        elif line.startswith(b"-"):
            oid, _, _comment = line[1:].partition(b" ")
            self.prerequisites.append(object_id(oid, self.object_format))
        else:
            oid, _, name = line.partition(b" ")
            tip = object_id(oid, self.object_format)
            if _NAME.fullmatch(name) is None:
                raise ProtocolError(f"'{shown(line)}' has no ref name")
            self.refs.append((tip, name))

    def _take_capability(self, line: bytes) -> None:
        key, _, value = line[1:].partition(b"=")
        if key == b"object-format":
            self.object_format = known_format(value)
        elif key == b"filter":
            spec = value.decode("utf-8", "replace")
            if _FILTER.fullmatch(spec) is None:
                raise ProtocolError(f"'{shown(line)}' is no filter")
            self.filter = spec
        else:
            # The specification asks to give up: the pack may not mean what we think.
            raise ProtocolError(f"unknown capability '{shown(line)}' of a bundle")

    def whole(self, size: int) -> BundleHeader:
        """The header, whose end was found at ``size``."""
        return BundleHeader(
            self.version,
            self.object_format,
            self.filter,
            tuple(self.prerequisites),
            tuple(self.refs),
            size,
        )


def _no_bundle(line: bytes) -> ProtocolError:
    return ProtocolError(f"'{shown(line[:_LONGEST_SIGNATURE])}' does not begin a v2 or v3 bundle")
