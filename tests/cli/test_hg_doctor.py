# Law of this file: who serves Mercurial repositories is told which hg reads them, which of them
# cannot be served or indexed, and why; who serves none is told nothing of hg.

from __future__ import annotations

from pathlib import Path

import pytest

from repos.git.program import Git
from repos.hg.program import Hg
from server.checks_hg import check_hg, check_hg_serve
from server.checks_machine import check_machine
from server.settings import Settings, load
from server.verdict import Level, Verdict
from tests.cli.hg_repositories import PROGRAM, made
from tests.hg import versions


def checked(root: Path, program: str | None = None) -> list[Verdict]:
    """What is found of Mercurial."""
    executable = str(versions.executable(PROGRAM)) if program is None else program
    return list(check_hg(root, root.parent / "data", Hg(60, {"HGRCPATH": ""}, executable)))


def test_nothing_is_said_where_there_is_no_mercurial(here: Path) -> None:
    """Whether or not there is an hg."""
    (here / "root").mkdir()
    assert checked(here / "root", "hg-of-nobody") == []
    assert list(check_hg(None, here, Hg())) == []


def test_hg_and_what_it_refuses(here: Path) -> None:
    """The version, then each repository that is not served: in hg's words, or with our reason."""
    root = made(here / "root", a="empty", b="empty", c="empty")
    (root / "b/.hg/requires").write_text("of-the-future\n")
    (root / "c/.hg/requires").write_text("store\nlfs\n")
    version, b, c = checked(root)
    assert version == Verdict(Level.OK, f"hg {PROGRAM}: reads Mercurial repositories")
    assert b.level is Level.FAIL
    assert b.what.startswith("repository b: hg refuses it: ")
    assert "of-the-future" in b.what
    assert c.level is Level.WARN  # hg alone answers for it
    assert "LFS" in c.what
    assert "convert" in c.remedy
    assert not (here / "data").exists()  # a check leaves nothing behind


def test_a_broken_configuration_is_one_repositorys(here: Path) -> None:
    """An hg that refuses the first repository is there, and the others are looked at."""
    root = made(here / "root", a="empty", b="empty")
    (root / "a/.hg/hgrc").write_text("this is [ not\n")
    version, a = checked(root)
    assert version.level is Level.OK
    assert a.what.startswith("repository a: hg refuses it: ")
    (root / "b/.hg/hgrc").write_text("nor this\n")
    version, *both = checked(root)
    assert (version.level, len(both)) == (Level.WARN, 2)


def test_no_program(here: Path) -> None:
    """It is said once, with what to install or to set, and not of each repository."""
    (only,) = checked(made(here / "root", a="empty", b="empty"), "hg-of-nobody")
    assert only.level is Level.FAIL
    assert "hg-of-nobody cannot be run" in only.what
    assert "hg.program" in only.remedy


@pytest.mark.parametrize(
    ("said", "level", "what"),
    [
        ("Mercurial Distributed SCM (version 4.9.1)", Level.WARN, "was not tested"),
        ("Mercurial Distributed SCM (version 6.9rc0+3-abc)", Level.OK, "hg 6.9rc0+3-abc"),
        ("git version 2.39.5", Level.FAIL, "this is no Mercurial"),
    ],
)
def test_other_versions(here: Path, said: str, level: Level, what: str) -> None:
    """An old hg, one between two releases, and something else of that name."""
    (here / "root/a/.hg/store").mkdir(parents=True)
    program = here / "hg"
    program.write_text(f"#!/bin/sh\n[ $1 = version ] && echo '{said}' && exit 0\nexit 1\n")
    program.chmod(0o755)
    version, *_refused = checked(here / "root", str(program))
    assert version.level is level
    assert what in version.what


def test_what_is_no_mercurial(here: Path) -> None:
    """A program that fails at everything, and not in hg's words, is said to be none."""
    (here / "root/a/.hg/store").mkdir(parents=True)
    program = here / "hg"
    program.write_text("#!/bin/sh\necho unrecognized option >&2\nexit 1\n")
    program.chmod(0o755)
    (only,) = checked(here / "root", str(program))
    assert only.level is Level.FAIL
    assert "this is no Mercurial" in only.what
    assert "'unrecognized option'" in only.what
    assert "hg.program" in only.remedy


