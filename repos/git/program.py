# Law of this file: git is run with an argument list, a clean environment and a time limit, and a
# run that did not end well is an exception. These calls block; async callers use a thread.

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

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
# How much of a program's standard error is kept, from its end.
STDERR_KEPT: Final = 64 << 10


class GitFailed(Exception):  # noqa: N818 - what happened, in git's words
    """A git program ended badly.

    Attributes:
        command: the subcommand, such as ``upload-pack``.
        status: its exit code; negative, the signal that ended it.
        stderr: the last of what it said.
    """

    def __init__(self, command: str, status: int, stderr: str) -> None:
        self.command = command
        self.status = status
        self.stderr = stderr.strip()
        how = f"was ended by signal {-status}" if status < 0 else f"exited with {status}"
        super().__init__(f"git {command} {how}: {self.stderr or 'no message'}")


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


@dataclass(slots=True)
class Running:
    """A git program that runs, with pipes.

    Attributes:
        stdin: where its input goes; close it to end the input.
        stdout: its output.
    """

    command: str
    process: subprocess.Popen[bytes]
    _stderr: bytearray = field(default_factory=bytearray)

    @property
    def stdin(self) -> IO[bytes]:
        """Where its input goes."""
        assert self.process.stdin is not None  # noqa: S101 - we asked for a pipe
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Its output."""
        assert self.process.stdout is not None  # noqa: S101 - we asked for a pipe
        return self.process.stdout

    def feed(self, data: bytes) -> None:
        """Write its whole input; a program that stopped reading says why by its exit code."""
        _feed(self.stdin, data)

    def stderr_text(self) -> str:
        """The last of what it wrote to its standard error."""
        return bytes(self._stderr).decode(errors="replace")

    def _drain_stderr(self) -> None:
        stream = self.process.stderr
        assert stream is not None  # noqa: S101 - we asked for a pipe
        while chunk := stream.read1(4096):  # type: ignore[attr-defined]
            self._stderr += chunk
            del self._stderr[:-STDERR_KEPT]


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
        command = next(word for word in args if not word.startswith("-"))
        try:
            process = subprocess.Popen(
                [self.executable, *settings, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd or "/",
                env=environment(self.environ, env),
                start_new_session=True,
            )
        except OSError as error:
            raise GitFailed(command, 127, str(error)) from error
        running = Running(command, process)
        drain = threading.Thread(target=running._drain_stderr, daemon=True)  # noqa: SLF001
        drain.start()
        deadline = threading.Timer(self.time_limit, kill_group, (process.pid,))
        deadline.daemon = True
        deadline.start()
        try:
            yield running
            _close_quietly(process.stdin)
            process.wait()
        except BaseException:
            kill_group(process.pid)
            process.wait()
            raise
        finally:
            deadline.cancel()
            drain.join()
            for pipe in (process.stdin, process.stdout, process.stderr):
                _close_quietly(pipe)
        if process.returncode != 0:
            raise GitFailed(command, process.returncode, running.stderr_text())

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
            feeder = threading.Thread(target=_feed, args=(running.stdin, stdin), daemon=True)
            feeder.start()
            output = running.stdout.read()
            feeder.join()
        return output


def _feed(pipe: IO[bytes], data: bytes) -> None:
    """Write and close; a program that stopped reading says why by its exit code."""
    try:
        pipe.write(data)
        pipe.close()
    except BrokenPipeError:
        pass
    finally:
        _close_quietly(pipe)


def _close_quietly(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except BrokenPipeError:
        pass


def kill_group(pid: int) -> None:
    """End the program and what it started (pack-objects): they share a process group."""
    with suppress(ProcessLookupError):
        os.killpg(pid, 9)
