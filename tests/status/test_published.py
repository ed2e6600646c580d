# Law of this file: what is shown of repositories is what the store's catalogs and the repositories
# themselves say.

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.report import Silent
from server.indexing import index_all
from server.status import published as module
from server.status.published import Shelf, Shelves
from stores.base import StoreUnavailable
from tests.conftest import Serve, Served
from tests.status.scene import git, repository


async def looked(served: Served) -> Shelf:
    """What is there now."""
    shelves = served.runtime.status.shelves
    shelves._due = 0.0
    await shelves.look()
    if shelves._reading is not None:
        await shelves._reading
    shelf = await shelves.look()
    assert shelf is not None
    return shelf


async def test_bundles_and_their_cover(serve: Serve, tmp_path: Path) -> None:
    """Each repository is listed with its bundles, and how many of its tips these hold."""
    root = tmp_path / "repos"
    repository(root / "a.git", 1000)
    served = await serve(root)
    await index_all(served.settings, Silent(), gc=False)
    repository(root / "b.git", 1000)
    shelf = await looked(served)
    a, b = shelf.repositories
    assert (a.name, a.kind, b.name, b.kind) == ("a.git", "git", "b.git", "git")
    assert b.bundles == ()
    full, blobless = a.bundles
    assert (full.kind, blobless.kind) == ("full", "blobless")
    assert (full.covered, full.tips, full.holds, full.targets) == (1, 1, 3, ("self",))
    push_commit(root / "a.git", tmp_path / "work")
    (a, _) = (await looked(served)).repositories
    assert (a.bundles[0].covered, a.bundles[0].tips) == (1, 2)


def push_commit(path: Path, work: Path) -> None:
    """Push a branch with a new commit, from a clone at ``work``."""
    git("clone", "-q", str(path), str(work))
    git("-C", str(work), "commit", "-q", "--allow-empty", "-m", "more")
    git("-C", str(work), "push", "-q", "origin", "HEAD:refs/heads/more")


async def test_a_catalog_of_nothing_here(serve: Serve, tmp_path: Path) -> None:
    """What another machine has published is listed too; one that is damaged says why."""
    root = tmp_path / "repos"
    repository(root / "a.git", 1000)
    served = await serve(root)
    await index_all(served.settings, Silent(), gc=False)
    (root / "a.git").rename(tmp_path / "gone")
    await served.runtime.store.write_document("catalogs/bad.git.json", b"nonsense", None)
    a, bad = (await looked(served)).repositories
    assert (a.kind, a.bundles[0].covered) == ("elsewhere", None)
    assert (bad.name, bad.bundles) == ("bad.git", ())
    assert "no catalog" in bad.fault


async def test_a_store_that_does_not_answer(serve: Serve, tmp_path: Path) -> None:
    """It is said, and what this machine serves is listed all the same."""
    root = tmp_path / "repos"
    repository(root / "a.git", 1000)
    served = await serve(root)

    class Down:
        def list_documents(self, prefix: str) -> object:
            raise StoreUnavailable("it is not there")

    served.runtime.status.shelves.store = Down()  # type: ignore[assignment]
    shelf = await looked(served)
    assert [each.name for each in shelf.repositories] == ["a.git"]
    assert shelf.fault == "it is not there"


async def test_it_is_read_seldom(serve: Serve, tmp_path: Path) -> None:
    """Who looks again and again does not have the store read again and again."""
    root = tmp_path / "repos"
    repository(root / "a.git", 1000)
    shelves = (await serve(root)).runtime.status.shelves
    first = await shelves.look()
    assert first is not None
    assert await shelves.look() is first
    assert shelves._reading is None


async def test_a_long_read(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks while it is read for the first time waits for a while, and then goes on."""
    monkeypatch.setattr(module, "_FIRST_WAIT", 0.0)
    root = tmp_path / "repos"
    repository(root / "a.git", 1000)
    served = await serve(root)
    assert await served.runtime.status.shelves.look() is None
    assert isinstance(await looked(served), Shelf)


async def test_whatever_goes_wrong(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault that nobody thought of is logged, and what was read before stays."""

    def served() -> object:
        raise RuntimeError("unthought of")

    shelves = (await serve(tmp_path)).runtime.status.shelves
    broken = Shelves(shelves.settings, shelves.store, (), served)  # type: ignore[arg-type]
    assert await broken.look() is None
    assert "unthought of" in caplog.text
