# Law of this file: a caller is told what the upstream told to that caller's own credential, and no
# longer than it was said to hold. Who asks at the same time shares one question; who comes while
# one is under way shares the next, for this one may have been answered before what they know of.

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from server.access.credentials import Fingerprints
from server.upstreams.asking import Down, Refused
from server.upstreams.hg_asking import HgAsking, HgState
from server.upstreams.routes import Remote
from wire.hg.v1.capabilities import Capabilities

_log = logging.getLogger("offramp.upstreams")

# Credentials and repositories that are remembered together; beyond, the longest unused are asked
# about again.
_REMEMBERED: Final = 10_000
# An upstream that is down is left alone for so long; so many who wait do not each wait for the same
# silence.
_PAUSE: Final = 2.0


@dataclass(frozen=True, slots=True)
class HgView:
    """The upstream's yes: what one credential sees of a repository.

    Attributes:
        state: heads, branches, bookmarks and phases.
        words: the upstream's capabilities, at most ``auth_ttl`` older than the rest.
        words_asked: when they were asked for, by the monotonic clock.
        asked: when the question for the state began.
    """

    state: HgState
    words: Capabilities
    words_asked: float
    asked: float


@dataclass(slots=True)
class _Known:
    """What is known of one credential at one repository."""

    outcome: HgView | Refused | Down | None = None
    at: float = 0.0
    yes: HgView | None = None
    begun: int = 0
    answered: int = 0
    running: asyncio.Task[None] | None = None


@dataclass(slots=True)
class HgViews:
    """What upstreams of Mercurial said, by repository and credential."""

    asking: HgAsking
    fingerprints: Fingerprints
    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[tuple[str, str], _Known] = field(default_factory=OrderedDict)
    # Equal states are one object, whosever they are.
    _states: WeakValueDictionary[bytes, HgState] = field(default_factory=WeakValueDictionary)

    def last(self, remote: Remote, authorization: str | None) -> HgView | None:
        """The last yes, however old it is; not to be told to anybody."""
        return self._of(remote, authorization).yes

    async def now(self, remote: Remote, authorization: str | None) -> HgView:
        """What the caller sees, as fresh as the settings want it.

        Raises:
            Refused, Down: the upstream says no, or nothing.
        """
        freshness = remote.upstream.freshness
        view = self._of(remote, authorization).yes
        if freshness != "always" and view is not None and self.clock() - view.asked <= freshness:
            return view
        return await self.fresh(remote, authorization)

    async def recent(self, remote: Remote, authorization: str | None) -> HgView:
        """A yes that is no older than ``auth_ttl``.

        Raises:
            Refused, Down: the upstream says no, or nothing.
        """
        known = self._of(remote, authorization)
        while True:
            view = known.yes  # which silence since then does not take back
            if view is not None and self.clock() - view.asked <= remote.upstream.auth_ttl:
                return view
            if known.running is None:
                return await self.fresh(remote, authorization)
            await asyncio.wait({known.running})

    async def fresh(self, remote: Remote, authorization: str | None) -> HgView:
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

    def _of(self, remote: Remote, authorization: str | None) -> _Known:
        key = (remote.name, self.fingerprints.of(authorization))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known()
            if len(self._known) > _REMEMBERED:  # who waits for a question holds on to it
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known

    def _holds(self, known: _Known, remote: Remote) -> bool:
        """A no, or silence, that need not be asked about again."""
        match known.outcome:
            case Refused():
                return self.clock() - known.at <= remote.upstream.auth_ttl
            case Down():
                return self.clock() - known.at <= _PAUSE
            case _:
                return False

    def _told(self, known: _Known, remote: Remote) -> HgView:
        match known.outcome:
            case HgView() as view:
                return view
            case Down() as down:
                stale = known.yes
                if stale is not None and self.clock() - stale.asked < remote.upstream.stale:
                    return stale
                raise Down(str(down))
            case Refused() as refused:
                raise Refused(refused.status, refused.challenges, refused.text)
            case None:
                raise Down("the upstream was not asked")

    async def _ask(self, known: _Known, remote: Remote, authorization: str | None) -> None:
        """Put one question; whatever comes of it is kept, and told to who waits."""
        began, number = self.clock(), known.begun
        outcome: HgView | Refused | Down
        try:
            outcome = await self._question(known, remote, authorization, began)
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
            case HgView():
                known.yes = outcome
            case Refused():
                known.yes = None

    async def _question(
        self, known: _Known, remote: Remote, authorization: str | None, began: float
    ) -> HgView:
        before = known.yes
        if before is not None and began - before.words_asked <= remote.upstream.auth_ttl:
            words, words_asked = before.words, before.words_asked
        else:
            words, words_asked = await self.asking.capabilities(remote, authorization), began
        state = await self.asking.state(remote, authorization)
        state = self._states.setdefault(state.digest, state)
        return HgView(state, words, words_asked, began)
