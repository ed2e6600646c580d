# Law of this file: two users share a mirror and what is cached of it, and nothing else: what each
# of them gets is decided by what the upstream says to that user, now.

from __future__ import annotations

from pathlib import Path

import pytest

from repos.git.repository import GitRepository
from server.catalogs import Catalogs
from server.pipeline import Pipeline
from server.upstreams.mirrors import Mirrors
from tests.conftest import Serve
from tests.server.asking import ask
from tests.upstreams.clients import anonymous, basic, by_helper, checkout, clone
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.private import (
    BUNDLE_URI,
    LS_REFS,
    REPOSITORY,
    direct,
    fetch_of,
    mirrored,
    private,
    refs_of,
    same,
    shown,
    upload_pack,
    user,
)
from tests.upstreams.scene import NAME, Scene

pytestmark = pytest.mark.nginx

DISCOVERY = f"{REPOSITORY}/info/refs?service=git-upload-pack"


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A private repository of two users, not mirrored yet."""
    return await private(serve, proxy, forge, tmp_path)


async def test_both_are_offloaded(at: Scene) -> None:
    """The second clone, and that of another user, come by location; one fetch made the mirror."""
    first = await same(at, user(at, "ann"), "ann-first")
    assert not first.packs
    await at.upstreams.mirrors.made(at.remote)
    assert len(at.proxy.seen("fetch")) == 2
    for name in ("ann", "bob"):
        assert (await same(at, user(at, name), name)).packs
    assert len(at.proxy.seen("fetch")) == 2
    # One run for both: what is cached is shared.
    assert at.served.executions() == 1


async def test_each_question_is_asked_with_the_credential_of_who_asks(at: Scene) -> None:
    """What one user was told is not told to the other, although it is the same."""
    await mirrored(at)
    for name in ("bob", "ann"):
        at.proxy.forget()
        assert (await same(at, user(at, name), name)).packs
        words = {exchange.authorization for exchange in at.proxy.seen()}
        assert words == {shown(name)["Authorization"]}


async def test_who_may_no_longer_read_is_refused_at_once(at: Scene, forge: Forge) -> None:
    """After a right is withdrawn the next list of refs is refused, and so is all that follows."""
    later = at.tell_time()
    await mirrored(at)
    for name in ("ann", "bob"):
        assert (await same(at, user(at, name), name)).packs
    told = at.served.content()
    oid = at.repository.oid("main")
    later(1)
    forge.revoke(NAME, "bob")
    done = await clone(user(at, "bob"), at.url, at.directory / "bob-late")
    assert not done.well
    assert not done.packs
    # The upstream's no is known: his own earlier yes, still young, opens nothing.
    for body in (fetch_of(oid), BUNDLE_URI, LS_REFS):
        reply = await upload_pack(at, body, shown("bob"))
        assert reply.status == 401
        assert b"packfile" not in reply.body
        assert oid.encode() not in reply.body
    assert (await checkout(user(at, "bob"), at.url, oid, at.directory / "bob-ci")).well is False
    assert at.served.content()["redirected"] == told["redirected"]
    assert (await same(at, user(at, "ann"), "ann-late")).packs


async def test_an_exact_commit_is_refused_after_auth_ttl(at: Scene, forge: Forge) -> None:
    """Who wants a commit by its id asks for no refs: a withdrawn right ends `auth_ttl` later."""
    later = at.tell_time()
    await mirrored(at)
    oid = at.repository.oid("main")
    client = user(at, "bob")
    assert (await checkout(client, at.url, oid, at.directory / "before")).packs
    forge.revoke(NAME, "bob")
    at.proxy.forget()
    later(at.remote.upstream.auth_ttl - 1)
    assert (await checkout(client, at.url, oid, at.directory / "within")).packs
    assert not at.proxy.exchanges
    later(2)
    late = await checkout(client, at.url, oid, at.directory / "late")
    assert not late.well
    assert not late.packs
    assert (await checkout(user(at, "ann"), at.url, oid, at.directory / "ann")).packs


async def test_who_gets_a_right_waits_no_longer_than_auth_ttl(at: Scene, forge: Forge) -> None:
    """A no is remembered too, so that refused clients do not become a load; and then it ends."""
    later = at.tell_time()
    carl = user(at, "carl", "carls")
    for _ in range(3):
        assert not (await clone(carl, at.url, at.directory / "carl")).well
    assert len(at.proxy.seen("info-refs")) == 1
    forge.allow(NAME, "carl", "carls")
    later(at.remote.upstream.auth_ttl + 1)
    assert (await same(at, carl, "carl")).well


@pytest.mark.parametrize("who", ["nobody", "eve", "bob-with-another-password"])
async def test_nothing_is_looked_up_for_who_may_not_read(
    at: Scene, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Without the upstream's yes neither mirror nor record nor list of bundles is opened."""
    await mirrored(at)
    assert (await same(at, user(at, "ann"), "ann")).packs
    looked_up: list[str] = []

    def noted(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: object, **words: object) -> object:
            looked_up.append(name)
            return original(*args, **words)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (Mirrors, "get"),
        (Mirrors, "known"),
        (Mirrors, "ready"),
        (Mirrors, "begin"),
        (Catalogs, "bundles"),
        (Pipeline, "respond"),
        (GitRepository, "snapshot"),
    ):
        noted(owner, name)
    headers = {
        "nobody": {},
        "eve": {"Authorization": basic("eve", "guess")},
        "bob-with-another-password": {"Authorization": basic("bob", "guess")},
    }[who]
    oid = at.repository.oid("main")
    replies = [
        await ask(at.served, "GET", DISCOVERY, headers={"Git-Protocol": "version=2", **headers}),
        await ask(at.served, "GET", DISCOVERY, headers=headers),
        *[await upload_pack(at, body, headers) for body in (LS_REFS, fetch_of(oid), BUNDLE_URI)],
        await ask(at.served, "GET", f"/-/bundles{REPOSITORY}", headers=headers),
    ]
    assert [reply.status for reply in replies] == [401] * len(replies)
    assert looked_up == []
    assert {exchange.authorization for exchange in at.proxy.seen("ls-refs")} <= {
        headers.get("Authorization"),
        shown("ann")["Authorization"],
    }
    # The same request of somebody who may read does look: the list above can grow.
    assert (await upload_pack(at, fetch_of(oid), shown("ann"))).status == 200
    assert {"ready", "respond", "snapshot"} <= set(looked_up)


async def test_who_asks_without_credentials_hears_the_forges_own_challenge(at: Scene) -> None:
    """401, with the forge's `WWW-Authenticate`: so git asks its credential helper, and clones."""
    for mirror in (False, True):
        if mirror:
            await mirrored(at)
        expected = await direct(f"{at.there}/info/refs?service=git-upload-pack")
        reply = await ask(at.served, "GET", DISCOVERY, headers={"Git-Protocol": "version=2"})
        assert reply.status == expected.status == 401
        assert reply.headers["www-authenticate"] == expected.headers["WWW-Authenticate"]
        assert refs_of(await upload_pack(at, LS_REFS, shown("bob")))
        helped = by_helper(anonymous(at.directory), at.served.url, "bob", "bob-has-another-one")
        done = await same(at, helped, f"helped-{mirror}")
        assert bool(done.packs) is mirror
    alone = await clone(anonymous(at.directory), at.url, at.directory / "alone")
    assert not alone.well
    assert "could not read Username" in alone.finished.stderr
