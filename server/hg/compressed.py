# Law of this file: an entity that is sent inline is compressed once for each encoding, and from
# then on sent as it was compressed.

from __future__ import annotations

import functools
import os
import threading
from typing import Final, Protocol

from cache.entities import Entities, OpenEntity
from cache.errors import CacheUnavailable
from cache.flights import Outcome, RunFailed, Sink
from cache.keys import record_key
from server.answer import Inlined
from server.hg.content import PIECE
from server.pipeline import Pipeline
from stores.entity import OCTET_STREAM
from wire.hg.encodings import Encoding, encoder

_DIALECT: Final = "hg-encoded"

# What compresses; nobody holds one for longer than that takes, for it waits for no client.
_CORES: Final = threading.BoundedSemaphore(os.cpu_count() or 1)


class Check(Protocol):
    """Raises what ends a run that nobody waits for."""

    def __call__(self, *, begun: bool) -> None:
        """Look; ``begun``: the run has begun."""
        ...


async def compressed(  # noqa: PLR0917 - what is compressed, and for whom
    pipeline: Pipeline,
    repository: str,
    identity: str,
    entity: OpenEntity,
    encoding: Encoding,
    check: Check,
) -> Inlined | None:
    """The payload of a stream that tells ``entity``; None where the cache cannot be written.

    Args:
        pipeline: whose cache keeps it.
        repository: served name.
        identity: what names the repository in keys.
        entity: what is told.
        encoding: of the stream.
        check: see :class:`Check`; asked in the thread of the run.
    """
    key = record_key(_DIALECT, identity, entity.digest.encode(), encoding.encode())
    entities = pipeline.cache.entities
    run = functools.partial(_run, entities, entity.digest, entity.size, encoding, check)
    try:
        return await pipeline.derived(repository, identity, key, run)
    except CacheUnavailable:
        return None


def _run(  # noqa: PLR0917 - bound by the one caller, but for the last
    entities: Entities, digest: str, size: int, encoding: Encoding, check: Check, sink: Sink
) -> Outcome:
    """Encode an entity as one flushed piece of a stream; blocks."""
    check(begun=False)
    opened = entities.open(digest, size)
    if opened is None:
        raise RunFailed(f"entity {digest} went away while it was to be compressed")
    # More at a time than there are cores would only take each other's caches away.
    with opened, _CORES:
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
