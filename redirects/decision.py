# Law of this file: every redirect, and every refusal to redirect, can be explained. A decision is
# a value; its words are stable, because logs, metrics and `offramp explain` are made from them.

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Self

from redirects.acceptance import Location


class Reason(Enum):
    """Why content is sent inline, or why a target was passed over.

    The value is the stable word for logs and metrics, ``text`` the sentence for people.
    """

    text: str

    def __new__(cls, word: str, text: str) -> Self:
        """Keep the sentence beside the word."""
        reason = object.__new__(cls)
        reason._value_ = word
        reason.text = text
        return reason

    DISABLED = "disabled", "Redirects are switched off (redirect.enabled)."
    OFF_FOR_REPOSITORY = (
        "off_for_repository",
        "Redirects are switched off for this repository (redirect.off_repositories).",
    )
    OFF_FOR_NETWORK = (
        "off_for_network",
        "Redirects are switched off for the client's address (redirect.off_networks).",
    )
    NOT_IN_PERCENTAGE = (
        "not_in_percentage",
        "The client's network is not among those that are redirected (redirect.percentage).",
    )
    SHADOW = "shadow", "It would be redirected; decisions are only counted (redirect.shadow)."
    NOT_IN_TIME = (
        "not_in_time",
        "It was not computed and published in the time for which clients wait (redirect.max_wait).",
    )
    CLIENT_ACCEPTS_NONE = "client_accepts_none", "The client did not say that it accepts locations."
    TOO_SMALL = "too_small", "The content is smaller than redirect.min_size."
    NO_TARGET = "no_target", "No target is left that could be named to this client."
    PUBLIC_TARGET = (
        "public_target",
        "The content is private and the URLs of this target are not signed.",
    )
    NOT_FOR_REPOSITORY = (
        "not_for_repository",
        "The repository's settings do not list this target (targets).",
    )
    NOT_PLACED = (
        "not_placed",
        "The repository's placement does not list this target's store (placements).",
    )
    DOWN = "down", "Probes of this target do not come back, or not yet often enough again."
    NOT_PUBLISHED = "not_published", "The content has not been read back through this target."
    TARGET_NOT_ACCEPTED = "target_not_accepted", "The client did not list this target."
    PROTOCOL_NOT_ACCEPTED = (
        "protocol_not_accepted",
        "The client does not accept URLs of this target's scheme.",
    )
    NO_WEIGHT = "no_weight", "Its weight is 0: nobody is sent there (targets.weight)."
    WRONG_REGION = (
        "wrong_region",
        "It is of another region, and no client is sent to another (redirect.other_regions).",
    )
    NEARER_TARGET = (
        "nearer_target",
        "A nearer one is named: of the client's region before everywhere, this before others.",
    )
    LOWER_PRIORITY = (
        "lower_priority",
        "One that is as near and goes before it is named (targets.priority).",
    )
    BY_WEIGHT = (
        "by_weight",
        "Among equals, the client's network and the content fall to another (targets.weight).",
    )
    CLIENTS_ORDER = (
        "clients_order",
        "One that the client prefers is named.",
    )
    NO_CREDENTIALS = (
        "no_credentials",
        "There are no credentials to sign with, or those there are end too soon.",
    )

    # Of whole sessions that could move to a mirror; see redirects/sessions.py.
    STAYS_HERE = "stays_here", "The URL is one below which sessions stay where they are (/-/here/)."
    CARRIES_CREDENTIALS = (
        "carries_credentials",
        "The request carries credentials, which clients would send to the mirror as well.",
    )
    PRIVATE_REPOSITORY = "private_repository", "The repository is not for everybody."
    TAKES_PUSHES = (
        "takes_pushes",
        "A push begins with the same request, and this repository takes pushes here (hg.push).",
    )
    ASKED_AGAIN = (
        "asked_again",
        "The client was sent elsewhere just now, and asks the same again (health.suspicion).",
    )
    HELD_OFF = (
        "held_off",
        "Of this network, a client failed at the mirror, or fetched what no ref names: it stays.",
    )
    CLIENT_UNKNOWN = (
        "client_unknown",
        "The proxy that asks is not listed (regions.proxies): nobody could be known again.",
    )
    HIDES_REFS = (
        "hides_refs",
        "The repository hides refs; mirrors that show the same ones need not have their objects.",
    )
    HAS_MARKERS = (
        "has_markers",
        "Markers of what is obsolete are exchanged, here or at the mirror, and are not compared.",
    )
    NO_MIRROR = "no_mirror", "No mirror is left to which this session could move."
    NOT_MIRRORED = (
        "not_mirrored",
        "The mirror is not for this repository (session_mirrors: repositories, vcs).",
    )
    MIRROR_TAKES_PUSHES = (
        "mirror_takes_pushes",
        "Pushes of Mercurial begin as pulls do; say if it takes none (session_mirrors.read_only).",
    )
    LESS_SAFE = "less_safe", "The client came by https, and the mirror's URL is an http one."
    MIRROR_UNKNOWN = (
        "mirror_unknown",
        "Its refs have not been compared with ours, or not lately (session_mirrors.max_age).",
    )
    MIRROR_STALE = "mirror_stale", "The mirror's refs are not the ones that we have now."
    MIRROR_UNREADABLE = (
        "mirror_unreadable",
        "The mirror does not answer for this repository, or not as a server of it does.",
    )
    MIRROR_LACKS = (
        "mirror_lacks",
        "The mirror does not offer all of git's protocol that is offered here.",
    )
    MIRROR_CUT_OFF = (
        "mirror_cut_off",
        "The mirror has not the whole history (it is a shallow clone).",
    )
    MIRROR_REDIRECTS = (
        "mirror_redirects",
        "The mirror answers by a redirect itself; its URL must be the last one.",
    )
    MIRROR_MOVES_SESSIONS = (
        "mirror_moves_sessions",
        "The mirror is an Offramp that may move sessions on; say so (session_mirrors.offramp).",
    )
    MIRROR_NO_OFFRAMP = (
        "mirror_no_offramp",
        "It is said to be an Offramp, and does not answer as one (session_mirrors.offramp).",
    )


class CannotLocate(Exception):  # noqa: N818 - a state of the target, not a fault of the caller
    """A target can name no location now.

    Attributes:
        reason: why.
    """

    def __init__(self, target: str, reason: Reason) -> None:
        self.reason = reason
        super().__init__(f"target {target}: {reason.text}")


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A target that was not chosen, and why."""

    target: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Redirect:
    """Name this location to the client.

    Attributes:
        location: the URL to name.
        passed_over: targets before it, in order.
    """

    location: Location
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True, slots=True)
class Inline:
    """Send the content itself.

    Attributes:
        reason: why none is named.
        passed_over: every target that was considered, in order.
        shadowed: what would have been named, where decisions are only counted.
    """

    reason: Reason
    passed_over: tuple[PassedOver, ...] = ()
    shadowed: Location | None = None


Decision = Redirect | Inline


Told = tuple[str, str, str]
"""A decision in words for logs and figures: outcome, target and reason, or empty.

The outcome is ``redirect``, ``inline``, or ``shadow`` where decisions are only counted. It is no
named tuple, because one is made for every answer, and that takes several times as long.
"""


def told(decision: Decision) -> Told:
    """``decision`` in words."""
    if isinstance(decision, Redirect):
        return "redirect", decision.location.target, ""
    if decision.shadowed is not None:
        return "shadow", decision.shadowed.target, ""
    return "inline", "", decision.reason.value
