# Law of this file: origins are real and small, and the git that mirrors them writes down how it is
# started, and stops in the middle of a fetch when a test wants that.

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from repos.git.mirror import Mirror, Source
from repos.git.program import Git

NAME: Final = "forge/acme/widget"

_SCRIPT: Final = """#!/bin/sh
# Runs {real}. Children of git find this program too, by GIT_EXEC_PATH.
printf '%s\\n' "$*" >>{here}/argv
case "$*" in
*" fetch "*) echo $$ >{here}/pid ;;
*index-pack*)
    if [ -e {here}/stop ]; then
        {{
            head -c 64
            until ls "$GIT_DIR"/objects/pack/tmp_pack_* >{here}/found 2>/dev/null; do :; done
            echo held >{here}/held
            exec sleep 1000
        }} | {real} "$@"
    fi
    ;;
esac
exec {real} "$@"
"""


def run_git(path: Path, *args: str, stdin: bytes = b"") -> str:
    """Stock git's answer."""
    done = subprocess.run(
        ["git", "-C", str(path), *args], input=stdin, capture_output=True, check=True
    )
    return done.stdout.decode("utf-8", "surrogateescape").strip()


@dataclass(frozen=True)
class Origin:
    """A bare repository that is mirrored."""

    path: Path

    @classmethod
    def make(cls, path: Path, object_format: str = "sha1") -> Origin:
        """An empty one, which lets every object be asked for."""
        path.mkdir()
        run_git(path, "init", "-q", "--bare", f"--object-format={object_format}")
        run_git(path, "config", "uploadpack.allowAnySHA1InWant", "true")
        return cls(path)

    def run(self, *args: str, stdin: bytes = b"") -> str:
        """Stock git's answer, in it."""
        return run_git(self.path, *args, stdin=stdin)

    def commit(self, ref: str, content: str, parent: str | None = None) -> str:
        """Put a commit with one file onto a ref, and return its id."""
        blob = self.run("hash-object", "-w", "--stdin", stdin=content.encode())
        tree = self.run("mktree", stdin=f"100644 blob {blob}\tfile\n".encode())
        parents = () if parent is None else ("-p", parent)
        oid = self.run("commit-tree", "-m", content, *parents, tree)
        self.run("update-ref", ref, oid)
        return oid

    def refs(self) -> dict[bytes, str]:
        """What it has."""
        lines = self.run("for-each-ref", "--format=%(objectname) %(refname)").splitlines()
        pairs = (line.split(" ", 1) for line in lines)
        return {name.encode("utf-8", "surrogateescape"): oid for oid, name in pairs}

    @property
    def source(self) -> Source:
        """Where it is fetched from."""
        return Source(str(self.path))


@dataclass(frozen=True)
class Watched:
    """A git that writes down its arguments, and may stop."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Watched:
        """Write the program, beside links to all of git's own."""
        directory.mkdir()
        real = shutil.which("git")
        assert real is not None
        own = Path(subprocess.check_output([real, "--exec-path"], text=True).strip())
        for program in own.iterdir():
            (directory / program.name).symlink_to(program)
        (directory / "git").unlink(missing_ok=True)
        (directory / "git").write_text(_SCRIPT.format(real=own / "git", here=directory))
        (directory / "git").chmod(0o755)
        os.mkfifo(directory / "held")
        return cls(directory)

    @property
    def git(self) -> Git:
        """How it is run."""
        environ = {**os.environ, "GIT_EXEC_PATH": str(self.directory)}
        return Git(environ=environ, executable=str(self.directory / "git"))

    def argv(self) -> list[str]:
        """The words of each start, git's own children's too."""
        file = self.directory / "argv"
        return file.read_text().splitlines() if file.exists() else []

    def fetches(self) -> int:
        """How often something was fetched, or looked whether it had to be."""
        return sum(" fetch --quiet" in words for words in self.argv())

    def packs(self) -> int:
        """How often objects came."""
        return sum(words.startswith("index-pack") for words in self.argv())

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """In this block each fetch stops with a part of a pack on disk."""
        (self.directory / "stop").touch()
        yield
        (self.directory / "stop").unlink()

    def held(self) -> int:
        """Wait until a fetch has stopped; the group of processes that it is."""
        assert (self.directory / "held").read_text() == "held\n"
        return int((self.directory / "pid").read_text())


def create(mirror: Mirror, origin: Origin, head: bytes | None = b"refs/heads/main") -> None:
    """Mirror an origin as it is now."""
    object_format = origin.run("rev-parse", "--show-object-format")
    mirror.create(origin.source, origin.refs(), head, object_format, NAME)


def update(mirror: Mirror, origin: Origin, *wants: str) -> None:
    """Bring a mirror up to what its origin is now."""
    mirror.update(origin.source, origin.refs(), b"refs/heads/main", wants)


def fsck(mirror: Mirror) -> str:
    """What stock git finds wrong with a mirror; nothing, except what no ref reaches."""
    run_git(mirror.path, "fsck", "--full", "--strict", "--connectivity-only")
    return run_git(mirror.path, "fsck", "--full", "--no-dangling")
