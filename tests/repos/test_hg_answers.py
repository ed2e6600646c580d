# Law of this file: what a client makes of the answers is the repository that stock hg has, all of
# it that is served, and nothing else.

from __future__ import annotations

import asyncio
from array import array

import pytest

from repos.hg import commands
from repos.hg.errors import CommandError, UnknownNode
from repos.hg.lookup import MAX_KEY, Lookups
from repos.hg.nodes import Ambiguous, Revs
from repos.hg.pathfilter import EVERYTHING, parse_pathfilter
from repos.hg.repository import HgRepository, HgSnapshot
from repos.hg.revisions import DagRange, Explicit, ExplicitDepth, parse_revisions
from tests.hg.session import Session
from tests.hg.versions import hg
from tests.repos.hg_kinds import Kinds
from tests.repos.hg_replay import DATA, NULL, Replay, gathered, items, shallow
from wire.hg.cbor import Value, encode
from wire.hg.texts import entries, manifest_node

ALL_KINDS = [
    "empty", "linear", "merges", "renames", "branches", "phases", "obsolete", "names", "large",
]  # fmt: skip


def said_by_hg(repository: HgRepository) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Phases by node of what is served, and the files of the tip by path, as hg says."""
    with Session(hg(), repository.path.parent) as session:
        log = session("log", "--rev", "not secret()", "--template", "{node} {phase}\n")
        files = session("manifest", "--debug", "--rev", "max(not secret())") if log else b""
    phases = {bytes.fromhex(line[:40].decode()): line[41:] for line in log.split(b"\n") if line}
    tip = {line[47:]: bytes.fromhex(line[:40].decode()) for line in files.split(b"\n") if line}
    return phases, tip


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_a_clone(kinds: Kinds, kind: str) -> None:
    """A clone has every changeset, phase, bookmark and file that stock hg serves, and no other."""
    repository = kinds(kind)
    snapshot = await repository.snapshot()
    replay = Replay()
    replay.pull(snapshot)
    replay.check_complete()
    phases, tip = await asyncio.to_thread(said_by_hg, repository)
    assert set(replay.changesets) == set(phases)
    assert replay.phases == (dict.fromkeys(phases, b"public") if snapshot.publishing else phases)
    assert replay.bookmarks == dict(snapshot.bookmarks)
    if tip:
        last = list(replay.changesets.values())[-1]
        named = {e.path: e.node for e in entries(replay.manifests[manifest_node(last)])}
        assert named == tip
    assert snapshot.index.count == len(phases)


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind not in {"empty", "large"}])
async def test_a_clone_of_each_changeset(kinds: Kinds, kind: str) -> None:
    """Whoever asks for any one changeset gets it complete, and then the rest in one pull."""
    snapshot = await kinds(kind).snapshot()
    for rev in snapshot.index.revs:
        node = snapshot.index.dag.node(rev)
        replay = Replay()
        replay.pull(snapshot, (node,))
        replay.check_complete()
        alone = shallow(snapshot, node)
        manifest = replay.manifests.get(manifest_node(replay.changesets[node]), b"")
        assert {e.path: {e.node} for e in entries(manifest)} == {
            path: set(log) for path, log in alone.files.items()
        }
        replay.pull(snapshot)
        replay.check_complete()


async def test_step_by_step_is_at_once(kinds: Kinds) -> None:
    """Pulls of one changeset after the other bring what one clone brings."""
    snapshot = await kinds("merges").snapshot()
    steps, at_once = Replay(), Replay()
    for rev in snapshot.index.revs:
        steps.pull(snapshot, (snapshot.index.dag.node(rev),))
    at_once.pull(snapshot)
    assert (steps.changesets, steps.files) == (at_once.changesets, at_once.files)
    assert steps.manifests == at_once.manifests


@pytest.mark.parametrize("kind", ["empty", "renames", "branches", "phases", "obsolete"])
async def test_the_newest_hg(newer_kinds: Kinds, kind: str) -> None:
    """What the newest Mercurial made, and says, is served as well."""
    repository = newer_kinds(kind)
    snapshot = await repository.snapshot()
    replay = Replay()
    replay.pull(snapshot)
    replay.check_complete()
    assert len(replay.changesets) == snapshot.index.count
    assert set(snapshot.heads) - {NULL} <= set(replay.changesets)


async def test_large_files_and_long_chains(kinds: Kinds) -> None:
    """Most of a long history is sent as deltas, and one revision of it alone as a text."""
    snapshot = await kinds("large").snapshot()
    replay = Replay()
    replay.pull(snapshot)
    assert replay.deltas > 2 * 390
    for path, log in replay.files.items():
        for node in list(log)[-3:]:
            alone = items(
                lambda write, path=path, node=node: commands.write_filedata(  # type: ignore[misc]
                    snapshot, path, [node], DATA, False, write
                )
            )
            assert alone[-1] == log[node]


# --- what stock hg says of itself --------------------------------------------------------------


def is_served(snapshot: HgSnapshot, key: bytes) -> bool:
    """Whether the node that a key names is one of a changeset that clients get."""
    return snapshot.index.rev(unhexed(key)) is not None


@pytest.mark.parametrize("kind", ["empty", "branches", "phases", "obsolete"])
async def test_small_answers(kinds: Kinds, kind: str) -> None:
    """Heads, branches and keys are those that stock hg gives its clients."""
    repository = kinds(kind)
    snapshot = await repository.snapshot()
    lookups = Lookups(repository)
    with Session(hg(), repository.path.parent) as session:
        for namespace in (b"bookmarks", b"phases", b"namespaces", b"obsolete", b"nothing"):
            said = session("debugpushkey", str(repository.path.parent), namespace.decode())
            # The debug command writes what is not ASCII as Python does in a literal.
            plain = said.decode("unicode_escape").encode("latin-1")
            told = dict(line.split(b"\t") for line in plain.split(b"\n") if line)
            # Stock hg tells the roots of what is hidden as well.
            told = {key: told[key] for key in told if len(key) != 40 or is_served(snapshot, key)}
            assert await lookups.listkeys(snapshot, namespace) == told
            if namespace != b"obsolete":
                assert commands.listkeys(snapshot, namespace) == told
        heads = session("log", "--rev", "sort(heads(not secret()), -rev)", "--template", "{node} ")
        public = session("log", "--rev", "sort(heads(public()), -rev)", "--template", "{node} ")
    assert commands.heads(snapshot, False) == ([*map(unhexed, heads.split())] or [NULL])
    assert commands.heads(snapshot, True) == ([*map(unhexed, public.split())] or [NULL])
    branches = commands.branchmap(snapshot)
    assert isinstance(branches, dict)
    if kind == "branches":
        assert set(branches) == {b"default", b"stable", "br\xfcnch".encode(), b"finished"}
        assert len(branches[b"stable"]) == 2  # type: ignore[arg-type]


def unhexed(digits: bytes) -> bytes:
    """A node."""
    return bytes.fromhex(digits.decode())


async def test_names(kinds: Kinds) -> None:
    """Nodes, prefixes, tags, bookmarks, branches and numbers are looked up as stock hg does."""
    repository = kinds("branches")
    snapshot = await repository.snapshot()
    lookups = Lookups(repository)
    with Session(hg(), repository.path.parent) as session:
        node = session("log", "--rev", "v1", "--template", "{node}").decode()
        names = ["tip", "null", "v1", "mine", "b\xfcok", "stable", "0", node, node[:12]]
        for name in names:
            said = session("log", "--rev", name, "--template", "{node}")
            if name != "0":  # a name would win over a number
                assert await lookups.lookup(snapshot, name.encode()) == unhexed(said), name
    for name in (b"nothing", b"", b"f" * 40, b"-1:0", b"x" * (MAX_KEY + 1)):
        with pytest.raises(CommandError):
            await lookups.lookup(snapshot, name)


async def test_names_of_what_is_not_served(kinds: Kinds) -> None:
    """A secret changeset is not found by its node, its number or its bookmark."""
    repository = kinds("phases")
    snapshot = await repository.snapshot()
    with Session(hg(), repository.path.parent) as session:
        node = session("log", "--rev", "secret()", "--template", "{node} {rev}")
    for name in (*node.split(), node[:10], b"hidden"):
        with pytest.raises(CommandError):
            await Lookups(repository).lookup(snapshot, name)


async def test_a_name_is_asked_for_once(kinds: Kinds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name in the same snapshot costs one hg process, found or not."""
    repository = kinds("branches")
    snapshot = await repository.snapshot()
    lookups = Lookups(repository)
    node = await lookups.lookup(snapshot, b"stable")
    with pytest.raises(CommandError):
        await lookups.lookup(snapshot, b"nothing")
    monkeypatch.setattr("repos.hg.lookup.ask", None)
    assert await lookups.lookup(snapshot, b"stable") == node
    with pytest.raises(CommandError):
        await lookups.lookup(snapshot, b"nothing")


