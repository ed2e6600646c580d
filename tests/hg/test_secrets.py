# Law of this file: what is secret, hidden or gone arrives by no command, whatever it is called, and
# also if it was served, and recorded, a moment ago.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import SELF, Told, call, dag, depth, exchange, explicit, request, serve_hg
from tests.hg.conftest import Sources
from tests.hg.repositories import Work, work
from tests.hg.versions import V2, hg
from wire.hg.cbor import Value
from wire.hg.messages import CommandRequest, Failed, Moved

FIELDS = frozenset({b"parents", b"revision"})


@dataclass(frozen=True, slots=True)
class Named:
    """Something that may be asked for.

    Attributes:
        changeset: its node.
        manifest: its manifest's.
        path: a file that only it has in some revision.
        file: that revision.
    """

    changeset: bytes
    manifest: bytes
    path: str
    file: bytes


def named(made: Work, revision: str, path: str) -> Named:
    """What a revision is called, and what it has, whether it is hidden or not."""
    template = "{node} {manifest % '{node}'}"
    told = made.hg("log", "--hidden", "--rev", revision, "--template", template).decode()
    node, manifest = told.split()
    files = made.hg("manifest", "--hidden", "--debug", "--rev", revision).decode().splitlines()
    (file,) = [line.split()[0] for line in files if line.endswith(f" {path}")]
    return Named(bytes.fromhex(node), bytes.fromhex(manifest), path, bytes.fromhex(file))


def questions(what: Named, public: bytes) -> list[CommandRequest]:
    """Every way to ask for it, alone and beside something that is served."""
    node = what.changeset
    specifiers: list[Value] = [
        [explicit(node)],
        [explicit(public), explicit(node)],
        [depth(1, node)],
        [dag([], [node])],
        [dag([public], [public, node])],
    ]
    manifest: list[Value] = [what.manifest]
    path = what.path.encode()
    return [
        *(request("changesetdata", revisions=each, fields=FIELDS) for each in specifiers),
        *(request("filesdata", revisions=each, fields=FIELDS) for each in specifiers),
        *(
            request("manifestdata", nodes=manifest, tree=b"", fields=FIELDS, haveparents=each)
            for each in (True, False)
        ),
        *(
            request("filedata", nodes=[what.file], path=path, fields=FIELDS, haveparents=each)
            for each in (True, False)
        ),
        request("lookup", key=node.hex().encode()),
        request("lookup", key=node.hex()[:12].encode()),
        request("lookup", key=node.hex()[:6].encode()),
    ]


async def ask_all(served: Served, what: Named, public: bytes, *, redirect: bool) -> list[Told]:
    """The answers to all questions for it."""
    asked = questions(what, public)
    if redirect:
        asked = [CommandRequest(each.name, each.args, SELF) for each in asked]
    return (await exchange(served, "repo", *asked)).answers


async def refuses(served: Served, what: Named, public: bytes) -> None:
    """Nothing of it is told to anybody."""
    for redirect in (False, True):
        for told in await ask_all(served, what, public, redirect=redirect):
            assert isinstance(told.status, Failed), told
    # What is said of it is what is said of a node that nobody ever made.
    for digits in (40, 12):
        key, other = what.changeset.hex().encode()[:digits], b"f" * digits
        said = [(await call(served, "repo", "lookup", key=each)).failure for each in (key, other)]
        assert said[0].replace(key.decode(), "") == said[1].replace(other.decode(), "")
    for name in ("heads", "branchmap"):
        assert what.changeset not in (await call(served, "repo", name)).data
    assert (await call(served, "repo", "known", nodes=[what.changeset])).objects == [b"0"]
    for namespace in (b"bookmarks", b"obsolete", b"namespaces", b"phases"):
        told = await call(served, "repo", "listkeys", namespace=namespace)
        assert what.changeset.hex().encode() not in told.data


async def tells(served: Served, what: Named, public: bytes) -> None:
    """It is told, inline and elsewhere; so it is recorded too."""
    for told in await ask_all(served, what, public, redirect=False):
        assert told.objects
    for told in await ask_all(served, what, public, redirect=True):
        assert isinstance(told.status, Moved)


