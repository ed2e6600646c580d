# Law of this file: a repository is made once and copied for each test that changes it.

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.faults import Wrapper
from tests.conformance.fleet import Fleet, fleet_of
from tests.conformance.processes import Offramp
from tests.conformance.repositories import Repository, copy, make
from tests.conftest import Serve


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return make(tmp_path_factory.mktemp("made") / "root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory that is served."""
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def repository(_made: Repository, root: Path) -> Repository:
    """The normal repository, in ``root``, for this test alone."""
    return copy(_made, root)


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrapper:
    """A git for the server only; see :class:`tests.conformance.faults.Wrapper`."""
    directory = tmp_path / "wrapper"
    directory.mkdir()
    return Wrapper.make(directory)


@pytest.fixture
async def offramp(tmp_path: Path) -> AsyncIterator[Offramp]:
    """Run the real program; what still runs after the test is killed."""
    offramp = Offramp(tmp_path / "data")
    yield offramp
    await offramp.close()


@pytest.fixture
async def fleet(serve: Serve, repository: Repository, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Three file servers, and an hour between probes that nobody asked for."""
    async with fleet_of(serve, repository, tmp_path / "data") as fleet:
        yield fleet
