# Law of this file: the list of clone bundles, byte by byte as stock clients take it apart: a line
# per bundle, a space between fields, the URL first, then key=value, both percent-encoded.

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

INLINE_SCHEME: Final = "peer-bundle-cache://"
"""Begins the URL of a bundle that is asked for by the command ``get_cached_bundle_inline``."""

# Clients cut a field at its first equals sign; these read better as they are.
_SAFE: Final = "/:;,=@"


@dataclass(frozen=True, slots=True)
class Entry:
    """A bundle that clients may begin with.

    Attributes:
        url: of the file.
        attributes: such as ``BUNDLESPEC``, in the order in which they are written. Clients leave
            aside a bundle whose ``BUNDLESPEC`` they do not know, and ignore keys that they do not.
    """

    url: str
    attributes: tuple[tuple[str, str], ...] = ()


def encode_manifest(entries: Iterable[Entry]) -> bytes:
    """The answer to ``clonebundles_manifest``; clients without preferences take the first entry.

    Raises:
        ValueError: a URL is empty or has other letters than printable ASCII, or a key is empty.
    """
    return b"".join(map(_line, entries))


def inline_length(size: int) -> bytes:
    """What stands before the bytes of a bundle in the answer to ``get_cached_bundle_inline``.

    Its size in groups of seven bits, the lowest first; each but the last has the top bit set.
    """
    groups = bytearray()
    while size >= 0x80:
        groups.append(size & 0x7F | 0x80)
        size >>= 7
    groups.append(size)
    return bytes(groups)


def _line(entry: Entry) -> bytes:
    if not entry.url or not all("!" <= letter <= "~" for letter in entry.url):
        raise ValueError(f"{entry.url!r} is no URL: printable ASCII without blanks is expected")
    fields = [entry.url]
    for key, value in entry.attributes:
        if not key:
            raise ValueError(f"an attribute without a key, of the value {value!r}")
        fields.append(f"{quote(key, safe='')}={quote(value, safe=_SAFE)}")
    return " ".join(fields).encode("ascii") + b"\n"
