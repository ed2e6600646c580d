# Law of this file: what a command answers is a sequence of CBOR items, the same for every client
# that asks the same of the same snapshot. Nothing of it is held: it is written as it is read.
#
# The items are those of the protocol's commands, without the status that precedes them. Keys of
# maps are written in their order by hand: there are as many maps as revisions.

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from repos.hg.errors import CommandError
from repos.hg.nodes import Revs
from repos.hg.pathfilter import EVERYTHING, PathFilter
from repos.hg.reading import Revision
from repos.hg.repository import HgSnapshot
from wire.hg.cbor import Value, bytes_header, encode, map_header

Write = Callable[[bytes], object]

# Pieces in which answers are written: large enough that a write costs nothing beside its content.
PIECE: Final = 64 << 10

_NODE: Final = encode(b"node") + bytes_header(20)
_PARENTS: Final = encode(b"parents") + b"\x82" + bytes_header(20)
_SECOND: Final = bytes_header(20)
_LINKNODE: Final = encode(b"linknode") + bytes_header(20)
_BASE: Final = encode(b"deltabasenode") + bytes_header(20)
_FOLLOWING: Final = encode(b"fieldsfollowing") + b"\x81\x82"
_REVISION: Final = encode(b"revision")
_DELTA: Final = encode(b"delta")
_BOOKMARKS: Final = encode(b"bookmarks")
_PHASE: Final = encode(b"phase")


@dataclass(slots=True)
class _Out:
    """Gathers small items into pieces."""

    write: Write
    _items: list[bytes] = field(default_factory=list)
    _size: int = 0

    def put(self, *items: bytes) -> None:
        for item in items:
            self._size += len(item)
        self._items += items
        if self._size >= PIECE:
            self.flush()

    def flush(self) -> None:
        if self._items:
            self.write(b"".join(self._items))
        self._items.clear()
        self._size = 0


def write_changesetdata(
    snapshot: HgSnapshot, revs: Revs, fields: frozenset[bytes], write: Write
) -> None:
    """Answer ``changesetdata``.

    Args:
        snapshot: what is served.
        revs: which changesets, see :meth:`repos.hg.index.HgIndex.resolve`.
        fields: of ``bookmarks``, ``parents``, ``phase``, ``revision``.
        write: takes the bytes, in pieces.
    """
    out = _Out(write)
    out.put(encode({b"totalitems": len(revs)}))
    marks: dict[bytes, list[bytes]] = {}
    if b"bookmarks" in fields:
        for name, node in sorted(snapshot.bookmarks.items()):
            marks.setdefault(node, []).append(name)
    index = snapshot.index
    parents, phase, text = (each in fields for each in (b"parents", b"phase", b"revision"))
    for each in index.changesets(revs):
        names = marks.pop(each.node, None)
        size = 1 + parents + phase + text + (names is not None)
        out.put(map_header(size))
        if names is not None:
            out.put(_BOOKMARKS, encode(names))
        if text:
            out.put(_FOLLOWING, _REVISION, encode(len(each.text)))
        out.put(_NODE, each.node)
        if parents:
            out.put(_PARENTS, each.p1, _SECOND, each.p2)
        if phase:
            out.put(_PHASE, encode(b"public" if snapshot.is_public(each.rev) else b"draft"))
        if text:
            out.put(bytes_header(len(each.text)), each.text)
    for node, names in sorted(marks.items()):
        out.put(encode({b"node": node, b"bookmarks": names}))
    out.flush()


def write_manifestdata(  # noqa: PLR0917 - the command's own arguments
    snapshot: HgSnapshot,
    nodes: Sequence[bytes],
    tree: bytes,
    fields: frozenset[bytes],
    haveparents: bool,
    write: Write,
) -> None:
    """Answer ``manifestdata``.

    Args:
        snapshot: what is served.
        nodes: which revisions of the manifest.
        tree: the directory whose manifest it is; only the root has one.
        fields: of ``parents``, ``revision``.
        haveparents: the client has the parents of each, or gets them here.
        write: takes the bytes, in pieces.

    Raises:
        CommandError: there is no such manifest, before anything is written.
    """
    if tree:
        raise CommandError(b"unknown tree: %s; the manifest is not split by directories", (tree,))
    wanted = b"revision" in fields
    selection = snapshot.index.manifests(nodes, haveparents=haveparents, with_data=wanted)
    out = _Out(write)
    out.put(encode({b"totalitems": selection.count}))
    _put_revisions(out, selection.revisions(), fields - {b"linknode"})
    out.flush()


