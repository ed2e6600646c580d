# Law of this file: an entity is let go only if it was searched, and does not hold what is looked
# for. What cannot be searched counts as holding it, and says so.

from __future__ import annotations

import asyncio
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from cache.cache import Cache
from repos.git.contained import Unreadable, pack_holds
from repos.git.program import Git
from stores.base import Missing, Store


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of an entity.

    Attributes:
        holds: it holds what is looked for, or could not be searched.
        size: bytes.
        local: it is on this machine's disk.
        stored: it is in the store.
        unread: why it could not be searched; "" if it was.
    """

    holds: bool
    size: int
    local: bool
    stored: bool
    unread: str = ""


@dataclass(slots=True)
class Search:
    """Looks into entities, wherever they are, each once.

    Attributes:
        store: where they are, if not on this machine's disk.
        cache: of this machine.
        git: how programs are run.
        scratch: a directory of our own for copies.
        object_id: what is looked for; None for anything.
        objects: the ``objects`` directory of the repository that they were made from, for the
            bases of thin packs; None if it is not here.
    """

    store: Store
    cache: Cache
    git: Git
    scratch: Path
    object_id: str | None
    objects: Path | None
    _known: dict[str, Verdict] = field(default_factory=dict)

    async def verdict(self, digest: str, same: Verdict | None = None) -> Verdict:
        """What is known of the entity ``digest``; of one that is gone, that it holds it.

        Args:
            digest: which.
            same: of an entity with the same objects, if there is one: then this is not searched.

        Raises:
            stores.base.StoreUnavailable: the store did not answer.
            OSError: the disk refused.
        """
        known = self._known.get(digest)
        if known is None:
            known = self._known[digest] = await self._look(digest, same)
        return known

    async def _look(self, digest: str, same: Verdict | None) -> Verdict:
        stored = await self.store.stat(digest)
        opened = self.cache.entities.open(digest)
        with opened or nullcontext():  # held open, it is not evicted while it is searched
            found = Verdict(
                holds=True,
                size=stored.size if stored else opened.size if opened else 0,
                local=opened is not None,
                stored=stored is not None,
            )
            if self.object_id is None or not (found.local or found.stored):
                return found
            if same is not None:
                return replace(found, holds=same.holds, unread=same.unread)
            path = self.cache.entities.path(digest) if opened else self.store.local_path(digest)
            try:
                return replace(found, holds=await self._holds(digest, path, self.object_id))
            except Missing:  # collected since we looked
                return replace(found, stored=False)
            except Unreadable as error:
                return replace(found, unread=str(error))

    async def _holds(self, digest: str, path: Path | None, object_id: str) -> bool:
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            scratch = Path(name)
            if path is None:
                path = scratch / "entity"
                with path.open("wb") as file:
                    async for chunk in self.store.open(digest):
                        await asyncio.to_thread(file.write, chunk)
            return await asyncio.to_thread(
                pack_holds,
                self.git,
                path,
                object_id,
                scratch=scratch,
                objects=self.objects,
            )
