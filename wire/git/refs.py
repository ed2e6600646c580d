# Law of this file: one snapshot of a repository's refs answers every `ls-refs` with the very bytes
# that stock git would. Everything that takes time is done when the snapshot is made, off the
# request path. The format is described in git's gitprotocol-v2(5).

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Final, TypeAlias

from wire.git.pktline import FLUSH, ProtocolError, Special, parse, shown, text

MEMO_ANSWERS: Final = 64
"""How many different answers a snapshot keeps: clients ask in a handful of ways."""

MEMO_BYTES: Final = 64 << 20
"""How many bytes they may have together: eight times all refs of a repository with 100,000."""

_OID: Final = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NAME: Final = re.compile(rb"[^\0-\x20\x7f]+")  # git-check-ref-format(1): neither space nor control
_UNBORN: Final = b"unborn"
_TAGS: Final = b"refs/tags/"

# Half-open ranges of positions among the sorted names, ascending, not touching one another.
_Ranges: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """One advertised ref.

    Attributes:
        name: such as ``refs/heads/main``; bytes, for git asks for no encoding.
        oid: what it points to, in hex; None for a HEAD whose branch has no commit yet.
        symref: the ref that it stands for, or None.
        peeled: the object that the annotated tag ``oid`` names in the end, or None.
    """

    name: bytes
    oid: str | None
    symref: bytes | None = None
    peeled: str | None = None

    def packet(self, *, peel: bool, symrefs: bool) -> bytes:
        """Its line of an answer, with those attributes that are asked for."""
        line = b"%b %b" % (_UNBORN if self.oid is None else self.oid.encode("ascii"), self.name)
        if symrefs and self.symref is not None:
            line += b" symref-target:" + self.symref
        if peel and self.peeled is not None:
            line += b" peeled:" + self.peeled.encode("ascii")
        return text(line)


