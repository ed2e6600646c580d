# Law of this file: what is looked at now and then is what is there, and what is gone is forgotten.

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexer.catalog import catalog_name
from server.catalogs import Catalogs
from server.indexing import changed
from server.metrics import Metrics
from server.observing import Observing
from server.settings import load
from server.status.progress import STATUS, Last, remember
from stores.base import StoreUnavailable
from stores.directory import DirectoryStore
from stores.faulty import FaultyStore
from stores.memory import MemoryStore
from tests.conftest import Git, Serve
from tests.server.asking import make_repository
from tests.server.test_catalogs import bundle, clone_bundle, publish
from tests.server.test_condition import NEITHER
from tests.server.test_metrics import figures, labels

CREATED = "offramp_bundle_made_timestamp_seconds"


async def test_bundles(tmp_path: Path) -> None:
    """When each kind was made is told; one that is gone is at 0."""
    store, metrics = FaultyStore(MemoryStore()), Metrics()
    catalogs = Catalogs(store, 0.0)
    observing = Observing.of(load(None, data=tmp_path), metrics.condition, catalogs)
    clones = (clone_bundle("c"),)
    await publish(store, bundle("full", 3.0), bundle("blobless", 2.0), clone_bundles=clones)
    await catalogs.bundles("p.git")
    await catalogs.bundles("without.git")
    await observing.look()
    found = figures(metrics)
    assert {key: value for key, value in found.items() if key[0] == CREATED} == {
        (CREATED, labels(repo="p.git", kind="full")): 3.0,
        (CREATED, labels(repo="p.git", kind="blobless")): 2.0,
        (CREATED, labels(repo="p.git", kind="gzip-v2")): 1.0,
    }
    await store.delete_document(catalog_name("p.git"))
    await catalogs.refresh_all()
    await observing.look()
    assert {value for key, value in figures(metrics).items() if key[0] == CREATED} == {0.0}


async def test_index_and_disks(tmp_path: Path) -> None:
    """The last run, the last change, and each disk that is written to."""
    settings = load(
        None,
        data=tmp_path / "data",
        store={"type": "directory", "path": tmp_path},
        cache={"max_size": 1000},
    )
    settings.data.mkdir()
    metrics = Metrics()
    observing = Observing.of(settings, metrics.condition, Catalogs(MemoryStore(), 0.0))
    await observing.look()
    assert figures(metrics)["offramp_index_ended_timestamp_seconds", NEITHER] == 0
    assert figures(metrics)["offramp_changed_timestamp_seconds", NEITHER] == 0
    remember(
        settings.data / STATUS, Last(ended=50.0, seconds=7.0, outcomes={"made": 2}, failures=())
    )
    changed(settings.data)
    os.utime(settings.data / "changed", (40.0, 40.0))
    await observing.look()
    found = figures(metrics)
    assert found["offramp_index_ended_timestamp_seconds", NEITHER] == 50
    assert found["offramp_index_run_seconds", NEITHER] == 7
    assert found["offramp_index_results", labels(outcome="made")] == 2
    assert found["offramp_changed_timestamp_seconds", NEITHER] == 40
    assert found["offramp_cache_limit_bytes", NEITHER] == 1000
    for place in ("data", "main"):
        size = found["offramp_disk_bytes", labels(place=place)]
        assert 0 < found["offramp_disk_free_bytes", labels(place=place)] <= size


async def test_a_disk_that_is_gone(tmp_path: Path) -> None:
    """It is told to the log, and the others are looked at all the same."""
    metrics = Metrics()
    settings = load(
        None, data=tmp_path, store={"type": "directory", "path": tmp_path / "not/there"}
    )
    await Observing.of(settings, metrics.condition, Catalogs(MemoryStore(), 0.0)).look()
    places = {
        dict(key[1])["place"] for key in figures(metrics) if key[0] == "offramp_disk_free_bytes"
    }
    assert places == {"data"}


async def test_a_server_tells(
    serve: Serve, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running server counts how long a clone waited, and what its store failed at."""

    async def fails(store: DirectoryStore, name: str) -> None:
        raise StoreUnavailable("down")

    (tmp_path / "root").mkdir()
    make_repository(tmp_path / "root/p.git", {"file": b"text"})
    served = await serve(tmp_path / "root")
    monkeypatch.setattr(DirectoryStore, "read_document", fails)
    await git("clone", "-q", f"{served.url}/p.git", tmp_path / "clone")
    found = figures(served.runtime.metrics)
    assert found["offramp_flight_wait_seconds_count", labels(outcome="miss")] == 1
    failed = labels(store="main", operation="read_document")
    assert found["offramp_store_errors_total", failed] >= 1
    assert (tmp_path / "clone/file").read_bytes() == b"text"
