# Law of this file: clients whose sessions fail at a mirror that is well are kept from it, ever
# longer. Two servers with equal refs need not have equal objects: a client may ask by its id for a
# commit that was force-pushed away, and only with a later request than the one that is redirected.
#
# What is kept here is answered here, which costs what it always did. So, unlike with content,
# nobody's word is limited; but it counts for the client's own network, and for one repository at
# one mirror. The table has a bounded size, is shared by all server processes of a machine, and
# lies behind that of redirects/suspicion.py; an entry takes the place of whatever was there, and
# what is lost is one client's session, which is known again by asking once more.
#
#     entries      4096 of  key (16 bytes), since, seconds (doubles)

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from redirects.suspicion import TABLE_SIZE, Table

FIRST: Final = 600.0
"""Seconds for which sessions are held off at first; twice as long each time it happens again."""

LONGEST: Final = 86400.0

_ENTRY: Final = struct.Struct("<16sdd")
_ENTRIES: Final = 4096
_AT: Final = TABLE_SIZE


def held_off_key(network: str, session: tuple[str, str], mirror: str, *, secret: bytes) -> bytes:
    """What stands for one network, kind of repository with its served name, and mirror.

    ``secret`` is that of :meth:`redirects.suspicion.Asker.of`.
    """
    said = "\0".join((network, *session, mirror)).encode(errors="surrogateescape")
    return hashlib.blake2b(said, digest_size=16, key=secret, person=b"held off").digest()


class _Entry(NamedTuple):
    key: bytes
    since: float
    seconds: float

    def holds(self, now: float) -> bool:
        # A time to come is from before this machine was started.
        return 0 <= now - self.since < self.seconds


@dataclass(frozen=True, slots=True)
class HoldOffs:
    """Which sessions are kept from which mirrors.

    Attributes:
        table: remembers.
    """

    table: Table

    def holds(self, key: bytes, now: float) -> bool:
        """Whether sessions with this :func:`held_off_key` stay.

        ``now`` is in seconds of a clock that never jumps, the same for all processes.
        """
        entry = self._entry(key)
        return entry.key == key and entry.holds(now)

    def failed(self, key: bytes, now: float) -> float:
        """A session failed there: hold off those like it. Returns for how many seconds.

        Those that moved before they were held off say nothing new when they fail.
        """
        entry = self._entry(key)
        known = entry.key == key
        if known and entry.holds(now):
            return entry.since + entry.seconds - now
        # As soon again as it was held off: it was no chance.
        again = known and 0 <= now - entry.since < 2 * entry.seconds
        seconds = min(2 * entry.seconds, LONGEST) if again else FIRST
        self._put(_Entry(key, now, seconds))
        return seconds

    def would_fail(self, key: bytes, now: float) -> None:
        """A session that was answered here might have failed there: hold off those to come."""
        entry = self._entry(key)
        held = entry.key == key and entry.holds(now)
        self._put(_Entry(key, now, entry.seconds if held else FIRST))

    def _entry(self, key: bytes) -> _Entry:
        read = self.table.read(_at(key), _ENTRY.size)
        return _Entry(*_ENTRY.unpack(read.ljust(_ENTRY.size, b"\0")))

    def _put(self, entry: _Entry) -> None:
        self.table.write(_at(entry.key), _ENTRY.pack(*entry))


def _at(key: bytes) -> int:
    return _AT + _ENTRY.size * (int.from_bytes(key[:8]) % _ENTRIES)
