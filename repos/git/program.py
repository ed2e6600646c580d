# Law of this file: git is run with an argument list, a clean environment and a time limit, and a
# run that did not end well is an exception. These calls block; async callers use a thread.

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from repos.program import STDERR_KEPT, ProgramFailed, Running, converse, kill_group, start

__all__ = ["STDERR_KEPT", "Git", "GitFailed", "Running", "environment", "kill_group"]

# What a git program may see of our environment: where programs and the user's configuration
# are (safe.directory must mean what it means to stock git), and nothing else.
_KEPT: Final = (
    "PATH",
    "HOME",
    "XDG_CONFIG_HOME",
    "TMPDIR",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_COUNT",
    "GIT_EXEC_PATH",
)
_KEPT_PREFIXES: Final = ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")
_SET: Final = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
}


class GitFailed(ProgramFailed):
    """A git program ended badly.

    Attributes:
        command: the subcommand, such as ``upload-pack``.
        status: its exit code; negative, the signal that ended it.
        stderr: the last of what it said.
    """

    program = "git"


def environment(
    environ: Mapping[str, str], extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What a git program sees of ``environ``, with our own settings and ``extra`` on top."""
    kept = {
        name: value
        for name, value in environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return {**kept, **_SET, **(extra or {})}


@dataclass(frozen=True, slots=True)
class Git:
    """How git programs are run.

    Attributes:
        time_limit: seconds after which a program is killed.
        environ: our environment, of which programs see a part (see :func:`environment`).
        executable: the program; found on PATH.
    """

    time_limit: float = 3600.0
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    executable: str = "git"

    @contextmanager
    def start(
        self,
        *args: str,
        config: Sequence[tuple[str, str]] = (),
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Iterator[Running]:
        """Run ``git ARGS`` with pipes; leaving the block waits for its end.

        ``config`` are ``-c name=value`` settings. A program that outlives the time limit, or the
        block (by an exception in it), is killed.

        Raises:
            GitFailed: it exited non-zero, was killed, or could not be started.
        """
        settings = [word for name, value in config for word in ("-c", f"{name}={value}")]
        with start(
            [self.executable, *settings, *args],
            next(word for word in args if not word.startswith("-")),
            GitFailed,
            env=environment(self.environ, env),
            cwd=cwd,
            time_limit=self.time_limit,
        ) as running:
            yield running

    def run(
        self,
        *args: str,
        stdin: bytes = b"",
        config: Sequence[tuple[str, str]] = (),
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """Run ``git ARGS`` to its end and return its whole standard output.

        Raises:
            GitFailed: as :meth:`start`.
        """
        with self.start(*args, config=config, cwd=cwd, env=env) as running:
            return converse(running, stdin)
