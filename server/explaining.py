# Law of this file: a decision is explained by making it, with the engine that servers use. Where
# what it is made from comes from is somebody else's business.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from indexer.catalog import Bundle, CloneBundle
from redirects.acceptance import Acceptance, Client
from redirects.audience import Audience
from redirects.decision import Decision
from redirects.locality import Whereabouts, region_word
from redirects.negotiation import Verdict, explain
from redirects.networks import read_address
from redirects.selection import Selection
from redirects.sessions import SessionDecision, Vcs
from redirects.targets import Target
from server.settings import Settings
from server.wiring import build_control
from stores.entity import Entity, is_digest

_SCHEMES: Final = frozenset({"http", "https"})


class NothingToExplain(Exception):  # noqa: N818 - what was found
    """There is no such content; the message says what to do."""


class BadQuestion(ValueError):  # noqa: N818 - what it is
    """Something that was asked for is none; the message says what to write.

    Attributes:
        parameter: which: ``from``, ``accepts``, ``region`` or ``entity``.
    """

    def __init__(self, parameter: str, message: str) -> None:
        self.parameter = parameter
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which decision.

    Attributes:
        repository: served name.
        address: from where the client asks.
        word: the region that it says it is in; None if it says none.
        protocols: URL schemes that it accepts.
        digest: of the content, SHA-256 in hex; None for what a clone of the repository begins with.
    """

    repository: str
    address: str
    word: str | None
    protocols: frozenset[str]
    digest: str | None = None

    @classmethod
    def read(
        cls, repository: str, address: str, accepts: str, region: str | None, entity: str | None
    ) -> Asked:
        """Read what a person wrote.

        Raises:
            BadQuestion: something is none.
        """
        if read_address(address) is None:
            raise BadQuestion("from", f"{address}: no IP address, such as 192.0.2.7 or 2001:db8::7")
        protocols = frozenset(word.strip() for word in accepts.split(",") if word.strip())
        unknown = sorted(protocols - _SCHEMES)
        if unknown:
            raise BadQuestion("accepts", f"{accepts}: {unknown[0]!r} is neither http nor https")
        word = None if region is None else region_word(region)
        if region is not None and word is None:
            raise BadQuestion("region", f"{region}: no name of a region, such as eu-west-1")
        if entity is not None and not is_digest(entity):
            raise BadQuestion("entity", f"{entity}: no SHA-256 in 64 lower-case hex digits")
        return cls(repository.strip("/"), address, word, protocols, entity)


@dataclass(frozen=True, slots=True)
class Content:
    """What is asked for.

    Attributes:
        entity: the content.
        title: what it is, for people.
        readable: fingerprints of the targets through which it was read back.
        min_size: bytes below which such content goes inline.
    """

    entity: Entity
    title: str
    readable: frozenset[str]
    min_size: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a target that is not named now, beside that.

    Attributes:
        what: was seen of it last.
        since: seconds since the epoch at which it ceased to be named; None if that is not known.
    """

    what: str
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """All that a decision is made from, beside what is asked.

    Attributes:
        settings: of the server.
        selection: the targets.
        where: the client is, and how that is known.
        down: fingerprints of the targets that are not to be named.
        seen: by name of such a target.
        reads: by the name of each target, that of the store that it reads.
        audience: for whom the repository's content is.
        now: seconds since the epoch.
        notes: what the reader must know of all this.
    """

    settings: Settings
    selection: Selection[Target]
    where: Whereabouts
    down: AbstractSet[str]
    seen: Mapping[str, Seen]
    reads: Mapping[str, str]
    audience: Audience
    now: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainedSession:
    """What would become of the first request for a repository, if it carries no credentials.

    Attributes:
        vcs: of what kind the repository is.
        decision: whether the whole session moves to a mirror.
        verdicts: on each mirror, in the order in which they are tried.
        seen: by name, what was seen last of a mirror that is of no use.
    """

    vcs: Vcs
    decision: SessionDecision
    verdicts: tuple[Verdict, ...]
    seen: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and all that it was made from.

    Attributes:
        asked: which decision.
        known: what it was made from.
        content: what is asked for.
        decision: what the client gets.
        verdicts: on each target, in the order in which they are tried.
        session: what would become of it; None where there is no mirror of whole sessions.
    """

    asked: Asked
    known: Known
    content: Content
    decision: Decision
    verdicts: tuple[Verdict, ...]
    session: ExplainedSession | None = None


def client_there(settings: Settings, where: Whereabouts) -> Client:
    """A client at a place, as decisions know it."""
    base_url = settings.public_url or f"http://{settings.listen}"
    return Client(base_url, where.region, where.network, where.address)


def explained(
    asked: Asked, content: Content, known: Known, session: ExplainedSession | None = None
) -> Explanation:
    """Make the decision; ``session`` is what becomes of whole sessions."""
    settings = known.settings
    client = client_there(settings, known.where)
    control = build_control(settings.redirect)
    decision, verdicts = explain(
        Acceptance(asked.protocols),
        content.entity,
        known.selection,
        client,
        known.now,
        readable=content.readable,
        down=known.down,
        min_size=content.min_size,
        enabled=settings.redirect.enabled,
        held_back=control.held_back(client, asked.repository),
        shadow=control.shadow,
        audience=known.audience,
    )
    return Explanation(asked, known, content, decision, verdicts, session)


def chosen(
    asked: Asked, bundles: Iterable[Bundle], clones: Iterable[CloneBundle], least: int
) -> Content | None:
    """What is asked for, if it is published; None if it is not.

    Args:
        asked: names content, or wants what a clone begins with.
        bundles: published of the repository.
        clones: likewise.
        least: bytes below which packs go inline.
    """
    for content in _published(bundles, clones, least):
        if asked.digest in {None, content.entity.digest}:
            return content
    return None


def nothing_published(repository: str) -> NothingToExplain:
    """Of a repository of which no content can be chosen."""
    return NothingToExplain(
        f"{repository}: nothing is published of it; run `offramp index`, which a server sees within"
        " git.catalog_refresh, or name content by --entity"
    )


def _published(
    bundles: Iterable[Bundle], clones: Iterable[CloneBundle], least: int
) -> Iterator[Content]:
    """What a catalog names, first what a clone begins with."""
    for bundle in sorted(bundles, key=lambda b: (b.filter is not None, -b.created)):
        yield Content(bundle.pack.entity, f"pack of {bundle.id}", frozenset(bundle.readable), least)
        if bundle.bundle_file is not None:
            readable = frozenset(bundle.bundle_readable)
            yield Content(bundle.bundle_file, f"bundle file of {bundle.id}", readable, 0)
    for clone in clones:
        yield Content(clone.entity, f"clone bundle {clone.id}", frozenset(clone.readable), 0)
