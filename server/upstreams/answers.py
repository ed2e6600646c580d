# Law of this file: a caller is told what the upstream told to that caller's own credential, and no
# longer than it was said to hold. Who asks at the same time shares one question; who comes while
# one is under way shares the next, for this one may have been answered before what they know of.

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from server.access.credentials import Fingerprints
from server.upstreams.asking import Down, Refused
from server.upstreams.routes import Remote

_log = logging.getLogger("offramp.upstreams")

# Credentials and repositories that are remembered together; beyond, the longest unused are asked
# about again.
_REMEMBERED: Final = 10_000
# An upstream that is down is left alone for so long, unless it says itself for how long; so many
# who wait do not each wait for the same silence.
_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 300.0


class _Yes(Protocol):
    """What one credential sees of a repository."""

    @property
    def asked(self) -> float:
        """When the question began, by the monotonic clock."""
        ...


A = TypeVar("A")
Y = TypeVar("Y", bound=_Yes)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Known(Generic[Y]):
    """What is known of one credential at one repository.

    Attributes:
        outcome: of the last question; None before the first, and when it was forgotten.
        at: from when on it counts, by the monotonic clock.
        yes: the last one that no refusal has ended.
        begun: the number of the last question that began, or that began too early.
        answered: the number of the one whose outcome that is.
        running: puts the question that is under way.
    """

    outcome: Y | Refused | Down | None = None
    at: float = 0.0
    yes: Y | None = None
    begun: int = 0
    answered: int = 0
    running: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Answers(ABC, Generic[A, Y]):
    """What upstreams said, by repository and credential; each dialect says how they are asked.

    Attributes:
        asking: puts the questions of the dialect.
        fingerprints: by which credentials are told apart.
        clock: monotonic, in seconds.
    """

    asking: A
    fingerprints: Fingerprints
    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[tuple[str, str], Known[Y]] = field(default_factory=OrderedDict)

    @abstractmethod
    async def _question(
        self, remote: Remote, authorization: str | None, known: Known[Y], began: float
    ) -> Y:
        """Put one question.

        Args:
            remote: the repository.
            authorization: the credential.
            known: what was known of both before.
            began: now.

        Raises:
            Refused, Down: the upstream says no, or nothing. Whatever else it raises is told as
                silence.
        """

    async def now(self, remote: Remote, authorization: str | None) -> Y:
        """What the caller sees, as fresh as the settings want it.

        Raises:
            Refused, Down: the upstream says no, or nothing.
        """
        freshness = remote.upstream.freshness
        yes = self._of(remote, authorization).yes
        if freshness != "always" and yes is not None and self.clock() - yes.asked <= freshness:
            return yes
        return await self.fresh(remote, authorization)

    async def recent(self, remote: Remote, authorization: str | None) -> Y:
        """A yes that is no older than ``auth_ttl``.

        Raises:
            Refused, Down: the upstream says no, or nothing.
        """
        known = self._of(remote, authorization)
        while True:
            yes = known.yes  # which silence since then does not take back
            if yes is not None and self.clock() - yes.asked <= remote.upstream.auth_ttl:
                return yes
            if known.running is None:
                return await self.fresh(remote, authorization)
            await asyncio.wait({known.running})

    async def fresh(self, remote: Remote, authorization: str | None) -> Y:
        """The answer to a question that begins after this call.

        A no that is remembered, and the silence of an upstream that just failed, are not asked
        about again.

        Raises:
            Refused, Down: the upstream says no, or nothing.
        """
        known = self._of(remote, authorization)
        arrived = known.begun
        while True:
            told = known.answered > arrived and known.outcome is not None
            if told or (known.running is None and self._holds(known, remote)):
                return self._told(known, remote)
            if known.running is None:
                known.begun += 1
                known.running = asyncio.create_task(self._ask(known, remote, authorization))
            await asyncio.wait({known.running})

    def forget(self, remote: Remote) -> None:
        """Somebody changed the repository: the next who asks is told what it is then."""
        for (name, _), known in self._known.items():
            if name == remote.name:
                known.outcome = known.yes = None
                known.begun += 1  # what runs may have been answered before

    def _of(self, remote: Remote, authorization: str | None) -> Known[Y]:
        key = (remote.name, self.fingerprints.of(authorization))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Known()
            if len(self._known) > _REMEMBERED:  # who waits for a question holds on to it
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known

    def _holds(self, known: Known[Y], remote: Remote) -> bool:
        """A no, or silence, that need not be asked about again."""
        match known.outcome:
            case Refused():
                return self.clock() - known.at <= remote.upstream.auth_ttl
            case Down(retry_after=pause):
                wanted = _PAUSE if pause is None else min(pause, _LONGEST_PAUSE)
                return self.clock() - known.at <= max(wanted, _PAUSE)
            case _:
                return False

    def _told(self, known: Known[Y], remote: Remote) -> Y:
        match known.outcome:
            case Down() as down:
                stale = known.yes
                if stale is not None and self.clock() - stale.asked < remote.upstream.stale:
                    return stale
                raise Down(str(down), down.retry_after)
            case Refused() as refused:
                raise Refused(refused.status, refused.challenges, refused.text)
            case None:
                raise Down("the upstream was not asked")
            case yes:
                return yes

    async def _ask(self, known: Known[Y], remote: Remote, authorization: str | None) -> None:
        """Put one question; whatever comes of it is kept, and told to who waits."""
        began, number = self.clock(), known.begun
        outcome: Y | Refused | Down
        try:
            outcome = await self._question(remote, authorization, known, began)
        except (Refused, Down) as answer:
            outcome = answer.with_traceback(None)
            # What led to it holds the frames in which the credential was.
            outcome.__context__ = None
        except Exception:  # noqa: BLE001 - it is logged, and who waits is told
            _log.exception("asking about %s failed", remote.name)
            outcome = Down("the upstream could not be asked; the server's log says why")
        finally:
            known.running = None
        if number != known.begun:
            return  # it was forgotten meanwhile: who waits asks again
        known.outcome = outcome
        # A yes or no may be as old as its question; silence is over when it ended.
        known.at = self.clock() if isinstance(outcome, Down) else began
        known.answered = number
        match outcome:
            case Down():
                pass
            case Refused():
                known.yes = None
            case yes:
                known.yes = yes
