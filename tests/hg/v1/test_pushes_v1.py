# Law of this file: what is pushed through this server is in the repository, and everybody gets it
# at once; where pushing is not enabled, nothing changes.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.hg.asking import serve_hg
from tests.hg.v1.conftest import NEWEST, REPO, Shelf, publish
from tests.hg.v1.reference import Person, Reference
from tests.hg.versions import VERSIONS

OF_ALL = pytest.mark.parametrize("version", VERSIONS)
PUSHABLE = {"push": (REPO,)}
EVOLVING = ("--config", "experimental.evolution=all")


async def commit(person: Person, at: Path, name: str) -> None:
    """Commit a new file in a clone."""
    (at / name).write_text(f"{name}\n")
    await person("-R", at, "commit", "--addremove", "--quiet", "--message", name)


@OF_ALL
async def test_a_push_is_pulled_by_everybody(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str
) -> None:
    """What one version pushes, all versions pull, as from stock `hg serve`."""
    root = shelf.own("branches")
    served = await serve_hg(serve, root, hg=PUSHABLE)
    await publish(served)
    url = f"{served.url}/{REPO}"
    for each in VERSIONS:
        await reference.person(each)("clone", "--quiet", url, tmp_path / each)
    pusher = reference.person(version)
    await pusher("clone", "--quiet", url, tmp_path / "pushing")
    for number in range(2):
        await commit(pusher, tmp_path / "pushing", f"pushed{number}")
        said = await pusher("-R", tmp_path / "pushing", "push")
        assert b"added 1 changesets with 1 changes to 1 files" in said
        for each in VERSIONS:
            person = reference.person(each)
            await person("-R", tmp_path / each, "pull", "--update", "--quiet")
            assert (tmp_path / each / f"pushed{number}").exists()
    expected = await reference.anew(version, root / REPO)
    for each in VERSIONS:
        assert await reference.person(each).copy(tmp_path / each) == expected
    copy, _ = await pusher.clone(url, tmp_path / "anew")
    assert copy == expected


@OF_ALL
async def test_bookmarks_are_pushed(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str
) -> None:
    """A new bookmark, one that moves, and one that goes, are seen at once."""
    root = shelf.own("branches")
    served = await serve_hg(serve, root, hg=PUSHABLE)
    url, person, at = f"{served.url}/{REPO}", reference.person(version), tmp_path / "clone"
    await person("clone", "--quiet", url, at)
    for revision in ("first", "stable"):
        await person("-R", at, "bookmark", "--force", "--inactive", "--rev", revision, "pushed")
        done = await person.attempt(at, "push", "--bookmark", "pushed", "--force")
        assert done.returncode == 1, done  # there is no changeset to push
        here = await person("-R", at, "identify", "--id", "--rev", "pushed")
        assert await person("identify", "--id", "--rev", "pushed", url) == here
    await person("-R", at, "bookmark", "--delete", "pushed")
    await person.attempt(at, "push", "--bookmark", "pushed")
    gone = await person.attempt(at, "identify", "--rev", "pushed", url)
    assert b"unknown revision 'pushed'" in gone.stderr
    assert await person.copy(at) == await reference.anew(version, root / REPO)


@OF_ALL
async def test_phases_are_pushed(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str
) -> None:
    """A draft that becomes public in a clone is public here, and in other clones."""
    root = shelf.own("phases")
    served = await serve_hg(serve, root, hg=PUSHABLE)
    url, person = f"{served.url}/{REPO}", reference.person(version)
    for name in ("one", "two"):
        before, _ = await person.clone(url, tmp_path / name)
    await person("-R", tmp_path / "one", "phase", "--public", "seen")
    pushed = await person.attempt(tmp_path / "one", "push")
    assert pushed.returncode == 1, pushed  # there is no changeset to push
    await person("-R", tmp_path / "two", "pull", "--quiet")
    after = await person.copy(tmp_path / "two")
    assert after == await person.copy(tmp_path / "one") != before
    assert after == await reference.anew(version, root / REPO)


@OF_ALL
async def test_markers_are_pushed(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str
) -> None:
    """Who amends a draft and pushes it replaces it for those who pull, and for who clones."""
    root = shelf.own("obsolete")
    served = await serve_hg(serve, root, hg=PUSHABLE)
    url, person = f"{served.url}/{REPO}", reference.person(version)
    for name in ("one", "two"):
        await person("clone", "--noupdate", *EVOLVING, url, tmp_path / name)
    await person("-R", tmp_path / "one", "update", "--quiet")
    (tmp_path / "one" / "work").write_text("amended\n")
    await person("-R", tmp_path / "one", "commit", "--amend", "-m", "amended", *EVOLVING)
    await person("-R", tmp_path / "one", "push", "--quiet", *EVOLVING)
    await person("-R", tmp_path / "two", "pull", "--quiet", *EVOLVING)
    copies = [await person.copy(tmp_path / name) for name in ("one", "two")]
    assert copies[0].markers == copies[1].markers
    assert copies[0].state.heads == copies[1].state.heads
    copy, _ = await person.clone(url, tmp_path / "anew", *EVOLVING)
    assert copy == await reference.anew(version, root / REPO, *EVOLVING)
    assert copy.markers == copies[0].markers


@OF_ALL
async def test_pushing_that_is_not_enabled(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path, *, version: str
) -> None:
    """Changesets and bookmarks are refused with a sentence that says what to do."""
    root = shelf.own("branches")
    served = await serve_hg(serve, root, hg={"push": ("other",)})
    url, person, at = f"{served.url}/{REPO}", reference.person(version), tmp_path / "clone"
    before, _ = await person.clone(url, at)
    await commit(person, at, "refused")
    await person("-R", at, "bookmark", "--inactive", "refused")
    for command in (("push",), ("push", "--bookmark", "refused"), ("push", "--force")):
        done = await person.attempt(at, *command)
        assert done.returncode, done
        assert b"hg.push" in done.stdout + done.stderr, done
    assert await reference.anew(version, root / REPO) == before


async def test_what_hg_refuses_is_told(
    serve: Serve, shelf: Shelf, reference: Reference, tmp_path: Path
) -> None:
    """A hook's words reach who pushes, and the repository is as it was."""
    root = shelf.own("linear")
    served = await serve_hg(serve, root, hg=PUSHABLE)
    url, person, at = f"{served.url}/{REPO}", reference.person(NEWEST), tmp_path / "clone"
    before, _ = await person.clone(url, at)
    hook = "[hooks]\npretxnchangegroup.no = echo not on a Friday; false\n"
    (root / REPO / ".hg" / "hgrc").write_text(hook)
    await commit(person, at, "refused")
    done = await person.attempt(at, "push")
    assert done.returncode != 0
    assert b"not on a Friday" in done.stdout + done.stderr
    copy, _ = await person.clone(url, tmp_path / "after")
    assert copy == before
