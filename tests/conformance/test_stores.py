# Law of this file: with several stores, stock git gets the same from each; content is in all that
# it is for and in no other, and one store that is gone keeps nobody from the others.

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from cli.main import offramp
from indexer.catalog import load
from indexer.report import Silent
from server.indexing import Indexed, index_all
from server.wiring import build_store, build_stores
from stores.replica import NotTheSame
from tests.conformance.clones import accepting, locations, state, stock
from tests.conformance.places import BUCKET, endpoint, file_server, s3, s3_server, stop
from tests.conformance.repositories import Repository
from tests.conftest import Serve, Served
from tests.server.asking import make_repository

EU, US = "offramp.region=eu-west-1", "offramp.region=us-east-1"


@pytest.fixture
def moto() -> Iterator[ThreadedMotoServer]:
    """An S3 server of this test's own, with an empty bucket."""
    with s3_server() as server:
        yield server


@dataclass(frozen=True)
class Scene:
    """A directory store with a file server in Europe, and a bucket in America.

    Attributes:
        serve: starts servers.
        root: what they serve.
        directory: for clients.
        cdn: URL of the file server.
        moto: has the bucket.
    """

    serve: Serve
    root: Path
    directory: Path
    cdn: str
    moto: ThreadedMotoServer

    def settings(self, *, both: bool = True, **values: Any) -> dict[str, Any]:
        """Of a server with both stores, or with the directory alone."""
        bucket = {"name": "america", **s3(endpoint(self.moto), self.directory)}
        targets = [{"type": "http", "name": "cdn", "base_url": self.cdn, "regions": ["eu-*"]}]
        if both:
            targets += [{"type": "s3", "store": "america", "regions": ["us-*"]}]
            values["stores"] = [bucket]
        redirect = {"min_size": 0, "other_regions": False}
        return {"targets": targets, "redirect": redirect, **values}

    async def serves(self, **values: Any) -> Served:
        """Start one."""
        return await self.serve(self.root, **self.settings(**values))

    async def clone(self, served: Served, name: str, region: str, *options: str) -> set[str]:
        """Clone, compare with stock git, and return whereto git was sent."""
        number = len(list(self.directory.glob("clone-*")))
        theirs, ours = self.directory / f"stock-{number}", self.directory / f"clone-{number}"
        url = f"{served.url}/{name}"
        await stock(self.directory)(
            "clone", "--bare", *options, f"file://{self.root}/{name}", theirs
        )
        client = accepting(self.directory)
        said = await client.traced()(
            "clone", "--bare", f"--server-option={region}", *options, url, ours
        )
        assert await state(client, ours) == await state(client, theirs)
        return {urlsplit(found).netloc for found in locations(said).values()}


@pytest.fixture
async def scene(
    serve: Serve, repository: Repository, tmp_path: Path, moto: ThreadedMotoServer
) -> AsyncIterator[Scene]:
    """With two repositories, of which the other one is ``secret.git``."""
    make_repository(repository.root / "secret.git", {"a": b"secret\n" * 5000})
    store = tmp_path / "data" / "store"
    (store / "entities").mkdir(parents=True)
    async with file_server(store) as cdn:
        yield Scene(serve, repository.root, tmp_path, cdn, moto)


def name_of(repository: Repository) -> str:
    """The path at which it is served."""
    return repository.url("").lstrip("/")


async def index(served: Served) -> Indexed:
    """Index, and let the server know."""
    indexed = await index_all(served.settings, Silent(), gc=True)
    await served.runtime.catalogs.refresh_all()
    return indexed


async def holding(served: Served) -> dict[str, set[str]]:
    """Digests of what each store has, but for probes."""
    stores = build_stores(served.settings, build_store(served.settings))
    try:
        return {
            name: {s.digest async for s in store.list() if s.size > 100}
            for name, store in stores.named().items()
        }
    finally:
        await stores.close()


async def named(served: Served, repository: str) -> set[str]:
    """What a catalog names."""
    loaded = await load(served.runtime.store, repository)
    assert loaded is not None
    return set(loaded[0].named())


