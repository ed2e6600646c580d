# Law of this file: what a server of protocol v0 or v1 advertises is read whole or not at all, and
# is written as stock upload-pack writes it: HEAD first, then by name, what a tag names behind it.
# The format is described in git's gitprotocol-pack(5) and gitprotocol-http(5).

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from wire.git.arguments import OID_LENGTHS, known_format, object_id
from wire.git.capabilities import is_v2, without_preface
from wire.git.pktline import FLUSH, Packet, ProtocolError, Special, parse, shown, text
from wire.git.refs import Ref, Refs
from wire.git.response import RemoteError

_HEAD: Final = b"HEAD"
_PEELED: Final = b"^{}"
_NO_REFS: Final = b"capabilities^{}"
_SHALLOW: Final = b"shallow "
_VERSION_1: Final = b"version 1"
# Not ASCII alone: a symbolic ref is named among the capabilities as the repository spells it.
_CAPABILITIES: Final = re.compile(rb"[^\0-\x1f\x7f]*")
_WORD: Final = re.compile(r"[^\0-\x20\x7f]+")
_NAME: Final = re.compile(rb"[^\0-\x20\x7f]+")  # git-check-ref-format(1): neither space nor control

# What an advertisement of ours says in its own words, whatever the local git said.
_OURS: Final = frozenset({"agent", "object-format", "session-id", "symref"})


@dataclass(frozen=True, slots=True)
class V0Advertisement:
    """What a server of protocol v0 or v1 says at ``info/refs``.

    Attributes:
        capabilities: the words, in their order, as the server spelt them; what is no UTF-8 is
            decoded with ``surrogateescape``.
        object_format: ``sha1`` or ``sha256``; by the specification ``sha1`` where nothing is said.
        refs: in the order in which the server named them.
    """

    capabilities: tuple[str, ...]
    object_format: str
    refs: Refs


def parse_advertisement(body: bytes) -> V0Advertisement:
    """Read one whole ``info/refs?service=git-upload-pack`` answer, with its preface.

    Raises:
        RemoteError: the server says that it failed; the message is its own.
        ProtocolError: it is no such answer, or cut short.
    """
    rest = without_preface(body)
    if len(rest) == len(body):
        raise ProtocolError(f"expected '# service=git-upload-pack', got '{shown(body)}'")
    if is_v2(body):
        raise ProtocolError("expected an advertisement of protocol v0 or v1, got one of v2")
    lines = _lines(parse(rest))
    if lines and lines[0] == _VERSION_1:
        del lines[0]
    if not lines:  # how git before 2.41 advertises an empty repository
        return V0Advertisement((), "sha1", Refs(()))
    lines[0], words = _split(lines[0])
    object_format = _object_format(words)
    while lines and lines[-1].startswith(_SHALLOW):
        object_id(lines.pop().removeprefix(_SHALLOW), object_format)
    if lines == [b"%b %b" % (_zero(object_format), _NO_REFS)]:
        lines.clear()
    refs = Refs(_refs(lines, dict(_symrefs(words)), object_format))
    return V0Advertisement(words, object_format, refs)


def _lines(packets: list[Packet]) -> list[bytes]:
    if not packets or packets.pop() is not Special.FLUSH:
        raise ProtocolError("the advertisement does not end with a flush")
    found: list[bytes] = []
    for packet in packets:
        if isinstance(packet, Special):
            raise ProtocolError("a special packet inside the advertisement")
        if packet.startswith(b"ERR "):
            message = packet[4:].decode("utf-8", "replace").strip()
            raise RemoteError(message or "unknown error")
        found.append(packet.removesuffix(b"\n"))
    return found


def _split(first: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The first line is a ref and, behind a NUL, the capabilities."""
    line, nul, words = first.partition(b"\0")
    if not nul or _CAPABILITIES.fullmatch(words) is None:
        raise ProtocolError(f"expected a ref and capabilities, got '{shown(first)}'")
    return line, tuple(_text(word) for word in words.split(b" ") if word)


def _object_format(words: Iterable[str]) -> str:
    """Of several formats the first is the one that the object ids are in."""
    for word in words:
        key, equals, value = word.partition("=")
        if key == "object-format" and equals:
            return known_format(_bytes(value))
    return "sha1"


def _symrefs(words: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
    for word in words:
        if word.startswith("symref="):
            name, colon, target = _bytes(word).removeprefix(b"symref=").partition(b":")
            if not (name and colon and target):
                raise ProtocolError(f"'{shown(_bytes(word))}' names no symbolic ref")
            yield name, target


def _refs(lines: Iterable[bytes], symrefs: dict[bytes, bytes], object_format: str) -> list[Ref]:
    refs: dict[bytes, Ref] = {}
    last = b""
    for line in lines:
        hex_, _, name = line.partition(b" ")
        oid = object_id(hex_, object_format)
        if name.endswith(_PEELED):
            if name != last + _PEELED or refs[last].peeled is not None:
                raise ProtocolError(f"a peeled tag does not follow its tag: '{shown(line)}'")
            refs[last] = Ref(last, refs[last].oid, refs[last].symref, oid)
            continue
        if _NAME.fullmatch(name) is None or name in refs:
            raise ProtocolError(f"expected one more ref, got '{shown(line)}'")
        refs[name] = Ref(name, oid, symrefs.get(name))
        last = name
    return list(refs.values())


def encode_advertisement(
    refs: Refs, capabilities: Sequence[str], object_format: str, agent: str
) -> bytes:
    """An advertisement of protocol v0, without the preface of HTTP.

    Args:
        refs: what to advertise; an unborn HEAD cannot be said in this protocol.
        capabilities: the words of a local git's advertisement, whose requests we can read. What
            it says of itself and of its own refs is replaced.
        object_format: ``sha1`` or ``sha256``.
        agent: our name and version, such as ``offramp/0.1``.

    Returns:
        The packets with their final flush; see :func:`wire.git.capabilities.service_preface`.

    Raises:
        ValueError: a capability is empty, or no single word, or a line is too long for a packet.
    """
    born = sorted(
        (ref for ref in refs.refs if ref.oid is not None),
        key=lambda ref: (ref.name != _HEAD, ref.name),
    )
    words = [word for word in capabilities if word.partition("=")[0] not in _OURS]
    words += [
        f"symref=HEAD:{_text(ref.symref)}"
        for ref in born[:1]
        if ref.name == _HEAD and ref.symref is not None
    ]
    words += [f"object-format={object_format}", f"agent={agent}"]
    for word in words:
        if _WORD.fullmatch(word) is None:
            raise ValueError(f"the capability {word!r} holds a space or a control character")
    lines = [*_ref_lines(born)] or [b"%b %b" % (_zero(object_format), _NO_REFS)]
    lines[0] += b"\0" + _bytes(" ".join(words))
    return b"".join(map(text, lines)) + FLUSH


def _ref_lines(refs: Iterable[Ref]) -> Iterator[bytes]:
    for ref in refs:
        if ref.oid is not None:
            yield b"%b %b" % (ref.oid.encode("ascii"), ref.name)
        if ref.peeled is not None:
            yield b"%b %b%b" % (ref.peeled.encode("ascii"), ref.name, _PEELED)


def _zero(object_format: str) -> bytes:
    return b"0" * OID_LENGTHS[object_format]


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")


def _bytes(word: str) -> bytes:
    return word.encode("utf-8", "surrogateescape")
