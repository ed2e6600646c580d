# Law of this file: content is believed to be readable when it was read, as a stock client reads
# it: no redirect followed, no encoding undone, and resumed by Range. Bodies are hashed as they
# come, never held, and no longer than they may be.

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final

import aiohttp
from yarl import URL

from redirects.acceptance import Client
from redirects.decision import CannotLocate
from redirects.targets import HttpTarget, SelfTarget, SignedHttpTarget, Target
from server.http_faults import why
from server.lookups import connector
from stores.base import Store, StoreError
from stores.entity import Entity

# Bytes at the end of an entity that are asked for again by Range.
_TAIL: Final = 1024

# Limits on one request: seconds to connect, seconds of silence, and for the whole of it a minute
# plus what a body takes at 256 KiB/s; a slower target would serve no clone.
_CONNECT: Final = 10.0
_SILENCE: Final = 30.0
_BASE: Final = 60.0
_RATE: Final = 256 << 10

_CHUNK: Final = 1 << 20
# Hashing this much takes longer than to hand it to a thread.
_THREADED: Final = 128 << 10

# Locations of other targets than our own route do not depend on the client.
_ANYONE: Final = Client("http://127.0.0.1")


class NotReadable(Exception):  # noqa: N818 - what was found
    """The entity does not come back through the target; the message holds no URL."""


class TooSlow(NotReadable, TimeoutError):  # noqa: N818 - what was found
    """It did not come in the time that one of its requests has."""


async def read_back(
    session: aiohttp.ClientSession, store: Store, target: Target, entity: Entity, now: float
) -> None:
    """Read ``entity`` through ``target`` as it would be named ``now`` (seconds since the epoch).

    Our own route reads the store and nothing else, and may not be listening yet: for it, the
    store is read.

    Raises:
        NotReadable: it does not come, is not the entity, or cannot be resumed.
    """
    with _told(f"entity {entity.digest}, target {target.name}"):
        if isinstance(target, SelfTarget):
            async with asyncio.timeout(_in_all(entity)):
                await _from_store(store, entity)
        else:
            await _over_http(session, target.locate(entity, _ANYONE, now).url, entity)


async def read_back_anew(store: Store, target: Target, entity: Entity) -> None:
    """As :func:`read_back`, now and on a connection of its own, from looking up the name on.

    So do clients: a connection from before may outlive the server that would take theirs.
    """
    async with _anew() as session:
        await read_back(session, store, target, entity, time.time())


async def probe_anew(store: Store, target: Target, entity: Entity) -> None:
    """As :func:`read_back_anew`, and see that what is behind the target answers too.

    Raises:
        NotReadable: it does not come, or nobody answers for what no cache holds.
    """
    async with _anew() as session:
        await read_back(session, store, target, entity, time.time())
        await ask_behind(session, target, time.time())


