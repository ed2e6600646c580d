# Law of this file: what a credential sees of a repository of git is its list of refs, and the
# objects that the upstream gave to it, or would; how an upstream speaks is known for all who ask.

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from server.upstreams.answers import Answers, Known
from server.upstreams.asking import Asking, Refused, SpeaksV0, Spoken, read_refs
from server.upstreams.routes import Remote
from wire.git.refs import Refs

# Objects that are remembered of each credential at a repository; beyond, all of them are asked
# about again.
_OBJECTS: Final = 10_000
# Bytes of the lists of refs that are kept although nobody's view may need them any more.
_LISTS: Final = 64 << 20
_SPOKEN: Final = 10_000


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
class _Objects:
    """Which objects that no ref names one credential may have of one repository.

    Attributes:
        may_have: when the question about each began, by the monotonic clock.
        probes: the questions that are under way.
    """

    may_have: dict[str, float] = field(default_factory=dict)
    probes: dict[frozenset[str], asyncio.Task[str | None]] = field(default_factory=dict)


@dataclass(slots=True)
class Views(Answers[Asking, View]):
    """What upstreams said, by repository and credential."""

    _objects: WeakKeyDictionary[Known[View], _Objects] = field(default_factory=WeakKeyDictionary)
    _spoken: OrderedDict[str, Spoken] = field(default_factory=OrderedDict)
    _lists: OrderedDict[bytes, tuple[Refs, int]] = field(default_factory=OrderedDict)

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
        known = self._objects.setdefault(self._of(remote, authorization), _Objects())
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

    async def _question(
        self, remote: Remote, authorization: str | None, known: Known[View], began: float
    ) -> View:
        try:
            spoken, refs = await self._listed(remote, authorization)
        except Refused:
            self._objects.pop(known, None)
            raise
        except Exception:
            self._spoken.pop(remote.name, None)  # it may speak another way when it is back
            raise
        return View(refs, spoken, began)

    async def _listed(self, remote: Remote, authorization: str | None) -> tuple[Spoken, Refs]:
        spoken = self._spoken.get(remote.name)
        if spoken is not None:
            try:
                listed = await self.asking.refs(remote, spoken, authorization)
                return spoken, await self._read(listed)
            except Refused as refused:
                if refused.status == 401:
                    raise
                # It may have moved, or be another repository now.
        spoken, refs = await self.asking.discover(remote, authorization)
        self._spoken[remote.name] = spoken
        while len(self._spoken) > _SPOKEN:
            self._spoken.popitem(last=False)
        listed = await self.asking.refs(remote, spoken, authorization) if refs is None else refs
        return spoken, await self._read(listed)

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
    known: _Objects, wanted: frozenset[str], asked: float, probe: asyncio.Task[str | None]
) -> None:
    """Remember a yes; a failure is told to those who wait, and there may be none left."""
    del known.probes[wanted]
    if not probe.cancelled() and probe.exception() is None and probe.result() is None:
        if len(known.may_have) + len(wanted) > _OBJECTS:
            known.may_have.clear()
        known.may_have.update(dict.fromkeys(wanted, asked))
