# Law of this file: what a bundle for everybody may hold is what clients are told is public. What is
# not so in the repository as it is after the bundle was made refuses the bundle.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repos.hg.bundle_reading import BadBundle
from repos.hg.nodes import NODE
from repos.hg.repository import HgSnapshot


class NotOffered(Exception):  # noqa: N818 - what happened
    """A bundle holds what the repository does not offer; it is not to be published."""


def offered(snapshot: HgSnapshot) -> bytes:
    """For each changeset of the index, 1 if a bundle may hold it: clients are told it is public."""
    served = snapshot.index.served
    if snapshot.publishing or not snapshot.drafts:
        return served
    drafts = snapshot.drafts
    return bytes(each and not draft for each, draft in zip(served, drafts, strict=True))


def offered_heads(nodes: bytes, snapshot: HgSnapshot) -> tuple[str, ...]:
    """The heads of the changesets ``nodes``, in hex and sorted.

    Args:
        nodes: 20 bytes each.
        snapshot: of after they were read.

    Raises:
        NotOffered: one is not offered.
        BadBundle: the ancestors of one are not among them.
    """
    dag, offer = snapshot.index.dag, offered(snapshot)
    flags = bytearray(len(dag))
    for at in range(0, len(nodes), NODE):
        node = nodes[at : at + NODE]
        rev = dag.rev(node)
        if rev is None or rev < 0 or not offer[rev]:
            raise NotOffered(
                f"changeset {node.hex()} is in the bundle and is not offered by the repository,"
                " which changes while it is read; the next run will try again"
            )
        flags[rev] = 1
    heads = dag.heads(flags)
    if dag.ancestors(heads) != flags:
        raise BadBundle("hg gave changesets without their ancestors")
    return tuple(sorted(dag.node(rev).hex() for rev in heads))


@dataclass(frozen=True, slots=True)
class Offer:
    """What a repository offers to everybody at one moment.

    Attributes:
        changesets: how many.
        holds: whether all these nodes, in hex, are among them.
        streams: the store has nothing else, and hg would make a stream bundle of it.
    """

    changesets: int
    holds: Callable[[Sequence[str]], bool]
    streams: bool


def offer_of(snapshot: HgSnapshot) -> Offer:
    """What a repository offers, by its index."""
    flags, dag = offered(snapshot), snapshot.index.dag

    def holds(nodes: Sequence[str]) -> bool:
        revs = [dag.rev(bytes.fromhex(node)) for node in nodes]
        return all(rev is not None and rev >= 0 and flags[rev] for rev in revs)

    return Offer(sum(flags), holds, snapshot.stream_allowed and not has_markers(snapshot))


def has_markers(snapshot: HgSnapshot) -> bool:
    """There are markers of what is obsolete: hg gives no stream without them, and we none with."""
    try:
        return (snapshot.hg_dir / "store" / "obsstore").stat().st_size > 0
    except OSError:
        return False
