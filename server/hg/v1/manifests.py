# Law of this file: a clone bundle is named to those who can download it now, and only while all
# that it holds is what the repository serves, and public.

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final
from urllib.parse import unquote

from indexer.catalog import CloneBundle
from redirects.acceptance import Acceptance, Client, Location
from redirects.audience import Audience
from redirects.decision import Decision, Inline, PassedOver, Reason, Redirect
from redirects.negotiation import locations
from repos.hg.offered import offer_of
from repos.hg.repository import HgSnapshot
from server.hg.describe import needs_sni
from server.runtime import Runtime
from wire.hg.v1.manifest import INLINE_SCHEME, Entry

# A client does not say which schemes it takes bundles from; Mercurial takes both.
BOTH: Final = Acceptance(frozenset({"http", "https"}))

# The first version that compares a bundle with its digest.
_DIGESTS: Final = (6, 9)

_MIB: Final = 1 << 20


def _nobody(bundle: CloneBundle, location: Location) -> None:
    del bundle, location


def usable(bundles: Sequence[CloneBundle], snapshot: HgSnapshot) -> tuple[CloneBundle, ...]:
    """Those of which all changesets are served, and public.

    Who applies a bundle asks for phases afterwards; a streamed store brings its own.
    """
    offer = offer_of(snapshot)
    return tuple(bundle for bundle in bundles if offer.holds(bundle.heads))


def entries(
    runtime: Runtime,
    bundles: Sequence[CloneBundle],
    client: Client,
    audience: Audience,
    *,
    repository: str,
    version: tuple[int, int] | None,
    inline: Collection[str],
    fingerprints: bool,
    acceptance: Acceptance = BOTH,
    named: Callable[[CloneBundle, Location], None] = _nobody,
) -> Iterator[Entry]:
    """The lines of a manifest, in the order of `hg.bundles`, and for each the nearest target first.

    Args:
        runtime: of the server.
        bundles: usable ones.
        client: who asks.
        audience: for whom the repository's content is.
        repository: served name.
        version: of the client; None if it does not say.
        inline: ids of those that this server can send in the protocol, to a client that takes
            them so, where no target suits it.
        fingerprints: it knows what a store's fingerprint is.
        acceptance: which locations the client accepts.
        named: told of each bundle that is named at any location, and of the nearest one.
    """
    reason = runtime.pipeline.refusal(acceptance, client, repository)
    shadow = runtime.pipeline.control.shadow
    for bundle in _in_order(bundles, runtime.settings.hg.bundles):
        if bundle.store_fingerprint is not None and not fingerprints:
            continue
        passed_over: list[PassedOver] = []
        found = () if reason else tuple(_locations(runtime, bundle, client, audience, passed_over))
        decision = _decision(found, reason or Reason.NO_TARGET, passed_over, shadow=shadow)
        runtime.decisions.made(repository, client, decision)
        if isinstance(decision, Redirect):
            named(bundle, decision.location)
            for location in found:
                yield _entry(runtime, bundle, location, client, version)
        elif bundle.id in inline:
            yield Entry(INLINE_SCHEME + bundle.id, tuple(_about(bundle, version)))


def _decision(
    found: Sequence[Location],
    otherwise: Reason,
    passed_over: Sequence[PassedOver],
    *,
    shadow: bool,
) -> Decision:
    """What is decided of a bundle that can be named at these locations, and not at others."""
    passed = tuple(passed_over)
    if not found:
        return Inline(otherwise, passed)
    if shadow:
        return Inline(Reason.SHADOW, passed, found[0])
    return Redirect(found[0], passed)


def _in_order(bundles: Sequence[CloneBundle], kinds: Sequence[str]) -> list[CloneBundle]:
    wanted = [bundle for bundle in bundles if bundle.kind in kinds]
    return sorted(wanted, key=lambda bundle: (kinds.index(bundle.kind), -bundle.created))


def _locations(
    runtime: Runtime,
    bundle: CloneBundle,
    client: Client,
    audience: Audience,
    passed_over: list[PassedOver],
) -> Iterator[Location]:
    return locations(
        BOTH,
        bundle.entity,
        runtime.selection,
        client,
        time.time(),
        readable=runtime.publisher.still(bundle.entity, bundle.readable),
        down=runtime.health.down(),
        audience=audience,
        passed_over=passed_over,
    )


def _entry(
    runtime: Runtime,
    bundle: CloneBundle,
    location: Location,
    client: Client,
    version: tuple[int, int] | None,
) -> Entry:
    target = next(each for each in runtime.targets if each.name == location.target)
    settings = runtime.settings.effective_targets()
    said = next(each for each in settings if each.name == location.target)
    attributes = list(_about(bundle, version))
    if needs_sni(target, client, said):
        attributes.append(("REQUIRESNI", "true"))
    return Entry(location.url, tuple(attributes))


def _about(bundle: CloneBundle, version: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    # It is catalogued as it stands in a manifest, where everything is quoted once.
    yield "BUNDLESPEC", unquote(bundle.spec)
    if bundle.required_ram is not None:
        yield "REQUIREDRAM", f"{-(-bundle.required_ram // _MIB)}MB"
    if version is not None and version >= _DIGESTS:
        yield "DIGEST", f"sha256:{bundle.entity.digest}"
    if bundle.store_fingerprint is not None:
        yield "STORE-FINGERPRINT", bundle.store_fingerprint
