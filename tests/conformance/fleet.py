# Law of this file: three real file servers before one store, and a server that sends clients to
# them; each can be killed as a crash does, and come back where it was.

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from indexer.report import Silent
from redirects.health import State
from server.indexing import index_all
from tests.conformance.clones import V2_HEADERS, locations, v2_request
from tests.conformance.repositories import Repository
from tests.conftest import Finished, Serve, Served
from tests.nginx import kill_nginx, start_nginx

NAMES: Final = ("a", "b", "c")

# Nothing is probed again in a test, unless there is a reason.
SELDOM: Final = {"interval": "1h", "timeout": "30s"}

# While there is a file `slow`, git gets the first 64 KiB of what it downloads at once, and the rest
# at a pace that it does not see the end of.
_SERVER: Final = """\
    server {{
        listen {address};
        root {store};
        set $pace 0;
        if (-f {here}/slow) {{ set $pace 64; }}
        limit_rate_after 64k;
        limit_rate $pace;
    }}
"""


@dataclass
class FileServer:
    """A stock nginx in front of a directory store.

    Attributes:
        here: where it keeps its files.
        store: the directory.
        port: of 127.0.0.1; 0 for any that is free.
    """

    here: Path
    store: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def netloc(self) -> str:
        """As in URLs of it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, where it did before."""
        with closing(socket.create_server(("127.0.0.1", self.port))) as listener:
            self.port = listener.getsockname()[1]
            server = _SERVER.format(here=self.here, address=self.netloc, store=self.store)
            self._process = start_nginx(self.here, server, listener)

    def slow(self) -> None:
        """From now on downloads stop in their middle."""
        (self.here / "slow").touch()

    def kill(self) -> None:
        """End it as a crash does, with all its connections; harmless a second time."""
        process, self._process = self._process, None
        if process is not None:
            kill_nginx(process)
            (self.here / "slow").unlink(missing_ok=True)


@dataclass
class Fleet:
    """A server and the file servers that clients are sent to.

    Attributes:
        served: the server.
        servers: by name of the target, in order.
        told: what was thought of the first one, one after another.
    """

    served: Served
    servers: dict[str, FileServer]
    told: list[State] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _waking: set[asyncio.Task[None]] = field(default_factory=set)

    def note(self, target: str, thought: State) -> None:
        """See how the first one is seen."""
        if target == "a":
            self.told.append(thought)
            task = asyncio.create_task(self._wake())
            self._waking.add(task)
            task.add_done_callback(self._waking.discard)

    async def _wake(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, thought: State) -> None:
        """Wait until that is thought of the first one."""
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(lambda: self.told[-1:] == [thought])

    def sent_to(self, traced: Finished) -> set[str]:
        """Names of the targets that a traced client was sent to."""
        netlocs = {urlsplit(url).netloc for url in locations(traced).values()}
        known = {server.netloc: name for name, server in self.servers.items()}
        return {known[netloc] for netloc in netlocs}


@asynccontextmanager
async def fleet_of(
    serve: Serve, repository: Repository, data: Path, **settings: Any
) -> AsyncIterator[Fleet]:
    """Three file servers of which the first is the nearest, and a repository that is indexed."""
    store = data / "store"
    (store / "entities").mkdir(parents=True)
    async with AsyncExitStack() as stack:
        servers = {name: FileServer(data.parent / f"nginx-{name}", store) for name in NAMES}
        for server in servers.values():
            server.start()
            stack.callback(server.kill)
        served = await serve(
            repository.root,
            data=data,
            targets=[
                {"type": "http", "name": name, "base_url": f"http://{server.netloc}"}
                for name, server in servers.items()
            ],
            health=SELDOM,
            **settings,
        )
        await index_all(served.settings, Silent(), gc=True)
        await served.runtime.catalogs.refresh_all()
        made = Fleet(served, servers)
        served.runtime.health.changed = made.note
        yield made


async def ask(
    session: aiohttp.ClientSession, served: Served, repository: Repository, **headers: str
) -> bool:
    """Ask for a clone; tells whether it was redirected."""
    body = v2_request(
        "fetch",
        f"want {repository.oid('refs/heads/main')}",
        "ofs-delta",
        "packfile-uris http,https",
        "done",
    )
    url = f"{repository.url(served.url)}/git-upload-pack"
    async with session.post(url, data=body, headers={**V2_HEADERS, **headers}) as answer:
        content = await answer.read()
        assert answer.status == 200
        return b"packfile-uris" in content


def one_shot() -> aiohttp.ClientSession:
    """A client that ends its connection when it has asked."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