def run(served: Served, config: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """What a command prints, with the settings of a server."""
    values = served.settings.model_dump(mode="json", exclude_none=True)
    secrets = {store.get("secret_access_key") for store in values["stores"]}
    assert secrets <= {"**********", None}
    config.write_text(_toml(values["stores"], values["targets"], values.get("placements", ())))
    words = (*words, "--config", str(config), "--data", str(served.settings.data), "--json")
    result = CliRunner().invoke(offramp, words)
    assert result.exit_code == code, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def _toml(*tables: Any) -> str:
    lines = []
    for title, table in zip(("stores", "targets", "placements"), tables, strict=True):
        for entry in table:
            secret = (
                {"secret_access_key": "hush"}
                if entry.get("type") == "s3" and "bucket" in entry
                else {}
            )
            lines.append(f"[[{title}]]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in {**entry, **secret}.items()]
    return "\n".join(lines)


async def test_clients_are_sent_to_the_store_that_they_take(
    scene: Scene, repository: Repository
) -> None:
    """What was computed, and bundles; each is in both stores, and comes from nowhere else."""
    name = name_of(repository)
    served = await scene.serves()
    cdn, bucket = urlsplit(scene.cdn).netloc, urlsplit(endpoint(scene.moto)).netloc
    assert await scene.clone(served, name, US) == {bucket}
    assert not (await index(served)).faults
    assert await scene.clone(served, name, EU) == {cdn}
    assert await scene.clone(served, name, US) == {bucket}
    held = await holding(served)
    assert held["main"] == held["america"] >= await named(served, name)


async def test_a_store_that_is_gone_keeps_nobody_from_the_other(
    scene: Scene, repository: Repository
) -> None:
    """Clones go on by the other one, or inline; bundles are made, and copied when it is back."""
    name = name_of(repository)
    served = await scene.serves()
    cdn = urlsplit(scene.cdn).netloc
    await index(served)
    await asyncio.to_thread(stop, scene.moto)
    await served.runtime.health.probe()
    for options in ((), ("--depth=1",)):
        assert await scene.clone(served, name, EU, *options) == {cdn}
        assert await scene.clone(served, name, US, *options) == set()
    repository.commit("refs/heads/main", 50)
    indexed = await index(served)
    assert not any(report.failed for report in indexed.reports)
    assert len(indexed.faults) == 2  # neither looked for nor collected there
    assert await scene.clone(served, name, EU) == {cdn}


async def test_a_store_that_hangs_is_asked_once_by_a_run(
    scene: Scene, repository: Repository
) -> None:
    """Bundles are made for the others, and none again and again that could only be there."""
    seldom = {"interval": 3600, "timeout": 60}
    placements = [{"repositories": ["secret"], "stores": ["america"]}]
    served = await scene.serves(health=seldom, placements=placements)
    assert not (await index(served)).faults
    bucket = urlsplit(endpoint(scene.moto))
    await asyncio.to_thread(stop, scene.moto)
    impatient = served.settings.stores[0].model_copy(update={"timeout": 1})
    settings = served.settings.model_copy(update={"stores": (impatient,)})
    asked = 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        with closing(writer):
            await reader.read(-1)

    async with await asyncio.start_server(hang, bucket.hostname, bucket.port):
        repository.commit("refs/heads/main", 50)
        indexed = await index_all(settings, Silent(), gc=True)
    assert asked == 1
    assert len(indexed.faults) == 2
    failed = {report.repository for report in indexed.reports if report.failed}
    assert failed == {"secret.git"}
    why = {each.reason for r in indexed.reports if r.failed for each in r.results}
    assert why == {"every store that its content is for, and that a target reads, does not answer"}


async def test_what_is_kept_out_of_a_store_never_gets_there(
    scene: Scene, repository: Repository
) -> None:
    """Neither what is computed nor bundles, nor after a purge; and no client is sent there."""
    served = await scene.serves(
        placements=[{"repositories": ["secret"], "stores": ["main"]}],
    )
    name = name_of(repository)
    cdn, config = urlsplit(scene.cdn).netloc, scene.directory / "offramp.toml"
    assert await scene.clone(served, "secret.git", US) == set()
    assert await scene.clone(served, "secret.git", EU) == {cdn}
    await index(served)
    assert await scene.clone(served, "secret.git", US) == set()
    held = await holding(served)
    assert held["america"] == await named(served, name)
    secret = await named(served, "secret.git")
    assert secret <= held["main"] - held["america"]
    words = ("explain", "--repo", "secret.git", "--from", "192.0.2.7", "--accepts", "http")
    said = await asyncio.to_thread(run, served, config, *words)
    assert {t["name"]: (t["store"], t["verdict"]) for t in said["targets"]}["s3"] == (
        "america",
        "not_placed",
    )
    await asyncio.to_thread(run, served, config, "purge", "secret.git", str(scene.root))
    assert await scene.clone(served, "secret.git", EU) == {cdn}
    await index(served)
    assert (await holding(served))["america"] == held["america"]


async def test_a_store_that_is_added_gets_the_bundles_that_there_are(
    scene: Scene, repository: Repository
) -> None:
    """With the next index run; none is made again."""
    name = name_of(repository)
    served = await scene.serves(both=False)
    await index(served)
    before = await load(served.runtime.store, name)
    served = await scene.serves()
    indexed = await index(served)
    outcomes = {str(result.outcome) for report in indexed.reports for result in report.results}
    assert outcomes == {"published again"}
    after = await load(served.runtime.store, name)
    assert before is not None
    assert after is not None
    tokens = [[b.creation_token for b in found[0].bundles] for found in (before, after)]
    assert tokens[0] == tokens[1]
    assert (await holding(served))["america"] >= await named(served, name)
    assert await scene.clone(served, name, US) == {urlsplit(endpoint(scene.moto)).netloc}
    assert served.executions() == 0
    # Whatever somebody else removes from there is copied again, too.
    stores = build_stores(served.settings, build_store(served.settings))
    gone = min(await named(served, name))
    await stores.replicas["america"].delete(gone)
    await stores.close()
    await index(served)
    assert gone in (await holding(served))["america"]


async def test_a_purge_reaches_every_store_or_says_that_it_did_not(
    scene: Scene, repository: Repository
) -> None:
    """It fails while one does not answer; the run after that removes what is left there."""
    served = await scene.serves()
    config = scene.directory / "offramp.toml"
    assert await scene.clone(served, "secret.git", US)
    await index(served)
    secret = await named(served, "secret.git")
    words = ("purge", "secret.git", str(scene.root))
    wrong = served.settings.stores[0].model_copy(update={"bucket": "no-such-bucket"})
    unreached = served.settings.model_copy(update={"stores": (wrong,)})
    said = await asyncio.to_thread(
        run, Served(served.url, unreached, served.runtime), config, *words, code=1
    )
    assert len(said["unreached"]) == 1
    held = await holding(served)
    assert (secret & held["main"], secret & held["america"]) == (set(), secret)
    said = await asyncio.to_thread(run, served, config, *words)
    assert not said["unreached"]
    assert {found["digest"] for found in said["removed"]} >= secret
    assert not secret & (await holding(served))["america"]


def empty(server: ThreadedMotoServer) -> None:
    """Take everything out of its bucket, as somebody does who means another one."""
    session = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="hush")
    with closing(
        session.client("s3", region_name="us-east-1", endpoint_url=endpoint(server))
    ) as client:
        for found in client.list_objects_v2(Bucket=BUCKET)["Contents"]:
            client.delete_object(Bucket=BUCKET, Key=found["Key"])


async def test_a_store_that_was_emptied_is_named_again_when_somebody_says_so(
    scene: Scene, repository: Repository
) -> None:
    """Until then no client is sent there, and nothing is written there; then it is filled."""
    name = name_of(repository)
    served = await scene.serves()
    config = scene.directory / "offramp.toml"
    bucket = urlsplit(endpoint(scene.moto)).netloc
    assert await scene.clone(served, name, US, "--depth=1") == {bucket}
    await index(served)
    assert await scene.clone(served, name, US) == {bucket}
    await asyncio.to_thread(empty, scene.moto)
    await served.runtime.health.probe()
    assert await scene.clone(served, name, US) == set()
    assert await scene.clone(await scene.serves(), name, US, "--depth=1") == set()
    indexed = await index(served)
    assert not any(report.failed for report in indexed.reports)
    assert ["is not the one that it was" in fault for fault in indexed.faults] == [True, True]
    with pytest.raises(NotTheSame):
        await holding(served)
    said = await asyncio.to_thread(run, served, config, "stores", "renew", "america")
    assert said["store"] == "america"
    assert await holding(served) == {"main": (await holding(served))["main"], "america": set()}
    assert not (await index(served)).faults
    assert (await holding(served))["america"] >= await named(served, name)
    assert await scene.clone(served, name, US) == set()  # it has the old generation in mind
    assert await scene.clone(await scene.serves(), name, US) == {bucket}


async def test_nothing_is_gone_from_a_store_that_is_not_mounted(
    scene: Scene, repository: Repository
) -> None:
    """A purge fails, and finds it when it is mounted again; nothing is put below the mount."""
    name = name_of(repository)
    place, elsewhere = scene.directory / "eu", scene.directory / "elsewhere"
    (place / "entities").mkdir(parents=True)
    config = scene.directory / "offramp.toml"
    async with file_server(place) as files:
        targets = [{"type": "http", "name": "eu", "store": "eu", "base_url": files}]
        served = await scene.serve(
            scene.root,
            stores=[{"name": "eu", "type": "directory", "path": place}],
            targets=[*targets, {"type": "self"}],
        )
        await index(served)
        assert await scene.clone(served, name, EU) == {urlsplit(files).netloc}
        had = await named(served, name)
        place.rename(elsewhere)
        place.mkdir()
        assert len((await index(served)).faults) == 2
        words = ("purge", name, str(scene.root))
        said = await asyncio.to_thread(run, served, config, *words, code=1)
        assert len(said["unreached"]) == 1
        assert list(place.iterdir()) == []
        place.rmdir()
        elsewhere.rename(place)
        assert (await holding(served))["eu"] >= had
        said = await asyncio.to_thread(run, served, config, *words)
        assert not said["unreached"]
        assert not had & (await holding(served))["eu"]
