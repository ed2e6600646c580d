# Law of this file: mirrors of sessions are asked as servers ask them, for one repository of each
# kind; what keeps sessions here is told, with how to mend it.

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

import aiohttp

from redirects.decision import Reason
from redirects.sessions import SessionMirror
from repos.git.discovery import discover
from repos.git.program import Git, GitFailed
from repos.git.repository import GitRepository
from repos.hg.discovery import discover as discover_hg
from server.sessions.reading import Reading, Unfit, Unreachable
from server.sessions.refs import Ours, git_digest
from server.settings import Settings
from server.verdict import Level, Verdict

# Repositories among which one is looked for that a mirror has.
_LOOKED: Final = 10_000

_REMEDIES: Final = {
    Reason.MIRROR_REDIRECTS: "write the URL to which it redirects: clients are redirected once",
    Reason.MIRROR_MOVES_SESSIONS: "write offramp = true, so that sessions stay where they moved",
    Reason.MIRROR_NO_OFFRAMP: "write sessions.here = true there, and have its proxy pass /-/here/"
    " on to it, with the header X-Offramp-Sessions of its answers; or remove `offramp`",
    Reason.MIRROR_LACKS: "have its git, and the web server before it, offer what is offered here:"
    " protocol v2, and uploadpack.allowFilter as here",
    Reason.HAS_MARKERS: "sessions move if it exchanges none (experimental.evolution.exchange)",
    Reason.MIRROR_CUT_OFF: "fetch the rest there: git fetch --unshallow",
    Reason.MIRROR_UNREADABLE: "give it the repository by the same name, for everybody to read, or"
    " list those that it has in `repositories`",
}


async def check_session_mirrors(
    settings: Settings, git: Git, session: aiohttp.ClientSession
) -> AsyncGenerator[Verdict, None]:
    """Look at each mirror of sessions; nothing if there is none.

    Args:
        settings: of the server.
        git: asks our own repositories.
        session: keeps no cookies.
    """
    rules = settings.health.rules
    for given in settings.session_mirrors:
        mirror = given.mirror
        for verdict in _exposed(mirror, settings):
            yield verdict
        reading = Reading(session, mirror, rules.timeout, rules.interval)
        asked = False
        for name, repository in _git(mirror, settings, git):
            asked = True
            yield await _git_verdict(reading, name, repository)
        for name in _hg(mirror, settings):
            asked = True
            yield await _hg_verdict(reading, name)
        if not asked:
            what = f"session mirror {mirror.name}: it is for no repository below ROOT"
            yield Verdict(Level.WARN, what, "check its `repositories` and `vcs`")
    if settings.session_mirrors and (settings.public_url or settings.regions.proxies):
        yield Verdict(
            Level.INFO,
            "session mirrors: should a proxy in front of this server ask clients for passwords and"
            " hand none on, then clients send them to the mirrors as well",
            "have it hand on who a client is, such as X-Forwarded-User: those stay here",
        )


def _exposed(mirror: SessionMirror, settings: Settings) -> Iterator[Verdict]:
    what = f"session mirror {mirror.name}"
    own = {settings.public_url, f"http://{settings.listen}"}
    if mirror.base_url in own:
        yield Verdict(Level.FAIL, f"{what}: its URL is this server's own", "write that of another")
    if (settings.public_url or "").startswith("https:") and mirror.base_url.startswith("http:"):
        yield Verdict(
            Level.WARN,
            f"{what}: clients of https are not redirected to its http URL",
            "have it speak TLS, and write https:// in its `url`",
        )
    if settings.public_url is None and mirror.base_url.startswith("http:"):
        yield Verdict(
            Level.INFO,
            f"{what}: its URL is http, and nothing says by which clients come here",
            "set public_url: clients of https must not be redirected to http, and behind a proxy"
            " only X-Forwarded-Proto tells them apart",
        )
    if "hg" in mirror.vcs and not (mirror.offramp or mirror.read_only):
        yield Verdict(
            Level.INFO,
            f"{what}: sessions of Mercurial stay, since nothing says that it takes no pushes",
            'write read_only = true if so, or vcs = "git"',
        )


def _git(
    mirror: SessionMirror, settings: Settings, git: Git
) -> Iterator[tuple[str, GitRepository]]:
    """The first git repository that the mirror is for."""
    if settings.local_root is None:
        return
    found = islice(discover(settings.local_root, settings.data), _LOOKED)
    for each in found:
        if mirror.serves("git", each.name):
            with ThreadPoolExecutor(1) as executor:
                yield each.name, GitRepository(each.name, each.git_dir, git, executor)
            return


def _hg(mirror: SessionMirror, settings: Settings) -> Iterator[str]:
    """The name of the first Mercurial repository that the mirror is for."""
    if settings.local_root is None or not (mirror.offramp or mirror.read_only):
        return
    found = islice(discover_hg(settings.local_root, settings.data), _LOOKED)
    names = (each.name for each in found if mirror.serves("hg", each.name))
    yield from islice(names, 1)


async def _git_verdict(reading: Reading, name: str, repository: GitRepository) -> Verdict:
    what = f"session mirror {reading.mirror.name}, {name}"
    try:
        snapshot = await repository.snapshot()
        digest = await git_digest(snapshot.refs)
        ours = Ours(snapshot.refs.digest, digest, snapshot.capabilities)
        theirs = await reading.digest("git", name, ours)
    except GitFailed as error:
        return Verdict(Level.WARN, f"{what}: {error}", "mend our own repository")
    except (Unreachable, Unfit) as error:
        return _failed(what, error)
    if snapshot.hides_refs:
        return Verdict(
            Level.INFO,
            f"{what}: sessions stay, since it hides refs here",
            "unset transfer.hideRefs and uploadpack.hideRefs if they are to move",
        )
    if ours.digest != theirs:
        return Verdict(
            Level.WARN,
            f"{what}: its refs are not ours, so sessions stay",
            "have it fetch all refs of this server, and its HEAD the same",
        )
    return Verdict(Level.OK, f"{what}: its refs are ours")


async def _hg_verdict(reading: Reading, name: str) -> Verdict:
    what = f"session mirror {reading.mirror.name}, {name}"
    try:
        await reading.digest("hg", name, Ours("", ""))
    except (Unreachable, Unfit) as error:
        return _failed(what, error)
    return Verdict(Level.OK, f"{what}: it answers; a server compares what it has before it is used")


def _failed(what: str, error: Unreachable | Unfit) -> Verdict:
    if isinstance(error, Unreachable):
        return Verdict(Level.WARN, f"{what}: {error}", "check its `url`, and that we may reach it")
    return Verdict(Level.WARN, f"{what}: {error}", _REMEDIES[error.reason])
