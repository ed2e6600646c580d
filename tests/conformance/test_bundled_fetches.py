# Law of this file: a clone is answered by the bundle that was made in advance, new commits by a
# small pack beside it; and no client gets an object that stock git would not have sent.

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.catalog import Bundle, load
from indexer.report import Silent
from server.indexing import Indexed, index_all
from tests.conformance.clones import (
    Client,
    State,
    accepting,
    declining,
    locations,
    state,
    stock,
)
from tests.conformance.repositories import KINDS, Repository
from tests.conftest import Serve, Served

Mutation = Callable[[Repository], object]


async def index(served: Served) -> Indexed:
    """Index as `offramp index` does, and let the server know."""
    indexed = await index_all(served.settings, Silent(), gc=True)
    assert not any(report.failed for report in indexed.reports), indexed.reports
    await served.runtime.catalogs.refresh_all()
    return indexed


async def bundle_of(served: Served, repository: Repository, filter_spec: str | None) -> Bundle:
    """What the catalog has."""
    loaded = await load(served.runtime.store, repository.name)
    assert loaded is not None
    bundle = loaded[0].bundle(filter_spec)
    assert bundle is not None
    return bundle


async def clone(client: Client, url: str, where: Path, *options: str) -> tuple[State, set[str]]:
    """Clone; what the client has then, and the checksums of the packs it was sent to."""
    said = await client.traced()("clone", "--bare", *options, url, where)
    return await state(client, where), set(locations(said))


@pytest.mark.parametrize("filter_spec", [None, "blob:none"])
@pytest.mark.parametrize("kind", ["work-tree", "sha256", "hidden-refs", "alternates", "odd-tags"])
async def test_an_indexed_repository_is_cloned_without_a_run(
    serve: Serve, root: Path, tmp_path: Path, kind: str, filter_spec: str | None
) -> None:
    """The bundle's pack is the whole answer, by its location or inline; then come new commits."""
    repository = KINDS[kind](root)
    options = [f"--filter={filter_spec}"] if filter_spec else []
    served = await serve(root)
    await index(served)
    url = repository.url(served.url)
    bundle = await bundle_of(served, repository, filter_spec)
    odd = kind == "odd-tags" and filter_spec  # see test_fetch_shapes

    expected, _ = await clone(stock(tmp_path), repository.stock_url, tmp_path / "stock", *options)
    for client in (accepting(tmp_path), declining(tmp_path)):
        where = tmp_path / f"clone-{len(client.settings)}"
        got, packs = await clone(client, url, where, *options)
        assert odd or got == expected
        assert packs == ({bundle.pack.checksum} if client.settings else set())
    assert served.executions() == 0
    assert served.content()["redirected"] == bundle.pack.entity.size

    repository.commit("refs/heads/main", 30)
    repository.commit("refs/heads/brand-new", 31)
    repository.git("tag", "-a", "-m", "fresh", "fresh", "brand-new")
    expected, _ = await clone(stock(tmp_path), repository.stock_url, tmp_path / "stock-2", *options)
    for client in (accepting(tmp_path), declining(tmp_path)):
        where = tmp_path / f"later-{len(client.settings)}"
        got, packs = await clone(client, url, where, *options)
        assert odd or got == expected
        if client.settings:
            assert bundle.pack.checksum in packs
            assert len(packs) == 2
    assert served.executions() == 2  # the rest beside the bundle, and all of it inline
    await clone(accepting(tmp_path), url, tmp_path / "again", *options)
    assert served.executions() == 2
    assert served.content()["redirected"] < 4 * bundle.pack.entity.size


