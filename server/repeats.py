# Law of this file: a request that comes again, soon after its client was sent elsewhere, is told
# from others like it by all that a request says; where that is too little, it is a new one.
#
#     <data>/sent.table      who was sent where; see redirects/suspicion.py

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, Protocol, Self, TypeVar

from aiohttp import web

from redirects.acceptance import Location, spread_of
from redirects.networks import read_address
from redirects.selection import Named
from redirects.suspicion import Asker, Suspicions
from redirects.targets import SelfTarget
from server.access.rules import HANDED_ON
from server.exchange import EXCHANGE
from server.metrics import Metrics
from stores.entity import Entity

_log = logging.getLogger("offramp.health")

TABLE_FILE: Final = "sent.table"

# Clients that were sent elsewhere, of which it is known on which connection, and for what.
_CLIENTS: Final = 4096

_T = TypeVar("_T")


@dataclass(slots=True)
class FileTable:
    """A table that all server processes of this machine share.

    Not mapped into memory: a disk that is full is an error then, and not the end of the process.
    It is read and written on the event loop: half a MiB that is used all the time stays in the page
    cache, where one entry was read or written in 1 microsecond, 67 at most of 100,000 times. To
    hand that to a thread, and wait for it, took 75.
    """

    descriptor: int

    @classmethod
    def open(cls, data: Path) -> Self:
        """The one in the data directory ``data``; where that takes none, one of this process."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return cls(os.open(data / TABLE_FILE, flags, 0o600))
        except OSError as error:
            _log.warning("each worker knows for itself whom it sent where: %s", error)
            return cls(os.memfd_create(TABLE_FILE))

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there, or fewer."""
        try:
            return os.pread(self.descriptor, size, offset)
        except OSError as error:
            _log.debug("%s: %s", TABLE_FILE, error)
            return b""

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there, if that can be."""
        try:
            os.pwrite(self.descriptor, data, offset)
        except OSError as error:
            # Nobody's second try is known then; everything else goes on.
            _log.debug("%s: %s", TABLE_FILE, error)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)


N = TypeVar("N", bound=Named)


class Watching(Protocol[N]):
    """Knows how those are to which clients are sent: targets, or mirrors of whole sessions."""

    @property
    def targets(self) -> tuple[N, ...]:
        """All of them."""
        ...

    def is_suspected(self, target: N) -> bool:
        """A client has shown that it may not work, it is named all the same, and being probed."""
        ...

    def has_failed(self, target: N) -> bool:
        """We have seen for ourselves that it does not work."""
        ...

    def suspect(self, target: N) -> None:
        """A client that was sent there asked the same again."""
        ...


def _nobody(target: N, entity: Entity) -> None:
    del target, entity


@dataclass(slots=True)
class Repeats(Generic[N]):
    """Knows clients again that were sent elsewhere.

    Attributes:
        suspicions: what is known of them.
        health: of those to which they are sent.
        metrics: count them.
        secret: hides them in what is written down; see :meth:`redirects.suspicion.Asker.of`.
        clock: seconds, the same for all processes of this machine.
        doubted: told of what a client that is believed was sent for, and where, if it was sent
            there by this process.
    """

    suspicions: Suspicions
    health: Watching[N]
    metrics: Metrics
    secret: bytes = field(repr=False)
    clock: Callable[[], float] = time.monotonic
    doubted: Callable[[N, Entity], None] = _nobody
    _targets: dict[int, N] = field(default_factory=dict)
    _carried: OrderedDict[bytes, asyncio.Transport] = field(default_factory=OrderedDict)
    _named: OrderedDict[bytes, tuple[tuple[int, Entity], ...]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        # An inline answer goes the way of our own blobs, so that it would fail as they did.
        self._targets = {
            spread_of(target.name): target
            for target in self.health.targets
            if not isinstance(target, SelfTarget)
        }

    def asked_again(self, request: web.Request, question: str) -> bool:
        """Whether this client is to be answered inline, because a download of its own failed.

        ``question``: what it asks of which repository. A target to which it was sent is probed at
        once, whether it is believed or its address has had its share.
        """
        asker = self._asker(request, question)
        if asker is None or self._goes_on(request, asker):
            return False
        found = self.suspicions.asked_again(
            asker, self.clock(), self._has_failed, self._is_suspected
        )
        named = self._named.pop(asker.key, ()) if found.targets else ()
        suspected = [self._targets[key] for key in found.targets if key in self._targets]
        for target in suspected:
            self.health.suspect(target)
            if not found.is_believed:
                continue
            _log.info(
                "request %s: %s asks again what it was sent to %s for, and is answered here",
                request[EXCHANGE].request_id,
                request[EXCHANGE].where.address,
                target.name,
            )
            self.metrics.asked_again(target.name)
        for key, entity in named:
            if found.is_believed and key in found.targets:
                self.doubted(self._targets[key], entity)
        return found.is_believed and bool(suspected)

    def knows_nobody(self, request: web.Request) -> bool:
        """Whoever asks so would not be known again, although that is wanted."""
        return bool(self.suspicions.window) and self._asker(request, "") is None

    def sent(
        self,
        request: web.Request,
        question: str,
        named: Iterable[tuple[Location, Entity | None]],
    ) -> None:
        """This client is sent to locations for its answer, each of an entity, or of a session.

        Where it takes one of several, the likelier ones come first: of two targets it is
        remembered that it was sent there, beside this server, which is none to be suspected.
        """
        asker = self._asker(request, question)
        sent = [(spread_of(found.target), found, entity) for found, entity in named]
        sent = [each for each in sent if each[0] in self._targets]
        if asker is None or not sent:
            return
        targets = dict.fromkeys(found.target for _, found, _ in sent)
        self.suspicions.sent(asker, targets, self.clock())
        entities = tuple((key, entity) for key, _, entity in sent if entity is not None)
        if entities:
            _remember(self._named, asker.key, entities)
        if request.transport is not None and not _is_handed_on(request):
            _remember(self._carried, asker.key, request.transport)

    def _asker(self, request: web.Request, question: str) -> Asker | None:
        """Who asks what; None where nobody can tell, or nobody wants to know."""
        if not self.suspicions.window or not self._targets:
            return None
        address = request[EXCHANGE].where.address
        if not address or (_is_handed_on(request) and address == _peer(request)):
            # Of a proxy that is not listed: its address is everybody's.
            return None
        traits = (request.headers.get(name, "") for name in ("Authorization", "User-Agent"))
        return Asker.of(address, traits, question, secret=self.secret)

    def _goes_on(self, request: web.Request, asker: Asker) -> bool:
        """The client that was sent elsewhere is still there, so this is another beside it.

        git and Mercurial keep their connection while they download, and end it when that failed.
        Of what other processes sent elsewhere this is not known.
        """
        carried = self._carried.get(asker.key)
        if carried is None or _is_handed_on(request):
            return False
        return carried is request.transport or not carried.is_closing()

    def _has_failed(self, key: int) -> bool:
        target = self._targets.get(key)
        return target is not None and self.health.has_failed(target)

    def _is_suspected(self, key: int) -> bool:
        target = self._targets.get(key)
        return target is not None and self.health.is_suspected(target)


def _remember(known: OrderedDict[bytes, _T], key: bytes, value: _T) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > _CLIENTS:
        known.popitem(last=False)


def _is_handed_on(request: web.Request) -> bool:
    """A proxy asks for somebody else, and its connections are its own."""
    return any(name in request.headers for name in HANDED_ON)


def _peer(request: web.Request) -> str:
    return str(read_address(request.remote or "") or "")
