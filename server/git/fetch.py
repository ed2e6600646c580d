# Law of this file: a v2 fetch becomes a question with one canonical form. A bundle covers it only
# if the client gets no object that stock git would not send.

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cache.flights import Outcome, Run, Sink
from cache.keys import record_key
from indexer.catalog import Bundle
from redirects.acceptance import Acceptance, Client
from redirects.decision import Redirect
from repos.git.packs import all_reachable
from repos.git.repository import GitRepository, Snapshot
from repos.git.upload_pack import Fetched, fetch_v2
from server.answer import Execution, Locate, Plan, Redirected
from wire.git.pktline import ProtocolError
from wire.git.response import PACKFILE
from wire.git.v2 import Fetch, encode_fetch

PACK_MEDIA_TYPE: Final = "application/x-git-packed-objects"

_COVERAGES: Final = 4096
_AGENT: Final = "offramp"

Observe = Callable[[float], None]
"""Told how many seconds a run took."""


@dataclass(slots=True)
class Coverage:
    """Remembers which bundle lies wholly behind which wants; objects never change, so for good."""

    _known: OrderedDict[tuple[str, frozenset[str], bool], bool] = field(default_factory=OrderedDict)

    async def covers(
        self, repository: GitRepository, bundle: Bundle, wants: frozenset[str], include_tag: bool
    ) -> bool:
        """Tell whether everything in ``bundle`` is reachable from ``wants``."""
        needed = set(bundle.tips) - wants
        if include_tag:
            # The client gets annotated tags of whatever it gets.
            needed = {bundle.peeled.get(tip, tip) for tip in needed} - wants
        if not needed:
            return True
        key = (bundle.id, wants, include_tag)
        known = self._known.get(key)
        if known is None:
            known = await repository.in_thread(
                functools.partial(
                    all_reachable, repository.git, repository.path, sorted(needed), sorted(wants)
                )
            )
            self._known[key] = known
            while len(self._known) > _COVERAGES:
                self._known.popitem(last=False)
        return known


@dataclass(frozen=True, slots=True)
class FetchCommand:
    """One v2 fetch of one client.

    Attributes:
        git: the repository.
        snapshot: what it advertised when the command came.
        fetch: the request; of its haves only those that the repository has.
        client: who asks.
        acceptance: which locations it accepts.
        coverage: what is known of bundles and wants.
        observe: told how long the run took.
    """

    git: GitRepository
    snapshot: Snapshot
    fetch: Fetch
    client: Client
    acceptance: Acceptance
    coverage: Coverage
    observe: Observe

    dialect: str = "git-v2"
    name: str = "fetch"

    @property
    def repository(self) -> str:
        """Served name of the repository."""
        return self.git.name

    @property
    def identity(self) -> str:
        """What names the repository in keys."""
        return self.git.identity

    async def plan(self, bundles: Sequence[Bundle], locate: Locate) -> Plan:
        """The newest bundle that covers this fetch and can be redirected, and what is newer."""
        question = self._question()
        if not self._is_clone(question):
            return Plan(None, self._execution(question))
        wants = frozenset(question.wants)
        for bundle in bundles:
            if bundle.filter != question.filter or not question.ofs_delta:
                continue
            decision = locate(bundle.pack.entity, frozenset(bundle.readable))
            whole = wants <= frozenset(bundle.tips)
            if not whole and not isinstance(decision, Redirect):
                continue
            if not await self.coverage.covers(self.git, bundle, wants, question.include_tag):
                continue
            if isinstance(decision, Redirect):
                covered = Redirected(bundle.pack, decision.location)
                if whole:
                    return Plan(covered, None, head=PACKFILE)
                newer = replace(question, haves=bundle.tips, done=True)
                return Plan(covered, self._execution(newer))
            same = (PACKFILE, bundle.pack)
            return Plan(None, replace(self._execution(question), same_as=same))
        return Plan(None, self._execution(question))

    def _question(self) -> Fetch:
        """The request in the one form that all equal ones share."""
        refs = self.snapshot.refs
        named = tuple(self._named(ref) for ref in self.fetch.want_refs)
        # A redirected pack must stand alone. Without haves there is nothing to be thin against.
        thin = self.fetch.thin_pack and bool(self.fetch.haves) and not self.acceptance.protocols
        question = replace(
            self.fetch,
            wants=tuple(dict.fromkeys(self.fetch.wants + named)),
            want_refs=(),
            thin_pack=thin,
            # Without haves there is nothing to negotiate: upload-pack sends the pack at once.
            done=self.fetch.done or not self.fetch.haves,
            wait_for_done=self.fetch.wait_for_done and not self.fetch.done,
            include_tag=self.fetch.include_tag and bool(refs.peeled),
        )
        return question.canonical()

    def _named(self, ref: bytes) -> str:
        oid = self.snapshot.refs.oid(ref)
        if oid is None:
            raise ProtocolError(f"unknown ref {ref.decode(errors='replace')}")
        return oid

    @staticmethod
    def _is_clone(question: Fetch) -> bool:
        shallow = (
            question.shallows
            or question.deepen is not None
            or question.deepen_since is not None
            or question.deepen_not
        )
        return bool(question.wants) and not question.haves and not shallow

    def _execution(self, question: Fetch) -> Execution:
        refs = self.snapshot.refs
        key = record_key(
            self.dialect,
            self.git.identity,
            encode_fetch(question),
            self.snapshot.config_digest.encode(),
            refs.tags_digest.encode() if question.include_tag else b"",
            refs.digest.encode() if question.deepen_not else b"",
        )
        return Execution(key, self._run(question), functools.partial(self._valid, question))

    async def _valid(self, question: Fetch) -> bool:
        """A record must not outlive the objects that it answers for."""
        unadvertised = [oid for oid in question.wants if oid not in self.snapshot.refs.tips]
        return len(await self.git.presence.existing(unadvertised)) == len(unadvertised)

    def _run(self, question: Fetch) -> Run:
        request = encode_fetch(question, _AGENT)

        def run(sink: Sink) -> Outcome:
            began = time.monotonic()
            fetched = fetch_v2(self.git, self.snapshot, request, AnswerSink(sink))
            self.observe(time.monotonic() - began)
            return outcome_of(fetched, PACK_MEDIA_TYPE)

        return run


@dataclass(slots=True)
class AnswerSink:
    """Puts the line that opens the pack's section into the head, so that a head says if one comes.

    Without a pack nothing is appended, and a reader of the head knows that it is the whole answer.
    """

    sink: Sink
    opening: bytes = PACKFILE

    def head(self, head: bytes, has_pack: bool) -> None:
        """Take the sections before the pack."""
        self.sink.head(head + self.opening if has_pack else head)

    def write(self, data: bytes) -> None:
        """Take a piece of the pack."""
        self.sink.write(data)


def outcome_of(fetched: Fetched, media_type: str) -> Outcome:
    """What a run of git tells the cache."""
    return Outcome(media_type, fetched.checksum, fetched.has_pack)
