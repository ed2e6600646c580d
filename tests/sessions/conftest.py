# Law of this file: a server of ours and another server of the same repositories, both real, and
# gone when the test is.

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from server.sessions.watch import MirrorWatch
from tests.conformance.repositories import Repository, make
from tests.conftest import Served
from tests.upstreams.forge import Forge, running_forge

NAME: Final = "project.git"

# So seldom that nothing is looked at in a test twice, unless there is a reason.
SELDOM: Final = {"interval": 3600, "timeout": 60, "suspicion": 0}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """The normal repository, below ROOT."""
    return make(tmp_path / "root", NAME)


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    """A plain mirror: nginx before git's http-backend, with the same repository."""
    with running_forge(tmp_path / "forge") as forge:
        forge.make(NAME)
        yield forge


def mirror(url: str, **settings: Any) -> dict[str, Any]:
    """The settings of one mirror, whose comparisons hold for the time of a test."""
    return {"name": "near", "url": url, "max_age": 3600, **settings}


def watch_of(served: Served) -> MirrorWatch:
    """What the server knows of its mirrors."""
    assert served.runtime.sessions is not None
    return served.runtime.sessions.watch


async def compared(watch: MirrorWatch) -> None:
    """Wait until something was seen of everything that clients asked for, and none is under way."""
    async with asyncio.timeout(60):
        while running := [
            *(task for each in watch._watched.values() for task in each.running),
            *(known for known in watch._known.values() if known.looks.keys() - known.seen.keys()),
        ]:
            tasks = [task for task in running if isinstance(task, asyncio.Task)]
            await asyncio.gather(asyncio.sleep(0), *tasks)


def decisions(served: Served) -> dict[str, float]:
    """How often sessions moved, by mirror, or stayed, by reason."""
    return {
        said["mirror"] or said["reason"]: value
        for labels, value in served._samples("offramp_sessions_total").items()
        if (said := dict(labels))
    }


@dataclass
class Relay:
    """A port that leads to a server which is started later.

    Attributes:
        url: of the port.
        target: host and port of the server.
    """

    url: str = ""
    target: tuple[str, int] = ("", 0)
    _server: asyncio.Server | None = None
    _carrying: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def lead_to(self, url: str) -> None:
        """Lead to the server with this URL from now on."""
        parts = urlsplit(url)
        self.target = (parts.hostname or "", parts.port or 0)

    async def close(self) -> None:
        """End everything."""
        assert self._server is not None
        self._server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        # Cancelled is how it ends at the end of a test; asyncio would call that an error.
        with suppress(asyncio.CancelledError):
            theirs, ours = await asyncio.open_connection(*self.target)
            try:
                await asyncio.gather(_pour(reader, ours), _pour(theirs, writer))
            finally:
                ours.close()
        writer.close()
        self._carrying.discard(task)


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    """So that two servers can know each other's URLs before either runs."""
    relay = Relay()
    await relay.open()
    yield relay
    await relay.close()


def copied(root: Path, to: Path) -> Path:
    """The same repositories below another root."""
    return Path(shutil.copytree(root, to, symlinks=True))
