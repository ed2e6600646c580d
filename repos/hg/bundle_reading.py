# Law of this file: of the bundles that hg makes for clones, it is read which changesets they have;
# one that has anything else in it, or is not whole, is refused.

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from repos.hg.state import nodes_of
from wire.hg.bundle2 import BundleError, BundleReader, Part, PartData
from wire.hg.changegroup import ChangegroupError, ChangegroupReader, LogEnd, RevisionDelta
from wire.hg.stream2 import STORE, FileBegin, FileData, StreamError, StreamReader

_CHANGELOG: Final = b"00changelog.i"

# Parts that a bundle of changesets consists of: nothing else shall leave by it.
_PARTS: Final = frozenset((b"changegroup", b"hgtagsfnodes", b"cache:rev-branch-cache"))


class BadBundle(Exception):  # noqa: N818 - what it is
    """What hg made is not what it was asked for; the message says how."""


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (BundleError, ChangegroupError, StreamError) as error:
        raise BadBundle(f"hg gave what cannot be read: {error}") from error


class Changesets:
    """Collects the nodes of a bundle's changesets; what comes after them only has to be whole."""

    def __init__(self) -> None:
        self.nodes = bytearray()
        self._bundle = BundleReader()
        self._changegroup: ChangegroupReader | None = None
        self._reading = False
        self._complete = False

    def take(self, piece: bytes) -> None:
        """More of the bundle. Raises BadBundle if it is none."""
        with _understood():
            for event in self._bundle.feed(piece):
                if isinstance(event, Part):
                    self._begin(event)
                elif isinstance(event, PartData) and self._reading:
                    self._changesets(event.data)

    def end(self) -> None:
        """That was all. Raises BadBundle if it was not whole."""
        with _understood():
            self._bundle.end()
        if not self._complete:
            raise BadBundle("hg gave a bundle without changesets")

    def _begin(self, part: Part) -> None:
        if part.type not in _PARTS:
            raise BadBundle(f"hg gave a bundle with a part {part.type!r}")
        self._reading = part.type == b"changegroup"
        if not self._reading:
            return
        version = part.params.get(b"version", b"01")
        if version != b"02" or self._changegroup is not None:
            raise BadBundle(f"hg gave a second changegroup, or one of version {version!r}")
        self._changegroup = ChangegroupReader()

    def _changesets(self, data: bytes) -> None:
        assert self._changegroup is not None  # noqa: S101 - its part has begun
        for event in self._changegroup.feed(data):
            if isinstance(event, RevisionDelta):
                self.nodes += event.node
            elif isinstance(event, LogEnd):
                self._complete = True
                self._reading = False
                break


class StoreFiles:
    """Collects the changelog of a stream bundle."""

    def __init__(self) -> None:
        self.requirements = ""
        self.fingerprint: str | None = None
        self._bundle = BundleReader()
        self._stream: StreamReader | None = None
        self._promised = (0, 0)
        self._inside = False
        self._changelog = bytearray()

    def take(self, piece: bytes) -> None:
        """More of the bundle. Raises BadBundle if it is none."""
        with _understood():
            for event in self._bundle.feed(piece):
                if isinstance(event, Part):
                    self._begin(event)
                elif isinstance(event, PartData) and self._stream is not None:
                    self._files(self._stream, event.data)

    def end(self) -> bytes:
        """That was all; the nodes of its changesets. Raises BadBundle if it was not whole."""
        with _understood():
            self._bundle.end()
            if self._stream is None:
                raise BundleError("it has no part of type stream2")
            self._stream.end(*self._promised)
        nodes = nodes_of(io.BytesIO(self._changelog), len(self._changelog))
        if nodes is None:
            raise BadBundle("hg gave a changelog that is not of version 1")
        return b"".join(nodes)

    def _begin(self, part: Part) -> None:
        if part.type != b"stream2" or self._stream is not None:
            raise BadBundle(f"hg gave a stream bundle with a part {part.type!r}")
        params = part.params
        try:
            self._promised = int(params[b"filecount"]), int(params[b"bytecount"])
            self.requirements = params[b"requirements"].decode("ascii")
        except (KeyError, ValueError) as error:
            raise BadBundle(f"hg gave a stream that does not say what it is: {error}") from error
        fingerprint = params.get(b"store-fingerprint")
        self.fingerprint = None if fingerprint is None else fingerprint.decode("ascii", "replace")
        self._stream = StreamReader()

    def _files(self, stream: StreamReader, data: bytes) -> None:
        for event in stream.feed(data):
            if isinstance(event, FileBegin):
                if event.place == STORE and event.name == b"obsstore":
                    raise BadBundle("hg gave a stream with markers of what is obsolete")
                self._inside = event.place == STORE and event.name == _CHANGELOG
            elif isinstance(event, FileData) and self._inside:
                self._changelog += event.data
