# Law of this file: what the status API says is a value with a shape, the same for a server and for
# `offramp explain`. No URL in it is a key: what stands behind its question mark is left out.

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict

from redirects.decision import Inline, PassedOver, Redirect
from redirects.negotiation import Verdict
from server.decisions import Made
from server.explaining import Explanation
from server.health import Health, Observed
from server.settings_stores import MAIN
from server.settings_targets import TargetSettings


class _Document(BaseModel):
    # A newer server may say more.
    model_config = ConfigDict(frozen=True, extra="ignore")


class ClientDocument(_Document):
    """Where a client is, and how that is known."""

    address: str
    network: str
    region: str | None
    said: bool
    prefix: str | None
    prefix_region: str | None
    source: str | None


class ContentDocument(_Document):
    """What is asked for."""

    title: str
    digest: str
    size: int


class VerdictDocument(_Document):
    """What became of one target; ``since`` and ``seen`` are told of one that is down."""

    name: str
    store: str
    verdict: str
    text: str
    since: AwareDatetime | None = None
    seen: str | None = None


class RedirectDocument(_Document):
    """Where a client is sent."""

    target: str
    url: str
    expires: AwareDatetime | None


class ExplanationDocument(_Document):
    """A decision, step by step; it has a redirect, or a word for why the content goes inline."""

    client: ClientDocument
    content: ContentDocument
    targets: tuple[VerdictDocument, ...]
    redirect: RedirectDocument | None
    inline: str | None
    inline_text: str | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, explanation: Explanation, *, whole_url: bool) -> Self:
        """Say it.

        Args:
            explanation: of a decision.
            whole_url: with its signature, which makes it a key.
        """
        decision, content = explanation.decision, explanation.content
        redirect = None
        if isinstance(decision, Redirect):
            location = decision.location
            url = location.url if whole_url else location.url.partition("?")[0]
            expires = None if location.expires is None else _time(location.expires)
            redirect = RedirectDocument(target=location.target, url=url, expires=expires)
        reason = decision.reason if isinstance(decision, Inline) else None
        return cls(
            client=_client(explanation),
            content=ContentDocument(
                title=content.title, digest=content.entity.digest, size=content.entity.size
            ),
            targets=tuple(_verdict(explanation, each) for each in explanation.verdicts),
            redirect=redirect,
            inline=None if reason is None else str(reason.value),
            inline_text=None if reason is None else reason.text,
            notes=explanation.known.notes,
        )


def _client(explanation: Explanation) -> ClientDocument:
    where = explanation.known.where
    prefix = where.prefix
    return ClientDocument(
        address=where.address,
        network=where.network,
        region=where.region,
        said=where.said,
        prefix=None if prefix is None else str(prefix.network),
        prefix_region=None if prefix is None else prefix.region,
        source=None if prefix is None else prefix.source,
    )


def _verdict(explanation: Explanation, verdict: Verdict) -> VerdictDocument:
    reason, name = verdict.reason, verdict.target
    store = explanation.known.reads.get(name, MAIN)
    if reason is None:
        # Where nothing is named whatever the targets, none of them is at fault.
        word = "chosen" if isinstance(explanation.decision, Redirect) else "would_be_chosen"
        return VerdictDocument(name=name, store=store, verdict=word, text="")
    seen = explanation.known.seen.get(name)
    word = str(reason.value)
    if word != "down" or seen is None:
        return VerdictDocument(name=name, store=store, verdict=word, text=reason.text)
    since = None if seen.since is None else _time(seen.since)
    return VerdictDocument(
        name=name, store=store, verdict=word, text=reason.text, since=since, seen=seen.what
    )


class PassedOverDocument(_Document):
    """A target that was not chosen, and why."""

    target: str
    reason: str


class DecisionDocument(_Document):
    """A decision that was carried out."""

    when: AwareDatetime
    request_id: str
    repository: str
    region: str | None
    network: str
    outcome: str
    target: str
    reason: str
    passed_over: tuple[PassedOverDocument, ...]

    @classmethod
    def of(cls, made: Made) -> Self:
        """Say it."""
        return cls(
            when=_time(made.when),
            request_id=made.request_id,
            repository=made.repository,
            region=made.region,
            network=made.network,
            outcome=made.outcome,
            target=made.target,
            reason=made.reason,
            passed_over=tuple(map(_passed_over, made.passed_over)),
        )


def _passed_over(each: PassedOver) -> PassedOverDocument:
    return PassedOverDocument(target=each.target, reason=str(each.reason.value))


class DecisionsDocument(_Document):
    """The last decisions of one process, the newest first."""

    process: int
    decisions: tuple[DecisionDocument, ...]


class TargetDocument(_Document):
    """A target as one process sees it, and what the settings say of it."""

    name: str
    type: str
    store: str
    state: str
    named: bool
    since: AwareDatetime
    named_since: AwareDatetime | None
    held_until: AwareDatetime | None
    seen: str
    regions: tuple[str, ...]
    priority: int
    weight: float


class TargetsDocument(_Document):
    """The targets, in the order of the settings."""

    process: int
    store_answers: bool
    targets: tuple[TargetDocument, ...]

    @classmethod
    def of(
        cls, process: int, health: Health, settings: Iterable[TargetSettings], now: float
    ) -> Self:
        """Say it.

        Args:
            process: id of this one.
            health: what it thinks of its targets.
            settings: of these, in the same order.
            now: seconds since the epoch.
        """
        observed = {each.name: each for each in health.observed()}
        return cls(
            process=process,
            store_answers=not health.is_store_down,
            targets=tuple(
                _target(observed[target.name], target, place, now)
                for place, target in enumerate(settings, 1)
                if target.name in observed
            ),
        )


def _target(observed: Observed, target: TargetSettings, place: int, now: float) -> TargetDocument:
    return TargetDocument(
        name=target.name,
        type=target.type,
        store=target.store,
        state=observed.state.value,
        named=observed.is_named,
        since=_time(now - observed.lasted),
        named_since=_time(now - observed.turned) if observed.is_named else None,
        held_until=_time(now + observed.held) if observed.held else None,
        seen=observed.seen,
        regions=target.regions,
        priority=place if target.priority is None else target.priority,
        weight=target.weight,
    )


def _time(seconds: float) -> datetime:
    """Seconds since the epoch, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)
