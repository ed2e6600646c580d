# Law of this file: a client that asks the same again, soon after it was sent elsewhere, did not get
# it there. What that is worth is decided here, from a table of bounded size; the clock is whoever
# asks.
#
# Behind one address there may be a fleet, whose machines ask the same one after another, and none
# of whose downloads fails. So nobody is believed without end: of one address a few in a window are
# answered inline, and the others sent there as before, however often they ask. Everybody is
# believed only where a probe of our own has failed: what clients ask does not make it so.
#
# The table can be read by whoever reads the data directory, and there are few addresses: what
# stands in it of a client is hashed with a secret.
#
# The table is one for all server processes of a machine. Each entry is small, is read and written
# in one piece, and takes the place of whatever was there before: nothing is locked, and what is
# lost is one client's second chance.
#
#     entries      8192 of  key (16 bytes), sent, inlined (doubles), two targets (64 bits each)
#     addresses    4096 of  key (16 bytes), since (double), count (64 bits)

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple, Protocol

from redirects.acceptance import spread_of

# A header is any bytes; those that are no text come as surrogates.
_AS_SENT: Final = "surrogateescape"

# Clients of one address who are answered inline within a window, where no probe has failed.
PER_ADDRESS: Final = 8

_ENTRY: Final = struct.Struct("<16sddQQ")
_ENTRIES: Final = 8192
_ADDRESS: Final = struct.Struct("<16sdQ")
_ADDRESSES: Final = 4096
_ADDRESSES_AT: Final = _ENTRIES * _ENTRY.size

TABLE_SIZE: Final = _ADDRESSES_AT + _ADDRESSES * _ADDRESS.size
"""Bytes of the table; what redirects/holding_off.py remembers follows."""


class Table(Protocol):
    """Bytes that are shared; at first they are zero, or not there."""

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there; fewer where nothing was ever written."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there."""
        ...


class MemoryTable:
    """A table of one process; it grows as a file does."""

    def __init__(self) -> None:
        self._held = bytearray(TABLE_SIZE)

    def read(self, offset: int, size: int) -> bytes:
        """See :class:`Table`."""
        return bytes(self._held[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """See :class:`Table`."""
        self._held.extend(bytes(max(0, offset - len(self._held))))
        self._held[offset : offset + len(data)] = data


@dataclass(frozen=True, slots=True)
class Asker:
    """One client with one question, as far as it can be told from others.

    Attributes:
        key: of both.
        address: of the address alone.
    """

    key: bytes
    address: bytes

    @classmethod
    def of(cls, address: str, traits: Iterable[str], question: str, *, secret: bytes) -> Asker:
        """Name a client.

        Args:
            address: from where it asks.
            traits: what else tells it from others there: its program, its credential.
            question: what it asks of which repository.
            secret: 16 to 64 bytes, without which nobody can tell whom a name is of; the same for
                all who share a table.
        """
        said = "\0".join((address, *traits, question)).encode(errors=_AS_SENT)
        key = hashlib.blake2b(said, digest_size=16, key=secret)
        of_address = hashlib.blake2b(address.encode(errors=_AS_SENT), digest_size=16, key=secret)
        return cls(key.digest(), of_address.digest())


class _Entry(NamedTuple):
    key: bytes
    sent: float
    inlined: float
    one: int
    other: int


@dataclass(frozen=True, slots=True)
class Again:
    """What it says that a client asks again.

    Attributes:
        targets: ``spread_of`` the names of those to which it was sent, perhaps in vain.
        is_believed: it is to be answered inline, because it did not get what it was sent for.
    """

    targets: tuple[int, ...] = ()
    is_believed: bool = False


_NOTHING: Final = Again()


def never(target: int) -> bool:
    """Of no target."""
    del target
    return False


@dataclass(frozen=True, slots=True)
class Suspicions:
    """Which clients were sent where, and what it says that one asks again.

    Attributes:
        table: remembers.
        window: seconds after which the same question is a new one; 0: always.
        per_address: clients of one address who are believed within a window, where no probe has
            failed; None: all, where that costs nobody anything.
    """

    table: Table
    window: float
    per_address: int | None = PER_ADDRESS

    def sent(self, asker: Asker, targets: Iterable[str], now: float) -> None:
        """A client is sent to ``targets`` (different names, of which two are remembered).

        ``now`` is in seconds of a clock that never jumps, the same for all processes.
        """
        one, other, *_ = (*map(spread_of, targets), 0, 0)
        if one and self.window:
            known = self._entry(asker)
            inlined = known.inlined if known.key == asker.key else -inf
            self._put(_Entry(asker.key, now, inlined, one, other))

    def asked_again(
        self,
        asker: Asker,
        now: float,
        failed: Callable[[int], bool],
        suspected: Callable[[int], bool] = never,
    ) -> Again:
        """What it says of the targets that a client asks this, and whether it is believed.

        Args:
            asker: who asks, and what.
            now: as for :meth:`sent`.
            failed: whether a probe of a target (``spread_of`` its name) has failed, and it is not
                up again.
            suspected: whether a target is still named although clients asked again, until a probe
                tells. Who was answered inline because of it is not sent there again before that.

        Returns:
            Where its address has had its share it is not believed, and tells of its targets all
            the same: a probe of ours can see to whether they work.
        """
        entry = self._entry(asker)
        if entry.key != asker.key:
            return _NOTHING
        targets = tuple(target for target in (entry.one, entry.other) if target)
        if self._is_recent(entry.sent, now):
            believed = any(map(failed, targets)) or self._may_again(asker.address, now)
        elif self._is_recent(entry.inlined, now):
            believed = any(map(suspected, targets)) and self._may_again(asker.address, now)
            if not believed:
                targets = ()  # it was not sent to them this time
        else:
            return _NOTHING
        # One redirect fails once; who comes next was not sent by it.
        self._put(entry._replace(sent=-inf, inlined=now if believed else entry.inlined))
        return Again(targets, believed)

    def _is_recent(self, then: float, now: float) -> bool:
        # A time to come is from before this machine was started.
        return 0 <= now - then <= self.window

    def _may_again(self, address: bytes, now: float) -> bool:
        """Count one more for an address, unless it had its share in this window."""
        if self.per_address is None:
            return True
        at = _ADDRESSES_AT + _ADDRESS.size * (_number(address) % _ADDRESSES)
        read = self.table.read(at, _ADDRESS.size)
        known, since, count = _ADDRESS.unpack(read.ljust(_ADDRESS.size, b"\0"))
        if known != address or not self._is_recent(since, now):
            since, count = now, 0
        if count >= self.per_address:
            return False
        self.table.write(at, _ADDRESS.pack(address, since, count + 1))
        return True

    def _entry(self, asker: Asker) -> _Entry:
        read = self.table.read(_at(asker.key), _ENTRY.size)
        return _Entry(*_ENTRY.unpack(read.ljust(_ENTRY.size, b"\0")))

    def _put(self, entry: _Entry) -> None:
        self.table.write(_at(entry.key), _ENTRY.pack(*entry))


def _at(key: bytes) -> int:
    return _ENTRY.size * (_number(key) % _ENTRIES)


def _number(key: bytes) -> int:
    return int.from_bytes(key[:8])
