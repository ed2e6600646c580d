# Law of this file: by what it has and says of itself a client is known again that runs a fetch once
# more. What it wants is no part of that: it is what the refs say, and others push meanwhile.

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from cache.keys import record_key
from wire.git.v2 import Fetch, encode_fetch

_DIALECT: Final = "git-v2 again"


def known_by(fetch: Fetch, identity: str, tips: Collection[str]) -> str:
    """What is the same of a fetch and of its second try, whatever was pushed in between.

    That is the repository, what the client has (without what the repository has not), its shallow
    boundary, the depth, the filter, and refs that it wants by their names. So two clones of one
    repository count as the same, also of different branches. Where objects are wanted by their ids
    that would say too much; see :func:`_is_pinned`.

    Args:
        fetch: as it was asked.
        identity: what names the repository in keys.
        tips: what the refs name.
    """
    wants = fetch.wants if _is_pinned(fetch, tips) else ()
    # Tags that are not there are not asked for, and they may be there next time.
    asked = replace(fetch, wants=wants, include_tag=False)
    return record_key(_DIALECT, identity, encode_fetch(asked))


def _is_pinned(fetch: Fetch, tips: Collection[str]) -> bool:
    """Whether it wants objects by their ids, which no push changes.

    So do partial clones for what they left out: a clone checks it out at once, on a connection of
    its own. No ref names that. And so does CI for the commit that it builds, which a ref may name:
    it is one, cut off at a depth, and no tags with it (``fetch --no-tags --depth=1 origin <id>``).
    A clone with a depth asks for tags too, whether it is told not to keep them or not.
    """
    if fetch.want_refs:
        return False
    builds = len(fetch.wants) == 1 and fetch.deepen is not None and not fetch.include_tag
    return builds or not any(oid in tips for oid in fetch.wants)
