# Law of this file: a bundle file tells the names of refs only where everybody who may see its
# content may see the names too; without them it is as good to start a clone from.

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from indexer.report import Silent
from server.indexing import index_all
from tests.conformance.clones import Client, state
from tests.conformance.repositories import Repository, make, run_git
from tests.conftest import Serve, Served
from tests.server.asking import ask
from tests.upstreams.clients import anonymous
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.private import REPOSITORY, mirrored, private, shown, user
from tests.upstreams.scene import NAME, Scene, scene

pytestmark = pytest.mark.nginx

_URI: Final = re.compile(r'^\s*uri = "(\S+)"$', re.MULTILINE)


async def bundles(served: Served, path: str, to: Path, headers: dict[str, str]) -> list[Path]:
    """Make bundles of all that is served, and download those of a repository."""
    await index_all(served.settings, Silent(), gc=False)
    await served.runtime.catalogs.refresh_all()
    reply = await ask(served, "GET", f"/-/bundles{path}", headers=headers)
    uris = _URI.findall(reply.body.decode())
    assert uris, reply
    found = []
    for number, uri in enumerate(uris):
        parts = urlsplit(uri)
        content = await ask(served, "GET", f"{parts.path}?{parts.query}")
        assert content.status == 200
        file = to / f"{number}.bundle"
        file.write_bytes(content.body)
        found.append(file)
    return found


def heads(repository: Repository, bundle: Path) -> dict[str, str]:
    """Object ids by name, as git reads them from a bundle."""
    lines = repository.git("bundle", "list-heads", bundle).splitlines()
    return {line.split(" ", 1)[1]: line.split()[0] for line in lines}


async def continued(client: Client, bundle: Path, url: str, name: str) -> None:
    """Clone a bundle, and then fetch what is missing from a URL: the whole repository is there."""
    await client("clone", "--quiet", "--mirror", bundle, name)
    await client("-C", name, "remote", "set-url", "origin", url)
    await client("-C", name, "fetch", "--quiet", "--prune")
    run_git(client.directory / name, "fsck", "--strict")


@pytest.fixture
async def closed(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A private repository, mirrored."""
    at = await private(serve, proxy, forge, tmp_path)
    at.repository.git("update-ref", "refs/heads/plan-of-which-nobody-knows", "refs/heads/main")
    await mirrored(at)
    return at


async def test_bundles_of_private_upstreams_name_no_refs(closed: Scene, tmp_path: Path) -> None:
    """Numbers are in their place; the objects are those of all refs."""
    bundle = (await bundles(closed.served, REPOSITORY, tmp_path, shown("ann")))[0]
    found = heads(closed.repository, bundle)
    assert set(found) == {f"refs/heads/{number}" for number in range(1, len(found) + 1)}
    tips = closed.repository.git("for-each-ref", "--format=%(objectname)", "refs/heads/")
    assert set(tips.split()) <= set(found.values())
    header = bundle.read_bytes().partition(b"PACK")[0]
    for word in (b"main", b"topic", b"tags", b"HEAD", b"plan"):
        assert word not in header


async def test_a_clone_can_begin_with_a_bundle_without_names(closed: Scene, tmp_path: Path) -> None:
    """A clone of the file, or one that is told of it, ends as a clone of the repository."""
    bundle = (await bundles(closed.served, REPOSITORY, tmp_path, shown("ann")))[0]
    closed.repository.commit("refs/heads/main", 20)
    ann = user(closed, "ann")
    await continued(ann, bundle, closed.url, "continued")
    await ann("clone", "--quiet", "--mirror", closed.url, "whole")
    here = await state(ann, closed.directory / "continued")
    whole = await state(ann, closed.directory / "whole")
    assert (here.refs, here.objects) == (whole.refs, whole.objects)
    await ann("clone", "--quiet", f"--bundle-uri={bundle}", closed.url, "told")
    told = run_git(closed.directory / "told", "rev-parse", "origin/main")
    assert told == closed.repository.oid("main")


async def test_bundles_of_public_upstreams_keep_their_names(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """A clone of the file alone is what everybody knows."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    await at.mirrored()
    bundle = (await bundles(at.served, REPOSITORY, tmp_path, {}))[0]
    found = heads(at.repository, bundle)
    assert {"HEAD", "refs/heads/main", "refs/heads/topic", "refs/tags/v1.0"} <= set(found)
    assert found["refs/heads/main"] == at.repository.oid("main")


@pytest.mark.parametrize("access", [{}, {"auth": "token"}], ids=["public", "private"])
async def test_bundles_of_local_repositories_keep_their_names(
    serve: Serve, tmp_path: Path, access: dict[str, Any]
) -> None:
    """Who may read one sees all of its refs."""
    repository = make(tmp_path / "root")
    token = "0123456789abcdef-opens-all"
    rules = {**access, "tokens": [{"token": token, "repositories": ["*"]}]} if access else {}
    served = await serve(tmp_path / "root", access=rules, index={"enabled": False})
    headers = {"Authorization": f"Bearer {token}"} if access else {}
    bundle = (await bundles(served, "/project.git", tmp_path, headers))[0]
    assert "refs/heads/main" in heads(repository, bundle)
    (tmp_path / "clients").mkdir()
    client = anonymous(tmp_path / "clients")
    await client("clone", "--quiet", "--bare", bundle, "alone")
    assert run_git(tmp_path / "clients" / "alone", "rev-parse", "HEAD") == repository.oid("main")
