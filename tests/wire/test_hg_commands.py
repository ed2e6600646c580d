# Law of this file: commands take what the specification's table says, and say so to clients.

from __future__ import annotations

import pytest

from wire.hg import cbor
from wire.hg.cbor import Value
from wire.hg.commands import (
    COMMANDS,
    Argument,
    BadArguments,
    CommandSpec,
    check_arguments,
    describe,
)

# Section 6 of the specification: permission, and arguments with their types; "!" is required.
TABLE = {
    "branchmap": ("pull", ""),
    "capabilities": ("pull", ""),
    "heads": ("pull", "publiconly:bool"),
    "known": ("pull", "nodes:list"),
    "listkeys": ("pull", "namespace:bytes!"),
    "lookup": ("pull", "key:bytes!"),
    "pushkey": ("push", "namespace:bytes! key:bytes! old:bytes! new:bytes!"),
    "changesetdata": ("pull", "revisions:list! fields:set"),
    "manifestdata": ("pull", "nodes:list! tree:bytes! fields:set haveparents:bool"),
    "filedata": ("pull", "path:bytes! nodes:list! fields:set haveparents:bool"),
    "filesdata": ("pull", "revisions:list! fields:set haveparents:bool pathfilter:dict"),
    "rawstorefiledata": ("pull", "files:list! pathfilter:list"),
}
SAMPLES: dict[str, Value] = {
    "bool": True,
    "bytes": b"x",
    "dict": {b"a": b"b"},
    "int": 1,
    "list": [b"x"],
    "set": frozenset((b"parents",)),
}
EVERYTHING = CommandSpec(
    b"everything", args={kind.encode(): Argument(kind, default=None) for kind in SAMPLES}
)


def test_table():
    """The commands, their permissions and arguments are those of the specification."""
    assert {
        name.decode(): (
            spec.permission,
            {
                f"{arg.decode()}:{argument.type}{'!' if argument.required else ''}"
                for arg, argument in spec.args.items()
            },
        )
        for name, spec in COMMANDS.items()
    } == {name: (permission, {*args.split()}) for name, (permission, args) in TABLE.items()}


@pytest.mark.parametrize(
    ("command", "sent", "expected"),
    [
        (b"heads", {}, {b"publiconly": False}),
        (b"known", {}, {b"nodes": []}),
        (b"rawstorefiledata", {b"files": []}, {b"files": [], b"pathfilter": None}),
        (
            b"manifestdata",
            {b"nodes": [], b"tree": b""},
            {b"nodes": [], b"tree": b"", b"fields": frozenset[bytes](), b"haveparents": False},
        ),
    ],
)
def test_defaults(command: bytes, sent: dict[bytes, Value], expected: dict[bytes, Value]):
    """What is not sent has its default."""
    assert check_arguments(COMMANDS[command], sent) == expected


@pytest.mark.parametrize("sent", SAMPLES)
@pytest.mark.parametrize("declared", SAMPLES)
def test_types(declared: str, sent: str):
    """Of all types of values, an argument takes its own; a set also takes a list of names."""
    args = {declared.encode(): SAMPLES[sent]}
    if declared == sent:
        assert check_arguments(EVERYTHING, args)[declared.encode()] == SAMPLES[sent]
    elif (declared, sent) == ("set", "list"):
        assert check_arguments(EVERYTHING, args)[b"set"] == frozenset((b"x",))
    else:
        with pytest.raises(BadArguments, match=f"argument {declared} must be of type {declared}"):
            check_arguments(EVERYTHING, args)


def test_null():
    """Null is the value of an argument whose default it is, and of no other."""
    args: dict[bytes, Value] = {b"revisions": [], b"pathfilter": None}
    assert check_arguments(COMMANDS[b"filesdata"], args)[b"pathfilter"] is None
    with pytest.raises(BadArguments, match="argument revisions must be of type list"):
        check_arguments(COMMANDS[b"filesdata"], {b"revisions": None})
    with pytest.raises(BadArguments, match="argument publiconly must be of type bool"):
        check_arguments(COMMANDS[b"heads"], {b"publiconly": None})


@pytest.mark.parametrize(
    "fields", [[b"parents", b"typo"], frozenset((b"typo",)), frozenset((b"typo", b"parents"))]
)
def test_fields_that_there_are_none_of(fields: Value):
    """A field that no answer has is refused, so that nobody waits for it."""
    with pytest.raises(BadArguments, match="argument fields has no value typo"):
        check_arguments(COMMANDS[b"changesetdata"], {b"revisions": [], b"fields": fields})


@pytest.mark.parametrize("fields", [[1], [[]], [b"parents", None], [{}]])
def test_fields_that_are_no_names(fields: Value):
    """A list with something else than names is no set of fields; nothing of it is lost silently."""
    with pytest.raises(BadArguments, match="argument fields must be of type set"):
        check_arguments(COMMANDS[b"changesetdata"], {b"revisions": [], b"fields": fields})


def test_members_of_sets_that_are_no_names():
    """A set's member that is no byte string is told as what it is."""
    fields: Value = frozenset((1, True, None))
    with pytest.raises(BadArguments, match=r"fields has no value (1|True), None"):
        check_arguments(COMMANDS[b"changesetdata"], {b"revisions": [], b"fields": fields})


def test_words_of_refusals():
    """Refusals are those of Mercurial, with what was wrong as arguments of the message."""
    with pytest.raises(BadArguments) as unknown:
        check_arguments(COMMANDS[b"heads"], {b"b": 1, b"a": 1})
    assert unknown.value.message == b"unsupported argument to command: %s"
    assert unknown.value.words == (b"a, b",)
    with pytest.raises(BadArguments) as missing:
        check_arguments(COMMANDS[b"manifestdata"], {})
    assert str(missing.value) == "missing required arguments: nodes, tree"


def test_refusals_are_short():
    """However much is wrong, a refusal says the beginning of it."""
    sent: dict[bytes, Value] = {b"%06d" % n + bytes(1000): 1 for n in range(1000)}
    with pytest.raises(BadArguments) as caught:
        check_arguments(COMMANDS[b"heads"], sent)
    (words,) = caught.value.words
    assert len(words) < 1000
    assert words.endswith(b", ...")


def test_golden_descriptor():
    """A command's entry says of each argument its type, and its default if it has one."""
    assert describe(COMMANDS[b"manifestdata"]) == {
        b"args": {
            b"nodes": {b"type": b"list", b"required": True},
            b"tree": {b"type": b"bytes", b"required": True},
            b"fields": {
                b"type": b"set",
                b"required": False,
                b"default": frozenset(),
                b"validvalues": frozenset((b"parents", b"revision")),
            },
            b"haveparents": {b"type": b"bool", b"required": False, b"default": False},
        },
        b"permissions": [b"pull"],
        b"recommendedbatchsize": 100_000,
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_descriptors_can_be_sent(name: bytes):
    """Each command's entry has an encoding, and is the same when it is read."""
    assert cbor.decode_one(cbor.encode(describe(COMMANDS[name]))) == describe(COMMANDS[name])
