# Law of this file: what is secret, hidden or gone is in no answer, no record and no clone bundle,
# also if it was served, recorded and bundled a moment ago.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.repositories import work
from tests.hg.session import Session
from tests.hg.test_secrets import CHANGES
from tests.hg.v1.conftest import NEWEST, REPO, Shelf, publish
from tests.hg.v1.raw import NULL, bundle_arguments, put, unpacked
from tests.hg.v1.reference import Reference
from tests.hg.versions import V2, VERSIONS, hg

APPLYING = "applying clone bundle"


def content(served: Served) -> list[bytes]:
    """All that lies in the store, the cache and the records, without compression."""
    places = ("store", "entities", "records", "incoming")
    files = [path for place in places for path in (served.settings.data / place).rglob("*")]
    return [unpacked(path.read_bytes()) for path in files if path.is_file()]


def told(repository: Path, revision: str) -> list[str]:
    """The nodes of a set, hidden or not."""
    with Session(hg(V2), repository) as session:
        said = session("log", "--hidden", "--rev", revision, "-T", "{node}\n")
    return said.decode().split()


def has(pieces: list[bytes], node: str, words: bytes) -> bool:
    """Whether a changeset is in any of them, by its node or its message.

    Not by its node in digits: what an amended changeset came from is told in itself.
    """
    return any(name in piece for piece in pieces for name in (bytes.fromhex(node), words))


@pytest.mark.parametrize(
    ("kind", "words"),
    [("phases", [b"not to be seen"]), ("obsolete", [b"first try", b"to be pruned"])],
)
@pytest.mark.parametrize("bundles", [True, False], ids=["bundles", "plain"])
async def test_nothing_secret_is_kept_or_told(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    *,
    kind: str,
    words: list[bytes],
    bundles: bool,
) -> None:
    """After every version cloned, pulled and looked, nothing of it is anywhere."""
    repository = shelf.repository(kind)
    served = await serve_hg(serve, shelf.root(kind))
    if bundles:
        await publish(served)
    (public,) = told(repository, "min(public())")
    for version in VERSIONS:
        person, url = reference.person(version), f"{served.url}/{REPO}"
        await person.clone(url, tmp_path / version)
        await person.attempt(tmp_path, "clone", "--stream", url, f"{version} by stream")
        await person("clone", "--quiet", "--rev", public, url, tmp_path / f"part of {version}")
        await person("-R", tmp_path / f"part of {version}", "incoming")
        await person("-R", tmp_path / f"part of {version}", "pull", "--quiet")
    found = content(served)
    for each in words:
        (node,) = told(repository, f"desc('{each.decode()}')")
        assert not has(found, node, each)
        assert not has(await answers(served, node), node, each)
    # What is public is there: it would be found.
    assert has(found, public, b"commit 1")


async def answers(served: Served, node: str) -> list[bytes]:
    """All that is told to who asks for a changeset, without errors, which repeat the question."""
    strings = [
        (await put(served, "known", {"nodes": node})).string,
        (await put(served, "heads")).string,
        (await put(served, "branchmap")).string,
        (await put(served, "lookup", {"key": node[:12]})).string,
        *[
            (await put(served, "listkeys", {"namespace": namespace})).string
            for namespace in ("bookmarks", "phases", "namespaces")
        ],
    ]
    assert strings[0] == b"0"
    assert strings[3].startswith(b"0 ")
    assert not any(node.encode() in string for string in strings)
    assert node in (await put(served, "getbundle", bundle_arguments(node))).error
    heads = strings[1].decode().strip()
    for common in (NULL, node):
        for cg in ("0", "1"):
            arguments = bundle_arguments(heads, common, cg=cg)
            strings.append((await put(served, "getbundle", arguments)).stream)
    return strings


@pytest.mark.parametrize("change", CHANGES)
async def test_what_was_served_and_is_not_any_more(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, change: str
) -> None:
    """Neither records nor clone bundles with it are used, until it is there again."""
    root = shelf.own("linear")
    served = await serve_hg(serve, root)
    await publish(served)
    person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
    _, said = await person.clone(url, tmp_path / "before")
    assert APPLYING in said
    (tip,) = told(root / REPO, "tip")
    arguments = bundle_arguments(tip)
    recorded = (await put(served, "getbundle", arguments)).stream
    assert bytes.fromhex(tip) in recorded
    with work(hg(V2), root / REPO, "extensions.strip=", "experimental.evolution=all") as made:
        CHANGES[change](made, tip)
        for command in ("clonebundles", "clonebundles_manifest"):
            assert (await put(served, command)).string == b""
        await refused(served, tip)
        copy, said = await person.clone(url, tmp_path / "after")
        assert APPLYING not in said
        assert copy == await reference.anew(NEWEST, root / REPO)
        # With the indexer's next run there are bundles again, without it.
        await publish(served)
        copy, said = await person.clone(url, tmp_path / "bundled")
        assert APPLYING in said
        assert copy == await reference.anew(NEWEST, root / REPO)
        if change == "made secret":
            made.hg("phase", "--force", "--draft", tip)
            assert (await put(served, "getbundle", arguments)).stream == recorded


async def refused(served: Served, node: str) -> None:
    """A changeset is unknown to every command."""
    strings = await answers(served, node)
    assert not has(strings, node, b"commit 10")


async def test_a_bundle_that_was_listed_is_not_sent_any_more(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path
) -> None:
    """Who was told of it before, and asks us for it after a changeset in it went, is refused."""
    root = shelf.own("linear")
    served = await serve_hg(serve, root, redirect={"enabled": False})
    await publish(served)
    listed = (await put(served, "clonebundles_manifest")).string.decode()
    path = {"path": listed.split()[0].removeprefix("peer-bundle-cache://")}
    assert (await put(served, "get_cached_bundle_inline", path)).stream
    with work(hg(V2), root / REPO, "extensions.strip=") as made:
        CHANGES["stripped"](made, "tip")
    assert "clone again" in (await put(served, "get_cached_bundle_inline", path)).error


async def test_a_draft_is_in_no_clone_bundle(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path
) -> None:
    """Where nothing is published by being pushed, what becomes a draft again is not listed."""
    root = shelf.own("phases")
    served = await serve_hg(serve, root)
    await publish(served)
    assert (await put(served, "clonebundles")).string
    with work(hg(V2), root / REPO) as made:
        made.hg("phase", "--force", "--draft", "min(all())")
    assert (await put(served, "clonebundles")).string == b""
    copy, said = await reference.person(NEWEST).clone(f"{served.url}/{REPO}", tmp_path / "clone")
    assert APPLYING not in said
    assert copy == await reference.anew(NEWEST, root / REPO)
