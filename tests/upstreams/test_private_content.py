# Law of this file: the content of a private repository is named only to who may read it, only by
# URLs that are signed and end; and who guesses a name learns nothing.

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import ValidationError

from indexer.report import Silent
from server.indexing import index_all
from server.settings import load
from tests.conftest import Serve
from tests.server.asking import ask
from tests.upstreams.clients import basic, clone
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.private import (
    BUNDLE_URI,
    REPOSITORY,
    mirrored,
    private,
    same,
    shown,
    upload_pack,
    user,
)
from tests.upstreams.scene import Scene

pytestmark = pytest.mark.nginx

LIST: Final = f"/-/bundles{REPOSITORY}"
EVE: Final = {"Authorization": basic("eve", "guess")}


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A private repository, mirrored."""
    at = await private(serve, proxy, forge, tmp_path)
    await mirrored(at)
    return at


async def indexed(at: Scene) -> None:
    """Make and publish bundles of the mirror."""
    done = await index_all(at.served.settings, Silent(), gc=True)
    assert not any(report.failed for report in done.reports), done.reports
    await at.served.runtime.catalogs.refresh_all()


def entities(at: Scene) -> set[str]:
    """Digests of all content that the server has, in its cache or in its store."""
    data = at.served.settings.data
    found = {path.name for path in data.rglob("*") if path.is_file() and len(path.name) == 64}
    assert found
    return found


async def test_urls_are_signed_and_end(at: Scene) -> None:
    """A URL of a private pack is good as it is and until its end, and in no other form."""
    done = await same(at, user(at, "ann"), "clone")
    assert done.packs
    for url in done.packs.values():
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        assert {"expires", "key", "signature"} == set(query)
        now = time.time()
        assert now < int(query["expires"]) < now + 8 * 86400
        assert (await ask(at.served, "GET", f"{parts.path}?{parts.query}")).status == 200
        changed = (
            "",
            f"expires={query['expires']}",
            parts.query.replace("signature=", "signature=0"),
            parts.query.replace(query["expires"], str(int(query["expires"]) + 1)),
            parts.query.replace(f"key={query['key']}", "key=other"),
        )
        for each in changed:
            refused = await ask(at.served, "GET", f"{parts.path}?{each}")
            assert refused.status == 403
            assert b"PACK" not in refused.body
        elapsed = int(query["expires"]) - 86400 * 30
        old = at.served.runtime.keys.sign(parts.path.rpartition("/")[2], elapsed)
        assert (await ask(at.served, "GET", f"{parts.path}?{old}")).status == 403


async def test_names_cannot_be_guessed(at: Scene) -> None:
    """Without a signature what is there is answered like what is not, even to who may read."""
    assert (await same(at, user(at, "ann"), "clone")).packs
    await indexed(at)
    nothing = "0" * 64
    for headers in ({}, EVE, shown("ann")):
        replies = [
            await ask(at.served, method, f"/-/blobs/{digest}", headers=headers)
            for digest in sorted({*entities(at), nothing})
            for method in ("GET", "HEAD")
        ]
        assert {reply.status for reply in replies} == {403}
        assert len({reply.body for reply in replies}) == 2  # HEAD has none
    for path in ("records", "entities", "store", "mirrors", "../data/records", "owned", "catalogs"):
        assert (await ask(at.served, "GET", f"/-/{path}")).status == 404
    name = at.mirror.name
    for path in (f"/{name}/info/refs", f"/-/mirrors/{name}/HEAD", f"/mirrors/{name}/info/refs"):
        reply = await ask(at.served, "GET", f"{path}?service=git-upload-pack")
        assert reply.status == 404


async def test_a_signed_url_opens_its_own_content_only(at: Scene) -> None:
    """The signature of one entity is none of another."""
    done = await same(at, user(at, "ann"), "clone")
    await indexed(at)
    (url,) = done.packs.values()
    query = urlsplit(url).query
    own = urlsplit(url).path.rpartition("/")[2]
    others = entities(at) - {own}
    assert others
    for digest in others:
        assert (await ask(at.served, "GET", f"/-/blobs/{digest}?{query}")).status == 403


async def test_bundles_are_listed_to_who_may_read(at: Scene, forge: Forge) -> None:
    """As a file and by the protocol; others are refused as the upstream refuses them, at once."""
    await indexed(at)
    later = at.tell_time()
    for name in ("ann", "bob"):
        listed = await ask(at.served, "GET", LIST, headers=shown(name))
        assert listed.status == 200
        assert b"signature=" in listed.body
        by_protocol = await upload_pack(at, BUNDLE_URI, shown(name))
        assert b"signature=" in by_protocol.body
        assert (await ask(at.served, "GET", f"{LIST}?filter=blob:none", headers=shown(name))).body
    told = []
    for headers in ({}, EVE):
        paths = (LIST, LIST.removesuffix(".git"), f"{LIST}?filter=blob:none")
        told += [await ask(at.served, "GET", path, headers=headers) for path in paths]
        told.append(await upload_pack(at, BUNDLE_URI, headers))
    assert {reply.status for reply in told} == {401}
    assert not any(b"blobs" in reply.body for reply in told)
    later(at.remote.upstream.auth_ttl + 1)
    forge.revoke("acme/widget.git", "bob")
    assert (await ask(at.served, "GET", LIST, headers=shown("bob"))).status == 401
    assert (await ask(at.served, "GET", LIST, headers=shown("ann"))).status == 200


async def test_a_clone_takes_bundles_by_the_list(at: Scene) -> None:
    """`--bundle-uri` and `transfer.bundleURI` work for a private repository, with credentials."""
    await indexed(at)
    client = user(at, "ann")
    config = ("-c", "transfer.bundleURI=true")
    by_protocol = await clone(client, at.url, at.directory / "by-protocol", *config)
    assert by_protocol.well, by_protocol.finished.stderr
    assert "signature=" in by_protocol.finished.stderr
    uri = f"--bundle-uri={at.served.url}{LIST}"
    by_file = await clone(client, at.url, at.directory / "by-file", uri)
    assert by_file.well
    assert "warning" not in by_file.finished.stderr
    oid = at.repository.oid("main")
    for name in ("by-protocol", "by-file"):
        await client("-C", at.directory / name, "cat-file", "-e", oid)


@pytest.mark.parametrize(
    "target",
    [
        {"type": "http", "base_url": "https://cdn.example.org"},
        {"type": "s3", "public": True},
    ],
)
@pytest.mark.parametrize("auth", ["upstream", "token", "none"])
def test_a_public_target_is_refused_at_load(
    target: dict[str, Any], auth: str, tmp_path: Path
) -> None:
    """A private upstream and a target that everybody may read do not go together."""
    upstream = {"prefix": "/up/", "url": "https://forge.example.org", "auth": auth}
    tokens = [{"token": "0123456789abcdef", "repositories": ["*"]}]
    settings: dict[str, Any] = {
        "data": tmp_path,
        "access": {"tokens": tokens if auth == "token" else []},
        "targets": [target],
        "store": {"type": "s3", "bucket": "content", "region": "eu-central-1"},
    }
    with pytest.raises(ValidationError, match="are not signed"):
        load(None, upstreams=[upstream], **settings)
    assert load(None, upstreams=[{**upstream, "public": True}], **settings)