class Refs:
    """All advertised refs of a repository at one moment.

    Attributes:
        refs: in the order in which stock git names them.
        digest: SHA-256, hex, of everything that can be seen of them.
        tips: every object id that a ref points to; of an annotated tag, the tag object's.
        peeled: object id of each annotated tag -> the object that it names in the end.
        tags_digest: SHA-256, hex, of what ``include-tag`` depends on: annotated tags, and all
            refs below ``refs/tags/``.
    """

    __slots__ = (
        "_memo",
        "_memo_bytes",
        "_names",
        "_order",
        "_packets",
        "digest",
        "peeled",
        "refs",
        "tags_digest",
        "tips",
    )

    def __init__(self, refs: Iterable[Ref]) -> None:
        self.refs: Final = tuple(refs)
        self._packets = tuple(ref.packet(peel=True, symrefs=True) for ref in self.refs)
        self._order = sorted(range(len(self.refs)), key=lambda i: self.refs[i].name)
        self._names = [self.refs[i].name for i in self._order]
        self._memo: OrderedDict[tuple[bool, bool, bool, _Ranges], bytes] = OrderedDict()
        self._memo_bytes = 0
        self.digest: Final = sha256(b"".join(self._packets)).hexdigest()
        self.tips: Final = frozenset(ref.oid for ref in self.refs if ref.oid is not None)
        self.peeled: Final[Mapping[str, str]] = MappingProxyType(
            {ref.oid: ref.peeled for ref in self.refs if ref.oid and ref.peeled}
        )
        self.tags_digest: Final = sha256(
            b"".join(
                packet
                for ref, packet in zip(self.refs, self._packets, strict=True)
                if ref.peeled is not None or ref.name.startswith(_TAGS)
            )
        ).hexdigest()

    def oid(self, name: bytes) -> str | None:
        """What the ref ``name`` points to, in hex; None if it is not advertised, or unborn."""
        at = bisect_left(self._names, name)
        if at == len(self._names) or self._names[at] != name:
            return None
        return self.refs[self._order[at]].oid

    def answer(self, peel: bool, symrefs: bool, unborn: bool, prefixes: Iterable[bytes]) -> bytes:
        """The answer to one ``ls-refs``, with its final flush.

        Args:
            peel: say what annotated tags name in the end.
            symrefs: say what symbolic refs stand for.
            unborn: name a HEAD without a commit too; only with ``symrefs``, as stock git does.
            prefixes: only refs whose name begins with one of these; all refs, if there are none.
        """
        ranges = self._ranges(prefixes)
        key = (peel, symrefs, unborn, ranges)
        known = self._memo.get(key)
        if known is not None:
            self._memo.move_to_end(key)
            return known
        body = self._write(ranges, peel, symrefs, unborn)
        self._remember(key, body)
        return body

    def _write(self, ranges: _Ranges, peel: bool, symrefs: bool, unborn: bool) -> bytes:
        whole = peel and symrefs and unborn
        body: list[bytes] = []
        for i in sorted(i for low, high in ranges for i in self._order[low:high]):
            ref = self.refs[i]
            if ref.oid is None and not (unborn and symrefs):
                continue
            if whole or (ref.symref is None and ref.peeled is None):
                body.append(self._packets[i])
            else:
                body.append(ref.packet(peel=peel, symrefs=symrefs))
        return b"".join((*body, FLUSH))

    def _ranges(self, prefixes: Iterable[bytes]) -> _Ranges:
        """Where the names with one of ``prefixes`` stand.

        This, and not the prefixes, is what answers are remembered by: a client may invent any
        number of prefixes, of any length, that choose the same refs.
        """
        ranges: list[tuple[int, int]] = []
        for prefix in sorted(set(prefixes)) or [b""]:
            size = len(prefix)
            start = ranges[-1][1] if ranges else 0
            low = bisect_left(self._names, prefix, start)
            high = bisect_right(self._names, prefix, low, key=lambda name: name[:size])
            if low == high:
                continue  # nothing, or all within the last range
            if ranges and low == start:
                ranges[-1] = (ranges[-1][0], high)
            else:
                ranges.append((low, high))
        return tuple(ranges)

    def _remember(self, key: tuple[bool, bool, bool, _Ranges], body: bytes) -> None:
        """Keep an answer; the ones not asked for the longest make room, but never this one."""
        self._memo[key] = body
        self._memo_bytes += len(body)
        while len(self._memo) > 1 and (
            len(self._memo) > MEMO_ANSWERS or self._memo_bytes > MEMO_BYTES
        ):
            self._memo_bytes -= len(self._memo.popitem(last=False)[1])


def parse_ls_refs(body: bytes) -> Refs:
    """Read stock git's answer to an ``ls-refs`` with ``peel``, ``symrefs`` and ``unborn``.

    Raises:
        ProtocolError: it is cut short, or a line of it is no ref.
    """
    packets = parse(body)
    if not packets or packets.pop() is not Special.FLUSH:
        raise ProtocolError("the list of refs does not end with a flush")
    refs: list[Ref] = []
    for packet in packets:
        if isinstance(packet, Special):
            raise ProtocolError("a special packet inside the list of refs")
        refs.append(_ref(packet.removesuffix(b"\n")))
    return Refs(refs)


def _ref(line: bytes) -> Ref:
    target, *rest = line.split(b" ")
    if not rest or _NAME.fullmatch(rest[0]) is None:
        raise ProtocolError(f"expected a ref, got '{shown(line)}'")
    symref: bytes | None = None
    peeled: str | None = None
    for attribute in rest[1:]:
        key, _, value = attribute.partition(b":")
        if key == b"symref-target" and _NAME.fullmatch(value):
            symref = value
        elif key == b"peeled":
            peeled = _oid(value, line)
        else:  # what we do not know we could not repeat only when asked
            raise ProtocolError(f"unknown attribute '{shown(attribute)}' of a ref")
    if target != _UNBORN:
        return Ref(rest[0], _oid(target, line), symref, peeled)
    if symref is None or peeled is not None:
        raise ProtocolError(f"an unborn ref stands for a branch and nothing else: '{shown(line)}'")
    return Ref(rest[0], None, symref)


def _oid(value: bytes, line: bytes) -> str:
    if _OID.fullmatch(value) is None:
        raise ProtocolError(f"expected an object id in '{shown(line)}'")
    return value.decode("ascii")
