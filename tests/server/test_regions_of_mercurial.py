# Law of this file: Mercurial's clients choose among what they are told; they are told the nearest
# first, and nothing that is not for them.

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.catalog import CloneBundle
from redirects.acceptance import Client
from redirects.audience import PUBLIC
from server.health import Health
from server.hg.describe import targets
from server.hg.v1.manifests import entries
from stores.entity import Entity
from tests.conftest import Serve, Served

FILE = Entity("ab" * 32, 1 << 20)


@pytest.fixture
async def served(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """A server with a target in each of three regions, one everywhere, and one without weight."""

    async def well(self: Health) -> None:
        """Nobody answers at these addresses."""

    monkeypatch.setattr(Health, "probe", well)
    named = {"us": ["us"], "eu": ["eu"], "any": [], "asia": ["asia"], "off": ["eu"]}
    return await serve(
        tmp_path,
        data=tmp_path.parent / "data",
        targets=[
            {
                "type": "http",
                "name": name,
                "base_url": f"https://{name}.example.org",
                "regions": regions,
                "weight": 0 if name == "off" else 1,
            }
            for name, regions in named.items()
        ],
    )


@pytest.mark.parametrize(
    ("region", "order"),
    [
        ("eu", ["eu", "any", "us", "asia"]),
        ("asia", ["asia", "any", "us", "eu"]),
        (None, ["any", "us", "eu", "asia"]),
    ],
)
def test_the_nearest_comes_first(served: Served, region: str | None, order: list[str]) -> None:
    """In the targets of protocol v2, and in the lines of a manifest of version 1."""
    client = Client("https://hg.example.org", region, "192.0.2.0/24")
    advertised = targets(served.runtime, client, PUBLIC)
    assert advertised is not None
    assert [target.name for target in advertised] == order

    readable = tuple(sorted(target.fingerprint for target in served.runtime.targets))
    bundle = CloneBundle("zstd-v2-x", "zstd-v2", "zstd-v2", FILE, ("0" * 40,), 1, 0.0, readable)
    lines = entries(
        served.runtime, [bundle], client, PUBLIC, version=(7, 2), inline=True, fingerprints=True
    )
    assert [line.url.split("/")[2].partition(".")[0] for line in lines] == order
