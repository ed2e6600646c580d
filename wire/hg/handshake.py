# Law of this file: how a client that knows more than version 1 says so, and what it is told: the
# headers of the handshake, and the descriptor of this API.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from wire.hg import cbor
from wire.hg.cbor import Value
from wire.hg.commands import PATH_FILTER_PREFIXES, CommandSpec, describe
from wire.hg.errors import ProtocolViolation, shown
from wire.hg.messages import FRAMING_MEDIA_TYPE, sorted_names

API_NAME: Final = "exp-http-v2-0003"
API_BASE: Final = "api/"

# Headers beyond these are not read. Mercurial splits values at about a kilobyte.
MAX_HEADERS: Final = 16

HASHES: Final = (b"sha256", b"sha1")


def numbered(headers: Mapping[str, str], name: str) -> str:
    """The value that was split over ``<name>-1``, ``<name>-2`` and so on."""
    pieces: list[str] = []
    for number in range(1, MAX_HEADERS + 1):
        piece = headers.get(f"{name}-{number}")
        if piece is None:
            break
        pieces.append(piece)
    return "".join(pieces)


def wants_upgrade(headers: Mapping[str, str]) -> bool:
    """Whether a client asks for this API, and reads CBOR: it must say both.

    Args:
        headers: looked up without regard to case.
    """
    apis = numbered(headers, "X-HgUpgrade").split()
    return API_NAME in apis and "cbor" in numbered(headers, "X-HgProto").split()


def asks_upgrade(headers: Mapping[str, str]) -> bool:
    """Whether a client speaks of upgrades at all, whichever APIs it names."""
    return bool(
        numbered(headers, "X-HgUpgrade") and "cbor" in numbered(headers, "X-HgProto").split()
    )


