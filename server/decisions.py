# Law of this file: what was decided is counted, kept for a while, and by chance logged, with the
# trail of what was passed over. No URL is kept, which may be a key, and of an address its network.

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

from redirects.acceptance import Client
from redirects.decision import Decision, PassedOver, Told, told
from redirects.sessions import Session, SessionDecision, told_session
from server.exchange import CURRENT
from server.metrics import Metrics

_log = logging.getLogger("offramp.decisions")

KEPT: Final = 256
"""Decisions on content that a process remembers, and as many on sessions: some screens full, and
a MiB at most."""

CONTENT: Final = "content"
"""What decisions are about that are not about a session."""


class Made(NamedTuple):
    """A decision that was carried out.

    Attributes:
        when: seconds since the epoch.
        request_id: of the request, as in the log; empty if it was made for none.
        about: :data:`CONTENT`, or ``git session`` or ``hg session``.
        repository: served name.
        region: in which the client is; None if that is not known.
        network: that stands for the client, such as ``192.0.2.0/24``; empty if that is not known.
        outcome: ``redirect``, ``inline`` (of a session: ``stay``), or ``shadow`` where it was only
            counted.
        target: that was named, or would have been; else empty. Of a session it is the mirror.
        reason: why nothing is named, as :class:`redirects.decision.Reason` words it; else empty.
        passed_over: targets before it, in order.
    """

    when: float
    request_id: str
    about: str
    repository: str
    region: str | None
    network: str
    outcome: str
    target: str
    reason: str
    passed_over: tuple[PassedOver, ...]


@dataclass(slots=True)
class Decisions:
    """The decisions of one server process.

    Attributes:
        metrics: counts them.
        share: of them that are logged, 0 to 1.
        chance: draws from 0 to 1, below 1.
        clock: seconds since the epoch.
    """

    metrics: Metrics
    share: float = 0.0
    chance: Callable[[], float] = random.random
    clock: Callable[[], float] = time.time
    _last: deque[Made] = field(default_factory=lambda: deque(maxlen=KEPT))
    # Every poll asks where it goes on; these are not to push out what was decided of content.
    _sessions: deque[Made] = field(default_factory=lambda: deque(maxlen=KEPT))

    def made(self, repository: str, client: Client, decision: Decision) -> None:
        """Take note of a decision that was carried out.

        Args:
            repository: served name.
            client: who asked.
            decision: what it gets.
        """
        words = told(decision)
        self.metrics.decided(words)
        self._note(self._last, CONTENT, repository, client, words, decision.passed_over)

    def session(self, session: Session, client: Client, decision: SessionDecision) -> None:
        """Take note of where a whole session goes on.

        Args:
            session: what was asked.
            client: who asked.
            decision: what became of it.
        """
        words = told_session(decision)
        self.metrics.session(session.vcs, words)
        about = f"{session.vcs} session"
        passed_over = decision.passed_over
        self._note(self._sessions, about, session.repository, client, words, passed_over)

    def _note(  # noqa: PLR0917 - made for every answer: positions are quicker than names
        self,
        last: deque[Made],
        about: str,
        repository: str,
        client: Client,
        words: Told,
        passed_over: tuple[PassedOver, ...],
    ) -> None:
        exchange = CURRENT.get()
        if exchange is not None:
            exchange.decided(words)
        made = Made(
            self.clock(),
            "" if exchange is None else exchange.request_id,
            about,
            repository,
            client.region,
            client.network,
            *words,
            passed_over,
        )
        last.append(made)
        if self.share and self.chance() < self.share:
            _write(made)

    def last(self) -> Iterator[Made]:
        """Those that are remembered, the newest first."""
        both = chain(self._last, self._sessions)
        return iter(sorted(both, key=lambda made: made.when, reverse=True))


def _write(made: Made) -> None:
    """One line of the log."""
    _log.info(
        "decision",
        extra={
            "request_id": made.request_id,
            "about": made.about,
            "repository": made.repository,
            "region": made.region,
            "network": made.network,
            "outcome": made.outcome,
            "target": made.target,
            "reason": made.reason,
            "passed_over": [f"{each.target}: {each.reason.value}" for each in made.passed_over],
        },
    )