# --- what is not served ------------------------------------------------------------------------


async def test_secret_and_hidden_content(kinds: Kinds) -> None:
    """No changeset, manifest or file of what is not served is answered by its node."""
    for kind in ("phases", "obsolete"):
        repository = kinds(kind)
        snapshot = await repository.snapshot()
        with Session(hg(), repository.path.parent) as session:
            left_out = session(
                "--hidden", "log", "--rev", "secret() or hidden()",
                "--template", "{node} {manifest % '{node}'}\n",
            ).split()  # fmt: skip
        assert left_out
        for node, manifest in zip(left_out[::2], left_out[1::2], strict=True):
            assert snapshot.index.known([unhexed(node)]) == [False]
            with pytest.raises(UnknownNode):
                snapshot.index.resolve([Explicit((unhexed(node),))])
            with pytest.raises(UnknownNode):
                snapshot.index.manifests([unhexed(manifest)])
        everything = gathered(
            lambda write, snapshot=snapshot: commands.write_filesdata(  # type: ignore[misc]
                snapshot, snapshot.index.revs, DATA, True, EVERYTHING, write
            )
        )
        assert b"secret" not in everything
        assert b"dropped" not in everything


async def test_a_file_that_only_a_secret_changeset_has(kinds: Kinds) -> None:
    """Such a file is unknown, as one that never was."""
    snapshot = await kinds("phases").snapshot()
    for path in (b"secret", b"never"):
        with pytest.raises(CommandError, match="unknown file: "):
            commands.write_filedata(snapshot, path, [], DATA, True, lambda _: None)


