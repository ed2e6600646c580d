# Law of this file: who serves Mercurial repositories is told which hg reads them and which of them
# cannot be served, and why; who serves none is told nothing of hg.

from __future__ import annotations

from pathlib import Path

import pytest

from repos.git.program import Git
from repos.hg.program import Hg
from server.checks_hg import check_hg
from server.checks_machine import check_machine
from server.settings import load
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
    assert c.level is Level.FAIL
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
        ("chg", Level.WARN, "not clear from 'chg'"),
    ],
)
def test_other_versions(here: Path, said: str, level: Level, what: str) -> None:
    """An old hg, one between two releases, and something else of that name."""
    (here / "root/a/.hg/store").mkdir(parents=True)
    program = here / "hg"
    program.write_text(f"#!/bin/sh\n[ $1 = version ] && echo '{said}' && exit 0\nexit 1\n")
    program.chmod(0o755)
    version, _refused = checked(here / "root", str(program))
    assert version.level is level
    assert what in version.what


def test_both_kinds_are_counted(here: Path) -> None:
    """A ROOT with nothing but Mercurial repositories is no wrong one."""
    (here / "root/a/.hg/store").mkdir(parents=True)
    loaded = load(None, root=here / "root", data=here / "data")
    said = [verdict.what for verdict in check_machine(loaded, Git())]
    assert f"ROOT {here / 'root'}: 1 repository, 1 of Mercurial" in said
