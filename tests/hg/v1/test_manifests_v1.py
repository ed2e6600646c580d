# Law of this file: a manifest says of a bundle what its client's version understands, and names it
# at every place that suits, the settings' order before the targets'.

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from indexer.catalog import CloneBundle
from redirects.acceptance import Client
from redirects.audience import Audience
from server.hg.v1.manifests import entries
from stores.entity import Entity
from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.v1.conftest import Shelf
from wire.hg.v1.manifest import Entry

CDN = {"type": "http", "name": "cdn", "base_url": "https://cdn.example.org"}
PLAIN = {"type": "http", "name": "plain", "base_url": "https://192.0.2.7"}
NEWEST = (7, 2)


@pytest.fixture
async def served(serve: Serve, shelf: Shelf, all_well: None) -> Served:
    """A server with two targets by https, one of which is an address."""
    return await serve_hg(serve, shelf.root("linear"), targets=(CDN, PLAIN))


def bundle(served: Served, kind: str, spec: str) -> CloneBundle:
    """One that was read back through every target."""
    digest = hashlib.sha256(kind.encode()).hexdigest()
    readable = tuple(sorted(target.fingerprint for target in served.runtime.targets))
    return CloneBundle(
        id=f"{kind}-{digest[:16]}",
        kind=kind,
        spec=spec,
        entity=Entity(digest, 100_000),
        heads=("1" * 40,),
        changesets=1,
        created=1.0,
        readable=readable,
        required_ram=None,
        store_fingerprint=None,
    )


def listed(
    served: Served,
    *bundles: CloneBundle,
    version: tuple[int, int] | None = NEWEST,
    inline: frozenset[str] = frozenset(),
    fingerprints: bool = True,
) -> list[Entry]:
    """What a client is told."""
    return list(
        entries(
            served.runtime,
            bundles,
            Client(served.url),
            Audience(private=False),
            repository="repo",
            version=version,
            inline=inline,
            fingerprints=fingerprints,
        )
    )


async def test_order_and_names(served: Served) -> None:
    """Kinds as the settings order them, each at all its targets; only a host's name needs SNI."""
    gzip, zstd = bundle(served, "gzip-v2", "gzip-v2"), bundle(served, "zstd-v2", "zstd-v2")
    found = listed(served, gzip, zstd)
    assert [(dict(e.attributes)["BUNDLESPEC"], e.url.split("/")[2]) for e in found] == [
        ("zstd-v2", "cdn.example.org"),
        ("zstd-v2", "192.0.2.7"),
        ("gzip-v2", "cdn.example.org"),
        ("gzip-v2", "192.0.2.7"),
    ]
    assert [dict(e.attributes).get("REQUIRESNI") for e in found] == ["true", None, "true", None]


@pytest.mark.parametrize(
    ("version", "told"), [((7, 2), True), ((6, 9), True), ((5, 9), False), (None, False)]
)
async def test_digests(served: Served, version: tuple[int, int] | None, told: bool) -> None:
    """Digests are told to those who compare them."""
    zstd = bundle(served, "zstd-v2", "zstd-v2")
    for entry in listed(served, zstd, version=version):
        digest = f"sha256:{zstd.entity.digest}" if told else None
        assert dict(entry.attributes).get("DIGEST") == digest


async def test_memory(served: Served) -> None:
    """What decompressing takes is told where it is much, in whole MiB, rounded up."""
    large = replace(bundle(served, "zstd-v2", "zstd-v2"), required_ram=(128 << 20) + 1)
    assert {dict(e.attributes)["REQUIREDRAM"] for e in listed(served, large)} == {"129MB"}
    small = bundle(served, "zstd-v2", "zstd-v2")
    assert not any("REQUIREDRAM" in dict(e.attributes) for e in listed(served, small))


async def test_store_fingerprints(served: Served) -> None:
    """A bundle of a part of the files is for those who know what its fingerprint means."""
    part = replace(bundle(served, "stream-v2", "none-v2;stream=v2"), store_fingerprint="abc")
    assert {dict(e.attributes)["STORE-FINGERPRINT"] for e in listed(served, part)} == {"abc"}
    assert not listed(served, part, fingerprints=False)


async def test_specs_are_quoted_once(served: Served) -> None:
    """A catalogued spec, which is quoted, is not quoted again."""
    stream = bundle(served, "stream-v2", "none-v2;stream=v2;requirements%3Da%2Cb")
    assert {dict(e.attributes)["BUNDLESPEC"] for e in listed(served, stream)} == {
        "none-v2;stream=v2;requirements=a,b"
    }


async def test_where_nothing_suits(served: Served) -> None:
    """What no target gives comes in the protocol, to those who can be sent it, or is not told."""
    zstd = replace(bundle(served, "zstd-v2", "zstd-v2"), readable=())
    assert [e.url for e in listed(served, zstd, inline=frozenset({zstd.id}))] == [
        f"peer-bundle-cache://{zstd.id}"
    ]
    assert not listed(served, zstd)
