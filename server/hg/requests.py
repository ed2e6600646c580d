# Law of this file: what a request means is found once for all who send the same bytes, and costs a
# digest for all others: a fleet sends the same hundred thousand nodes again within seconds.

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from wire.hg import cbor
from wire.hg.cbor import Encodable, Value
from wire.hg.commands import COMMANDS, BadArguments, CommandSpec, check_arguments
from wire.hg.errors import ProtocolViolation
from wire.hg.messages import Offer, parse_request

_KEPT: Final = 1024

# Arguments of requests up to this size are kept with what they mean. Those of larger ones are read
# again by the one who computes the answer. A byte of a request can be many of what is read from it.
_SMALL: Final = 1 << 10

# Bytes of requests that are read in the event loop; more would stop it for too long.
_QUICK: Final = 64 << 10

# A request may be all nodes or all paths, of some bytes each. What has more members than that for
# its size is no request that anybody makes, and costs far more to read than to send.
_FEW_MEMBERS: Final = 1000
_BYTES_A_MEMBER: Final = 8

# Bytes of a name that nobody knows that are told back; an error fits into a frame.
_SHOWN: Final = 100

Meaning: TypeAlias = "Understood | BadArguments | ProtocolViolation"
"""What a request asks, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Understood:
    """What a request asks.

    Attributes:
        spec: the command.
        offer: what the client says of redirects.
        digest: of the command and its arguments, equal for all that ask the same.
        roots: changesets that revision specifiers name as roots; what they mean depends on whether
            the repository has them.
    """

    spec: CommandSpec
    offer: Offer | None
    digest: bytes
    roots: tuple[bytes, ...]
    _args: Mapping[bytes, Value] | None
    _payload: bytes | None

    def arguments(self) -> Mapping[bytes, Value]:
        """The checked arguments, defaults filled in. Long ones are read again, which takes time."""
        if self._args is not None:
            return self._args
        assert self._payload is not None  # noqa: S101 - one of the two is there
        return check_arguments(self.spec, parse_request(self._payload).args)

    @property
    def is_small(self) -> bool:
        """Its arguments were few enough to be kept."""
        return self._args is not None

    @property
    def is_short(self) -> bool:
        """Keeping it costs little, whatever it was read from."""
        names = () if self.offer is None else (*self.offer.targets, *self.offer.hashes)
        return sum(map(len, (*self.roots, *names))) <= _SMALL

    def carrying(self, payload: bytes) -> Understood:
        """The same, with the bytes that it was read from."""
        if self._args is not None:
            return self
        return replace(self, _payload=payload)


@dataclass(slots=True)
class Requests:
    """Remembers what requests meant."""

    _known: OrderedDict[bytes, Understood] = field(default_factory=OrderedDict)

    async def understand(self, payloads: Sequence[bytes]) -> list[Meaning]:
        """What the maps of an exchange's requests ask, in their order."""
        if sum(map(len, payloads)) <= _QUICK:
            found = [(key, self._known.get(key)) for key in map(_digest, payloads)]
            return [self._meant(*each) for each in zip(found, payloads, strict=True)]
        keys = await asyncio.to_thread(lambda: list(map(_digest, payloads)))
        found = [(key, self._known.get(key)) for key in keys]
        return await asyncio.to_thread(
            lambda: [self._meant(*each) for each in zip(found, payloads, strict=True)]
        )

    def _meant(self, found: tuple[bytes, Understood | None], payload: bytes) -> Meaning:
        key, known = found
        if known is None:
            try:
                known = _understood(payload)
            except (BadArguments, ProtocolViolation) as wrong:
                return wrong
            if known.is_short:
                self._known[key] = known
                # Another thread may have been faster, and a little too many do no harm.
                while len(self._known) > _KEPT:
                    with suppress(KeyError):
                        self._known.popitem(last=False)
        return known.carrying(payload)


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()


def _understood(payload: bytes) -> Understood:
    members = _FEW_MEMBERS + len(payload) // _BYTES_A_MEMBER
    request = parse_request(payload, replace(cbor.DEFAULT, members=members))
    spec = COMMANDS.get(request.name)
    if spec is None:
        raise BadArguments(b"unknown command: %s", request.name[:_SHOWN])
    args = check_arguments(spec, request.args)
    digest = _digest(cbor.encode({name: _canonical(args[name]) for name in args}))
    kept = args if len(payload) <= _SMALL else None
    return Understood(spec, request.offer, digest, _roots(args), kept, None)


def _roots(args: Mapping[bytes, Value]) -> tuple[bytes, ...]:
    specs = args.get(b"revisions")
    found: set[bytes] = set()
    for spec in specs if isinstance(specs, list) else ():
        roots = spec.get(b"roots") if isinstance(spec, dict) else None
        if isinstance(roots, list | frozenset):
            found.update(node for node in roots if isinstance(node, bytes))
    return tuple(sorted(found))


def _canonical(value: Value) -> Encodable:
    """An argument in the one form that all of its meaning share, and nothing else has.

    All lists that commands take are lists of what is wanted, whatever their order. Which kind of
    members they have is said: a list of maps is none of byte strings that look like maps.
    """
    match value:
        case list():
            strings = {each for each in value if isinstance(each, bytes)}
            others = (each for each in value if not isinstance(each, bytes))
            return [sorted(strings), sorted({cbor.encode(_canonical(each)) for each in others})]
        case dict():
            return {key: _canonical(each) for key, each in value.items()}
        case _:
            return value
