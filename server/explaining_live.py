# Law of this file: a running server explains from what it knows: its view of the targets, its
# catalogs, what it read back, what it compared. It probes no target, and remembers no name that
# somebody made up.

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Final

from redirects.audience import Audience
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
from server.explaining_sessions import session_live
from server.runtime import Runtime
from server.served_names import did_you_mean
from stores.entity import Entity

_UNKNOWN: Final = "{}: there is no such repository below ROOT, and no mirror of one on this machine"


async def explained_live(runtime: Runtime, asked: Asked) -> Explanation:
    """Make the decision, as this server would now.

    Raises:
        NothingToExplain: there is no such repository or content.
        stores.base.StoreError: the store does not answer.
    """
    now = time.time()
    try:
        asked, audience = _served(runtime, asked)
    except NothingToExplain as error:
        meant = await asyncio.to_thread(did_you_mean, runtime.settings, asked.repository)
        raise NothingToExplain(f"{error}{meant}") from None
    content = await _content(runtime, asked)
    locator = runtime.locator
    where = locator.locality.find(asked.address, word=asked.word)
    told, notes = await session_live(runtime, asked, where, audience)
    known = Known(
        runtime.settings,
        runtime.selection,
        where,
        runtime.health.down(),
        {
            each.name: Seen(each.seen, now - each.turned)
            for each in runtime.health.observed()
            if not each.is_named
        },
        runtime.stores.reads,
        audience,
        now,
        (*(f"list of networks not read: {e.fault}" for e in locator.lists if e.fault), *notes),
    )
    return explained(asked, content, known, told)


def _served(runtime: Runtime, asked: Asked) -> tuple[Asked, Audience]:
    """The question with the name by which the repository is known, and for whom its content is."""
    name = asked.repository
    remote = None if runtime.upstreams is None else runtime.upstreams.routes.named(name)
    if runtime.upstreams is not None and remote is not None:
        if runtime.upstreams.mirrors.known(remote.name):
            audience = runtime.access_rules.audience_of(remote.name, remote.upstream)
            return _called(asked, remote.name), audience
        raise NothingToExplain(_UNKNOWN.format(name))
    git, hg = runtime.repositories.get(name), runtime.hg_repositories.get(name)
    # As in server.served_names: a name that is just so goes before one that it is short for.
    found = hg if hg is not None and (git is None or git.name != name) else git
    if found is None:
        raise NothingToExplain(_UNKNOWN.format(name))
    return _called(asked, found.name), runtime.access_rules.audience_of(found.name)


def _called(asked: Asked, name: str) -> Asked:
    return Asked(name, asked.address, asked.word, asked.protocols, asked.digest)


async def _content(runtime: Runtime, asked: Asked) -> Content:
    """What is asked for, with what this server knows of it."""
    least = runtime.settings.redirect.min_size
    bundles = await runtime.catalogs.bundles(asked.repository)
    clones = await runtime.catalogs.clone_bundles(asked.repository)
    found = chosen(asked, bundles, clones, least)
    if found is not None:
        return replace(found, readable=runtime.publisher.unless_lost(found.entity, found.readable))
    digest = asked.digest
    if digest is None:
        raise nothing_published(asked.repository)
    cached = runtime.cache.entities.path(digest)
    if cached.exists():
        entity = Entity(digest, cached.stat().st_size)
    else:
        stored = await runtime.store.stat(digest)
        if stored is None:
            raise NothingToExplain(
                f"{digest}: neither does the catalog of {asked.repository} name it, nor is it in"
                " cache or store"
            )
        entity = Entity(stored.digest, stored.size)
    readable = runtime.publisher.readable(entity) | runtime.catalogs.readable(digest)
    readable = runtime.publisher.unless_lost(entity, readable)
    return Content(entity, "computed for a client", readable, least)
