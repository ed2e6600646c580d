# Law of this file: a request of protocol version 1 is read as hgweb reads it, wherever the client
# put its arguments; what hgweb would stumble over is a `BadRequest` that says what is wrong.
#
# A request is `GET <repository>?cmd=<name>`. Its arguments are form-urlencoded, sorted by the
# client and sent in one of three ways, which the server's capabilities choose:
#
#   httppostargs       the first X-HgArgs-Post bytes of a POST's body
#   httpheader=<n>     cut into headers X-HgArg-1, X-HgArg-2, ... of at most n bytes each
#   neither            in the query string, after cmd
#
# Those of the query string are always read; the other two win over it, a body over headers.
# After the handshake X-HgProto-1, cut likewise, says what the client takes, as
# `0.1 0.2 comp=zstd,zlib,none,bzip2 partial-pull`.

from __future__ import annotations

import re
from binascii import Error as HexError
from binascii import unhexlify
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import unquote_to_bytes

from wire.hg.errors import shown

# Bytes of all arguments, still encoded: 200,000 nodes of 41 bytes. Discovery asks for hundreds at a
# time; a getbundle of a repository with 10,000 heads on both sides is of 0.8 MB.
MAX_ARGUMENTS: Final = 8 << 20

# Names and values. getbundle has twelve, with the extensions' fewer than thirty.
MAX_FIELDS: Final = 1000

# Bytes of X-HgProto. Stock clients say about fifty.
MAX_PROTOCOL: Final = 4096

# Calls in a batch. Mercurial's discovery makes two; extensions ask for a file each, in thousands. A
# call that answers at once costs microseconds, so this many are less than a second.
MAX_BATCH: Final = 10_000

NODE_HEX: Final = 40

Headers = Sequence[tuple[str, str]]
"""All headers of a request, in any case and order."""

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,5}")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_VERSION: Final = re.compile(
    r"mercurial/proto-1\.0 \(Mercurial (\d{1,4})\.(\d{1,4})(?:\.\d{1,4})?(?:rc\d{1,4})?"
    r"(?:\+[\w.+-]{1,100})?\)",
    re.ASCII,
)


class BadRequest(Exception):  # noqa: N818 - what the client sent
    """This request cannot be read; the message is one line, fit for an ``application/hg-error``."""


class Answer(StrEnum):
    """How the answer to a command is written down."""

    STRING = "string"
    """As it is, media type 0.1."""
    STREAM = "stream"
    """Compressed; media type and engine as the client's X-HgProto allows."""
    PLAIN_STREAM = "plain stream"
    """As it is, media type 0.1, whatever the client takes."""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command of stock Mercurial.

    Attributes:
        name: as ``cmd`` says it.
        arguments: that it must have.
        more: whether it takes others too; else they are ignored.
        permission: ``pull`` or ``push``; who may not has no answer.
        answer: how it is written down; only strings can be asked for in a batch.
    """

    name: str
    arguments: tuple[str, ...] = ()
    more: bool = False
    permission: str = "pull"
    answer: Answer = Answer.STRING

    def take(self, arguments: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Those of a request's arguments that the command sees.

        Raises:
            BadRequest: one is missing.
        """
        names = [name.encode() for name in self.arguments]
        for name in names:
            if name not in arguments:
                raise BadRequest(f"{self.name} needs the argument {name.decode()}")
        return dict(arguments) if self.more else {name: arguments[name] for name in names}


COMMANDS: Final[Mapping[str, CommandSpec]] = {
    spec.name: spec
    for spec in (
        CommandSpec("batch", ("cmds",), more=True),
        CommandSpec("between", ("pairs",)),
        CommandSpec("branches", ("nodes",)),
        CommandSpec("branchmap"),
        CommandSpec("capabilities"),
        CommandSpec("changegroup", ("roots",), answer=Answer.STREAM),
        CommandSpec("changegroupsubset", ("bases", "heads"), answer=Answer.STREAM),
        CommandSpec("clonebundles"),
        # These two are not in 5.9.
        CommandSpec("clonebundles_manifest", more=True),
        CommandSpec("get_cached_bundle_inline", ("path",), answer=Answer.STREAM),
        CommandSpec("debugwireargs", ("one", "two"), more=True),
        CommandSpec("getbundle", more=True, answer=Answer.STREAM),
        CommandSpec("heads"),
        CommandSpec("hello"),
        CommandSpec("known", ("nodes",), more=True),
        CommandSpec("listkeys", ("namespace",)),
        CommandSpec("lookup", ("key",)),
        CommandSpec("protocaps", ("caps",)),
        CommandSpec("pushkey", ("namespace", "key", "old", "new"), permission="push"),
        CommandSpec("stream_out", answer=Answer.PLAIN_STREAM),
        CommandSpec("unbundle", ("heads",), permission="push", answer=Answer.PLAIN_STREAM),
    )
}
"""Every command that 5.9, 6.9 or 7.2 answers over HTTP without extensions, by its name."""


