# Law of this file: the arguments of a getbundle, and the one form that all have which ask for the
# same bytes. Only what no server of Mercurial reads is left out; what is unknown is kept.
#
# What is not given matters, as 5.9 to 7.2 read it:
#
#   heads       all heads of the repository. Empty is the same for the changesets, but not for the
#               parts of phases and markers, which then tell of no changesets.
#   common      none; so is an empty list, and the null node alone, which is what a fresh clone says
#   cg          yes: there are changesets in the bundle
#   bundlecaps  none: the answer is a changegroup of version 01, no bundle2
#   others      no
#
# Arguments that nobody declares are ignored by a stock server; the narrow extension has some of its
# own, so they are kept.

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from wire.hg.errors import shown
from wire.hg.v1.capabilities import decode_bundle2, encode_bundle2
from wire.hg.v1.requests import BadRequest, read_nodes

_NULL: Final = bytes(20)
_BUNDLE2: Final = b"bundle2="
_MAGIC: Final = "HG20"

_BOOLEANS: Final = (b"bookmarks", b"cbattempted", b"cg", b"obsmarkers", b"phases", b"stream")
_KNOWN: Final = frozenset(
    {b"heads", b"common", b"bundlecaps", b"listkeys", b"includepats", b"excludepats", *_BOOLEANS}
)

# Asks for changesets that are hidden. hgweb reads it from the query string only, and for nobody by
# default; a record of what it shows must not be served to others.
_HIDDEN: Final = b"access-hidden"

# What a client says of bundle2 that no getbundle of 5.9 to 7.2 looks at: it is for pushes (error,
# pushback, pushkey, checkheads), for bundles that refer to others, which no server makes
# (remote-changegroup, digests), or for whoever asks (listkeys).
UNREAD: Final = frozenset(
    {
        "checkheads",
        "digests",
        "error",
        "listkeys",
        "pushback",
        "pushkey",
        "remote-changegroup",
    }
)

# Whose values are sets to those who look at them.
_SETS: Final = frozenset({"changegroup", "delta-compression", "obsmarkers", "phases", "stream"})


