# Law of this file: one repository at a forge, a proxy before it, and Offramp before that; what a
# clone through all of it holds is compared with one from the forge itself.

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from repos.git.mirror import mirror_path
from server.upstreams.mirrors import MIRRORS, Mirrors
from server.upstreams.routes import Remote
from server.upstreams.upstreams import Upstreams
from server.upstreams.views import Views
from tests.conformance.clones import Client, stock
from tests.conformance.clones import state as state_of
from tests.conformance.repositories import Repository, run_git
from tests.conftest import Serve, Served
from tests.upstreams.clients import Done, anonymous, clone
from tests.upstreams.faults import Proxy

NAME: Final = "acme/widget.git"
PREFIX: Final = "/up/"


@dataclass(frozen=True)
class Scene:
    """A public repository, and the way to it.

    Attributes:
        served: Offramp.
        proxy: between Offramp and the forge.
        repository: at the forge.
        directory: where clients run.
    """

    served: Served
    proxy: Proxy
    repository: Repository
    directory: Path

    @property
    def url(self) -> str:
        """The repository through Offramp."""
        return f"{self.served.url}{PREFIX}{NAME}"

    @property
    def there(self) -> str:
        """The repository at the forge, where nothing counts and nothing breaks."""
        return f"{self.proxy.upstream}/{NAME}"

    @property
    def client(self) -> Client:
        """A client that accepts locations."""
        return anonymous(self.directory)

    @property
    def upstreams(self) -> Upstreams:
        """What the server has of upstreams."""
        upstreams = self.served.runtime.upstreams
        assert upstreams is not None
        return upstreams

    @property
    def remote(self) -> Remote:
        """The repository, as the server names it."""
        routed = self.upstreams.route(f"{PREFIX}{NAME}/info/refs")
        assert routed is not None
        return routed.remote

    @property
    def mirror(self) -> Path:
        """Where its mirror lies, or would lie."""
        return mirror_path(self.served.settings.data / MIRRORS, self.remote.name)

    def mirrors_on_disk(self) -> list[Path]:
        """Mirrors, whole or not; locks are only files."""
        return [path for path in self.mirror.parent.iterdir() if path.is_dir()]

    async def begin(self) -> None:
        """Start the first mirroring, as the first fetch does."""
        view = await self.upstreams.views.now(self.remote, None)
        self.upstreams.mirrors.begin(self.remote, view, None)

    async def mirrored(self) -> None:
        """Mirror it, and count anew."""
        await self.begin()
        await self.upstreams.mirrors.made(self.remote)
        assert self.mirror.is_dir()
        self.proxy.forget()

    async def updated(self) -> None:
        """Wait for an update of the mirror that runs."""
        held = self.upstreams.mirrors._of(self.remote)
        if held.updating is not None:
            await asyncio.wait({held.updating})

    def check_mirror(self) -> None:
        """See that git finds nothing wrong with the mirror, and nothing left over in it."""
        run_git(self.mirror, "fsck", "--strict", "--no-dangling")
        left = [path for path in self.mirror.rglob("*") if path.name.startswith("tmp_")]
        assert not left
        assert not list(self.mirror.parent.glob("*.new"))

    async def same(self, *options: str, name: str = "clone", client: Client | None = None) -> Done:
        """Clone through Offramp and from the forge; both must come to the same.

        Returns:
            How it went through Offramp.
        """
        client = client or self.client
        done = await clone(client, self.url, self.directory / name, *options)
        assert done.well, done.finished.stderr
        await self.check_same(name, *options, client=client)
        return done

    async def check_same(self, name: str, *options: str, client: Client | None = None) -> None:
        """Compare a clone that was made with ``options`` with one from the forge, now."""
        expected = self.directory / f"{name}-expected"
        plain = stock(self.directory)
        versions = [s for s in (client or plain).settings if s.startswith("protocol.version")]
        plain = replace(plain, settings=tuple(versions))
        await plain("clone", "--bare", *options, self.there, expected)
        found = await state_of(self.client, self.directory / name)
        assert found == await state_of(plain, expected)

    def tell_time(self) -> Callable[[float], None]:
        """Take over the clock of all that is remembered; the answer moves it on by seconds.

        By itself it goes on by a millisecond each time that it is read.
        """
        views = self.upstreams.views
        now = views.clock()

        def read() -> float:
            later(0.001)
            return now

        def later(seconds: float) -> None:
            nonlocal now
            now += seconds

        views.clock = read
        return later


async def scene(
    serve: Serve, proxy: Proxy, repository: Repository, directory: Path, **upstream: Any
) -> Scene:
    """Start Offramp with the proxy as upstream, and further settings of it.

    What is not to be waited for is switched off: the indexer.
    """
    settings = {"prefix": PREFIX, "url": proxy.url, "public": True, **upstream}
    served = await serve(None, upstreams=[settings], index={"enabled": False})
    (directory / "clients").mkdir()
    return Scene(served, proxy, repository, directory / "clients")


def without_locations(client: Client) -> Client:
    """The same client, as git comes: it accepts no location."""
    return replace(client, settings=())


def speaking(client: Client, version: int) -> Client:
    """The same client, which speaks a version of the protocol."""
    return replace(client, settings=(*client.settings, f"protocol.version={version}"))


class Arrivals:
    """Counts callers of a coroutine function, as they come."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, owner: type[Views | Mirrors], name: str
    ) -> None:
        original: Callable[..., Awaitable[Any]] = getattr(owner, name)
        self._count = 0
        self._more = asyncio.Condition()

        async def counted(*args: Any, **words: Any) -> Any:
            running = asyncio.ensure_future(original(*args, **words))
            await asyncio.sleep(0)  # it goes as far as it can before it is counted
            self._count += 1
            async with self._more:
                self._more.notify_all()
            return await running

        monkeypatch.setattr(owner, name, counted)

    async def reach(self, count: int) -> None:
        """Wait until so many have come."""
        async with self._more:
            await self._more.wait_for(lambda: self._count >= count)
