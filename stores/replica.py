# Law of this file: a store of copies is believed only while it is the one that it was. A bucket
# that was emptied, a new disk and a mount point without its mount answer like any store, and have
# nothing of what was read back through them.
#
#   in the main store, documents/stores/<name>   the generation that is expected:
#                                                {"generation": <32 hex digits>, "settled": <bool>}
#   in the replica, entities/ab/<sha256>         its seal: "offramp store <generation>", a line
#   on this machine, <data>/stores/<name>        the generation that was expected last, for who is
#                                                started while the main store does not answer
#
# The seal is an entity like those that it stands for, and the oldest of them: a rule that removes
# content by its age, or all of a folder, removes it too. Nobody of ours does: `list` does not show
# it.

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stores.base import Conflict, Document, Store, Stored, StoreUnavailable
from stores.durable import make_directory, publish
from stores.entity import Entity

PREFIX: Final = "stores/"

_GENERATION_BYTES: Final = 16
GENERATION: Final = re.compile("[0-9a-f]{32}")

# How often the document is read again that others write at the same time: they do so once.
_ATTEMPTS: Final = 3


class NotTheSame(StoreUnavailable):
    """A store answers, and is not the one that it was.

    Attributes:
        what: what was found.
        remedy: what to do.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Expected:
    """What the main store says of a replica.

    Attributes:
        generation: changes when the replica is another one; empty: none was chosen yet.
        settled: the replica was seen to have its seal. Before, it is taken as it is found.
        version: of the document; None if there is none.
    """

    generation: str
    settled: bool
    version: str | None = None

    @property
    def body(self) -> bytes:
        """The document's content."""
        said = {"generation": self.generation, "settled": self.settled}
        return json.dumps(said).encode("ascii")


def parse(document: Document) -> Expected:
    """Read what the main store says of a replica.

    Raises:
        ValueError: it is not of the form above.
    """
    try:
        said = json.loads(document.body)
    except RecursionError:
        said = None
    match said:
        case {"generation": str(generation), "settled": bool(settled)}:
            if GENERATION.fullmatch(generation):
                return Expected(generation, settled, document.version)
    raise ValueError('it is not {"generation": <32 hex digits>, "settled": <true or false>}')


def seal(generation: str) -> tuple[Entity, bytes]:
    """The entity by which a replica shows its generation, and its content."""
    content = f"offramp store {generation}\n".encode()
    return Entity(hashlib.sha256(content).hexdigest(), len(content), "text/plain"), content


async def put_seal(store: Store, generation: str) -> None:
    """Put the seal of a generation into a store.

    Raises:
        stores.base.StoreError: it does not answer, or does not take it.
    """
    own, content = seal(generation)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "seal")
        path.write_bytes(content)
        await store.put(own, path)


async def is_sealed(store: Store, generation: str) -> bool:
    """Whether a store has the seal of a generation.

    Raises:
        stores.base.StoreError: it does not answer.
    """
    own = seal(generation)[0]
    found = await store.stat(own.digest)
    return found is not None and found.size == own.size


async def seals(main: Store) -> frozenset[str]:
    """Digests of the seals of all stores of which the main store says what it expects.

    Of its own, too (see `server/main_seal.py`), and of others than those of the settings: a replica
    may have been named otherwise, and may be so again.

    Raises:
        stores.base.StoreError: it does not answer.
    """
    found = set()
    async for name in main.list_documents(PREFIX):
        document = await main.read_document(name)
        with suppress(ValueError):
            if document is not None:
                found.add(seal(parse(document).generation)[0].digest)
    return frozenset(found)


