# Law of this file: what a Mercurial server streams is checked as it passes, compressed once, and
# recorded only if it was whole and nothing changed meanwhile. This is the thread of the run.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cache.errors import RunFailed
from cache.sink import Outcome, Sink
from repos.hg.peer import Peer, PeerFailed, PeerRefused
from wire.hg.bundle2 import BundleError, BundleReader, Part
from wire.hg.v1.media import Framing, compressor

# A program that was ended, or hung, in the beginning of an answer is asked once more.
_TRIES: Final = 2

# Bytes that are kept back in the beginning: an error in them can still be told as one.
_HELD: Final = 64 << 10

_ERRORS: Final = b"error:"

OpenPeer = Callable[[], Peer]
"""Whom to ask; blocks, and may start a program. Raises PeerFailed."""


class Superseded(Exception):  # noqa: N818 - what happened
    """The answer is whole, but the repository changed while it was made: it is not kept."""


@dataclass(slots=True)
class _Check:
    """Looks at a bundle as it passes; what is wrong with it is told at its end.

    Whoever follows the run has all bytes by then, and with them what the server says of its error.
    """

    _reader: BundleReader = field(default_factory=BundleReader)
    _wrong: Exception | None = None

    def take(self, piece: bytes) -> None:
        if self._wrong is not None:
            return
        try:
            for event in self._reader.feed(piece):
                if isinstance(event, Part) and event.type.startswith(_ERRORS):
                    self._wrong = _meant(event)
        except BundleError as error:
            self._wrong = RunFailed(f"not recorded: {error}")

    def end(self) -> None:
        if self._wrong is None:
            try:
                self._reader.end()
            except BundleError as error:
                self._wrong = RunFailed(f"not recorded: {error}")
        if self._wrong is not None:
            raise self._wrong


def _meant(part: Part) -> Exception:
    """What a part says that stands for an error."""
    message = part.params.get(b"message")
    if message is None:
        return RunFailed(f"not recorded: the bundle says {part.type!r}: {dict(part.params)!r}")
    words = b"\n".join(word for word in (message, part.params.get(b"hint")) if word)
    return PeerRefused(words.decode("utf-8", "replace"))


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
            said = _Said(sink, self.framing)
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
                if check is not None:
                    check.take(piece)
                said.write(engine.compress(piece))
        if check is not None and not said.begun:
            check.end()
        said.write(engine.flush())
        said.end()
        if check is not None:
            check.end()


@dataclass(slots=True)
class _Said:
    """What the run has said so far; nothing, as long as it is little."""

    sink: Sink
    framing: Framing
    begun: bool = False
    _held: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        """Say more."""
        if self.begun:
            if data:
                self.sink.write(data)
            return
        self._held += data
        if len(self._held) > _HELD:
            self.end()

    def end(self) -> None:
        """Say what is held."""
        if not self.begun:
            self.begun = True
            self.sink.head(self.framing.media_type.encode("ascii"))
            self.sink.write(self.framing.prefix + self._held)
            self._held.clear()
