# Law of this file: a bundle list is read by every client that clones, so nothing is written that a
# client would misread: plain http(s) URIs, plain ids, one spelling that works on each way.
# The format is described in git's bundle-uri design document and in gitprotocol-v2(5).

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from wire.git.pktline import FLUSH, encode

Mode: TypeAlias = Literal["all", "any"]

_VERSION: Final = "1"
_HEURISTIC: Final = "creationToken"
_ID: Final = re.compile(r"[A-Za-z0-9-]+")
# The characters of RFC 3986. Neither space, quote nor backslash is among them: what is left can be
# put between double quotes in a configuration file as it is.
_NOT_IN_URI: Final = re.compile(r"[^A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]")
_HTTP: Final = re.compile(r"https?://[^/?#]")
_TOKEN_MAX: Final = 2**64 - 1  # git reads it as 64 bits


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """One bundle of a list.

    Attributes:
        id: its name within the list: letters, digits and ``-``.
        uri: where it is: ``http:`` or ``https:``. It may be signed, so no message shows it.
        creation_token: a client downloads only bundles with a greater token than it has seen;
            at least 1. None for a list without this heuristic.

    Raises:
        ValueError: one of them cannot be written so that every git reads it.
    """

    id: str
    uri: str
    creation_token: int | None = None

    def __post_init__(self) -> None:
        if _ID.fullmatch(self.id) is None:
            raise ValueError(f"the bundle id {self.id!r} is not made of letters, digits and '-'")
        if bad := _NOT_IN_URI.search(self.uri):
            raise ValueError(
                f"the URI of bundle {self.id} has {bad[0]!r} at position {bad.start()};"
                " percent-encode what no URI may contain"
            )
        if _HTTP.match(self.uri) is None:
            raise ValueError(f"the URI of bundle {self.id} is not http://HOST or https://HOST")
        if self.creation_token is not None and not 1 <= self.creation_token <= _TOKEN_MAX:
            raise ValueError(
                f"the creation token {self.creation_token} of bundle {self.id} is not between"
                f" 1 and {_TOKEN_MAX}"
            )


@dataclass(frozen=True, slots=True)
class BundleList:
    """What a client that clones may download before it fetches.

    Attributes:
        entries: the bundles. An empty list is valid: there is nothing to download.
        mode: the client needs ``all`` of them, or ``any`` one; which one, it decides itself.

    Raises:
        ValueError: an id is used twice, or only some of the entries have a creation token.
    """

    entries: tuple[BundleEntry, ...] = ()
    mode: Mode = "all"

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.entries]
        if twice := {name for name in ids if ids.count(name) > 1}:
            raise ValueError(f"two bundles of one list have the id {min(twice)!r}")
        if len({entry.creation_token is None for entry in self.entries}) > 1:
            raise ValueError("either all bundles of a list have a creation token, or none has")

    def to_lines(self) -> bytes:
        """The answer to the command ``bundle-uri``: packets of ``key=value``, and a flush.

        Raises:
            ValueError: a URI does not fit into a packet.
        """
        lines = [f"bundle.{key}={value}" for key, value in self._head()]
        for entry in self.entries:
            lines.append(f"bundle.{entry.id}.uri={entry.uri}")
            if entry.creation_token is not None:
                # In lower case: stock git compares the key that came over the wire with the
                # lower-case form that its configuration reader makes. The documented spelling
                # `creationToken` is not recognised here; the token then counts as 0, and the
                # bundle is never downloaded.
                lines.append(f"bundle.{entry.id}.creationtoken={entry.creation_token}")
        return b"".join(encode(line.encode("ascii")) for line in lines) + FLUSH

    def to_config(self) -> bytes:
        """The list as a file for ``git clone --bundle-uri``, in git-config(1) syntax.

        Values are quoted because ``#`` and ``;`` would begin a comment.
        """
        lines = ["[bundle]", *(f"\t{key} = {value}" for key, value in self._head())]
        for entry in self.entries:
            lines += [f'[bundle "{entry.id}"]', f'\turi = "{entry.uri}"']
            if entry.creation_token is not None:
                lines.append(f"\tcreationToken = {entry.creation_token}")
        return "".join(f"{line}\n" for line in lines).encode("ascii")

    def _head(self) -> Iterator[tuple[str, str]]:
        """The keys that are said of the whole list."""
        yield "version", _VERSION
        yield "mode", self.mode
        if any(entry.creation_token is not None for entry in self.entries):
            yield "heuristic", _HEURISTIC
