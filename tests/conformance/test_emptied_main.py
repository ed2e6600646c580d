# Law of this file: a main store that was emptied, or is not mounted, makes no stock client fail:
# what was published there is named to nobody, and then published again.

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from indexer.report import Silent
from server.indexing import index_all
from tests.conformance.clones import accepting, locations, state, stock
from tests.conformance.fleet import SELDOM
from tests.conformance.places import BUCKET, endpoint, file_server, s3, s3_server
from tests.conformance.repositories import Repository
from tests.conftest import Serve, Served

WAYS = ["unmounted", "content", "bucket"]


@dataclass
class Place:
    """A main store.

    Attributes:
        settings: of a server that uses it.
        lose: empty it, or put an empty one into its place.
        back: put back what was there; None if it is gone for good.
    """

    settings: dict[str, Any]
    lose: Callable[[], object]
    back: Callable[[], object] | None = None


@pytest.fixture(params=WAYS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """A directory behind a static server, or a bucket."""
    async with AsyncExitStack() as stack:
        if request.param == "bucket":
            moto = stack.enter_context(s3_server())
            settings = s3(endpoint(moto), tmp_path)

            def empty() -> None:
                session = boto3.Session(aws_access_key_id="A", aws_secret_access_key="hush")
                with closing(
                    session.client("s3", region_name="us-east-1", endpoint_url=endpoint(moto))
                ) as client:
                    for found in client.list_objects_v2(Bucket=BUCKET)["Contents"]:
                        client.delete_object(Bucket=BUCKET, Key=found["Key"])

            yield Place({"store": settings}, empty)
            return
        store, away = tmp_path / "mounted", tmp_path / "away"
        (store / "entities").mkdir(parents=True)
        url = await stack.enter_async_context(file_server(store))

        def unmount() -> None:
            store.rename(away)
            (store / "entities").mkdir(parents=True)

        def mount() -> None:
            shutil.rmtree(store)
            away.rename(store)

        def remove() -> None:
            shutil.rmtree(store / "entities")
            (store / "entities").mkdir()

        settings = {
            "store": {"type": "directory", "path": str(store)},
            "targets": [{"type": "http", "base_url": url}],
        }
        if request.param == "unmounted":
            yield Place(settings, unmount, mount)
        else:
            yield Place(settings, remove)


@dataclass
class Cloning:
    """Clones, each compared with one of stock git's."""

    repository: Repository
    served: Served
    directory: Path
    made: int = 0

    async def __call__(self, *options: str) -> set[str]:
        """Clone; the locations that the client was sent to."""
        self.made += 1
        theirs, ours = (self.directory / f"{who}-{self.made}" for who in ("stock", "clone"))
        await stock(self.directory)("clone", "--bare", *options, self.repository.stock_url, theirs)
        client = accepting(self.directory)
        url = self.repository.url(self.served.url)
        # Each is another client: one that asks again soon has failed, and is answered inline.
        who = ("-c", f"http.userAgent=git/{self.made}")
        said = await client.traced()(*who, "clone", "--bare", *options, url, ours)
        assert await state(client, ours) == await state(client, theirs)
        return set(locations(said).values())


async def test_a_main_store_that_is_not_the_one_that_it_was(
    serve: Serve, repository: Repository, tmp_path: Path, place: Place
) -> None:
    """Clients go on, by what was computed and by bundles; they are redirected again."""
    served = await serve(repository.root, health=SELDOM, **place.settings)
    runtime = served.runtime
    clone = Cloning(repository, served, tmp_path)
    assert await clone("--depth=1")
    await index_all(served.settings, Silent(), gc=False)
    await runtime.catalogs.refresh_all()
    assert await clone()
    ready = await runtime.http.get(f"{served.url}/-/readyz")
    assert await ready.text() == "ok\n"
    changes = (place.lose, place.back) if place.back is not None else (place.lose,)
    for change in changes:
        await asyncio.to_thread(change)
        await runtime.health.probe()
        for options in (("--depth=1",), ()):
            assert await clone(*options)
    ready = await runtime.http.get(f"{served.url}/-/readyz")
    assert "the main store was found to be another one, or emptied, " in await ready.text()
    indexed = await index_all(served.settings, Silent(), gc=True)
    assert not indexed.faults
    assert not any(report.failed for report in indexed.reports)
    await runtime.catalogs.refresh_all()
    executed = served.executions()
    assert await clone()
    assert served.executions() == executed