@dataclass(frozen=True, slots=True)
class AdvertisedTarget:
    """A place that responses may be redirected to.

    Attributes:
        name: clients send it back if they can use the target.
        protocol: ``http`` or ``https``.
        uris: examples of what locations look like.
        sni_required: the client must send the host's name in the TLS handshake.
        tls_versions: that the target speaks; empty, nothing is said of it.
    """

    name: str
    protocol: str
    uris: tuple[str, ...]
    sni_required: bool = False
    tls_versions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What this API can do for one repository.

    Attributes:
        commands: that are answered.
        raw_formats: requirements of the store's files, for who copies them.
        targets: of redirects; None where there are no redirects.
        hashes: by which redirected content can be checked.
        encodings: of requests that the server reads; our own word (``requestencodings``), since
            Mercurial's server breaks on all but identity and so says nothing.
    """

    commands: tuple[CommandSpec, ...]
    raw_formats: tuple[bytes, ...]
    targets: tuple[AdvertisedTarget, ...] | None = None
    hashes: tuple[bytes, ...] = HASHES
    encodings: tuple[bytes, ...] = ()


def encode_descriptor(descriptor: Descriptor) -> Value:
    """The descriptor as a value: in the handshake, and as the answer to ``capabilities``."""
    fields: dict[cbor.Scalar, Value] = {
        b"commands": {spec.name: describe(spec) for spec in descriptor.commands},
        b"framingmediatypes": [FRAMING_MEDIA_TYPE.encode()],
        b"pathfilterprefixes": frozenset[cbor.Scalar](PATH_FILTER_PREFIXES),
        b"rawrepoformats": [*sorted(descriptor.raw_formats)],
    }
    if descriptor.encodings:
        fields[b"requestencodings"] = [*descriptor.encodings]
    if descriptor.targets is not None:
        fields[b"redirect"] = {
            b"targets": [_target_fields(target) for target in descriptor.targets],
            b"hashes": [*descriptor.hashes],
        }
    return fields


def _target_fields(target: AdvertisedTarget) -> Value:
    fields: dict[cbor.Scalar, Value] = {
        b"name": target.name.encode(),
        b"protocol": target.protocol.encode(),
        b"uris": [uri.encode() for uri in target.uris],
    }
    if target.sni_required:
        fields[b"snirequired"] = True
    if target.tls_versions:
        fields[b"tlsversions"] = [version.encode() for version in target.tls_versions]
    return fields


def encode_handshake(apis: Mapping[str, Value], v1_capabilities: bytes) -> bytes:
    """The answer to ``?cmd=capabilities`` of a client that asks for an upgrade."""
    return cbor.encode(
        {
            b"apibase": API_BASE.encode(),
            b"apis": {name.encode(): descriptor for name, descriptor in apis.items()},
            b"v1capabilities": v1_capabilities,
        }
    )


# --- the client's side ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerApi:
    """What a server says of this API.

    Attributes:
        base: path of all APIs below the repository's URL, without slashes around it.
        commands: their names, each with its arguments' types and the permissions that it needs.
        targets: of redirects, in its order.
        hashes: that it can name content by.
        encodings: of requests that it reads.
    """

    base: str
    commands: Mapping[bytes, ServerCommand]
    targets: tuple[AdvertisedTarget, ...] = ()
    hashes: tuple[bytes, ...] = ()
    encodings: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """What a server says of one command."""

    args: Mapping[bytes, bytes] = field(default_factory=dict)
    permissions: frozenset[bytes] = frozenset((b"pull",))


def parse_handshake(body: bytes) -> ServerApi | None:
    """Read the answer to a handshake; None if the server does not speak this API, in our frames.

    Raises:
        ProtocolViolation: it is no such answer.
    """
    try:
        fields = cbor.decode_one(body)
    except cbor.CborError as error:
        raise ProtocolViolation(f"a handshake that cannot be read: {error}") from None
    match fields:
        case {b"apibase": bytes(base), b"apis": dict(apis)}:
            descriptor = apis.get(API_NAME.encode())
        case _:
            raise ProtocolViolation("a handshake without apibase or apis")
    if descriptor is None:
        return None
    if not isinstance(descriptor, dict):
        raise ProtocolViolation("a descriptor that is no map")
    framings = sorted_names(descriptor.get(b"framingmediatypes"))
    # Who names none has only one.
    if framings is not None and FRAMING_MEDIA_TYPE.encode() not in framings:
        return None
    try:
        return parse_descriptor(base.decode("ascii").strip("/"), descriptor)
    except UnicodeDecodeError:
        raise ProtocolViolation(f"an apibase that is no path: {shown(base)}") from None


def parse_descriptor(base: str, descriptor: Mapping[cbor.Scalar, Value]) -> ServerApi:
    """Read a descriptor; ``base`` is where the API lies.

    Raises:
        ProtocolViolation: it is none.
    """
    commands = descriptor.get(b"commands")
    if not isinstance(commands, dict):
        raise ProtocolViolation("a descriptor without commands")
    redirect = descriptor.get(b"redirect")
    targets: tuple[AdvertisedTarget, ...] = ()
    hashes: tuple[bytes, ...] = ()
    if isinstance(redirect, dict):
        listed = redirect.get(b"targets")
        found = map(_target, listed) if isinstance(listed, list) else ()
        targets = tuple(target for target in found if target is not None)
        hashes = sorted_names(redirect.get(b"hashes")) or ()
    return ServerApi(
        base,
        {name: _command(entry) for name, entry in commands.items() if isinstance(name, bytes)},
        targets,
        hashes,
        sorted_names(descriptor.get(b"requestencodings")) or (),
    )


def _command(entry: Value) -> ServerCommand:
    if not isinstance(entry, dict):
        return ServerCommand()
    args = entry.get(b"args")
    types: dict[bytes, bytes] = {}
    for name, argument in args.items() if isinstance(args, dict) else ():
        kind = argument.get(b"type") if isinstance(argument, dict) else None
        if isinstance(name, bytes) and isinstance(kind, bytes):
            types[name] = kind
    return ServerCommand(types, frozenset(sorted_names(entry.get(b"permissions")) or (b"pull",)))


def _target(entry: Value) -> AdvertisedTarget | None:
    """A target; None for one that says too little to be used."""
    if not isinstance(entry, dict):
        return None
    name, protocol = entry.get(b"name"), entry.get(b"protocol")
    if not isinstance(name, bytes) or not isinstance(protocol, bytes):
        return None
    return AdvertisedTarget(
        name.decode("utf-8", "replace"),
        protocol.decode("utf-8", "replace"),
        _texts(entry.get(b"uris")),
        entry.get(b"snirequired") is True,
        _texts(entry.get(b"tlsversions")),
    )


def _texts(value: Value) -> tuple[str, ...]:
    return tuple(name.decode("utf-8", "replace") for name in sorted_names(value) or ())
