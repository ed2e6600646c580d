# Law of this file: what a dialect asks and what it gets are values. A response is a small head and
# some entities, each named by a location or sent inline.

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cache.entities import OpenEntity
from cache.flights import Flight, Run
from cache.records import Part
from indexer.catalog import Bundle
from redirects.acceptance import Acceptance, Client, Location
from redirects.audience import Audience
from redirects.decision import Decision
from stores.entity import Entity


@dataclass(frozen=True, slots=True)
class Redirected:
    """An entity that the client is told where to find.

    Attributes:
        part: the entity.
        location: where it is.
    """

    part: Part
    location: Location


@dataclass(frozen=True, slots=True)
class Stored:
    """A complete entity on this machine's disk; whoever gets it closes it."""

    entity: OpenEntity


@dataclass(frozen=True, slots=True)
class Growing:
    """An entity that is being written; it is read along."""

    flight: Flight


Inlined = Stored | Growing


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command is answered with.

    Attributes:
        head: what only the server can say, in the dialect's bytes.
        redirected: entities named by a location.
        inline: at most one entity that is sent; None if there is none, or nothing is left to send.
    """

    head: bytes
    redirected: tuple[Redirected, ...] = ()
    inline: Inlined | None = None


Locate = Callable[[Entity, frozenset[str]], Decision]
"""Decide about one entity, given the fingerprints of targets through which it was read back."""


@dataclass(frozen=True, slots=True)
class Execution:
    """Something to compute, once.

    Attributes:
        key: of its record; equal questions have equal keys.
        run: computes it; blocks.
        valid: says whether a record made earlier may still be served.
        same_as: head and entity of this answer where a bundle is just that: no need to run.
        inline: it is sent, whatever the client accepts.
    """

    key: str
    run: Run
    valid: Callable[[], Awaitable[bool]]
    same_as: tuple[bytes, Part] | None = None
    inline: bool = False


@dataclass(frozen=True, slots=True)
class Covering:
    """A bundle's pack that can be named to the client; where, is said when all else is there.

    Attributes:
        part: the pack.
        readable: fingerprints of the targets through which it was read back.
    """

    part: Part
    readable: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which bundle covers a command, and what remains to be computed.

    Attributes:
        covered: a bundle's pack that the client is to be sent to; None if none is used.
        rest: None when the bundle is the whole answer.
        head: the head of an answer that needs no execution.
        shadowed: what was decided of a bundle that would cover a part, were decisions not only
            counted; the rest is then the whole.
    """

    covered: Covering | None
    rest: Execution | None
    head: bytes = b""
    shadowed: Decision | None = None


class Command(Protocol):
    """One request of a client, as its dialect understood it."""

    @property
    def dialect(self) -> str:
        """``git-v2``, ``git-v0``..."""
        ...

    @property
    def name(self) -> str:
        """The command's name in its protocol."""
        ...

    @property
    def repository(self) -> str:
        """The served name of the repository that it asks."""
        ...

    @property
    def identity(self) -> str:
        """What names that repository in keys."""
        ...

    @property
    def acceptance(self) -> Acceptance:
        """Which locations the client accepts."""
        ...

    @property
    def client(self) -> Client:
        """Who asks."""
        ...

    @property
    def audience(self) -> Audience:
        """For whom the content of that repository is."""
        ...

    async def plan(self, bundles: Sequence[Bundle], locate: Locate) -> Plan:
        """Choose a bundle, if one covers this command, and say what remains."""
        ...
