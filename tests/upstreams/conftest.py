# Law of this file: each test has an upstream of its own, which is gone when the test is.

from __future__ import annotations

import functools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.hg.session import Session
from tests.hg.versions import hg
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge, running_forge
from tests.upstreams.hg_scene import MODERN, HgScene, hg_scene, make_widget, upstream_of


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    """A real forge without repositories."""
    with running_forge(tmp_path / "forge") as forge:
        yield forge


@pytest.fixture
async def proxy(forge: Forge) -> AsyncIterator[Proxy]:
    """In front of the forge: counts, records and breaks what goes through."""
    proxy = await Proxy.start(forge.url)
    yield proxy
    await proxy.close()


@pytest.fixture
async def elsewhere(forge: Forge) -> AsyncIterator[Proxy]:
    """Another host with the same repositories, where redirects can lead to."""
    proxy = await Proxy.start(forge.url)
    yield proxy
    await proxy.close()


@pytest.fixture(scope="session")
def widget(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mercurial repository, not to be changed."""
    path = tmp_path_factory.mktemp("widget") / "widget"
    make_widget(MODERN, path)
    return path


@pytest.fixture(scope="session")
def hg_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Stock hg of today, in one process for all that it is asked."""
    with Session(hg(MODERN), tmp_path_factory.mktemp("hg-client")) as session:
        yield session


Code = Callable[..., Awaitable[HgScene]]


@pytest.fixture
async def code(
    serve: Serve, widget: Path, hg_client: Session, tmp_path: Path
) -> AsyncIterator[Code]:
    """Starts Offramp before a real `hg serve`; called with settings of the server."""
    path = shutil.copytree(widget, tmp_path / "widget", symlinks=True)
    async with upstream_of(MODERN, path) as upstream:
        yield functools.partial(hg_scene, serve, upstream, hg_client, tmp_path / "clients")