@pytest.mark.parametrize("version", ["5.9.3", "7.2.4"])
async def test_secret_changesets_never_arrive(
    serve: Serve, sources: Sources, tmp_path: Path, version: str
) -> None:
    """A secret changeset, its manifest and its files are unknown; so is its bookmark."""
    source = sources.copy("phases", tmp_path / "root")
    with work(hg(V2), source) as made:
        secret = named(made, "hidden", "secret")
        public = bytes.fromhex(made.node("public()"))
    served = await serve_hg(serve, tmp_path / "root", version)
    await refuses(served, secret, public)
    assert b"hidden" not in (await call(served, "repo", "listkeys", namespace=b"bookmarks")).data
    assert isinstance((await call(served, "repo", "lookup", key=b"hidden")).status, Failed)
    # A revision that a served changeset has as well is served.
    shared = await call(served, "repo", "filedata", **_shared(source))
    assert len(shared.objects) == 2


def _shared(source: Path) -> dict[str, Value]:
    with work(hg(V2), source) as made:
        served = named(made, "desc('a draft head')", "shared")
        assert named(made, "hidden", "shared").file == served.file
    return {"path": b"shared", "nodes": [served.file]}


@pytest.mark.parametrize("version", ["5.9.3", "7.2.4"])
async def test_obsolete_changesets_never_arrive(
    serve: Serve, sources: Sources, tmp_path: Path, version: str
) -> None:
    """Amended and pruned changesets are in the store, and unknown."""
    source = sources.copy("obsolete", tmp_path / "root")
    with work(hg(V2), source) as made:
        amended = named(made, "desc('first try')", "work")
        pruned = named(made, "desc('to be pruned')", "dropped")
        public = bytes.fromhex(made.node("public()"))
    served = await serve_hg(serve, tmp_path / "root", version)
    for each in (amended, pruned):
        await refuses(served, each, public)


def _strip(made: Work, revision: str) -> None:
    made.hg("strip", "--no-backup", "--rev", revision)


def _keep_secret(made: Work, revision: str) -> None:
    made.hg("phase", "--force", "--secret", revision)


def _obsolete(made: Work, revision: str) -> None:
    made.update(f"{revision}^")
    made.hg("phase", "--force", "--draft", revision)
    made.hg("debugobsolete", made.node(revision))


CHANGES: dict[str, Callable[[Work, str], None]] = {
    "stripped": _strip,
    "made secret": _keep_secret,
    "obsoleted": _obsolete,
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_was_served_and_is_not_any_more(
    serve: Serve, sources: Sources, tmp_path: Path, change: str
) -> None:
    """Records of a changeset are of no use once it is not served, and of use again when it is."""
    source = sources.copy("linear", tmp_path / "root")
    served = await serve_hg(serve, tmp_path / "root")
    config = ("extensions.strip=", "experimental.evolution=all")
    with work(hg(V2), source, *config) as made:
        what, public = named(made, "9", "last"), bytes.fromhex(made.node("0"))
        await tells(served, what, public)
        CHANGES[change](made, what.changeset.hex())
        await refuses(served, what, public)
        if change == "made secret":
            made.hg("phase", "--force", "--draft", what.changeset.hex())
            await tells(served, what, public)


async def test_what_a_purged_repository_had_is_not_what_another_has(
    serve: Serve, sources: Sources, tmp_path: Path
) -> None:
    """A repository that takes another's place answers with its own content alone."""
    source = sources.copy("linear", tmp_path / "root")
    served = await serve_hg(serve, tmp_path / "root")
    with work(hg(V2), source) as made:
        what, public = named(made, "9", "last"), bytes.fromhex(made.node("0"))
    await tells(served, what, public)
    source.rename(tmp_path / "old")
    sources.copy("merges", tmp_path / "root")
    with work(hg(V2), source) as made:
        other = bytes.fromhex(made.node("0"))
    await refuses(served, what, other)


async def test_a_root_that_is_not_known_hides_nothing(
    serve: Serve, sources: Sources, tmp_path: Path
) -> None:
    """A range whose root is secret is as one whose root is unknown: all that is served."""
    source = sources.copy("phases", tmp_path / "root")
    with work(hg(V2), source) as made:
        secret, head = (bytes.fromhex(made.node(name)) for name in ("hidden", "seen"))
    served = await serve_hg(serve, tmp_path / "root")
    by_root = [
        (await call(served, "repo", "changesetdata", revisions=[dag(roots, [head])])).data
        for roots in ([secret], [b"\x01" * 20], [])
    ]
    assert by_root[0] == by_root[1] == by_root[2]
    assert secret not in by_root[0]
