# Law of this file: a whole session moves to a mirror only where nothing is lost by it: nobody's
# credentials, no push, nothing private, and no refs that are not the ones we would tell ourselves.
# It is decided from memory, by the same engine that chooses targets for content.
#
# A mirror is another server of the same repositories. Its refs are compared with ours before
# anybody asks; a mirror that is behind is passed over, and so is one that is ahead. One that is an
# Offramp serves everything below /-/here/ too, where it moves no session on: so two that name each
# other do not send a client to and fro.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import quote

from redirects.acceptance import Client, Location, scheme, spread_of
from redirects.audience import PUBLIC, Audience
from redirects.decision import PassedOver, Reason, Told
from redirects.names import Names
from redirects.negotiation import Verdict
from redirects.selection import Candidate, Selection, behind

Vcs = Literal["git", "hg"]

HERE: Final = "/-/here"
"""Below this path an Offramp serves as below none, but sessions stay there."""

# What stock clients ask first, and what must be left of it after a redirect for them to follow.
_FIRST: Final[dict[Vcs, str]] = {
    "git": "/info/refs?service=git-upload-pack",
    "hg": "?cmd=capabilities",
}

NONE_DOWN: Final[frozenset[str]] = frozenset()


def nobody(mirror: str) -> bool:
    """No session is held off from any mirror."""
    del mirror
    return False


@lru_cache(1024)
def _names(patterns: tuple[str, ...]) -> Names:
    return Names.of(patterns)


