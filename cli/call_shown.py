# Law of this file: objects of answers for people, as JSON, and as the bytes they are; whatever a
# server sends, a terminal gets printable text.

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from wire.hg import cbor
from wire.hg.cbor import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wire.hg.cbor import Item, Scalar, Value

# A line that most terminals hold.
_WIDTH: Final = 100

# Of strings in what people read; whoever wants all of it takes --json or --raw.
_TEXT: Final = 300
_BINARY: Final = 32


def as_text(value: bytes) -> str | None:
    """A byte string as text; None if it is none, or holds what a terminal would obey."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    plain = text.replace("\n", "").replace("\t", "")
    return text if not plain or plain.isprintable() else None


# --- for people -----------------------------------------------------------------------------


class Shown:
    """Writes the objects of one answer, one after another, for people."""

    def __init__(self) -> None:
        self._head = b""
        self._size = 0

    def lines(self, item: Item) -> str | None:
        """What is printed of an object; None within a byte string that comes in pieces."""
        if not isinstance(item, Chunk):
            return shown(item)
        if item.first:
            self._head, self._size = b"", 0
        if len(self._head) <= _TEXT:
            self._head += item.data[: _TEXT + 1]
        self._size += len(item.data)
        return _string(self._head, self._size) if item.last else None


def shown(value: Value, indent: int = 0) -> str:
    """A value on one line if it fits, else with a line for each of its members."""
    line = _flat(value)
    if indent + len(line) <= _WIDTH or not isinstance(value, dict | list | frozenset):
        return line
    pad = " " * (indent + 2)
    if isinstance(value, dict):
        members = [f"{_key(key)}: {shown(each, indent + 2)}" for key, each in value.items()]
    else:
        members = [shown(each, indent + 2) for each in _members(value)]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    rows = "".join(f"{pad}{member},\n" for member in members)
    return f"{opening}\n{rows}{' ' * indent}{closing}"


def _flat(value: Value) -> str:
    match value:
        case bytes():
            return _string(value, len(value))
        case list():
            return f"[{', '.join(map(_flat, value))}]"
        case dict():
            pairs = (f"{_key(key)}: {_flat(each)}" for key, each in value.items())
            return f"{{{', '.join(pairs)}}}"
        case frozenset():
            return f"{{{', '.join(map(_flat, _members(value)))}}}"
        case _:
            return json.dumps(value)


def _members(value: list[Value] | frozenset[Scalar]) -> Iterable[Value]:
    return value if isinstance(value, list) else sorted(value, key=cbor.encode)


def _key(key: Scalar) -> str:
    if isinstance(key, bytes):
        text = as_text(key)
        return text if text and text.isprintable() and " " not in text else _flat(key)
    return _flat(key)


def _string(head: bytes, size: int) -> str:
    """A string of which ``head`` is there, and which has ``size`` bytes."""
    text = as_text(head) if len(head) == size else _text_of_cut(head)
    if text is None:
        limit = min(size, _BINARY)
        return head[:limit].hex() + (f"... ({size} bytes)" if size > limit else "")
    cut = len(text) > _TEXT or len(head) < size
    quoted = json.dumps(text[:_TEXT], ensure_ascii=False)
    return f"{quoted}... ({size} bytes)" if cut else quoted


def _text_of_cut(head: bytes) -> str | None:
    """As :func:`as_text`; the cut may have gone through the last character."""
    texts = (as_text(head[: len(head) - cut]) for cut in range(4))
    return next((text for text in texts if text is not None), None)


# --- for programs ---------------------------------------------------------------------------


def as_json(item: Item) -> str:
    """An object as one line of JSON.

    Byte strings are strings if they are text, else ``{"hex": ...}``; sets are ``{"set": [...]}``;
    a piece of a byte string that comes in pieces is ``{"piece": ..., "first": ..., "last": ...}``.
    """
    if isinstance(item, Chunk):
        piece = {"piece": plain(item.data), "first": item.first, "last": item.last}
        return json.dumps(piece, ensure_ascii=False)
    return json.dumps(plain(item), ensure_ascii=False)


def plain(value: Value) -> object:
    """A value as JSON has it."""
    match value:
        case bytes():
            text = as_text(value)
            return {"hex": value.hex()} if text is None else text
        case list():
            return [plain(each) for each in value]
        case frozenset():
            return {"set": [plain(each) for each in _members(value)]}
        case dict():
            return {_json_key(key): plain(each) for key, each in value.items()}
        case _:
            return value


def _json_key(key: Scalar) -> str:
    """Keys of JSON are strings."""
    if not isinstance(key, bytes):
        return json.dumps(key)
    text = as_text(key)
    return f"hex:{key.hex()}" if text is None else text


def as_cbor(item: Item) -> bytes:
    """An object as it is sent, in its one encoding."""
    if not isinstance(item, Chunk):
        return cbor.encode(item)
    opening = cbor.INDEFINITE_BYTES if item.first else b""
    return opening + (cbor.BREAK if item.last else cbor.encode(item.data))
