# Law of this file: a client sees the repository as it is now. Whatever way the refs are changed,
# the next listing is stock git's.

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.report import Silent
from server.indexing import index_all
from tests.conftest import Serve, Served
from tests.server.asking import ask, command, error, make_repository, post, run_git, stock, want

LS_REFS = command(b"ls-refs", b"peel", b"symrefs", b"unborn")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one repository, ``p.git``, of some refs."""
    root = tmp_path / "root"
    root.mkdir()
    make_repository(root / "p.git", {"file": b"content\n"})
    for name in ("heads/topic", "heads/a/deep/one", "tags/light", "hidden/one"):
        run_git("update-ref", f"refs/{name}", "HEAD", cwd=root / "p.git")
    return root


def commit(path: Path, message: str) -> str:
    """A new commit that no ref names yet."""
    tree = run_git("rev-parse", "HEAD^{tree}", cwd=path)
    return run_git("commit-tree", "-p", "HEAD", "-m", message, tree, cwd=path)


def change(*args: str) -> Callable[[Path], None]:
    """A change by one git command."""
    return lambda path: void(run_git(*args, cwd=path))


def void(_: object) -> None:
    """Nothing."""


CHANGES: dict[str, Callable[[Path], None]] = {
    "commit": lambda path: void(run_git("update-ref", "HEAD", commit(path, "two"), cwd=path)),
    "update-ref": lambda path: void(
        run_git("update-ref", "refs/heads/a/deep/one", commit(path, "x"), cwd=path)
    ),
    "new branch": change("branch", "new"),
    "new deep branch": change("branch", "n/e/w"),
    "delete": change("branch", "-q", "-D", "topic"),
    "delete deep": change("branch", "-q", "-D", "a/deep/one"),
    "rename": change("branch", "-m", "topic", "renamed"),
    "tag": change("tag", "-a", "-m", "annotated", "v1"),
    "pack-refs": change("pack-refs", "--all"),
    "symbolic-ref": change("symbolic-ref", "HEAD", "refs/heads/topic"),
    "unborn": change("symbolic-ref", "HEAD", "refs/heads/unborn"),
    "detached": lambda path: void(
        run_git("update-ref", "--no-deref", "HEAD", commit(path, "d"), cwd=path)
    ),
    "transaction": lambda path: void(
        run_git(
            "update-ref",
            "--stdin",
            cwd=path,
            stdin=b"start\ndelete refs/heads/topic\ncreate refs/heads/other HEAD\ncommit\n",
        )
    ),
}


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
@pytest.mark.parametrize("name", CHANGES)
async def test_every_change_is_seen_at_once(
    serve: Serve, root: Path, name: str, packed: bool
) -> None:
    """The listing after a change is that of stock git, to the byte."""
    path = root / "p.git"
    if packed:
        run_git("pack-refs", "--all", cwd=path)
    served = await serve(root)
    for _ in range(3):
        assert (await post(served, "p.git", LS_REFS)).body == stock(path, LS_REFS)
    CHANGES[name](path)
    assert (await post(served, "p.git", LS_REFS)).body == stock(path, LS_REFS)


@pytest.mark.parametrize(
    "setting",
    [
        ("transfer.hideRefs", "refs/hidden"),
        ("uploadpack.hideRefs", "refs/heads/a"),
        ("lsrefs.unborn", "ignore"),
    ],
)
async def test_configuration_is_seen(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]
) -> None:
    """What the configuration hides is hidden as soon as it is looked at again."""
    monkeypatch.setattr("repos.git.repository.CONFIG_SECONDS", -1.0)
    path = root / "p.git"
    served = await serve(root)
    for _ in range(3):
        assert (await post(served, "p.git", LS_REFS)).body == stock(path, LS_REFS)
    run_git("config", *setting, cwd=path)
    assert (await post(served, "p.git", LS_REFS)).body == stock(path, LS_REFS)


async def test_configuration_in_an_included_file_is_seen(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the configuration includes is part of it."""
    monkeypatch.setattr("repos.git.repository.CONFIG_SECONDS", -1.0)
    path = root / "p.git"
    (path / "included").write_text("[transfer]\n")
    run_git("config", "include.path", "included", cwd=path)
    monkeypatch.setattr("repos.git.repository.is_racy", lambda *_: False)
    served = await serve(root)
    assert (await post(served, "p.git", LS_REFS)).body == stock(path, LS_REFS)
    (path / "included").write_text("[transfer]\n\thideRefs = refs/hidden\n")
    assert (await post(served, "p.git", LS_REFS)).body == stock(path, LS_REFS)


