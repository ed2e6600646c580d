# Law of this file: what a request means is found once for all who send the same bytes, and costs a
# digest for all others: a fleet sends the same hundred thousand nodes again within seconds.

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from wire.hg import cbor
from wire.hg.cbor import Encodable, Value
from wire.hg.commands import COMMANDS, BadArguments, CommandSpec, check_arguments
from wire.hg.messages import Offer, parse_request

_KEPT: Final = 2048

# Arguments of requests up to this size are kept with what they mean. Those of larger ones are read
# again by the one who computes the answer.
_SMALL: Final = 16 << 10

# Requests up to this size are read in the event loop; longer ones would stop it for too long.
_QUICK: Final = 64 << 10


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

    def carrying(self, payload: bytes) -> Understood:
        """The same, with the bytes that it was read from."""
        if self._args is not None:
            return self
        return replace(self, _payload=payload)


@dataclass(slots=True)
class Requests:
    """Remembers what requests meant."""

    _known: OrderedDict[bytes, Understood] = field(default_factory=OrderedDict)

    async def understand(self, payload: bytes) -> Understood:
        """What the map of a request asks.

        Raises:
            wire.hg.errors.ProtocolViolation: it is no request.
            BadArguments: there is no such command, or its arguments are not these.
        """
        key = hashlib.sha256(payload).digest()
        known = self._known.get(key)
        if known is None:
            if len(payload) <= _QUICK:
                known = _understood(payload)
            else:
                known = await asyncio.to_thread(_understood, payload)
            self._known[key] = known
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known.carrying(payload)


def _understood(payload: bytes) -> Understood:
    request = parse_request(payload)
    spec = COMMANDS.get(request.name)
    if spec is None:
        raise BadArguments(b"unknown command: %s", request.name)
    args = check_arguments(spec, request.args)
    digest = hashlib.sha256(cbor.encode({name: _canonical(args[name]) for name in args})).digest()
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
    """An argument in the one form that all of its meaning share.

    All lists that commands take are lists of what is wanted, whatever their order.
    """
    match value:
        case list():
            if all(isinstance(each, bytes) for each in value):
                return sorted({each for each in value if isinstance(each, bytes)})
            return sorted(cbor.encode(_canonical(each)) for each in value)
        case dict():
            return {key: _canonical(each) for key, each in value.items()}
        case _:
            return value