async def test_a_small_rest_goes_inline_beside_the_bundle(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """Where the new commits are less than `redirect.min_size`, only the bundle is named."""
    served = await serve(repository.root, redirect={"min_size": 1000})
    await index(served)
    bundle = await bundle_of(served, repository, None)
    assert bundle.pack.entity.size > 1000
    repository.commit("refs/heads/main", 30)
    expected, _ = await clone(stock(tmp_path), repository.stock_url, tmp_path / "stock")
    got, packs = await clone(accepting(tmp_path), repository.url(served.url), tmp_path / "clone")
    assert got == expected
    assert packs == {bundle.pack.checksum}
    assert served.executions() == 1


MUTATIONS: dict[str, Mutation] = {
    "forced-push": lambda r: (
        r.git("update-ref", "refs/heads/main", "main~1"),
        r.commit("refs/heads/main", 40),
    ),
    "rewound": lambda r: r.git("update-ref", "refs/heads/main", "main~1"),
    "deleted-branch": lambda r: (
        r.git("update-ref", "-d", "refs/heads/extra"),
        r.git("update-ref", "-d", "refs/heads/topic"),
    ),
    "deleted-tag": lambda r: r.git("update-ref", "-d", "refs/tags/v2.0"),
    "moved-tag": lambda r: r.git("tag", "-f", "-a", "-m", "moved", "v2.0", "main"),
    "deleted-tag-of-a-tag": lambda r: r.git("update-ref", "-d", "refs/tags/v1.0-again"),
}


@pytest.mark.parametrize("options", [(), ("--single-branch",)], ids=["all", "single-branch"])
@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_what_no_ref_reaches_any_more_reaches_nobody(
    serve: Serve,
    repository: Repository,
    tmp_path: Path,
    mutation: str,
    options: tuple[str, ...],
) -> None:
    """A bundle that holds more than stock git would send is not used, from the next clone on."""
    if mutation == "deleted-branch":
        repository.commit("refs/heads/extra", 35)
    served = await serve(repository.root)
    await index(served)
    url = repository.url(served.url)
    bundle = await bundle_of(served, repository, None)
    client = accepting(tmp_path)
    _, packs = await clone(client, url, tmp_path / "before")
    assert packs == {bundle.pack.checksum}

    MUTATIONS[mutation](repository)
    expected, _ = await clone(stock(tmp_path), repository.stock_url, tmp_path / "stock", *options)
    got, packs = await clone(client, url, tmp_path / "after", *options)
    assert got.objects - expected.objects == set()
    assert got == expected
    assert bundle.pack.checksum not in packs

    await index(served)
    got, packs = await clone(client, url, tmp_path / "indexed", *options)
    assert got == expected
    assert bundle.pack.checksum not in packs


async def test_refs_that_become_hidden_take_their_bundle_along(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """What was made when a ref was to be seen is not used when it is hidden."""
    repository.commit("refs/secret/one", 40)
    served = await serve(repository.root)
    await index(served)
    bundle = await bundle_of(served, repository, None)
    repository.git("config", "transfer.hideRefs", "refs/secret")
    again = await serve(repository.root)
    expected, _ = await clone(stock(tmp_path), repository.stock_url, tmp_path / "stock")
    got, packs = await clone(accepting(tmp_path), repository.url(again.url), tmp_path / "clone")
    assert got == expected
    assert bundle.pack.checksum not in packs


async def test_a_repository_that_was_replaced_is_not_answered_from_the_old_bundle(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """Another history at the same path shares nothing with the one before it."""
    served = await serve(repository.root)
    await index(served)
    for ref in repository.git("for-each-ref", "--format=%(refname)").splitlines():
        repository.git("update-ref", "-d", ref)
    repository.commit("refs/heads/main", 50, other="another history\n")
    expected, _ = await clone(stock(tmp_path), repository.stock_url, tmp_path / "stock")
    got, _ = await clone(accepting(tmp_path), repository.url(served.url), tmp_path / "clone")
    assert got == expected
    assert len(got.objects) == 3


async def test_two_repositories_of_one_history_have_bundles_of_their_own(
    serve: Serve, root: Path, tmp_path: Path
) -> None:
    """A fork at the same commit, with other tags, is cloned as stock git clones it."""
    kinds = KINDS["sha256"], KINDS["work-tree"]
    repositories = [make(root) for make in kinds]
    served = await serve(root)
    await index(served)
    for number, repository in enumerate(repositories):
        expected, _ = await clone(
            stock(tmp_path), repository.stock_url, tmp_path / f"stock-{number}"
        )
        got, _ = await clone(
            accepting(tmp_path), repository.url(served.url), tmp_path / f"clone-{number}"
        )
        assert got == expected
    assert served.executions() == 0


@pytest.mark.parametrize("shape", ["--depth=1", "--shallow-exclude=v1.0", "--filter=tree:0"])
async def test_what_a_bundle_does_not_cover_is_computed(
    serve: Serve, repository: Repository, tmp_path: Path, shape: str
) -> None:
    """Shallow clones and other filters of an indexed repository are those of stock git."""
    served = await serve(repository.root)
    await index(served)
    expected, _ = await clone(stock(tmp_path), repository.stock_url, tmp_path / "stock", shape)
    got, packs = await clone(
        accepting(tmp_path), repository.url(served.url), tmp_path / "clone", shape
    )
    assert got == expected
    assert len(packs) == 1
    assert served.executions() == 1


async def test_the_bundles_location_is_fetched_once_by_each_client(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """Git's own trace shows one request for content, and that it went to the location named."""
    served = await serve(repository.root)
    await index(served)
    client = accepting(tmp_path)
    said = await Client(client.directory, client.settings, {"GIT_TRACE_CURL": "1"})(
        "clone", repository.url(served.url), tmp_path / "clone"
    )
    asked = re.findall(r"Send header: (?:GET|POST) (\S+)", said.stderr)
    assert sum(path.startswith("/-/blobs/") for path in asked) == 1
