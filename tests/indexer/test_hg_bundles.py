# Law of this file: repositories are real and small; what is catalogued was published and holds what
# is offered, whatever happens meanwhile.

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest

import indexer.hg_bundles as module
from indexer.catalog import Catalog, CloneBundle, catalog_name, encode, load
from indexer.gc import collect
from indexer.hg import KIND, index_hg_repository
from indexer.hg_bundles import Bundling
from indexer.report import Outcome, Result
from indexer.work import work_directory
from repos.hg.clone_bundle import Made
from repos.hg.program import Hg
from repos.hg.repository import HgRepository
from stores.base import Conflict
from stores.entity import Entity
from stores.memory import MemoryStore
from tests.hg.repositories import Work, work
from tests.hg.session import Session
from tests.hg.versions import environment, executable, hg
from tests.indexer.conftest import Publishing
from tests.indexer.test_hg_plan import Values

MADE, UP_TO_DATE, FAILED = Outcome.MADE, Outcome.UP_TO_DATE, Outcome.FAILED
SKIPPED = Outcome.SKIPPED
DROPPED, PUBLISHED, BUSY = Outcome.DROPPED, Outcome.PUBLISHED, Outcome.BUSY

PROGRAM = "7.2.4"
NAME = "group/project"
# Most is the same for all kinds, and costs less with one.
ONE = Values(bundles=("gzip-v2",))


