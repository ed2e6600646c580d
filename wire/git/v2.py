# Law of this file: one protocol v2 request is one value. Reading is strict, because what is read
# here is written again for a program and becomes a key; two requests that ask for the same are
# written as the same bytes. The format is described in git's gitprotocol-v2(5).

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, TypeVar

from wire.git import pktline
from wire.git.arguments import depth, filter_spec, known_format, lines, object_id, since
from wire.git.pktline import ProtocolError, Special, shown

MAX_PREFIXES: Final = 65536
"""With more ref prefixes than this, stock git lists every ref rather than match them all."""

WHOLE: Final = 0x7FFFFFFF
"""``deepen`` by this is "all of it" (git's INFINITE_DEPTH). git then sends what is behind every
commit that the client names as shallow, whether or not its wants reach that."""

_SCHEME: Final = re.compile(r"[a-z0-9+.-]+")

_T = TypeVar("_T", str, bytes)


@dataclass(frozen=True, slots=True)
class Session:
    """What a client says about itself with every request.

    Attributes:
        agent: its name and version, such as ``git/2.39.5``; empty if it does not say.
        object_format: ``sha1`` or ``sha256``.
        server_options: words for this server, in the client's order.
    """

    agent: str = ""
    object_format: str = "sha1"
    server_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LsRefs:
    """``ls-refs``: which refs there are.

    Attributes:
        session: who asks.
        peel: also what annotated tags point to.
        symrefs: also what symbolic refs point to.
        unborn: also a HEAD whose branch has no commit.
        prefixes: only refs that begin with one of these; all refs, if empty.
    """

    session: Session
    peel: bool = False
    symrefs: bool = False
    unborn: bool = False
    prefixes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetch:
    """``fetch``: a round of negotiation, or a pack.

    Attributes:
        session: who asks.
        wants, haves, shallows: object ids in hex, without duplicates, in the client's order.
        want_refs: refs wanted by name.
        deepen: history of this many commits; 2147483647 is all of it.
        deepen_since: history since this time, in seconds since the epoch.
        deepen_not: history that these refs do not reach.
        deepen_relative: count ``deepen`` from the client's shallow boundary.
        filter: a partial clone's filter specification.
        done: no more negotiation, send the pack.
        thin_pack: the pack may hold deltas against objects that the client has.
        ofs_delta: the pack may refer to delta bases by offset.
        include_tag: also annotated tags whose target is sent.
        no_progress: no progress messages.
        wait_for_done: no pack before the client says ``done``.
        packfile_uris: URI schemes from which the client accepts packs, lower case.
    """

    session: Session
    wants: tuple[str, ...] = ()
    want_refs: tuple[bytes, ...] = ()
    haves: tuple[str, ...] = ()
    shallows: tuple[str, ...] = ()
    deepen: int | None = None
    deepen_since: int | None = None
    deepen_not: tuple[bytes, ...] = ()
    deepen_relative: bool = False
    filter: str | None = None
    done: bool = False
    thin_pack: bool = False
    ofs_delta: bool = False
    include_tag: bool = False
    no_progress: bool = False
    wait_for_done: bool = False
    packfile_uris: tuple[str, ...] = ()

    def canonical(self) -> Fetch:
        """The same question in its one form: sorted, and free of who asks and how it is shown."""
        return replace(
            self,
            session=Session(object_format=self.session.object_format),
            wants=_sorted(self.wants),
            want_refs=_sorted(self.want_refs),
            haves=_sorted(self.haves),
            shallows=_sorted(self.shallows),
            deepen_not=_sorted(self.deepen_not),
            deepen_relative=self.deepen_relative and self.deepen is not None,
            no_progress=True,
            packfile_uris=(),
        )


@dataclass(frozen=True, slots=True)
class BundleUri:
    """``bundle-uri``: the list of bundles. It has no arguments."""

    session: Session


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """``object-info``: facts about objects.

    Attributes:
        session: who asks.
        oids: the objects, in hex.
        size: their sizes are asked for.
    """

    session: Session
    oids: tuple[str, ...] = ()
    size: bool = False


Request: TypeAlias = LsRefs | Fetch | BundleUri | ObjectInfo


def parse_request(body: bytes) -> Request | None:
    """Read one complete request body.

    Returns:
        The request, or None for a client that only says good-bye (an empty body, or one flush).

    Raises:
        ProtocolError: the body is not one well-formed request.
    """
    packets = pktline.parse(body)
    if not packets or packets == [Special.FLUSH]:
        return None
    if packets.pop() is not Special.FLUSH:
        raise ProtocolError("expected flush at the end of the request")
    split = packets.index(Special.DELIM) if Special.DELIM in packets else len(packets)
    command, session = _capabilities(lines(packets[:split]))
    return _COMMANDS[command](session, lines(packets[split + 1 :]))


