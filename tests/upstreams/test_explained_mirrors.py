# Law of this file: of a forge's repositories those are explained that are mirrored here; of others
# a server knows nothing, and asks nobody for an explanation.

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from indexer.report import Silent
from server.access.rules import AccessRules
from server.indexing import index_all
from server.settings_upstreams import AccessSettings
from tests.conftest import Serve
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene

pytestmark = pytest.mark.nginx


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A public repository, of a server that lets this machine ask."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    at.served.runtime.access_rules = AccessRules(AccessSettings(operators=("127.0.0.1",)))
    return at


async def explained(at: Scene, name: str) -> tuple[int, str]:
    """Status and answer."""
    query = {"repo": name, "from": "192.0.2.7", "accepts": "http"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{at.served.url}/-/api/explain", params=query) as answer,
    ):
        return answer.status, await answer.text()


async def test_a_mirror_is_explained(at: Scene) -> None:
    """Once it is mirrored and indexed, and not before; the forge is not asked for that."""
    name = f"up/{NAME}"
    status, said = await explained(at, name)
    assert (status, at.proxy.exchanges) == (404, [])
    assert "no mirror of one on this machine" in said
    await at.mirrored()
    await index_all(at.served.settings, Silent(), gc=True)
    await at.served.runtime.catalogs.refresh_all()
    asked = len(at.proxy.exchanges)
    status, said = await explained(at, name)
    assert status == 200, said
    assert '"verdict": "chosen"' in said
    assert len(at.proxy.exchanges) == asked