async def ask_behind(session: aiohttp.ClientSession, target: Target, now: float) -> None:
    """Ask a CDN or static server for content that is nowhere, which no cache can answer for.

    One that has nobody to ask says so by a status from 500 on: 502 and 504, and others for what
    only it knows. Any other, most of all 404 and 403, is the word of who has the content.

    Raises:
        NotReadable: nobody answers.
    """
    if not isinstance(target, HttpTarget | SignedHttpTarget):
        return  # the store itself, or S3: nothing is between
    nowhere = Entity(secrets.token_hex(hashlib.sha256().digest_size), 1)
    url = target.locate(nowhere, _ANYONE, now).url
    with _told(f"target {target.name}"):
        async with _get(session, url, nowhere) as answer:
            if answer.status >= 500:
                raise NotReadable(
                    f"status {answer.status} for content that is not there, where 404 or 403 is"
                    " expected: what is behind it does not answer"
                )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say of what goes wrong in the block ``what`` it was, and nothing that is a key."""
    try:
        yield
    except (NotReadable, CannotLocate, StoreError) as error:
        raise NotReadable(f"{what}: {error}") from error
    except (aiohttp.ClientError, OSError, EOFError) as error:
        kind = TooSlow if isinstance(error, TimeoutError) else NotReadable
        raise kind(f"{what}: {why(error)}") from None


def _anew() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector(), cookie_jar=aiohttp.DummyCookieJar())


async def _from_store(store: Store, entity: Entity) -> None:
    tail = await _verified(entity, store.open(entity.digest))
    start = entity.size - len(tail)
    if tail and b"".join([chunk async for chunk in store.open(entity.digest, start)]) != tail:
        raise NotReadable(f"the store gives other bytes from {start} on than it did before")


async def _over_http(session: aiohttp.ClientSession, url: str, entity: Entity) -> None:
    async with _get(session, url, entity) as answer:
        _expect(answer, 200)
        _expect_type(answer, entity)
        tail = await _verified(entity, answer.content.iter_chunked(_CHUNK))
    if not tail:
        return
    # A broken download is resumed so; a host that sends all again ends the clone.
    start = entity.size - len(tail)
    async with _get(session, url, entity, Range=f"bytes={start}-") as answer:
        _expect(answer, 206)
        expected = f"bytes {start}-{entity.size - 1}/{entity.size}"
        stated = answer.headers.get("Content-Range")
        if stated != expected:
            raise NotReadable(f"Content-Range is {stated!r} where {expected!r} was asked for")
        same = await answer.content.readexactly(len(tail)) == tail
        if not same or await answer.content.read(1):
            raise NotReadable(f"the bytes from {start} on are not those that came before")


def _get(
    session: aiohttp.ClientSession, url: str, entity: Entity, **headers: str
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    return session.get(
        URL(url, encoded=True),
        headers={"Accept-Encoding": "identity", "User-Agent": "offramp", **headers},
        allow_redirects=False,
        timeout=aiohttp.ClientTimeout(
            total=_in_all(entity), sock_connect=_CONNECT, sock_read=_SILENCE
        ),
    )


def _in_all(entity: Entity) -> float:
    """Seconds that one request has."""
    return _BASE + entity.size / _RATE


def _expect(answer: aiohttp.ClientResponse, status: int) -> None:
    if answer.status != status:
        why = ""
        if answer.status == 200:
            why = "; it must heed Range, or broken downloads cannot be resumed"
        elif 300 <= answer.status < 400:
            why = "; clients follow no redirect here, so the target's URL must be the final one"
        raise NotReadable(f"status {answer.status} where {status} was expected{why}")
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise NotReadable(f"Content-Encoding {encoding!r}, although none was accepted")


def _expect_type(answer: aiohttp.ClientResponse, entity: Entity) -> None:
    """Check what clients are told of an entity whose type they demand, parameters and all.

    Mercurial takes what stands behind ``mercurial-`` for a version, with a ``; charset=`` too.
    """
    told = answer.headers.get("Content-Type")
    if entity.demanded_type not in {None, told}:
        raise NotReadable(
            f"Content-Type is {told!r} where clients take nothing but {entity.demanded_type!r};"
            " a bucket keeps types, and what stands before it must pass them on; a server before a"
            f" directory must name one for all entities (nginx: `default_type"
            f" {entity.demanded_type};` in the location), which other clients ignore"
        )


async def _verified(entity: Entity, chunks: AsyncIterator[bytes]) -> bytes:
    """Check size and digest of what comes, and return the last of it: at most half, and 1 KiB."""
    size = 0
    hashed = hashlib.sha256()
    kept = min(_TAIL, (entity.size + 1) // 2)
    tail = b""
    async for chunk in chunks:
        size += len(chunk)
        if size > entity.size:
            raise NotReadable(f"more than {entity.size} bytes came")
        if len(chunk) < _THREADED:
            hashed.update(chunk)
        else:
            await asyncio.to_thread(hashed.update, chunk)
        tail = (tail + chunk[-kept:])[-kept:]
    if size != entity.size:
        raise NotReadable(f"{size} bytes came where there are {entity.size}")
    if hashed.hexdigest() != entity.digest:
        raise NotReadable(f"what came has the SHA-256 {hashed.hexdigest()}")
    return tail
