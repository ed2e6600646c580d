# Law of this file: a store is believed when it did what it promises, with content that nobody has
# seen before, and through each target as clients read it.

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from indexer.catalog import PREFIX as CATALOGS
from redirects.acceptance import Client
from redirects.targets import HttpTarget, S3Target, SelfTarget, SignedHttpTarget, Target
from repos.git.program import Git
from server.checks_authorization import check_foreign, check_leaks
from server.checks_clock import clock_of_store, clock_of_target
from server.checks_signatures import check_signatures
from server.checks_tls import check_tls, claims
from server.http_faults import why
from server.placing import Stores
from server.readback import NotReadable, ask_behind, probe_anew, read_back
from server.settings import Settings
from server.settings_health import HealthSettings
from server.settings_stores import MAIN
from server.verdict import Level, Verdict
from server.wiring import Unusable, build_targets, signing_keys
from stores.base import Conflict, Store, StoreError
from stores.entity import OCTET_STREAM, Entity
from stores.replica import NotTheSame

RACE_DOCUMENT: Final = "doctor/race"
WRITERS: Final = 20

_PROBE_SIZE: Final = 8 << 10
_CHUNK: Final = 64 << 10
_ASK_SECONDS: Final = 20.0
_KEY_KNOWN: Final = ", and its first key must be known there"
_ANYONE: Final = Client("http://127.0.0.1")


async def check_store(store: Store) -> AsyncGenerator[Verdict, None]:
    """Write, look at, read and delete a probe, and let writers of one document race."""
    try:
        async with aclosing(_holds_content(store)) as checks:
            async for verdict in checks:
                yield verdict
        yield await _race(store)
    except StoreError as error:
        yield Verdict(Level.FAIL, f"store: {error}", _mended(error))


async def check_copies(stores: Stores) -> AsyncGenerator[Verdict, None]:
    """Write, look at, read and delete a probe in each store beside the main one."""
    for name, store in stores.replicas.items():
        try:
            async with aclosing(_holds_content(store)) as checks:
                async for verdict in checks:
                    yield verdict
        except NotTheSame as error:
            yield Verdict(Level.FAIL, error.what, error.remedy)
        except StoreError as error:
            yield Verdict(Level.FAIL, f"store {name}: {error}", _mended(error))


async def _holds_content(store: Store) -> AsyncGenerator[Verdict, None]:
    async with stored_probe(store) as entity:
        yield await _kept(store, entity)
    yield await _deleted(store, entity)


def _mended(error: StoreError) -> str:
    """What to do about a store that refuses."""
    if "NoSuchBucket" in str(error):  # S3's own word, which is part of the message
        return "create the bucket: Offramp makes none; or write the name of one that is there"
    return "check that it runs, that its settings are right, and that we may read and write"


async def check_targets(
    settings: Settings, stores: Stores, session: aiohttp.ClientSession
) -> AsyncGenerator[Verdict, None]:
    """Read a probe back through each target, compare clocks, and see what else can be read.

    What the settings say of its TLS is tried, and what becomes of a foreign Authorization.
    """
    try:
        targets = await build_targets(settings, stores, signing_keys(settings.data))
    except (Unusable, OSError) as error:
        yield Verdict(Level.FAIL, f"targets: {error}", "change the settings")
        return
    except StoreError as error:
        yield Verdict(Level.FAIL, f"targets: {error}", "mend the store first")
        return
    async with aclosing(_around(settings, targets)) as around:
        async for verdict in around:
            yield verdict
    for name in stores.named():
        own = [target for target in targets if stores.read_by(target) == name]
        which = "targets" if len(stores.named()) == 1 else f"targets of the store {name}"
        try:
            async with aclosing(_check_targets(settings, stores, name, own, session)) as checks:
                async for verdict in checks:
                    yield verdict
        except OSError as error:
            yield Verdict(Level.FAIL, f"{which}: {error}", "change the settings")
        except StoreError as error:
            yield Verdict(Level.FAIL, f"{which}: {error}", "mend the store first")


