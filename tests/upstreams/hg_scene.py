# Law of this file: one Mercurial repository at a real `hg serve`, a proxy before it that counts,
# asks for passwords and breaks what a test wants broken, and Offramp before that.

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from tests.conftest import Serve, Served
from tests.hg.repositories import Work, work
from tests.hg.session import Session
from tests.hg.state import State, state_of
from tests.hg.stock import serving
from tests.hg.versions import V1, hg, run
from tests.server.asking import Reply, ask
from tests.upstreams.clients import basic
from tests.upstreams.faults import Answers, Exchange, Fault, Proxy

MODERN: Final = V1[-1]
PLACE: Final = "/code/widget"
NAME: Final = PLACE.strip("/")
ANN: Final = basic("ann", "anns-own-password")
BOB: Final = basic("bob", "bobs-own-password")
CHALLENGE: Final = 'Basic realm="code"'

# Everything, for who can read changegroups of version 02; said twice: in a list, in a query.
GETBUNDLE: Final = (
    "cmd=getbundle&cg=1&bundlecaps=HG20%2Cbundle2%3DHG20%250Achangegroup%253D01%252C02"
)

# Whoever reaches `hg serve` may push; who reaches it, the proxy says. Drafts stay what they are.
_OPEN: Final = ("web.allow-push=*", "web.push_ssl=false", "phases.publish=false")


@dataclass
class HgProxy(Proxy):
    """A proxy that knows Mercurial's commands.

    Attributes:
        readers: statuses of the answers to those with credentials: 200 goes through. Who is not
            there is asked for a password. Empty: everybody goes through.
        broken: faults by command.
    """

    readers: dict[str, int] = field(default_factory=dict)
    broken: dict[str, Fault] = field(default_factory=dict)

    @property
    def commands(self) -> Counter[str]:
        """How often each command came."""
        return Counter(command_of(exchange) for exchange in self.exchanges)

    def sent_for(self, command: str) -> int:
        """Bytes of the answers to a command."""
        return sum(each.sent for each in self.exchanges if command_of(each) == command)

    def _fault(self, exchange: Exchange) -> Fault | None:
        if self.readers:
            status = self.readers.get(exchange.authorization or "", 401)
            if status == 401:
                return Answers(401, {"WWW-Authenticate": CHALLENGE}, b"who are you?\n")
            if status != 200:
                return Answers(status, {"Content-Type": "text/plain"}, b"not for you\n")
        return self.broken.get(command_of(exchange)) or self.broken.get("*")


def command_of(exchange: Exchange) -> str:
    """Which command a request asks for."""
    return parse_qs(urlsplit(exchange.path).query).get("cmd", ["none"])[-1]


def make_widget(version: str, path: Path) -> None:
    """A repository with a branch, a bookmark and a draft, which does not publish."""
    with work(hg(version), path) as made:
        for number in range(4):
            made.commit(a=f"{number}\n" * 500)
        made.hg("branch", "--quiet", "stable")
        made.commit(b="on a branch\n")
        made.hg("phase", "--public", "--rev", "tip")
        made.update("default")
        made.commit(c="a draft\n")
        made.hg("bookmark", "--inactive", "--rev", "tip", "feature")


@dataclass(frozen=True)
class HgScene:
    """A repository, and the way to it.

    Attributes:
        served: Offramp.
        proxy: between Offramp and the upstream.
        upstream: the repository there, where it can be changed.
        client: stock hg of today.
        directory: where clients run.
    """

    served: Served
    proxy: HgProxy
    upstream: Work
    client: Session
    directory: Path

    @property
    def url(self) -> str:
        """The repository through Offramp."""
        return f"{self.served.url}{PLACE}"

    @property
    def there(self) -> str:
        """The repository at the upstream, where nothing counts and nothing breaks."""
        return self.proxy.upstream

    def later(self, seconds: float) -> None:
        """What is remembered of the upstream is older from now on."""
        upstreams = self.served.runtime.upstreams
        assert upstreams is not None
        views = upstreams.hg_views
        clock = views.clock
        views.clock = lambda: clock() + seconds

    def as_user(self, user: str) -> str:
        """The repository through Offramp, for somebody with a password."""
        return self.url.replace("http://", f"http://{user}:{user}s-own-password@")

    async def hg(self, *args: str | Path) -> str:
        """What a command of today's hg prints, which must end well."""
        return (await asyncio.to_thread(self.client, *args)).decode()

    async def fails(self, *args: str | Path) -> str:
        """What a command prints that must fail; in a process of its own, which knows nothing."""
        done = await asyncio.to_thread(run, hg(MODERN), self.directory, *args)
        assert done.returncode, done
        return (done.stdout + done.stderr).decode()

    async def state(self, name: str) -> State:
        """What a clone has, which must be whole."""
        return await asyncio.to_thread(state_of, self.client, self.directory / name)

    async def clone(self, name: str, *options: str, url: str | None = None) -> State:
        """Clone through Offramp; it must come to what a clone from the upstream comes to."""
        await self.hg("clone", "--quiet", *options, url or self.url, self.directory / name)
        expected = f"{name}-expected"
        await self.hg("clone", "--quiet", *options, self.there, self.directory / expected)
        found = await self.state(name)
        assert found == await self.state(expected)
        return found

    async def change(self, **files: str) -> str:
        """A new changeset at the upstream; its node."""
        return await asyncio.to_thread(self.upstream.commit, **files)

    async def upstream_hg(self, *args: str) -> str:
        """What hg prints that works in the upstream's repository."""
        return (await asyncio.to_thread(self.upstream.hg, *args)).decode()

    async def ask(
        self, query: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Reply:
        """One request of a client."""
        return await ask(self.served, method, f"{PLACE}?{query}", headers=dict(headers or {}))


@asynccontextmanager
async def upstream_of(version: str, path: Path) -> AsyncIterator[tuple[HgProxy, Work]]:
    """Serve a repository by a stock hg; gives a proxy before that, and what can change it."""
    with Session(hg(version), path) as session, serving(hg(version), path, *_OPEN) as url:
        proxy = await HgProxy.start(url)
        try:
            yield proxy, Work(session)
        finally:
            await proxy.close()


async def hg_scene(
    serve: Serve,
    upstream: tuple[HgProxy, Work],
    client: Session,
    directory: Path,
    **settings: Any,
) -> HgScene:
    """Start Offramp before an upstream; settings of the server are given by their names.

    Those of ``place`` are added to what the upstream must have.
    """
    proxy, made = upstream
    more = settings.pop("place", {})
    place = {"repository": PLACE, "url": proxy.url, "vcs": "hg", **more}
    settings.setdefault("index", {"enabled": False})
    served = await serve(None, upstreams=[place], **settings)
    directory.mkdir(exist_ok=True)
    return HgScene(served, proxy, made, client, directory)
