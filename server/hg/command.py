# Law of this file: a command of Mercurial's protocol is to the pipeline what a fetch of git is: its
# objects are an entity, its status is the head, and equal questions are one question.

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cache.flights import Outcome, Sink
from cache.keys import record_key
from indexer.catalog import Bundle
from redirects.acceptance import ACCEPTS_NOTHING, Acceptance, Client
from redirects.audience import Audience
from repos.program import cpu_spent
from server.answer import Execution, Locate, Plan
from wire.hg.messages import CBOR_MEDIA_TYPE, STATUS_OK, Offer

DIALECT: Final = "hg-v2"

Write = Callable[[bytes], None]
Answerer = Callable[[Write], None]
"""Writes the objects of an answer; blocks. What it raises before it writes is told as a status."""

Observe = Callable[[float, float], None]
"""Told how long a run took, and the processor time that it cost, in seconds."""
"""Told how many seconds a run took."""

_SCHEMES: Final = frozenset({"http", "https"})


def acceptance_of(offer: Offer | None) -> Acceptance:
    """Which locations a client accepts, by what it says of our targets."""
    if offer is None or not offer.targets:
        return ACCEPTS_NOTHING
    names = tuple(name.decode("utf-8", "replace") for name in offer.targets)
    # It has judged our targets by their protocol already.
    return Acceptance(_SCHEMES, names)


async def always() -> bool:
    """Records whose key names all that their answer depends on."""
    return True


@dataclass(frozen=True, slots=True)
class HgCommand:
    """One command of one client.

    Attributes:
        repository: served name.
        identity: what names the repository in keys.
        name: the command's.
        question: all that its answer depends on, beside the repository.
        answer: writes its objects.
        acceptance: which locations the client accepts.
        client: who asks.
        audience: for whom the repository's content is.
        observe: told how long the run took, and what it cost.
    """

    repository: str
    identity: str
    name: str
    question: tuple[bytes, ...]
    answer: Answerer
    acceptance: Acceptance
    client: Client
    audience: Audience
    observe: Observe

    dialect: str = DIALECT

    async def plan(self, bundles: Sequence[Bundle], locate: Locate) -> Plan:
        """Nothing is made in advance for this protocol; everything is a record or a run."""
        del bundles, locate
        key = record_key(DIALECT, self.identity, self.name.encode(), *self.question)
        return Plan(None, Execution(key, functools.partial(self._run), always))

    def _run(self, sink: Sink) -> Outcome:
        """Have the answer written; blocks."""
        began, spent = time.monotonic(), cpu_spent()
        objects = _Objects(sink)
        self.answer(objects.write)
        objects.begin()
        self.observe(time.monotonic() - began, cpu_spent() - spent)
        # SHA-256 names the entity anyway; clients that know only SHA-1 get this one.
        return Outcome(CBOR_MEDIA_TYPE, objects.sha1.hexdigest(), has_entity=True)


@dataclass(slots=True)
class _Objects:
    """Says the head before the first object, and not before there is one.

    Until then, an error is the client's status rather than a broken answer.
    """

    sink: Sink
    sha1: hashlib._Hash = field(default_factory=lambda: hashlib.sha1(usedforsecurity=False))
    begun: bool = False

    def begin(self) -> None:
        """Say the head, unless it was said."""
        if not self.begun:
            self.begun = True
            self.sink.head(STATUS_OK)

    def write(self, data: bytes) -> None:
        """Take a piece of the objects."""
        self.begin()
        self.sha1.update(data)
        self.sink.write(data)
