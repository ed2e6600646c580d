# Law of this file: the Mercurial repositories that are measured are the same at every run, of a
# realistic shape, and written as a bundle that hg itself checks and stores. No changeset removes or
# renames a file: the server of Mercurial 5.9.3 cannot tell such ones by protocol v2.
#
# A bundle (HG10UN) is "HG10UN" and a changegroup of version 01: chunks with a big-endian length
# that counts itself; an empty one ends a group. First the changesets, then the manifests, then for
# each file its name and its revisions. A revision is its node, both parents, the changeset that
# brought it, and its delta against the revision before it in the group.

from __future__ import annotations

import hashlib
import math
import random
import struct
import subprocess
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CHANGESETS: Final = 20_000
CHANGESETS_QUICK: Final = 300

_NULL: Final = bytes(20)
_SEED: Final = 20_050_419  # the day of Mercurial's first changeset
_EPOCH: Final = 1_500_000_000
_FIRST_FILES: Final = 600
_DIRECTORIES: Final = 240
_NEW: Final = 0.05
_SIDE_BRANCHES: Final = 0.05

# Sizes of files, in lines of some 40 bytes: log-normal, as those of benchmarks/repository.py.
_MEDIAN_LINES: Final = 45
_SPREAD: Final = 1.8
_MOST_LINES: Final = 20_000

# Lines that large files are made of: more than a window of zstd sees, so that it has to work.
_LINES: Final = 100_000
_LARGE_FILE: Final = 2 << 20

_PATCH: Final = """\
diff --git a/offramp-news b/offramp-news
new file mode 100644
--- /dev/null
+++ b/offramp-news
@@ -0,0 +1,1 @@
+news
"""

Hunk = tuple[int, int, bytes]
"""Bytes from one offset of the base to another are replaced by these."""


class HgFailed(Exception):  # noqa: N818 - what happened
    """hg did not do what it was told; the message is what it said."""


@dataclass(frozen=True, slots=True)
class HgShape:
    """How large a repository is.

    Attributes:
        changesets: all of them.
        files: in the manifest of the newest changeset.
        stored: bytes of ``.hg/store``.
    """

    changesets: int
    files: int
    stored: int