# --- questions ---------------------------------------------------------------------------------


async def test_unknown_nodes(kinds: Kinds) -> None:
    """What does not exist is said by its name, before anything is written."""
    snapshot = await kinds("linear").snapshot()
    none = b"\1" * 20
    written: list[bytes] = []
    with pytest.raises(CommandError, match="unknown node: 0101"):
        commands.write_manifestdata(snapshot, [none], b"", DATA, True, written.append)
    with pytest.raises(CommandError, match="unknown file node: 0101"):
        commands.write_filedata(snapshot, b"README", [none], DATA, True, written.append)
    with pytest.raises(CommandError, match="unknown tree: docs"):
        commands.write_manifestdata(snapshot, [], b"docs", DATA, True, written.append)
    for spec in (Explicit((none,)), ExplicitDepth((none,), 2), DagRange((), (none,))):
        with pytest.raises(UnknownNode, match="0101"):
            snapshot.index.resolve([spec])
    assert not written
    assert commands.known(snapshot, [none, NULL, snapshot.heads[0]]) == b"011"


async def test_revision_specifiers(kinds: Kinds) -> None:
    """All three kinds of specifier, and their union, name what they say, parents first."""
    snapshot = await kinds("merges").snapshot()
    index = snapshot.index

    def numbers(*specs: object) -> list[int]:
        return list(index.resolve(specs))  # type: ignore[arg-type]

    node = index.dag.node
    assert numbers(Explicit((node(3), node(1), node(3), NULL))) == [1, 3]
    assert numbers(DagRange((), snapshot.heads)) == list(range(6))
    assert numbers(DagRange((node(1), b"\7" * 20), (node(3),))) == [2, 3]
    assert numbers(DagRange((node(3),), (node(3),))) == []
    assert numbers(DagRange((), ())) == []
    assert numbers(ExplicitDepth((node(5),), 1)) == [5]
    assert numbers(ExplicitDepth((node(5),), 2)) == [3, 4, 5]
    assert numbers(ExplicitDepth((node(5),), 99)) == list(range(6))
    assert numbers(Explicit((node(5),)), Explicit((node(0), node(5)))) == [0, 5]


