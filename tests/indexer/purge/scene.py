# Law of this file: the repository, its packs and what was indexed are real; a machine that has
# answered from them is stood in for by its cache.

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.cache import Cache
from cache.epochs import in_epoch
from cache.keys import record_key
from cache.records import Part, Record
from indexer.catalog import Catalog, load
from indexer.ownership import claim
from indexer.purge import PurgeReport, Subject, purge
from repos.git.program import Git
from stores.base import Store
from stores.entity import Entity
from tests.indexer.conftest import Bench, Served

OTHER = "other.git"
NOWHERE = "d" * 40


@dataclass
class House:
    """A repository that was indexed, and a machine that has answered from it."""

    served: Served
    bench: Bench
    store: Store
    cache: Cache
    directory: Path
    mirror: Mirror | None = None
    made: int = 0

    @property
    def identity(self) -> str:
        """What names the repository in records."""
        return str(self.served.path)

    async def purge(self, object_id: str | None = None, **options: Any) -> PurgeReport:
        """Purge the repository of everything, or of one object."""
        subject = Subject(
            self.served.name,
            frozenset((self.identity,)),
            None if self.mirror else self.served.path,
            self.mirror,
            object_id,
        )
        return await purge(
            subject,
            self.store,
            self.cache,
            Git(),
            self.directory / "work",
            now=self.bench.now,
            settle=0.0,
            **options,
        )

    def pack(self, *revisions: str, thin: bool = False) -> bytes:
        """A pack of what some revisions reach."""
        arguments = ["pack-objects", "--revs", "--stdout", "-q", *(["--thin"] if thin else [])]
        done = subprocess.run(
            ["git", "-C", str(self.served.tree), *arguments],
            input="".join(f"{revision}\n" for revision in revisions).encode(),
            capture_output=True,
            check=True,
        )
        return done.stdout

    async def record(
        self,
        content: bytes,
        *,
        identity: str = "",
        owner: str = "",
        publish: bool = True,
        epoch: int = 0,
    ) -> Record:
        """What a server does that computed an answer."""
        self.made += 1
        entity = Entity(hashlib.sha256(content).hexdigest(), len(content))
        incoming = self.directory / f"computed-{self.made}"
        incoming.write_bytes(content)
        if publish:
            await claim(self.store, owner or self.served.name, entity.digest, self.bench.now)
            await self.store.put(entity, incoming)
            self.cache.publications.record(entity.digest, ["t"], self.bench.now, 1e6)
        self.cache.entities.adopt(incoming, entity)
        key = record_key("git-v2", identity or self.identity, b"%d" % self.made)
        named = in_epoch(identity or self.identity, epoch)
        record = Record(key, named, b"head", (Part(entity, ""),), self.bench.now)
        self.cache.records.save(record)
        return record

    async def evict(self, record: Record) -> None:
        """Let this machine know nothing of a record any more."""
        self.cache.records.delete(record.key)
        self.cache.entities.take_back(record.parts[0].entity.digest)

    async def stored(self) -> set[str]:
        """What is in the store."""
        return {found.digest async for found in self.store.list()}

    async def documents(self) -> set[str]:
        """Names of the store's documents."""
        return {name async for name in self.store.list_documents("")}

    def local(self) -> set[str]:
        """What is on this machine's disk."""
        return set(self.cache.entities.digests())

    async def catalog(self) -> Catalog:
        """As it is now."""
        loaded = await load(self.store, self.served.name)
        assert loaded is not None
        return loaded[0]

    def oid(self, revision: str) -> str:
        """An object's id."""
        return self.served.run("rev-parse", revision)


@dataclass
class Mirror:
    """Stands in for a mirror."""

    path: Path
    exists: bool = True
    removed: list[int] = field(default_factory=list)
    tell: Callable[[], int] = lambda: 0

    def remove(self) -> None:
        """Remove it."""
        self.exists = False
        self.removed.append(self.tell())


def digest_of(record: Record) -> str:
    """The entity that a record names."""
    return record.parts[0].entity.digest
