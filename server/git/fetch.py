# Law of this file: a v2 fetch becomes a question with one canonical form. A bundle covers it only
# if the client gets no object that stock git would not send.

from __future__ import annotations

import functools
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from cache.flights import Outcome, Sink
from cache.keys import record_key
from indexer.catalog import Bundle
from redirects.acceptance import Acceptance, Client
from redirects.audience import PUBLIC, Audience
from redirects.decision import Inline, Redirect
from repos.git.packs import all_reachable
from repos.git.repository import GitRepository, Snapshot
from repos.git.upload_pack import Fetched, fetch_v2
from repos.program import cpu_spent
from server.answer import Covering, Execution, Locate, Plan
from server.git.known_again import known_by
from wire.git.pktline import ProtocolError
from wire.git.refs import Refs
from wire.git.response import PACKFILE
from wire.git.v2 import Fetch, encode_fetch

PACK_MEDIA_TYPE: Final = "application/x-git-packed-objects"

_COVERAGES: Final = 4096
_QUESTIONS: Final = 512
# Of all of these together, in bytes, about. One request can name 300,000 objects.
_QUESTIONS_SIZE: Final = 8 << 20
_NAME_SIZE: Final = 120  # a string, which stands in the request and in its question
_AGENT: Final = "offramp"

Observe = Callable[[float, float], None]
"""Told how long a run took, and the processor time that it cost, in seconds."""
"""Told how many seconds a run took."""


class Overtaken(Exception):  # noqa: N818 - what happened to a run
    """The refs have changed under a run whose answer depends on them; it is not recorded."""


def always() -> bool:
    """Refs that a run does not depend on."""
    return True


@dataclass(slots=True)
class Coverage:
    """Remembers which bundle lies wholly behind which wants; objects never change, so for good."""

    _known: OrderedDict[tuple[str, str, str], bool] = field(default_factory=OrderedDict)

    async def covers(
        self, repository: GitRepository, refs: Refs, bundle: Bundle, asked: Fetch
    ) -> bool:
        """Tell whether git would send everything in ``bundle`` to who asks ``asked``."""
        wants = frozenset(asked.wants)
        needed = set(bundle.tips) - wants
        if asked.include_tag:
            # An annotated tag that is still advertised comes with what it points to.
            needed = {
                bundle.peeled[tip] if tip in bundle.peeled and tip in refs.peeled else tip
                for tip in needed
            } - wants
        key = (bundle.id, _digest(wants), _digest(needed))
        return await self._reachable(repository, key, needed, wants)

    async def behind(self, repository: GitRepository, refs: Refs, bundle: Bundle) -> bool:
        """Tell whether who may see ``refs`` may see everything in ``bundle``."""
        key = (bundle.id, refs.digest, "")
        return await self._reachable(repository, key, set(bundle.tips) - refs.tips, refs.tips)

    async def _reachable(
        self,
        repository: GitRepository,
        key: tuple[str, str, str],
        needed: set[str],
        from_: frozenset[str],
    ) -> bool:
        if not needed:
            return True
        known = self._known.get(key)
        if known is None:
            known = await repository.in_thread(
                functools.partial(
                    all_reachable, repository.git, repository.path, sorted(needed), sorted(from_)
                )
            )
            self._known[key] = known
            while len(self._known) > _COVERAGES:
                self._known.popitem(last=False)
        return known


def _digest(oids: Collection[str]) -> str:
    """Names a set of objects in a memo, without holding on to it."""
    return hashlib.sha256("".join(sorted(oids)).encode("ascii")).hexdigest()


_PLAIN_FILTER: Final = re.compile(r"blob:none|blob:limit=\d+[kmgKMG]?|tree:\d+|object:type=[a-z]+")


def names_refs(filter_spec: str | None) -> bool:
    """Whether a filter may name a ref, which git looks up when it answers."""
    return filter_spec is not None and _PLAIN_FILTER.fullmatch(filter_spec) is None


@dataclass(frozen=True, slots=True)
class Question:
    """What a fetch asks, in the one form that all equal ones share.

    Attributes:
        fetch: sorted, and free of who asks; of its haves only those that the repository has.
        key: of its record.
        unadvertised: wants that are no tip of a ref; they may vanish.
        known_by: see :func:`server.git.known_again.known_by`.
    """

    fetch: Fetch
    key: str
    unadvertised: tuple[str, ...]
    known_by: str

    @classmethod
    def of(cls, fetch: Fetch, snapshot: Snapshot, identity: str, *, redirecting: bool) -> Self:
        """The question that ``fetch`` puts to the repository ``identity`` as it is now.

        Raises:
            ProtocolError: a ref that is wanted by name is not there.
        """
        refs = snapshot.refs
        named = tuple(_named(snapshot, ref) for ref in fetch.want_refs)
        asked = replace(
            fetch,
            wants=tuple(dict.fromkeys(fetch.wants + named)),
            want_refs=(),
            # A redirected pack must stand alone. Without haves there is nothing to be thin against.
            thin_pack=fetch.thin_pack and bool(fetch.haves) and not redirecting,
            # Without haves there is nothing to negotiate: upload-pack sends the pack at once.
            done=fetch.done or not fetch.haves,
            wait_for_done=fetch.wait_for_done and not fetch.done,
            include_tag=fetch.include_tag and bool(refs.peeled),
        ).canonical()
        key = record_key(
            "git-v2",
            identity,
            encode_fetch(asked),
            snapshot.config_digest.encode(),
            refs.tags_digest.encode() if asked.include_tag else b"",
            refs.digest.encode() if asked.deepen_not or names_refs(asked.filter) else b"",
        )
        unadvertised = tuple(oid for oid in asked.wants if oid not in refs.tips)
        return cls(asked, key, unadvertised, known_by(fetch, identity, refs.tips))

    @property
    def is_clone(self) -> bool:
        """It has nothing yet, and wants whole histories."""
        asked = self.fetch
        cut = asked.shallows or asked.deepen_not or asked.deepen_since is not None
        return bool(asked.wants) and not (asked.haves or cut or asked.deepen is not None)