async def _check_targets(
    settings: Settings,
    stores: Stores,
    name: str,
    targets: Sequence[Target],
    session: aiohttp.ClientSession,
) -> AsyncGenerator[Verdict, None]:
    """As :func:`check_targets`, of those that read the store ``name``."""
    store = stores.named()[name]
    if not any(isinstance(target, S3Target) for target in targets):
        own = await clock_of_store(session, store)
        if own is not None:
            yield own
    async with stored_probe(store) as entity, stored_probe(store) as other:
        for target in targets:
            found = await _readable(session, store, target, entity)
            yield found
            if found.level is Level.OK:
                silent = await _silent_behind(session, target)
                yield silent or await _in_time(store, target, entity, settings.health)
            if isinstance(target, SelfTarget):
                continue  # it may not run now, and whoever reads its signatures is ourselves
            clock = await clock_of_target(session, target, entity)
            if clock is None:
                what = f"target {target.name}: nobody answers, so nothing else was tried"
                yield Verdict(Level.WARN, what)
                continue
            yield clock
            if found.level is Level.OK:
                foreign = await check_foreign(session, target, entity, time.time())
                if foreign is not None:
                    yield foreign
            # There are no documents in other stores.
            if name == MAIN and not (isinstance(target, S3Target) and target.signed):
                yield await _closed(session, store, target, entity)
            if isinstance(target, HttpTarget) or not target.signed or found.level is not Level.OK:
                continue
            checks = check_signatures(session, target, entity, other, time.time())
            async with aclosing(checks):
                async for verdict in checks:
                    yield verdict


async def _around(settings: Settings, targets: Sequence[Target]) -> AsyncGenerator[Verdict, None]:
    """What is about the targets together, before content is asked for."""
    async with aclosing(check_tls(claims(settings, targets))) as checks:
        async for verdict in checks:
            yield verdict
    git = Git(time_limit=_ASK_SECONDS)
    for verdict in await asyncio.to_thread(lambda: list(check_leaks(git, targets))):
        yield verdict


@asynccontextmanager
async def stored_probe(
    store: Store, media_type: str = OCTET_STREAM
) -> AsyncGenerator[Entity, None]:
    """A fresh entity of a type in the store for the time of a block."""
    content = os.urandom(_PROBE_SIZE)  # seen by no cache before
    entity = Entity(hashlib.sha256(content).hexdigest(), len(content), media_type)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "probe")
        path.write_bytes(content)
        await store.put(entity, path)
    try:
        yield entity
    finally:
        # What cannot be deleted now is garbage that is collected later.
        with suppress(StoreError):
            await store.delete(entity.digest)


async def _kept(store: Store, entity: Entity) -> Verdict:
    stored = await store.stat(entity.digest)
    if stored is None or stored.size != entity.size:
        seen = "nothing" if stored is None else f"{stored.size} bytes"
        what = f"store {store.name}: {entity.size} bytes were written and {seen} found"
        return Verdict(Level.FAIL, what, "use a store that shows what was written at once")
    content = b"".join([chunk async for chunk in store.open(entity.digest)])
    if hashlib.sha256(content).hexdigest() != entity.digest:
        what = f"store {store.name}: other bytes came back than were written"
        return Verdict(Level.FAIL, what, "check its disks and what lies between")
    return Verdict(Level.OK, f"store {store.name}: writes, finds and reads")


async def _deleted(store: Store, entity: Entity) -> Verdict:
    await store.delete(entity.digest)
    if await store.stat(entity.digest) is None:
        return Verdict(Level.OK, f"store {store.name}: deletes")
    what = f"store {store.name}: an entity is there after it was deleted"
    return Verdict(Level.WARN, what, "let this user delete, or the store grows for ever")


async def _race(store: Store) -> Verdict:
    """Exactly one of many writers of one version may win, and late ones must lose.

    The document stays: on later runs it is replaced, not created, which is the other condition.
    """
    remedy = "use a store that heeds If-None-Match and If-Match, or index from one machine only"
    found = await store.read_document(RACE_DOCUMENT)
    before = None if found is None else found.version
    won = await asyncio.gather(*(_wins(store, before) for _ in range(WRITERS)))
    if sum(won) != 1:
        what = f"store {store.name}: {sum(won)} of {WRITERS} writers of one version won"
        return Verdict(Level.FAIL, f"{what}, not 1", remedy)
    if await _wins(store, None):
        what = f"store {store.name}: a document was created although it was there"
        return Verdict(Level.FAIL, what, remedy)
    if before is not None and await _wins(store, before):
        what = f"store {store.name}: a document was replaced although it had changed"
        return Verdict(Level.FAIL, what, remedy)
    return Verdict(Level.OK, f"store {store.name}: conditional writes ({WRITERS} raced, 1 won)")


async def _wins(store: Store, expect: str | None) -> bool:
    try:
        await store.write_document(RACE_DOCUMENT, os.urandom(16).hex().encode(), expect)
    except Conflict:
        return False
    return True


