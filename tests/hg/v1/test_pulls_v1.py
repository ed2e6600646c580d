# Law of this file: who pulls has afterwards what stock `hg serve` would have given, and who asks
# whether there is anything new makes nobody work if there is not.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.hg.asking import serve_hg
from tests.hg.repositories import work
from tests.hg.v1.conftest import NEWEST, REPO, Counted, Shelf, publish
from tests.hg.v1.reference import Reference
from tests.hg.versions import V2, VERSIONS, hg

OF_ALL = pytest.mark.parametrize("version", VERSIONS)

INCOMING = ("incoming", "--quiet", "--template", "{node} {branch} {bookmarks}\n")


def grow(repository: Path) -> str:
    """New changesets, one of them on a new branch, and a bookmark that moves; gives the first."""
    with work(hg(V2), repository) as made:
        made.update("default")
        new = made.commit("on", base="b3\n", new="n\n")
        made.hg("bookmark", "--force", "--inactive", "--rev", ".", "first")
        made.tag("v3", new)
        made.update("stable")
        made.hg("branch", "--quiet", "grown")
        made.commit("another branch", base="b4\n")
    return new


@pytest.mark.parametrize(
    ("version", "bundles"), [*((version, True) for version in VERSIONS), (NEWEST, False)]
)
async def test_pulls_of_what_is_new(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str, bundles: bool
) -> None:
    """Whatever is pulled, and seen before, is the same from us as from stock `hg serve`."""
    root = shelf.own("branches")
    served = await serve_hg(serve, root)
    if bundles:
        await publish(served)
    person = reference.person(version)
    urls = {"ours": f"{served.url}/{REPO}", "stock": reference.url(root / REPO)}
    for name, url in urls.items():
        await person("clone", "--quiet", url, tmp_path / name)
        await person("clone", "--quiet", "--rev", "first", url, tmp_path / f"part of {name}")
    new = grow(root / REPO)
    for options in ((), ("--rev", new), ("--branch", "grown"), ("--bookmarks",)):
        ours, stock = [
            await person("-R", tmp_path / name, *INCOMING, *options, url)
            for name, url in urls.items()
        ]
        assert ours == stock != b""
    choices = (("--rev", "stable"), ("--branch", "finished"), ("--bookmark", "first"), ())
    for choice in choices:
        for name in urls:
            await person("-R", tmp_path / f"part of {name}", "pull", "--quiet", *choice)
        copies = [await person.copy(tmp_path / f"part of {name}") for name in urls]
        assert copies[0] == copies[1], choice
    for name in urls:
        await person("-R", tmp_path / name, "pull", "--quiet")
    copies = [await person.copy(tmp_path / name) for name in urls]
    assert copies[0] == copies[1]
    assert any(new in line and "[first] [v3]" in line for line in copies[0].state.changesets)


NAMED = (
    *((), ("--rev", "tip"), ("--rev", "stable"), ("--rev", "v1"), ("--rev", "first")),
    *(("--id",), ("--bookmarks",), ("--rev", "@", "--bookmarks")),
)


@pytest.mark.parametrize(
    ("version", "kind"),
    [(NEWEST, "empty"), *((v, kind) for v in VERSIONS for kind in ("branches", "phases"))],
)
async def test_what_names_mean(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str, kind: str
) -> None:
    """`hg identify` says of a URL what it says of the stock server's, or refuses alike."""
    served = await serve_hg(serve, shelf.root(kind), data=shelf.data(kind))
    person = reference.person(version)
    urls = (f"{served.url}/{REPO}", reference.url(shelf.repository(kind)))
    for options in NAMED if kind == "branches" else NAMED[:2]:
        ours, stock = [await person("identify", *options, url) for url in urls]
        assert ours == stock
    # A bookmark of a secret changeset is unknown as well.
    ours_, stock_ = [
        await person.attempt(tmp_path, "identify", "--rev", "hidden", url) for url in urls
    ]
    assert (ours_.returncode, ours_.stderr) == (stock_.returncode, stock_.stderr)
    assert ours_.returncode == 255


@pytest.mark.parametrize("kind", ["branches", "phases"])
@OF_ALL
async def test_nothing_new_is_work_for_nobody(
    serve: Serve,
    shelf: Shelf,
    reference: Reference,
    tmp_path: Path,
    counted: Counted,
    *,
    version: str,
    kind: str,
) -> None:
    """Polls start no process, ask no backend and run nothing; nor do clients that know a name."""
    served = await serve_hg(serve, shelf.root(kind), hg={"program": str(counted.program)})
    person, url = reference.person(version), f"{served.url}/{REPO}"
    await person("clone", "--quiet", reference.url(shelf.repository(kind)), tmp_path / "clone")
    before = await person.copy(tmp_path / "clone")
    await person("identify", "--rev", "default", url)
    known = counted.starts()
    assert known
    for _ in range(2):
        await person("-R", tmp_path / "clone", "pull", url)
        await person("identify", url)
        await person("identify", "--rev", "default", url)
        await person("identify", "--rev", "tip", "--bookmarks", url)
        polled = await person.attempt(tmp_path / "clone", "incoming", url)
        assert (polled.returncode, b"no changes found" in polled.stdout) == (1, True)
    assert counted.starts() == known
    assert not counted.backends()
    assert served.executions() == 0
    assert await person.copy(tmp_path / "clone") == before


async def test_one_backend_for_all_that_needs_one(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, counted: Counted
) -> None:
    """Clones and pulls of two users start one `hg serve`, and equal questions are one run."""
    root = shelf.own("branches")
    served = await serve_hg(serve, root, hg={"program": str(counted.program)})
    person, url = reference.person(NEWEST), f"{served.url}/{REPO}"
    for name in ("one", "two"):
        await person("clone", "--quiet", url, tmp_path / name)
    assert served.executions() == 1
    grow(root / REPO)
    for name in ("one", "two"):
        await person("-R", tmp_path / name, "pull", "--quiet")
        assert await person.copy(tmp_path / name) == await person.copy(tmp_path / "one")
    assert served.executions() == 2
    assert len(counted.backends()) == 1
