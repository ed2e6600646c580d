# Law of this file: what a repository tells its clients is what stock hg tells them. It is asked as
# an SSH client asks it, all at once, so that one process gives one consistent answer.
#
# The wire protocol's version 1 on standard input: `command LF`, then for each argument
# `name length LF` and the value. An answer is `length LF` and so many bytes. `batch` takes several
# commands, `name key=value,...` joined by `;`, and joins their answers likewise. In both, the
# characters `: , ; =` are written `:c :o :s :e`.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from repos.hg.program import Hg, HgFailed
from wire.hg.texts import TextError, unhex

_ESCAPES = ((b":e", b"="), (b":s", b";"), (b":o", b","), (b":c", b":"))


@dataclass(frozen=True, slots=True)
class Told:
    """What a repository tells its clients at one moment.

    Attributes:
        heads: newest first; the null node alone if there are no changesets.
        branches: name -> heads, as ``branchmap`` gives them.
        keys: namespace -> key -> value, as ``listkeys`` gives them.
        known: for each node that was asked about, whether it is served.
        capabilities: the words of version 1.
    """

    heads: tuple[bytes, ...]
    branches: Mapping[bytes, tuple[bytes, ...]]
    keys: Mapping[bytes, Mapping[bytes, bytes]]
    known: tuple[bool, ...]
    capabilities: frozenset[bytes]


_NAMESPACES = (b"bookmarks", b"namespaces", b"phases")


def ask(hg: Hg, repository: Path, nodes: Sequence[bytes]) -> Told:
    """Ask for everything that a snapshot is made of, and which of ``nodes`` are served.

    Raises:
        HgFailed: hg refuses the repository, or said something else.
    """
    known = b" ".join(node.hex().encode() for node in nodes)
    commands = [b"heads ", b"branchmap ", b"known nodes=" + known]
    commands += [b"listkeys namespace=" + namespace for namespace in _NAMESPACES]
    hello, batch = _converse(hg, repository, b"hello\n" + _batch(commands), 2)
    answers = batch.split(b";")
    try:
        heads, branches, were_known, *keys = map(_unescape, answers)
        return Told(
            heads=tuple(map(unhex, heads.split())),
            branches=dict(_branch(line) for line in branches.splitlines()),
            keys=dict(zip(_NAMESPACES, map(_keys, keys), strict=True)),
            known=tuple(digit == ord("1") for digit in were_known.strip()),
            capabilities=frozenset(hello.partition(b":")[2].split()),
        )
    except (TextError, ValueError) as error:
        raise HgFailed("serve", 0, f"it answered {batch[:200]!r}: {error}") from error


def lookup(hg: Hg, repository: Path, key: bytes) -> tuple[bytes | None, bytes]:
    """The node that ``key`` names, or None; and then why.

    Raises:
        HgFailed: hg refuses the repository, or said something else.
    """
    request = b"lookup\nkey %d\n" % len(key) + key
    (answer,) = _converse(hg, repository, request, 1)
    found, _, value = answer.rstrip(b"\n").partition(b" ")
    if found == b"0":
        return None, value
    try:
        return unhex(value), b""
    except TextError as error:
        raise HgFailed("serve", 0, f"it answered {answer[:200]!r}: {error}") from error


def listkeys(hg: Hg, repository: Path, namespace: bytes) -> dict[bytes, bytes]:
    """What a namespace says, one of an extension perhaps.

    Raises:
        HgFailed: hg refuses the repository, or said something else.
    """
    request = b"listkeys\nnamespace %d\n" % len(namespace) + namespace
    (answer,) = _converse(hg, repository, request, 1)
    return _keys(answer)


def _batch(commands: Sequence[bytes]) -> bytes:
    words = b";".join(commands)
    return b"batch\n* 0\ncmds %d\n" % len(words) + words


def _converse(hg: Hg, repository: Path, request: bytes, answers: int) -> list[bytes]:
    output = hg.converse(repository, request)
    found = []
    rest = output
    for _ in range(answers):
        length, _, rest = rest.partition(b"\n")
        if not length.isdigit() or int(length) > len(rest):
            raise HgFailed("serve", 0, f"it answered {output[:200]!r}, no length and so many bytes")
        found.append(rest[: int(length)])
        rest = rest[int(length) :]
    return found


def _unescape(answer: bytes) -> bytes:
    for written, meant in _ESCAPES:
        answer = answer.replace(written, meant)
    return answer


def _branch(line: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    name, *heads = line.split(b" ")
    return unquote_to_bytes(name), tuple(map(unhex, heads))


def _keys(answer: bytes) -> dict[bytes, bytes]:
    # Values have no tabs: they are nodes, numbers, or nothing.
    parts = (line.rpartition(b"\t") for line in answer.split(b"\n") if line)
    return {key: value for key, _, value in parts}
