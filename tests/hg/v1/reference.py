# Law of this file: what is right is what the same client gets from the `hg serve` that our server
# has behind it, when it is asked directly. It serves whatever the tests of a session made.

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from tests.hg.cloning import Client
from tests.hg.session import Session
from tests.hg.state import State
from tests.hg.versions import V1, environment, hg
from tests.repos.hg_webdir import Webdir

_CONF: Final = """\
[paths]
/ = {roots}/*
[web]
refreshinterval = -1
allow_push = *
push_ssl = false
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """A repository that a client has got.

    Attributes:
        state: its changesets and names; `hg verify` found nothing wrong in it.
        markers: of obsolescence.
    """

    state: State
    markers: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Person:
    """A user of one version, with one process for all commands.

    Attributes:
        version: of Mercurial.
        client: that process.
        home: for its clones.
    """

    version: str
    client: Client
    home: Path

    async def __call__(self, *args: str | Path) -> bytes:
        """What a command prints, which must end well."""
        return await self.client(*args)

    async def copy(self, at: Path) -> Copy:
        """What a repository has."""
        state = await self.client.state(at)
        return Copy(state, frozenset((await self.client("-R", at, "debugobsolete")).splitlines()))

    async def clone(self, url: str, to: Path, *options: str) -> tuple[Copy, str]:
        """Clone; gives what came, and what was said of it."""
        said = await self.client("clone", *options, url, to)
        return await self.copy(to), said.decode(errors="replace")

    async def attempt(self, at: Path, *args: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run a command that may fail, in a process of its own."""
        return await asyncio.to_thread(
            subprocess.run,
            [*hg(self.version), *map(str, args)],
            cwd=at,
            env=environment(self.home),
            capture_output=True,
            check=False,
        )


@dataclass(slots=True)
class Reference:
    """A stock server, and stock clients of all versions, started when they are first asked for.

    Attributes:
        roots: repositories below here are served.
        home: for what server and clients write.
        server: its version.
    """

    roots: Path
    home: Path
    server: str = V1[-1]
    _stack: ExitStack = field(default_factory=ExitStack)
    _address: str = ""
    _people: dict[str, Person] = field(default_factory=dict)
    _copies: dict[tuple[str, Path, tuple[str, ...]], Copy] = field(default_factory=dict)
    _count: int = 0

    def person(self, version: str) -> Person:
        """A user of a version."""
        if version not in self._people:
            home = self.home / f"person-{version}"
            home.mkdir()
            session = self._stack.enter_context(Session(hg(version), home))
            self._people[version] = Person(version, Client(session), home)
        return self._people[version]

    @property
    def address(self) -> str:
        """Host and port of the stock server."""
        if not self._address:
            home = self.home / "server"
            home.mkdir()
            self._address = self._stack.enter_context(_serving(self.server, self.roots, home))
        return self._address

    def url(self, repository: Path) -> str:
        """Of a repository at the stock server."""
        return f"http://{self.address}/{self.name(repository)}"

    def answers(self) -> Webdir:
        """What it answers, byte for byte; see :meth:`name`."""
        return Webdir(self.address)

    def name(self, repository: Path) -> str:
        """What a repository is called there, quoted."""
        return quote(str(repository.relative_to(self.roots)))

    async def expected(self, version: str, repository: Path, *options: str) -> Copy:
        """What a clone from the stock server has, of a repository that nobody changes."""
        key = (version, repository, options)
        if key not in self._copies:
            self._copies[key] = await self.anew(version, repository, *options)
        return self._copies[key]

    async def anew(self, version: str, repository: Path, *options: str) -> Copy:
        """What a clone from the stock server has now."""
        self._count += 1
        to = self.home / f"clone-{self._count}"
        copy, _ = await self.person(version).clone(self.url(repository), to, *options)
        return copy

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextmanager
def _serving(version: str, roots: Path, home: Path) -> Iterator[str]:
    """Host and port of an `hg serve` that finds what is made later, too."""
    (home / "conf").write_text(_CONF.format(roots=roots))
    command = ["serve", "--address", "127.0.0.1", "--port", "0", "--print-url", "--quiet"]
    command += ["--webdir-conf", str(home / "conf"), "--config", "server.compressionengines=none"]
    command += ["--accesslog", "/dev/null", "--errorlog", "/dev/null"]
    with subprocess.Popen(
        [*hg(version), *command],
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().decode().strip()
            assert url.startswith("http"), f"hg serve of {version} did not start: {url}"
            yield f"127.0.0.1:{url.rstrip('/').rpartition(':')[2]}"
        finally:
            process.terminate()
