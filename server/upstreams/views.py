# Law of this file: a caller is told what the upstream told to that caller's own credential, and no
# longer than it was said to hold. Who asks at the same time shares one question; who comes while
# one is under way shares the next, for this one may have been answered before what they know of.

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from server.access.credentials import Fingerprints
from server.upstreams.asking import Asking, Down, Refused, SpeaksV0, Spoken, read_refs
from server.upstreams.routes import Remote
from wire.git.refs import Refs

_log = logging.getLogger("offramp.upstreams")

# Credentials and repositories that are remembered together; beyond, the longest unused are asked
# about again.
_REMEMBERED: Final = 10_000
# Bytes of the lists of refs that are kept although nobody's view may need them any more.
_LISTS: Final = 64 << 20
_SPOKEN: Final = 10_000
# An upstream that is down is left alone for so long, unless it says itself for how long; so many
# who wait do not each wait for the same silence.
_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 300.0


@dataclass(frozen=True, slots=True)
class View:
    """The upstream's yes: the refs that one credential sees.

    Attributes:
        refs: as the upstream listed them.
        spoken: what it speaks.
        asked: when the question began, by the monotonic clock.
    """

    refs: Refs
    spoken: Spoken
    asked: float


@dataclass(slots=True)
class _Known:
    """What is known of one credential at one repository."""

    outcome: View | Refused | Down | None = None
    at: float = 0.0
    yes: View | None = None
    begun: int = 0
    answered: int = 0
    running: asyncio.Task[None] | None = None
    may_have: dict[str, float] = field(default_factory=dict)
    probes: dict[frozenset[str], asyncio.Task[str | None]] = field(default_factory=dict)


