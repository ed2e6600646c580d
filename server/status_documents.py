# Law of this file: what the status API says is a value with a shape, the same for a server and for
# `offramp explain`. No URL in it is a key: what stands behind its question mark is left out.

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict

from redirects.decision import Inline, PassedOver, Redirect
from redirects.negotiation import Verdict
from redirects.sessions import SessionRedirect, Stay
from server.decisions import Made
from server.explaining import ExplainedSession, Explanation
from server.health import Health, Observed
from server.settings_stores import MAIN
from server.settings_targets import TargetSettings
from server.status.places import ShownMirror


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


class MirrorVerdictDocument(_Document):
    """What became of one mirror of whole sessions; ``seen`` is told of one that is of no use."""

    name: str
    verdict: str
    text: str
    since: AwareDatetime | None = None
    seen: str | None = None


class SessionDocument(_Document):
    """What becomes of a first request without credentials: a mirror, or a word for why it stays."""

    vcs: str
    mirrors: tuple[MirrorVerdictDocument, ...]
    mirror: str | None
    url: str | None
    stays: str | None
    stays_text: str | None

    @classmethod
    def of(cls, explained: ExplainedSession) -> Self:
        """Say it."""
        decision = explained.decision
        moves = decision.location if isinstance(decision, SessionRedirect) else None
        reason = decision.reason if isinstance(decision, Stay) else None
        chosen = "chosen" if moves is not None else "would_be_chosen"
        return cls(
            vcs=explained.vcs,
            mirrors=tuple(
                MirrorVerdictDocument(
                    name=each.target,
                    verdict=chosen if each.reason is None else str(each.reason.value),
                    text="" if each.reason is None else _of_mirror(each.reason.text),
                    seen=None if each.reason is None else explained.seen.get(each.target),
                )
                for each in explained.verdicts
            ),
            mirror=None if moves is None else moves.target,
            url=None if moves is None else moves.url,
            stays=None if reason is None else str(reason.value),
            stays_text=None if reason is None else reason.text,
        )


def _of_mirror(text: str) -> str:
    """What is said of a target, where a mirror is passed over for the same reason."""
    return text.replace("this target", "this mirror").replace("(targets.", "(session_mirrors.")


class ExplanationDocument(_Document):
    """A decision, step by step; it has a redirect, or a word for why the content goes inline.

    ``session`` is null where there are no mirrors of whole sessions.
    """

    client: ClientDocument
    content: ContentDocument
    targets: tuple[VerdictDocument, ...]
    redirect: RedirectDocument | None
    inline: str | None
    inline_text: str | None
    session: SessionDocument | None = None
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
            session=(
                None if explanation.session is None else SessionDocument.of(explanation.session)
            ),
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
    about: str
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
            about=made.about,
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


class ComparedDocument(_Document):
    """What is known of a repository at a mirror; ``fault`` is a word for why it is of no use."""

    repository: str
    vcs: str
    fault: str | None
    told: str
    compared: AwareDatetime | None


class MirrorDocument(_Document):
    """A mirror of whole sessions as one process sees it, and what the settings say of it."""

    name: str
    url: str
    state: str
    named: bool
    since: AwareDatetime
    seen: str
    looked: AwareDatetime | None
    moved: int
    regions: tuple[str, ...]
    priority: int
    weight: float
    repositories: tuple[ComparedDocument, ...]

    @classmethod
    def of(cls, mirror: ShownMirror, now: float) -> Self:
        """Say it; ``now`` is in seconds since the epoch."""
        return cls(
            name=mirror.name,
            url=mirror.url,
            state=mirror.state.value,
            named=mirror.is_named,
            since=_time(now - mirror.lasted),
            seen=mirror.seen,
            looked=None if mirror.looked is None else _time(now - mirror.looked),
            moved=mirror.moved,
            regions=mirror.regions,
            priority=mirror.priority,
            weight=mirror.weight,
            repositories=tuple(
                ComparedDocument(
                    repository=each.repository,
                    vcs=each.vcs,
                    fault=None if each.fault is None else str(each.fault.value),
                    told=each.told,
                    compared=None if each.ago is None else _time(now - each.ago),
                )
                for each in mirror.repositories
            ),
        )


class MirrorsDocument(_Document):
    """The mirrors of whole sessions, in the order of the settings."""

    process: int
    mirrors: tuple[MirrorDocument, ...]


def _time(seconds: float) -> datetime:
    """Seconds since the epoch, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)
