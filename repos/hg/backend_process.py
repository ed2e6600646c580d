# Law of this file: one run of `hg serve` and its end. Whatever ends this process ends the program
# and what it started, SIGKILL too; and its outputs are read, so that it is never held up by them.
#
# Not PR_SET_PDEATHSIG: that fires when the *thread* ends that started the program. A pipe says it
# right, but hg does not read its standard input. So a shell leaves somebody behind who waits for
# the pipe's end, and becomes hg itself.

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import IO, Final

from repos.program import STDERR_KEPT, close_quietly, kill_group

_GUARDED: Final = """\
exec 3<&0 </dev/null
(read -r _ <&3; kill -9 0) >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"""

_LISTENING: Final = re.compile(rb"\(bound to 127\.0\.0\.1:([0-9]{1,5})\)\s*$")
_LONGEST_LINE: Final = 4096

# Seconds in which outputs end after the program has. Only somebody who left its process group,
# a daemon that a hook started, still has them then.
_LAST_WORDS: Final = 1.0


class HgServe:
    """A run of ``hg serve``.

    Attributes:
        pid: of the program, and of its process group.
        port: where it listens; None if it ended without having said so.
        ended: its exit code (negative, the signal that ended it), when it and what it started have
            ended.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            OSError: there is no shell to start it.
        """
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _GUARDED, "sh", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=dict(env),
            start_new_session=True,
        )
        self.pid: Final = self._process.pid
        self.port: Final[Future[int | None]] = Future()
        self.ended: Final[Future[int]] = Future()
        self._stderr = bytearray()
        self._group = threading.Lock()
        self._gone = False
        self._drains = [
            threading.Thread(target=self._read_stdout, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for drain in self._drains:
            drain.start()
        threading.Thread(target=self._wait, daemon=True).start()

    def stderr_text(self) -> str:
        """The last of what it wrote to its standard error."""
        return bytes(self._stderr).decode(errors="replace").strip()

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it, and what it started."""
        with self._group:
            if not self._gone:
                kill_group(self.pid)

    def _wait(self) -> None:
        status = self._process.wait()
        # The number is still that of its group: who guards it is in there until now.
        self.kill()
        with self._group:
            self._gone = True
        close_quietly(self._process.stdin)
        for drain in self._drains:
            drain.join(_LAST_WORDS)
        if not self.port.done():
            self.port.set_result(None)
        self.ended.set_result(status)

    def _read_stdout(self) -> None:
        with _stream(self._process.stdout) as stream:
            while line := stream.readline(_LONGEST_LINE):
                found = _LISTENING.search(line)
                if found is not None and not self.port.done():
                    self.port.set_result(int(found[1]))

    def _read_stderr(self) -> None:
        with _stream(self._process.stderr) as stream:
            while chunk := stream.read1(4096):  # type: ignore[attr-defined]
                self._stderr += chunk
                del self._stderr[:-STDERR_KEPT]


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 - we asked for a pipe
    return stream
