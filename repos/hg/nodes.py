# Law of this file: changesets are numbered in the order in which they came, parents first, and
# everything about their graph is answered from arrays: 36 bytes for each.

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from wire.hg.texts import NULL

NODE: Final = len(NULL)

# An entry of the order of nodes is 40 bits of node above 24 bits of number.
MAX_CHANGESETS: Final = 1 << 24
_PREFIX_BYTES: Final = 5
_REV_BITS: Final = 24
_REV_MASK: Final = MAX_CHANGESETS - 1
_PREFIX_DIGITS: Final = 2 * _PREFIX_BYTES


class Ambiguous(Exception):  # noqa: N818 - what the prefix is
    """More than one changeset begins with this prefix."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        super().__init__(f"{prefix!r} is the beginning of more than one changeset's node")


@dataclass(frozen=True, slots=True)
class Revs:
    """An ordered set of changesets by number, parents first.

    Attributes:
        numbers: ascending.
    """

    numbers: array[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __contains__(self, rev: object) -> bool:
        if not isinstance(rev, int):
            return False
        place = bisect_left(self.numbers, rev)
        return place < len(self.numbers) and self.numbers[place] == rev

    def runs(self) -> Iterator[tuple[int, int]]:
        """Its uninterrupted stretches, as first and last number."""
        numbers = self.numbers
        start = 0
        while start < len(numbers):
            # Numbers that differ by as much as their places do have no gap between them.
            end = start + 1
            step = 1
            while end < len(numbers) and numbers[end] - numbers[start] == end - start:
                end = min(end + step, len(numbers))
                step *= 2
            while numbers[end - 1] - numbers[start] != end - 1 - start:
                end -= 1
            yield numbers[start], numbers[end - 1]
            start = end


def revs_of(flags: bytes | bytearray) -> Revs:
    """The numbers whose flag is not zero."""
    return Revs(array("i", (rev for rev, flag in enumerate(flags) if flag)))


@dataclass(frozen=True, slots=True)
class Dag:
    """A graph of changesets.

    Attributes:
        packed: the nodes of all, one after the other.
        p1: the number of each one's first parent, -1 for none.
        p2: and of its second.
        order: prefixes and numbers, ascending, by which a node is found.
    """

    packed: bytes
    p1: array[int]
    p2: array[int]
    order: array[int]

    def __len__(self) -> int:
        return len(self.p1)

    @classmethod
    def empty(cls) -> Dag:
        """The graph of an empty repository."""
        return cls(b"", array("i"), array("i"), array("Q"))

    def grown(self, rows: Iterable[tuple[bytes, int, int]]) -> Dag:
        """A graph with more changesets: their nodes and their parents' numbers.

        Raises:
            ValueError: there are more than 16 million.
        """
        new = bytearray()
        p1, p2 = self.p1[:], self.p2[:]
        for node, first, second in rows:
            new += node
            p1.append(first)
            p2.append(second)
        if not new:
            return self
        if len(p1) > MAX_CHANGESETS:
            raise ValueError(f"{len(p1)} changesets; at most {MAX_CHANGESETS} can be numbered")
        packed = self.packed + bytes(new)
        keys = list(self.order)
        keys += (
            int.from_bytes(packed[rev * NODE : rev * NODE + _PREFIX_BYTES]) << _REV_BITS | rev
            for rev in range(len(self.p1), len(p1))
        )
        keys.sort()
        return Dag(packed, p1, p2, array("Q", keys))

    def node(self, rev: int) -> bytes:
        """A changeset's node; null for -1."""
        return self.packed[rev * NODE : (rev + 1) * NODE] if rev >= 0 else NULL

    def rev(self, node: bytes) -> int | None:
        """A changeset's number; -1 for the null node; None if there is none."""
        if node == NULL:
            return -1
        if len(node) != NODE:
            return None
        prefix = int.from_bytes(node[:_PREFIX_BYTES])
        place = bisect_left(self.order, prefix << _REV_BITS)
        while place < len(self.order) and self.order[place] >> _REV_BITS == prefix:
            rev = self.order[place] & _REV_MASK
            if self.node(rev) == node:
                return rev
            place += 1
        return None

    def beginning_with(self, prefix: bytes) -> Iterator[int]:
        """The changesets whose node in hex begins with ``prefix`` (lower case)."""
        digits = prefix[:_PREFIX_DIGITS].decode("ascii").ljust(_PREFIX_DIGITS, "0")
        last = int(prefix[:_PREFIX_DIGITS].decode("ascii").ljust(_PREFIX_DIGITS, "f"), 16)
        place = bisect_left(self.order, int(digits, 16) << _REV_BITS)
        while place < len(self.order) and self.order[place] >> _REV_BITS <= last:
            rev = self.order[place] & _REV_MASK
            if self.node(rev).hex().encode().startswith(prefix):
                yield rev
            place += 1

    def ancestors(self, heads: Iterable[int]) -> bytearray:
        """For each changeset 1 if it is one of ``heads`` or an ancestor of one, else 0."""
        # The last byte stands for the parent that there is not: index -1.
        flags = bytearray(len(self) + 1)
        for head in heads:
            flags[head] = 1
        p1, p2 = self.p1, self.p2
        for rev in range(len(self) - 1, -1, -1):
            if flags[rev]:
                flags[p1[rev]] = 1
                flags[p2[rev]] = 1
        del flags[-1]
        return flags

    def descendants(self, roots: Iterable[int]) -> bytearray:
        """For each changeset 1 if it is one of ``roots`` or a descendant of one, else 0."""
        flags = bytearray(len(self) + 1)
        first = len(self)
        for root in roots:
            flags[root] = 1
            first = min(first, root)
        flags[-1] = 0
        p1, p2 = self.p1, self.p2
        for rev in range(first, len(self)):
            if flags[p1[rev]] or flags[p2[rev]]:
                flags[rev] = 1
        del flags[-1]
        return flags

    def missing(self, roots: Iterable[int], heads: Iterable[int]) -> array[int]:
        """The ancestors of ``heads`` that are none of ``roots``, descending; both inclusive."""
        wanted, common = 1, 2
        flags = bytearray(len(self) + 1)
        top, open_ones = -1, 0
        for rev in roots:
            flags[rev] = common
        for rev in heads:
            if not flags[rev]:
                flags[rev] = wanted
                open_ones += rev >= 0
                top = max(top, rev)
        for rev in roots:
            top = max(top, rev)
        flags[-1] = common
        found = array("i")
        p1, p2 = self.p1, self.p2
        for rev in range(top, -1, -1):
            flag = flags[rev]
            if not flag:
                continue
            if flag == wanted:
                found.append(rev)
                open_ones -= 1
            for parent in (p1[rev], p2[rev]):
                if flag == wanted and not flags[parent]:
                    flags[parent] = wanted
                    open_ones += 1
                elif flag == common and flags[parent] != common:
                    open_ones -= flags[parent] == wanted
                    flags[parent] = common
            if not open_ones:
                break
        return found

    def generations(self, revs: Iterable[int], depth: int) -> set[int]:
        """``revs`` and their ancestors, ``depth`` generations in all."""
        found: set[int] = set()
        front = {rev for rev in revs if rev >= 0}
        while front and depth > 0:
            found |= front
            parents = {self.p1[rev] for rev in front} | {self.p2[rev] for rev in front}
            front = parents - found - {-1}
            depth -= 1
        return found

    def heads(self, flags: Sequence[int]) -> list[int]:
        """Those flagged that have no flagged child, newest first."""
        headless = bytearray(len(self) + 1)
        p1, p2 = self.p1, self.p2
        for rev, flag in enumerate(flags):
            if flag:
                headless[p1[rev]] = headless[p2[rev]] = 1
        return [rev for rev in range(len(self) - 1, -1, -1) if flags[rev] and not headless[rev]]

    def fingerprint(self, revs: Revs) -> str:
        """A digest of a set of changesets, by their nodes."""
        hasher = hashlib.sha256()
        for first, last in revs.runs():
            hasher.update(self.packed[first * NODE : (last + 1) * NODE])
        return hasher.hexdigest()
