# Law of this file: bundles are unpacked by stock git and compared with the repository; whatever is
# made to fail, the old catalog stays valid and the next run mends what is missing.

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.catalog import Bundle, catalog_name, encode, load
from indexer.gc import collect
from indexer.index import index_repository
from indexer.publishing import ATTEMPTS
from indexer.report import Outcome
from repos.git.program import Git
from stores.base import Conflict
from stores.directory import DirectoryStore
from stores.entity import Entity
from stores.faulty import Fail, FaultyStore
from stores.memory import MemoryStore
from wire.git.bundle import parse_header

MADE, UP_TO_DATE, FAILED = Outcome.MADE, Outcome.UP_TO_DATE, Outcome.FAILED
SKIPPED = Outcome.SKIPPED
DROPPED, PUBLISHED, BUSY = Outcome.DROPPED, Outcome.PUBLISHED, Outcome.BUSY


def git(directory: Path, *args: str, stdin: bytes = b"") -> str:
    """Stock git's answer."""
    done = subprocess.run(
        ["git", "-C", str(directory), *args], input=stdin, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


async def objects_of(bench, bundle: Bundle, tmp_path: Path) -> dict[str, str]:
    """Unpack a bundle's pack by stock git: type by object id."""
    bare = tmp_path / f"unpacked-{bundle.id}"
    form = f"--object-format={bench.served.object_format}"
    git(tmp_path, "init", "--quiet", "--bare", form, str(bare))
    pack = await bench.content(bundle.pack.entity.digest)
    # --strict also checks that nothing is missing, so a full pack must pass it.
    strict = [] if bundle.filter else ["--strict"]
    assert git(bare, "index-pack", "--stdin", *strict, stdin=pack).split()[-1] == (
        bundle.pack.checksum
    )
    lines = git(
        bare, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)"
    )
    return dict(line.split() for line in lines.splitlines())  # type: ignore[misc]


def reached(served, *revisions: str) -> set[str]:
    """Every object that these revisions reach."""
    lines = served.run("rev-list", "--objects", "--no-object-names", *revisions)
    return set(lines.split())


