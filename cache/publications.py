# Law of this file: nothing counts as readable through a target but what was read back through it,
# and only until its lease ends. What cannot be read here counts as never published.

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache.layout import (
    Layout,
    Stamp,
    is_named,
    lock,
    remove,
    stamp_of,
    unlock,
)

# Within this time, in seconds, what another process has published may be unknown here: it is then
# published again, or sent inline, and a request costs no system call.
STALE_SECONDS: Final = 1.0
_REMEMBERED: Final = 65536
_POLL_SECONDS: Final = 0.02
_FAR: Final = 1e12  # seconds since the epoch: no lease ends in the year 33658

_NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(slots=True)
class _Known:
    """What is remembered of one digest; times are seconds since the epoch.

    Attributes:
        stamp: of the file that was read; None if there was none.
        leases: when each target's lease ends.
        checked: when the file was looked at last.
        readable: the targets whose lease has not ended, from ``since`` until ``changes``.
    """

    stamp: Stamp | None
    leases: Mapping[str, float]
    checked: float
    readable: frozenset[str] = _NOBODY
    since: float = 0.0
    changes: float = 0.0


class Publications:
    """Through which targets each entity was read back. Shared by the processes of a machine.

    For the event loop's thread only.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def readable(self, digest: str, now: float) -> frozenset[str]:
        """Notes of the targets through which the entity can be read, as they were recorded.

        Args:
            digest: of the entity.
            now: seconds since the epoch; a later time asks what will still be readable then.
        """
        known = self._known.get(digest)
        if known is None or not 0 <= now - known.checked < STALE_SECONDS:
            known = self._look(digest, now)
        if not known.since <= now < known.changes:
            left = {target: end for target, end in known.leases.items() if end > now}
            known.readable = frozenset(left)
            known.since = now
            known.changes = min(left.values(), default=float("inf"))
        return known.readable

    def record(
        self,
        digest: str,
        targets: Iterable[str],
        now: float,
        lease: float,
        *,
        instead_of: Iterable[str] = (),
    ) -> None:
        """Note that the entity was read back through ``targets``, beside what is noted already.

        Hold :meth:`lock` around it: of two processes that do this at once, one is forgotten.

        Args:
            digest: of the entity.
            targets: a note of each, which is its fingerprint and what else was found there.
            now: seconds since the epoch.
            lease: seconds from ``now`` for which this counts.
            instead_of: notes that do not count any more.

        Raises:
            CacheUnavailable: the disk refused; nothing is noted.
        """
        known, gone = self._look(digest, now).leases, frozenset(instead_of)
        leases = {t: end for t, end in known.items() if end > now and t not in gone}
        for target in targets:
            leases[target] = max(now + lease, leases.get(target, 0.0))
        body = json.dumps(leases, sort_keys=True).encode("ascii")
        stamp = self._layout.write("published", digest, body)
        self._remember(digest, _Known(stamp, leases, now))

    def forget(self, digest: str) -> None:
        """Note that the entity can be read nowhere."""
        self._known.pop(digest, None)
        remove(self._layout.place("published", digest))

    def digests(self) -> Iterator[str]:
        """Digests of all entities of which something is noted, in no order. Blocks."""
        return (digest for digest, _ in self._layout.walk("published"))

    @asynccontextmanager
    async def lock(self, digest: str) -> AsyncIterator[None]:
        """Be the only one, in all processes, who publishes the entity. Waits for its turn.

        Raises:
            CacheUnavailable: incoming/ cannot be written.
        """
        self._layout.place("published", digest)  # which checks the name
        name = f"publish-{digest}"
        path = self._layout.incoming(name)
        while True:
            file, _ = self._layout.create_or_open(name)
            # Whoever had the lock removes the file: a lock on a removed one is worth nothing.
            if lock(file.number, fcntl.LOCK_EX):
                if is_named(file.number, path):
                    break
                unlock(file.number)
            else:
                await asyncio.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            remove(path)
            unlock(file.number)

    def sweep(self, now: float) -> None:
        """Remove the notes of which every lease has ended. Blocks."""
        for digest, _ in self._layout.walk("published"):
            path = self._layout.place("published", digest)
            if all(end <= now for end in _read(path)[1].values()):
                remove(path)

    def _look(self, digest: str, now: float) -> _Known:
        """What the file says; it is read again only if it is another one than before."""
        known = self._known.get(digest)
        path = self._layout.place("published", digest)
        try:
            stamp = stamp_of(path.stat())
        except OSError:
            stamp = None
        if known is not None and known.stamp == stamp:
            self._known.move_to_end(digest)
            known.checked = now
            return known
        return self._remember(digest, _Known(*_read(path), now))

    def _remember(self, digest: str, known: _Known) -> _Known:
        self._known[digest] = known
        self._known.move_to_end(digest)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return known


def parse_leases(body: bytes) -> Mapping[str, float]:
    """Read a file of published/: a JSON object, note of a target to the end of its lease.

    A damaged file, or a value that is no finite number, promises nothing.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(fields, dict):
        return {}
    return {
        target: float(end)
        for target, end in fields.items()
        if type(end) in {int, float} and abs(end) < _FAR
    }


def _read(path: Path) -> tuple[Stamp | None, Mapping[str, float]]:
    try:
        with path.open("rb") as file:
            return stamp_of(os.fstat(file.fileno())), parse_leases(file.read())
    except OSError:
        return None, {}
