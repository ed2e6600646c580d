# Law of this file: what a credential sees of a repository of Mercurial is asked as one state; what
# the upstream can do changes seldom, and is asked again when a right to it may have ended.

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from server.upstreams.answers import Answers, Known
from server.upstreams.hg_asking import HgAsking, HgState
from server.upstreams.routes import Remote
from wire.hg.v1.capabilities import Capabilities


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
class HgViews(Answers[HgAsking, HgView]):
    """What upstreams of Mercurial said, by repository and credential."""

    # Equal states are one object, whosever they are.
    _states: WeakValueDictionary[bytes, HgState] = field(default_factory=WeakValueDictionary)

    def last(self, remote: Remote, authorization: str | None) -> HgView | None:
        """The last yes, however old it is; not to be told to anybody."""
        return self._of(remote, authorization).yes

    async def _question(
        self, remote: Remote, authorization: str | None, known: Known[HgView], began: float
    ) -> HgView:
        before = known.yes
        if before is not None and began - before.words_asked <= remote.upstream.auth_ttl:
            words, words_asked = before.words, before.words_asked
        else:
            words, words_asked = await self.asking.capabilities(remote, authorization), began
        state = await self.asking.state(remote, authorization)
        state = self._states.setdefault(state.digest, state)
        return HgView(state, words, words_asked, began)
