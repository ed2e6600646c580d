# Law of this file: what hg sees of us is known, and how it ended is told.

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repos.hg.asking import ask
from repos.hg.program import Hg, HgFailed, environment
from tests.hg.repositories import work
from tests.hg.versions import hg
from tests.repos.hg_replay import stock


def program(tmp_path: Path, script: str) -> Hg:
    """A program that is not hg."""
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Hg(executable=str(path))


def test_the_environment() -> None:
    """No configuration is read but what HGRCPATH says, and nothing else of ours is seen."""
    seen = environment({"PATH": "/bin", "HGUSER": "x", "HGPLAINEXCEPT": "i18n", "HG": "/evil"})
    assert seen["HGRCPATH"] == ""
    assert (seen["HGPLAIN"], seen["HGENCODING"], seen["PATH"]) == ("1", "UTF-8", "/bin")
    assert not {"HGUSER", "HGPLAINEXCEPT", "HG"} & set(seen)
    assert environment({"HGRCPATH": "/etc/ours"})["HGRCPATH"] == "/etc/ours"


def test_failures(tmp_path: Path) -> None:
    """The subcommand, the exit code and hg's own words are in the exception."""
    with pytest.raises(HgFailed, match="hg bundle exited with 3: no") as failed:
        program(tmp_path, "echo no >&2; exit 3").run("bundle", repository=tmp_path)
    assert (failed.value.command, failed.value.status) == ("bundle", 3)
    with pytest.raises(HgFailed, match="repository /nowhere not found"):
        ask(stock(tmp_path), Path("/nowhere"), ())
    with pytest.raises(HgFailed, match="exited with 127"):
        ask(Hg(executable=str(tmp_path / "none")), tmp_path, ())


@pytest.mark.parametrize("said", ["", "x", "3\\nabc", "2\\nab9\\nabc", "z1\\n", "1\\na1\\na"])
def test_what_is_no_answer(tmp_path: Path, said: str) -> None:
    """Something else than an answer is a failure, and is shown."""
    with pytest.raises(HgFailed, match="it answered"):
        ask(program(tmp_path, f"cat > /dev/null; printf '{said}'"), tmp_path, ())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_hooks_of_somebody_else(tmp_path: Path) -> None:
    """Hg runs nothing from a configuration that belongs to another user."""
    stock_hg = stock(tmp_path)
    with work(hg(), tmp_path / "p") as made:
        made.commit(a="1\n")
    mark = tmp_path / "ran"
    hgrc = tmp_path / "p" / ".hg" / "hgrc"
    hgrc.write_text(f"[hooks]\nprelistkeys = touch {mark}\n")
    ask(stock_hg, tmp_path / "p", ())
    assert mark.exists(), "the operator's own hooks run, as for any client"
    mark.unlink()
    os.chown(hgrc, 12345, 12345)
    with pytest.raises(HgFailed, match="untrusted hook prelistkeys not executed"):
        ask(stock_hg, tmp_path / "p", ())
    assert not mark.exists()
