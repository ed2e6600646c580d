# Law of this file: real server processes on one data directory, before one forge; whoever is killed
# is killed by its process id.

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from repos.git.mirror import mirror_path
from server.upstreams.mirrors import MIRRORS
from tests.conformance.clones import Client, state, stock
from tests.conformance.processes import Offramp, Running
from tests.conformance.repositories import Repository, run_git
from tests.upstreams.clients import Done, anonymous, clone
from tests.upstreams.faults import Holds, Proxy
from tests.upstreams.scene import NAME

MADE = "is mirrored, after"


@dataclass(frozen=True)
class Machine:
    """Where real servers run on one data directory, before one upstream.

    Attributes:
        offramp: starts them.
        proxy: between them and the forge.
        repository: at the forge.
        directory: of all that is needed.
    """

    offramp: Offramp
    proxy: Proxy
    repository: Repository
    directory: Path

    @property
    def client(self) -> Client:
        """Who accepts locations."""
        return anonymous(self.directory)

    @property
    def mirror(self) -> Path:
        """Where the mirror lies, or would lie."""
        return mirror_path(self.offramp.data / MIRRORS, "up/acme/widget")

    async def serve(self, *words: str, path: str | None = None) -> Running:
        """Start a server; its programs are found on ``path``."""
        config = self.directory / "offramp.toml"
        config.write_text(
            f'[[upstreams]]\nprefix = "/up/"\nurl = "{self.proxy.url}"\npublic = true\n'
            'stall_time = "5s"\n[index]\nenabled = false\n'
        )
        environ = {} if path is None else {"PATH": path}
        root = self.directory / "root"
        root.mkdir(exist_ok=True)
        return await self.offramp.serve(root, "--config", str(config), *words, environ=environ)

    async def clone(self, server: Running, name: str) -> Done:
        """Clone through a server."""
        return await clone(self.client, f"{server.url}/up/{NAME}", self.directory / name)

    async def right(self, server: Running, name: str) -> Done:
        """Clone through a server, and see that it is what the forge has."""
        done = await self.clone(server, name)
        assert done.well, done.finished.stderr
        await self.check(name)
        return done

    async def check(self, name: str) -> None:
        """See that a clone is what the forge has."""
        plain = stock(self.directory)
        expected = self.directory / f"{name}-expected"
        await plain("clone", "--bare", f"{self.proxy.upstream}/{NAME}", expected)
        assert await state(self.client, self.directory / name) == await state(plain, expected)

    async def mirrored(self, server: Running) -> None:
        """Have the mirror made."""
        assert (await self.clone(server, "first")).well
        await server.logged(MADE)
        self.proxy.forget()

    def check_mirror(self) -> None:
        """See that git finds nothing wrong with it."""
        run_git(self.mirror, "fsck", "--strict", "--no-dangling")
        assert not [path for path in self.mirror.rglob("*") if path.name.startswith("tmp_")]
        assert not [path for path in self.mirror.parent.iterdir() if path.suffix == ".new"]

    def fetches(self) -> int:
        """How often a mirror's git has come: it asks where it is, which nobody else's does."""
        return sum("offramp" not in e.headers["User-Agent"] for e in self.proxy.seen("info-refs"))

    def push(self) -> None:
        """Something new at the forge."""
        text = "".join(f"{number * number}\n" for number in range(4000))
        self.repository.commit("refs/heads/main", 20, big=text)


def gits_of(directory: Path) -> list[int]:
    """Process ids of the git programs that work below a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                here = (entry / "cwd").readlink()
            except OSError:
                continue  # it ended meanwhile
            works_here = any(os.fsencode(directory) in word for word in words)
            if b"git" in words[0] and (works_here or here.is_relative_to(directory)):
                found.append(int(entry.name))
    return found


@dataclass(frozen=True, eq=False)
class Gathers(Holds):
    """Also counts what it holds."""

    _arrived: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def gathered(self, count: int) -> None:
        """Wait until so many are held."""
        for _ in range(count):
            await self._arrived.acquire()

    async def wait(self) -> None:
        """Be held."""
        self._arrived.release()
        await super().wait()


async def ended(pid: int) -> None:
    """Wait until a program that is not our child has ended."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop.add_reader(descriptor, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
