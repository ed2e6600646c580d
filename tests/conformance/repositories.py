# Law of this file: every kind of repository that a forge meets, in its smallest form. Dates and
# authors are fixed, so that the same maker gives the same object ids each time.

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

DAY: Final = 86400
BEGAN: Final = 1_700_000_000
UMLAUT: Final = "\N{LATIN SMALL LETTER U WITH DIAERESIS}"


_ENVIRON: Final = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A U Thor",
    "GIT_AUTHOR_EMAIL": "author@example.org",
    "GIT_AUTHOR_DATE": f"{BEGAN} +0000",
    "GIT_COMMITTER_NAME": "A U Thor",
    "GIT_COMMITTER_EMAIL": "author@example.org",
    "GIT_COMMITTER_DATE": f"{BEGAN} +0000",
}


def run_git(directory: Path, *args: str | Path, stdin: bytes = b"") -> str:
    """Stock git's answer, in a work tree or a git directory."""
    done = subprocess.run(
        ["git", "-C", str(directory), *map(str, args)],
        input=stdin,
        capture_output=True,
        check=True,
        env={**os.environ, **_ENVIRON},
    )
    return done.stdout.decode().strip()


@dataclass(frozen=True)
class Repository:
    """A repository below a served root.

    Attributes:
        root: of the server.
        name: its path below the root.
    """

    root: Path
    name: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.root / self.name

    @property
    def git_dir(self) -> Path:
        """Where its refs and objects lie."""
        inside = self.path / ".git"
        return inside if inside.is_dir() else self.path

    @property
    def stock_url(self) -> str:
        """How stock git serves it by itself."""
        return self.path.as_uri()

    def url(self, base: str) -> str:
        """How the server at ``base`` serves it."""
        return f"{base}/{quote(self.name)}"

    def git(self, *args: str | Path, stdin: bytes = b"") -> str:
        """Run git in it."""
        return run_git(self.path, *args, stdin=stdin)

    def oid(self, name: str) -> str:
        """The object id of a revision."""
        return self.git("rev-parse", "--verify", "--quiet", name)

    def commit(self, ref: str, number: int, **changes: str) -> str:
        """Add a commit to a ref, made or not; returns its id."""
        exists = self.git("for-each-ref", ref)
        stream = commit(ref, number, f"{ref}^0" if exists else "", changes or {"new": f"{number}"})
        self.git("fast-import", "--quiet", "--force", stdin=stream)
        return self.oid(ref)


def data(text: str) -> str:
    """``data`` of fast-import."""
    return f"data {len(text.encode())}\n{text}\n"


def who(number: int) -> str:
    """The author of everything, on day ``number``."""
    return f"A U Thor <author@example.org> {BEGAN + number * DAY} +0000"


def commit(
    ref: str, number: int, parent: str, files: dict[str, str], *, merge: str = "", mark: int = 0
) -> bytes:
    """A commit for fast-import."""
    lines = [f"commit {ref}\n", f"mark :{mark}\n" if mark else "", f"committer {who(number)}\n"]
    lines += [data(f"commit {number}\n"), f"from {parent}\n" if parent else ""]
    lines += [f"merge {merge}\n" if merge else ""]
    for name, content in files.items():
        lines += [f'M 100644 inline "{name}"\n', data(content)]
    return ("".join(lines) + "\n").encode()


def tag(name: str, target: str, number: int) -> bytes:
    """An annotated tag for fast-import."""
    return f"tag {name}\nfrom {target}\ntagger {who(number)}\n{data(f'{name}{chr(10)}')}".encode()


def _text(seed: str, lines: int) -> str:
    return "".join(f"{seed} line {number}\n" for number in range(lines))


def history() -> bytes:
    """Branches, merges, tags of both kinds, and something that no ref reaches any more."""
    main, topic = "refs/heads/main", "refs/heads/topic"
    first = {
        "README": _text("readme", 4),
        "big.txt": _text("big", 200),
        f"with spaces/{UMLAUT}mlaut.txt": _text("deep", 3),
        "nested/a/b/c/file": _text("nested", 2),
    }
    return b"".join(
        (
            commit(main, 1, "", first, mark=1),
            commit(main, 2, ":1", {"README": _text("second", 5)}, mark=2),
            commit(topic, 3, ":2", {"topic.txt": _text("topic", 60)}, mark=3),
            commit(main, 4, ":2", {"big.txt": _text("big", 199) + "changed\n"}, mark=4),
            commit(main, 5, ":4", {"merged": "yes\n"}, merge=":3", mark=5),
            commit(main, 6, ":5", {"nested/a/new": _text("new", 2)}, mark=6),
            commit("refs/heads/dropped", 7, ":4", {"dropped": "by a forced push\n"}, mark=7),
            b"reset refs/heads/old\nfrom :2\n\n",
            b"reset refs/changes/01/head\nfrom :3\n\n",
            b"reset refs/tags/light\nfrom :4\n\n",
            f"reset refs/heads/feature/{UMLAUT}\nfrom :4\n\n".encode(),
            tag("v1.0", ":2", 2),
            tag("v2.0", ":5", 5),
        )
    )