async def unreadable(
    session: aiohttp.ClientSession, store: Store, target: Target, entity: Entity
) -> str | None:
    """Why an entity does not come back through a target as clients read it; None if it does."""
    try:
        await read_back(session, store, target, entity, time.time())
    except NotReadable as error:
        return str(error).removeprefix(f"entity {entity.digest}, ")
    return None


async def _readable(
    session: aiohttp.ClientSession, store: Store, target: Target, entity: Entity
) -> Verdict:
    said = await unreadable(session, store, target, entity)
    if said is not None:
        return Verdict(
            Level.FAIL,
            said,
            "its URL must lead to where the store's entities/ is, allow GET, heed Range and"
            " redirect nowhere" + (_KEY_KNOWN if isinstance(target, SignedHttpTarget) else ""),
        )
    return Verdict(Level.OK, f"target {target.name}: content comes back, whole and by Range")


async def _silent_behind(session: aiohttp.ClientSession, target: Target) -> Verdict | None:
    """What is wrong with how it answers for what is not there; None: nothing is."""
    try:
        await ask_behind(session, target, time.time())
    except NotReadable as error:
        remedy = "let it answer 404 or 403 for content that is not there, or it counts as down"
        return Verdict(Level.FAIL, str(error), remedy)
    return None


async def _in_time(
    store: Store, target: Target, entity: Entity, settings: HealthSettings
) -> Verdict:
    """See that a probe comes back, on connections of its own, in the time that probes have."""
    began = time.monotonic()
    try:
        await probe_anew(store, target, entity)
    except NotReadable as error:
        said = str(error).removeprefix(f"entity {entity.digest}, ")
        what = f"{said}; a moment ago it came back"
        return Verdict(Level.WARN, what, "find out why: clients are sent to no target that flaps")
    took = time.monotonic() - began
    if took <= settings.timeout / 2:
        return Verdict(Level.OK, f"target {target.name}: probes come back in time")
    return Verdict(
        Level.WARN,
        f"target {target.name}: a probe took {took:.1f} s, where health.timeout is"
        f" {settings.timeout:g} s",
        "raise health.timeout, and health.interval with it, or the target counts as down",
    )


async def _closed(
    session: aiohttp.ClientSession,
    store: Store,
    target: HttpTarget | S3Target | SignedHttpTarget,
    entity: Entity,
) -> Verdict:
    """See that a target gives content only, for which one must know a digest.

    Documents have names that can be guessed, and name repositories, refs and digests. No signature
    for content may open them.
    """
    query = ""
    if isinstance(target, SignedHttpTarget):
        query = target.locate(entity, _ANYONE, time.time()).url.partition("?")[2]
    # Seen by no cache before, neither the name nor what it holds.
    probe = f"doctor/{secrets.token_hex(16)}"
    await store.write_document(probe, secrets.token_hex(16).encode(), None)
    try:
        # A catalog may be let through where a probe is not.
        catalogs = [name async for name in store.list_documents(CATALOGS)]
        names = (probe, *catalogs[:1])
        for name, shown in product(names, ("", f"?{query}") if query else ("",)):
            if await _is_open(session, store, target, name, shown):
                return Verdict(
                    Level.FAIL,
                    f"target {target.name}: whoever reaches it can read documents of the store,"
                    " which name every repository and all content",
                    "let it expose /entities/ of the store, and never /documents/",
                )
    except (aiohttp.ClientError, OSError) as error:
        what = f"whether documents can be read is not known ({why(error)})"
        return Verdict(Level.WARN, f"target {target.name}: {what}")
    finally:
        with suppress(StoreError):
            await store.delete_document(probe)
    return Verdict(Level.OK, f"target {target.name}: documents cannot be read through it")


async def _is_open(
    session: aiohttp.ClientSession,
    store: Store,
    target: HttpTarget | S3Target | SignedHttpTarget,
    name: str,
    query: str,
) -> bool:
    """Whether a document comes back as it is in the store; a page in its place is none."""
    found = await store.read_document(name)
    if found is None:
        return False
    url = f"{target.base_url.rstrip('/')}/documents/{quote(name)}{query}"
    timeout = aiohttp.ClientTimeout(total=_ASK_SECONDS)
    async with session.get(
        URL(url, encoded=True), allow_redirects=False, timeout=timeout
    ) as answer:
        if answer.status != 200:
            return False
        read = b""
        async for chunk in answer.content.iter_chunked(_CHUNK):
            read += chunk
            if not found.body.startswith(read):
                return False
        return read == found.body
