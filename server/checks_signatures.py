# Law of this file: a signature is believed to be demanded where content came with it, and did not
# come without it, with another, after its end, or for other content.

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Final

import aiohttp
from yarl import URL

from redirects.acceptance import Client
from redirects.decision import CannotLocate
from redirects.targets import S3Target, SignedHttpTarget
from server.http_faults import why
from server.verdict import Level, Verdict
from stores.entity import Entity

# The parameter that holds the signature, of every way of signing, and its first character.
_SIGNATURE: Final = re.compile(r"(?<=[?&])((?:X-Amz-)?Signature|signature|md5)=(.)")
_ASK_SECONDS: Final = 20.0
_CHUNK: Final = 64 << 10
_ANYONE: Final = Client("http://127.0.0.1")

_REMEDY: Final = (
    "let it check signature, end and path of every request, those that a cache of its own answers"
    " too; until then, whoever has seen a URL can read for ever"
)
_OTHER_KEY: Final = "make the key known there before you put it first, or remove it here"


async def check_signatures(
    session: aiohttp.ClientSession,
    target: S3Target | SignedHttpTarget,
    entity: Entity,
    other: Entity,
    now: float,
) -> AsyncGenerator[Verdict, None]:
    """Ask a signed target for what it must not give, and try the keys that do not sign yet.

    Args:
        session: to ask with.
        target: it gives ``entity``, as its URLs name it.
        entity: small content that is in the store.
        other: as well.
        now: seconds since the epoch.
    """
    try:
        yield await _demanded(session, target, entity, other, now)
        if isinstance(target, SignedHttpTarget):
            for key, signer in target.signer.by_key()[1:]:
                url = replace(target, signer=signer).locate(entity, _ANYONE, now).url
                if await _gives(session, url, entity):
                    yield Verdict(Level.OK, f"target {target.name}: key {key} works as well")
                else:
                    what = f"target {target.name}: nothing comes with key {key}"
                    yield Verdict(Level.FAIL, what, _OTHER_KEY)
    except (CannotLocate, aiohttp.ClientError, OSError) as error:
        # The message may hold the URL, and a URL is a key.
        what = f"whether signatures are demanded is not known ({why(error)})"
        yield Verdict(Level.WARN, f"target {target.name}: {what}")


async def _demanded(
    session: aiohttp.ClientSession,
    target: S3Target | SignedHttpTarget,
    entity: Entity,
    other: Entity,
    now: float,
) -> Verdict:
    url = target.locate(entity, _ANYONE, now).url
    bare, _, query = url.partition("?")
    # Its whole life before now, and as much again for clocks that differ.
    ended = target.locate(entity, _ANYONE, now - 2 * target.max_lifetime).url
    wrong = [
        ("without a signature", bare, entity),
        ("with an altered signature", altered(url), entity),
        ("after the URL has ended", ended, entity),
    ]
    if not opens_all(target):
        elsewhere = target.locate(other, _ANYONE, now).url.partition("?")[0]
        wrong.append(("with the signature of other content", f"{elsewhere}?{query}", other))
    if isinstance(target, SignedHttpTarget):
        until = int(now) + target.max_lifetime
        forged = target.signer.by_nobody(target.base_url, entity.digest, until)
        if forged is not None:
            wrong.append(("with a key that there is not and no secret", f"{bare}?{forged}", entity))
    for how, asked, content in wrong:
        if await _gives(session, asked, content):
            what = f"target {target.name}: content comes {how}"
            return Verdict(Level.FAIL, what, _REMEDY)
    return Verdict(
        Level.OK, f"target {target.name}: nothing comes without its signature or after its end"
    )


def opens_all(target: S3Target | SignedHttpTarget) -> bool:
    """Whether one signature of the target opens all entities, as it is meant to."""
    return isinstance(target, SignedHttpTarget) and target.signer.opens_all


def altered(url: str) -> str:
    """``url`` with another signature: its first character is one that it was not."""
    return _SIGNATURE.sub(lambda found: f"{found[1]}={'1' if found[2] == '0' else '0'}", url)


async def _gives(session: aiohttp.ClientSession, url: str, entity: Entity) -> bool:
    """Whether the content comes; a page in its place does not count, whatever its status."""
    timeout = aiohttp.ClientTimeout(total=_ASK_SECONDS)
    headers = {"Accept-Encoding": "identity", "User-Agent": "offramp"}
    async with session.get(
        URL(url, encoded=True), headers=headers, allow_redirects=False, timeout=timeout
    ) as answer:
        if answer.status != 200:
            return False
        read = b""
        async for chunk in answer.content.iter_chunked(_CHUNK):
            read += chunk
            if len(read) > entity.size:
                return False
        return hashlib.sha256(read).hexdigest() == entity.digest
