# Law of this file: a list of bundles names only what this client can download now; a list that is
# empty is a list, and the clone goes on without.

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from indexer.catalog import Bundle
from redirects.acceptance import Acceptance, Client
from redirects.audience import PUBLIC, Audience
from redirects.decision import Redirect
from redirects.negotiation import negotiate
from server.runtime import Runtime
from wire.git.bundle_list import BundleEntry, BundleList

Shown = Callable[[Bundle], Awaitable[bool]]

# A client does not say which schemes it takes bundles from; stock git takes both.
_BOTH = Acceptance(frozenset({"http", "https"}))


async def bundle_list(
    runtime: Runtime,
    repository: str,
    client: Client,
    *,
    bundle_filter: str | None,
    audience: Audience = PUBLIC,
    shown: Shown | None = None,
) -> BundleList:
    """The bundles of a repository with one filter, none for full ones.

    Full and blobless bundles never share a list: git reads no filter in it. ``shown`` says of a
    bundle whether this caller may see all of it; None, every caller may.
    """
    control = runtime.pipeline.control
    # Looking what is shown may take long; where each is to be had, is said when that is done.
    listed = [
        (bundle, bundle.bundle_file)
        for bundle in await runtime.catalogs.bundles(repository)
        if bundle.filter == bundle_filter
        and bundle.bundle_file is not None
        and (shown is None or await shown(bundle))
    ]
    entries = []
    for bundle, file in listed:
        decision = negotiate(
            _BOTH,
            file,
            runtime.selection,
            client,
            time.time(),
            readable=runtime.publisher.still(file, bundle.bundle_readable),
            down=runtime.health.down(),
            min_size=0,
            enabled=runtime.settings.redirect.enabled,
            held_back=control.held_back(client, repository),
            shadow=control.shadow,
            audience=audience,
        )
        runtime.decisions.made(repository, client, decision)
        if isinstance(decision, Redirect):
            entries.append(BundleEntry(bundle.id, decision.location.url, bundle.creation_token))
    return BundleList(tuple(entries))