class TestBundles:
    async def test_a_full_bundle_is_the_repository(self, bench, tmp_path: Path) -> None:
        """Its pack stands alone and holds just what the refs reach; the catalog describes it."""
        assert await bench.outcomes() == [MADE, MADE]
        bundle = await bench.bundle()
        objects = await objects_of(bench, bundle, tmp_path)
        assert set(objects) == reached(bench.served, "--all")
        assert bundle.objects == len(objects)
        tag, commit = bench.served.run("rev-parse", "v1", "v1^{}").split()
        refs = await bench.served.refs()
        assert set(bundle.tips) == refs.tips
        assert tag in bundle.tips
        assert bundle.peeled == {tag: commit}
        assert bundle.readable == bundle.bundle_readable == ("target-a", "target-b")

    async def test_a_blobless_bundle_has_no_blobs(self, bench, tmp_path: Path) -> None:
        """Beside the full one, with the same tips and all that is no blob."""
        await bench.index()
        bundle = await bench.bundle("blob:none")
        objects = await objects_of(bench, bundle, tmp_path)
        assert set(objects.values()) == {"commit", "tree", "tag"}
        full = await objects_of(bench, await bench.bundle(), tmp_path)
        assert objects == {oid: kind for oid, kind in full.items() if kind != "blob"}

    async def test_sha256_repositories(self, make_served, make_bench, tmp_path: Path) -> None:
        """Everything is the same with longer names."""
        bench = make_bench(make_served("sha256", "sha256"), MemoryStore(), tmp_path)
        bench.served.commit("one")
        assert await bench.outcomes() == [MADE, MADE]
        assert (await bench.catalog()).object_format == "sha256"
        bundle = await bench.bundle()
        assert set(await objects_of(bench, bundle, tmp_path)) == reached(bench.served, "--all")

    async def test_hidden_refs_are_in_no_bundle(self, bench, tmp_path: Path) -> None:
        """What `transfer.hideRefs` hides is neither a tip nor in a pack nor in a header."""
        secret = bench.served.commit("secret")
        bench.served.run("update-ref", "refs/internal/secret", secret)
        bench.served.run("reset", "--quiet", "--hard", "HEAD~1")
        bench.served.run("config", "transfer.hideRefs", "refs/internal")
        await bench.index()
        for filter_spec in (None, "blob:none"):
            bundle = await bench.bundle(filter_spec)
            assert secret not in bundle.tips
            assert secret not in await objects_of(bench, bundle, tmp_path)
            assert bundle.bundle_file is not None
            assert secret.encode() not in await bench.content(bundle.bundle_file.digest)

    async def test_a_bundle_file_is_a_header_and_the_pack(self, bench) -> None:
        """With every advertised ref, and a filter if the pack has one."""
        await bench.index()
        for filter_spec in (None, "blob:none"):
            bundle = await bench.bundle(filter_spec)
            assert bundle.bundle_file is not None
            content = await bench.content(bundle.bundle_file.digest)
            header = parse_header(content)
            assert content[header.size :] == await bench.content(bundle.pack.entity.digest)
            assert header.filter == filter_spec
            assert header.prerequisites == ()
            refs = (await bench.served.refs()).refs
            assert header.refs == tuple((ref.oid, ref.name) for ref in refs)
            assert header.refs[0][1] == b"HEAD"

    async def test_bundle_files_and_blobless_bundles_can_be_off(self, bench) -> None:
        """Then only the full pack is published."""
        bench.values = replace(bench.values, bundle_uri=False, blobless=False)
        assert await bench.outcomes() == [MADE, SKIPPED]
        (bundle,) = (await bench.catalog()).bundles
        assert bundle.bundle_file is None
        assert bench.publish.published == [bundle.pack.entity.digest]

    async def test_a_detached_or_unborn_head(self, make_served, make_bench, tmp_path: Path) -> None:
        """A HEAD that is no branch is a tip; one whose branch has no commit is none."""
        served = make_served("heads")
        first = served.commit("one")
        served.commit("two")
        served.run("checkout", "--quiet", "--detach", first)
        served.run("update-ref", "-d", "refs/heads/main")
        bench = make_bench(served, MemoryStore(), tmp_path)
        await bench.index()
        assert (await bench.bundle()).tips == (first,)
        served.run("update-ref", "refs/heads/other", first)
        served.run("symbolic-ref", "HEAD", "refs/heads/unborn")
        bench.store.documents.clear()
        assert await bench.outcomes() == [MADE, MADE]


