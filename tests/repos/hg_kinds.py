# Law of this file: repositories that a real hg made, once for all tests that only read them.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repos.hg.repository import HgRepository
from tests.hg.repositories import KINDS
from tests.hg.versions import V2, hg, output
from tests.repos.hg_bundles import History
from tests.repos.hg_replay import served


def long(program: Sequence[str], path: Path) -> Path:
    """A long row of changesets, faster than hg can commit them."""
    bundle = path.with_suffix(".bundle")
    bundle.write_bytes(b"".join(History(400, files=60, edits=3).pieces()))
    output(program, path.parent, "init", path)
    output(program, path, "unbundle", "--quiet", bundle)
    return path


class Kinds:
    """Repositories by kind, made when they are first asked for."""

    def __init__(self, place: Path, version: str = V2) -> None:
        self._place = place
        self._version = version
        self._executor = ThreadPoolExecutor(4)
        self._made: dict[str, HgRepository] = {}

    def __call__(self, kind: str) -> HgRepository:
        """The repository of this kind."""
        if kind not in self._made:
            makers = {**KINDS, "large": long}
            path = makers[kind](hg(self._version), self._place / kind)
            self._made[kind] = served(path, self._place, self._executor, self._version)
        return self._made[kind]

    def close(self) -> None:
        """Let its threads go."""
        self._executor.shutdown()


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinds]:
    """Made by the Mercurial that speaks the protocol."""
    made = Kinds(tmp_path_factory.mktemp("hg-kinds"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def newer_kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinds]:
    """Made and asked by the newest Mercurial."""
    made = Kinds(tmp_path_factory.mktemp("hg-newer-kinds"), "7.2.4")
    yield made
    made.close()
