# Law of this file: the server's git fails in the one way that a test wants, and counts its runs.
# Clients run stock git: only who has the wrapper's directory on PATH meets it.

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Fault = Literal[
    "", "exits", "ends-badly", "is-truncated", "is-killed", "holds", "waits", "says-packfile"
]

# Enough of an answer for its head, and not all of the smallest pack here.
_CUT: Final = 400

# Where the client has nothing to be acknowledged, an answer begins with this, before git counts
# what is in the pack.
_OPENING: Final = b"000dpackfile\n"

_SCRIPT: Final = """#!/bin/sh
# Runs {real}, and fails as the file `fault` says: a fetch, or a pack of the indexer.
here={here}
body=/dev/null
case "$*" in
*--advertise-refs*) exec {real} "$@" ;;
*upload-pack*)
    body=$(mktemp "$here/body.XXXXXX")
    cat >"$body"
    if grep -qa command=ls-refs "$body"; then exec {real} "$@" <"$body"; fi
    ;;
*pack-objects*)
    body=$(mktemp "$here/body.XXXXXX")
    cat >"$body"
    ;;
*) exec {real} "$@" ;;
esac
echo run >>"$here/runs"
answer=$(mktemp "$here/answer.XXXXXX")
case $(cat "$here/fault") in
exits) echo "the disk is on fire" >&2; exit 3 ;;
ends-badly) {real} "$@" <"$body"; exit 3 ;;
is-truncated) {real} "$@" <"$body" >"$answer"; head -c {cut} "$answer"; exit 0 ;;
is-killed) {real} "$@" <"$body" >"$answer"; head -c {cut} "$answer"; kill -9 $$ ;;
holds)
    {real} "$@" <"$body" >"$answer"
    head -c {cut} "$answer"
    echo held >"$here/held"
    read -r word <"$here/release"
    tail -c +{after} "$answer"
    ;;
waits)
    echo held >"$here/held"
    read -r word <"$here/release"
    exec {real} "$@" <"$body"
    ;;
says-packfile)
    {real} "$@" <"$body" >"$answer"
    head -c {opening} "$answer"
    echo held >"$here/held"
    read -r word <"$here/release"
    tail -c +$(({opening} + 1)) "$answer"
    ;;
*) exec {real} "$@" <"$body" ;;
esac
"""


@dataclass(frozen=True)
class Wrapper:
    """A ``git`` in a directory of its own.

    Attributes:
        directory: put it on the server's PATH; see :meth:`on_path`.
    """

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Wrapper:
        """Write the program, and the pipes by which it says that it holds, and goes on."""
        program = directory / "git"
        real = shutil.which("git")
        opening = len(_OPENING)
        program.write_text(
            _SCRIPT.format(real=real, here=directory, cut=_CUT, after=_CUT + 1, opening=opening)
        )
        program.chmod(0o755)
        for pipe in ("held", "release"):
            os.mkfifo(directory / pipe)
        wrapper = cls(directory)
        wrapper.fault("")
        return wrapper

    @property
    def path(self) -> str:
        """PATH with the wrapper in front."""
        return f"{self.directory}{os.pathsep}{os.environ['PATH']}"

    @contextmanager
    def on_path(self) -> Iterator[None]:
        """Servers that are started in this block meet the wrapper; clients do not run in it."""
        before = os.environ["PATH"]
        os.environ["PATH"] = self.path
        try:
            yield
        finally:
            os.environ["PATH"] = before

    def fault(self, fault: Fault) -> None:
        """Fail so from now on."""
        (self.directory / "fault").write_text(fault)

    def runs(self) -> int:
        """How many fetches and packs were asked of git."""
        runs = self.directory / "runs"
        return len(runs.read_text().splitlines()) if runs.exists() else 0

    async def held(self) -> None:
        """Wait until a run has said the first of its answer, and holds."""
        loop = asyncio.get_running_loop()
        said = asyncio.Event()
        # Open for both, so that opening does not wait for the other side.
        descriptor = os.open(self.directory / "held", os.O_RDWR | os.O_NONBLOCK)
        loop.add_reader(descriptor, said.set)
        try:
            await said.wait()
            os.read(descriptor, 64)
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let the run that holds go on, in this block."""
        descriptor = os.open(self.directory / "release", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(descriptor, b"go\n")
            yield
        finally:
            os.close(descriptor)
