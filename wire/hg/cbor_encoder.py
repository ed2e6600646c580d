# Law of this file: one value has one encoding, the one that Mercurial gives it: shortest lengths,
# maps and sets in plain byte order of their keys, not shortest key first as RFC 8949 advises. Keys
# of caches are digests of such bytes. What the subset in wire.hg.cbor does not have is not written.

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias, cast

Scalar: TypeAlias = int | bytes | bool | None
"""What may be the key of a map or the member of a set."""

Encodable: TypeAlias = (
    "Scalar | bytearray | memoryview | Sequence[Encodable]"
    " | Mapping[bytes, Encodable] | Mapping[Scalar, Encodable] | AbstractSet[Scalar]"
)
"""What can be encoded: every :data:`Value`, and the wider types that a caller has at hand.

A type checker takes ``str`` for a sequence of its like; :func:`encode` does not.
"""

INDEFINITE_BYTES: Final = b"\x5f"
"""Begins a top-level byte string that follows in chunks, each a definite byte string."""

BREAK: Final = b"\xff"
"""Ends the chunks."""

_SET: Final = b"\xd9\x01\x02"  # tag 258, "mathematical finite set" in IANA's registry
_INT_END: Final = 2**64  # an integer or length has at most eight bytes

_UINT: Final = 0
_NEGATIVE: Final = 1
_BYTES: Final = 2
_ARRAY: Final = 4
_MAP: Final = 5


def bytes_header(n: int) -> bytes:
    """What precedes the ``n`` bytes of a byte string.

    Raises:
        ValueError: ``n`` is negative or has more than 64 bits; so for the other headers.
    """
    return _header(_BYTES, n)


def array_header(n: int) -> bytes:
    """What precedes the ``n`` values of an array."""
    return _header(_ARRAY, n)


def map_header(n: int) -> bytes:
    """What precedes the ``n`` pairs of a map; the writer sorts them, see :func:`encode`."""
    return _header(_MAP, n)


def set_header(n: int) -> bytes:
    """What precedes the ``n`` members of a set; the writer sorts them, see :func:`encode`."""
    return _SET + _header(_ARRAY, n)


def encode(value: Encodable) -> bytes:
    """The encoding of ``value``: shortest lengths, keys and members sorted.

    The order is that of Mercurial 5.9 on Python 3: by the name of the type (``NoneType``,
    ``bool``, ``bytes``, ``int``), then by value. For byte strings this is plain byte order.

    Raises:
        TypeError: it is or contains what the subset does not have.
        ValueError: an integer has more than 64 bits beside its sign.
    """
    out: list[bytes | memoryview] = []
    _write(value, out)
    return b"".join(out)


def _header(major: int, n: int) -> bytes:
    first = major << 5
    if 0 <= n < 24:
        return bytes((first | n,))
    if n < 0 or n >= _INT_END:
        raise ValueError(f"{n} is no length: it is negative or has more than 64 bits")
    if n < 2**8:
        return bytes((first | 24, n))
    if n < 2**16:
        return bytes((first | 25,)) + n.to_bytes(2, "big")
    if n < 2**32:
        return bytes((first | 26,)) + n.to_bytes(4, "big")
    return bytes((first | 27,)) + n.to_bytes(8, "big")


_SHORT_STRINGS: Final = tuple(_header(_BYTES, n) for n in range(256))


def _write(value: Encodable, out: list[bytes | memoryview]) -> None:
    if isinstance(value, bytes):
        n = len(value)
        out.append(_SHORT_STRINGS[n] if n < 256 else _header(_BYTES, n))
        out.append(value)
    elif value is None:
        out.append(b"\xf6")
    elif isinstance(value, bool):
        out.append(b"\xf5" if value else b"\xf4")
    elif isinstance(value, int):
        if not -_INT_END <= value < _INT_END:
            raise ValueError(f"{value} has more than the 64 bits that an integer of CBOR has")
        out.append(_header(_UINT, value) if value >= 0 else _header(_NEGATIVE, -1 - value))
    elif isinstance(value, list | tuple):  # most are these, and the next tests are slow
        _write_array(value, out)
    elif isinstance(value, Mapping):
        entries = cast("Mapping[Scalar, Encodable]", value)  # only its keys are known better
        out.append(_header(_MAP, len(entries)))
        for key in _in_order(entries):
            _write(key, out)
            _write(entries[key], out)
    elif isinstance(value, AbstractSet):
        out.append(_SET)
        _write_array(_in_order(value), out)
    elif isinstance(value, bytearray | memoryview):
        plain = memoryview(value).cast("B")
        out.append(_header(_BYTES, len(plain)))
        out.append(plain)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        _write_array(value, out)
    else:
        raise TypeError(f"{_named(value)} has no encoding here; text is sent as bytes")


def _write_array(values: Sequence[Encodable], out: list[bytes | memoryview]) -> None:
    out.append(_header(_ARRAY, len(values)))
    if len(values) > 3 and set(map(type, values)) == {bytes}:
        strings = cast("Sequence[bytes]", values)
        lengths = set(map(len, strings))
        if len(lengths) == 1:
            # A list of nodes: the same header stands before each of them.
            header = _header(_BYTES, lengths.pop())
            out += (header, header.join(strings))
            return
    for value in values:
        _write(value, out)


def _in_order(keys: Collection[Scalar]) -> list[Scalar]:
    if set(map(type, keys)) <= {bytes}:
        return [*sorted(cast("Collection[bytes]", keys))]
    return sorted(keys, key=_rank)


def _rank(key: Scalar) -> tuple[str, int | bytes]:
    """Where Mercurial sorts ``key``: by its type's name, for True is not 1, then by value."""
    if key is None:
        return "NoneType", 0
    for kind in (bool, bytes, int):
        if isinstance(key, kind):
            return kind.__name__, key
    raise TypeError(f"{_named(key)} is neither the key of a map nor the member of a set")


def _named(value: object) -> str:
    return f"a value of the type {type(value).__name__}"
