# Law of this file: what goes beside changesets (bookmarks, phases, keys) is told as stock hg tells
# it to a client that asks for nothing else, or not at all: what we cannot say exactly, hg says.

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from repos.hg.nodes import Dag
from repos.hg.repository import HgSnapshot
from repos.hg.v1_answers import REMEMBERED, listkeys
from wire.hg.bundle2 import Part
from wire.hg.bundle2_writer import (
    DRAFT,
    PUBLIC,
    bookmarks_payload,
    bundle,
    phase_heads_payload,
)

# What clients ask for that are too old for the parts with bookmarks and phases. Other namespaces
# they ask for by `listkeys`.
_NAMESPACES: Final = frozenset((b"bookmarks", b"phases"))


@dataclass(frozen=True, slots=True)
class SideRequest:
    """A ``getbundle`` without changesets (``cg=0``), and without a stream.

    Attributes:
        bookmarks: the part with all bookmarks is wanted.
        phases: the part with the phases of ``heads`` is wanted.
        listkeys: namespaces that are wanted, a part for each.
        heads: nodes; None if they are not given, which means all.
        common: nodes; nothing of these answers depends on them.
        capabilities: what the client's bundle2 blob says: name -> values.
        obsmarkers: obsolescence markers are wanted.
    """

    bookmarks: bool
    phases: bool
    listkeys: tuple[bytes, ...]
    heads: tuple[bytes, ...] | None
    common: tuple[bytes, ...] | None
    capabilities: Mapping[str, tuple[str, ...]]
    obsmarkers: bool = False


def side_bundle(snapshot: HgSnapshot, asked: SideRequest) -> bytes | None:
    """Answer a ``getbundle`` without changesets: a whole bundle2, uncompressed.

    hg makes its parts in this order: bookmarks (left out if there are none), keys in the order in
    which they were asked for, phases (sent even if empty). All of them are mandatory.

    Returns:
        None if the answer is hg's: it has what a snapshot has not (markers, other namespaces), or
        is an error (a head that is not served, a client that does not know the parts it wants).
    """
    if not _is_ours(asked):
        return None
    nodes = snapshot.heads if asked.heads is None else asked.heads
    if asked.phases and not all(snapshot.index.known(nodes)):
        return None
    heads = hashlib.sha256(b"".join(nodes)).digest() if asked.phases else b""
    question = ("side bundle", asked.bookmarks, asked.listkeys, asked.phases, heads)
    return REMEMBERED.answer(snapshot, question, lambda: _encode(snapshot, asked, nodes))


def _is_ours(asked: SideRequest) -> bool:
    if asked.obsmarkers or not _NAMESPACES.issuperset(asked.listkeys):
        return False
    if asked.bookmarks and "bookmarks" not in asked.capabilities:
        return False
    return not asked.phases or "heads" in asked.capabilities.get("phases", ())


def _encode(snapshot: HgSnapshot, asked: SideRequest, heads: tuple[bytes, ...]) -> bytes:
    parts = []
    if asked.bookmarks and snapshot.bookmarks:
        parts.append((Part(b"bookmarks", True, {}), [bookmarks_payload(snapshot.bookmarks)]))
    for namespace in dict.fromkeys(asked.listkeys):
        keys = listkeys(snapshot, namespace) or b""
        parts.append((Part(b"listkeys", True, {b"namespace": namespace}), [keys]))
    if asked.phases:
        parts.append((Part(b"phase-heads", True, {}), [_phase_heads(snapshot, heads)]))
    return b"".join(bundle(parts))


def _phase_heads(snapshot: HgSnapshot, heads: tuple[bytes, ...]) -> bytes:
    if snapshot.publishing:
        # hg gives back what it was asked for, without a look at it: twice if it was there twice.
        return phase_heads_payload({PUBLIC: heads})
    index = snapshot.index
    revs = {rev for rev in map(index.rev, heads) if rev is not None}
    public, draft = phase_heads(index.dag, snapshot.is_public, revs)
    return phase_heads_payload(
        {PUBLIC: map(index.dag.node, public), DRAFT: map(index.dag.node, draft)}
    )


def phase_heads(
    dag: Dag, is_public: Callable[[int], bool], heads: Collection[int]
) -> tuple[set[int], set[int]]:
    """Which changesets tell the phases of ``heads`` and of all their ancestors.

    Args:
        dag: the graph.
        is_public: of a changeset; the parents of a public one are.
        heads: numbers; -1 stands for the null node, which is public.

    Returns:
        Those of ``heads`` that are public and, for the sake of those that are not, the newest
        public ancestors of these that the former do not have among theirs; and those of ``heads``
        that are drafts.
    """
    public = {rev for rev in heads if rev < 0 or is_public(rev)}
    draft = set(heads) - public
    return public | _uncovered(dag, _public_parents(dag, is_public, draft), public), draft


def _public_parents(dag: Dag, is_public: Callable[[int], bool], draft: set[int]) -> set[int]:
    """The public parents of ``draft`` and of their ancestors: as many steps as there are drafts."""
    found: set[int] = set()
    seen = set(draft)
    left = list(draft)
    while left:
        rev = left.pop()
        for parent in (dag.p1[rev], dag.p2[rev]):
            if parent < 0 or parent in seen:
                continue
            if is_public(parent):
                found.add(parent)
            else:
                seen.add(parent)
                left.append(parent)
    return found


def _uncovered(dag: Dag, candidates: set[int], others: set[int]) -> set[int]:
    """The candidates that are neither one of ``others`` nor an ancestor of those or of another."""
    if not candidates:
        return set()
    # The last byte stands for the parent that there is not: index -1.
    flags = bytearray(len(dag) + 1)
    for rev in others:
        flags[rev] = 1
    for rev in candidates:
        flags[dag.p1[rev]] = flags[dag.p2[rev]] = 1
    # Ancestors have smaller numbers: below the oldest candidate there is nothing to find.
    for rev in range(max(candidates | others), min(candidates), -1):
        if flags[rev]:
            flags[dag.p1[rev]] = flags[dag.p2[rev]] = 1
    return {rev for rev in candidates if not flags[rev]}
