# Law of this file: an entity that is sent inline is compressed once for each encoding, and from
# then on sent as it was compressed.

from __future__ import annotations

import asyncio
import functools
import os
from dataclasses import dataclass, field
from typing import Final, Protocol

from cache.entities import Entities, OpenEntity
from cache.errors import CacheUnavailable
from cache.flights import Outcome, RunFailed, Sink
from cache.keys import record_key
from cache.records import Record
from server.admission import Busy
from server.answer import Growing, Inlined
from server.hg.content import PIECE
from server.pipeline import Pipeline
from stores.entity import OCTET_STREAM
from wire.hg.encodings import Encoding, encoder

_DIALECT: Final = "hg-encoded"


class Check(Protocol):
    """Raises what ends a run that nobody waits for."""

    def __call__(self, *, begun: bool) -> None:
        """Look; ``begun``: the run has begun."""
        ...


@dataclass(slots=True)
class Compressor:
    """Has entities compressed, as many at a time as there are cores.

    More would only take each other's caches away, and the threads of all other runs.

    Attributes:
        pipeline: whose cache keeps what comes of it.
    """

    pipeline: Pipeline
    _lanes: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(os.cpu_count() or 1)
    )
    _ending: set[asyncio.Future[Record]] = field(default_factory=set)

    async def compressed(
        self,
        repository: str,
        identity: str,
        entity: OpenEntity,
        encoding: Encoding,
        check: Check,
    ) -> Inlined | None:
        """The payload of a stream that tells ``entity``; None: encode it for this client alone.

        Args:
            repository: served name.
            identity: what names the repository in keys.
            entity: what is told.
            encoding: of the stream.
            check: see :class:`Check`; asked in the thread of the run.
        """
        key = record_key(_DIALECT, identity, entity.digest.encode(), encoding.encode())
        entities = self.pipeline.cache.entities
        run = functools.partial(_run, entities, entity.digest, entity.size, encoding, check)
        await self._lanes.acquire()
        made: Inlined | None = None
        try:
            made = await self.pipeline.derived(repository, identity, key, run)
        except (CacheUnavailable, Busy):
            return None  # it is at hand: who asks for it is not refused
        finally:
            if isinstance(made, Growing) and made.flight.leader:
                self._release_after(made)
            else:
                self._lanes.release()
        return made

    def _release_after(self, made: Growing) -> None:
        """Keep the lane until the run has ended, whoever waits for it."""
        ending = asyncio.ensure_future(made.flight.finished())
        self._ending.add(ending)

        def ended(task: asyncio.Future[Record]) -> None:
            self._ending.discard(task)
            self._lanes.release()
            if not task.cancelled():
                task.exception()  # told to those who read along

        ending.add_done_callback(ended)


def _run(  # noqa: PLR0917 - bound by the one caller, but for the last
    entities: Entities, digest: str, size: int, encoding: Encoding, check: Check, sink: Sink
) -> Outcome:
    """Encode an entity as one flushed piece of a stream; blocks."""
    check(begun=False)
    opened = entities.open(digest, size)
    if opened is None:
        raise RunFailed(f"entity {digest} went away while it was to be compressed")
    with opened:
        sink.head(b"")
        coder = encoder(encoding)
        encoded = bytearray()
        for offset in range(0, size, PIECE):
            check(begun=True)
            encoded += coder.encode(os.pread(opened.fd, min(PIECE, size - offset), offset))
            if len(encoded) >= PIECE:
                # Each write wakes the event loop: few large ones leave it more for others.
                sink.write(bytes(encoded))
                encoded.clear()
        sink.write(bytes(encoded) + coder.flush())
    return Outcome(OCTET_STREAM, "", has_entity=True)
