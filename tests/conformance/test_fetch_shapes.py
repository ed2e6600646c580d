# Law of this file: whatever a stock client asks for, it gets what stock git's own server gives it:
# the same objects, refs and boundary, cold and warm, with redirects and without.

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conformance.clones import Client, State, accepting, declining, state, stock
from tests.conformance.repositories import (
    BEGAN,
    DAY,
    KINDS,
    Repository,
    commit,
    dropped,
)
from tests.conftest import Serve, Served

# Each shape is the git commands of one client. The last one of them fetches.
SHAPES = {
    "full": ["clone {url} {clone}"],
    "bare": ["clone --bare {url} {clone}"],
    "mirror": ["clone --mirror {url} {clone}"],
    "single-branch": ["clone --single-branch --branch=topic {url} {clone}"],
    "no-tags": ["clone --no-tags {url} {clone}"],
    "one-tag": ["init {clone}", "-C {clone} fetch {url} tag v1.0"],
    "depth-1": ["clone --depth=1 {url} {clone}"],
    "depth-3-all-branches": ["clone --depth=3 --no-single-branch {url} {clone}"],
    "depth-1-of-a-tag": ["clone --depth=1 --branch=v2.0 {url} {clone}"],
    "shallow-since": ["clone --shallow-since={since} {url} {clone}"],
    "shallow-exclude": ["clone --shallow-exclude=v1.0 {url} {clone}"],
    "ci": [
        "init {clone}",
        "-C {clone} fetch --no-tags --depth=1 {url} +{tip}:refs/remotes/origin/main",
        "-C {clone} checkout --detach refs/remotes/origin/main",
    ],
    "ci-without-blobs": [
        "init {clone}",
        "-C {clone} remote add origin {url}",
        "-C {clone} fetch --no-tags --depth=1 --filter=blob:none origin +{tip}:refs/heads/ci",
        "-C {clone} checkout ci",
    ],
    "unadvertised": ["init {clone}", "-C {clone} fetch --no-tags {url} {inner}:refs/heads/inner"],
    "unreachable": ["init {clone}", "-C {clone} fetch --no-tags {url} {dropped}:refs/heads/x"],
    "blobless": ["clone --filter=blob:none {url} {clone}"],
    "blobless-bare": ["clone --bare --filter=blob:none {url} {clone}"],
    "treeless": ["clone --filter=tree:0 {url} {clone}"],
    "small-blobs": ["clone --no-checkout --filter=blob:limit=1k {url} {clone}"],
    "incremental": [
        "clone --no-tags --single-branch --branch=old {url} {clone}",
        "-C {clone} fetch --tags {url} +refs/heads/*:refs/remotes/origin/*",
    ],
    "incremental-without-tags": [
        "clone --no-tags --single-branch --branch=old {url} {clone}",
        "-C {clone} fetch --no-tags {url} +refs/heads/*:refs/remotes/origin/*",
    ],
    "incremental-shallow": [
        "clone --depth=1 --branch=old {url} {clone}",
        "-C {clone} fetch --depth=1 {url} +refs/heads/main:refs/remotes/origin/main",
    ],
    "deepen": ["clone --depth=1 {url} {clone}", "-C {clone} fetch --deepen=2"],
    "unshallow": ["clone --depth=1 {url} {clone}", "-C {clone} fetch --unshallow"],
    "own-commits": [
        "clone --no-tags --single-branch --branch=old {url} {clone}",
        "-C {clone} commit --allow-empty -m own",
        "-C {clone} fetch {url} +refs/heads/*:refs/remotes/origin/*",
    ],
    "many-own-commits": [
        "clone --no-tags --single-branch --branch=old {url} {clone}",
        "-C {clone} fast-import",
        "-C {clone} fetch {url} +refs/heads/*:refs/remotes/origin/*",
    ],
    "nothing-new": ["clone {url} {clone}", "-C {clone} fetch --prune"],
}


