# Law of this file: the main store, too, is believed only while it is the one that it was. Unlike a
# store of copies it is taken as it is found when it is not: what was published before counts as
# never published, and is published again when it is asked for.
#
#   in the main store, documents/stores/main   the generation that it is of, and since when:
#       {"generation": <32 hex digits>, "settled": <bool>, "since": <seconds since the epoch>}
#   in the main store, entities/ab/<sha256>    its seal, as in stores/replica.py
#   <data>/main-store.json                     what this machine has seen, for all its processes:
#       {"generation": <32 hex digits>, "era": <the same, or empty>, "since": <seconds>,
#        "noticed": <seconds>}
#
# An era is what this machine notes beside what it has read back there: empty until it has seen the
# store change, so that what was noted before there were seals counts.

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Final

from server.settings_stores import MAIN
from stores.base import Conflict, Document, Store, StoreUnavailable
from stores.replica import GENERATION, PREFIX, chosen, is_sealed, put_seal

_log = logging.getLogger("offramp.store")

DOCUMENT: Final = PREFIX + MAIN
FILE: Final = "main-store.json"

# Clocks of machines that share a store may differ; what was made so long after it changed is looked
# for there all the same before it is named.
SKEW: Final = 86400.0

# How often the document is read again that others write at the same time: they do so once.
_ATTEMPTS: Final = 3

# A store that we may only read is not asked at each look to take a seal; one that failed is, soon.
_SOON: Final = 30.0
_AGAIN: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Known:
    """What a machine knows of the main store.

    Attributes:
        generation: that was seen there; empty: none.
        era: what is noted there beside what was read back; notes of another one do not count.
        since: when it was found to be another one than before, in seconds since the epoch; 0.0:
            never. Of bundles that are older it is not known whether it has them.
        noticed: when this machine has seen that last; 0.0: never.
    """

    generation: str = ""
    era: str = ""
    since: float = 0.0
    noticed: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class _Said:
    """What the store says of itself; see above.

    Attributes:
        settled: the seal is there. Before, whoever comes puts it there.
    """

    generation: str
    settled: bool
    since: float

    @property
    def body(self) -> bytes:
        said = {"generation": self.generation, "settled": self.settled, "since": self.since}
        return json.dumps(said).encode("ascii")


def remembered(data: Path) -> Known:
    """What the processes of this machine know; nothing, if that cannot be read. Blocks.

    What cannot be read is as in a data directory that is new: the notes in it count, and what the
    store says of itself.
    """
    try:
        said = json.loads((data / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return Known()
    match said:
        case {
            "generation": str(generation),
            "era": str(era),
            "since": int() | float() as since,
            "noticed": int() | float() as noticed,
        }:
            if isfinite(since) and isfinite(noticed):
                return Known(generation, era, float(since), float(noticed))
    return Known()


class MainSeal:
    """Sees whether the main store is the one that it was, for one process.

    Args:
        store: the main one.
        data: the data directory, which exists.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, data: Path, clock: Callable[[], float] = time.time) -> None:
        self.known = remembered(data)
        self._store = store
        self._data = data
        self._clock = clock
        self._refused = -inf
        self._pause = 0.0

    async def look(self) -> bool:
        """Look at the seal; a store without it is taken as it is found, and given one.

        Returns:
            Whether :attr:`known` has changed, so that nothing counts that was known before of what
            the store has.

        Raises:
            stores.base.StoreError: the store does not answer.
        """
        known = await asyncio.to_thread(remembered, self._data)
        if not known.generation or not await is_sealed(self._store, known.generation):
            before, known = known, await self._found(known)
            if known != before:
                await asyncio.to_thread(self._remember, known)
        changed = (known.era, known.since) != (self.known.era, self.known.since)
        self.known = known
        return changed

    async def _found(self, before: Known) -> Known:
        """What is to be known of a store that is not the one of ``before``, or was never seen."""
        if not before.generation and self._clock() - self._refused < self._pause:
            return before
        try:
            said, anew = await self._settled(before.generation)
        except StoreUnavailable as error:
            if not before.generation:
                self._refused = self._clock()
                self._pause = min(2 * self._pause or _SOON, _AGAIN)
                # As it always was, for those who may only read: nothing tells if it is emptied.
                _log.info("the main store has no seal: %s", error)
                return before
            if self.known.era and not self.known.generation:
                return self.known  # found out before, and could not be noted on this machine
            _log.warning("%s; and it cannot be given a seal: %s", self._what(), error)
            now = self._clock()
            return Known("", chosen(), now, now)
        self._pause = 0.0
        if said.generation == before.generation or not (before.generation or anew):
            return Known(said.generation, before.era, said.since, before.noticed)
        _log.warning("%s", self._what())
        return Known(said.generation, said.generation, said.since, self._clock())

    def _what(self) -> str:
        return (
            f"the main store ({self._store.name}) is not the one that it was: its content was"
            " removed, or it is another one, or what was mounted is not, or is again; what was"
            " published before is named to nobody until it was published again"
        )

    async def _settled(self, before: str) -> tuple[_Said, bool]:
        """What the store says, when its seal is there; and whether it was we who began it anew.

        Args:
            before: the generation that was seen there; empty: none.

        Raises:
            StoreUnavailable: it does not answer, or takes no seal.
        """
        anew = False
        for _ in range(_ATTEMPTS):
            document = await self._store.read_document(DOCUMENT)
            said = None if document is None else _parse(document)
            version = None if document is None else document.version
            begun = said is not None and not said.settled and said.generation != before
            if said is None or not (begun or await is_sealed(self._store, said.generation)):
                # A store in which there never was one is taken for what it always was.
                anew = document is not None or bool(before)
                said = _Said(chosen(), settled=False, since=self._clock() if anew else 0.0)
                try:
                    version = await self._store.write_document(DOCUMENT, said.body, version)
                except Conflict:
                    continue  # somebody else was first
            if said.settled:
                return said, anew
            await put_seal(self._store, said.generation)
            settled = _Said(said.generation, settled=True, since=said.since)
            with suppress(Conflict):  # others have done so, or begun anew: the next look tells
                await self._store.write_document(DOCUMENT, settled.body, version)
            return settled, anew
        raise StoreUnavailable(
            f"{self._store.name}, document {DOCUMENT}: others wrote it each time that it was to be"
            " written"
        )

    def _remember(self, known: Known) -> None:
        """Note it for every process of this machine; who reads sees the old note, or the new."""
        incoming = self._data / "incoming"  # what a crash leaves there is removed
        try:
            incoming.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=incoming, delete=False) as file:
                try:
                    json.dump(asdict(known), file)
                    file.flush()
                    os.fsync(file.fileno())
                    Path(file.name).replace(self._data / FILE)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            # This process knows; others will look at the store themselves.
            _log.warning("it cannot be noted of which generation the main store is: %s", error)


def _parse(document: Document) -> _Said | None:
    """What a store says of itself; None if that is damaged."""
    try:
        said = json.loads(document.body)
    except (ValueError, RecursionError):
        return None
    match said:
        case {
            "generation": str(generation),
            "settled": bool(settled),
            "since": int() | float() as since,
        }:
            if GENERATION.fullmatch(generation) and isfinite(since):
                return _Said(generation, settled, float(since))
    return None