async def test_prefixes(kinds: Kinds) -> None:
    """A prefix finds the one served changeset that it begins, and says when there are several."""
    index = (await kinds("large").snapshot()).index
    nodes = [index.dag.node(rev).hex().encode() for rev in index.revs]
    for digits in (1, 2, 3, 9, 10, 11, 40):
        prefix = nodes[7][:digits]
        if sum(node.startswith(prefix) for node in nodes) > 1:
            with pytest.raises(Ambiguous):
                index.lookup_prefix(prefix)
        else:
            assert index.lookup_prefix(prefix.upper()) == index.dag.node(7)
    for none in (b"", b"x", b"f" * 41, b"0" * 39 + b"1"):
        assert index.lookup_prefix(none) is None


async def test_fields(kinds: Kinds) -> None:
    """Only what was asked for is sent, and without the field `revision` no data."""
    snapshot = await kinds("branches").snapshot()
    index = snapshot.index
    nothing: frozenset[bytes] = frozenset()
    revs = index.resolve([Explicit((index.dag.node(0),))])
    node = index.dag.node(0)

    def changesets(
        fields: frozenset[bytes], wanted: Revs = revs
    ) -> list[dict[bytes, Value] | bytes]:
        return items(lambda write: commands.write_changesetdata(snapshot, wanted, fields, write))

    assert changesets(nothing) == [{b"totalitems": 1}, {b"node": node}]
    parents = changesets(frozenset((b"parents", b"phase")))[1]
    assert parents == {b"node": node, b"parents": [NULL, NULL], b"phase": b"public"}
    marked = changesets(frozenset((b"bookmarks",)))
    assert marked[1] == {b"node": node, b"bookmarks": [b"first"]}
    assert len(marked) == 4
    assert changesets(frozenset((b"bookmarks",)), Revs(array("i")))[1:] != []
    manifest = manifest_node(next(index.changesets(revs)).text)
    assert items(
        lambda write: commands.write_manifestdata(snapshot, [manifest], b"", nothing, True, write)
    ) == [{b"totalitems": 1}, {b"node": manifest}]
    files = items(
        lambda write: commands.write_filesdata(snapshot, revs, nothing, True, EVERYTHING, write)
    )
    assert [set(each) for each in files[2:] if isinstance(each, dict)] == [{b"node", b"linknode"}]


