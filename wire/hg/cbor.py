# Law of this file: what the subset does not have is refused at its first byte, and a length over a
# limit when it is declared: nothing is set aside for bytes that have not come.
# The subset is Mercurial's: integers, definite byte strings, arrays and maps, false, true, null,
# sets (tag 258 around an array), and indefinite byte strings as top-level items. RFC 8949 describes
# the format. Lengths may be written longer than needed; we write them as wire.hg.cbor_encoder does.

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from io import BytesIO
from typing import Final, Literal, TypeAlias, cast

from wire.hg.cbor_encoder import (
    BREAK,
    INDEFINITE_BYTES,
    Encodable,
    Scalar,
    array_header,
    bytes_header,
    encode,
    map_header,
    set_header,
)

__all__ = [
    "BREAK", "DEFAULT", "INDEFINITE_BYTES", "CborError", "Chunk", "Decoder", "Encodable", "Item",
    "Limits", "Scalar", "Value", "array_header", "bytes_header", "decode", "decode_one", "encode",
    "map_header", "set_header",
]  # fmt: skip

Value: TypeAlias = "Scalar | list[Value] | dict[Scalar, Value] | frozenset[Scalar]"
"""What the decoder returns for one item."""

_UINT: Final = 0
_NEGATIVE: Final = 1
_BYTES: Final = 2
_TEXT: Final = 3
_ARRAY: Final = 4
_MAP: Final = 5
_TAG: Final = 6
_OTHER: Final = 7

_SET_TAG: Final = 258  # "mathematical finite set" in IANA's registry of tags
_INDEFINITE: Final = 31  # in place of a length


class CborError(ValueError):
    """Bytes that are none of the subset, or too many; says what, and at which offset."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one top-level item may ask of us; each chunk of an indefinite string counts anew.

    Attributes:
        depth: collections within each other. The deepest message of the protocol, the description
            of a command's arguments, has eight.
        item_size: bytes of one item as it is encoded. A million nodes are 20 MiB, and most files
            are smaller; who reads revisions of larger ones says so.
        members: entries of all collections of an item together. It bounds what a decoded item
            takes beside its bytes: an empty map is one byte on the wire and 64 in memory. A
            million is ten times the batches in which stock clients ask.
    """

    depth: int = 16
    item_size: int = 64 * 2**20
    members: int = 2**20


DEFAULT: Final = Limits()
"""The limits for messages of strangers."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a top-level indefinite byte string, cut where the writer cut it.

    Attributes:
        data: its bytes; empty in the last one, which stands for the break.
        first: whether the string begins with it.
        last: whether the string ends with it.
    """

    data: bytes
    first: bool
    last: bool


Item: TypeAlias = "Value | Chunk"
"""What a sequence of top-level items is made of."""


def decode(data: bytes | memoryview, limits: Limits = DEFAULT) -> list[Item]:
    """All items of a complete sequence.

    Raises:
        CborError: it is not of the subset, exceeds a limit, or ends in the middle of an item.
    """
    decoder = Decoder(limits)
    items = decoder.feed(data)
    decoder.end()
    return items


def decode_one(data: bytes | memoryview, limits: Limits = DEFAULT) -> Value:
    """The one item that ``data`` is.

    Raises:
        CborError: as for :func:`decode`; or there is no item, or more than one, or it is an
            indefinite byte string.
    """
    items = decode(data, limits)
    if len(items) != 1:
        raise CborError(f"{len(items)} items where one is expected, in {len(data)} bytes")
    item = items[0]
    if isinstance(item, Chunk):
        raise CborError("an indefinite byte string where one value is expected, at offset 0")
    return item


class _No(Enum):
    """What stands in place of a value; None is one."""

    VALUE = 0


_NO_VALUE: Final = _No.VALUE


def _immediate(first: int) -> Scalar | _No:
    """The value that the byte ``first`` is by itself."""
    major, n = first >> 5, first & 31
    if major in {_UINT, _NEGATIVE} and n < 24:
        return n if major == _UINT else -1 - n
    others: dict[int, Scalar] = {0x40: b"", 0xF4: False, 0xF5: True, 0xF6: None}
    return others.get(first, _NO_VALUE)