@dataclass(frozen=True)
class Names:
    """Object ids of one repository that shapes ask for."""

    tip: str
    inner: str
    dropped: str
    since: int

    @classmethod
    def of(cls, repository: Repository) -> Names:
        """Look them up."""
        return cls(
            tip=repository.oid("main"),
            inner=repository.oid("main~2"),
            dropped=dropped(repository),
            since=BEGAN + 4 * DAY - 60,
        )


def own_commits() -> bytes:
    """More commits than one round of negotiation tells of."""
    parents = ["refs/heads/old^0", *(f":{number}" for number in range(1, 40))]
    return b"".join(
        commit("refs/heads/old", 100 + number, parent, {"own": f"{number}\n"}, mark=number)
        for number, parent in enumerate(parents, 1)
    )


async def perform(
    shape: str, client: Client, url: str, clone: Path, names: Names | None = None
) -> State:
    """Do what a shape does; returns what the client has then."""
    values = {} if names is None else vars(names)
    for step in SHAPES[shape]:
        words = [word.format(url=url, clone=clone, **values) for word in shlex.split(step)]
        stdin = own_commits() if "fast-import" in words else b""
        await client(*words, stdin=stdin)
    return await state(client, clone)


@pytest.fixture(params=[accepting, declining], ids=["redirects", "inline"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    """A client that accepts locations, and one that does not."""
    return request.param(tmp_path)


def check_ways(served: Served, client: Client) -> None:
    """Content went the way that the client asked for."""
    content = served.content()
    if client.settings:
        assert content["redirected"] > 0
    else:
        assert content["redirected"] == 0


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_client_has_what_stock_git_gives(
    serve: Serve, repository: Repository, client: Client, tmp_path: Path, shape: str
) -> None:
    """Cold, warm without another run, and after new commits."""
    served = await serve(repository.root)
    url = repository.url(served.url)
    names = Names.of(repository)
    expected = await perform(
        shape, stock(tmp_path), repository.stock_url, tmp_path / "stock", names
    )
    assert await perform(shape, client, url, tmp_path / "cold", names) == expected
    executed = served.executions()
    assert executed > 0
    assert await perform(shape, client, url, tmp_path / "warm", names) == expected
    assert served.executions() == executed
    check_ways(served, client)

    for branch in ("main", "topic", "refs-only"):
        repository.commit(f"refs/heads/{branch}", 20)
    repository.git("tag", "-a", "-m", "third", "v3.0", "main")
    later = await perform(
        shape, stock(tmp_path), repository.stock_url, tmp_path / "stock-later", names
    )
    assert await perform(shape, client, url, tmp_path / "later", names) == later


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_repository_is_served(
    serve: Serve, root: Path, client: Client, tmp_path: Path, kind: str
) -> None:
    """Whole, mirrored, shallow and partial clones are those of stock git."""
    repository = KINDS[kind](root)
    served = await serve(root)
    url = repository.url(served.url)
    shapes = ["full", "mirror", "depth-1", "blobless-bare"]
    if kind == "odd-tags":
        # Whether git filters a blob that only a tag names depends on the order of the wants.
        shapes.remove("blobless-bare")
    for shape in shapes:
        expected = await perform(
            shape, stock(tmp_path), repository.stock_url, tmp_path / f"stock-{shape}"
        )
        assert await perform(shape, client, url, tmp_path / f"cold-{shape}") == expected
        executed = served.executions()
        assert await perform(shape, client, url, tmp_path / f"warm-{shape}") == expected
        assert served.executions() == executed
    if not kind.startswith("empty"):
        check_ways(served, client)


async def test_every_name_of_a_repository_leads_to_it(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """`name`, `name.git` and `name.git/` are one repository with one set of records."""
    served = await serve(repository.root)
    client = accepting(tmp_path)
    names = ("project", "project.git", "project.git/")
    states = [
        await perform("full", client, f"{served.url}/{quote(name)}", tmp_path / str(number))
        for number, name in enumerate(names)
    ]
    assert states[0] == states[1] == states[2]
    assert served.executions() == 1