def make(root: Path, name: str = "project.git", *options: str, bare: bool = True) -> Repository:
    """The normal repository, with :func:`history`."""
    repository = Repository(root, name)
    repository.path.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(_normal(options, bare=bare))) as archive:
        archive.extractall(repository.path, filter="fully_trusted")  # noqa: S202 - ours
    return repository


@functools.cache
def _normal(options: tuple[str, ...], *, bare: bool) -> bytes:
    # Git writes it once a process; hundreds of tests unpack it, as they would be slower to make it.
    with tempfile.TemporaryDirectory() as directory:
        repository = empty(Path(directory), "normal", *options, bare=bare)
        repository.git("fast-import", "--quiet", stdin=history())
        repository.git("tag", "-a", "-m", "a tag of a tag", "v1.0-again", "v1.0")
        repository.git("update-ref", "-d", "refs/heads/dropped")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(repository.path, arcname=".")
        return packed.getvalue()


def empty(root: Path, name: str = "project.git", *options: str, bare: bool = True) -> Repository:
    """A repository without a commit."""
    repository = Repository(root, name)
    repository.path.mkdir(parents=True)
    kind = ("--bare",) if bare else ()
    run_git(repository.path, "init", "--quiet", "--initial-branch=main", *kind, *options)
    return repository


def dropped(repository: Repository) -> str:
    """The id of the commit that is there although no ref reaches it."""
    objects = repository.git(
        "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)"
    )
    commits = {line.split()[0] for line in objects.splitlines() if line.endswith(" commit")}
    reachable = set(repository.git("rev-list", "--all").split())
    (found,) = commits - reachable
    return found


# --- the kinds --------------------------------------------------------------------------------


def _work_tree(root: Path) -> Repository:
    repository = make(root, "project", bare=False)
    repository.git("reset", "--quiet", "--hard")
    return repository


def _detached(root: Path) -> Repository:
    repository = make(root)
    repository.git("update-ref", "--no-deref", "HEAD", repository.oid("light"))
    return repository


def _unborn(root: Path) -> Repository:
    repository = make(root)
    repository.git("symbolic-ref", "HEAD", "refs/heads/to-be-born")
    return repository


def _hidden(root: Path) -> Repository:
    repository = make(root)
    repository.commit("refs/secret/one", 8, secret="nobody sees this\n")
    repository.git("config", "--add", "transfer.hideRefs", "refs/secret")
    repository.git("config", "--add", "uploadpack.hideRefs", "refs/changes")
    return repository


def _alternates(root: Path) -> Repository:
    lender = make(root.parent / "lender")
    repository = empty(root)
    alternates = repository.git_dir / "objects" / "info" / "alternates"
    alternates.write_text(f"{lender.git_dir / 'objects'}\n")
    for ref in lender.git("for-each-ref", "--format=%(objectname) %(refname)").splitlines():
        oid, name = ref.split()
        repository.git("update-ref", name, oid)
    repository.commit("refs/heads/main", 8, own="not lent\n")
    return repository


def _packed(root: Path) -> Repository:
    repository = make(root)
    repository.git("pack-refs", "--all")
    repository.git("gc", "--quiet")
    repository.commit("refs/heads/topic", 8)
    return repository


def _symbolic(root: Path) -> Repository:
    repository = make(root)
    repository.git("symbolic-ref", "refs/heads/alias", "refs/heads/topic")
    repository.git("symbolic-ref", "refs/remotes/up/HEAD", "refs/heads/main")
    return repository


def _odd_tags(root: Path) -> Repository:
    repository = make(root)
    repository.git("tag", "-a", "-m", "a key", "key", "main:README")
    repository.git("tag", "-a", "-m", "a tree", "tree", "main^{tree}")
    repository.git("update-ref", "refs/tags/bare-blob", "main:big.txt")
    return repository


Maker = Callable[[Path], Repository]

KINDS: Final[dict[str, Maker]] = {
    "work-tree": _work_tree,
    "sha256": lambda root: make(root, "project.git", "--object-format=sha256"),
    "empty": empty,
    "empty-trunk": lambda root: empty(root, "project.git", "--initial-branch=trunk"),
    "detached": _detached,
    "unborn": _unborn,
    "hidden-refs": _hidden,
    "alternates": _alternates,
    "packed": _packed,
    "symbolic": _symbolic,
    "odd-tags": _odd_tags,
    "names": lambda root: make(
        root,
        f"group one/{UMLAUT}\N{CJK UNIFIED IDEOGRAPH-5E93}/my project.git",
    ),
}


def copy(repository: Repository, root: Path) -> Repository:
    """The same repository below another root."""
    shutil.copytree(repository.path, root / repository.name, symlinks=True)
    return Repository(root, repository.name)