def _refusal(first: int) -> str | None:
    """Why no item of the subset begins with the byte ``first``; its place is another matter."""
    major, n = first >> 5, first & 31
    if 28 <= n <= 30:
        return f"the additional information {n}, which is reserved"
    if major == _TEXT:
        return "a text string, where texts are byte strings"
    if n == _INDEFINITE and major not in {_BYTES, _OTHER}:
        kind = {_ARRAY: "an array", _MAP: "a map", _TAG: "a tag"}.get(major, "an integer")
        return f"{kind} of indefinite length"
    if major == _OTHER:
        if n in {25, 26, 27}:
            return "a float"
        if not 20 <= n <= 22 and n != _INDEFINITE:
            return "a simple value other than false, true and null"
    return None


_IMMEDIATE: Final = tuple(map(_immediate, range(256)))
_REFUSAL: Final = tuple(map(_refusal, range(256)))

_Kind: TypeAlias = Literal["array", "map", "set"]

_BLOCK: Final = 256  # strings that struct cuts at a time
_BLOCK_LENGTH: Final = 64  # longest string that it cuts; it keeps what it compiled for each
_SHOWN: Final = 40  # bytes of a key in a message


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come.

    Attributes:
        kind: what it is in messages, and what it becomes.
        wanted: how many values it has when it is complete; keys count.
        values: those that have come; of a map keys and values in turn.
        even: whether all may still be byte strings of one length.
    """

    kind: _Kind
    wanted: int
    even: bool
    values: list[Value] = field(default_factory=list)


class Decoder:
    """Items out of a stream that comes in chunks of any size.

    Each byte is looked at a fixed number of times however small the chunks are, and a byte string
    is copied once (twice if it comes whole in a memoryview). What is held between two calls is one
    incomplete item, within the limits.

    The keys True and 1 are two for CBOR and one for a dict: a map or set that has both is refused
    as one that has a key twice.

    Attributes:
        _held: the bytes of a header or byte string that is incomplete, of which `_missing` have
            not come; none if `_missing` is 0.
        _fed: offset in the stream up to which bytes have been taken.
        _start: offset at which the item (or chunk) that is incomplete begins.
        _members: entries that its collections have declared.
        _chunks: within an indefinite byte string, how many chunks have come; else None.
    """

    __slots__ = (
        "_chunks", "_failure", "_fed", "_held", "_in_header", "_limits", "_members", "_missing",
        "_open", "_start", "_tagged",
    )  # fmt: skip

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self._limits = limits
        self._held = BytesIO()
        self._missing = 0
        self._in_header = False
        self._open: list[_Open] = []
        self._tagged = False
        self._chunks: int | None = None
        self._members = 0
        self._fed = 0
        self._start = 0
        self._failure: str | None = None

    @property
    def pending(self) -> int:
        """Bytes of the item (or chunk) that is incomplete, as they came: what is held."""
        return self._fed - self._start

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here."""
        return self._fed == self._start and self._chunks is None and self._failure is None

    def feed(self, data: bytes | memoryview) -> list[Item]:
        """Take the next bytes and return the items that they complete.

        Raises:
            CborError: they are not of the subset or exceed a limit. The stream cannot be read on:
                every later call raises it as well.
        """
        if self._failure is not None:
            raise CborError(self._failure)
        items: list[Item] = []
        try:
            self._take(data, items)
        except CborError as error:
            self._failure = str(error)
            self._open.clear()
            self._held = BytesIO()
            self._start = self._fed
            raise
        return items

    def end(self) -> None:
        """Say that the stream has ended.

        Raises:
            CborError: it ended in the middle of an item.
        """
        if self._failure is not None:
            raise CborError(self._failure)
        if not self.at_boundary:
            what = "an item" if self._chunks is None else "an indefinite byte string"
            raise CborError(
                f"the input ends at offset {self._fed}, in the middle of {what}"
                f" of which {self.pending} bytes are held"
            )

    def _take(self, data: bytes | memoryview, items: list[Item]) -> None:
        at = 0
        while self._missing and at < len(data):
            more = memoryview(data)[at : at + self._missing]
            self._held.write(more)
            at += len(more)
            self._fed += len(more)
            self._missing -= len(more)
            if not self._missing:
                self._resume(items)
        if at < len(data):
            self._fed -= at
            self._run(bytes(data), at, items)
        if self.pending > self._limits.item_size:
            raise self._too_large(self._fed)

    def _resume(self, items: list[Item]) -> None:
        """Go on with the header or byte string that was held and is now complete."""
        held = self._held.getvalue()  # a BytesIO shares its bytes: this is no copy
        self._held = BytesIO()
        if self._in_header:
            self._fed -= len(held)
            self._run(held, 0, items)
        else:
            self._deliver(held, self._fed, items)

    def _run(self, data: bytes, at: int, items: list[Item]) -> None:
        """Take ``data`` from ``at`` on; until then ``_fed`` is the offset of its first byte."""
        size = len(data)
        if self._open:
            at = self._even_strings(data, at)
        while at < size:
            first = data[at]
            value: Value | _No = _IMMEDIATE[first]
            if value is not _NO_VALUE:
                at += 1
            elif 0x40 < first < 0x58 and (end := at + first - 0x3F) <= size:
                value = data[at + 1 : end]
                at = end
            else:
                at, value = self._token(data, at, items)
                if value is _NO_VALUE:
                    continue
            self._deliver(value, self._fed + at, items)
        self._fed += size

    def _deliver(self, value: Value, end: int, items: list[Item]) -> None:
        """Put ``value``, which ends at the offset ``end``, where it belongs."""
        while self._open:
            top = self._open[-1]
            top.values.append(value)
            if len(top.values) < top.wanted:
                return
            value = _collected(self._open.pop(), end)
        if end - self._start > self._limits.item_size:
            raise self._too_large(end)
        if self._chunks is None:
            items.append(value)
        elif isinstance(value, bytes):
            items.append(Chunk(value, first=not self._chunks, last=False))
            self._chunks += 1
        else:
            raise _error("a chunk that is no byte string", self._start)
        self._start = end
        self._members = 0

    def _token(self, data: bytes, at: int, items: list[Item]) -> tuple[int, Value | _No]:
        """Take the header at ``at``, with its bytes if it is that of a byte string.

        Returns:
            Where the next one begins, and the value if this one is a value.
        """
        first = data[at]
        if (reason := _REFUSAL[first]) is not None:
            raise _error(reason, self._fed + at)
        major, n = first >> 5, first & 31
        if n == _INDEFINITE:
            self._begin_or_break(first, self._fed + at, items)
            return at + 1, _NO_VALUE
        body = at + 1
        if n > 23:
            body += 1 << n - 24
            if body > len(data):
                return self._hold(data, at, body, header=True)
            n = int.from_bytes(data[at + 1 : body], "big")
        if major == _BYTES:
            end = body + n
            if end <= len(data):
                return end, data[body:end]
            self._expect(end)
            return self._hold(data, body, end, header=False)
        if major == _TAG:
            return self._tag(data, at, body, n)
        if major in {_ARRAY, _MAP}:
            return self._begin(data, at, body, n)
        return body, n if major == _UINT else -1 - n

    def _hold(self, data: bytes, at: int, end: int, *, header: bool) -> tuple[int, Value | _No]:
        """Keep what there is of ``data[at:end]`` until the rest comes."""
        self._held.write(memoryview(data)[at:])
        self._missing = end - len(data)
        self._in_header = header
        return len(data), _NO_VALUE

    def _tag(self, data: bytes, at: int, body: int, tag: int) -> tuple[int, Value | _No]:
        if tag != _SET_TAG:
            raise _error(f"the tag {tag}, where only {_SET_TAG} (a set) is known", self._fed + at)
        if body == len(data):  # the tag and the byte after it are judged together
            return self._hold(data, at, body + 1, header=True)
        if data[body] >> 5 != _ARRAY:
            raise _error("a set that is no array", self._fed + body)
        self._tagged = True
        return body, _NO_VALUE

    def _begin(self, data: bytes, at: int, body: int, n: int) -> tuple[int, Value | _No]:
        """Open the collection of ``n`` entries whose header is ``data[at:body]``."""
        is_map = data[at] >> 5 == _MAP
        kind: _Kind = "map" if is_map else "set" if self._tagged else "array"
        self._tagged = False
        place = self._fed + at
        if self._chunks is not None:
            raise _error("a chunk that is no byte string", place)
        if self._open:
            parent = self._open[-1]
            if parent.kind == "set":
                raise _error(f"a collection ({kind}) as the member of a set", place)
            if parent.kind == "map" and not len(parent.values) % 2:
                raise _error(f"a collection ({kind}) as the key of a map", place)
        limits = self._limits
        if len(self._open) == limits.depth:
            raise _error(f"more than {limits.depth} collections within each other", place)
        self._members += n
        if self._members > limits.members:
            raise _error(
                f"{self._members} entries in the collections of one item, where the limit is"
                f" {limits.members}",
                place,
            )
        wanted = 2 * n if is_map else n
        self._expect(body + wanted)
        opened = _Open(kind, wanted, even=not is_map and n > 2)
        if not n:
            return body, _collected(opened, place)
        self._open.append(opened)
        return self._even_strings(data, body), _NO_VALUE

    def _even_strings(self, data: bytes, at: int) -> int:
        """Take a run of equally long byte strings in the innermost collection, all but its last.

        Lists of nodes are most of what the protocol's large arguments are. If the bytes at which
        headers should be, a fixed stride apart, are all the header at ``at``, then they are.
        """
        top = self._open[-1]
        if not top.even or at >= len(data):
            return at
        first = data[at]
        if first >> 5 != _BYTES or first & 31 > 27:
            top.even = False
            return at
        width = 0 if first & 31 < 24 else 1 << (first & 31) - 24
        body = at + 1 + width
        length = int.from_bytes(data[at + 1 : body], "big") if width else first & 31
        stride = 1 + width + length
        count = min(top.wanted - len(top.values) - 1, (len(data) - at) // stride)
        if count < 1:
            return at
        end = at + count * stride
        for i in range(at, body):
            if data[i:end:stride] != data[i : i + 1] * count:
                top.even = False
                return at
        top.values += _strided(data, at, end, 1 + width, length)
        return end

    def _begin_or_break(self, first: int, place: int, items: list[Item]) -> None:
        """Begin or end an indefinite byte string: ``first``, at the offset ``place``."""
        if first == INDEFINITE_BYTES[0]:
            if self._open or self._chunks is not None:
                raise _error("an indefinite byte string that is not a top-level item", place)
            self._chunks = 0
        else:
            if self._chunks is None:
                raise _error("a break outside an indefinite byte string", place)
            items.append(Chunk(b"", first=not self._chunks, last=True))
            self._chunks = None
        self._start = place + 1

    def _expect(self, end: int) -> None:
        """Refuse an item that reaches at least ``end``, counted from the data's first byte."""
        if self._fed + end - self._start > self._limits.item_size:
            raise self._too_large(self._fed + end)

    def _too_large(self, end: int) -> CborError:
        return _error(
            f"an item of at least {end - self._start} bytes, where the limit is"
            f" {self._limits.item_size}",
            self._start,
        )


def _error(reason: str, offset: int) -> CborError:
    return CborError(f"{reason}, at offset {offset}")


def _strided(data: bytes, at: int, end: int, header: int, length: int) -> list[Value]:
    """The strings of ``length`` bytes in ``data[at:end]``, each behind ``header`` bytes."""
    stride = header + length
    found: list[Value] = []
    if length <= _BLOCK_LENGTH and end - at >= _BLOCK * stride:
        # struct cuts a block five times as fast as slices would.
        block = _BLOCK * stride
        whole = at + (end - at) // block * block
        cutter = struct.iter_unpack(f"{header}x{length}s" * _BLOCK, memoryview(data)[at:whole])
        for strings in cutter:
            found += strings
        at = whole
    # The last one may be empty and begin at the end.
    found += [data[i : i + length] for i in range(at + header, end - length + 1, stride)]
    return found


def _collected(done: _Open, end: int) -> Value:
    """The value of a collection that is complete; it ends at the offset ``end``."""
    values = done.values
    if done.kind == "array":
        return values
    # Each key and member was refused if it was a collection.
    keys = cast("list[Scalar]", values[::2] if done.kind == "map" else values)
    made: dict[Scalar, Value] | frozenset[Scalar]
    made = dict(zip(keys, values[1::2], strict=True)) if done.kind == "map" else frozenset(keys)
    if len(made) == len(keys):
        return made
    twice, _ = Counter(keys).most_common(1)[0]
    raise _error(f"the end of a {done.kind} that has {_shown(twice)} twice", end)


def _shown(key: Scalar) -> str:
    return repr(key[:_SHOWN] if isinstance(key, bytes) else key)
