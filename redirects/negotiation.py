# Law of this file: the first target in order that may name the content, through which it was read
# back and which the client accepts is named; else the content goes inline. This runs for
# every answer, so it asks nobody anything and costs microseconds.

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from redirects.acceptance import Acceptance, Client
from redirects.audience import PUBLIC, Audience
from redirects.decision import CannotLocate, Decision, Inline, PassedOver, Reason, Redirect
from redirects.targets import Target
from stores.entity import Entity


def negotiate(
    acceptance: Acceptance,
    entity: Entity,
    targets: Sequence[Target],
    client: Client,
    now: float,
    *,
    readable: AbstractSet[str],
    min_size: int,
    enabled: bool,
    audience: Audience = PUBLIC,
) -> Decision:
    """Decide how this client gets ``entity``.

    Args:
        acceptance: what the client accepts.
        entity: the content.
        targets: in order of preference; the client's own order, where it has one, goes before.
        client: who asks.
        now: seconds since the epoch.
        readable: fingerprints of the targets through which ``entity`` was read back.
        min_size: bytes below which content goes inline.
        enabled: False, everything goes inline.
        audience: for whom the content is.
    """
    if not enabled:
        return Inline(Reason.DISABLED)
    if not acceptance.protocols:
        return Inline(Reason.CLIENT_ACCEPTS_NONE)
    if entity.size < min_size:
        return Inline(Reason.TOO_SMALL)
    passed_over: list[PassedOver] = []
    for target in _in_order(acceptance, targets):
        # What may never be comes first: publishing helps only where the reason says that it would.
        if audience.private and not target.signed:
            reason = Reason.PUBLIC_TARGET
        elif audience.targets and target.name not in audience.targets:
            reason = Reason.NOT_FOR_REPOSITORY
        elif acceptance.targets is not None and target.name not in acceptance.targets:
            reason = Reason.TARGET_NOT_ACCEPTED
        elif target.protocol(client) not in acceptance.protocols:
            reason = Reason.PROTOCOL_NOT_ACCEPTED
        elif target.fingerprint not in readable:
            reason = Reason.NOT_PUBLISHED
        else:
            try:
                return Redirect(target.locate(entity, client, now), tuple(passed_over))
            except CannotLocate as error:
                reason = error.reason
        passed_over.append(PassedOver(target.name, reason))
    return Inline(Reason.NO_TARGET, tuple(passed_over))


def _in_order(acceptance: Acceptance, targets: Sequence[Target]) -> Sequence[Target]:
    """The targets in the client's order, and behind them those that it does not list."""
    wanted = acceptance.targets
    if wanted is None:
        return targets
    return sorted(targets, key=lambda t: wanted.index(t.name) if t.name in wanted else len(wanted))
