# Law of this file: whatever is asked, the answer is made of what is served. A changeset that was
# stripped, hidden or made secret may be in the index, and is in no answer; nor is what only it had.

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from repos.hg.build import find
from repos.hg.chains import Chains, Recent, check
from repos.hg.database import MANIFEST, IndexBroken
from repos.hg.errors import UnknownNode
from repos.hg.generation import Generation
from repos.hg.nodes import Ambiguous, Dag, Revs, revs_of
from repos.hg.reading import (
    BARE_COLUMNS,
    COLUMNS,
    FileSelections,
    Revision,
    Selection,
    by_path,
    data_of,
    introduced,
    log_of,
    rows_of,
)
from repos.hg.revisions import DagRange, Explicit, ExplicitDepth, Revisions
from wire.hg.texts import NULL, manifest_node

# What one answer keeps of texts that it made.
_ANSWER_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Changeset:
    """One changeset.

    Attributes:
        rev: its number in this index.
        node: what names it.
        p1: its first parent.
        p2: its second parent.
        text: its full text.
    """

    rev: int
    node: bytes
    p1: bytes
    p2: bytes
    text: bytes


@dataclass(frozen=True, slots=True)
class HgIndex:
    """The index of a repository as it is served at one moment. Its methods block.

    It can be used in several threads at once.

    Attributes:
        generation: where it is read.
        dag: the changesets in it.
        served: for each changeset, 1 if it is served.
        revs: those that are.
    """

    generation: Generation
    dag: Dag
    served: bytes = field(repr=False)
    revs: Revs = field(repr=False)

    @classmethod
    def of(cls, generation: Generation, dag: Dag, heads: Iterable[int]) -> HgIndex:
        """The index that serves the ancestors of ``heads``, and nothing else."""
        flags = dag.ancestors(head for head in heads if head >= 0)
        return cls(generation, dag, bytes(flags), revs_of(flags))

    @property
    def count(self) -> int:
        """How many changesets are served."""
        return len(self.revs)

    # --- changesets ---------------------------------------------------------------------

    def rev(self, node: bytes) -> int | None:
        """The number of a served changeset; -1 for the null node; else None."""
        rev = self.dag.rev(node)
        return None if rev is None or (rev >= 0 and not self.served[rev]) else rev

    def known(self, nodes: Iterable[bytes]) -> list[bool]:
        """For each node, whether it is a served changeset; the null node always is."""
        return [self.rev(node) is not None for node in nodes]

    def lookup_prefix(self, prefix: bytes) -> bytes | None:
        """The served changeset whose node in hex begins with ``prefix``, if there is one.

        Raises:
            Ambiguous: there are several.
        """
        digits = prefix.lower()
        if not digits or len(digits) > 40 or digits.strip(b"0123456789abcdef"):
            return None
        found = [rev for rev in self.dag.beginning_with(digits) if self.served[rev]]
        if len(found) > 1:
            raise Ambiguous(prefix)
        return self.dag.node(found[0]) if found else None

    def resolve(self, specs: Sequence[Revisions]) -> Revs:
        """The served changesets that ``specs`` name together.

        Raises:
            UnknownNode: one that must be served is not.
        """
        parts = [self._resolve(spec) for spec in specs]
        if len(parts) == 1:
            return parts[0]
        return Revs(array("i", sorted({rev for part in parts for rev in part})))

    def _resolve(self, spec: Revisions) -> Revs:
        if isinstance(spec, Explicit):
            return Revs(array("i", sorted(set(self._must(spec.nodes)) - {-1})))
        if isinstance(spec, ExplicitDepth):
            found = self.dag.generations(self._must(spec.nodes), spec.depth)
            return Revs(array("i", sorted(found)))
        assert isinstance(spec, DagRange)  # noqa: S101 - there are three
        heads = list(self._must(spec.heads))
        roots = [rev for rev in map(self.rev, spec.roots) if rev is not None]
        missing = self.dag.missing(roots, heads)
        missing.reverse()
        return Revs(missing)

    def _must(self, nodes: Iterable[bytes]) -> Iterator[int]:
        for node in nodes:
            rev = self.rev(node)
            if rev is None:
                raise UnknownNode(node)
            yield rev

    def changesets(self, revs: Revs) -> Iterator[Changeset]:
        """The changesets of these numbers, parents first."""
        with self.generation.reading() as db:
            yield from self._changesets(db, Chains(db), revs)

    def _changesets(
        self, db: sqlite3.Connection, chains: Chains, revs: Revs
    ) -> Iterator[Changeset]:
        for first, last in revs.runs():
            rows = db.execute(
                "SELECT rev, node, p1, p2, kind, text FROM changeset"
                " WHERE rev BETWEEN ? AND ? ORDER BY rev",
                (first, last),
            )
            for rev, node, p1, p2, kind, packed in rows:
                text = chains.packing.unpack(kind, packed)
                parents = self.dag.node(p1), self.dag.node(p2)
                check(rev, text, node, *parents)
                yield Changeset(rev, node, *parents, text)

    # --- logs ---------------------------------------------------------------------------

    def manifests(
        self, nodes: Iterable[bytes], *, haveparents: bool = False, with_data: bool = True
    ) -> Selection:
        """Revisions of the manifest, by node.

        Args:
            nodes: which.
            haveparents: who asks has the parents of each, or gets them here.
            with_data: read texts and deltas, and not only nodes.

        Raises:
            UnknownNode: one is not the manifest of a served changeset.
        """
        with self.generation.reading() as db:
            links = self._find_all(db, MANIFEST, nodes, b"unknown node: %s")
        return self._selection(b"", links, haveparents, with_data)

    def file(
        self,
        path: bytes,
        nodes: Iterable[bytes],
        *,
        haveparents: bool = False,
        with_data: bool = True,
    ) -> Selection | None:
        """Revisions of one file, by node; None if there is no such file.

        Args:
            path: where it is, from the root.
            nodes: which; and the rest as for :meth:`manifests`.
            haveparents: see there.
            with_data: see there.

        Raises:
            UnknownNode: one is not of a served changeset.
        """
        with self.generation.reading() as db:
            row = db.execute("SELECT id FROM log WHERE path = ? AND id > 0", (path,)).fetchone()
            if row is None or not self._has_served(db, row[0]):
                return None
            links = self._find_all(db, row[0], nodes, b"unknown file node: %s")
        return self._selection(path, links, haveparents, with_data)

    def files(
        self,
        revs: Revs,
        matches: Callable[[bytes], bool],
        *,
        haveparents: bool = False,
        with_data: bool = True,
    ) -> FileSelections:
        """Revisions of files, by changeset.

        Args:
            revs: with ``haveparents``, what these introduced; else everything in their manifests.
            matches: which files are wanted.
            haveparents: who asks has the parents of the changesets.
            with_data: read texts and deltas, and not only nodes.
        """
        with self.generation.reading() as db:
            if haveparents:
                ids = introduced(db, revs)
                links: dict[int, int] | None = None
            else:
                links = self._contained(db, revs, matches)
                ids = array("q", sorted(links))
            groups = [group for group in by_path(db, ids) if matches(group[0])]
        wanted = bytearray(len(self.dag))
        for rev in revs:
            wanted[rev] = 1

        def selections() -> Iterator[Selection]:
            for path, start, end in groups:
                mine = ids[start:end]
                yield Selection(
                    path,
                    len(mine),
                    lambda mine=mine: self._read(  # type: ignore[misc]
                        mine, links if links is not None else wanted, haveparents, with_data
                    ),
                )

        items = sum(end - start for _, start, end in groups)
        return FileSelections(len(groups), items, selections)

    def _selection(
        self, path: bytes, links: dict[int, int], haveparents: bool, with_data: bool
    ) -> Selection:
        ids = array("q", sorted(links))
        return Selection(path, len(ids), lambda: self._read(ids, links, haveparents, with_data))

    def _find_all(
        self, db: sqlite3.Connection, log: int, nodes: Iterable[bytes], unknown: bytes
    ) -> dict[int, int]:
        """The ids of these nodes, each with a served changeset that introduced it."""
        found = {}
        for node in nodes:
            number = find(db, node, log << 32)
            link = None if number is None else self._served_link(db, number)
            if number is None or link is None:
                raise UnknownNode(node, unknown)
            found[number] = link
        return found

    def _served_link(self, db: sqlite3.Connection, number: int) -> int | None:
        (link,) = db.execute("SELECT link FROM revision WHERE id = ?", (number,)).fetchone()
        return self._first_link(db, number, link, self.served)

    def _first_link(
        self, db: sqlite3.Connection, number: int, link: int, among: Sequence[int]
    ) -> int | None:
        """The first changeset of those flagged in ``among`` that introduced this revision."""
        # One that came after this moment has no flag.
        if link < len(among) and among[link]:
            return link
        rows = db.execute("SELECT rev FROM relink WHERE id = ? ORDER BY rev", (number,))
        return next((rev for (rev,) in rows if rev < len(among) and among[rev]), None)

    def _has_served(self, db: sqlite3.Connection, log: int) -> bool:
        rows = db.execute(
            "SELECT id, link FROM revision WHERE id BETWEEN ? AND ?",
            (log << 32, log << 32 | 0xFFFFFFFF),
        )
        return any(
            self._first_link(db, number, link, self.served) is not None for number, link in rows
        )

    def _read(
        self,
        ids: array[int],
        links: dict[int, int] | bytearray,
        haveparents: bool,
        with_data: bool,
    ) -> Iterator[Revision]:
        """Read revisions of one log, in the order of ``ids``."""
        with self.generation.reading() as db:
            chains = Chains(db, recent=Recent(_ANSWER_BYTES))
            emitted: dict[int, bytes] = {}
            for row in rows_of(db, ids, COLUMNS if with_data else BARE_COLUMNS):
                number, node, p1, p2, link, *_ = row
                first: int | None
                if isinstance(links, dict):
                    first = links[number]
                else:
                    first = self._first_link(db, number, link, links)
                if first is None:
                    raise IndexBroken(f"revision {number} of the index lost its changeset")
                base, data = data_of(chains, row, emitted, haveparents)
                emitted[number] = node
                yield Revision(node, p1 or NULL, p2 or NULL, self.dag.node(first), base, data)

    def _contained(
        self, db: sqlite3.Connection, revs: Revs, matches: Callable[[bytes], bool]
    ) -> dict[int, int]:
        """The ids of all that the manifests of ``revs`` name, with the first changeset to do so."""
        chains = Chains(db, recent=Recent(_ANSWER_BYTES))
        logs: dict[bytes, int | None] = {}
        found: dict[int, int] = {}
        before: set[bytes] = set()
        last = NULL
        for changeset in self._changesets(db, chains, revs):
            node = manifest_node(changeset.text)
            if node in {NULL, last}:
                continue
            last = node
            number = find(db, node, MANIFEST << 32)
            if number is None:
                raise IndexBroken(f"the index has no manifest of changeset {changeset.node.hex()}")
            lines = chains.text(number).split(b"\n")
            for line in lines:
                if line in before or not line:
                    continue
                path, _, rest = line.partition(b"\0")
                if path not in logs:
                    logs[path] = log_of(db, path) if matches(path) else None
                log = logs[path]
                if log is None:
                    continue
                file_id = find(db, bytes.fromhex(rest[:40].decode("ascii")), log << 32)
                if file_id is None:
                    raise IndexBroken(f"the index lacks a revision of {path!r}")
                found.setdefault(file_id, changeset.rev)
            before = set(lines)
        return found
