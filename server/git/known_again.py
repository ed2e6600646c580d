# Law of this file: by what it has and says of itself a client is known again that runs a fetch once
# more. What it wants is no part of that: it is what the refs say, and others push meanwhile.

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cache.keys import record_key
from wire.git.v2 import Fetch, encode_fetch

_DIALECT: Final = "git-v2 again"


def known_by(fetch: Fetch, identity: str) -> str:
    """What is the same of a fetch and of its second try, whatever was pushed in between.

    That is the repository, what the client has (without what the repository has not), its shallow
    boundary, the depth, the filter, and refs that it wants by their names. So two clones of one
    repository count as the same, also of different branches. Where machines build many commits
    that would say too much; see :func:`_is_pinned`.

    Args:
        fetch: as it was asked.
        identity: what names the repository in keys.
    """
    wants = fetch.wants if _is_pinned(fetch) else ()
    # Tags that are not there are not asked for, and they may be there next time.
    asked = replace(fetch, wants=wants, include_tag=False)
    return record_key(_DIALECT, identity, encode_fetch(asked))


def _is_pinned(fetch: Fetch) -> bool:
    """Whether it wants a commit by its id, which no push changes: as CI does that builds it.

    That is one commit, cut off at a depth, and no tags with it (``fetch --no-tags --depth=1 origin
    <id>``). A clone with a depth asks for tags too, whether it is told not to keep them or not.
    """
    return (
        len(fetch.wants) == 1
        and not fetch.want_refs
        and fetch.deepen is not None
        and not fetch.include_tag
    )
