# Law of this file: we advertise what stock git says it can do, as far as we understand it, and what
# we add ourselves. A client may ask for all that is advertised, so what our parser of requests does
# not know is never passed on. The format is described in git's gitprotocol-v2(5).

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from wire.git.arguments import known_format
from wire.git.pktline import FLUSH, ProtocolError, Special, parse, shown, text

_VERSION: Final = b"version 2"
_CAPABILITY: Final = re.compile(rb"([A-Za-z0-9_-]+)(?:=([ -~]*))?")
_AGENT: Final = re.compile(r"[!-~]+")
# With the line feed that gitprotocol-http(5) asks for, and without, as some servers send it.
_PREFACES: Final = (b"001e# service=git-upload-pack\n0000", b"001d# service=git-upload-pack0000")
_V2_BEGINS: Final = (b"000eversion 2\n", b"000dversion 2")

# Capabilities that are passed on as they are; `agent` is ours.
_PLAIN: Final = frozenset({"server-option", "object-format"})
# Commands that are passed on, and the features of each that wire.git.v2 can read. `sideband-all`
# is not among them: it would wrap the sections before the pack, which we write ourselves.
_COMMANDS: Final = {
    "ls-refs": frozenset({"unborn"}),
    "fetch": frozenset({"shallow", "wait-for-done", "filter", "ref-in-want"}),
    "object-info": frozenset({"size"}),
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """A protocol v2 capability advertisement.

    Attributes:
        entries: names and values, in their order; None for a capability without ``=``.
    """

    entries: tuple[tuple[str, str | None], ...]

    def has(self, name: str) -> bool:
        """Tell whether ``name`` is advertised."""
        return any(name == known for known, _ in self.entries)

    def value(self, name: str) -> str:
        """What follows ``name=``; empty if nothing does or ``name`` is not advertised."""
        return next((value or "" for known, value in self.entries if name == known), "")

    @property
    def object_format(self) -> str:
        """``sha1`` or ``sha256``; by the specification ``sha1`` where nothing is said."""
        return self.value("object-format") or "sha1"

    @property
    def fetch_features(self) -> tuple[str, ...]:
        """What ``fetch`` can do beyond the least, such as ``shallow`` and ``filter``."""
        return tuple(self.value("fetch").split())


def parse_advertisement(body: bytes) -> Capabilities:
    """Read what ``git upload-pack --advertise-refs`` says with ``GIT_PROTOCOL=version=2``.

    Over HTTP it may have a preface. What is advertised that we do not know is kept; neither
    :func:`advertise` nor :func:`intersect` passes it on.

    Raises:
        ProtocolError: it is no whole v2 advertisement, or names a capability twice.
    """
    packets = parse(without_preface(body))
    if not packets or packets.pop() is not Special.FLUSH:
        raise ProtocolError("the capability advertisement does not end with a flush")
    entries: dict[str, str | None] = {}
    for number, packet in enumerate(packets):
        if isinstance(packet, Special):
            raise ProtocolError("a special packet inside the capability advertisement")
        line = packet.removesuffix(b"\n")
        if number == 0:
            _check_version(line)
            continue
        match = _CAPABILITY.fullmatch(line)
        if match is None:
            raise ProtocolError(f"'{shown(line)}' is no capability")
        name = match[1].decode("ascii")
        if name in entries:
            raise ProtocolError(f"the capability '{name}' is advertised twice")
        if name == "object-format":
            known_format(match[2] or b"")
        entries[name] = None if match[2] is None else match[2].decode("ascii")
    if not packets:
        raise ProtocolError("the capability advertisement is empty")
    return Capabilities(tuple(entries.items()))


def _check_version(line: bytes) -> None:
    if line != _VERSION:
        raise ProtocolError(f"expected 'version 2', got '{shown(line)}'; use git 2.18 or newer")


def without_preface(body: bytes) -> bytes:
    """An answer at ``info/refs`` without what names the service, if it begins with that."""
    for preface in _PREFACES:
        if body.startswith(preface):
            return body[len(preface) :]
    return body


def is_v2(body: bytes) -> bool:
    """Tell whether an answer at ``info/refs``, with its preface or without, is protocol v2's.

    It is asked of any bytes; what is not v2 may be v0, v1 or no answer of git at all.
    """
    return without_preface(body).startswith(_V2_BEGINS)


def intersect(ours: Capabilities, theirs: Capabilities) -> Capabilities:
    """What a client may ask if either of two servers may have to answer it.

    Args:
        ours: our local git's, whose order is kept.
        theirs: another server's, which may advertise anything.

    Raises:
        ProtocolError: their objects are named by another hash than ours.
    """
    if ours.object_format != theirs.object_format:
        raise ProtocolError(
            f"object ids are {theirs.object_format} there, and {ours.object_format} here"
        )
    entries: list[tuple[str, str | None]] = []
    for name, value in ours.entries:
        if not theirs.has(name):
            continue
        if name in _PLAIN:
            entries.append((name, value))
        elif name in _COMMANDS:
            known = _COMMANDS[name] & set(theirs.value(name).split())
            features = [word for word in (value or "").split() if word in known]
            entries.append((name, " ".join(features) or None))
    return Capabilities(tuple(entries))


def lacking(ours: Capabilities, theirs: Capabilities) -> tuple[str, ...]:
    """What a client may ask of our local git and not of another server, such as ``fetch=filter``.

    What no request of ours can hold is left out; see :func:`intersect`.
    """
    if ours.object_format != theirs.object_format:
        return (f"object-format={ours.object_format}",)
    found: list[str] = []
    for name, value in intersect(ours, ours).entries:
        if name == "object-format":
            continue  # where nothing is said it is sha1
        if not theirs.has(name):
            found.append(name)
            continue
        known = theirs.value(name).split()
        found += [f"{name}={word}" for word in (value or "").split() if word not in known]
    return tuple(found)


def advertise(stock: Capabilities, agent: str, packfile_uris: bool, bundle_uri: bool) -> bytes:
    """Our own advertisement, made from stock git's.

    Args:
        stock: what the backend can do.
        agent: our name and version, such as ``offramp/0.1``.
        packfile_uris: also offer to answer a fetch with URLs.
        bundle_uri: also offer the command ``bundle-uri``.

    Returns:
        The packets with their final flush, without the preface of HTTP (see
        :func:`service_preface`).

    Raises:
        ValueError: ``agent`` is empty, or not printable ASCII without spaces.
    """
    if _AGENT.fullmatch(agent) is None:
        raise ValueError(f"the agent {agent!r} must be printable ASCII without spaces")
    lines = ["version 2", f"agent={agent}"]
    for name, value in stock.entries:
        if name in _PLAIN:
            lines.append(name if value is None else f"{name}={value}")
        elif name in _COMMANDS:
            features = [word for word in (value or "").split() if word in _COMMANDS[name]]
            if name == "fetch" and packfile_uris:
                features.append("packfile-uris")
            lines.append(f"{name}={' '.join(features)}" if features else name)
    if bundle_uri:
        lines.append("bundle-uri")
    return b"".join(text(line.encode("ascii")) for line in lines) + FLUSH


def service_preface(service: str) -> bytes:
    """What precedes an advertisement over HTTP: ``# service=git-upload-pack`` and a flush.

    See git's gitprotocol-http(5). Clients of protocol v2 accept an answer with it and without.
    """
    return text(b"# service=" + service.encode("ascii")) + FLUSH
