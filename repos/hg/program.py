# Law of this file: hg is run with an argument list, a clean environment and a time limit, and a
# run that did not end well is an exception. These calls block; async callers use a thread.
#
# Configuration: none of the user's or the machine's is read, unless HGRCPATH says so: a repository
# that needs an extension (evolve, largefiles) gets it from there. A repository's own hgrc is read
# as hg reads it: hooks and extensions only of a file that belongs to whom we run as. Repositories
# below ROOT are the operator's, and hg itself refuses what somebody else has written into one.

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from repos.program import ProgramFailed, Running, converse, start

# PYTHONPATH and HGMODULEPOLICY: hg is a Python program, and may need them to find its own modules.
_KEPT: Final = ("PATH", "HOME", "TMPDIR", "HGRCPATH", "PYTHONPATH", "HGMODULEPOLICY")
_DEFAULTS: Final = {"HGRCPATH": ""}
_SET: Final = {
    "LC_ALL": "C",
    # Names of branches and bookmarks are UTF-8 on the wire.
    "HGENCODING": "UTF-8",
    "HGPLAIN": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class HgFailed(ProgramFailed):
    """An hg program ended badly.

    Attributes:
        command: the subcommand, such as ``bundle``.
        status: its exit code; negative, the signal that ended it.
        stderr: the last of what it said.
    """

    program = "hg"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What an hg program sees of ``environ``, with our own settings on top."""
    kept = {name: environ[name] for name in _KEPT if name in environ}
    return {**_DEFAULTS, **kept, **_SET}


@dataclass(frozen=True, slots=True)
class Hg:
    """How hg programs are run.

    Attributes:
        time_limit: seconds after which a program is killed.
        environ: our environment, of which programs see a part (see :func:`environment`).
        executable: the program; found on PATH.
    """

    time_limit: float = 3600.0
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    executable: str = "hg"

    @contextmanager
    def start(self, command: str, *args: str, repository: Path) -> Iterator[Running]:
        """Run ``hg COMMAND ARGS`` in a repository, with pipes; leaving the block waits for its end.

        A program that outlives the time limit, or the block (by an exception in it), is killed.

        Args:
            command: the subcommand.
            args: its options and arguments.
            repository: the directory that has the ``.hg``.

        Raises:
            HgFailed: it exited non-zero, was killed, or could not be started.
        """
        argv = [self.executable, command, "--repository", str(repository), "-y", "-q", *args]
        with start(
            argv,
            command,
            HgFailed,
            env=environment(self.environ),
            cwd=None,
            time_limit=self.time_limit,
        ) as running:
            yield running

    def run(self, command: str, *args: str, repository: Path, stdin: bytes = b"") -> bytes:
        """Run ``hg COMMAND ARGS`` to its end and return its whole standard output.

        Raises:
            HgFailed: as :meth:`start`.
        """
        with self.start(command, *args, repository=repository) as running:
            return converse(running, stdin)

    def converse(self, repository: Path, stdin: bytes) -> bytes:
        """Send ``stdin`` to the repository's server on standard input, and return what it says.

        Raises:
            HgFailed: as :meth:`start`.
        """
        # hg takes this command line in exactly this form, for the sake of SSH servers.
        argv = [self.executable, "-R", str(repository), "serve", "--stdio"]
        with start(
            argv,
            "serve",
            HgFailed,
            env=environment(self.environ),
            cwd=None,
            time_limit=self.time_limit,
        ) as running:
            return converse(running, stdin)