@dataclass(slots=True)
class Questions:
    """Remembers what requests meant: a fleet sends the same one again within seconds."""

    _known: OrderedDict[tuple[int, str, str, str, bool], tuple[Fetch, Question]] = field(
        default_factory=OrderedDict
    )
    _size: int = 0

    def question(
        self, fetch: Fetch, snapshot: Snapshot, identity: str, *, redirecting: bool
    ) -> Question:
        """As :meth:`Question.of`; remembered for requests that are the same object.

        Small bodies are parsed once, so equal ones are. The request is kept with its question:
        another object cannot have its ``id`` as long as it is.
        """
        key = (id(fetch), identity, snapshot.refs.digest, snapshot.config_digest, redirecting)
        known = self._known.get(key)
        if known is None:
            known = (fetch, Question.of(fetch, snapshot, identity, redirecting=redirecting))
            self._known[key] = known
            self._size += _size_of(fetch)
            while len(self._known) > _QUESTIONS or self._size > _QUESTIONS_SIZE:
                _, (oldest, _) = self._known.popitem(last=False)
                self._size -= _size_of(oldest)
        return known[1]


def _size_of(fetch: Fetch) -> int:
    """What a request and its question take, in bytes, about."""
    session, refs = fetch.session, (*fetch.want_refs, *fetch.deepen_not)
    names = len(fetch.wants) + len(fetch.haves) + len(fetch.shallows) + len(refs)
    texts = (session.agent, fetch.filter or "", *session.server_options, *refs)
    return _NAME_SIZE * names + sum(map(len, texts))


def _named(snapshot: Snapshot, ref: bytes) -> str:
    oid = snapshot.refs.oid(ref)
    if oid is None:
        raise ProtocolError(f"unknown ref {ref.decode(errors='replace')}")
    return oid


@dataclass(frozen=True, slots=True)
class FetchCommand:
    """One v2 fetch of one client.

    Attributes:
        git: the repository.
        snapshot: what it advertised when the command came.
        question: what is asked of it.
        client: who asks.
        acceptance: which locations it accepts.
        coverage: what is known of bundles and wants.
        observe: told how long the run took, and what it cost.
        audience: for whom the repository's content is.
        unchanged: asked after a run, in its thread: the refs that git read are those of before.
    """

    git: GitRepository
    snapshot: Snapshot
    question: Question
    client: Client
    acceptance: Acceptance
    coverage: Coverage
    observe: Observe
    audience: Audience = PUBLIC
    unchanged: Callable[[], bool] = always

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
        question = self.question
        asked = question.fetch
        if not bundles or not question.is_clone or not asked.ofs_delta:
            return Plan(None, self._execution(question))
        if not await self._valid(question):
            return Plan(None, self._execution(question))  # git says what it says of such wants
        wants = frozenset(asked.wants)
        for bundle in bundles:
            if bundle.filter != asked.filter:
                continue
            readable = frozenset(bundle.readable)
            decision = locate(bundle.pack.entity, readable)
            whole = wants <= frozenset(bundle.tips)
            shadowed = isinstance(decision, Inline) and decision.shadowed is not None
            if not whole and not shadowed and not isinstance(decision, Redirect):
                continue
            if not await self.coverage.covers(self.git, self.snapshot.refs, bundle, asked):
                continue
            if isinstance(decision, Redirect):
                covered = Covering(bundle.pack, readable)
                if whole:
                    return Plan(covered, None, head=PACKFILE)
                return Plan(covered, self._execution(self._newer(bundle)))
            if not whole:
                everything = replace(self._execution(question), inline=True)
                return Plan(None, everything, shadowed=decision)
            same = (PACKFILE, bundle.pack)
            return Plan(None, replace(self._execution(question), same_as=same))
        return Plan(None, self._execution(question))

    def _newer(self, bundle: Bundle) -> Question:
        """What the client lacks when it has ``bundle``."""
        rest = replace(self.question.fetch, haves=bundle.tips, done=True)
        return Question.of(rest, self.snapshot, self.identity, redirecting=True)

    def _execution(self, question: Question) -> Execution:
        return Execution(
            question.key,
            functools.partial(self._run, question),
            functools.partial(self._valid, question),
        )

    async def _valid(self, question: Question) -> bool:
        """A record must not outlive the objects that it answers for."""
        unadvertised = question.unadvertised
        if not unadvertised:
            return True
        return len(await self.git.presence.existing(unadvertised)) == len(unadvertised)

    def _run(self, question: Question, sink: Sink) -> Outcome:
        """Have git answer the question; blocks."""
        began, spent = time.monotonic(), cpu_spent()
        request = encode_fetch(question.fetch, _AGENT)
        fetched = fetch_v2(self.git, self.snapshot, request, AnswerSink(sink))
        if not self.unchanged():
            raise Overtaken
        self.observe(time.monotonic() - began, cpu_spent() - spent)
        return outcome_of(fetched, PACK_MEDIA_TYPE)


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
