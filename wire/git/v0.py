# Law of this file: one stateless request of protocol v0 or v1 is one value, and its canonical form
# is what a backend is given. What says who asks is dropped, what is unordered is sorted; the haves
# and the flushes between them stay as they came, because the answer goes through them in order.
# The format is described in git's gitprotocol-pack(5) and gitprotocol-http(5).

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from wire.git import pktline
from wire.git.arguments import depth, filter_spec, known_format, lines, object_id, since
from wire.git.pktline import Packet, ProtocolError, Special, shown

LONGEST_CAPABILITIES: Final = 16 << 10
"""Most bytes of capabilities in one request: what stock git sends stays under 300."""

_CAPABILITIES: Final = re.compile(rb"[ -~]*")
_SHA256_DIGITS: Final = 64
_DROPPED: Final = ("agent=", "session-id=")
SIDEBANDS: Final = frozenset({"side-band", "side-band-64k"})


@dataclass(frozen=True, slots=True)
class V0Fetch:
    """A round of negotiation, or the request for a pack.

    Attributes:
        wants, shallows, haves: object ids in hex, without duplicates, in the client's order.
        capabilities: what the client asked for with its first want, as it spelt it; without
            ``agent=`` and ``session-id=``.
        agent: the client's name and version; empty if it does not say.
        object_format: ``sha1`` or ``sha256``.
        deepen: history of this many commits; 2147483647 is all of it.
        deepen_since: history since this time, in seconds since the epoch.
        deepen_not: history that these refs do not reach.
        filter: a partial clone's filter specification.
        done: no more negotiation, send the pack.
        canonical: the request for a backend; equal for requests that ask for the same.
    """

    wants: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    agent: str = ""
    object_format: str = "sha1"
    shallows: tuple[str, ...] = ()
    deepen: int | None = None
    deepen_since: int | None = None
    deepen_not: tuple[bytes, ...] = ()
    filter: str | None = None
    haves: tuple[str, ...] = ()
    done: bool = False
    canonical: bytes = pktline.FLUSH


@dataclass(slots=True)
class _Asked:
    """The lines before the first flush; a dict keeps order and drops duplicates."""

    capabilities: tuple[str, ...] = ()
    object_format: str = "sha1"
    wants: dict[str, None] = field(default_factory=dict)
    shallows: dict[str, None] = field(default_factory=dict)
    deepen: int | None = None
    deepen_since: int | None = None
    deepen_not: dict[bytes, None] = field(default_factory=dict)
    filter: str | None = None


def parse_request(body: bytes) -> V0Fetch:
    """Read one complete request body; a lone flush wants nothing.

    Raises:
        ProtocolError: the body is not one well-formed request.
    """
    packets = pktline.parse(body)
    if Special.FLUSH not in packets:
        raise ProtocolError("expected flush after the wants")
    split = packets.index(Special.FLUSH)
    asked = _asked(lines(packets[:split]))
    if not asked.wants:
        if len(packets) > 1:
            raise ProtocolError("nothing is wanted, but the request goes on")
        return V0Fetch()
    rounds, haves, done = _negotiation(packets[split + 1 :], asked.object_format)
    agents = [c.partition("=")[2] for c in asked.capabilities if c.startswith("agent=")]
    return V0Fetch(
        wants=tuple(asked.wants),
        capabilities=frozenset(c for c in asked.capabilities if not c.startswith(_DROPPED)),
        agent=agents[0] if agents else "",
        object_format=asked.object_format,
        shallows=tuple(asked.shallows),
        deepen=asked.deepen,
        deepen_since=asked.deepen_since,
        deepen_not=tuple(asked.deepen_not),
        filter=asked.filter,
        haves=haves,
        done=done,
        canonical=_canonical_wants(asked) + pktline.FLUSH + rounds,
    )


def _asked(arguments: Sequence[bytes]) -> _Asked:
    asked = _Asked()
    for line in arguments:
        key, _, value = line.partition(b" ")
        if key == b"want":
            if not asked.wants:
                value, _, words = value.partition(b" ")
                asked.capabilities = _capabilities(words)
                asked.object_format = _format_of(asked.capabilities, value)
            asked.wants[object_id(value, asked.object_format)] = None
        elif not asked.wants:
            raise ProtocolError(f"expected a want first, got '{shown(line)}'")
        elif key == b"shallow":
            asked.shallows[object_id(value, asked.object_format)] = None
        elif key == b"deepen":
            asked.deepen = depth(value, line)
        elif key == b"deepen-since":
            asked.deepen_since = since(value, line)
        elif key == b"deepen-not" and value:
            asked.deepen_not[value] = None
        elif key == b"filter":
            if asked.filter is not None:
                raise ProtocolError("multiple filter-specs cannot be combined")
            asked.filter = filter_spec(value, line)
        else:
            raise ProtocolError(f"expected to get object ID, not '{shown(line)}'")
    return asked


def _capabilities(words: bytes) -> tuple[str, ...]:
    if len(words) > LONGEST_CAPABILITIES or _CAPABILITIES.fullmatch(words) is None:
        raise ProtocolError(f"invalid capabilities: '{shown(words)}'")
    return tuple(words.decode("ascii").split())


def _format_of(capabilities: Iterable[str], want: bytes) -> str:
    """The object format; stock git names none in this protocol, so the first want tells."""
    named = [c.partition("=")[2] for c in capabilities if c.startswith("object-format=")]
    if named:
        return known_format(named[-1].encode())
    return "sha256" if len(want) == _SHA256_DIGITS else "sha1"


def _negotiation(
    packets: Sequence[Packet], object_format: str
) -> tuple[bytes, tuple[str, ...], bool]:
    """The part after the wants: its canonical bytes, the haves, and whether it says done."""
    raw = bytearray()
    haves: dict[str, None] = {}
    done = False
    for packet in packets:
        if packet is Special.FLUSH:
            if not done:  # git stops reading at done, so a flush behind it is harmless
                raw += pktline.FLUSH
            continue
        if done:
            raise ProtocolError("the request goes on after done")
        (line,) = lines([packet])
        key, _, value = line.partition(b" ")
        if key == b"have":
            haves[object_id(value, object_format)] = None
        elif line == b"done":
            done = True
        else:
            raise ProtocolError(f"expected a have, got '{shown(line)}'")
        raw += pktline.text(line)
    if packets and not done and packets[-1] is not Special.FLUSH:
        raise ProtocolError("expected done or flush after the haves")
    return bytes(raw), tuple(haves), done


def _canonical_wants(asked: _Asked) -> bytes:
    kept = {c for c in asked.capabilities if not c.startswith(_DROPPED)}
    if kept & SIDEBANDS:
        kept.add("no-progress")
    wants = [b"want %b" % oid.encode("ascii") for oid in sorted(asked.wants)]
    wants[0] = b" ".join((wants[0], *(c.encode() for c in sorted(kept))))
    rest = [
        *(b"shallow %b" % oid.encode("ascii") for oid in sorted(asked.shallows)),
        *([] if asked.deepen is None else [b"deepen %d" % asked.deepen]),
        *([] if asked.deepen_since is None else [b"deepen-since %d" % asked.deepen_since]),
        *(b"deepen-not %b" % name for name in sorted(asked.deepen_not)),
        *([] if asked.filter is None else [b"filter %b" % asked.filter.encode()]),
    ]
    return b"".join(map(pktline.text, wants + rest))
