# Law of this file: whether a server lets an object be had is decided by the first packets of its
# answer, and no more of the answer can change it. What is no answer to a fetch is neither yes nor
# no. The format is described in git's gitprotocol-v2(5), "fetch".

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from wire.git.pktline import Decoder, ProtocolError, Special, printable, shown

LONGEST_PROBE: Final = 64 << 10
"""Most bytes before the pack, in the answer to :func:`wire.git.v2.encode_probe`: what stock git
sends there, one shallow commit, stays under 200."""

_PACKFILE: Final = b"packfile"
_BEFORE_PACK: Final = frozenset({b"acknowledgments", b"shallow-info"})


@dataclass(frozen=True, slots=True)
class Allowed:
    """The server begins to send the object."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The server does not.

    Attributes:
        message: why, in its own words; one printable line.
    """

    message: str


Verdict: TypeAlias = Allowed | Refused


def probe_verdict(body_prefix: bytes) -> Verdict | None:
    """What the beginning of the answer to a probe says; None: not yet enough of it.

    Raises:
        ProtocolError: it is no answer to a fetch, ends without a pack, or has more than
            :data:`LONGEST_PROBE` bytes before one.
    """
    decoder = Decoder()
    title_due = True
    # Byte by byte: what follows the packet that decides is not looked at.
    for at in range(min(len(body_prefix), LONGEST_PROBE)):
        for packet in decoder.feed(body_prefix[at : at + 1]):
            if packet is Special.DELIM and not title_due:
                title_due = True
            elif isinstance(packet, Special):
                raise ProtocolError(f"unexpected {packet.name} packet: the answer has no pack")
            elif packet.startswith(b"ERR "):
                words = packet[4:].decode("utf-8", "replace").split()
                return Refused(printable(" ".join(words)) or "unknown error")
            elif title_due:
                title = packet.removesuffix(b"\n")
                if title == _PACKFILE:
                    return Allowed()
                if title not in _BEFORE_PACK:
                    raise ProtocolError(f"expected a section of a fetch, got '{shown(packet)}'")
                title_due = False
    if len(body_prefix) >= LONGEST_PROBE:
        raise ProtocolError(f"no pack begins within {LONGEST_PROBE} bytes of the answer")
    return None
