# Law of this file: a decision is explained by making it: by the settings, the engine, the lists and
# the catalogs that servers use. What only a running server knows is asked again.

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp

from cache.layout import Layout
from cache.publications import Publications
from indexer.catalog import Catalog, load
from redirects.acceptance import Acceptance, Client
from redirects.audience import Audience
from redirects.decision import Decision
from redirects.locality import Whereabouts
from redirects.negotiation import Verdict, explain
from server.access.rules import AccessRules
from server.health import Health
from server.locator import Locator
from server.placing import Stores
from server.publish import Publisher
from server.readback import read_back_anew
from server.settings import Settings
from server.upstreams.routes import Routes
from server.wiring import (
    build_control,
    build_selection,
    build_store,
    build_stores,
    build_targets,
    signing_keys,
)
from stores.base import Store
from stores.entity import Entity


class NothingToExplain(Exception):  # noqa: N818 - what was found
    """There is no such content; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which decision.

    Attributes:
        repository: served name.
        address: from where the client asks.
        word: the region that it says it is in; None if it says none.
        protocols: URL schemes that it accepts.
        digest: of the content, SHA-256 in hex; None for what a clone of the repository begins with.
    """

    repository: str
    address: str
    word: str | None
    protocols: frozenset[str]
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What is asked for.

    Attributes:
        entity: the content.
        title: what it is, for people.
        readable: fingerprints of the targets through which it was read back.
        min_size: bytes below which such content goes inline.
    """

    entity: Entity
    title: str
    readable: frozenset[str]
    min_size: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and all that it was made from.

    Attributes:
        where: the client is, and how that is known.
        content: what it asks for.
        decision: what it gets.
        verdicts: on each target, in the order in which they are tried.
        faults: of lists of networks that could not be read just now.
        reads: by the name of each target, that of the store that it reads.
    """

    where: Whereabouts
    content: Content
    decision: Decision
    verdicts: tuple[Verdict, ...]
    faults: tuple[str, ...]
    reads: Mapping[str, str]


async def explained(settings: Settings, asked: Asked) -> Explanation:
    """Make the decision, as a server with these settings would now.

    Targets are probed, which puts the servers' own probe (13 bytes) into the store.

    Raises:
        NothingToExplain: there is no such content.
        indexer.catalog.CatalogError: the repository's catalog cannot be read.
        server.wiring.Unusable, StoreError, OSError: store or data directory cannot be used.
    """
    now = time.time()
    settings.data.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        store = build_store(settings)
        stores = build_stores(settings, store)
        stack.push_async_callback(stores.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        targets = await build_targets(settings, stores, signing_keys(settings.data))
        locator = await Locator.open(settings.regions, settings.data)
        await locator.look(session, now)
        where = locator.locality.find(asked.address, word=asked.word)
        publisher = Publisher(
            stores,
            targets,
            Publications(Layout.make(settings.data)),
            session=session,
            keep=settings.retention.keep,
            max_url_life=settings.redirect.lifetime + settings.redirect.window,
        )
        content = await _content(settings, store, publisher, asked)
        health = Health(
            store,
            targets,
            functools.partial(read_back_anew, store),
            settings.health.rules,
            replicas=stores.replicas,
            reads=stores.reads,
        )
        await health.probe()
        base_url = settings.public_url or f"http://{settings.listen}"
        client = Client(base_url, where.region, where.network, where.address)
        control = build_control(settings.redirect)
        decision, verdicts = explain(
            Acceptance(asked.protocols),
            content.entity,
            build_selection(settings, targets),
            client,
            now,
            readable=content.readable,
            down=health.down(),
            min_size=content.min_size,
            enabled=settings.redirect.enabled,
            held_back=control.held_back(client, asked.repository),
            shadow=control.shadow,
            audience=_audience(settings, stores, asked.repository),
        )
    faults = tuple(each.fault for each in locator.lists if each.fault is not None)
    return Explanation(where, content, decision, verdicts, faults, stores.reads)


def _audience(settings: Settings, stores: Stores, repository: str) -> Audience:
    remote = Routes(settings.upstreams).named(repository)
    rules = AccessRules(settings.access, private=settings.private, unplaced=stores.unplaced)
    return rules.audience_of(repository, None if remote is None else remote.upstream)


async def _content(settings: Settings, store: Store, publisher: Publisher, asked: Asked) -> Content:
    """What is asked for, with what catalog and data directory know of it."""
    loaded = await load(store, asked.repository)
    named = [] if loaded is None else list(_named(loaded[0], settings.redirect.min_size))
    if asked.digest is None:
        if not named:
            raise NothingToExplain(
                f"{asked.repository}: nothing is published of it; run `offramp index`, or name"
                " content by --entity"
            )
        return named[0]
    for content in named:
        if content.entity.digest == asked.digest:
            return content
    stored = await store.stat(asked.digest)
    if stored is None:
        raise NothingToExplain(
            f"{asked.digest}: neither does the catalog of {asked.repository} name it, nor is it in"
            f" the store ({store.name})"
        )
    entity = Entity(stored.digest, stored.size)
    readable = publisher.readable(entity)
    return Content(entity, "computed for a client", readable, settings.redirect.min_size)


def _named(catalog: Catalog, min_size: int) -> Iterator[Content]:
    """What the catalog names, first what a clone begins with."""
    for bundle in sorted(catalog.bundles, key=lambda b: (b.filter is not None, -b.created)):
        yield Content(
            bundle.pack.entity, f"pack of {bundle.id}", frozenset(bundle.readable), min_size
        )
        if bundle.bundle_file is not None:
            readable = frozenset(bundle.bundle_readable)
            yield Content(bundle.bundle_file, f"bundle file of {bundle.id}", readable, 0)
    for clone in catalog.clone_bundles:
        yield Content(clone.entity, f"clone bundle {clone.id}", frozenset(clone.readable), 0)
