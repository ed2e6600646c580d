# Law of this file: what is measured is a repository of a realistic shape, the same at every run:
# many commits, several trees for each, mostly small blobs, each change a small one, bitmaps.

from __future__ import annotations

import math
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

# 16,000 commits make some 120,000 objects; the smoke test's 400 some 3,000.
COMMITS: Final = 16_000
COMMITS_QUICK: Final = 400

_SEED: Final = 20_050_407  # the day of git's first commit
_EPOCH: Final = 1_500_000_000
_FIRST_FILES: Final = 600
_DIRECTORIES: Final = 240
_TAG_EVERY: Final = 500

# Sizes of files, in lines of some 40 bytes: log-normal, as in git's own repository (half of its
# files are below 1.8 kB, a tenth above 18 kB, a hundredth above 87 kB).
_MEDIAN_LINES: Final = 45
_SPREAD: Final = 1.8
_MOST_LINES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a repository is.

    Attributes:
        commits: reachable from its branch.
        objects: of all kinds.
        pack_size: bytes of its packs.
        files: in the tree of HEAD.
    """

    commits: int
    objects: int
    pack_size: int
    files: int


def generate(path: Path, commits: int = COMMITS) -> Shape:
    """Make a bare repository at ``path`` with ``git fast-import``.

    Raises:
        subprocess.CalledProcessError: git failed.
    """
    _git("init", "--quiet", "--bare", "--initial-branch=main", str(path))
    with subprocess.Popen(
        ("git", "-C", path, "fast-import", "--quiet"), stdin=subprocess.PIPE
    ) as importer:
        assert importer.stdin is not None  # noqa: S101 - our pipe
        _History(importer.stdin).write(commits)
        importer.stdin.close()
    if importer.returncode:
        raise subprocess.CalledProcessError(importer.returncode, "git fast-import")
    # fast-import tries one delta base for each blob; in a pack that was pushed or repacked by git
    # most objects are deltas, and answering shallow clones costs what that costs.
    return _pack(path, "-f")


def copy(source: Path, path: Path) -> Shape:
    """Copy branches and tags of the repository at ``source`` to ``path``, and what they reach.

    Nothing is shared with the source, and nothing written into it.

    Raises:
        subprocess.CalledProcessError: git failed.
    """
    _git("clone", "--quiet", "--bare", "--no-local", str(source), str(path))
    return _pack(path)


def _pack(path: Path, *again: str) -> Shape:
    _git("-C", str(path), "repack", "--quiet", "-a", "-d", "--write-bitmap-index", *again)
    _git("-C", str(path), "pack-refs", "--all")
    counts = dict(
        line.split(": ") for line in _git("-C", str(path), "count-objects", "-v").splitlines()
    )
    return Shape(
        commits=int(_git("-C", str(path), "rev-list", "--count", "--use-bitmap-index", "HEAD")),
        objects=int(counts["in-pack"]),
        pack_size=sum(pack.stat().st_size for pack in (path / "objects/pack").glob("*.pack")),
        files=_git("-C", str(path), "ls-tree", "-r", "HEAD").count("\n"),
    )


def _git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), check=True, stdout=subprocess.PIPE, text=True).stdout


@dataclass(slots=True)
class _History:
    """Writes one branch with merges and tags as a git-fast-import(1) stream."""

    stream: IO[bytes]
    _random: random.Random = field(default_factory=lambda: random.Random(_SEED))
    _files: dict[str, list[bytes]] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _words: tuple[bytes, ...] = ()
    _mark: int = 0

    def write(self, commits: int) -> None:
        """Write ``commits`` commits, those on side branches included."""
        letters = "etaoinshrdlu"
        self._words = tuple(
            "".join(self._random.choices(letters, k=self._random.randint(2, 9))).encode()
            for _ in range(3000)
        )
        first = [self._new_file() for _ in range(min(_FIRST_FILES, commits))]
        tip = self._commit("main", first, ())
        written = 1
        while written < commits:
            if self._random.random() < 0.05:
                # A side branch of one commit, and its merge, which brings the same change.
                changed = list(self._changes())
                side = self._commit("topic", changed, (tip,))
                tip = self._commit("main", changed, (self._commit("main", (), (tip,)), side))
                written += 3
            else:
                tip = self._commit("main", list(self._changes()), (tip,))
                written += 1
            if written % _TAG_EVERY == 0:
                self._tag(f"v{written // _TAG_EVERY}", tip)

    def _changes(self) -> Iterator[str]:
        """What one commit touches: one file mostly, sometimes up to four, sometimes a new one."""
        for _ in range(self._random.choice((1, 1, 1, 2, 2, 3, 4))):
            yield self._new_file() if self._random.random() < 0.15 else self._edited_file()

    def _new_file(self) -> str:
        number = len(self._names)
        directory = int(self._random.paretovariate(0.6)) % _DIRECTORIES
        path = f"src/part{directory % 16:02}/unit{directory:03}/file{number}.txt"
        self._names.append(path)
        self._files[path] = [self._line() for _ in range(self._size())]
        return path

    def _size(self) -> int:
        size = self._random.lognormvariate(math.log(_MEDIAN_LINES), _SPREAD)
        return max(1, min(_MOST_LINES, int(size)))

    def _edited_file(self) -> str:
        path = self._random.choice(self._names)
        lines = self._files[path]
        for _ in range(self._random.randint(1, 6)):
            place = self._random.randrange(len(lines))
            if self._random.random() < 0.6:
                lines[place] = self._line()
            else:
                lines.insert(place, self._line())
        return path

    def _line(self) -> bytes:
        return b" ".join(self._random.choices(self._words, k=self._random.randint(1, 11))) + b"\n"

    def _commit(self, branch: str, paths: list[str] | tuple[()], parents: tuple[int, ...]) -> int:
        self._mark += 1
        when = _EPOCH + self._mark * 600
        message = b"Change " + self._line() + b"\n" + self._line() + self._line()
        head = f"commit refs/heads/{branch}\nmark :{self._mark}\n"
        who = f"A U Thor <author{self._mark % 40}@example.org> {when} +0000\n"
        head += f"author {who}committer {who}"
        self.stream.write(head.encode() + _data(message))
        for word, parent in zip(("from", *["merge"] * 8), parents, strict=False):
            self.stream.write(f"{word} :{parent}\n".encode())
        for path in dict.fromkeys(paths):
            self.stream.write(b"M 100644 inline " + path.encode() + b"\n")
            self.stream.write(_data(b"".join(self._files[path])))
        return self._mark

    def _tag(self, name: str, commit: int) -> None:
        when = _EPOCH + commit * 600
        self.stream.write(
            f"tag {name}\nfrom :{commit}\n"
            f"tagger A U Thor <author@example.org> {when} +0000\n".encode()
        )
        self.stream.write(_data(f"Release {name}\n".encode()))


def _data(content: bytes) -> bytes:
    return b"data %d\n%b\n" % (len(content), content)