@dataclass
class HgBench:
    """A repository, a store and all that an index run needs."""

    sessions: ExitStack
    repository: HgRepository
    bundling: Bundling
    publish: Publishing
    store: MemoryStore
    now: float = 1_700_000_000.0

    @cached_property
    def work(self) -> Work:
        """The repository, to be changed."""
        session = Session(hg(PROGRAM), self.repository.path.parent)
        return Work(self.sessions.enter_context(session))

    async def results(self) -> dict[str, Result]:
        """What one run did, one second after the last, by kind of bundle."""
        self.now += 1
        report = await index_hg_repository(self.repository, self.bundling)
        assert report.repository == NAME
        return {result.kind: result for result in report.results if result.kind != KIND}

    async def one(self, values: Values = ONE) -> Result:
        """What one run did about the only kind that is wanted."""
        self.set(values)
        results = await self.results()
        return results["gzip-v2"]

    def set(self, values: Values) -> None:
        """Other settings."""
        self.bundling = replace(self.bundling, values=values)

    async def catalog(self) -> Catalog:
        """What is catalogued now."""
        loaded = await load(self.store, NAME)
        assert loaded is not None
        return loaded[0]

    async def bundle(self, kind: str = "gzip-v2") -> CloneBundle:
        """The bundle of this kind."""
        found = (await self.catalog()).clone_bundle(kind)
        assert found is not None
        return found

    def meanwhile(self, monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
        """Let something happen after hg has bundled, and before anybody looks."""
        make = module.make_bundles

        def making(*args: object, **named: object) -> tuple[Made, ...]:
            made = make(*args, **named)  # type: ignore[arg-type]
            change()
            return made

        monkeypatch.setattr(module, "make_bundles", making)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two changesets, made once."""
    path = tmp_path_factory.mktemp("template") / "p"
    with work(hg(PROGRAM), path) as made:
        made.commit(first="1\n")
        made.commit(first="2\n")
    return path


@pytest.fixture
def bench(tmp_path: Path, template: Path) -> Iterator[HgBench]:
    """A copy of them."""
    shutil.copytree(template, tmp_path / "p")
    store = MemoryStore()
    publish = Publishing(store)
    program = Hg(environ=environment(tmp_path), executable=str(executable(PROGRAM)))
    with ExitStack() as sessions, ThreadPoolExecutor(2) as threads:
        repository = HgRepository(NAME, tmp_path / "p/.hg", program, threads, tmp_path / "hg")
        bundling = Bundling(store, publish, Values(), tmp_path / "work", clock=lambda: found.now)
        found = HgBench(sessions, repository, bundling, publish, store)
        yield found


async def test_made_and_left_alone(bench: HgBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds are made and described; a second run asks hg nothing."""
    results = await bench.results()
    assert {kind: each.outcome for kind, each in results.items()} == dict.fromkeys(
        Values().bundles, MADE
    )
    head = bench.work.node("tip")
    for kind, result in results.items():
        bundle = await bench.bundle(kind)
        assert bundle.id == f"{kind}-{bundle.entity.digest[:16]}"
        assert (bundle.heads, bundle.changesets, bundle.created) == ((head,), 2, bench.now)
        assert (result.objects, result.size) == (2, bundle.entity.size)
        assert bundle.readable == ("target-a", "target-b")
        assert bundle.entity.digest in bench.publish.published
    assert (await bench.bundle("zstd-v2")).spec == "zstd-v2"
    assert (await bench.bundle("stream-v2")).spec.startswith("none-v2;stream=v2;requirements%3D")
    assert list(bench.bundling.work.glob("*/")) == []
    bench.bundling = replace(bench.bundling, targets=bench.publish.targets)

    monkeypatch.setattr(bench.repository, "hg", Hg(executable="hg-of-nobody"))
    before = await bench.catalog()
    assert {each.outcome for each in (await bench.results()).values()} == {UP_TO_DATE}
    assert await bench.catalog() == before


async def test_growth(bench: HgBench) -> None:
    """What is new waits until it is enough; then a new bundle takes the old one's place."""
    values = replace(ONE, bundle_growth=0.5)
    await bench.one(values)
    old = await bench.bundle()
    bench.work.commit(second="1\n")
    assert (await bench.one(values)).reason.startswith("1 changeset behind")
    assert await bench.bundle() == old
    bench.work.commit(second="2\n")
    result = await bench.one(values)
    assert (result.outcome, result.objects) == (MADE, 4)
    assert (await bench.catalog()).retired[0].digest == old.entity.digest
    assert (await bench.bundle()).heads == (bench.work.node("tip"),)

    kept = await collect(bench.store, bench.now, keep=1e6)
    assert kept.deleted == ()
    gone = await collect(bench.store, bench.now + 1e9, keep=1e6)
    assert gone.deleted == (old.entity.digest,)
    assert await bench.store.stat((await bench.bundle()).entity.digest) is not None


async def test_what_becomes_secret(bench: HgBench) -> None:
    """A bundle that has it is replaced by one that has not, and a stream goes."""
    await bench.results()
    secret = bench.work.node("tip")
    bench.work.hg("phase", "--secret", "--force", "tip")
    results = await bench.results()
    assert [each.outcome for each in results.values()] == [MADE, MADE, DROPPED]
    assert "secret" in results["gzip-v2"].reason
    catalog = await bench.catalog()
    assert {bundle.changesets for bundle in catalog.clone_bundles} == {1}
    assert all(secret not in bundle.heads for bundle in catalog.clone_bundles)
    assert len(catalog.retired) == 3


async def test_a_secret_in_between(bench: HgBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was secret by the time that hg had ended is not published; it is made once more."""
    phases = iter(["--secret"])
    secret = bench.work.node("tip")
    bench.meanwhile(
        monkeypatch,
        lambda: [bench.work.hg("phase", each, "--force", secret) for each in phases],
    )
    result = await bench.one()
    assert (result.outcome, result.objects) == (MADE, 1)
    assert bench.publish.published == [(await bench.bundle()).entity.digest]
    assert (await bench.bundle()).heads == (bench.work.node("0"),)


async def test_what_changes_all_the_time(bench: HgBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is published, and the next run is right."""
    bench.work.commit(third="1\n")
    with monkeypatch.context() as patched:
        revisions = iter(["2", "1"])
        bench.meanwhile(
            patched, lambda: bench.work.hg("phase", "--secret", "--force", next(revisions))
        )
        result = await bench.one()
    assert result.outcome is FAILED
    assert "is not offered by the repository" in result.reason
    assert bench.publish.published == []
    assert await load(bench.store, NAME) is None
    result = await bench.one()
    assert (result.outcome, result.objects) == (MADE, 1)


async def test_a_push_in_between(bench: HgBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle is what hg saw, and is catalogued as that."""
    head = bench.work.node("tip")
    bench.meanwhile(monkeypatch, lambda: bench.work.commit(late="1\n"))
    assert (await bench.one()).outcome is MADE
    assert (await bench.bundle()).heads == (head,)


async def test_a_strip_under_a_stream(bench: HgBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that lost something while it was read gives no bundle, whatever it has since."""
    bench.set(replace(ONE, bundles=("stream-v2",)))
    bench.work.commit(third="1\n")
    make = module.make_stream_bundle
    runs: list[Made] = []

    def making(*args: object, **named: object) -> Made:
        bench.work.hg("--config", "extensions.strip=", "strip", "--no-backup", "tip")
        runs.append(make(*args, **named))  # type: ignore[arg-type]
        return runs[-1]

    with monkeypatch.context() as patched:
        patched.setattr(module, "make_stream_bundle", making)
        result = (await bench.results())["stream-v2"]
    assert [made.changesets for made in runs] == [2, 1]
    assert result.outcome is FAILED
    assert "the store changes while it is read" in result.reason
    assert bench.publish.published == []


async def test_a_secret_under_a_stream(bench: HgBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no stream; that is no failure."""
    bench.set(replace(ONE, bundles=("stream-v2",)))
    make = module.make_stream_bundle

    def making(*args: object, **named: object) -> Made:
        made = make(*args, **named)  # type: ignore[arg-type]
        bench.work.hg("phase", "--secret", "--force", "tip")
        return made

    monkeypatch.setattr(module, "make_stream_bundle", making)
    result = (await bench.results())["stream-v2"]
    assert result.outcome is SKIPPED
    assert "secret" in result.reason
    assert bench.publish.published == []


async def test_content_that_is_lost_or_read_by_few(bench: HgBench) -> None:
    """What the store lost is made again; what a target did not give back is published again."""
    await bench.one()
    bundle = await bench.bundle()
    await bench.store.delete(bundle.entity.digest)
    assert (await bench.one()).reason == "the store has lost it"
    assert await bench.bundle() == replace(bundle, created=bench.now)
    bench.publish.targets = frozenset({"target-c"})
    bench.bundling = replace(bench.bundling, targets=bench.publish.targets)
    assert (await bench.one()).outcome is PUBLISHED
    assert (await bench.bundle()).readable == ("target-c",)
    # Likewise what another store lost, which that target reads.
    bench.bundling = replace(bench.bundling, replicas={"target-c": MemoryStore()})
    assert (await bench.one()).outcome is PUBLISHED
    result = await bench.one(replace(ONE, bundles=()))
    assert (result.outcome, result.objects) == (DROPPED, 0)
    assert (await bench.catalog()).clone_bundles == ()


async def test_one_failure_stops_no_other(bench: HgBench) -> None:
    """What cannot be published leaves the other kinds, and the next run makes it."""

    class Failing(Publishing):
        async def __call__(self, entity: Entity, path: Path) -> frozenset[str]:
            if path.name == "zstd-v2":
                raise OSError("disk full")
            return await super().__call__(entity, path)

    bench.bundling = replace(bench.bundling, publish=Failing(bench.store))
    results = await bench.results()
    assert [each.outcome for each in results.values()] == [FAILED, MADE, MADE]
    assert "disk full" in results["zstd-v2"].reason
    bench.bundling = replace(bench.bundling, publish=bench.publish)
    outcomes = [each.outcome for each in (await bench.results()).values()]
    assert outcomes == [MADE, UP_TO_DATE, UP_TO_DATE]


async def test_an_hg_that_fails(bench: HgBench, tmp_path: Path) -> None:
    """Its message is in the results, and nothing is catalogued."""
    await bench.repository.snapshot()
    program = tmp_path / "failing"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('abort: no space')\n")
    program.chmod(0o755)
    bench.repository.hg = Hg(executable=str(program))
    results = await bench.results()
    assert {each.outcome for each in results.values()} == {FAILED}
    assert "abort: no space" in results["stream-v2"].reason
    assert await load(bench.store, NAME) is None


async def test_others_write_the_catalog(bench: HgBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they wrote is kept; one that is beaten each time says so, and is done by the next."""
    write = bench.store.write_document
    beaten = 1

    async def conflict(name: str, body: bytes, expect: str | None) -> str:
        nonlocal beaten
        if beaten:
            beaten -= 1
            await write(name, encode(Catalog(NAME, "sha1", epoch=0)), expect)
            raise Conflict("somebody was faster")
        return await write(name, body, expect)

    monkeypatch.setattr(bench.store, "write_document", conflict)
    assert (await bench.one()).outcome is MADE
    assert len(bench.publish.published) == 1
    bench.work.commit(second="1\n")

    async def always(name: str, body: bytes, expect: str | None) -> str:
        raise Conflict("somebody was faster")

    monkeypatch.setattr(bench.store, "write_document", always)
    result = await bench.one()
    assert result.outcome is FAILED
    assert "the next run will try again" in result.reason


async def test_a_purge_in_between(bench: HgBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made before it is not catalogued after it."""
    purged = encode(Catalog(NAME, "sha1", epoch=1))
    publish = bench.publish

    async def publishing(entity: Entity, path: Path) -> frozenset[str]:
        if not publish.published:
            await bench.store.write_document(catalog_name(NAME), purged, None)
        return await publish(entity, path)

    bench.bundling = replace(bench.bundling, publish=publishing)
    result = await bench.one()
    assert result.outcome is FAILED
    assert "was purged while it was being indexed" in result.reason
    assert (await bench.catalog()).clone_bundles == ()
    bench.work.commit(second="1\n")
    assert (await bench.one()).outcome is MADE
    assert (await bench.catalog()).epoch == 1


async def test_the_epoch_of_this_machine(bench: HgBench) -> None:
    """It is that of a catalog which is not there yet."""
    bench.bundling = replace(bench.bundling, epoch_of={NAME: 3}.__getitem__)
    await bench.one()
    assert (await bench.catalog()).epoch == 3


async def test_another_process_indexes(bench: HgBench) -> None:
    """It is left to it."""
    with work_directory(bench.bundling.work, NAME):
        results = await bench.results()
    assert {each.outcome for each in results.values()} == {BUSY}


async def test_whoever_cancels_ends_hg(bench: HgBench, tmp_path: Path) -> None:
    """Its program is gone, and so are the work files."""
    await bench.repository.snapshot()
    note = tmp_path / "pid"
    os.mkfifo(note)
    program = tmp_path / "hanging"
    program.write_text(
        f"#!{sys.executable}\nimport os, time\n"
        f"open({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    program.chmod(0o755)
    bench.repository.hg = Hg(executable=str(program))
    running = asyncio.create_task(bench.results())
    pid = int(await asyncio.to_thread(note.read_text))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(bench.bundling.work.glob("*/")) == []


async def test_an_index_that_fails(bench: HgBench) -> None:
    """Then nothing is said of bundles; and nobody need make any.

    One that can have no index is no failure; one whose configuration keeps everybody out is.
    """
    report = await index_hg_repository(bench.repository, None)
    assert [result.kind for result in report.results] == [KIND]
    (bench.repository.path / "requires").write_text("treemanifest\n")
    report = await index_hg_repository(bench.repository, bench.bundling)
    (index,) = report.results
    assert (index.kind, index.outcome, report.failed) == (KIND, SKIPPED, False)
    assert index.reason.endswith("hg alone answers for it, and there are no clone bundles of it")
    (bench.repository.path / "requires").write_text("store\n")
    (bench.repository.path / "hgrc").write_text("[web]\nallow_read = alice\n")
    (index,) = (await index_hg_repository(bench.repository, bench.bundling)).results
    assert (index.outcome, index.reason.startswith("not served at all")) == (FAILED, True)