class TestRuns:
    async def test_a_second_run_does_nothing(self, bench, tmp_path: Path) -> None:
        """No pack is made, nothing is published, no document is written."""
        await bench.index()
        published = list(bench.publish.published)
        bench.store = FaultyStore(bench.store)
        log = tmp_path / "log"
        bench.served.git = logging_git(tmp_path, log)
        assert await bench.outcomes() == [UP_TO_DATE, UP_TO_DATE]
        assert bench.publish.published == published
        assert bench.store.calls["write_document"] == 0
        assert log.read_text().split() == ["upload-pack"]

    async def test_growth_makes_new_bundles(self, bench) -> None:
        """The old ones are retired, and tokens grow though the clock stands still."""
        await bench.index()
        before = await bench.catalog()
        bench.served.commit("more")
        bench.now -= 5
        assert await bench.outcomes() == [MADE, MADE]
        after = await bench.catalog()
        assert {retired.digest for retired in after.retired} == before.named()
        tokens = [bundle.creation_token for bundle in (*before.bundles, *after.bundles)]
        assert len(set(tokens)) == 4
        assert min(b.creation_token for b in after.bundles) > max(
            b.creation_token for b in before.bundles
        )

    async def test_little_growth_is_left_to_small_packs(self, bench) -> None:
        """Up to the share that the settings allow."""
        await bench.index()
        bench.values = replace(bench.values, growth=10.0)
        bench.served.commit("more")
        assert await bench.outcomes() == [UP_TO_DATE, UP_TO_DATE]

    async def test_a_new_name_for_old_history_is_no_growth(self, bench) -> None:
        """A branch on a commit that is in the bundle makes none."""
        bench.values = replace(bench.values, growth=0.0)
        await bench.index()
        bench.served.run("branch", "another", "HEAD~2")
        assert await bench.outcomes() == [UP_TO_DATE, UP_TO_DATE]

    @pytest.mark.parametrize("how", ["force push", "deleted branch", "deleted tag", "moved tag"])
    async def test_what_git_no_longer_sends_leaves_the_bundles(
        self, bench, tmp_path: Path, how: str
    ) -> None:
        """After a forced push, or when a ref was deleted, however little is new."""
        bench.served.run("checkout", "--quiet", "-b", "topic")
        lost = bench.served.commit("topic")
        bench.served.run("checkout", "--quiet", "main")
        bench.values = replace(bench.values, growth=10.0)
        await bench.index()
        if how == "force push":
            bench.served.run("update-ref", "refs/heads/topic", "main")
        elif how == "deleted branch":
            bench.served.run("branch", "--quiet", "-D", "topic")
        elif how == "deleted tag":
            lost = bench.served.run("rev-parse", "v1")
            bench.served.run("tag", "-d", "v1")
        else:
            lost = bench.served.run("rev-parse", "v1")
            bench.served.run("tag", "--force", "--annotate", "--message", "two", "v1", "main")
        assert await bench.outcomes() == [MADE, MADE]
        for filter_spec in (None, "blob:none"):
            objects = await objects_of(bench, await bench.bundle(filter_spec), tmp_path)
            assert lost not in objects

    async def test_an_empty_repository_gets_none(
        self, make_served, make_bench, tmp_path: Path
    ) -> None:
        """And no catalog either."""
        bench = make_bench(make_served("empty"), MemoryStore(), tmp_path)
        report = await bench.index()
        assert [result.outcome for result in report.results] == [SKIPPED, SKIPPED]
        assert "empty" in report.results[0].reason
        assert bench.store.documents == {}

    async def test_an_emptied_repository_loses_its_bundles(self, bench) -> None:
        """What they were made of is retired."""
        await bench.index()
        named = (await bench.catalog()).named()
        for ref in bench.served.run("for-each-ref", "--format=%(refname)").split():
            bench.served.run("update-ref", "-d", ref)
        assert await bench.outcomes() == [DROPPED, DROPPED]
        catalog = await bench.catalog()
        assert catalog.bundles == ()
        assert {retired.digest for retired in catalog.retired} == named
        assert await bench.outcomes() == [SKIPPED, SKIPPED]

    async def test_a_repository_of_another_format_takes_the_place(
        self, bench, make_served, tmp_path: Path
    ) -> None:
        """One that was made anew under the same name shares nothing with the old one."""
        await bench.index()
        named = (await bench.catalog()).named()
        other = make_served("other", "sha256")
        other.commit("one")
        other.name = bench.served.name
        bench.served = other
        assert await bench.outcomes() == [MADE, MADE]
        catalog = await bench.catalog()
        assert catalog.object_format == "sha256"
        assert named <= {retired.digest for retired in catalog.retired}

    async def test_a_shallow_repository_gets_none(self, bench, make_served, tmp_path: Path) -> None:
        """Its pack could not stand alone; the report says why."""
        shallow = make_served("shallow")
        shallow.run("fetch", "--quiet", "--depth=1", bench.served.tree.as_uri(), "main:copy")
        bench.served = shallow
        report = await bench.index()
        assert [result.outcome for result in report.results] == [SKIPPED, SKIPPED]
        assert "shallow" in report.results[0].reason

    async def test_what_the_store_lost_is_made_again(self, bench) -> None:
        """An entity that somebody deleted, or cut, comes back with the next run."""
        await bench.index()
        digest = (await bench.bundle()).pack.entity.digest
        whole = bench.store.entities.pop(digest)
        assert await bench.outcomes() == [MADE, UP_TO_DATE]
        assert bench.store.entities[(await bench.bundle()).pack.entity.digest] == whole

    async def test_a_new_target_is_read_back(self, bench) -> None:
        """What is in the store is published again, without git, and the catalog says so."""
        await bench.index()
        before = await bench.catalog()
        bench.publish.targets = frozenset({"target-b", "target-c"})
        assert await bench.outcomes(targets=bench.publish.targets) == [PUBLISHED, PUBLISHED]
        after = await bench.catalog()
        assert after.named() == before.named()
        assert {b.id: b.creation_token for b in after.bundles} == {
            b.id: b.creation_token for b in before.bundles
        }
        for bundle in after.bundles:
            assert bundle.readable == bundle.bundle_readable == ("target-b", "target-c")
        assert await bench.outcomes(targets=bench.publish.targets) == [UP_TO_DATE, UP_TO_DATE]

    async def test_what_another_store_lost_is_copied_again(self, bench) -> None:
        """From the main store, without git; as long as it does not answer, nobody knows."""
        targets = bench.publish.targets
        replica = FaultyStore(MemoryStore())
        replicas = {"target-b": replica}
        await bench.index()
        assert await bench.outcomes(targets=targets, replicas=replicas) == [PUBLISHED, PUBLISHED]
        bench.publish.copies = replica.inner
        assert await bench.outcomes(targets=targets, replicas=replicas) == [PUBLISHED, PUBLISHED]
        assert await bench.outcomes(targets=targets, replicas=replicas) == [UP_TO_DATE, UP_TO_DATE]
        bundle = await bench.bundle()
        await replica.inner.delete(bundle.bundle_file.digest)
        replica.faults["stat"] = Fail()
        assert await bench.outcomes(targets=targets, replicas=replicas) == [UP_TO_DATE, UP_TO_DATE]
        del replica.faults["stat"]
        assert await bench.outcomes(targets=targets, replicas=replicas) == [PUBLISHED, UP_TO_DATE]
        assert await bench.bundle() == bundle

    async def test_what_is_superseded_is_collected(self, bench) -> None:
        """Old bundles go when no URL of them can be alive; the current ones stay."""
        bench.store = MemoryStore(lambda: bench.now)
        bench.publish.store = bench.store
        await bench.index()
        old = (await bench.catalog()).named()
        bench.served.commit("more")
        await bench.index()
        assert (await collect(bench.store, bench.now + 10, 100)).deleted == ()
        assert set((await collect(bench.store, bench.now + 200, 100)).deleted) == old
        assert set(bench.store.entities) == (await bench.catalog()).named()

    async def test_progress_is_told_in_whole_steps(self, bench) -> None:
        """Each step that begins ends, and the last figures are the bundle's objects."""
        told: list[str | int] = []

        class Listening:
            def start(self, repository: str, what: str, total: int | None) -> None:
                """Take note."""
                told.append(f"{repository} {what} {total}")

            def advance(self, n: int) -> None:
                """Take note."""
                told.append(n)

            def done(self) -> None:
                """Take note."""
                told.append("done")

        report = await bench.index(progress=Listening())
        objects = report.results[0].objects
        starts = [line for line in told if isinstance(line, str) and line != "done"]
        assert len(starts) == told.count("done")
        writing = told.index(f"group/project.git full: writing objects {objects}")
        end = told.index("done", writing)
        assert sum(n for n in told[writing + 1 : end] if isinstance(n, int)) == objects


