# Law of this file: however the content of a clone comes, a stock client has afterwards what it
# would have from stock `hg serve`.

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.repositories import KINDS
from tests.hg.v1.conftest import BUCKET, NEWEST, Shelf, publish
from tests.hg.v1.reference import Reference
from tests.hg.versions import V1, V2, VERSIONS

# The large one is cloned from S3 below.
PAIRS = [
    *((NEWEST, kind) for kind in KINDS if kind != "large"),
    *((version, kind) for version in (V2, V1[0]) for kind in ("branches", "phases", "obsolete")),
]
EACH = pytest.mark.parametrize(("version", "kind"), PAIRS)
OF_ALL = pytest.mark.parametrize("version", VERSIONS)

APPLYING = "applying clone bundle from "

# Who does not exchange markers may not copy a store that has some.
EVOLVING = ("--config", "experimental.evolution=all")


async def served_kind(serve: Serve, shelf: Shelf, kind: str, **settings: Any) -> Served:
    """A server of one repository, with what others have made of it."""
    return await serve_hg(serve, shelf.root(kind), data=shelf.data(kind), **settings)


@EACH
async def test_a_clone_without_clone_bundles(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str, kind: str
) -> None:
    """A clone, and one that asks for a stream, are those of stock `hg serve`."""
    served = await serve_hg(serve, shelf.root(kind))
    url, person = f"{served.url}/repo", reference.person(version)
    streaming = ("--stream", *(EVOLVING if kind == "obsolete" else ()))
    for number, options in enumerate(((), streaming, ())):
        copy, said = await person.clone(url, tmp_path / f"clone{number}", *options)
        # What is hidden in a store is not sent with it: then it is a plain clone.
        like = options[1:] if kind == "obsolete" else options
        assert copy == await reference.expected(version, shelf.repository(kind), *like)
        assert APPLYING not in said
    assert served.outcomes("getbundle").get("hit", 0) >= 1


@EACH
async def test_a_clone_with_clone_bundles(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str, kind: str
) -> None:
    """What is public comes from the store, the rest from us, and all is as from `hg serve`."""
    served = await served_kind(serve, shelf, kind)
    await publish(served)
    url, person = f"{served.url}/repo", reference.person(version)
    copy, said = await person.clone(url, tmp_path / "clone")
    assert copy == await reference.expected(version, shelf.repository(kind))
    assert (f"{APPLYING}{served.url}/-/blobs/" in said) == (kind != "empty")
    # Drafts are in no clone bundle.
    assert served.executions() <= (kind in {"phases", "obsolete"})


@pytest.mark.parametrize("kind", ["linear", "branches"])
@OF_ALL
async def test_a_stream_comes_from_the_store(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str, kind: str
) -> None:
    """Who clones with `--stream` gets the store's files from a clone bundle."""
    served = await served_kind(serve, shelf, kind)
    await publish(served)
    person = reference.person(version)
    copy, said = await person.clone(f"{served.url}/repo", tmp_path / "clone", "--stream")
    assert copy == await reference.expected(version, shelf.repository(kind), "--stream")
    assert f"{APPLYING}{served.url}/-/blobs/" in said
    assert "files to transfer" in said
    assert served.executions() == 0


@pytest.mark.parametrize("kinds", [("gzip-v2",), ("stream-v2", "zstd-v2")], ids=lambda k: k[0])
@OF_ALL
async def test_other_kinds_of_clone_bundles(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    version: str,
    *,
    kinds: tuple[str, ...],
) -> None:
    """A gzip bundle, and a stream that was not asked for, are as good."""
    root = shelf.root("branches")
    data = shelf.data(f"branches in {kinds[0]}")
    served = await serve_hg(serve, root, data=data, hg={"bundles": kinds})
    await publish(served)
    person = reference.person(version)
    copy, said = await person.clone(f"{served.url}/repo", tmp_path / "clone")
    assert copy == await reference.expected(version, shelf.repository("branches"))
    assert f"{APPLYING}{served.url}/-/blobs/" in said
    assert served.executions() == 0


@pytest.mark.parametrize(
    ("version", "kind"),
    [*((version, "branches") for version in VERSIONS), (NEWEST, "phases"), (NEWEST, "large")],
)
async def test_clones_from_s3(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    s3: dict[str, Any],
    *,
    endpoint: str,
    version: str,
    kind: str,
) -> None:
    """Clone bundles come from presigned URLs of a bucket, and the clone is the same."""
    served = await serve_hg(serve, shelf.root(kind), store=s3)
    await publish(served)
    url, person = f"{served.url}/repo", reference.person(version)
    copy, said = await person.clone(url, tmp_path / "clone")
    assert copy == await reference.expected(version, shelf.repository(kind))
    assert f"{APPLYING}{endpoint}/{BUCKET}/{s3['prefix']}/entities/" in said
    assert "X-Amz-Signature=" in said


@OF_ALL
async def test_bundles_for_clients_that_no_target_suits(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, version: str
) -> None:
    """They come in the protocol to who takes them so; to 5.9 as an ordinary clone."""
    served = await served_kind(serve, shelf, "branches", redirect={"enabled": False})
    await publish(served)
    person = reference.person(version)
    copy, said = await person.clone(f"{served.url}/repo", tmp_path / "clone")
    assert copy == await reference.expected(version, shelf.repository("branches"))
    assert (f"{APPLYING}peer-bundle-cache://" in said) == (version != V2)
    assert served.content()["redirected"] == 0


OPTIONS = {
    "a revision": ("--rev", "first"),
    "a branch": ("--branch", "stable"),
    "a branch, updated to another": ("--branch", "stable", "--updaterev", "v1"),
    "a tag to update to": ("--updaterev", "v2"),
    "nothing to update to": ("--noupdate",),
    "by pulling": ("--pull",),
}


@OF_ALL
async def test_options_of_clones(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, version: str
) -> None:
    """Parts of a repository, and what is checked out, are as from `hg serve`."""
    served = await served_kind(serve, shelf, "branches")
    await publish(served)
    person = reference.person(version)
    for name, options in OPTIONS.items():
        copy, said = await person.clone(f"{served.url}/repo", tmp_path / name, *options)
        repository = shelf.repository("branches")
        assert copy == await reference.expected(version, repository, *options), name
        assert (APPLYING in said) == ("--rev" not in options and "--branch" not in options), name


@OF_ALL
async def test_markers_of_obsolescence(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, version: str
) -> None:
    """Who exchanges them gets those that `hg serve` gives."""
    served = await served_kind(serve, shelf, "obsolete")
    await publish(served)
    person = reference.person(version)
    for number in range(2):
        to = tmp_path / f"clone{number}"
        copy, _ = await person.clone(f"{served.url}/repo", to, *EVOLVING)
        assert copy == await reference.expected(version, shelf.repository("obsolete"), *EVOLVING)
        assert copy.markers
