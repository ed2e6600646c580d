# Law of this file: an upstream of Mercurial is asked what a client asks first, once; what only a
# client that names a repository could find out is said to be unknown, never to be well.

from __future__ import annotations

from typing import Final

from server.settings_upstreams import UpstreamSettings
from server.upstreams.asking import Asking, Down, Refused
from server.upstreams.hg_asking import HgAsking
from server.upstreams.routes import Remote
from server.verdict import Level, Verdict

_URL: Final = "check its `url`, and that we may reach it"
NOT_MERCURIAL: Final = (
    "write the URL that `hg clone` takes; where a page to log in comes in its place, give a"
    " `credential` that is valid, or let callers show their own"
)


async def check_hg_repository(
    asking: Asking, upstream: UpstreamSettings, authorization: str | None
) -> Verdict:
    """Ask the one repository of an upstream what it can do.

    Args:
        asking: puts the question.
        upstream: of Mercurial, with a `repository`.
        authorization: what this server shows to it; None where callers show their own.
    """
    remote = Remote(upstream.title, upstream.title, upstream.url, upstream)
    what = f"upstream {upstream.title}: {remote.url}"
    try:
        await HgAsking(asking).capabilities(remote, authorization)
    except Refused as refused:
        return _refused(what, upstream, refused)
    except Down as down:
        if await _speaks_git(asking, remote, authorization):
            return Verdict(Level.FAIL, f"{what}: this is a git repository", 'write vcs = "git"')
        return Verdict(Level.FAIL, f"{what}: {down}", _remedy(str(down)))
    return Verdict(Level.OK, f"{what}: can be read, by Mercurial's protocol")


async def speaks_hg(asking: Asking, remote: Remote, authorization: str | None) -> bool:
    """Whether what does not answer as git does answers as Mercurial does."""
    try:
        await HgAsking(asking).capabilities(remote, authorization)
    except (Refused, Down):
        return False
    return True


async def _speaks_git(asking: Asking, remote: Remote, authorization: str | None) -> bool:
    try:
        await asking.discover(remote, authorization)
    except (Refused, Down):
        return False
    return True


def _refused(what: str, upstream: UpstreamSettings, refused: Refused) -> Verdict:
    said = f"{what}: it answers {refused.status}"
    if upstream.credential is not None:
        remedy = "check the name, and that `credential` is valid and may read it"
        return Verdict(Level.FAIL, f"{said} to this server's credential", remedy)
    said += " without a credential"
    if upstream.auth == "upstream":
        if refused.status == 401:
            return Verdict(Level.INFO, f"{said}; callers show their own")
        remedy = "check the name; if it is private and hides that it is there, all is well"
        return Verdict(Level.WARN, said, remedy)
    remedy = "check the name, and give `credential`: the callers' own are not shown to it"
    return Verdict(Level.FAIL, said, remedy)


def _remedy(said: str) -> str:
    if "ca_file" in said:
        return "name the certificate of its authority in `ca_file`, or renew its own"
    if "redirects" in said:
        return "redirects are not followed, since credentials would go along"
    if "does not answer as Mercurial does" in said or "answer cannot be read" in said:
        return NOT_MERCURIAL
    return _URL