@dataclass(frozen=True, slots=True)
class SessionMirror:
    """Another server that has repositories of ours.

    Attributes:
        name: for logs and figures.
        base_url: below which they are served by the same names; without trailing slash.
        repositories: shell patterns of served names, with or without ``.git``; ``*`` takes slashes
            too; empty: all.
        vcs: of what kind the repositories are.
        offramp: it is an Offramp: sessions move below its :data:`HERE`, where nothing is pushed.
        read_only: it takes no pushes anywhere below its URL.
        max_age: seconds for which a comparison of its refs with ours holds.

    Raises:
        ValueError: the base URL is none.
    """

    name: str
    base_url: str
    repositories: Sequence[str] = ()
    vcs: AbstractSet[Vcs] = frozenset({"git", "hg"})
    offramp: bool = False
    read_only: bool = False
    max_age: float = 60.0

    def __post_init__(self) -> None:
        scheme(self.base_url)

    def serves(self, vcs: Vcs, repository: str) -> bool:
        """Whether sessions of this repository may move here."""
        if vcs not in self.vcs:
            return False
        return not self.repositories or _names(tuple(self.repositories)).hold_repository(repository)

    def repository_url(self, repository: str) -> str:
        """Where the repository with this served name is."""
        where = self.base_url + HERE if self.offramp else self.base_url
        return f"{where}/{quote(repository, safe='/')}"

    def first_url(self, vcs: Vcs, repository: str) -> str:
        """What a client asks there first, and is redirected to."""
        return self.repository_url(repository) + _FIRST[vcs]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was last seen of one repository at one mirror.

    Attributes:
        at: when, in seconds of the clock that ``now`` is of; before the mirror was asked.
        digest: of the refs that it has; None if they could not be read.
        fault: why the mirror is of no use for this repository, beside what the digest says.
    """

    at: float
    digest: str | None
    fault: Reason | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """The first request of a client.

    Attributes:
        vcs: what kind of repository it asks.
        repository: its served name.
        digest: of the refs that it would be told here.
        stays: why it is answered here, whatever mirrors there are; None if it may move.
    """

    vcs: Vcs
    repository: str
    digest: str
    stays: Reason | None = None


@dataclass(frozen=True, slots=True)
class SessionRedirect:
    """Answer with a redirect to this location; the session goes on there.

    Attributes:
        location: the URL, at which mirror.
        passed_over: mirrors before it, in order.
    """

    location: Location
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True, slots=True)
class Stay:
    """Answer here.

    Attributes:
        reason: why.
        passed_over: every mirror that was considered, in order.
        shadowed: where it would have moved, where decisions are only counted.
    """

    reason: Reason
    passed_over: tuple[PassedOver, ...] = ()
    shadowed: Location | None = None


SessionDecision = SessionRedirect | Stay


def told_session(decision: SessionDecision) -> Told:
    """``decision`` in words, as of :func:`redirects.decision.told`; or ``stay``."""
    if isinstance(decision, SessionRedirect):
        return "redirect", decision.location.target, ""
    if decision.shadowed is not None:
        return "shadow", decision.shadowed.target, ""
    return "stay", "", decision.reason.value


def choose(
    session: Session,
    selection: Selection[SessionMirror],
    client: Client,
    now: float,
    *,
    seen: Mapping[str, Sighting],
    down: AbstractSet[str] = NONE_DOWN,
    held_off: Callable[[str], bool] = nobody,
    enabled: bool = True,
    held_back: Reason | None = None,
    shadow: bool = False,
    audience: Audience = PUBLIC,
) -> SessionDecision:
    """Decide where this session goes on.

    Args:
        session: what is asked.
        selection: the mirrors, and what decides between them. Equals share clients by lot, one for
            each network and repository.
        client: who asks.
        now: seconds of any clock; that of the sightings.
        seen: what was last seen of this repository, by name of the mirror; none where it was never
            looked at.
        down: names of the mirrors that nobody is to be sent to now.
        held_off: whether such sessions are kept from a mirror. Where it would be this one they
            stay: what failed there would fail at the next one as well.
        enabled: False, every session stays.
        held_back: see :meth:`redirects.control.Control.held_back`.
        shadow: it stays all the same; the decision says where it would have moved.
        audience: for whom the repository is.
    """
    needless = _unwilling(session, audience, enabled=enabled, held_back=held_back)
    if needless is not None:
        return Stay(needless)
    passed_over: list[PassedOver] = []
    for candidate in selection.order(client, _lot_of(session.repository)):
        found = _judge(candidate, session, client, now, seen, down)
        if isinstance(found, Location):
            if held_off(found.target):
                over = PassedOver(found.target, Reason.HELD_OFF)
                return Stay(Reason.HELD_OFF, (*passed_over, over))
            if shadow:
                return Stay(Reason.SHADOW, tuple(passed_over), found)
            return SessionRedirect(found, tuple(passed_over))
        passed_over.append(PassedOver(candidate.target.name, found))
    return Stay(Reason.NO_MIRROR, tuple(passed_over))


def explain_session(
    session: Session,
    selection: Selection[SessionMirror],
    client: Client,
    now: float,
    *,
    seen: Mapping[str, Sighting],
    down: AbstractSet[str] = NONE_DOWN,
    held_off: Callable[[str], bool] = nobody,
    enabled: bool = True,
    held_back: Reason | None = None,
    shadow: bool = False,
    audience: Audience = PUBLIC,
) -> tuple[SessionDecision, tuple[Verdict, ...]]:
    """:func:`choose`, and what it says of every mirror, in order; also of those behind.

    The arguments are those of :func:`choose`.

    Returns:
        The decision, and a verdict on each mirror. Where the session stays before any is looked
        at, the verdicts are what they would have been otherwise.
    """
    decision = choose(
        session,
        selection,
        client,
        now,
        seen=seen,
        down=down,
        held_off=held_off,
        enabled=enabled,
        held_back=held_back,
        shadow=shadow,
        audience=audience,
    )
    chosen: Candidate[SessionMirror] | None = None
    verdicts: list[Verdict] = []
    for candidate in selection.order(client, _lot_of(session.repository)):
        found = _judge(candidate, session, client, now, seen, down)
        if isinstance(found, Reason):
            verdicts.append(Verdict(candidate.target.name, found))
        elif chosen is not None:
            verdicts.append(Verdict(candidate.target.name, behind(chosen, candidate)))
        else:
            chosen = candidate
            kept = Reason.HELD_OFF if held_off(candidate.target.name) else None
            verdicts.append(Verdict(candidate.target.name, kept))
    return decision, tuple(verdicts)


def _unwilling(
    session: Session, audience: Audience, *, enabled: bool, held_back: Reason | None
) -> Reason | None:
    """Why the session stays, whatever mirrors there are; None if it may move."""
    if not enabled:
        return Reason.DISABLED
    if session.stays is not None:
        return session.stays
    if audience.private:
        return Reason.PRIVATE_REPOSITORY
    return held_back


def _judge(  # noqa: PLR0917 - as in redirects.negotiation
    candidate: Candidate[SessionMirror],
    session: Session,
    client: Client,
    now: float,
    seen: Mapping[str, Sighting],
    down: AbstractSet[str],
) -> Location | Reason:
    """Where the session would go on at one mirror, or why it may not."""
    mirror = candidate.target
    # What may never be comes first: looking at the mirror helps only where the reason says so.
    if not mirror.serves(session.vcs, session.repository):
        return Reason.NOT_MIRRORED
    if session.vcs == "hg" and not (mirror.offramp or mirror.read_only):
        return Reason.MIRROR_TAKES_PUSHES
    protocol = scheme(mirror.base_url)
    if protocol == "http" and client.base_url.startswith("https:"):
        return Reason.LESS_SAFE
    if candidate.bar is not None:
        return candidate.bar
    if mirror.name in down:
        return Reason.DOWN
    fault = verdict_on(mirror, seen.get(mirror.name), session.digest, now)
    if fault is not None:
        return fault
    url = mirror.first_url(session.vcs, session.repository)
    return Location(url, mirror.name, protocol, None)


def verdict_on(
    mirror: SessionMirror, sighting: Sighting | None, digest: str, now: float
) -> Reason | None:
    """Why what was seen of a repository at a mirror keeps its sessions here; None: they may move.

    Args:
        mirror: where it is.
        sighting: what was last seen of it there; None if nothing was.
        digest: of the refs that clients would be told here.
        now: seconds of the clock of the sighting.
    """
    # One of a time to come is from before the clock jumped.
    if sighting is None or not 0 <= now - sighting.at <= mirror.max_age:
        return Reason.MIRROR_UNKNOWN
    if sighting.fault is not None:
        return sighting.fault
    return None if sighting.digest == digest else Reason.MIRROR_STALE


@lru_cache(4096)
def _lot_of(repository: str) -> str:
    """What stands for the repository in the lots that mirrors draw, in the form of a digest."""
    return f"{spread_of(repository):016x}"