def _capabilities(capabilities: Sequence[bytes]) -> tuple[bytes, Session]:
    command: bytes | None = None
    agent = b""
    object_format = "sha1"
    options: list[str] = []
    for line in capabilities:
        key, _, value = line.partition(b"=")
        if key == b"command":
            if command is not None:
                raise ProtocolError(
                    f"command '{shown(value)}' requested after already requesting"
                    f" command '{shown(command)}'"
                )
            if value not in _COMMANDS:
                raise ProtocolError(f"unknown command '{shown(value)}'")
            command = value
        elif key == b"agent":
            agent = value
        elif key == b"object-format":
            object_format = known_format(value)
        elif key == b"server-option":
            options.append(value.decode("utf-8", "replace"))
        elif key != b"session-id":
            raise ProtocolError(f"unknown capability '{shown(line)}'")
    if command is None:
        raise ProtocolError("no command requested")
    return command, Session(agent.decode("utf-8", "replace"), object_format, tuple(options))


def _ls_refs(session: Session, arguments: Sequence[bytes]) -> LsRefs:
    flags: set[bytes] = set()
    prefixes: list[bytes] = []
    for line in arguments:
        key, space, value = line.partition(b" ")
        if key == b"ref-prefix" and space:
            prefixes.append(value)
        elif line in {b"peel", b"symrefs", b"unborn"}:
            flags.add(line)
        else:
            raise _unexpected(line)
    return LsRefs(
        session,
        peel=b"peel" in flags,
        symrefs=b"symrefs" in flags,
        unborn=b"unborn" in flags,
        prefixes=() if len(prefixes) > MAX_PREFIXES else tuple(prefixes),
    )


_FETCH_FLAGS: Final = {
    b"deepen-relative": "deepen_relative",
    b"done": "done",
    b"include-tag": "include_tag",
    b"no-progress": "no_progress",
    b"ofs-delta": "ofs_delta",
    b"thin-pack": "thin_pack",
    b"wait-for-done": "wait_for_done",
}


@dataclass(slots=True)
class _Arguments:
    """What the argument lines of a fetch said so far; a dict keeps order and drops duplicates."""

    wants: dict[str, None] = field(default_factory=dict)
    haves: dict[str, None] = field(default_factory=dict)
    shallows: dict[str, None] = field(default_factory=dict)
    want_refs: dict[bytes, None] = field(default_factory=dict)
    deepen_not: dict[bytes, None] = field(default_factory=dict)
    deepen: int | None = None
    deepen_since: int | None = None
    filter: str | None = None
    packfile_uris: tuple[str, ...] | None = None
    flags: dict[str, bool] = field(default_factory=dict)


def _fetch(session: Session, arguments: Sequence[bytes]) -> Fetch:
    said = _Arguments()
    by_oid = {b"want": said.wants, b"have": said.haves, b"shallow": said.shallows}
    by_name = {b"want-ref": said.want_refs, b"deepen-not": said.deepen_not}
    for line in arguments:
        key, _, value = line.partition(b" ")
        if (oids := by_oid.get(key)) is not None:
            oids[object_id(value, session.object_format)] = None
        elif (names := by_name.get(key)) is not None and value:
            names[value] = None
        elif flag := _FETCH_FLAGS.get(line):
            said.flags[flag] = True
        else:
            _fetch_value(said, key, value, line)
    return Fetch(
        session,
        wants=tuple(said.wants),
        want_refs=tuple(said.want_refs),
        haves=tuple(said.haves),
        shallows=tuple(said.shallows),
        deepen=said.deepen,
        deepen_since=said.deepen_since,
        deepen_not=tuple(said.deepen_not),
        filter=said.filter,
        packfile_uris=said.packfile_uris or (),
        **said.flags,
    )


def _fetch_value(said: _Arguments, key: bytes, value: bytes, line: bytes) -> None:
    """The arguments that have one value."""
    if key == b"deepen":
        said.deepen = depth(value, line)
    elif key == b"deepen-since":
        said.deepen_since = since(value, line)
    elif key == b"filter":
        if said.filter is not None:
            raise ProtocolError("multiple filter-specs cannot be combined")
        said.filter = filter_spec(value, line)
    elif key == b"packfile-uris":
        if said.packfile_uris is not None:
            raise ProtocolError("multiple packfile-uris lines forbidden")
        schemes = (word.lower() for word in value.decode("utf-8", "replace").split(","))
        said.packfile_uris = tuple(dict.fromkeys(s for s in schemes if _SCHEME.fullmatch(s)))
    else:
        raise _unexpected(line)


def _bundle_uri(session: Session, arguments: Sequence[bytes]) -> BundleUri:
    if arguments:
        raise ProtocolError(f"bundle-uri: unexpected argument: '{shown(arguments[0])}'")
    return BundleUri(session)