async def test_path_filters(kinds: Kinds) -> None:
    """Files are chosen by directory, by subtree, and without what is excluded."""
    snapshot = await kinds("names").snapshot()
    (head,) = snapshot.heads

    def chosen(**patterns: Value) -> set[bytes]:
        match = parse_pathfilter({name.encode(): value for name, value in patterns.items()})
        return set(shallow(snapshot, head, match).files)

    everything = chosen()
    assert chosen(include=[b"path:"]) == everything == chosen(include=[b"path:."])
    assert (
        chosen(include=[b"path:aux"]) == {b"aux/con.txt"} == chosen(include=[b"path:aux/con.txt"])
    )
    assert chosen(include=[b"path:au"]) == set()
    assert chosen(include=[b"rootfilesin:"]) == {path for path in everything if b"/" not in path}
    assert chosen(include=[b"rootfilesin:directory.d/"]) == {b"directory.d/x"}
    assert chosen(include=[b"rootfilesin:deep"]) == set()
    assert chosen(exclude=[b"path:deep", b"rootfilesin:"]) == {
        path for path in everything if b"/" in path and not path.startswith(b"deep")
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({b"include": [b"glob:*"]}, "must begin with `path:` or `rootfilesin:`; got glob:"),
        ({b"exclude": [7]}, "exclude pattern must begin"),
        ({b"include": [b"path:a/../b"]}, "leaves the repository"),
        ({b"include": b"path:a"}, "list of patterns"),
        ({b"includes": []}, "unknown key in pathfilter"),
        ([], "must be a map"),
    ],
)
def test_bad_path_filters(value: Value, said: str) -> None:
    """A pattern of another kind is refused, and named."""
    with pytest.raises(CommandError, match=said):
        parse_pathfilter(value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (7, "must be a map"),
        ({}, "type key not present"),
        ({b"type": b"changesets"}, "unknown revision specifier type: changesets"),
        ({b"type": b"changesetexplicit"}, "nodes key not present in changesetexplicit"),
        ({b"type": b"changesetexplicit", b"nodes": [b"x"]}, "20 bytes"),
        ({b"type": b"changesetexplicit", b"nodes": b"x"}, "must be a list"),
        ({b"type": b"changesetexplicitdepth", b"nodes": []}, "positive integer"),
        ({b"type": b"changesetexplicitdepth", b"nodes": [], b"depth": 0}, "positive integer"),
        ({b"type": b"changesetdagrange", b"roots": []}, "heads key not present"),
    ],
)
def test_bad_specifiers(spec: Value, said: str) -> None:
    """A specifier that lacks something is refused, and says what."""
    with pytest.raises(CommandError, match=said):
        parse_revisions([spec])


def test_specifiers_as_they_are_sent() -> None:
    """The three kinds are read from their maps; lists may come as sets."""
    node = b"\1" * 20
    assert parse_revisions(
        [
            {b"type": b"changesetexplicit", b"nodes": [node]},
            {b"type": b"changesetexplicitdepth", b"nodes": frozenset({node}), b"depth": 3},
            {b"type": b"changesetdagrange", b"roots": [], b"heads": [node]},
        ]
    ) == (Explicit((node,)), ExplicitDepth((node,), 3), DagRange((), (node,)))


async def test_answers_are_encoded_as_mercurial_does(kinds: Kinds) -> None:
    """The maps that are written by hand are, byte by byte, the encoder's."""
    snapshot = await kinds("phases").snapshot()
    fields = frozenset((b"bookmarks", b"linknode", b"parents", b"phase", b"revision"))
    revs = snapshot.index.revs
    for write in (
        lambda out: commands.write_changesetdata(snapshot, revs, fields, out),
        lambda out: commands.write_filesdata(snapshot, revs, fields, True, EVERYTHING, out),
        lambda out: commands.write_filesdata(snapshot, revs, fields, False, EVERYTHING, out),
    ):
        assert b"".join(map(encode, items(write))) == gathered(write)


async def test_answers_come_in_pieces(kinds: Kinds) -> None:
    """A large answer is written in pieces of some size, and never held as a whole."""
    snapshot = await kinds("large").snapshot()
    pieces: list[int] = []
    commands.write_filesdata(
        snapshot,
        snapshot.index.revs,
        DATA,
        True,
        EVERYTHING,
        lambda piece: pieces.append(len(piece)),
    )
    assert min(pieces[:-1]) >= commands.PIECE
    assert max(pieces) < 2 * commands.PIECE
    assert len(pieces) > 3


async def test_many_readers_at_once(kinds: Kinds) -> None:
    """Answers that are made side by side are the same as alone, however they take turns."""
    snapshot = await kinds("large").snapshot()

    def answer() -> bytes:
        return gathered(
            lambda write: commands.write_filesdata(
                snapshot, snapshot.index.revs, DATA, True, EVERYTHING, write
            )
        )

    alone = answer()
    assert set(await asyncio.gather(*(asyncio.to_thread(answer) for _ in range(6)))) == {alone}
    # And interleaved in one thread, one item of each in turn.
    files = [snapshot.index.files(snapshot.index.revs, lambda _: True) for _ in range(2)]
    pairs = zip(files[0].selections(), files[1].selections(), strict=True)
    for one, other in pairs:
        together = list(zip(one.revisions(), other.revisions(), strict=True))
        assert len(together) == one.count
        assert all(first == second for first, second in together)