# --- arguments ------------------------------------------------------------------------------


def read_command(query: str) -> str | None:
    """The command that a query string names; None if it names none. Of several, the last.

    Raises:
        BadRequest: the query string cannot be read.
    """
    found = None
    for name, value in _fields(_ascii(query, "the query string"), "the query string"):
        if name == b"cmd":
            found = value.decode("ascii", "backslashreplace")
    return found


def posted_length(headers: Headers) -> int | None:
    """Bytes at the beginning of the body that are arguments; None if the client says nothing.

    Raises:
        BadRequest: it is no number, said twice, or beyond `MAX_ARGUMENTS`.
    """
    values = [value for name, value in headers if name.lower() == "x-hgargs-post"]
    if not values:
        return None
    if len(values) > 1 or not _LENGTH.fullmatch(values[0]):
        raise BadRequest(f"X-HgArgs-Post must be one number, not {_quoted(', '.join(values))}")
    length = int(values[0])
    if length > MAX_ARGUMENTS:
        raise BadRequest(f"{length} bytes of arguments; at most {MAX_ARGUMENTS} are read")
    return length


def read_arguments(query: str, headers: Headers, body: bytes) -> dict[bytes, bytes]:
    """The arguments of a request, decoded. Of a name that comes twice in a place, the first.

    Args:
        query: as it was sent, still encoded; ``cmd`` is left aside.
        headers: all of them.
        body: at least as much of it as `posted_length` says.

    Raises:
        BadRequest: they cannot be read, or are more than `MAX_ARGUMENTS` or `MAX_FIELDS`.
    """
    places = [(_ascii(query, "the query string"), "the query string")]
    length = posted_length(headers)
    if length:
        if length > len(body):
            raise BadRequest(f"X-HgArgs-Post says {length} bytes, the body has {len(body)}")
        places.append((body[:length], "the body's arguments"))
    else:
        text = _numbered(headers, "X-HgArg", MAX_ARGUMENTS)
        places.append((text, "the X-HgArg headers"))
    found: dict[bytes, bytes] = {}
    for text, where in places:
        here: dict[bytes, bytes] = {}
        for name, value in _fields(text, where):
            here.setdefault(name, value)
        found |= here
    found.pop(b"cmd", None)
    return found