class TestFailures:
    async def test_a_failed_publication_is_not_catalogued(self, bench) -> None:
        """Nothing is named that was not read back; the report says what went wrong."""

        async def refuse(entity: Entity, path: Path) -> frozenset[str]:
            raise RuntimeError("the CDN is on fire")

        publish, bench.publish = bench.publish, refuse
        report = await bench.index()
        assert [result.outcome for result in report.results] == [FAILED, FAILED]
        assert report.failed
        assert "the CDN is on fire" in report.results[0].reason
        assert bench.store.documents == {}
        assert no_work_left(bench)
        bench.publish = publish
        assert await bench.outcomes() == [MADE, MADE]

    async def test_what_no_target_can_read_is_not_catalogued(self, bench) -> None:
        """Being in the store is not enough; the old bundles stay."""
        await bench.index()
        before = await bench.catalog()
        bench.served.commit("more")
        bench.publish.targets = frozenset()
        assert await bench.outcomes() == [FAILED, FAILED]
        assert await bench.catalog() == before

    @pytest.mark.parametrize("method", ["put", "read_document", "write_document", "stat"])
    async def test_a_store_that_fails_once(self, bench, method: str) -> None:
        """Whatever it fails at: the catalog stays valid, and the next run mends the rest."""
        await bench.index()
        before = await bench.catalog()
        bench.served.commit("more")
        whole = bench.store
        bench.store = bench.publish.store = FaultyStore(whole, {method: Fail(nth=1)})  # type: ignore[dict-item]
        assert await bench.outcomes() == [FAILED, MADE]
        bench.store = bench.publish.store = whole
        full = (await bench.catalog()).bundle(None)
        assert full == before.bundle(None)
        assert await bench.outcomes() == [MADE, UP_TO_DATE]
        assert await everything_named_is_there(bench)

    async def test_a_repository_that_git_refuses(self, bench) -> None:
        """Is reported, in git's words, and makes nothing."""
        (bench.served.path / "HEAD").write_text("nonsense")
        report = await bench.index()
        assert [result.outcome for result in report.results] == [FAILED, FAILED]
        assert "upload-pack" in report.results[0].reason

    async def test_a_repository_of_somebody_else(self, bench, tmp_path: Path) -> None:
        """What stock git does not serve for its owner (safe.directory) is not packed either."""
        program = tmp_path / "suspicious-git"  # git's own tests make it think so by this variable
        program.write_text('#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec git "$@"\n')
        program.chmod(0o755)
        bench.served.git = Git(executable=str(program))
        report = await bench.index()
        assert "dubious ownership" in report.results[0].reason
        assert bench.publish.published == []
        git(tmp_path, "config", "--global", "safe.directory", str(bench.served.path))
        assert await bench.outcomes() == [MADE, MADE]

    async def test_a_damaged_repository(self, bench) -> None:
        """A missing blob fails the full bundle, and not the blobless one."""
        blob = bench.served.run("rev-parse", "HEAD:file-1")
        (bench.served.path / "objects" / blob[:2] / blob[2:]).unlink()
        report = await bench.index()
        assert [result.outcome for result in report.results] == [FAILED, MADE]
        assert blob in report.results[0].reason

    async def test_a_damaged_catalog_is_not_overwritten(self, bench) -> None:
        """It may be a newer program's; the report says which document it is."""
        name = catalog_name(bench.served.name)
        await bench.store.write_document(name, b'{"version":2}', None)
        report = await bench.index()
        assert [result.outcome for result in report.results] == [FAILED, FAILED]
        assert name in report.results[0].reason
        assert bench.store.documents[name].body == b'{"version":2}'

    async def test_a_cancelled_run_leaves_nothing(self, bench, tmp_path: Path) -> None:
        """Its program is ended, its files are removed, its lock is free."""
        fifo = tmp_path / "pid"
        os.mkfifo(fifo)
        program = tmp_path / "slow-git"
        program.write_text(
            f'#!/bin/sh\ncase "$*" in *pack-objects*) echo $$ > {fifo}; exec sleep 600;;\n'
            '*) exec git "$@";; esac\n'
        )
        program.chmod(0o755)
        bench.served.git = Git(executable=str(program))
        run = asyncio.create_task(bench.index())
        pid = int(await asyncio.to_thread(fifo.read_text))
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert no_work_left(bench)
        bench.served.git = Git()
        assert await bench.outcomes() == [MADE, MADE]

    @pytest.mark.parametrize("moment", ["packing", "publishing", "between", "before", "after"])
    async def test_a_killed_run_loses_nothing_but_work(
        self, served, make_bench, tmp_path: Path, moment: str
    ) -> None:
        """Kill -9 at any point leaves the old catalog valid, and the next run repairs."""
        store = DirectoryStore(tmp_path / "store")
        bench = make_bench(served, store, tmp_path)
        await bench.index()
        before = await bench.catalog()
        served.commit("more")
        killed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", KILLED, moment, *map(str, (served.tree, tmp_path))],
            check=False,
            capture_output=True,
        )
        assert killed.returncode == -9, killed.stderr.decode()
        if moment != "after":
            assert await bench.catalog() == before
        assert await everything_named_is_there(bench)
        assert not no_work_left(bench)
        second = UP_TO_DATE if moment == "after" else MADE
        assert await bench.outcomes() == [second, MADE]
        assert await everything_named_is_there(bench)
        assert no_work_left(bench)
        assert await bench.outcomes() == [UP_TO_DATE, UP_TO_DATE]


