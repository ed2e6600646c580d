# Law of this file: the commands of these tests run hg as an operator's Offramp does, by `hg` of the
# settings; which Mercurial that is, is said once.

from __future__ import annotations

from pathlib import Path

from tests.hg import repositories, versions

PROGRAM = "7.2.4"


def made(root: Path, **kinds: str) -> Path:
    """ROOT with Mercurial repositories: name and kind (see `tests.hg.repositories`) of each."""
    hg = versions.hg(PROGRAM)
    root.mkdir(exist_ok=True)
    for name, kind in kinds.items():
        repositories.KINDS[kind](hg, root / name)
    return root


def environ() -> dict[str, str]:
    """Variables with which a command finds hg, and nothing of anybody's configuration."""
    return {"OFFRAMP_HG__PROGRAM": str(versions.executable(PROGRAM)), "HGRCPATH": ""}