def _object_info(session: Session, arguments: Sequence[bytes]) -> ObjectInfo:
    oids: dict[str, None] = {}
    size = False
    for line in arguments:
        key, _, value = line.partition(b" ")
        if key == b"oid":
            oids[object_id(value, session.object_format)] = None
        elif line == b"size":
            size = True
        else:
            raise _unexpected(line)
    return ObjectInfo(session, tuple(oids), size)


_COMMANDS: Final[dict[bytes, Callable[[Session, Sequence[bytes]], Request]]] = {
    b"ls-refs": _ls_refs,
    b"fetch": _fetch,
    b"bundle-uri": _bundle_uri,
    b"object-info": _object_info,
}


def encode_fetch(fetch: Fetch, agent: str | None = None) -> bytes:
    """The canonical request for a backend ``git upload-pack``; ``agent`` is ours, if any.

    Raises:
        ValueError: a name, the filter or the agent is too long for a packet.
    """
    asked = fetch.canonical()
    arguments = [
        *(flag for flag, name in _FETCH_FLAGS.items() if getattr(asked, name)),
        *(b"want %b" % oid.encode("ascii") for oid in asked.wants),
        *(b"want-ref %b" % name for name in asked.want_refs),
        *(b"have %b" % oid.encode("ascii") for oid in asked.haves),
        *(b"shallow %b" % oid.encode("ascii") for oid in asked.shallows),
        *([] if asked.deepen is None else [b"deepen %d" % asked.deepen]),
        *([] if asked.deepen_since is None else [b"deepen-since %d" % asked.deepen_since]),
        *(b"deepen-not %b" % name for name in asked.deepen_not),
        *([] if asked.filter is None else [b"filter %b" % asked.filter.encode()]),
    ]
    return _request(b"fetch", asked.session.object_format, arguments, agent)


def encode_probe(oids: Iterable[str], object_format: str, *, filtered: bool) -> bytes:
    """The smallest fetch that shows whether a server lets objects be had: all of them, or none.

    See :func:`wire.git.probe.probe_verdict` for its answer.

    Args:
        oids: the objects, in hex.
        object_format: ``sha1`` or ``sha256``.
        filtered: the server knows filters; of a commit, nothing but itself is sent then.
    """
    return encode_fetch(
        Fetch(
            Session(object_format=object_format),
            wants=tuple(oids),
            deepen=1,
            filter="tree:0" if filtered else None,
            done=True,
            ofs_delta=True,
        )
    )


def encode_wholeness(oids: Iterable[str], object_format: str) -> bytes:
    """The smallest fetch that shows whether history is cut off behind objects.

    All of their history is asked for, as ``--unshallow`` does, by a client that has them: so the
    pack is empty, and a server whose own history is cut off says where. See
    :func:`wire.git.response.is_cut_off`.

    Args:
        oids: what refs of the server point to, in hex.
        object_format: ``sha1`` or ``sha256``.
    """
    tips = tuple(oids)
    session = Session(object_format=object_format)
    whole = Fetch(session, wants=tips, haves=tips, deepen=WHOLE, done=True, ofs_delta=True)
    return encode_fetch(whole)


def without_object_format(request: bytes) -> bytes:
    """A request for a server that does not advertise ``object-format``, as git before 2.28.

    Such a server knows SHA-1 only, and refuses the capability.
    """
    return request.replace(pktline.text(b"object-format=sha1"), b"", 1)


def encode_ls_refs(
    object_format: str, *, peel: bool, symrefs: bool, unborn: bool, prefixes: Iterable[bytes]
) -> bytes:
    """The canonical ``ls-refs`` request for a backend; no prefixes ask for every ref.

    A prefix that begins with another one asks for nothing more, and is left out.

    Raises:
        ValueError: a prefix is too long for a packet.
    """
    flags = ((b"peel", peel), (b"symrefs", symrefs), (b"unborn", unborn))
    arguments = [flag for flag, asked in flags if asked]
    arguments += [b"ref-prefix %b" % prefix for prefix in _shortest(prefixes)]
    return _request(b"ls-refs", object_format, arguments, None)


def _request(
    command: bytes, object_format: str, arguments: Iterable[bytes], agent: str | None
) -> bytes:
    head = [b"command=%b" % command]
    if agent is not None:
        head.append(b"agent=%b" % agent.encode())
    head.append(b"object-format=%b" % object_format.encode("ascii"))
    packets = (*map(pktline.text, head), pktline.DELIM, *map(pktline.text, arguments))
    return b"".join(packets) + pktline.FLUSH


def _sorted(values: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(sorted(set(values)))


def _shortest(prefixes: Iterable[bytes]) -> list[bytes]:
    """The prefixes that do not begin with another one; none, if the empty one is among them."""
    kept: list[bytes] = []
    for prefix in _sorted(prefixes):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return [] if kept == [b""] else kept


def _unexpected(line: bytes) -> ProtocolError:
    return ProtocolError(f"unexpected line: '{shown(line)}'")