class TestRaces:
    async def test_two_indexers_on_two_machines(self, bench, make_bench, tmp_path: Path) -> None:
        """Who comes second finds the other's bundle and leaves it; nothing is lost."""
        others: list[Outcome] = []

        async def slower(entity: Entity, path: Path) -> frozenset[str]:
            if not others:
                other = make_bench(bench.served, bench.store, tmp_path / "other-machine")
                other.now = bench.now + 100
                others.extend(await other.outcomes())
            return await bench.publish(entity, path)

        report = await index_repository(
            bench.served, bench.store, slower, bench.values, bench.work, clock=lambda: bench.now
        )
        assert others == [MADE, MADE]
        assert [result.outcome for result in report.results] == [UP_TO_DATE, UP_TO_DATE]
        assert await everything_named_is_there(bench)

    async def test_a_change_by_others_is_kept(self, bench) -> None:
        """A conflict over something else: both changes are in the catalog in the end."""
        await bench.index()
        bench.served.commit("more")
        store = bench.store

        class Changing(FaultyStore):
            async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
                """A collection forgets something between our reading and our writing."""
                if not self.calls["write_document"]:
                    current = (await store.read_document(name)).body  # type: ignore[union-attr]
                    other = current.replace(b'"retired":[]', b'"retired":[%b]' % RETIRED)
                    await store.write_document(name, other, expect)
                return await super().write_document(name, body, expect)

        bench.store = Changing(store)
        packs = len(bench.publish.published)
        assert await bench.outcomes() == [MADE, MADE]
        assert len(bench.publish.published) == packs + 4  # nothing was made twice
        catalog = await bench.catalog()
        assert "d" * 64 in {retired.digest for retired in catalog.retired}

    async def test_endless_conflicts_end(self, bench) -> None:
        """After some attempts the run gives up, and says so."""

        class Contended(FaultyStore):
            async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
                """Somebody is always faster."""
                self.calls["write_document"] += 1
                raise Conflict("always")

        bench.store = Contended(bench.store)
        assert await bench.outcomes() == [FAILED, FAILED]
        assert bench.store.calls["write_document"] == 2 * ATTEMPTS
        assert len(bench.publish.published) == 4

    async def test_an_answer_that_was_lost(self, bench) -> None:
        """A store that wrote the catalog and then reported a conflict: the bundle is ours."""

        class Repeating(FaultyStore):
            async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
                """The first try went well, but its answer was lost."""
                await self.inner.write_document(name, body, expect)
                raise Conflict("of the second try")

        bench.store = Repeating(bench.store)
        assert await bench.outcomes() == [MADE, MADE]

    async def test_one_machine_indexes_a_repository_once(self, bench) -> None:
        """While a run is at it, another one is told so and does nothing."""
        second: list[Outcome] = []

        async def meanwhile(entity: Entity, path: Path) -> frozenset[str]:
            second[:] = await bench.outcomes()
            return await bench.publish(entity, path)

        report = await index_repository(
            bench.served, bench.store, meanwhile, bench.values, bench.work
        )
        assert second == [BUSY, BUSY]
        assert [result.outcome for result in report.results] == [MADE, MADE]


