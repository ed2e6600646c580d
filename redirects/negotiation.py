# Law of this file: the first target in order that may name the content, that is up, through which
# it was read back and which the client accepts is named; else the content goes inline. This runs
# for every answer, so it asks nobody anything and costs microseconds.

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from redirects.acceptance import Acceptance, Client, Location
from redirects.audience import PUBLIC, Audience
from redirects.decision import CannotLocate, Decision, Inline, PassedOver, Reason, Redirect
from redirects.selection import Candidate, Selection, behind
from redirects.targets import Target
from stores.entity import Entity

NONE_DOWN: Final[frozenset[str]] = frozenset()


def negotiate(
    acceptance: Acceptance,
    entity: Entity,
    selection: Selection[Target],
    client: Client,
    now: float,
    *,
    readable: AbstractSet[str],
    down: AbstractSet[str] = NONE_DOWN,
    min_size: int,
    enabled: bool,
    held_back: Reason | None = None,
    shadow: bool = False,
    audience: Audience = PUBLIC,
) -> Decision:
    """Decide how this client gets ``entity``.

    Args:
        acceptance: what the client accepts.
        entity: the content.
        selection: the targets, and what decides between them; the client's own order, where it has
            one, goes before.
        client: who asks.
        now: seconds since the epoch.
        readable: fingerprints of the targets through which ``entity`` was read back.
        down: fingerprints of the targets that are not to be named now.
        min_size: bytes below which content goes inline.
        enabled: False, everything goes inline.
        held_back: why this client is not redirected, though it accepts it; None if it may be. See
            :meth:`redirects.control.Control.held_back`.
        shadow: the content goes inline all the same; the decision says what would have been named.
        audience: for whom the content is.
    """
    needless = unwilling(acceptance, enabled=enabled, held_back=held_back)
    if needless is None and entity.size < min_size:
        needless = Reason.TOO_SMALL
    if needless is not None:
        return Inline(needless)
    passed_over: list[PassedOver] = []
    for candidate in selection.order(client, entity.digest, acceptance.targets):
        found = _judge(candidate, acceptance, entity, client, now, readable, down, audience)
        if isinstance(found, Location):
            if shadow:
                return Inline(Reason.SHADOW, tuple(passed_over), found)
            return Redirect(found, tuple(passed_over))
        passed_over.append(PassedOver(candidate.target.name, found))
    return Inline(Reason.NO_TARGET, tuple(passed_over))


def locations(
    acceptance: Acceptance,
    entity: Entity,
    selection: Selection[Target],
    client: Client,
    now: float,
    *,
    readable: AbstractSet[str],
    down: AbstractSet[str] = NONE_DOWN,
    audience: Audience,
    passed_over: list[PassedOver],
) -> Iterator[Location]:
    """All locations that could be named to a client which takes several, the best first.

    The arguments are those of :func:`negotiate`; targets that give none are added to
    ``passed_over``.
    """
    for candidate in selection.order(client, entity.digest, acceptance.targets):
        found = _judge(candidate, acceptance, entity, client, now, readable, down, audience)
        if isinstance(found, Location):
            yield found
        else:
            passed_over.append(PassedOver(candidate.target.name, found))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one target in a decision.

    Attributes:
        target: its name.
        reason: why it is not named; None for the one that is, as far as targets decide.
    """

    target: str
    reason: Reason | None


def explain(
    acceptance: Acceptance,
    entity: Entity,
    selection: Selection[Target],
    client: Client,
    now: float,
    *,
    readable: AbstractSet[str],
    down: AbstractSet[str],
    min_size: int,
    enabled: bool,
    held_back: Reason | None = None,
    shadow: bool = False,
    audience: Audience = PUBLIC,
) -> tuple[Decision, tuple[Verdict, ...]]:
    """:func:`negotiate`, and what it says of every target, in order; also of those behind.

    The arguments are those of :func:`negotiate`.

    Returns:
        The decision, and a verdict on each target. Where the content goes inline before any is
        looked at, the verdicts are what they would have been otherwise.
    """
    decision = negotiate(
        acceptance,
        entity,
        selection,
        client,
        now,
        readable=readable,
        down=down,
        min_size=min_size,
        enabled=enabled,
        held_back=held_back,
        shadow=shadow,
        audience=audience,
    )
    chosen: Candidate[Target] | None = None
    verdicts: list[Verdict] = []
    for candidate in selection.order(client, entity.digest, acceptance.targets):
        found = _judge(candidate, acceptance, entity, client, now, readable, down, audience)
        if isinstance(found, Reason):
            verdicts.append(Verdict(candidate.target.name, found))
        elif chosen is not None:
            verdicts.append(Verdict(candidate.target.name, _behind(chosen, candidate, acceptance)))
        else:
            chosen = candidate
            verdicts.append(Verdict(candidate.target.name, None))
    return decision, tuple(verdicts)


def unwilling(acceptance: Acceptance, *, enabled: bool, held_back: Reason | None) -> Reason | None:
    """Why everything goes inline, whatever the content; None if something may be redirected.

    The arguments are those of :func:`negotiate`. Who accepts nothing anyway is not said to be held
    back, so that figures tell how many of those who accept are.
    """
    if not enabled:
        return Reason.DISABLED
    if not acceptance.protocols:
        return Reason.ASKED_AGAIN if acceptance.in_vain else Reason.CLIENT_ACCEPTS_NONE
    return held_back


def _judge(  # noqa: PLR0917 - names cost a tenth of a decision
    candidate: Candidate[Target],
    acceptance: Acceptance,
    entity: Entity,
    client: Client,
    now: float,
    readable: AbstractSet[str],
    down: AbstractSet[str],
    audience: Audience,
) -> Location | Reason:
    """The location at one target, or why it names none."""
    target = candidate.target
    # What may never be comes first: publishing helps only where the reason says that it would.
    if audience.private and not target.signed:
        return Reason.PUBLIC_TARGET
    if audience.targets and target.name not in audience.targets:
        return Reason.NOT_FOR_REPOSITORY
    if target.name in audience.unplaced:
        return Reason.NOT_PLACED
    if candidate.bar is not None:
        return candidate.bar
    if acceptance.targets is not None and target.name not in acceptance.targets:
        return Reason.TARGET_NOT_ACCEPTED
    if target.protocol(client) not in acceptance.protocols:
        return Reason.PROTOCOL_NOT_ACCEPTED
    if target.fingerprint in down:
        return Reason.DOWN
    if target.fingerprint not in readable:
        return Reason.NOT_PUBLISHED
    try:
        return target.locate(entity, client, now)
    except CannotLocate as error:
        return error.reason


def _behind(chosen: Candidate[Target], other: Candidate[Target], acceptance: Acceptance) -> Reason:
    """Why a target that could be named is not, where another one is."""
    if acceptance.targets is not None:
        return Reason.CLIENTS_ORDER
    return behind(chosen, other)
