# Law of this file: the doctor sees the clone bundles that clients are told of as clients find them,
# and which targets redirected answers could not be read from.

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from indexer.catalog import Catalog, CloneBundle, catalog_name, encode
from server.checks_hg_bundles import check_hg_bundles
from server.placing import Stores
from server.settings import Settings
from server.verdict import Level, Verdict
from server.wiring import build_targets, signing_keys
from stores.base import Store
from stores.directory import DirectoryStore
from stores.entity import Entity
from stores.memory import MemoryStore

CONTENT = b"a bundle"
ENTITY = Entity(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
MERCURIAL = "application/mercurial-0.2"


def settings_of(here: Path, **values: object) -> Settings:
    """Settings of a server with one Mercurial repository, ``a``."""
    (here / "root/a/.hg/store").mkdir(parents=True, exist_ok=True)
    return Settings.model_validate({"root": here / "root", "data": here / "data", **values})


async def found(settings: Settings, store: Store) -> list[Verdict]:
    """What is found out."""
    settings.data.mkdir(exist_ok=True)
    async with aiohttp.ClientSession() as session:
        return [verdict async for verdict in check_hg_bundles(settings, Stores(store), session)]


async def catalogued(settings: Settings, store: Store, *, read_back: bool = True) -> None:
    """Have a clone bundle of the repository in its catalog, which may not be in the store."""
    settings.data.mkdir(exist_ok=True)
    targets = await build_targets(settings, Stores(store), signing_keys(settings.data))
    readable = tuple(sorted(target.fingerprint for target in targets)) if read_back else ()
    bundle = CloneBundle(
        id=f"zstd-v2-{ENTITY.digest[:16]}",
        kind="zstd-v2",
        spec="zstd-v2",
        entity=ENTITY,
        heads=("ab" * 20,),
        changesets=1,
        created=1.0,
        readable=readable,
    )
    catalog = Catalog("a", "sha1", clone_bundles=(bundle,))
    await store.write_document(catalog_name("a"), encode(catalog), None)


async def put(store: Store, here: Path) -> None:
    """Have the content of the bundle in the store."""
    (here / "bundle").write_bytes(CONTENT)
    await store.put(ENTITY, here / "bundle")


async def test_no_mercurial(tmp_path: Path) -> None:
    """Where none is served, nothing is said of clone bundles."""
    (tmp_path / "empty").mkdir()
    values = {"root": tmp_path / "empty", "data": tmp_path / "data"}
    assert await found(Settings.model_validate(values), MemoryStore()) == []


async def test_none_yet(tmp_path: Path) -> None:
    """Repositories without clone bundles are named, with what makes some; unless none is wanted."""
    (only,) = await found(settings_of(tmp_path), MemoryStore())
    assert (only.level, "none of a;" in only.what) == (Level.INFO, True)
    assert "offramp index" in only.remedy
    assert await found(settings_of(tmp_path, hg={"bundles": ()}), MemoryStore()) == []


async def test_all_is_well(tmp_path: Path) -> None:
    """A bundle that is in the store and was read back through each target is ok."""
    settings, store = settings_of(tmp_path), MemoryStore()
    await catalogued(settings, store)
    await put(store, tmp_path)
    assert await found(settings, store) == [
        Verdict(Level.OK, "clone bundles: those of 1 repository are in the store")
    ]


async def test_a_bundle_that_was_deleted(tmp_path: Path) -> None:
    """A bundle that clients are told of and cannot have is a failure."""
    settings, store = settings_of(tmp_path), MemoryStore()
    await catalogued(settings, store)
    (only,) = await found(settings, store)
    assert only.level is Level.FAIL
    assert f"zstd-v2-{ENTITY.digest[:16]}" in only.what
    assert "lost" in only.what


async def test_a_target_that_is_new(tmp_path: Path) -> None:
    """A bundle that was not read back through a target is not named by it, which is said."""
    settings, store = settings_of(tmp_path), MemoryStore()
    await catalogued(settings, store, read_back=False)
    await put(store, tmp_path)
    (only,) = await found(settings, store)
    assert only.level is Level.WARN
    assert "not read back through self" in only.what


async def test_a_damaged_catalog(tmp_path: Path) -> None:
    """It is named, and no traceback."""
    store = MemoryStore()
    await store.write_document(catalog_name("a"), b"{", None)
    (only,) = await found(settings_of(tmp_path), store)
    assert (only.level, only.remedy) == (Level.WARN, "run offramp index")


# --- redirected answers --------------------------------------------------------------------


@asynccontextmanager
async def static(store: Path, headers: Mapping[str, str]) -> AsyncIterator[str]:
    """The base URL of a static server before a directory store."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(store / request.path.lstrip("/"), headers=dict(headers))

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("headers", "level", "said"),
    [
        ({"Content-Type": MERCURIAL}, Level.OK, "target cdn: takes redirected getbundle"),
        ({}, Level.WARN, "Content-Type is 'application/octet-stream'"),
    ],
)
async def test_the_type_that_a_target_tells(
    tmp_path: Path, headers: dict[str, str], level: Level, said: str
) -> None:
    """With `hg.redirect_getbundle`, each target is asked whether it tells Mercurial's type."""
    async with static(tmp_path / "store", headers) as url:
        cdn = {"type": "http", "name": "cdn", "base_url": url}
        settings = settings_of(
            tmp_path,
            targets=(cdn, {"type": "self"}),
            hg={"bundles": (), "redirect_getbundle": "pulls"},
        )
        store = DirectoryStore(tmp_path / "store")
        first, second = await found(settings, store)
    assert first.level is level
    assert said in first.what
    assert second == Verdict(Level.OK, "target self: takes redirected getbundle")
    assert not list((tmp_path / "store").glob("entities/*/*"))
