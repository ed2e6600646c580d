# Law of this file: bundles as Mercurial writes them, made here byte by byte: of any length, without
# Mercurial, and wrong wherever a test wants them to be.

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from wire.hg.bundle2 import BundleReader, Part, PartData
from wire.hg.bundle2_writer import bundle
from wire.hg.delta import whole
from wire.hg.texts import NULL, node_of


def chunk(data: bytes) -> bytes:
    """A chunk of a changegroup; nothing ends a group."""
    return struct.pack(">I", len(data) + 4) + data if data else bytes(4)


@dataclass(frozen=True, slots=True)
class Made:
    """A revision that a bundle carries."""

    node: bytes
    p1: bytes
    p2: bytes
    base: bytes
    link: bytes
    delta: bytes

    def encode(self) -> bytes:
        """Its chunk."""
        return chunk(self.node + self.p1 + self.p2 + self.base + self.link + self.delta)


def revision(text: bytes, link: bytes, p1: bytes = NULL, p2: bytes = NULL) -> Made:
    """A revision that stands alone."""
    return Made(node_of(text, p1, p2), p1, p2, NULL, link, whole(text))


def changegroup(
    changesets: Iterable[Made],
    manifests: Iterable[Made],
    files: Iterable[tuple[bytes, Sequence[Made]]],
) -> Iterator[bytes]:
    """A changegroup of version 02, in pieces."""
    for group in (changesets, manifests):
        yield from (each.encode() for each in group)
        yield chunk(b"")
    for path, revisions in files:
        yield chunk(path)
        yield from (each.encode() for each in revisions)
        yield chunk(b"")
    yield chunk(b"")


def bundle_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A bundle of one changegroup."""
    return bundle([(Part(b"changegroup", True, {b"version": b"02"}), pieces)])


def parts_of(data: bytes) -> list[tuple[Part, bytes]]:
    """The parts of a whole bundle, with their payloads."""
    reader = BundleReader()
    found: list[tuple[Part, bytes]] = []
    for event in reader.feed(data):
        if isinstance(event, Part):
            found.append((event, b""))
        elif isinstance(event, PartData):
            found[-1] = found[-1][0], found[-1][1] + event.data
    reader.end()
    return found


@dataclass(slots=True)
class History:
    """A row of changesets that each edit some of the files, for repositories of any size.

    Attributes:
        changesets: how many.
        files: how many there are, all from the first changeset on.
        edits: how many each changeset edits.
    """

    changesets: int
    files: int = 100
    edits: int = 3
    _changesets: list[Made] = field(default_factory=list)
    _manifests: list[Made] = field(default_factory=list)
    _logs: dict[int, list[Made]] = field(default_factory=dict)

    def pieces(self) -> Iterator[bytes]:
        """The bundle, in pieces; the same for the same figures."""
        self._make(random.Random(0))
        files = sorted((self._path(number), log) for number, log in self._logs.items())
        return bundle_of(changegroup(self._changesets, self._manifests, files))

    @staticmethod
    def _path(number: int) -> bytes:
        return b"directory%02d/sub%d/file%05d.txt" % (number % 40, number % 7, number)

    def _line(self, number: int, node: bytes) -> bytes:
        return self._path(number) + b"\0" + node.hex().encode() + b"\n"

    def _make(self, rng: random.Random) -> None:
        order = sorted(range(self.files), key=self._path)
        places: dict[int, tuple[int, int]] = {}
        manifest = bytearray()
        texts: dict[int, bytes] = {}
        nodes: dict[int, bytes] = {}
        for number in order:
            texts[number] = b"".join(b"line %d of %d\n" % (n, number) for n in range(12))
            nodes[number] = node_of(texts[number], NULL, NULL)
            start = len(manifest)
            manifest += self._line(number, nodes[number])
            places[number] = start, len(manifest)
        before = changeset = NULL
        for rev in range(self.changesets):
            edited = (
                order
                if rev == 0
                else sorted(
                    rng.sample(range(self.files), min(self.edits, self.files)), key=self._path
                )
            )
            delta = b""
            new: list[tuple[int, bytes, bytes, bytes]] = []
            for number in edited:
                parent, text = (NULL, texts[number]) if rev == 0 else (nodes[number], b"")
                patch = whole(text)
                if rev:
                    line = b"edit %d of %d\n" % (rev, number)
                    old = texts[number]
                    at = old.index(b"\n") + 1
                    cut = len(old) if len(old) > 4000 else at
                    text = old[:at] + line + old[cut if cut == at else at + 400 :]
                    end = at if cut == at else at + 400
                    patch = struct.pack(">III", at, end, len(line)) + line
                    nodes[number] = node_of(text, parent, NULL)
                    texts[number] = text
                    start, stop = places[number]
                    line = self._line(number, nodes[number])
                    manifest[start:stop] = line
                    # Mercurial reads its manifests' deltas by whole lines.
                    delta += struct.pack(">III", start, stop, len(line)) + line
                new.append((number, nodes[number], parent, patch))
            full = bytes(manifest)
            node = node_of(full, before, NULL)
            paths = b"".join(self._path(number) + b"\n" for number in edited)
            said = b"%s\nA U Thor <a@example.org>\n%d 0\n%s\nchangeset %d" % (
                node.hex().encode(),
                1_700_000_000 + rev,
                paths,
                rev,
            )
            made = Made(node_of(said, changeset, NULL), changeset, NULL, NULL, NULL, whole(said))
            made = Made(made.node, made.p1, made.p2, NULL, made.node, made.delta)
            self._changesets.append(made)
            self._manifests.append(
                Made(node, before, NULL, before, made.node, delta if rev else whole(full))
            )
            for number, file_node, parent, patch in new:
                self._logs.setdefault(number, []).append(
                    Made(file_node, parent, NULL, parent, made.node, patch)
                )
            before, changeset = node, made.node