@dataclass(slots=True)
class Views:
    """What upstreams said, by repository and credential."""

    asking: Asking
    fingerprints: Fingerprints
    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[tuple[str, str], _Known] = field(default_factory=OrderedDict)
    _spoken: OrderedDict[str, Spoken] = field(default_factory=OrderedDict)
    _lists: OrderedDict[bytes, tuple[Refs, int]] = field(default_factory=OrderedDict)

    async def now(self, remote: Remote, authorization: str | None) -> View:
        """The refs as fresh as the settings want them.

        Raises:
            Refused, Down: the upstream says no, or nothing.
        """
        known = self._of(remote, authorization)
        freshness = remote.upstream.freshness
        view = known.yes
        if freshness != "always" and view is not None:
            age = self.clock() - view.asked
            if age <= freshness:
                return view
        return await self.fresh(remote, authorization)

    async def recent(self, remote: Remote, authorization: str | None) -> View:
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

    async def fresh(self, remote: Remote, authorization: str | None) -> View:
        """The answer to a question that begins after this call.

        A no that is remembered, and the silence of an upstream that just failed, are not asked
        about again.

        Raises:
            Refused, Down: the upstream says no, or nothing.
        """
        known = self._of(remote, authorization)
        arrived = known.begun
        while True:
            outcome = known.outcome
            if known.answered > arrived or (
                known.running is None and self._holds(outcome, remote, known.at)
            ):
                return self._told(known, remote)
            if known.running is None:
                known.begun += 1
                known.running = asyncio.create_task(self._ask(known, remote, authorization))
            await asyncio.wait({known.running})

    async def may_have(
        self, remote: Remote, authorization: str | None, view: View, oids: Collection[str]
    ) -> str | None:
        """Whether the upstream gives this credential objects that no ref names.

        One question for all of them; a yes is remembered as long as one to the credential.

        Returns:
            None if it may have all of them, else the upstream's words.

        Raises:
            Refused, Down: it says no to the credential, or nothing.
        """
        known = self._of(remote, authorization)
        now = self.clock()
        oldest = now - remote.upstream.auth_ttl
        unknown = [oid for oid in oids if known.may_have.get(oid, -math.inf) < oldest]
        if not unknown:
            return None
        if isinstance(view.spoken, SpeaksV0):
            return f"upload-pack: not our ref {unknown[0]}"
        wanted = frozenset(unknown)
        probe = known.probes.get(wanted)
        if probe is None:
            asking = self.asking.may_have(remote, view.spoken, authorization, wanted)
            probe = known.probes[wanted] = asyncio.create_task(asking)
            probe.add_done_callback(functools.partial(_probed, known, wanted, now))
        return await asyncio.shield(probe)

    async def newer(self, remote: Remote, authorization: str | None, view: View) -> View:
        """An answer to a question that began after that of ``view``; one that runs will do.

        Raises:
            Refused, Down: the upstream says no, or nothing.
        """
        known = self._of(remote, authorization)
        if known.running is not None:
            await asyncio.wait({known.running})
        if isinstance(known.outcome, View) and known.outcome.asked > view.asked:
            return known.outcome
        return await self.fresh(remote, authorization)

    def base(self, remote: Remote) -> str:
        """Its URL at the upstream, after redirects."""
        spoken = self._spoken.get(remote.name)
        return remote.url if spoken is None else spoken.base

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

    def _holds(self, outcome: View | Refused | Down | None, remote: Remote, at: float) -> bool:
        """A no, or silence, that need not be asked about again."""
        match outcome:
            case Refused():
                return self.clock() - at <= remote.upstream.auth_ttl
            case Down(retry_after=pause):
                wanted = _PAUSE if pause is None else min(pause, _LONGEST_PAUSE)
                return self.clock() - at <= max(wanted, _PAUSE)
            case _:
                return False

    def _told(self, known: _Known, remote: Remote) -> View:
        match known.outcome:
            case View() as view:
                return view
            case Down() as down:
                stale = known.yes
                if stale is not None and self.clock() - stale.asked < remote.upstream.stale:
                    return stale
                raise Down(str(down), down.retry_after)
            case Refused() as refused:
                raise Refused(refused.status, refused.challenges, refused.text)
            case None:
                raise Down("the upstream was not asked")

    async def _ask(self, known: _Known, remote: Remote, authorization: str | None) -> None:
        """Put one question; whatever comes of it is kept, and told to who waits."""
        began = self.clock()
        outcome: View | Refused | Down
        try:
            outcome = await self._question(remote, authorization, began)
        except (Refused, Down) as answer:
            outcome = answer.with_traceback(None)
            # What led to it holds the frames in which the credential was.
            outcome.__context__ = None
        except Exception:  # noqa: BLE001 - it is logged, and who waits is told
            _log.exception("asking about %s failed", remote.name)
            outcome = Down("the upstream could not be asked; the server's log says why")
        finally:
            known.running = None
        known.outcome = outcome
        # A yes or no may be as old as its question; silence is over when it ended.
        known.at = self.clock() if isinstance(outcome, Down) else began
        known.answered = known.begun
        match outcome:
            case View():
                known.yes = outcome
            case Refused():
                known.yes = None
                known.may_have.clear()
            case Down():
                self._spoken.pop(remote.name, None)  # it may speak another way when it is back

    async def _question(self, remote: Remote, authorization: str | None, began: float) -> View:
        spoken = self._spoken.get(remote.name)
        if spoken is not None:
            try:
                listed = await self.asking.refs(remote, spoken, authorization)
                return View(await self._read(listed), spoken, began)
            except Refused as refused:
                if refused.status == 401:
                    raise
                # It may have moved, or be another repository now.
        spoken, refs = await self.asking.discover(remote, authorization)
        self._spoken[remote.name] = spoken
        while len(self._spoken) > _SPOKEN:
            self._spoken.popitem(last=False)
        listed = await self.asking.refs(remote, spoken, authorization) if refs is None else refs
        return View(await self._read(listed), spoken, began)

    async def _read(self, listed: bytes | Refs) -> Refs:
        """Read a list of refs; a list that was read lately is the same object, whosever it is."""
        if isinstance(listed, Refs):
            return listed
        digest = hashlib.sha256(listed).digest()
        known = self._lists.get(digest)
        if known is not None:
            self._lists.move_to_end(digest)
            return known[0]
        refs = await read_refs(listed)
        self._lists[digest] = (refs, len(listed))
        while len(self._lists) > 1 and sum(size for _, size in self._lists.values()) > _LISTS:
            self._lists.popitem(last=False)
        return refs


def _probed(
    known: _Known, wanted: frozenset[str], asked: float, probe: asyncio.Task[str | None]
) -> None:
    """Remember a yes; a failure is told to those who wait, and there may be none left."""
    del known.probes[wanted]
    if not probe.cancelled() and probe.exception() is None and probe.result() is None:
        if len(known.may_have) + len(wanted) > _REMEMBERED:
            known.may_have.clear()
        known.may_have.update(dict.fromkeys(wanted, asked))
