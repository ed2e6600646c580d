# Law of this file: how a client names changesets, in the protocol's own three ways.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repos.hg.errors import CommandError
from wire.hg.cbor import Value


@dataclass(frozen=True, slots=True)
class Explicit:
    """These changesets."""

    nodes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ExplicitDepth:
    """These changesets and their ancestors, ``depth`` generations in all."""

    nodes: tuple[bytes, ...]
    depth: int


@dataclass(frozen=True, slots=True)
class DagRange:
    """The ancestors of ``heads`` without those of ``roots``; both inclusive.

    Roots may be unknown: they are a client's own changesets, and then mean nothing here. There may
    be no heads, as stock clients ask of an empty repository (whose stock server refuses it).
    """

    roots: tuple[bytes, ...]
    heads: tuple[bytes, ...]


Revisions = Explicit | ExplicitDepth | DagRange


def parse_revisions(specs: Sequence[Value]) -> tuple[Revisions, ...]:
    """Read the argument ``revisions`` of a command.

    Raises:
        CommandError: it is not what the protocol describes.
    """
    return tuple(_parse(spec) for spec in specs)


def _parse(spec: Value) -> Revisions:
    if not isinstance(spec, dict):
        raise CommandError(b"a revision specifier must be a map")
    kind = spec.get(b"type")
    if not isinstance(kind, bytes):
        raise CommandError(b"type key not present in revision specifier")
    if kind == b"changesetexplicit":
        return Explicit(_nodes(spec, kind, b"nodes"))
    if kind == b"changesetexplicitdepth":
        nodes = _nodes(spec, kind, b"nodes")
        depth = spec.get(b"depth")
        if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
            raise CommandError(b"depth key of %s must be a positive integer", (kind,))
        return ExplicitDepth(nodes, depth)
    if kind == b"changesetdagrange":
        roots, heads = _nodes(spec, kind, b"roots"), _nodes(spec, kind, b"heads")
        return DagRange(roots, heads)
    raise CommandError(b"unknown revision specifier type: %s", (kind,))


def _nodes(
    spec: dict[int | bytes | bool | None, Value], kind: bytes, key: bytes
) -> tuple[bytes, ...]:
    if key not in spec:
        raise CommandError(b"%s key not present in %s revision specifier", (key, kind))
    return parse_nodes(spec[key], key)


def parse_nodes(value: Value, key: bytes) -> tuple[bytes, ...]:
    """Read a list of nodes.

    Raises:
        CommandError: it is something else.
    """
    if not isinstance(value, list | frozenset):
        raise CommandError(b"%s must be a list of nodes", (key,))
    nodes = tuple(node for node in value if isinstance(node, bytes) and len(node) == 20)
    if len(nodes) != len(value):
        raise CommandError(b"%s must be a list of nodes, which have 20 bytes", (key,))
    return nodes