# Indexes the repository argv[2] into the store below argv[3], and dies at the moment argv[1].
KILLED = """
import asyncio, os, sys
from dataclasses import dataclass
from pathlib import Path
from indexer.index import index_repository
from repos.git.program import Git
from stores.directory import DirectoryStore
from wire.git.refs import parse_ls_refs
from wire.git.v2 import encode_ls_refs

moment, tree, base = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
program = base / "deadly-git"
program.write_text('''#!/bin/sh
case "$*" in *pack-objects*) git "$@" | head -c 60; kill -9 $PPID;; *) exec git "$@";; esac
''')
program.chmod(0o755)

def die():
    os.kill(os.getpid(), 9)

class Store(DirectoryStore):
    async def write_document(self, name, body, expect):
        if moment == "before":
            die()
        await super().write_document(name, body, expect)
        die()

@dataclass
class Repository:
    name = "group/project.git"
    path = tree / ".git"
    git = Git(executable=str(program)) if moment == "packing" else Git()
    async def refs(self):
        request = encode_ls_refs("sha1", peel=True, symrefs=True, unborn=True, prefixes=())
        return parse_ls_refs(Git().run("upload-pack", "--stateless-rpc", str(self.path),
                             stdin=request, env={"GIT_PROTOCOL": "version=2"}))

@dataclass
class Values:
    growth = 0.05
    min_objects = 1
    blobless = True
    bundle_uri = True

store = Store(base / "store")
published = []

async def publish(entity, path):
    if moment == "publishing" or (moment == "between" and published):
        die()
    await store.put(entity, path)
    published.append(entity)
    return frozenset({"target-a"})

print(asyncio.run(index_repository(Repository(), store, publish, Values(), base / "work")))
"""

