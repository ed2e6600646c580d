# Law of this file: Mercurial's clients choose among what they are told; they are told the nearest
# first, and nothing that is not for them.

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.catalog import CloneBundle
from redirects.acceptance import Client
from redirects.audience import PUBLIC
from server.hg.describe import targets
from server.hg.v1.manifests import entries
from stores.entity import Entity
from tests.conftest import Serve, Served
from wire.hg.v1.manifest import INLINE_SCHEME

FILE = Entity("ab" * 32, 1 << 20)


@pytest.fixture
async def served(serve: Serve, tmp_path: Path, all_well: None) -> Served:
    """A server with a target in each of three regions, one everywhere, and one without weight."""
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
        served.runtime,
        [bundle],
        client,
        PUBLIC,
        repository="r",
        version=(7, 2),
        inline=(),
        fingerprints=True,
    )
    assert [line.url.split("/")[2].partition(".")[0] for line in lines] == order


@pytest.mark.parametrize(
    ("redirect", "counted"),
    [
        ({}, {("redirect", "any", ""): 1}),
        ({"shadow": True}, {("shadow", "any", ""): 1}),
        ({"enabled": False}, {("inline", "", "disabled"): 1}),
        ({"off_repositories": ["r"]}, {("inline", "", "off_for_repository"): 1}),
        ({"off_networks": ["192.0.2.7"]}, {("inline", "", "off_for_network"): 1}),
        ({"percentage": 0}, {("inline", "", "not_in_percentage"): 1}),
    ],
)
async def test_who_is_not_redirected_takes_bundles_from_the_server(
    served: Served, redirect: dict[str, object], counted: dict[tuple[str, str, str], float]
) -> None:
    """Settings that a running server goes on with count for manifests, too, and are counted."""
    new = served.settings.redirect.model_validate({"min_size": 0, **redirect})
    await served.runtime.adopt(served.settings.model_copy(update={"redirect": new}))
    client = Client("https://hg.example.org", None, "192.0.2.0/24", "192.0.2.7")
    readable = tuple(sorted(target.fingerprint for target in served.runtime.targets))
    bundle = CloneBundle("zstd-v2-x", "zstd-v2", "zstd-v2", FILE, ("0" * 40,), 1, 0.0, readable)
    lines = list(
        entries(
            served.runtime,
            [bundle],
            client,
            PUBLIC,
            repository="r",
            version=(7, 2),
            inline={bundle.id},
            fingerprints=True,
        )
    )
    inline = [line.url.startswith(INLINE_SCHEME) for line in lines]
    assert inline == ([True] if redirect else [False] * 4)
    found = served._samples("offramp_decisions_total")
    names = ("outcome", "target", "reason")
    assert {
        tuple(dict(labels)[name] for name in names): value for labels, value in found.items()
    } == counted
    # Protocol v2 tells targets of who may be redirected at all.
    assert (targets(served.runtime, client, PUBLIC) is None) == (redirect == {"enabled": False})
