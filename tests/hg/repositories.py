# Law of this file: every kind of Mercurial repository that a server meets, in its smallest form,
# made by real hg in few processes. Users and dates are fixed: a maker always gives the same nodes.

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.hg.session import Session
from tests.hg.versions import output

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY: Final = 86400
BEGAN: Final = 1_700_000_000
UMLAUT: Final = "\N{LATIN SMALL LETTER U WITH DIAERESIS}"

Maker = Callable[[Sequence[str], Path], Path]
"""Makes a repository with an hg, in a directory that it creates, which it returns."""


class Work:
    """A repository being made: files are written, hg is asked, changes are committed."""

    def __init__(self, session: Session) -> None:
        self.hg = session
        self.path = session.directory
        self._number = 0

    def write(self, name: str, content: str | bytes, *, executable: bool = False) -> None:
        """Write a file, and the directories above it."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o755 if executable else 0o644)

    def commit(self, message: str = "", **files: str) -> str:
        """Commit everything in the work tree, and return the new node in hex.

        Args:
            message: by default it names the commit's number.
            files: are written before; further ones may have been.
        """
        for name, content in files.items():
            self.write(name, content)
        self._number += 1
        self.hg("addremove", "--quiet", "--similarity", "0")
        self.hg("commit", "--message", message or f"commit {self._number}", "--date", self.date)
        return self.node(".")

    @property
    def date(self) -> str:
        """The newest commit's, as hg reads it."""
        return f"{BEGAN + self._number * DAY} 0"

    def node(self, revision: str) -> str:
        """A revision's node in hex."""
        return self.hg("log", "--rev", revision, "--template", "{node}").decode()

    def update(self, revision: str) -> None:
        """Put a revision into the work tree."""
        self.hg("update", "--quiet", "--clean", "--rev", revision)

    def merge(self, revision: str, message: str = "merge") -> str:
        """Merge a revision that touches other files, and commit."""
        self.hg("merge", "--quiet", "--tool", ":fail", "--rev", revision)
        return self.commit(message)

    def tag(self, name: str, revision: str) -> None:
        """Tag a revision, which commits."""
        self._number += 1
        self.hg("tag", "--force", "--rev", revision, "--date", self.date, name)


@contextmanager
def work(program: Sequence[str], path: Path, *config: str) -> Iterator[Work]:
    """A repository that is there or is made now, to be worked in.

    Args:
        program: as `versions.hg` gives it.
        path: of the repository.
        config: `section.name=value` of hg.
    """
    path.mkdir(parents=True, exist_ok=True)
    with Session(program, path, *config) as session:
        if not (path / ".hg").is_dir():
            session("init", path)
    with Session(program, path, *config) as session:
        yield Work(session)


def configure(path: Path, text: str) -> None:
    """Add to a repository's own configuration."""
    with (path / ".hg" / "hgrc").open("a") as hgrc:
        hgrc.write(text)


def empty(program: Sequence[str], path: Path) -> Path:
    """No changeset at all."""
    output(program, path.parent, "init", path)
    return path


def linear(program: Sequence[str], path: Path) -> Path:
    """Ten changesets in a row that edit, add, empty and fill files; one changes no file."""
    with work(program, path) as made:
        for number in range(8):
            made.write(f"directory/file{number % 3}", _text(f"round {number}", 4 + number))
            made.commit(README=_text("readme", number + 1), empty="" if number % 2 else "not\n")
        made.hg("branch", "--quiet", "named")
        made.commit("only a branch's name")
        made.commit("several lines\n\nof a message with \N{GREEK SMALL LETTER ALPHA}", last="x\n")
    return path


def merges(program: Sequence[str], path: Path) -> Path:
    """Merges, one with an edit, copies, executable files, symbolic links; nothing removed."""
    with work(program, path) as made:
        made.write("tool", "#!/bin/sh\n", executable=True)
        (made.path / "link").symlink_to("README")
        root = made.commit(README=_text("readme", 20), left="l\n", right="r\n")
        made.hg("copy", "--quiet", "README", "docs/COPY")
        left = made.commit("copy", left=_text("left", 3))
        made.update(root)
        (made.path / "tool").chmod(0o644)
        made.write("README", _text("readme", 20), executable=True)
        made.commit("modes", right=_text("right", 3))
        merged = made.merge(left)
        made.update(root)
        third = made.commit("third", third="3\n")
        made.update(merged)
        made.hg("merge", "--quiet", "--tool", ":fail", "--rev", third)
        made.commit("merge with an edit", third="3 and more\n")
    return path


def renames(program: Sequence[str], path: Path) -> Path:
    """Renames, removals, a file that comes back, a file that becomes a directory.

    The server of 5.9.3 itself cannot give these by protocol v2: it looks for the removed file in
    the manifest. Its client can read them.
    """
    with work(program, path) as made:
        made.commit(old=_text("old", 30), gone="g\n", name="a file\n")
        made.hg("rename", "--quiet", "old", "new")
        made.commit("rename")
        made.hg("remove", "gone", "name")
        made.commit("removal")
        made.write("name/inner", "a directory now\n")
        made.commit("back again", gone="g\n")
        made.hg("rename", "--quiet", "new", "name/newest")
        made.commit("rename with an edit", **{"name/newest": _text("old", 31)})
    return path


