# Law of this file: clients of protocol v0 and v1 (old git, libgit2) get stock git's own answers,
# from the cache. A record's key holds the refs, so it lives no longer than these.

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cache.flights import Outcome, Run, Sink
from cache.keys import record_key
from indexer.catalog import Bundle
from redirects.acceptance import ACCEPTS_NOTHING, Acceptance, Client
from redirects.audience import PUBLIC, Audience
from repos.git.repository import GitRepository, Snapshot
from repos.git.upload_pack import fetch_v0
from repos.program import cpu_spent
from server.answer import Execution, Locate, Plan
from server.git.fetch import AnswerSink, Observe, Overtaken, always, outcome_of
from wire.git.v0 import SIDEBANDS, V0Fetch

_MEDIA_TYPE: Final = "application/x-git-upload-pack-result"


@dataclass(frozen=True, slots=True)
class LegacyFetchCommand:
    """One ``git-upload-pack`` request of protocol v0 or v1.

    Attributes:
        git: the repository.
        snapshot: what it advertised when the command came.
        fetch: the request.
        protocol: what the client put in ``Git-Protocol``: empty or ``version=1``.
        client: who asks.
        observe: told how long the run took, and what it cost.
        audience: for whom the repository's content is.
        unchanged: asked after a run, in its thread: the refs that git read are those of before.
    """

    git: GitRepository
    snapshot: Snapshot
    fetch: V0Fetch
    protocol: str
    client: Client
    observe: Observe
    audience: Audience = PUBLIC
    unchanged: Callable[[], bool] = always

    acceptance: Acceptance = ACCEPTS_NOTHING
    dialect: str = "git-v0"
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
        """No location can be told in this protocol: everything is computed, once."""
        del bundles, locate
        key = record_key(
            self.dialect,
            self.git.identity,
            self.fetch.canonical,
            self.protocol.encode(),
            self.snapshot.config_digest.encode(),
            self.snapshot.refs.digest.encode(),
        )
        return Plan(None, Execution(key, self._run(), self._valid))

    async def _valid(self) -> bool:
        """The key holds the refs: as long as it matches, every want is advertised."""
        return True

    def _run(self) -> Run:
        def run(sink: Sink) -> Outcome:
            began, spent = time.monotonic(), cpu_spent()
            raw = AnswerSink(sink, opening=b"")
            fetched = fetch_v0(
                self.git,
                self.snapshot,
                self.fetch.canonical,
                raw,
                self.protocol,
                flushed=self.fetch.done and bool(self.fetch.capabilities & SIDEBANDS),
            )
            self.observe(time.monotonic() - began, cpu_spent() - spent)
            if not self.unchanged():
                raise Overtaken
            return outcome_of(fetched, _MEDIA_TYPE)

        return run