@dataclass(frozen=True, slots=True)
class GetBundle:
    """The arguments of a getbundle; the file's law says what is meant by those not given.

    Attributes:
        heads: changesets to have, with all ancestors; None if not given.
        common: those that the client has; None if not given.
        bundlecaps: what the client can do with bundles; None if not given.
        cg: whether changesets are wanted.
        bookmarks: whether the part of bookmarks is wanted.
        phases: whether the part of phases is wanted.
        obsmarkers: whether obsolescence markers are wanted.
        cbattempted: the client has tried a clone bundle. Declared by all servers, read by none.
        stream: whether the raw files of the store are wanted; then ``cg`` is off.
        listkeys: namespaces that are wanted, a part each.
        includepats: patterns of a narrow clone; as ``excludepats``.
        excludepats: patterns of files that are not wanted.
        other: arguments that a stock server does not know, by name.
    """

    heads: tuple[bytes, ...] | None = None
    common: tuple[bytes, ...] | None = None
    bundlecaps: frozenset[bytes] | None = None
    cg: bool = True
    bookmarks: bool = False
    phases: bool = False
    obsmarkers: bool = False
    cbattempted: bool = False
    stream: bool = False
    listkeys: tuple[bytes, ...] = ()
    includepats: tuple[bytes, ...] = ()
    excludepats: tuple[bytes, ...] = ()
    other: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def read(cls, arguments: Mapping[bytes, bytes]) -> GetBundle:
        """Read the arguments of a request.

        Raises:
            BadRequest: a list of nodes or a truth value is malformed.
        """
        caps = _values(arguments, b"bundlecaps")
        return cls(
            heads=_nodes(arguments, b"heads"),
            common=_nodes(arguments, b"common"),
            bundlecaps=frozenset(caps) if caps else None,
            cg=_truth(arguments, b"cg", default=True),
            bookmarks=_truth(arguments, b"bookmarks"),
            phases=_truth(arguments, b"phases"),
            obsmarkers=_truth(arguments, b"obsmarkers"),
            cbattempted=_truth(arguments, b"cbattempted"),
            stream=_truth(arguments, b"stream"),
            listkeys=_values(arguments, b"listkeys"),
            includepats=_values(arguments, b"includepats"),
            excludepats=_values(arguments, b"excludepats"),
            other=tuple(
                sorted(
                    (name, value)
                    for name, value in arguments.items()
                    if name not in _KNOWN and name != _HIDDEN
                )
            ),
        )

    @property
    def bundle2(self) -> bool:
        """Whether the answer is a bundle2; else it is a bare changegroup."""
        return any(word.startswith(b"HG2") for word in self.bundlecaps or ())

    def canonical(self) -> tuple[tuple[bytes, bytes], ...]:
        """The arguments, encoded, in the form that all requests for the same bytes share.

        They are fit to be sent to a server, which answers as to the originals, but for orders that
        mean nothing: that of the parts of ``listkeys``, and of heads in the part ``hgtagsfnodes``.
        """
        found = dict(self.other)
        if self.heads is not None:
            found[b"heads"] = _hex(self.heads)
        if self.common is not None and {*self.common} - {_NULL}:
            found[b"common"] = _hex(self.common)
        if self.bundlecaps is not None:
            found[b"bundlecaps"] = b",".join(sorted(_reduced(self.bundlecaps)))
        for name, values in (
            (b"listkeys", self.listkeys),
            (b"includepats", self.includepats),
            (b"excludepats", self.excludepats),
        ):
            if values:
                found[name] = b",".join(sorted({*values}))
        for name, wanted in (
            (b"bookmarks", self.bookmarks),
            (b"phases", self.phases),
            (b"obsmarkers", self.obsmarkers),
            (b"stream", self.stream),
        ):
            if wanted:
                found[name] = b"1"
        if not self.cg:
            found[b"cg"] = b"0"
        return tuple(sorted(found.items()))


def argument_bytes(canonical: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Arguments form-urlencoded, as clients send them and keys hash them."""
    return urlencode([*canonical]).encode("ascii")


def _nodes(arguments: Mapping[bytes, bytes], name: bytes) -> tuple[bytes, ...] | None:
    value = arguments.get(name)
    if value is None:
        return None
    try:
        return read_nodes(value)
    except BadRequest as wrong:
        raise BadRequest(f"{name.decode()}: {wrong}") from None


def _values(arguments: Mapping[bytes, bytes], name: bytes) -> tuple[bytes, ...]:
    # An empty value is one value, which is empty: so it is for Mercurial.
    value = arguments.get(name)
    return () if value is None else tuple(value.split(b","))


def _truth(arguments: Mapping[bytes, bytes], name: bytes, *, default: bool = False) -> bool:
    value = arguments.get(name)
    if value is None:
        return default
    if value not in {b"", b"0", b"1"}:
        raise BadRequest(f"{name.decode()} must be 0 or 1, not {shown(value)}")
    return value == b"1"


def _hex(nodes: Iterable[bytes]) -> bytes:
    return b" ".join(node.hex().encode() for node in sorted({*nodes}))


def _reduced(words: Iterable[bytes]) -> set[bytes]:
    """What a server's getbundle reads of them; several descriptions of bundle2 become one."""
    kept: set[bytes] = set()
    described: dict[str, tuple[str, ...]] = {}
    for word in sorted(words):
        if word.startswith(_BUNDLE2):
            described |= decode_bundle2(word.removeprefix(_BUNDLE2))
        else:
            kept.add(word)
    if described:
        read = {
            name: sorted({*values}) if name in _SETS else values
            for name, values in described.items()
            if name not in UNREAD
        }
        # Nobody looks at the magic's name, but a client without any abilities gets no changesets.
        kept.add(_BUNDLE2 + encode_bundle2({**read, _MAGIC: ()}))
    return kept
