# Law of this file: a program is run with an argument list, the environment that it is given, and a
# time limit; a run that did not end well is an exception. These calls block; async callers use a
# thread, which knows afterwards what the programs cost that it waited for.

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar, Final

# How much of a program's standard error is kept, from its end.
STDERR_KEPT: Final = 64 << 10

_waited = threading.local()


def cpu_spent() -> float:
    """Seconds of processor time that this thread has caused: its own, and its programs'.

    Of programs, those whose end it waited for in :func:`start`, with what they waited for
    themselves (`git pack-objects`). Two calls in one thread tell what lies between them.
    """
    children: float = getattr(_waited, "seconds", 0.0)
    return time.thread_time() + children


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a program, and remember the processor time that it took."""
    if process.returncode is None:
        # wait4(2), as Popen's own wait tells no usage.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        known: float = getattr(_waited, "seconds", 0.0)
        _waited.seconds = known + usage.ru_utime + usage.ru_stime


class ProgramFailed(Exception):  # noqa: N818 - what happened, in the program's words
    """A program ended badly.

    Attributes:
        program: what it is called, such as ``git``.
        command: the subcommand, such as ``upload-pack``.
        status: its exit code; negative, the signal that ended it.
        stderr: the last of what it said.
    """

    program: ClassVar[str]

    def __init__(self, command: str, status: int, stderr: str) -> None:
        self.command = command
        self.status = status
        self.stderr = stderr.strip()
        how = f"was ended by signal {-status}" if status < 0 else f"exited with {status}"
        super().__init__(f"{self.program} {command} {how}: {self.stderr or 'no message'}")


@dataclass(slots=True)
class Running:
    """A program that runs, with pipes.

    Attributes:
        command: its subcommand, for messages.
        process: the process itself.
    """

    command: str
    process: subprocess.Popen[bytes]
    _stderr: bytearray = field(default_factory=bytearray)

    @property
    def stdin(self) -> IO[bytes]:
        """Where its input goes; close it to end the input."""
        assert self.process.stdin is not None  # noqa: S101 - we asked for a pipe
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Its output."""
        assert self.process.stdout is not None  # noqa: S101 - we asked for a pipe
        return self.process.stdout

    def feed(self, data: bytes) -> None:
        """Write its whole input; a program that stopped reading says why by its exit code."""
        feed(self.stdin, data)

    def stderr_text(self) -> str:
        """The last of what it wrote to its standard error."""
        return bytes(self._stderr).decode(errors="replace")

    def _drain_stderr(self) -> None:
        stream = self.process.stderr
        assert stream is not None  # noqa: S101 - we asked for a pipe
        while chunk := stream.read1(4096):  # type: ignore[attr-defined]
            self._stderr += chunk
            del self._stderr[:-STDERR_KEPT]


@contextmanager
def start(
    argv: Sequence[str],
    command: str,
    failed: type[ProgramFailed],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    time_limit: float,
) -> Iterator[Running]:
    """Run ``argv`` with pipes, in a session of its own; leaving the block waits for its end.

    A program that outlives ``time_limit`` seconds, or the block (by an exception in it), is killed
    with everything that it started.

    Raises:
        ProgramFailed: of the kind ``failed``: it exited non-zero, was killed, or could not be
            started. It names the subcommand ``command``.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or "/",
            env=dict(env),
            start_new_session=True,
        )
    except OSError as error:
        raise failed(command, 127, str(error)) from error
    running = Running(command, process)
    drain = threading.Thread(target=running._drain_stderr, daemon=True)  # noqa: SLF001
    drain.start()
    deadline = threading.Timer(time_limit, kill_group, (process.pid,))
    deadline.daemon = True
    deadline.start()
    try:
        yield running
        close_quietly(process.stdin)
        _wait(process)
    except BaseException:
        kill_group(process.pid)
        process.wait()
        raise
    finally:
        deadline.cancel()
        drain.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            close_quietly(pipe)
    if process.returncode != 0:
        raise failed(command, process.returncode, running.stderr_text())


def converse(running: Running, stdin: bytes) -> bytes:
    """Write a program's whole input and read its whole output, whatever it does first."""
    feeder = threading.Thread(target=feed, args=(running.stdin, stdin), daemon=True)
    feeder.start()
    output = running.stdout.read()
    feeder.join()
    return output


def feed(pipe: IO[bytes], data: bytes) -> None:
    """Write and close; a program that stopped reading says why by its exit code."""
    try:
        pipe.write(data)
        pipe.close()
    except BrokenPipeError:
        pass
    finally:
        close_quietly(pipe)


def close_quietly(pipe: IO[bytes] | None) -> None:
    """Close a pipe, whether or not anybody still reads from it."""
    try:
        if pipe is not None:
            pipe.close()
    except BrokenPipeError:
        pass


def kill_group(pid: int) -> None:
    """End the program and what it started (pack-objects): they share a process group."""
    with suppress(ProcessLookupError):
        os.killpg(pid, 9)
