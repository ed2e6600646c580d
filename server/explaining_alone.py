# Law of this file: without a server, a decision is made from what the settings, the store and the
# data directory say, and from a look at each target. Nothing is written, wherever.

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

import aiohttp

from cache.layout import Layout
from cache.publications import Publications
from indexer.catalog import load
from redirects.audience import Audience
from redirects.signing import SigningKeys
from redirects.targets import Target
from server.access.rules import AccessRules
from server.explaining import (
    Asked,
    Content,
    Explanation,
    Known,
    NothingToExplain,
    Seen,
    chosen,
    explained,
    nothing_published,
)
from server.explaining_sessions import session_alone
from server.locator import Locator
from server.lookups import connector
from server.main_seal import remembered
from server.placing import Stores
from server.probes import newest_probe
from server.publish import Publisher
from server.readback import NotReadable, probe_anew
from server.served_names import did_you_mean, served_name, spellings
from server.settings import Settings
from server.upstreams.routes import Routes
from server.wiring import (
    SECRET_FILE,
    build_selection,
    build_store,
    build_stores,
    build_targets,
    signing_keys,
)
from stores.base import Store, StoreUnavailable
from stores.entity import Entity
from stores.patient import SECONDS
from stores.replica import NotTheSame, confirm

# Content that is small enough to be read in place of a probe.
_SMALL: Final = 1 << 20

_NOT_LOOKED_AT: Final = (
    "targets were not looked at: no server has put its probe into the store yet, and the content is"
    " too large to be read for that"
)


async def explained_alone(settings: Settings, asked: Asked) -> Explanation:
    """Make the decision, as a server with these settings would now; targets are looked at.

    Raises:
        NothingToExplain: there is no such content.
        indexer.catalog.CatalogError: the repository's catalog cannot be read.
        server.wiring.Unusable, StoreError, OSError: store or data directory cannot be used.
    """
    now = time.time()
    notes = []
    async with AsyncExitStack() as stack:
        store = build_store(settings, patience=SECONDS)
        stores = build_stores(settings, store, writes=False, patience=SECONDS)
        stack.push_async_callback(stores.close)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector()))
        keys, note = _keys(settings)
        notes += note
        targets = await build_targets(settings, stores, keys)
        locator = await Locator.open(settings.regions, settings.data, keeps=False)
        await locator.look(session, now)
        notes += [f"list of networks not read: {e.fault}" for e in locator.lists if e.fault]
        main = remembered(settings.data)
        publisher = Publisher(
            stores,
            targets,
            Publications(Layout(settings.data.resolve())),
            session=session,
            keep=settings.retention.keep,
            max_url_life=settings.redirect.lifetime + settings.redirect.window,
            era=lambda: main.era,
        )
        asked = await _served(settings, store, asked)
        content = await _content(settings, store, publisher, asked)
        seen, note = await _looked_at(settings, stores, targets, content)
        notes += note
        where = locator.locality.find(asked.address, word=asked.word)
        audience = _audience(settings, stores, asked.repository)
        told, said = await session_alone(settings, session, asked, where, audience)
        notes += said
    known = Known(
        settings,
        build_selection(settings, targets),
        where,
        frozenset(target.fingerprint for target in targets if target.name in seen),
        seen,
        stores.reads,
        audience,
        now,
        tuple(notes),
    )
    return explained(asked, content, known, told)


def _keys(settings: Settings) -> tuple[SigningKeys, list[str]]:
    """The keys of the data directory, or some that nobody knows, and what to say of these."""
    path = settings.data / SECRET_FILE
    if path.exists():
        return signing_keys(settings.data), []
    made = SigningKeys("explain", {"explain": secrets.token_bytes(32)})
    if all(target.type != "self" for target in settings.effective_targets()):
        return made, []
    note = (
        f"{path} is not there: no server has been started with this data directory, and a URL of"
        " the target `self` is signed here by a key that none will know"
    )
    return made, [note]


def _audience(settings: Settings, stores: Stores, repository: str) -> Audience:
    remote = Routes(settings.upstreams).named(repository)
    rules = AccessRules(settings.access, private=settings.private, unplaced=stores.unplaced)
    return rules.audience_of(repository, None if remote is None else remote.upstream)


async def _served(settings: Settings, store: Store, asked: Asked) -> Asked:
    """The question with the name by which the repository is served, or published.

    Raises:
        NothingToExplain: there is none, and no content of its is named.
    """
    known = served_name(settings, asked.repository)
    if known is not None:
        return replace(asked, repository=known)
    # One of another machine, of which the catalog is all that is here.
    for name in spellings(asked.repository):
        if await load(store, name) is not None:
            return replace(asked, repository=name)
    if asked.digest is not None:
        return asked
    meant = await asyncio.to_thread(did_you_mean, settings, asked.repository)
    root = settings.local_root
    where = "" if root is None else f" below ROOT ({root.absolute()})"
    raise NothingToExplain(
        f"{asked.repository}: there is no such repository{where}, and nothing is published of one"
        f" with this name{meant or '; write the path at which it is served'}"
    )


async def _content(settings: Settings, store: Store, publisher: Publisher, asked: Asked) -> Content:
    """What is asked for, with what catalog and data directory know of it."""
    loaded = await load(store, asked.repository)
    if loaded is not None:
        catalog = loaded[0]
        found = chosen(asked, catalog.bundles, catalog.clone_bundles, settings.redirect.min_size)
        if found is not None:
            return replace(found, readable=publisher.unless_lost(found.entity, found.readable))
    if asked.digest is None:
        raise nothing_published(asked.repository)
    stored = await store.stat(asked.digest)
    if stored is None:
        raise NothingToExplain(
            f"{asked.digest}: neither does the catalog of {asked.repository} name it, nor is it in"
            f" the store ({store.name})"
        )
    entity = Entity(stored.digest, stored.size)
    readable = publisher.readable(entity)
    return Content(entity, "computed for a client", readable, settings.redirect.min_size)


async def _looked_at(
    settings: Settings, stores: Stores, targets: tuple[Target, ...], content: Content
) -> tuple[Mapping[str, Seen], list[str]]:
    """The targets through which nothing comes now, and what to say where that is not known.

    What servers probe with is read, if one has put it into the store; else the content.
    """
    through, store = targets, stores.main
    probe = await newest_probe(store, time.time(), remembered(settings.data).generation)
    if probe is None:
        # Through another it may not come although that is up.
        probe = content.entity
        through = tuple(t for t in targets if t.fingerprint in content.readable)
        if probe.size > _SMALL:
            return {}, [_NOT_LOOKED_AT]

    async def look(target: Target) -> str | None:
        limit = settings.health.rules.timeout
        try:
            async with asyncio.timeout(limit):
                await confirm(stores.store_of(target))
                await probe_anew(store, target, probe)
        except TimeoutError:
            return f"no answer within {limit:g} s"
        except NotTheSame as error:
            return error.what
        except StoreUnavailable as error:
            return str(error)
        except NotReadable as error:
            said = str(error).removeprefix(f"entity {probe.digest}, ")
            return said.removeprefix(f"target {target.name}: ")
        return None

    said = await asyncio.gather(*map(look, through))
    found = zip(through, said, strict=True)
    return {target.name: Seen(what) for target, what in found if what is not None}, []
