# Law of this file: every kind of repository is made once, with its clone from stock hg to compare
# with; who changes one works on a copy.

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.cloning import Client
from tests.hg.repositories import KINDS
from tests.hg.session import Session
from tests.hg.state import State, state_of
from tests.hg.stock import serving
from tests.hg.stock_log import Stock
from tests.hg.versions import V2, hg


@dataclass(slots=True)
class Sources:
    """Repositories, made when they are first asked for.

    Attributes:
        root: has each below the name of its kind.
        session: a stock client that speaks v1 with stock servers.
    """

    root: Path
    session: Session
    _expected: dict[str, State] = field(default_factory=dict)

    def path(self, kind: str) -> Path:
        """The repository of a kind, not to be changed."""
        path = self.root / kind
        if not path.is_dir():
            KINDS[kind](hg(V2), path)
        return path

    def copy(self, kind: str, root: Path, name: str = "repo") -> Path:
        """One to be changed, in a root of its own."""
        root.mkdir(exist_ok=True)
        return Path(shutil.copytree(self.path(kind), root / name, symlinks=True))

    def expected(self, kind: str) -> State:
        """What a clone from `hg serve` of 5.9.3 has, by protocol v1."""
        if kind not in self._expected:
            clone = self.root.parent / f"{kind}.stock"
            with serving(hg(V2), self.path(kind)) as url:
                self.session("clone", "--quiet", url, clone)
            self._expected[kind] = state_of(self.session, clone)
        return self._expected[kind]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    """Every kind of repository."""
    base = tmp_path_factory.mktemp("sources")
    (base / "root").mkdir()
    with Session(hg(V2), base) as session:
        yield Sources(base / "root", session)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A stock client that speaks v2 with who speaks it."""
    v2 = "experimental.httppeer.advertise-v2=true"
    with Session(hg(V2), tmp_path_factory.mktemp("client"), v2) as session:
        yield Client(session)


@pytest.fixture(scope="session")
def stock(sources: Sources) -> Iterator[Stock]:
    """What hg says of the repository with merges."""
    with Session(hg(V2), sources.path("merges")) as session:
        yield Stock(session)


@pytest.fixture(scope="session")
def branched(sources: Sources) -> Iterator[Stock]:
    """What hg says of the repository with branches and bookmarks."""
    with Session(hg(V2), sources.path("branches")) as session:
        yield Stock(session)


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory for many servers: what one has found out, the others know."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
async def served(serve: Serve, sources: Sources, shared_data: Path) -> Served:
    """A server of all that was made, which has its indexes and records already."""
    for kind in ("linear", "merges", "branches", "phases"):
        sources.path(kind)
    return await serve_hg(serve, sources.root, data=shared_data)


@pytest.fixture(scope="session")
def tip(sources: Sources) -> bytes:
    """The newest changeset of the repository in a row."""
    with Session(hg(V2), sources.path("linear")) as session:
        return bytes.fromhex(session("log", "-r", "tip", "-T", "{node}").decode())