def write_filedata(  # noqa: PLR0917 - the command's own arguments
    snapshot: HgSnapshot,
    path: bytes,
    nodes: Sequence[bytes],
    fields: frozenset[bytes],
    haveparents: bool,
    write: Write,
) -> None:
    """Answer ``filedata``.

    Args:
        snapshot: what is served.
        path: the file.
        nodes: which of its revisions.
        fields: of ``linknode``, ``parents``, ``revision``.
        haveparents: the client has the parents of each, or gets them here.
        write: takes the bytes, in pieces.

    Raises:
        CommandError: there is no such file or revision, before anything is written.
    """
    wanted = b"revision" in fields
    selection = snapshot.index.file(path, nodes, haveparents=haveparents, with_data=wanted)
    if selection is None:
        raise CommandError(b"unknown file: %s", (path,))
    out = _Out(write)
    out.put(encode({b"totalitems": selection.count}))
    _put_revisions(out, selection.revisions(), fields)
    out.flush()


def write_filesdata(  # noqa: PLR0917 - the command's own arguments
    snapshot: HgSnapshot,
    revs: Revs,
    fields: frozenset[bytes],
    haveparents: bool,
    pathfilter: PathFilter,
    write: Write,
) -> None:
    """Answer ``filesdata``.

    Args:
        snapshot: what is served.
        revs: which changesets' files.
        fields: of ``linknode``, ``parents``, ``revision``.
        haveparents: the client has the changesets' parents, and wants only what these introduced.
        pathfilter: which files.
        write: takes the bytes, in pieces.
    """
    # Stock clients do not ask for link nodes and use them: without, a streamed clone guesses them,
    # and wrongly so where two changesets have the same manifest.
    fields |= {b"linknode"}
    wanted = b"revision" in fields
    matches = _any_path if pathfilter == EVERYTHING else pathfilter.matches
    files = snapshot.index.files(revs, matches, haveparents=haveparents, with_data=wanted)
    out = _Out(write)
    out.put(encode({b"totalitems": files.items, b"totalpaths": files.paths}))
    for selection in files.selections():
        out.put(encode({b"path": selection.path, b"totalitems": selection.count}))
        _put_revisions(out, selection.revisions(), fields)
    out.flush()


def _any_path(_path: bytes) -> bool:
    return True


def _put_revisions(out: _Out, revisions: Iterable[Revision], fields: frozenset[bytes]) -> None:
    parents, linknode = b"parents" in fields, b"linknode" in fields
    plain = 1 + parents + linknode
    for each in revisions:
        data = each.data
        out.put(map_header(plain + (data is not None) + (each.base is not None)))
        if each.base is not None:
            out.put(_BASE, each.base)
        if data is not None:
            kind = _REVISION if each.base is None else _DELTA
            out.put(_FOLLOWING, kind, encode(len(data)))
        if linknode:
            out.put(_LINKNODE, each.linknode)
        out.put(_NODE, each.node)
        if parents:
            out.put(_PARENTS, each.p1, _SECOND, each.p2)
        if data is not None:
            out.put(bytes_header(len(data)), data)


# --- small answers ------------------------------------------------------------------------


def heads(snapshot: HgSnapshot, publiconly: bool) -> Value:
    """Answer ``heads``."""
    return list(snapshot.public_heads if publiconly else snapshot.heads)


def known(snapshot: HgSnapshot, nodes: Sequence[bytes]) -> Value:
    """Answer ``known``: a digit for each node."""
    return b"".join(b"1" if each else b"0" for each in snapshot.index.known(nodes))


def branchmap(snapshot: HgSnapshot) -> Value:
    """Answer ``branchmap``."""
    return {name: list(nodes) for name, nodes in snapshot.branches.items()}


def listkeys(snapshot: HgSnapshot, namespace: bytes) -> Value:
    """Answer ``listkeys``; a namespace that there is not is empty, as from stock hg.

    Others than these three are answered by :meth:`repos.hg.lookup.Lookups.listkeys`.
    """
    if namespace == b"bookmarks":
        return {name: node.hex().encode() for name, node in snapshot.bookmarks.items()}
    known = {b"phases": snapshot.phases, b"namespaces": snapshot.namespaces}
    return {key: value for key, value in known.get(namespace, {}).items()}  # noqa: C416 - its type
