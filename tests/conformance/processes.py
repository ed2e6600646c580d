# Law of this file: the real program, as a user starts it, on a free port of loopback. Whatever was
# started here is ended here, by its own process id.

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

_PROGRAM: Final = (sys.executable, "-c", "from cli.main import main; main()")
_ADDRESS: Final = re.compile(r" at (http://\S+)/$")
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
_SETTINGS: Final = {
    "OFFRAMP_REDIRECT__MIN_SIZE": "0",
    "OFFRAMP_LOG__ACCESS": "false",
    # Tests ask the same again and again.
    "OFFRAMP_HEALTH__SUSPICION": "0",
}


@dataclass(frozen=True)
class Running:
    """A server process.

    Attributes:
        url: its base URL.
        process: of the parent, if there are several.
    """

    url: str
    process: asyncio.subprocess.Process

    async def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        await _ended(self.process)

    async def stop(self) -> int:
        """Ask it to stop; its exit code."""
        self.process.terminate()
        return await _ended(self.process)

    async def logged(self, words: str) -> str:
        """Wait for a line with ``words`` on its standard error."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            if words in line.decode():
                return line.decode()
        raise AssertionError(f"the server ended without saying {words!r}")

    async def figure(self, name: str) -> float:
        """The sum of one of the figures that it keeps, over all labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/-/metrics") as said:
            text = await said.text()
        return sum(float(value) for found, value in _SAMPLE.findall(text) if found == name)

    def workers(self) -> set[int]:
        """Process ids of its workers."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {int(child) for child in children if b"spawn_main" in _command_line(child)}

    def listening(self) -> int:
        """How many of its workers listen by now."""
        port = f":{int(self.url.rpartition(':')[2]):04X}"
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(fields[1].endswith(port) and fields[3] == "0A" for fields in sockets)


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it ended meanwhile


async def _ended(process: asyncio.subprocess.Process) -> int:
    # Its pipes are read to their ends, so that nothing is left open behind the test.
    await process.communicate()
    return process.returncode or 0


@dataclass
class Offramp:
    """Starts ``offramp`` in processes of their own.

    Attributes:
        data: the data directory of all of them.
    """

    data: Path
    _started: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(
        self, *args: str | Path, environ: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start ``offramp ARGS``."""
        process = await asyncio.create_subprocess_exec(
            *_PROGRAM,
            *map(str, args),
            "--data",
            str(self.data),
            env={**os.environ, **_SETTINGS, **(environ or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._started.append(process)
        return process

    async def serve(
        self, root: Path, *args: str, environ: Mapping[str, str] | None = None
    ) -> Running:
        """Start a server, and wait until it says its address."""
        process = await self.start("serve", root, "--listen", "127.0.0.1:0", *args, environ=environ)
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        found = _ADDRESS.search(line)
        assert found is not None, f"no address in {line!r}"
        return Running(found[1], process)

    async def index(self, root: Path) -> int:
        """Run ``offramp index`` to its end; its exit code."""
        return await _ended(await self.start("index", root))

    async def close(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            if process.returncode is None:
                process.kill()
                await _ended(process)