async def test_reading_is_switched_off(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """http.uploadpack=false is 403 from then on, for what is recorded too."""
    monkeypatch.setattr("repos.git.repository.CONFIG_SECONDS", -1.0)
    served = await serve(root)
    body = want(run_git("rev-parse", "HEAD", cwd=root / "p.git"))
    assert (await post(served, "p.git", body)).status == 200
    run_git("config", "http.uploadpack", "false", cwd=root / "p.git")
    assert (await post(served, "p.git", body)).status == 403
    listing = "/p.git/info/refs?service=git-upload-pack"
    assert (await ask(served, "GET", listing)).status == 403


def has_reftable() -> bool:
    """Whether this git can make a repository whose refs are in reftables."""
    asked = ("git", "init", "--ref-format=reftable", "-h")
    usage = subprocess.run(asked, capture_output=True, check=False)
    return b"ref-format" in usage.stdout and b"unknown option" not in usage.stderr


@pytest.mark.skipif(not has_reftable(), reason="this git knows no reftable")
async def test_changes_of_a_reftable_are_seen(serve: Serve, root: Path) -> None:
    """The same for a repository whose refs are in reftables."""
    path = root / "r.git"
    run_git("init", "-q", "--bare", "--ref-format=reftable", path)
    served = await serve(root)
    for number in range(3):
        tree = run_git("mktree", cwd=path)
        made = run_git("commit-tree", "-m", str(number), tree, cwd=path)
        run_git("update-ref", f"refs/heads/b{number}", made, cwd=path)
        assert (await post(served, "r.git", LS_REFS)).body == stock(path, LS_REFS)


# --- bundles -------------------------------------------------------------------------------


async def indexed(serve: Serve, root: Path) -> tuple[Served, str]:
    """A server whose repository has a bundle; and its tip."""
    served = await serve(root)
    await index_all(served.settings, Silent(), gc=False)
    return served, run_git("rev-parse", "HEAD", cwd=root / "p.git")


def asking(*oids: str) -> bytes:
    """A clone that accepts locations."""
    wants = (b"want " + oid.encode() for oid in oids)
    return command(b"fetch", b"packfile-uris http", b"ofs-delta", *wants, b"done")


async def test_a_bundle_does_not_outlive_its_objects(serve: Serve, root: Path) -> None:
    """After a force push and gc, a bundle that holds the old commit does not answer for it."""
    served, old = await indexed(serve, root)
    assert b"packfile-uris" in (await post(served, "p.git", asking(old))).body
    assert served.executions() == 0
    path = root / "p.git"
    other = run_git("commit-tree", "-m", "other", run_git("mktree", cwd=path), cwd=path)
    for ref in run_git("for-each-ref", "--format=%(refname)", cwd=path).split():
        run_git("update-ref", ref, other, cwd=path)
    run_git("gc", "-q", "--prune=now", cwd=path)
    expected = error(stock(path, want(old)))
    assert expected == f"upload-pack: not our ref {old}"
    assert error((await post(served, "p.git", asking(old))).body) == expected
    assert error((await post(served, "p.git", want(old))).body) == expected


@pytest.mark.parametrize("also", [False, True], ids=["alone", "with the tip"])
async def test_a_made_up_want_beside_a_bundle(serve: Serve, root: Path, also: bool) -> None:
    """Where there is a bundle, a want that does not exist is refused in git's words as well."""
    served, tip = await indexed(serve, root)
    wants = ["ab" * 20, *([tip] if also else [])]
    expected = error(stock(root / "p.git", want(*wants)))
    assert error((await post(served, "p.git", asking(*wants))).body) == expected
