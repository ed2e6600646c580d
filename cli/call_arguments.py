# Law of this file: what is written behind a command becomes values by the types that the server
# lists; what could mean two things is asked back, not guessed.

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, cast

from cli.errors import UserError

if TYPE_CHECKING:
    from wire.hg.cbor import Scalar, Value

_NODE: Final = re.compile(r"[0-9a-fA-F]{40}")
_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def split_argument(text: str) -> tuple[bytes, str]:
    """``ARG=VALUE`` as its two halves.

    Raises:
        UserError: there is no ``=``.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"{text!r} is no argument: write ARG=VALUE")
    return name.encode(errors="surrogateescape"), value


def read_value(name: bytes, kind: bytes | None, text: str) -> Value:
    """The value of an argument.

    Args:
        name: the argument's, for messages.
        kind: its type as the server lists it; None if the server does not list it.
        text: as it was written.

    Raises:
        UserError: it is none of that type.
    """
    try:
        match kind:
            case b"bytes":
                return _string(text, node=False)
            case b"int":
                return int(text, 10)
            case b"bool":
                return _BOOLEANS[text.lower()]
            case b"list":
                return _list(text)
            case b"set":
                return frozenset(cast("list[Scalar]", _list(text)))
            case b"dict":
                return _dict(text)
            case _:
                return _guessed(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f" ({error})" if isinstance(error, ValueError) else ""
        wanted = (kind or b"value").decode("utf-8", "replace")
        raise UserError(f"{name.decode(errors='replace')}: {text!r} is no {wanted}{reason}") from (
            error
        )


def needs_heads(text: str) -> bool:
    """Whether ``ROOTS..`` leaves the heads out, so that the server has to be asked for them."""
    return text.endswith("..") and not text.startswith("[")


def read_revisions(text: str, heads: Value = None) -> Value:
    """Revision specifiers, from JSON or one of the shorthands.

    ``NODES`` are these changesets, ``NODES~DEPTH`` these and their ancestors, so many generations
    in all, ``ROOTS..HEADS`` all ancestors of the heads that are none of the roots; nodes are
    separated by commas.

    Args:
        text: as it was written.
        heads: all heads of the repository, for ``ROOTS..``.

    Raises:
        UserError: it is none of these.
    """
    if text.startswith("["):
        return read_value(b"revisions", b"list", text)
    roots, dots, tips = text.partition("..")
    if dots:
        return [
            {
                b"type": b"changesetdagrange",
                b"roots": _nodes(roots),
                b"heads": _nodes(tips) if tips else heads,
            }
        ]
    nodes, tilde, depth = text.partition("~")
    if not tilde:
        return [{b"type": b"changesetexplicit", b"nodes": _nodes(nodes)}]
    return [
        {
            b"type": b"changesetexplicitdepth",
            b"nodes": _nodes(nodes),
            b"depth": read_value(b"revisions: the depth", b"int", depth),
        }
    ]


def _nodes(text: str) -> Value:
    nodes = [each for each in text.split(",") if each]
    for each in nodes:
        if not _NODE.fullmatch(each):
            raise UserError(
                f"revisions: {each!r} is no node of 40 hex digits; `lookup key=...` finds it"
            )
    return [bytes.fromhex(each) for each in nodes]


def _string(text: str, *, node: bool) -> bytes:
    """Text, or what the prefixes ``hex:`` and ``text:`` say; inside collections also nodes."""
    if text.startswith("hex:"):
        return bytes.fromhex(text[4:])
    if text.startswith("text:"):
        return text[5:].encode(errors="surrogateescape")
    if node and _NODE.fullmatch(text):
        return bytes.fromhex(text)
    return text.encode(errors="surrogateescape")


def _list(text: str) -> list[Value]:
    if not text.startswith("["):
        return [_string(each, node=True) for each in text.split(",")] if text else []
    found = _of_json(_json(text))
    if not isinstance(found, list):  # pragma: no cover - what begins so is a list
        raise TypeError(text)
    return found


def _dict(text: str) -> Value:
    found = _of_json(_json(text))
    if not isinstance(found, dict):
        raise ValueError("write a JSON object")  # noqa: TRY004 - of what was written
    return found


def _guessed(text: str) -> Value:
    try:
        return _of_json(_json(text))
    except ValueError:
        return _string(text, node=False)


def _json(text: str) -> object:
    found: object = json.loads(text)
    return found


def _of_json(value: object) -> Value:
    match value:
        case str():
            return _string(value, node=True)
        case list():
            return [_of_json(each) for each in value]
        case dict():
            return {_string(str(key), node=True): _of_json(each) for key, each in value.items()}
        case None | bool() | int():
            return value
    raise ValueError(f"{value!r} has no form in this protocol")
