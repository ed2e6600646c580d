# Law of this file: a stock client of 5.9.3 speaks protocol v2 here: as a process of its own, as
# people run it, or, where many commands follow each other, in one process for all.

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import Served
from tests.hg.session import Session
from tests.hg.state import State, state_of
from tests.hg.stock import CLIENT_V2
from tests.hg.versions import V2, hg, run

Done = subprocess.CompletedProcess[bytes]


async def talk(directory: Path, *args: str | Path, version: str = V2) -> Done:
    """Run a client that speaks v2 if it can, beside a server of this process."""
    config = CLIENT_V2 if version == V2 else ()
    return await asyncio.to_thread(run, hg(version), directory, *config, *args)


async def said(directory: Path, *args: str | Path) -> bytes:
    """The standard output of a process that must end well, and quietly."""
    done = await talk(directory, *args)
    assert (done.returncode, done.stderr) == (0, b""), (args, done)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Client:
    """One process for many commands.

    Attributes:
        session: with hg.
    """

    session: Session

    async def __call__(self, *args: str | Path) -> bytes:
        """What a command prints, which must end well."""
        return await asyncio.to_thread(self.session, *args)

    async def clone(self, url: str, to: Path, *options: str) -> State:
        """Clone, and see that the clone is whole."""
        await self("clone", "--quiet", *options, url, to)
        return await self.state(to)

    async def pull(self, at: Path, *options: str) -> State:
        """Pull from where it was cloned, and see that all is whole."""
        await self("-R", at, "pull", "--quiet", *options)
        return await self.state(at)

    async def state(self, path: Path) -> State:
        """What a repository has, which must be whole."""
        return await asyncio.to_thread(state_of, self.session, path)


async def clone(served: Served, client: Client, name: str, to: Path, *options: str) -> State:
    """Clone by a process of its own, which must say nothing on standard error."""
    await said(to.parent, "clone", "--quiet", *options, f"{served.url}/{name}", to)
    return await client.state(to)
