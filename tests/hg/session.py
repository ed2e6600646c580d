# Law of this file: one hg process for a whole series of commands, since starting hg costs more than
# most of what it does. The command server's protocol (`hg help -e`, topic "CommandServer" of the
# wiki): big-endian lengths, a channel's letter before each; lower case may be ignored.

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from tests.hg.versions import environment

_HEADER: Final = struct.Struct(">cI")


class Session:
    """Runs hg commands in a directory, one after the other, in one process.

    Args:
        program: as `versions.hg` gives it.
        directory: where the commands run; the repository there, if there is one.
        config: `section.name=value` of hg, for all commands.
    """

    def __init__(self, program: Sequence[str], directory: Path, *config: str) -> None:
        self.directory = directory
        settings = [word for setting in config for word in ("--config", setting)]
        self._process = subprocess.Popen(
            [*program, *settings, "serve", "--cmdserver", "pipe"],
            cwd=directory,
            env=environment(directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._read()  # its greeting

    def __call__(self, *args: str | Path) -> bytes:
        """What a command prints; an error with all that it said if it failed."""
        command = b"\0".join(str(arg).encode() for arg in args)
        self._in.write(b"runcommand\n" + struct.pack(">I", len(command)) + command)
        self._in.flush()
        printed: dict[bytes, bytes] = {b"o": b"", b"e": b""}
        while (answer := self._read())[0] != b"r":
            printed[answer[0]] = printed.get(answer[0], b"") + answer[1]
        (status,) = struct.unpack(">i", answer[1])
        if status:
            said = (printed[b"o"] + printed[b"e"]).decode(errors="replace")
            raise AssertionError(f"hg {' '.join(map(str, args))} exited with {status}: {said}")
        return printed[b"o"]

    @property
    def _in(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _read(self) -> tuple[bytes, bytes]:
        out = self._process.stdout
        assert out is not None
        header = out.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise AssertionError(f"hg serve --cmdserver in {self.directory} ended by itself")
        channel, length = _HEADER.unpack(header)
        if channel in {b"I", b"L"}:
            raise AssertionError(f"hg in {self.directory} asks for input, and there is none")
        return channel, out.read(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._process:
            self._in.close()
