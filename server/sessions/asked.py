# Law of this file: what a session asks for is said in one place, for requests and for whoever has
# one explained.

from __future__ import annotations

from redirects.decision import Reason
from redirects.sessions import Session
from repos.git.repository import GitRepository, Snapshot
from repos.hg.offered import has_markers
from repos.hg.repository import HgRepository, HgSnapshot
from server.settings_repositories import HgSettings


def git_session(repository: str, snapshot: Snapshot) -> Session:
    """The first request for a git repository, by its served name."""
    stays = Reason.HIDES_REFS if snapshot.hides_refs else None
    return Session("git", repository, snapshot.refs.digest, stays)


def hg_session(repository: str, snapshot: HgSnapshot, settings: HgSettings) -> Session:
    """The first request for a Mercurial repository, by its served name."""
    stays = None
    if settings.may_push(repository):
        stays = Reason.TAKES_PUSHES
    elif b"obsolete" in snapshot.namespaces and has_markers(snapshot):
        stays = Reason.HAS_MARKERS
    return Session("hg", repository, snapshot.digest, stays)


async def session_with(repository: GitRepository | HgRepository, settings: HgSettings) -> Session:
    """What a client would ask first now.

    Raises:
        repos.git.program.GitFailed, repos.hg.program.HgFailed: the program refuses.
        repos.hg.errors.Unservable: it is none that is served.
        repos.hg.database.IndexBroken, repos.hg.database.IndexUnreadable: its index is no good.
    """
    if isinstance(repository, GitRepository):
        return git_session(repository.name, await repository.snapshot())
    snapshot = repository.at_hand() or await repository.snapshot()
    return hg_session(repository.name, snapshot, settings)
