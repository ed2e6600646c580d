# Law of this file: which stock Mercurials the tests speak with, where each lies, and in which
# environment it behaves the same for everybody. A test skips without its Mercurial; on CI it fails.

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

V2: Final = "5.9.3"
"""Speaks wire protocol v2, which went away with 6.1."""

V1: Final = ("6.9.5", "7.2.4")
"""Speak v1 only: what users have today."""

VERSIONS: Final = (V2, *V1)

ROOT: Final = Path(__file__).parents[2] / ".venv" / "hg"
_RECIPE: Final = "installed"
_PURE: Final = "pure"


def directory(version: str) -> Path:
    """Where a version is installed: the script `hg` beside its packages."""
    return ROOT / version


def executable(version: str) -> Path:
    """A program that can be run as it is."""
    return directory(version) / "hg"


def stamp(version: str) -> Path:
    """Is there when the installation is whole; its text is the recipe that made it."""
    return directory(version) / _RECIPE


def pure_mark(version: str) -> Path:
    """Is there when no C compiler was: no zstd, and slow."""
    return directory(version) / _PURE


def hg(version: str = V2, *, zstd: bool = False) -> list[str]:
    """The command line's beginning for a version.

    Args:
        version: one of `VERSIONS`.
        zstd: the test needs the zstd encoding, which a build without a C compiler has not.
    """
    if not stamp(version).is_file():
        _missing(f"Mercurial {version} is not installed: run `python -m tests.hg.install`")
    if zstd and pure_mark(version).is_file():
        _missing(f"Mercurial {version} was built without zstd: install a C compiler, then rerun")
    return [sys.executable, str(executable(version))]


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What hg sees: no configuration of the user or the machine, no terminal, fixed language.

    Args:
        home: an existing directory, for what hg writes beside repositories.
        extra: wins over the rest.
    """
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "HGRCPATH": "",
        "HGPLAIN": "1",
        "HGENCODING": "UTF-8",
        "HGUSER": "A U Thor <author@example.org>",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        **(extra or {}),
    }


def run(
    program: Sequence[str], directory: Path, *args: str | Path, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """One hg process to its end; its exit status, and both outputs, are in the answer.

    Args:
        program: as `hg` gives it.
        directory: the working directory, also hg's home.
        args: of hg.
        stdin: what it reads.
    """
    return subprocess.run(
        [*program, *map(str, args)],
        cwd=directory,
        input=stdin,
        capture_output=True,
        check=False,
        env=environment(directory),
    )


def output(program: Sequence[str], directory: Path, *args: str | Path, stdin: bytes = b"") -> bytes:
    """What hg prints; an error with all that it said if it failed."""
    done = run(program, directory, *args, stdin=stdin)
    if done.returncode:
        command = " ".join(map(str, args))
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise AssertionError(f"hg {command} exited with {done.returncode}: {said}")
    return done.stdout