class Replica:
    """A store of copies; while it is not the one that it was, each method raises so.

    What is found there, or done, counts only if it is the one afterwards. So each question costs a
    second one, for the seal. In the main store is looked once, and when the seal is not there.

    Safe for any number of processes. One that has another generation in mind than the main store,
    because the replica was renewed meanwhile, is refused every question until it is started anew.

    Args:
        label: its name in the settings.
        inner: does the work.
        main: has the document that says which generation is expected.
        notes: directory in which is noted what the main store said last; None: it is not.
        writes: False: nothing is written by looking, neither there nor here. A replica that was
            never used passes, and has no generation.
    """

    def __init__(
        self,
        label: str,
        inner: Store,
        main: Store,
        *,
        notes: Path | None = None,
        writes: bool = True,
    ) -> None:
        self.label = label
        self.inner = inner
        self._main = main
        self._note = None if notes is None else notes / label
        self._writes = writes
        self._generation: str | None = None
        self._settled = False

    @property
    def name(self) -> str:
        """The inner store's name."""
        return self.inner.name

    async def generation(self) -> str:
        """The generation that is expected, for as long as this object lives; chosen at first use.

        While the main store does not answer, the one that it said last: until it answers, nothing
        is believed of this store, and if it says another one then, nor is it after that.

        Raises:
            StoreUnavailable: the main store does not answer and never did, or what it says is
                damaged.
        """
        if self._generation is None:
            try:
                self._generation = (await self._expected()).generation
            except StoreUnavailable:
                self._generation = self._noted()
                if self._generation is None:
                    raise
            else:
                self._take_note()
        return self._generation

    async def check(self) -> None:
        """See that it is the one that it was; at first use, make it so.

        Raises:
            NotTheSame: it is not.
            StoreUnavailable: it, or the main store, does not answer.
        """
        generation = await self.generation()
        sealed = await is_sealed(self.inner, generation)
        if sealed and self._settled:
            return
        expected = await self._expected()
        if expected.generation != generation:
            raise NotTheSame(
                f"the store {self.label} ({self.name}) was renewed since this process was started",
                "restart it",
            )
        if not sealed and expected.settled:
            raise NotTheSame(
                f"the store {self.label} ({self.name}) is not the one that it was: its content was"
                f" removed, or is not mounted (there is no entity {seal(generation)[0].digest})",
                f"bring it back; if it is to begin anew, run `offramp stores renew {self.label}`",
            )
        if expected.settled:
            self._settled = True
        elif self._writes:
            if not sealed:
                await put_seal(self.inner, generation)
            await self._settle(expected)

    async def renew(self) -> str:
        """Take the store as it is from now on, whatever it was; returns its new generation.

        What was noted of its content counts no more. If this fails, it is to be called again.

        Raises:
            Conflict: somebody else does so at the same time.
            StoreUnavailable: it, or the main store, does not answer.
        """
        found = await self._main.read_document(PREFIX + self.label)
        new = Expected(chosen(), settled=False)
        # First, so that whoever comes now neither believes nor seals what was before.
        version = await self._main.write_document(
            PREFIX + self.label, new.body, None if found is None else found.version
        )
        if found is not None and (before := _generation_in(found)):
            # Whoever runs and has that in mind finds out.
            await self.inner.delete(seal(before)[0].digest)
        await put_seal(self.inner, new.generation)
        self._generation, self._settled = new.generation, False
        self._take_note()
        await self._settle(Expected(new.generation, settled=False, version=version))
        return new.generation

    # --- what stores do -------------------------------------------------------------------------

    async def put(self, entity: Entity, path: Path) -> None:
        """See :meth:`stores.base.Store.put`."""
        # Before, too: what is below a mount point is another disk.
        await self.check()
        await self.inner.put(entity, path)
        await self.check()

    async def stat(self, digest: str) -> Stored | None:
        """See :meth:`stores.base.Store.stat`."""
        found = await self.inner.stat(digest)
        await self.check()
        return found

    async def open(
        self, digest: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """See :meth:`stores.base.Store.open`."""
        await self.check()
        async for chunk in self.inner.open(digest, start, end):
            yield chunk

    async def delete(self, digest: str) -> None:
        """See :meth:`stores.base.Store.delete`."""
        await self.check()
        await self.inner.delete(digest)
        await self.check()

    async def list(self) -> AsyncIterator[Stored]:
        """See :meth:`stores.base.Store.list`; without the seal."""
        await self.check()
        own = seal(await self.generation())[0].digest
        async for stored in self.inner.list():
            if stored.digest != own:
                yield stored
        await self.check()

    async def read_document(self, name: str) -> Document | None:
        """See :meth:`stores.base.Store.read_document`."""
        found = await self.inner.read_document(name)
        await self.check()
        return found

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """See :meth:`stores.base.Store.write_document`."""
        await self.check()
        version = await self.inner.write_document(name, body, expect)
        await self.check()
        return version

    async def delete_document(self, name: str) -> None:
        """See :meth:`stores.base.Store.delete_document`."""
        await self.check()
        await self.inner.delete_document(name)
        await self.check()

    async def list_documents(self, prefix: str) -> AsyncIterator[str]:
        """See :meth:`stores.base.Store.list_documents`."""
        await self.check()
        async for name in self.inner.list_documents(prefix):
            yield name
        await self.check()

    def local_path(self, digest: str) -> Path | None:
        """As the inner store, which is not asked whether it is the one."""
        return self.inner.local_path(digest)

    async def close(self) -> None:
        """Close the inner store; the main one is its owner's."""
        await self.inner.close()

    # --- the seal -------------------------------------------------------------------------------

    async def _expected(self) -> Expected:
        """What the main store says; it is told, if it says nothing yet."""
        name = PREFIX + self.label
        for _ in range(_ATTEMPTS):
            document = await self._main.read_document(name)
            if document is not None:
                try:
                    return parse(document)
                except ValueError as error:
                    raise StoreUnavailable(
                        f"{self._main.name}, document {name}: {error}; run `offramp stores renew"
                        f" {self.label}`"
                    ) from error
            if not self._writes:
                return Expected("", settled=False)
            first = Expected(chosen(), settled=False)
            try:
                version = await self._main.write_document(name, first.body, None)
            except Conflict:
                continue  # somebody else was first
            return Expected(first.generation, settled=False, version=version)
        raise StoreUnavailable(
            f"{self._main.name}, document {name}: others wrote it each time that it was not there;"
            " try again"
        )

    def _noted(self) -> str | None:
        if self._note is None:
            return None
        try:
            said = self._note.read_text("ascii")
        except (OSError, UnicodeDecodeError):
            return None
        return said if GENERATION.fullmatch(said) else None

    def _take_note(self) -> None:
        if self._note is None or not self._writes or self._noted() == self._generation:
            return
        with suppress(OSError):  # who is started while the main store is away is then refused
            make_directory(self._note.parent)
            with tempfile.NamedTemporaryFile("w", dir=self._note.parent, delete=False) as file:
                file.write(self._generation or "")
            publish(Path(file.name), self._note)

    async def _settle(self, expected: Expected) -> None:
        """Say in the main store that the seal was seen: without it, it is not the one."""
        said = Expected(expected.generation, settled=True)
        try:
            await self._main.write_document(PREFIX + self.label, said.body, expected.version)
        except Conflict:
            return  # others have done so, or renewed it: the next look tells
        self._settled = True


def chosen() -> str:
    """A generation that no store was ever of."""
    return secrets.token_hex(_GENERATION_BYTES)


def _generation_in(document: Document) -> str:
    """The generation that a document names; empty if it is damaged."""
    try:
        return parse(document).generation
    except ValueError:
        return ""


async def generation_of(store: Store) -> str:
    """See :meth:`Replica.generation`; of any other store, there is none."""
    return await store.generation() if isinstance(store, Replica) else ""


def innermost(store: Store) -> Store:
    """The store that does the work of a replica; any other store itself."""
    return store.inner if isinstance(store, Replica) else store


async def confirm(store: Store) -> None:
    """See :meth:`Replica.check`; any other store passes."""
    if isinstance(store, Replica):
        await store.check()
