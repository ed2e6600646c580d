# Law of this file: whether a whole session would move to a mirror is explained by the engine that
# decides it, from what this server knows of the mirrors; or without one, from a look at each.

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import aiohttp

from redirects.audience import Audience
from redirects.locality import Whereabouts
from redirects.sessions import explain_session
from repos.git.program import Git, GitFailed
from repos.git.repository import GitRepository
from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.errors import Unservable
from repos.hg.program import HgFailed
from server.explaining import Asked, ExplainedSession, client_there
from server.repositories import Repositories, git_kind
from server.runtime import Runtime
from server.sessions.asked import session_with
from server.sessions.moving import own_refs
from server.sessions.reading import Reading
from server.sessions.refs import Ours
from server.sessions.watch import MirrorWatch
from server.settings import Settings
from server.wiring import build_control, build_session_selection

_UPSTREAM: Final = "session mirrors are for repositories below ROOT: sessions with this one stay"
_ASK_A_SERVER: Final = (
    "whether a whole session moves to a mirror is told here of git repositories below ROOT alone;"
    " ask a server of others, by --server"
)
_HELD_OFF: Final = (
    "for which networks sessions are held off from a mirror only a server knows: ask it with"
    " --server"
)

_Told = tuple[ExplainedSession | None, tuple[str, ...]]
"""What there is to say of a session, and what the reader must know of it."""


async def session_live(
    runtime: Runtime, asked: Asked, where: Whereabouts, audience: Audience
) -> _Told:
    """What this server would do now; nothing where it has no mirrors.

    That the repository is of interest is noted: mirrors are compared soon, as after a client.
    """
    sessions = runtime.sessions
    if sessions is None:
        return None, ()
    name = asked.repository
    found = (runtime.repositories.get(name), runtime.hg_repositories.get(name))
    repository = next((each for each in found if each is not None and each.name == name), None)
    if repository is None:
        return None, (_UPSTREAM,)
    try:
        session = await session_with(repository, runtime.settings.hg)
    except _UNREADABLE as error:
        return None, (f"{name} cannot be read, so no session moves: {error}",)
    client = client_there(runtime.settings, where)
    decision, verdicts = sessions.explain(session, client, runtime.pipeline.control, audience)
    seen = _seen(sessions.watch, name)
    return ExplainedSession(session.vcs, decision, verdicts, seen), ()


async def session_alone(
    settings: Settings,
    http: aiohttp.ClientSession,
    asked: Asked,
    where: Whereabouts,
    audience: Audience,
) -> _Told:
    """What a server with these settings would do, after a look at each mirror."""
    if not settings.session_mirrors:
        return None, ()
    with ThreadPoolExecutor(1, "explain") as threads:
        git = Git(settings.limits.program_time)
        kind = git_kind(git, threads, allow_filter=settings.git.allow_filter)
        repositories = Repositories(settings.local_root, kind, settings.data)
        repository = repositories.get(asked.repository)
        if repository is None or repository.name != asked.repository:
            return None, (_ASK_A_SERVER,)
        try:
            explained = await _after_a_look(
                settings, http, repositories, repository, where, audience
            )
        except _UNREADABLE as error:
            return None, (f"{asked.repository} cannot be read, so no session moves: {error}",)
    return explained, (_HELD_OFF,)


async def _after_a_look(  # noqa: PLR0917 - all that a server has for this
    settings: Settings,
    http: aiohttp.ClientSession,
    repositories: Repositories[GitRepository],
    repository: GitRepository,
    where: Whereabouts,
    audience: Audience,
) -> ExplainedSession:
    rules, control = settings.health.rules, build_control(settings.redirect)
    selection = build_session_selection(settings)

    async def own(_: str, name: str) -> Ours | None:
        return await own_refs(repositories, name)

    watch = MirrorWatch(
        selection.targets,
        lambda mirror: Reading(http, mirror, rules.timeout, rules.interval),
        own,
        rules,
    )
    session = await session_with(repository, settings.hg)
    # As in a server, mirrors are not asked for what would not move there anyway.
    if session.stays is None and not audience.private and settings.redirect.enabled:
        watch.seen("git", repository.name, session.digest)
        await watch.look()
    client = client_there(settings, where)
    decision, verdicts = explain_session(
        session,
        selection,
        client,
        watch.clock(),
        seen=watch.seen("git", repository.name, session.digest),
        down=watch.down(),
        enabled=settings.redirect.enabled,
        held_back=control.held_back(client, repository.name),
        shadow=control.shadow,
        audience=audience,
    )
    return ExplainedSession("git", decision, verdicts, _seen(watch, repository.name))


_UNREADABLE: Final = (GitFailed, HgFailed, Unservable, IndexBroken, IndexUnreadable)


def _seen(watch: MirrorWatch, repository: str) -> Mapping[str, str]:
    """What was seen last of each mirror that is of no use for a repository, by its name."""
    said = {}
    for mirror in watch.observed():
        told = [each.told for each in mirror.repositories if each.repository == repository]
        if not mirror.is_named:
            said[mirror.name] = mirror.seen
        elif told and told[0]:
            said[mirror.name] = told[0]
    return said
