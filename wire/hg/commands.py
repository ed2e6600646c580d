# Law of this file: which commands there are, which arguments they take and which permission they
# need stands in one table; the descriptor that clients get, and the check of what they send, are
# made from it.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from wire.hg.cbor import Scalar, Value

ArgumentType = Literal["bool", "bytes", "dict", "int", "list", "set"]
Permission = Literal["pull", "push"]

PATH_FILTER_PREFIXES: Final = frozenset((b"path:", b"rootfilesin:"))


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command.

    Attributes:
        type: of its value.
        required: it has no default.
        default: the value of who does not send it.
        valid: members that a set may have; None if any. Mercurial advertises these and does not
            enforce them; what is not valid here is refused, so that nobody waits for a field that
            never comes.
    """

    type: ArgumentType
    required: bool = False
    default: Value = None
    valid: frozenset[bytes] | None = None


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command.

    Attributes:
        name: on the wire.
        permission: what its caller needs.
        args: by name.
        extras: what else stands in its descriptor.
    """

    name: bytes
    permission: Permission = "pull"
    args: Mapping[bytes, Argument] = field(default_factory=dict)
    extras: Mapping[bytes, Value] = field(default_factory=dict)


_NO_FIELDS: Final[frozenset[bytes]] = frozenset()


def _fields(*names: bytes) -> Argument:
    return Argument("set", default=_NO_FIELDS, valid=frozenset(names))


_HAVE_PARENTS: Final = Argument("bool", default=False)

_ALL: Final = (
    CommandSpec(b"branchmap"),
    CommandSpec(b"capabilities"),
    CommandSpec(
        b"changesetdata",
        args={
            b"revisions": Argument("list", required=True),
            b"fields": _fields(b"bookmarks", b"parents", b"phase", b"revision"),
        },
    ),
    CommandSpec(
        b"filedata",
        args={
            b"path": Argument("bytes", required=True),
            b"nodes": Argument("list", required=True),
            b"fields": _fields(b"linknode", b"parents", b"revision"),
            b"haveparents": _HAVE_PARENTS,
        },
    ),
    CommandSpec(
        b"filesdata",
        args={
            b"revisions": Argument("list", required=True),
            # Mercurial also lists "firstchangeset", which it never answered.
            b"fields": _fields(b"linknode", b"parents", b"revision"),
            b"haveparents": _HAVE_PARENTS,
            b"pathfilter": Argument("dict", default=None),
        },
        extras={b"recommendedbatchsize": 50_000},
    ),
    CommandSpec(b"heads", args={b"publiconly": Argument("bool", default=False)}),
    CommandSpec(b"known", args={b"nodes": Argument("list", default=[])}),
    CommandSpec(b"listkeys", args={b"namespace": Argument("bytes", required=True)}),
    CommandSpec(b"lookup", args={b"key": Argument("bytes", required=True)}),
    CommandSpec(
        b"manifestdata",
        args={
            b"nodes": Argument("list", required=True),
            b"tree": Argument("bytes", required=True),
            b"fields": _fields(b"parents", b"revision"),
            b"haveparents": _HAVE_PARENTS,
        },
        extras={b"recommendedbatchsize": 100_000},
    ),
    CommandSpec(
        b"pushkey",
        "push",
        {name: Argument("bytes", required=True) for name in (b"namespace", b"key", b"old", b"new")},
    ),
    CommandSpec(
        b"rawstorefiledata",
        args={
            b"files": Argument("list", required=True),
            # Mercurial takes it and does not look at it.
            b"pathfilter": Argument("list", default=None),
        },
    ),
)

COMMANDS: Final[Mapping[bytes, CommandSpec]] = {spec.name: spec for spec in _ALL}


# Names that a client sent and is told, and their bytes.
_SAID: Final = 8
_SAID_LENGTH: Final = 100


class BadArguments(ValueError):  # noqa: N818 - what they are
    """The arguments are not those of the command.

    Attributes:
        message: a format string for ``args`` (``%s``), to be told to the client.
    """

    def __init__(self, message: bytes, *args: bytes) -> None:
        self.message = message
        self.words = args
        super().__init__((message % args).decode("utf-8", "replace"))


_TYPES: Final[Mapping[ArgumentType, type]] = {
    "bool": bool,
    "bytes": bytes,
    "dict": dict,
    "int": int,
    "list": list,
    "set": frozenset,
}


def check_arguments(spec: CommandSpec, sent: Mapping[bytes, Value]) -> dict[bytes, Value]:
    """The arguments of a command, all of them: as they were sent, or their defaults.

    A list where a set is declared counts as the set of its members.

    Raises:
        BadArguments: one is missing, unknown, or not of its type.
    """
    unknown = sorted(set(sent) - set(spec.args))
    if unknown:
        raise BadArguments(b"unsupported argument to command: %s", _listed(unknown))
    missing = sorted(
        name for name, argument in spec.args.items() if argument.required and name not in sent
    )
    if missing:
        raise BadArguments(b"missing required arguments: %s", b", ".join(missing))
    return {
        name: _checked(name, argument, sent[name]) if name in sent else argument.default
        for name, argument in spec.args.items()
    }


def _checked(name: bytes, argument: Argument, value: Value) -> Value:
    if value is None and argument.default is None and not argument.required:
        return None
    if argument.type == "set" and isinstance(value, list):
        members = [each for each in value if isinstance(each, bytes)]
        if len(members) == len(value):
            value = frozenset[Scalar](members)
    expected = _TYPES[argument.type]
    # Python's booleans are integers; the protocol's are not.
    if not isinstance(value, expected) or (argument.type == "int" and isinstance(value, bool)):
        raise BadArguments(b"argument %s must be of type %s", name, argument.type.encode())
    if argument.valid is not None and isinstance(value, frozenset):
        odd = sorted(
            each if isinstance(each, bytes) else repr(each).encode()
            for each in value - argument.valid
        )
        if odd:
            raise BadArguments(b"argument %s has no value %s", name, _listed(odd))
    return value


def _listed(names: list[bytes]) -> bytes:
    """Names that a client sent, as it is told them: it knows the rest of a long list."""
    said = [name if len(name) <= _SAID_LENGTH else name[:_SAID_LENGTH] + b"..." for name in names]
    return b", ".join(said[:_SAID] + [b"..."] * (len(said) > _SAID))


def describe(spec: CommandSpec) -> dict[Scalar, Value]:
    """A command's entry in the descriptor."""
    args: dict[Scalar, Value] = {}
    for name, argument in spec.args.items():
        entry: dict[Scalar, Value] = {
            b"type": argument.type.encode(),
            b"required": argument.required,
        }
        if not argument.required:
            entry[b"default"] = argument.default
        if argument.valid is not None:
            entry[b"validvalues"] = frozenset[Scalar](argument.valid)
        args[name] = entry
    fields: dict[Scalar, Value] = {
        b"args": args,
        b"permissions": [spec.permission.encode()],
    }
    fields.update(spec.extras.items())
    return fields