def branches(program: Sequence[str], path: Path) -> Path:
    """Named branches, one closed, one with two heads; tags, one moved, one local; bookmarks."""
    with work(program, path) as made:
        root = made.commit(base="b\n")
        for name in ("stable", f"br{UMLAUT}nch"):
            made.update(root)
            made.hg("branch", "--quiet", name)
            made.commit(f"on {name}", **{name: "1\n"})
        made.update(root)
        made.hg("branch", "--quiet", "finished")
        made.commit("to be closed", finished="1\n")
        made.hg("commit", "--close-branch", "--message", "closed", "--date", made.date)
        made.update("stable")
        second = made.commit(more="1\n")
        made.update(f"{second}^")
        made.commit("a second head of stable", other="1\n")
        made.update(root)
        tip = made.commit("default goes on", base="b2\n")
        made.tag("v1", root)
        made.tag("v2", "stable")
        made.tag("v1", tip)
        made.hg("tag", "--local", "--rev", root, "mine")
        made.hg("bookmark", "--inactive", "--rev", root, "first")
        made.hg("bookmark", "--inactive", "--rev", "default", "@")
        made.hg("bookmark", "--inactive", "--rev", second, f"b{UMLAUT}ok")
    return path


def phases(program: Sequence[str], path: Path) -> Path:
    """Public, draft and secret changesets of a repository that does not publish.

    A secret changeset is a head of its own, and another has the same file revision as a draft.
    """
    with work(program, path) as made:
        public = made.commit(base="b\n")
        draft = made.commit(base="b2\n", draft="d\n")
        made.commit(draft="d2\n")
        made.update(public)
        made.commit("a draft head", shared="same\n")
        made.update(draft)
        secret = made.commit("not to be seen", secret="s\n", shared="same\n")
        made.hg("bookmark", "--inactive", "--rev", secret, "hidden")
        made.hg("bookmark", "--inactive", "--rev", draft, "seen")
        made.hg("phase", "--public", public)
        made.hg("phase", "--secret", "--force", secret)
    configure(path, "[phases]\npublish = false\n")
    return path


def obsolete(program: Sequence[str], path: Path) -> Path:
    """Amended and pruned drafts: changesets that are in the store and hidden."""
    with work(program, path, "experimental.evolution=all") as made:
        public = made.commit(base="b\n")
        made.hg("phase", "--public", public)
        made.commit("first try", work="1\n")
        made.write("work", "2\n")
        made.hg("commit", "--amend", "--message", "second try", "--date", f"{BEGAN + 9 * DAY} 0")
        pruned = made.commit("to be pruned", dropped="x\n")
        made.update(".^")
        made.hg("debugobsolete", "--record-parents", "--date", f"{BEGAN} 0", pruned)
        made.commit("goes on", work="3\n")
    configure(path, "[phases]\npublish = false\n[experimental]\nevolution = all\n")
    return path


NAMES: Final = (
    "with space",
    " leading and trailing ",
    "UPPER/Case",
    "under_score",
    f"{UMLAUT}ml\N{LATIN SMALL LETTER A WITH DIAERESIS}ut/\N{SNOWMAN}",
    ".dot/.hidden",
    "ends.",
    "tilde~7e",
    "directory.i/file.d",
    "directory.d/x",
    "directory.hg/y",
    "aux/con.txt",
    'quote"back',
    "percent%41+plus",
    "l" * 130,
    "/".join(["deep"] * 40) + "/file",
)
"""File names that the store encodes, hashes, or that a careless reader takes for something else."""


def names(program: Sequence[str], path: Path) -> Path:
    """Two revisions of files with odd names."""
    with work(program, path) as made:
        for number in range(2):
            for name in NAMES:
                made.write(name, f"{number} of {name}\n")
            made.commit()
    return path


def large(program: Sequence[str], path: Path, changesets: int = 400) -> Path:
    """A few MB that compress badly: a long row of changesets, a log, one file of 1 MB.

    Args:
        program: as `versions.hg` gives it.
        path: of the repository.
        changesets: how many; each is about 7 kB of text.
    """
    output(program, path.parent, "init", path)
    output(program, path, "import", "--bypass", "--quiet", "-", stdin=_series(changesets))
    return path


def _series(changesets: int) -> bytes:
    # Patches in git's format, as hg exports them: one process applies them all.
    patches = [_patch(0, _added("big", _noise("big", 15_000)))]
    length = 0
    for number in range(1, changesets):
        added = _noise(f"log {number}", 4)
        log = _appended("log", added, length) if length else _added("log", added)
        patches.append(
            _patch(number, log + _added(f"d{number % 20}/{number}", _noise(f"{number}", 100)))
        )
        length += 4
    return "".join(patches).encode()


def _patch(number: int, diff: str) -> str:
    return (
        "# HG changeset patch\n# User A U Thor <author@example.org>\n"
        f"# Date {BEGAN + number * DAY} 0\nchangeset {number}\n\n{diff}\n"
    )


def _added(name: str, content: str) -> str:
    lines = content.splitlines(keepends=True)
    body = "".join(f"+{line}" for line in lines)
    return (
        f"diff --git a/{name} b/{name}\nnew file mode 100644\n"
        f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}"
    )


def _appended(name: str, content: str, length: int) -> str:
    lines = content.splitlines(keepends=True)
    body = "".join(f"+{line}" for line in lines)
    return (
        f"diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n"
        f"@@ -{length},0 +{length + 1},{len(lines)} @@\n{body}"
    )


def _text(seed: str, lines: int) -> str:
    return "".join(f"{seed} line {number}\n" for number in range(lines))


def _noise(seed: str, lines: int) -> str:
    hashes = (hashlib.sha256(f"{seed} {number}".encode()) for number in range(lines))
    return "".join(f"{hashed.hexdigest()}\n" for hashed in hashes)


KINDS: Final[dict[str, Maker]] = {
    "empty": empty,
    "linear": linear,
    "merges": merges,
    "renames": renames,
    "branches": branches,
    "phases": phases,
    "obsolete": obsolete,
    "names": names,
    "large": large,
}

SERVED_BY_STOCK_V2: Final = frozenset(KINDS) - {"renames"}
"""What the server of 5.9.3 can give by protocol v2 without an error of its own."""
