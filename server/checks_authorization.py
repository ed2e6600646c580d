# Law of this file: an Authorization that is meant for one server must not reach another, nor must
# one that does break a clone unseen. What is sent on trial is nobody's; what is found is not shown.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import aiohttp
from yarl import URL

from redirects.acceptance import Client
from redirects.decision import CannotLocate
from redirects.targets import SelfTarget, Target
from repos.git.program import Git, GitFailed
from server.verdict import Level, Verdict
from stores.entity import Entity

_ASK_SECONDS: Final = 20.0
_ANYONE: Final = Client("http://127.0.0.1")
_FOREIGN: Final = "Bearer offramp-doctor"

_SCOPE: Final = "scope it by the URL of the server that it is for: "
_SCOPED: Final = "http.https://git.example.org/.extraHeader"


def check_leaks(git: Git, targets: Sequence[Target]) -> Iterator[Verdict]:
    """Settings of this user's git by which a target gets an Authorization; blocks.

    Those without a URL are told by :mod:`server.checks_machine`, once.
    """
    if _sends(git, "--get", "http.extraheader"):
        return
    for target in targets:
        if isinstance(target, SelfTarget):
            continue  # it is this server, for which it may be meant
        if _sends(git, "--get-urlmatch", "http.extraheader", target.base_url):
            yield Verdict(
                Level.WARN,
                f"target {target.name}: this user's git sends it an Authorization, by an"
                " http.<url>.extraHeader whose URL fits it too",
                _SCOPE + _SCOPED,
            )


def _sends(git: Git, *config: str) -> bool:
    try:
        value = git.run("config", *config)
    except GitFailed:  # not set, or told elsewhere
        return False
    return value.lower().lstrip().startswith(b"authorization")


async def check_foreign(
    session: aiohttp.ClientSession, target: Target, entity: Entity, now: float
) -> Verdict | None:
    """See what a target does when a client sends an Authorization that is for somebody else.

    Args:
        session: to ask with.
        target: it gives ``entity``, as its URLs name it.
        entity: small content that is in the store.
        now: seconds since the epoch.

    Returns:
        None where it makes no difference, or cannot be tried.
    """
    try:
        url = target.locate(entity, _ANYONE, now).url
        async with session.get(
            URL(url, encoded=True),
            headers={"Authorization": _FOREIGN, "User-Agent": "offramp"},
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=_ASK_SECONDS),
        ) as answer:
            status = answer.status
    except (CannotLocate, aiohttp.ClientError, OSError):
        return None  # whether it is reached, others tell
    if status == 200:
        return None
    return Verdict(
        Level.INFO,
        f"target {target.name}: it refuses URLs that come with an Authorization of somebody else"
        f" (status {status}), as S3 does; git sends an http.extraHeader without a URL there, and"
        " its clone fails",
        f"clients: {_SCOPE}{_SCOPED}",
    )