def _fields(text: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    if len(text) > MAX_ARGUMENTS:
        raise BadRequest(f"{where}: {len(text)} bytes; at most {MAX_ARGUMENTS} are read")
    if not text.isascii():
        raise BadRequest(f"{where}: bytes beyond ASCII, which must be percent-encoded")
    if bad := _BAD_PERCENT.search(text):
        raise BadRequest(f"{where}: {shown(bad[0])} is no percent-encoding")
    fields = text.split(b"&", MAX_FIELDS)
    if len(fields) > MAX_FIELDS:
        raise BadRequest(f"{where}: more than {MAX_FIELDS} arguments")
    for field in fields:
        if field:
            name, _, value = field.replace(b"+", b" ").partition(b"=")
            yield unquote_to_bytes(name), unquote_to_bytes(value)


def _numbered(headers: Headers, prefix: str, limit: int) -> bytes:
    """A value that was cut into ``<prefix>-1`` and so on; it ends where a number is missing."""
    start = f"{prefix.lower()}-"
    pieces: dict[int, str] = {}
    for name, value in headers:
        if name.lower().startswith(start):
            digits = name[len(start) :]
            if not _NUMBER.fullmatch(digits):
                raise BadRequest(f"the header {_quoted(name)} does not end in a number from 1 on")
            if int(digits) in pieces:
                raise BadRequest(f"the header {_quoted(name)} was sent twice")
            pieces[int(digits)] = value
    if sum(map(len, pieces.values())) > limit:
        raise BadRequest(f"the {prefix} headers are longer than {limit} bytes")
    found: list[str] = []
    while (number := len(found) + 1) in pieces:
        found.append(pieces[number])
    return _ascii("".join(found), f"the {prefix} headers")


def _ascii(text: str, where: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise BadRequest(f"{where}: bytes beyond ASCII, which must be percent-encoded") from None


def _quoted(text: str) -> str:
    # Never more than a line, and nothing but ASCII: it goes into an answer.
    return ascii(text if len(text) <= NODE_HEX else f"{text[:NODE_HEX]}...")


# --- what the client is ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientProtocol:
    """What a client takes.

    Attributes:
        media: versions of the media type, of ``0.1`` and ``0.2``; the first is always there.
        compression: engines' names, in the client's order; empty if it did not say, which hgweb
            takes for zlib and none.
        partial_pull: it goes on asking if a getbundle's answer is not all that it asked for.
    """

    media: frozenset[str] = frozenset({"0.1"})
    compression: tuple[str, ...] = ()
    partial_pull: bool = False


def read_protocol(headers: Headers) -> ClientProtocol:
    """What the client says of itself in X-HgProto.

    Raises:
        BadRequest: the headers' numbers are wrong, or they are too long.
    """
    words = _numbered(headers, "X-HgProto", MAX_PROTOCOL).decode().split(" ")
    comp = next((word for word in words if word.startswith("comp=")), None)
    return ClientProtocol(
        frozenset({"0.1", *(word for word in words if word == "0.2")}),
        () if comp is None else tuple(comp.removeprefix("comp=").split(",")),
        "partial-pull" in words,
    )


def client_version(user_agent: str) -> tuple[int, int] | None:
    """Mercurial's version (major, minor) from ``mercurial/proto-1.0 (Mercurial 7.2.4+2-abc)``.

    None for every other client: users may configure any name.
    """
    found = _VERSION.fullmatch(user_agent)
    return None if found is None else (int(found[1]), int(found[2]))


# --- values ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchCall:
    """One of the commands that a ``batch`` asks for."""

    name: str
    arguments: dict[bytes, bytes]


def read_batch(cmds: bytes) -> tuple[BatchCall, ...]:
    """The commands of a batch, in order: ``heads ;known nodes=<hex>,x=<y>``.

    Args:
        cmds: the argument of that name. In it ``:c :o :s :e`` stand for ``: , ; =``.

    Raises:
        BadRequest: it is no such list, or of more than `MAX_BATCH`.
    """
    calls = cmds.split(b";", MAX_BATCH)
    if len(calls) > MAX_BATCH:
        raise BadRequest(f"a batch of more than {MAX_BATCH} commands")
    return tuple(_call(call) for call in calls)


def _call(call: bytes) -> BatchCall:
    name, space, rest = call.partition(b" ")
    if not space or not name.isascii():
        raise BadRequest(f"{shown(call)} in a batch is no command: a name and a space are expected")
    arguments: dict[bytes, bytes] = {}
    for argument in filter(None, rest.split(b",")):
        pair = argument.split(b"=")
        if len(pair) != 2:
            raise BadRequest(f"{shown(argument)} in a batch is no argument: name=value is expected")
        arguments[_unescaped(pair[0])] = _unescaped(pair[1])
    return BatchCall(name.decode(), arguments)


_ESCAPES: Final = {b":c": b":", b":o": b",", b":s": b";", b":e": b"="}
_ESCAPE: Final = re.compile(rb":.?", re.DOTALL)


def _unescaped(text: bytes) -> bytes:
    if b":" not in text:
        return text

    def replacement(match: re.Match[bytes]) -> bytes:
        try:
            return _ESCAPES[match[0]]
        except KeyError:
            raise BadRequest(f"{shown(match[0])} in a batch is none of :c :o :s :e") from None

    return _ESCAPE.sub(replacement, text)


def join_batch(answers: Sequence[bytes]) -> bytes:
    """The answer to a batch, of those to its commands."""
    return b";".join(map(escape, answers))


def escape(text: bytes) -> bytes:
    """A name, value or answer as it stands in a batch."""
    # The colon first: the others bring new ones.
    for escaped, plain in _ESCAPES.items():
        text = text.replace(plain, escaped)
    return text


def read_nodes(value: bytes) -> tuple[bytes, ...]:
    """Nodes of 20 bytes, in order, from hex with one space between; empty if there are none.

    Raises:
        BadRequest: something in it is no node.
    """
    return tuple(map(_node, value.split(b" "))) if value else ()


def _node(text: bytes) -> bytes:
    if len(text) == NODE_HEX:
        try:
            return unhexlify(text)
        except HexError:
            pass
    raise BadRequest(f"{shown(text)} is no node: {NODE_HEX} hexadecimal digits are expected")