RETIRED = b'{"digest":"%b","since":1.0}' % (b"d" * 64)


def logging_git(tmp_path: Path, log: Path) -> Git:
    """A git that writes down which programs are run."""
    program = tmp_path / "logging-git"
    program.write_text(
        f"#!/bin/sh\nfor word; do case $word in -*) ;; *) echo $word >> {log}; break;; esac; done\n"
        'exec git "$@"\n'
    )
    program.chmod(0o755)
    return Git(executable=str(program))


def no_work_left(bench) -> bool:
    """Tell whether only locks remain in the work directory."""
    return all(path.suffix == ".lock" for path in bench.work.iterdir())


async def everything_named_is_there(bench) -> bool:
    """Tell whether the store holds all that the catalog names, whole."""
    for bundle in (await bench.catalog()).bundles:
        for entity in bundle.entities():
            found = await bench.store.stat(entity.digest)
            if found is None or found.size != entity.size:
                return False
    return True


# --- epochs ---------------------------------------------------------------------------------


async def test_the_epoch_stays(bench) -> None:
    """Whatever the indexer writes, it is that of the catalog, or of the machine at first."""
    await index_repository(
        bench.served, bench.store, bench.publish, bench.values, bench.work, epoch=3
    )
    assert (await bench.catalog()).epoch == 3
    bench.values = replace(bench.values, growth=0.0)
    bench.served.commit("more")
    await bench.index()
    assert (await bench.catalog()).epoch == 3


async def test_what_was_made_before_a_purge_is_not_catalogued_after_it(bench) -> None:
    """A bundle that a purge has overtaken may hold what was purged."""
    await bench.index()
    bench.values = replace(bench.values, growth=0.0)
    bench.served.commit("more")
    publish = bench.publish

    async def purged(entity: Entity, path: Path) -> frozenset[str]:
        loaded = await load(bench.store, bench.served.name)
        assert loaded is not None
        catalog, version = loaded
        emptied = encode(catalog.purged(catalog.named(), 1, bench.now))
        if catalog.epoch == 0:
            await bench.store.write_document(catalog_name(catalog.repository), emptied, version)
        return await publish(entity, path)

    bench.publish = purged
    report = await bench.index()
    bench.publish = publish
    assert [result.outcome for result in report.results] == [Outcome.FAILED, Outcome.FAILED]
    assert "purged while it was being indexed" in report.results[0].reason
    catalog = await bench.catalog()
    assert (catalog.bundles, catalog.epoch) == ((), 1)
    assert await bench.outcomes() == [Outcome.MADE, Outcome.MADE]
