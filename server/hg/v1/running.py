# Law of this file: what a Mercurial server streams is checked as it passes, compressed once, and
# recorded only if it was whole and nothing changed meanwhile. This is the thread of the run.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cache.errors import RunFailed
from cache.sink import Outcome, Sink
from repos.hg.peer import Peer, PeerFailed
from wire.hg.bundle2 import BundleError, BundleReader, Part
from wire.hg.v1.media import Framing, compressor

# A program that was ended, or hung, in the beginning of an answer is asked once more.
_TRIES: Final = 2

_ERRORS: Final = b"error:"

OpenPeer = Callable[[], Peer]
"""Whom to ask; blocks, and may start a program. Raises PeerFailed."""


class Superseded(Exception):  # noqa: N818 - what happened
    """The answer is whole, but the repository changed while it was made: it is not kept."""


@dataclass(slots=True)
class _Check:
    """Looks at a bundle as it passes; what is wrong with it is told at its end.

    Whoever follows the run gets all bytes first, and with them what the server says of its error.
    """

    _reader: BundleReader = field(default_factory=BundleReader)
    _wrong: str = ""

    def take(self, piece: bytes) -> None:
        if self._wrong:
            return
        try:
            for event in self._reader.feed(piece):
                if isinstance(event, Part) and event.type.startswith(_ERRORS):
                    self._wrong = f"the bundle says {event.type!r}: {dict(event.params)!r}"
        except BundleError as error:
            self._wrong = str(error)

    def end(self) -> None:
        if not self._wrong:
            try:
                self._reader.end()
            except BundleError as error:
                self._wrong = str(error)
        if self._wrong:
            raise RunFailed(f"not recorded: {self._wrong}")


@dataclass(frozen=True, slots=True)
class Streaming:
    """Asks a Mercurial server for a stream, and writes it down as clients get it.

    Attributes:
        peer: whom to ask.
        command: what: ``getbundle``.
        arguments: as they are sent.
        framing: how clients get it.
        bundle2: it is a bundle of version 2, which says itself whether it is whole.
        unchanged: says at the end whether what the key names is still so; blocks.
        suspect: told that the server did not answer as it should.
    """

    peer: OpenPeer
    command: str
    arguments: Mapping[bytes, bytes]
    framing: Framing
    bundle2: bool
    unchanged: Callable[[], bool]
    suspect: Callable[[], None]

    def __call__(self, sink: Sink) -> Outcome:
        """Run; blocks.

        Raises:
            PeerRefused: the server says no, to the client.
            PeerFailed: it does not answer.
            RunFailed: it answered, and said in mid-answer that it failed.
            Superseded: see there.
        """
        for tried in range(1, _TRIES + 1):
            said = _Said(sink)
            try:
                self._stream(said)
                break
            except PeerFailed:
                self.suspect()
                if said.begun or tried == _TRIES:
                    raise
        if not self.unchanged():
            raise Superseded("the repository changed while it was answered from")
        return Outcome(self.framing.media_type, "", has_entity=True)

    def _stream(self, said: _Said) -> None:
        engine = compressor(self.framing.engine)
        check = _Check() if self.bundle2 else None
        with self.peer().stream(self.command, self.arguments) as pieces:
            for piece in pieces:
                if not said.begun:
                    said.begin(self.framing)
                if check is not None:
                    check.take(piece)
                said.write(engine.compress(piece))
        if not said.begun:
            said.begin(self.framing)
        said.write(engine.flush())
        if check is not None:
            check.end()


@dataclass(slots=True)
class _Said:
    """What the run has said so far."""

    sink: Sink
    begun: bool = False

    def begin(self, framing: Framing) -> None:
        """Say what kind of answer it is."""
        self.begun = True
        self.sink.head(framing.media_type.encode("ascii"))
        self.write(framing.prefix)

    def write(self, data: bytes) -> None:
        """Say more of it."""
        if data:
            self.sink.write(data)
