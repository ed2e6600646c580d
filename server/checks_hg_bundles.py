# Law of this file: a clone bundle that clients are told of is looked for in the store, and a target
# that getbundle may be redirected to is asked as clients ask it.

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import islice
from typing import Final

import aiohttp

from indexer.catalog import CatalogError, CloneBundle, load
from indexer.publishing import is_stored
from redirects.targets import Target
from repos.hg.discovery import Found, discover
from repos.hg.errors import Unservable
from repos.hg.keeper import Keeper
from repos.hg.program import Hg, HgFailed
from repos.hg.repository import index_directory
from server.checks_store import stored_probe, unreadable
from server.placing import Stores
from server.settings import Settings
from server.verdict import Level, Verdict
from server.wiring import Unusable, build_targets, signing_keys
from stores.base import Store, StoreError
from stores.entity import Entity
from wire.hg.v1.media import MERCURIAL_0_2

# Catalogs of this many repositories are read, each with a question for each bundle.
_ASKED: Final = 25

# Of one question to hg.
_SECONDS: Final = 60.0


async def check_hg_bundles(
    settings: Settings, stores: Stores, session: aiohttp.ClientSession
) -> AsyncGenerator[Verdict, None]:
    """Look for clone bundles, and at what ``hg.redirect_getbundle`` needs of targets.

    Nothing is said where no Mercurial repository is served.
    """
    found = await asyncio.to_thread(_found, settings)
    if not found and not any(upstream.vcs == "hg" for upstream in settings.upstreams):
        return
    try:
        targets = await build_targets(settings, stores, signing_keys(settings.data))
        async for verdict in _bundles(settings, stores, targets, found):
            yield verdict
        if settings.hg.redirect_getbundle == "off" or not settings.redirect.enabled:
            return
        for name, store in stores.named().items():
            async with stored_probe(store, MERCURIAL_0_2) as entity:
                for target in targets:
                    if stores.read_by(target) == name:
                        yield await _redirected(session, store, target, entity)
    except (Unusable, OSError, StoreError):
        return  # the checks of store and targets say it


def _found(settings: Settings) -> list[Found]:
    root = settings.local_root
    return [] if root is None else list(islice(discover(root, settings.data), _ASKED))


def _can_have_any(repository: Found, settings: Settings) -> bool:
    """Whether there can be an index of it, without which there are no bundles."""
    hg = Hg(_SECONDS, executable=settings.hg.program)
    try:
        Keeper(hg, repository.path, index_directory(settings.data, repository.path)).check()
    except Unservable:
        return False  # `check_hg` says why
    except HgFailed:
        pass  # as far as anybody knows, there can
    return True


async def _bundles(
    settings: Settings, stores: Stores, targets: Sequence[Target], found: Sequence[Found]
) -> AsyncGenerator[Verdict, None]:
    have, lack = 0, []
    for repository in found if settings.hg.bundles else ():
        name = repository.name
        try:
            loaded = await load(stores.main, name)
        except CatalogError as error:
            yield Verdict(Level.WARN, f"repository {name}: {error}", "run offramp index")
            continue
        bundles = () if loaded is None else loaded[0].clone_bundles
        own = stores.targets_of(name, targets)
        wrong = [await _wrong(stores.main, own, name, bundle) for bundle in bundles]
        for verdict in filter(None, wrong):
            yield verdict
        if not bundles and await asyncio.to_thread(_can_have_any, repository, settings):
            lack.append(name)
        elif bundles and not any(wrong):
            have += 1
    if have:
        count = "1 repository" if have == 1 else f"{have} repositories"
        yield Verdict(Level.OK, f"clone bundles: those of {count} are in the store")
    if lack:
        more = f" and {len(lack) - 3} more" if len(lack) > 3 else ""
        yield Verdict(
            Level.INFO,
            f"clone bundles: none of {', '.join(lack[:3])}{more}; clones come inline",
            "run offramp index, or serve --index; it says why it makes none",
        )


async def _wrong(
    store: Store, targets: Sequence[Target], name: str, bundle: CloneBundle
) -> Verdict | None:
    what = f"repository {name}: clone bundle {bundle.id}"
    if not await is_stored(store, bundle.entity):
        return Verdict(
            Level.FAIL,
            f"{what}: clients are told of it, and the store has lost it",
            "run offramp index, which makes it again; let nobody else delete from the store",
        )
    unread = [target.name for target in targets if target.fingerprint not in bundle.readable]
    if unread:
        return Verdict(
            Level.WARN,
            f"{what}: was not read back through {', '.join(unread)}",
            "run offramp index, which publishes it again",
        )
    return None


async def _redirected(
    session: aiohttp.ClientSession, store: Store, target: Target, entity: Entity
) -> Verdict:
    """Whether answers come back from there as stock Mercurial takes them."""
    said = await unreadable(session, store, target, entity)
    if said is not None:
        return Verdict(
            Level.WARN,
            f"hg.redirect_getbundle: no answer is redirected there: {said}",
            _remedy(said),
        )
    return Verdict(Level.OK, f"target {target.name}: takes redirected getbundle")


def _remedy(said: str) -> str:
    if "Content-Type" in said:
        return "have it send this Content-Type, or switch hg.redirect_getbundle off"
    if "status 403" in said:
        return (
            "let it read the store's files, and allow GET without a password; an unsigned bucket"
            " needs a policy for entities/*"
        )
    return "see what is said of this target above; or switch hg.redirect_getbundle off"
