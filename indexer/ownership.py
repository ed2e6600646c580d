# Law of this file: before what a server computed is put into the store, a document there says for
# which repository. So it can be found again on any machine, whatever was evicted.
#
#   owned/<name as in catalogs/>/<digest>   a JSON object: `repository`, URL-quoted, and `since`

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from indexer.catalog import document_segment, quoted_name
from stores.base import Conflict, Store
from stores.entity import is_digest

PREFIX: Final = "owned/"


def claim_name(repository: str, digest: str) -> str:
    """The document that says that the entity ``digest`` was computed for ``repository``."""
    return f"{PREFIX}{document_segment(repository)}/{digest}"


async def claim(store: Store, repository: str, digest: str, now: float) -> None:
    """Say that an entity is ``repository``'s, from ``now`` (seconds since the epoch) at least.

    Raises:
        stores.base.StoreUnavailable: the store did not answer.
    """
    name = claim_name(repository, digest)
    body = json.dumps({"repository": quoted_name(repository), "since": now}).encode("ascii")
    version: str | None = None
    for _ in range(2):
        try:
            await store.write_document(name, body, version)
        except Conflict:
            # An older claim, which collection might be about to drop, or one made just now.
            found = await store.read_document(name)
            version = None if found is None else found.version
        else:
            return


async def claims(store: Store, repository: str) -> frozenset[str]:
    """Digests of what was computed for ``repository``; some of it may be gone."""
    prefix = claim_name(repository, "")
    names = [name async for name in store.list_documents(prefix)]
    return frozenset(digest for name in names if is_digest(digest := name.removeprefix(prefix)))


async def claimed(store: Store) -> Mapping[str, tuple[str, ...]]:
    """The documents that claim each digest, of all repositories."""
    found: dict[str, tuple[str, ...]] = {}
    async for name in store.list_documents(PREFIX):
        digest = name.rpartition("/")[2]
        if is_digest(digest):
            found[digest] = (*found.get(digest, ()), name)
    return found


async def read_claim(store: Store, name: str) -> tuple[str, float]:
    """The repository that the document ``name`` speaks of, and since when.

    Of a document that is gone or damaged, what its name says, and 0.
    """
    document = await store.read_document(name)
    try:
        match json.loads(document.body if document else b""):
            case {"repository": str(quoted), "since": int() | float() as since}:
                return unquote(quoted, errors="surrogatepass"), float(since)
    except (ValueError, RecursionError, OverflowError):
        pass
    segment = name.removeprefix(PREFIX).partition("/")[0]
    return unquote(segment, errors="replace"), 0.0