def test_configuration_that_is_not_there(here: Path) -> None:
    """A file of `HGRCPATH` that hg would pass over in silence is named, and no other."""
    root = made(here / "root", a="empty")
    (here / "there.rc").write_text("")
    environ = {"HGRCPATH": f"{here}/there.rc:{here}/gone.rc"}
    hg = Hg(60, environ, str(versions.executable(PROGRAM)))
    gone, version = check_hg(root, here / "data", hg)
    assert (gone.level, version.level) == (Level.WARN, Level.OK)
    assert f"{here}/gone.rc" in gone.what


def test_an_hg_without_zstd(here: Path) -> None:
    """It cannot read what hg writes today, which is said before a repository is refused."""
    (here / "root/a/.hg/store").mkdir(parents=True)
    program = here / "hg"
    program.write_text(
        "#!/bin/sh\ncase $1 in\n"
        "version) echo '(version 7.2)';;\n"
        "debuginstall) echo 'bz2, none, zlib';;\n"
        "*) exit 1;;\nesac\n"
    )
    program.chmod(0o755)
    _version, zstd, _refused = checked(here / "root", str(program))
    assert zstd.level is Level.WARN
    assert "no zstd" in zstd.what


# --- hg serve ------------------------------------------------------------------------------


async def served(root: Path, program: str | None = None, **hg: object) -> list[Verdict]:
    """What is found of the hg serve that would stand behind a server."""
    executable = str(versions.executable(PROGRAM)) if program is None else program
    settings = Settings.model_validate({"root": root, "data": root.parent / "data", "hg": hg})
    checks = check_hg_serve(settings, Hg(60, {"HGRCPATH": ""}, executable))
    return [verdict async for verdict in checks]


async def test_hg_serve_is_tried(here: Path) -> None:
    """It is started, asked for each repository, and ended; nothing is left of it."""
    root = made(here / "root", a="empty", b="empty")
    assert await served(root) == [
        Verdict(Level.OK, "hg serve: starts, and answers for 2 repositories")
    ]
    assert not (here / "data").exists()


async def test_a_repository_that_hgweb_keeps_to_itself(here: Path) -> None:
    """A repository whose own configuration lets nobody read it is named; the others are served."""
    root = made(here / "root", a="empty", b="empty")
    (root / "a/.hg/hgrc").write_text("[web]\nallow_read = alice\n")
    refused, rest = await served(root)
    assert refused.level is Level.FAIL
    assert "repository a: not served at all" in refused.what
    assert "[access]" in refused.remedy
    assert "for 1 repository" in rest.what
    assert [verdict.level for verdict in checked(root)] == [Level.OK]  # it is said once


async def test_hg_serve_does_not_start(here: Path) -> None:
    """It is said once, with what the program said; of a program that is not there, nothing more."""
    root = made(here / "root", a="empty", b="empty")
    program = here / "hg"
    program.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    program.chmod(0o755)
    (only,) = await served(root, str(program))
    assert only.level is Level.FAIL
    assert "exited with 3: no such luck" in only.what
    assert await served(root, "hg-of-nobody") == []


async def test_no_mercurial_no_hg_serve(here: Path) -> None:
    """Where no Mercurial repository is, none is started and no pattern is judged."""
    (here / "root").mkdir()
    assert await served(here / "root", push=("*",)) == []


async def test_push_patterns_that_match_nothing(here: Path) -> None:
    """A pattern of `hg.push` that lets nobody push is named; one that does is not."""
    root = made(here / "root", a="empty")
    _serves, pattern = await served(root, push=("a", "b/*"))
    assert pattern.level is Level.WARN
    assert "'b/*'" in pattern.what


# -------------------------------------------------------------------------------------------


def test_both_kinds_are_counted(here: Path) -> None:
    """A ROOT with nothing but Mercurial repositories is no wrong one."""
    (here / "root/a/.hg/store").mkdir(parents=True)
    loaded = load(None, root=here / "root", data=here / "data")
    said = [verdict.what for verdict in check_machine(loaded, Git())]
    assert f"ROOT {here / 'root'}: 1 repository, 1 of Mercurial" in said


def test_git_is_not_needed_for_mercurial_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git, a ROOT with nothing but Mercurial repositories is served; one of git is not."""
    (here / "root/a/.hg/store").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(here))
    loaded = load(None, root=here / "root", data=here / "data")
    git = next(check_machine(loaded, Git()))
    assert (git.level, "git cannot be run" in git.what) == (Level.WARN, True)
    for folder in ("objects", "refs"):
        (here / "root/g.git" / folder).mkdir(parents=True)
    (here / "root/g.git/HEAD").write_text("ref: refs/heads/main\n")
    assert next(check_machine(loaded, Git())).level is Level.FAIL
