# Law of this file: repositories are real and small, their refs are what stock git advertises, and
# a publisher reads back what it has put.

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from indexer.catalog import Bundle, Catalog, load
from indexer.index import index_repository
from indexer.report import Outcome, Progress, Report, Silent
from repos.git.program import Git
from stores.base import Store
from stores.entity import Entity
from stores.memory import MemoryStore
from wire.git.refs import Refs, parse_ls_refs
from wire.git.v2 import encode_ls_refs


def run_git(directory: Path, *args: str, stdin: bytes = b"") -> str:
    """Stock git's answer, in a work tree or a git directory."""
    done = subprocess.run(
        ["git", "-C", str(directory), *args], input=stdin, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


@dataclass(frozen=True)
class Values:
    """The settings' own defaults."""

    growth: float = 0.05
    min_objects: int = 1
    blobless: bool = True
    bundle_uri: bool = True


@dataclass
class Served:
    """A served repository with a work tree, in the place of the server's own."""

    name: str
    tree: Path
    object_format: str = "sha1"
    git: Git = field(default_factory=Git)

    @property
    def path(self) -> Path:
        """Its git directory."""
        return self.tree / ".git"

    async def refs(self) -> Refs:
        """What stock git advertises of it."""
        request = encode_ls_refs(
            self.object_format, peel=True, symrefs=True, unborn=True, prefixes=()
        )
        arguments = ("upload-pack", "--stateless-rpc", "--strict", str(self.path))
        body = await asyncio.to_thread(
            self.git.run, *arguments, stdin=request, env={"GIT_PROTOCOL": "version=2"}
        )
        return parse_ls_refs(body)

    def run(self, *args: str) -> str:
        """Run git in the work tree."""
        return run_git(self.tree, *args)

    def commit(self, name: str, content: str = "") -> str:
        """Add a file by a commit, and return the commit's id."""
        (self.tree / name).write_text(content or f"{name}\n" * 20)
        self.run("add", ".")
        self.run("commit", "--quiet", "--message", name)
        return self.run("rev-parse", "HEAD")


@dataclass
class Publishing:
    """Puts into the store and reads back, as the server does; remembers what it was given."""

    store: Store
    targets: frozenset[str] = frozenset({"target-a", "target-b"})
    published: list[str] = field(default_factory=list)
    copies: Store | None = None

    async def __call__(self, entity: Entity, path: Path) -> frozenset[str]:
        """Publish; returns the targets."""
        self.published.append(entity.digest)
        await self.store.put(entity, path)
        if self.copies is not None:
            await self.copies.put(entity, path)
        digest = hashlib.sha256()
        async for chunk in self.store.open(entity.digest):
            digest.update(chunk)
        assert digest.hexdigest() == entity.digest
        return self.targets


@dataclass
class Bench:
    """A repository, a store and all that an index run needs."""

    served: Served
    store: Store
    work: Path
    publish: Publishing
    values: Values = field(default_factory=Values)
    now: float = 1_700_000_000.0

    async def index(
        self,
        *,
        targets: frozenset[str] = frozenset(),
        replicas: Mapping[str, Store] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """One run, one second after the last."""
        self.now += 1
        return await index_repository(
            self.served,
            self.store,
            self.publish,
            self.values,
            self.work,
            progress=progress or Silent(),
            targets=targets,
            replicas=replicas or {},
            clock=lambda: self.now,
        )

    async def outcomes(
        self,
        *,
        targets: frozenset[str] = frozenset(),
        replicas: Mapping[str, Store] | None = None,
    ) -> list[Outcome]:
        """What one run did, full bundle first."""
        report = await self.index(targets=targets, replicas=replicas)
        return [result.outcome for result in report.results]

    async def catalog(self) -> Catalog:
        """What is catalogued now."""
        loaded = await load(self.store, self.served.name)
        assert loaded is not None
        return loaded[0]

    async def bundle(self, filter_spec: str | None = None) -> Bundle:
        """The full bundle, or the one with this filter."""
        bundle = (await self.catalog()).bundle(filter_spec)
        assert bundle is not None
        return bundle

    async def content(self, digest: str) -> bytes:
        """An entity's content."""
        return b"".join([chunk async for chunk in self.store.open(digest)])


@pytest.fixture
def make_served(tmp_path: Path) -> Callable[..., Served]:
    """Make an empty repository."""

    def make(name: str = "group/project.git", object_format: str = "sha1") -> Served:
        tree = tmp_path / name.replace("/", "-")
        run_git(tmp_path, "init", "--quiet", f"--object-format={object_format}", str(tree))
        return Served(name, tree, object_format)

    return make


@pytest.fixture
def served(make_served: Callable[..., Served]) -> Served:
    """A repository with three commits, an annotated tag and two branches."""
    served = make_served()
    for number in range(3):
        served.commit(f"file-{number}")
    served.run("tag", "--annotate", "--message", "one", "v1", "HEAD~1")
    served.run("branch", "side", "HEAD~1")
    return served


@pytest.fixture
def bench(served: Served, tmp_path: Path) -> Bench:
    """A repository to index into a store in memory."""
    store = MemoryStore()
    return Bench(served, store, tmp_path / "work", Publishing(store))


@pytest.fixture
def make_bench() -> Callable[[Served, Store, Path], Bench]:
    """Make a bench with work files below a directory of its own."""

    def make(served: Served, store: Store, base: Path) -> Bench:
        return Bench(served, store, base / "work", Publishing(store))

    return make