def environment(home: Path, inherited: dict[str, str]) -> dict[str, str]:
    """What hg sees: no configuration of the user or the machine, and nobody's terminal."""
    home.mkdir(parents=True, exist_ok=True)
    settings = {"HGRCPATH": "", "HGPLAIN": "1", "HGENCODING": "UTF-8", "HGUSER": "a"}
    return {**inherited, **settings, "HOME": str(home), "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Hg:
    """A Mercurial.

    Attributes:
        program: how it is started.
        environ: its environment.
    """

    program: tuple[str, ...]
    environ: dict[str, str]

    def __call__(self, *arguments: str | Path, where: Path, status: int = 0) -> str:
        """Run one command in a directory; what it printed.

        Args:
            arguments: the command and its options.
            where: the directory.
            status: with which it must exit.

        Raises:
            HgFailed: it exited with another one.
        """
        ran = subprocess.run(
            (*self.program, *arguments),
            cwd=where,
            env=self.environ,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if ran.returncode != status:
            words = " ".join(str(each) for each in arguments)
            raise HgFailed(f"hg {words}: {(ran.stdout + ran.stderr).strip()[-600:]}")
        return ran.stdout


def generate(hg: Hg, path: Path, changesets: int = CHANGESETS) -> HgShape:
    """Make a repository with a long history of small changes.

    Raises:
        HgFailed: hg refused the bundle, or cannot be run.
    """
    history = _History()
    history.write(changesets)
    return _store(hg, path, history.bundle)


def generate_large(hg: Hg, path: Path, parts: int, size: int) -> HgShape:
    """Make a repository whose directories ``part0``, ``part1`` ... have ``size`` bytes each.

    Raises:
        HgFailed: as :func:`generate`.
    """
    bundle = _Bundle()
    texts = random.Random(_SEED)
    words = _words(texts)
    lines = [_line(texts, words) for _ in range(min(_LINES, size // 16 + 1))]
    for part in range(parts):
        added: dict[bytes, list[Hunk]] = {}
        for offset in range(0, size, _LARGE_FILE):
            content = b"".join(texts.choices(lines, k=min(_LARGE_FILE, size - offset) // 36 + 1))
            added[b"part%d/file%04d" % (part, offset // _LARGE_FILE)] = [(0, 0, content)]
        bundle.changeset(added, b"part %d" % part)
    return _store(hg, path, bundle)


def copy(hg: Hg, source: Path, path: Path) -> HgShape:
    """Copy what the repository at ``source`` publishes; nothing is written into it.

    Raises:
        HgFailed: hg cannot read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hg("clone", "--quiet", "--noupdate", "--pull", source, path, where=path.parent)
    return shape_of(hg, path)


def grow(hg: Hg, path: Path, here: Path) -> None:
    """Add a changeset with a new file on the newest one, as a small push would.

    Nothing is checked out for it.

    Args:
        hg: that writes the repository.
        path: the repository.
        here: a directory for a work file.

    Raises:
        HgFailed: hg does not write it.
    """
    patch = here / "news.patch"
    patch.write_text(_PATCH)
    hg("debugsetparents", "tip", where=path)
    hg("import", "--quiet", "--bypass", "--message", "News", patch, where=path)
    hg("debugsetparents", "null", where=path)
    patch.unlink()


def shape_of(hg: Hg, path: Path) -> HgShape:
    """How large the repository at ``path`` is."""
    store = path / ".hg" / "store"
    return HgShape(
        changesets=int(hg("log", "--rev", "tip", "--template", "{rev}", where=path)) + 1,
        files=hg("manifest", "--rev", "tip", where=path).count("\n"),
        stored=sum(each.stat().st_size for each in store.rglob("*") if each.is_file()),
    )


def _store(hg: Hg, path: Path, bundle: _Bundle) -> HgShape:
    path.mkdir(parents=True)
    hg("init", where=path)
    written = path.parent / f"{path.name}.hg"
    with written.open("wb") as file:
        file.writelines(bundle.chunks())
    hg("unbundle", "--quiet", written, where=path)
    written.unlink()
    return shape_of(hg, path)


@dataclass(slots=True)
class _Group:
    """Revisions of the changelog, the manifest or one file, in the order in which they came."""

    chunks: list[bytes] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)
    node: bytes = _NULL

    def add(
        self, hunks: Sequence[Hunk], parents: tuple[bytes, bytes], changeset: bytes | None
    ) -> bytes:
        """Add what becomes of the last revision; ``changeset`` of None is the revision itself.

        Args:
            hunks: ascending, none within another, offsets of the last revision.
            parents: nodes, which need not be the last revision.
            changeset: which brings it. May be filled in later: see :meth:`link`.
        """
        if not self.text:  # hg takes what stands on nothing to be one hunk
            hunks = [(0, 0, b"".join(new for _, _, new in hunks))]
        for start, end, new in reversed(hunks):
            self.text[start:end] = new
        whole = hashlib.sha1(b"".join(sorted(parents)), usedforsecurity=False)
        whole.update(self.text)
        self.node = whole.digest()
        delta = b"".join(
            struct.pack(">III", start, end, len(new)) + new for start, end, new in hunks
        )
        self.chunks += (self.node + parents[0] + parents[1], changeset or self.node, delta)
        return self.node

    def link(self, changeset: bytes) -> None:
        """Say which changeset brought the last revision."""
        self.chunks[-2] = changeset

    def told(self) -> Iterator[bytes]:
        """As it stands in a changegroup."""
        for at in range(0, len(self.chunks), 3):
            yield _chunk(b"".join(self.chunks[at : at + 3]))
        yield _chunk(b"")


def _chunk(content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 4) + content if content else bytes(4)


@dataclass(slots=True)
class _Bundle:
    """A history, as a bundle. Names of files that are of one length keep it simple and quick."""

    changelog: _Group = field(default_factory=_Group)
    manifests: _Group = field(default_factory=_Group)
    files: dict[bytes, _Group] = field(default_factory=dict)
    _paths: list[bytes] = field(default_factory=list)
    _number: int = 0

    def changeset(
        self,
        changes: dict[bytes, list[Hunk]],
        message: bytes,
        *,
        parents: tuple[bytes, bytes] | None = None,
        manifest: bytes | None = None,
        manifest_parents: tuple[bytes, bytes] | None = None,
    ) -> bytes:
        """Add a changeset that edits files; by default, on top of the one before it.

        Args:
            changes: hunks by path; of paths that are new, all of the content.
            message: what it says.
            parents: other changesets than the last.
            manifest: an older one that it shares.
            manifest_parents: other manifests than the last.
        """
        touched = []
        for path in sorted(changes):
            group = self.files.setdefault(path, _Group())
            group.add(changes[path], (group.node, _NULL), None)
            touched.append(group)
        if manifest is None:
            above = manifest_parents or (self.manifests.node, _NULL)
            manifest = self.manifests.add(list(self._entries(changes)), above, None)
            touched.append(self.manifests)
        self._number += 1
        user = b"A U Thor <author%d@example.org>" % (self._number % 40)
        lines = (manifest.hex().encode(), user, b"%d 0" % (_EPOCH + self._number * 600))
        text = b"\n".join((*lines, *sorted(changes), b"", message))
        above = parents or (self.changelog.node, _NULL)
        node = self.changelog.add([(0, len(self.changelog.text), text)], above, None)
        for group in touched:
            group.link(node)
        return node

    def _entries(self, changes: dict[bytes, list[Hunk]]) -> Iterator[Hunk]:
        """What changes in the manifest; its lines are all of one length."""
        added = [path for path in sorted(changes) if not self.files[path].chunks[3:]]
        before = self._paths
        self._paths = sorted({*before, *added}) if added else before
        for path in sorted(changes):
            line = b"%b\0%b\n" % (path, self.files[path].node.hex().encode())
            start = bisect_left(before, path) * len(line)
            yield start, start if path in added else start + len(line), line

    def chunks(self) -> Iterator[bytes]:
        """The whole bundle, in pieces."""
        yield b"HG10UN"
        yield from self.changelog.told()
        yield from self.manifests.told()
        for path, group in sorted(self.files.items()):
            yield _chunk(path)
            yield from group.told()
        yield _chunk(b"")


@dataclass(slots=True)
class _History:
    """One branch, with short side branches that are merged."""

    bundle: _Bundle = field(default_factory=_Bundle)
    _random: random.Random = field(default_factory=lambda: random.Random(_SEED))
    _names: list[bytes] = field(default_factory=list)
    _lines: dict[bytes, list[bytes]] = field(default_factory=dict)
    _words: tuple[bytes, ...] = ()

    def write(self, changesets: int) -> None:
        """Write exactly ``changesets`` changesets."""
        self._words = _words(self._random)
        first = min(_FIRST_FILES, changesets)
        self.bundle.changeset(dict(self._new() for _ in range(first)), self._message())
        written = 1
        while written < changesets:
            if written + 3 <= changesets and self._random.random() < _SIDE_BRANCHES:
                self._side_branch()
                written += 3
            else:
                self.bundle.changeset(dict(self._changes()), self._message())
                written += 1

    def _side_branch(self) -> None:
        """One changeset aside, one on the branch that changes no file, and their merge."""
        bundle = self.bundle
        tip, below = bundle.changelog.node, bundle.manifests.node
        side = bundle.changeset(dict(self._changes()), self._message())
        above = (below, bundle.manifests.node)
        main = bundle.changeset({}, self._message(), parents=(tip, _NULL), manifest=below)
        bundle.changeset({}, self._message(), parents=(main, side), manifest_parents=above)

    def _changes(self) -> Iterator[tuple[bytes, list[Hunk]]]:
        """What one changeset touches: one file mostly, sometimes up to four, or a new one."""
        count = self._random.choice((1, 1, 1, 2, 2, 3, 4))
        for path in self._random.sample(self._names, k=min(count, len(self._names))):
            yield self._new() if self._random.random() < _NEW else (path, self._edited(path))

    def _new(self) -> tuple[bytes, list[Hunk]]:
        number = len(self._names)
        directory = int(self._random.paretovariate(0.6)) % _DIRECTORIES
        path = b"src/part%02d/unit%03d/file%06d.txt" % (directory % 16, directory, number)
        size = self._random.lognormvariate(math.log(_MEDIAN_LINES), _SPREAD)
        count = max(1, min(_MOST_LINES, int(size)))
        self._names.append(path)
        self._lines[path] = [_line(self._random, self._words) for _ in range(count)]
        return path, [(0, 0, b"".join(self._lines[path]))]

    def _edited(self, path: bytes) -> list[Hunk]:
        """Some lines of a file become others, or have a new one before them."""
        lines, hunks = self._lines[path], []
        places = self._random.sample(
            range(len(lines)), k=min(self._random.randint(1, 6), len(lines))
        )
        start = 0
        for at, place in enumerate(sorted(places)):
            start += sum(map(len, lines[(sorted(places)[at - 1] if at else 0) : place]))
            new = _line(self._random, self._words)
            keeps = self._random.random() >= 0.6
            hunks.append((start, start if keeps else start + len(lines[place]), new))
        for (begin, end, new), place in reversed(list(zip(hunks, sorted(places), strict=True))):
            lines[place : place + (end > begin)] = [new]
        return hunks

    def _message(self) -> bytes:
        lines = (_line(self._random, self._words) for _ in range(3))
        return b"Change " + b"".join(lines).strip()


def _words(texts: random.Random) -> tuple[bytes, ...]:
    letters = "etaoinshrdlu"
    return tuple(
        "".join(texts.choices(letters, k=texts.randint(2, 9))).encode() for _ in range(3000)
    )


def _line(texts: random.Random, words: Sequence[bytes]) -> bytes:
    return b" ".join(texts.choices(words, k=texts.randint(1, 11))) + b"\n"
