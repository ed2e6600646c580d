# Law of this file: what a client is told that it can ask of a repository, and where it may be sent;
# no target is advertised that could not be named for this repository.

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from redirects.acceptance import Client
from redirects.audience import Audience
from redirects.selection import Selection
from redirects.targets import Target
from repos.hg.repository import HgSnapshot
from server.runtime import Runtime
from server.settings_targets import TargetSettings
from wire.hg.commands import COMMANDS
from wire.hg.encodings import PREFERENCE
from wire.hg.handshake import HASHES, AdvertisedTarget, Descriptor

_READS: Final = frozenset(spec.name for spec in COMMANDS.values() if spec.permission == "pull")
_RAW: Final = b"rawstorefiledata"

# Stores that every client of this protocol can read: it looks at no requirement before it takes the
# files for its own. What only concerns names of files, or the server's own caches, is no matter.
_READABLE: Final = frozenset(
    (
        b"bookmarksinstore",
        b"dirstate-v2",
        b"dotencode",
        b"fncache",
        b"generaldelta",
        b"persistent-nodemap",
        b"revlog-compression-zstd",
        b"revlogv1",
        b"share-safe",
        b"sparserevlog",
        b"store",
    )
)

# The client's own list of requirements that it can read is compared with this one; what only
# concerns the working copy of our side is none of its business.
_FORMATS: Final = frozenset(
    (
        b"generaldelta",
        b"revlogv1",
        b"sparserevlog",
        b"revlog-compression-zstd",
        b"persistent-nodemap",
    )
)


def descriptor(
    runtime: Runtime, snapshot: HgSnapshot, client: Client, audience: Audience
) -> Descriptor:
    """What the API can do for one repository and one client."""
    offers = offered(runtime, snapshot)
    return Descriptor(
        commands=tuple(spec for spec in COMMANDS.values() if spec.name in offers),
        raw_formats=tuple(sorted(snapshot.requirements & _FORMATS)),
        targets=targets(runtime, client, audience),
        hashes=HASHES,
        encodings=tuple(encoding.encode() for encoding in PREFERENCE),
    )


def offered(runtime: Runtime, snapshot: HgSnapshot) -> frozenset[bytes]:
    """Names of the commands that are answered for one repository."""
    streams = (
        runtime.settings.hg.stream_clones
        and snapshot.stream_allowed
        and snapshot.requirements <= _READABLE
    )
    return _READS if streams else _READS - {_RAW}


def targets(
    runtime: Runtime, client: Client, audience: Audience
) -> tuple[AdvertisedTarget, ...] | None:
    """The targets that may be named to this client; None where redirects are switched off.

    Clients take them in this order, the nearest first.
    """
    if not runtime.settings.redirect.enabled:
        return None
    said = {target.name: target for target in runtime.settings.effective_targets()}
    return tuple(
        _advertised(target, client, said[target.name])
        for target in _may_be_named(runtime.selection, client)
        if not (audience.private and not target.signed)
        and not (audience.targets and target.name not in audience.targets)
    )


def _may_be_named(selection: Selection[Target], client: Client) -> Iterator[Target]:
    """In order; a client keeps to one order for all content, so it is of no entity."""
    for candidate in selection.order(client, digest=""):
        if candidate.bar is None:
            yield candidate.target


def _advertised(target: Target, client: Client, said: TargetSettings) -> AdvertisedTarget:
    protocol, prefix = target.protocol(client), target.prefix(client)
    if protocol != "https":
        return AdvertisedTarget(target.name, protocol, (prefix,))
    return AdvertisedTarget(
        target.name,
        protocol,
        (prefix,),
        sni_required=needs_sni(target, client, said),
        tls_versions=said.tls_versions,
    )


def needs_sni(target: Target, client: Client, said: TargetSettings) -> bool:
    """Whether a client must send the name of the target's host in the TLS handshake."""
    if target.protocol(client) != "https":
        return False
    return said.sni_required and _has_name(urlsplit(target.prefix(client)).hostname or "")


def _has_name(host: str) -> bool:
    """Whether a host is named; an address is not sent in the TLS handshake."""
    return ":" not in host and not host.replace(".", "").isdigit()
