# Law of this file: where the upstream shows users different refs, a mirror that holds all of them
# gives each user what that user's own refs reach, and nothing else.

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from indexer.report import Silent
from server.indexing import index_all
from tests.conformance.clones import Client, State, state, v2_request
from tests.conformance.repositories import Repository, make, tag
from tests.conftest import Serve
from tests.server.asking import ask
from tests.upstreams.clients import Done, anonymous, basic, by_header, checkout, clone
from tests.upstreams.faults import Proxy
from tests.upstreams.hiding import Hiding
from tests.upstreams.private import (
    BUNDLE_URI,
    LS_REFS,
    REPOSITORY,
    fetch_of,
    refs_of,
    upload_pack,
)
from tests.upstreams.scene import NAME, PREFIX, Scene

SECRET: Final = "refs/heads/secret/"
SECRET_TAGS: Final = "refs/tags/secret/"
ALL: Final = {"Authorization": basic("all", "all")}
SOME: Final = {"Authorization": basic("some", "some")}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """With a branch, a tag of it, and a tag of what everybody sees, which only some may see."""
    repository = make(tmp_path / "root", NAME)
    oid = repository.commit(f"{SECRET}plan", 40, plan="a plan that nobody is to know")
    for name, target in (("v1", oid), ("on-main", repository.oid("main"))):
        repository.git("fast-import", "--quiet", stdin=tag(f"secret/{name}", target, 41))
    return repository


@pytest.fixture
async def hiding(tmp_path: Path, repository: Repository) -> AsyncIterator[Hiding]:
    """An upstream with one user who sees all refs, and one who does not."""
    hiding = await Hiding.start(
        tmp_path / "root", repository, {"all": (), "some": (SECRET, SECRET_TAGS)}
    )
    yield hiding
    await hiding.close()


@pytest.fixture
async def at(
    serve: Serve, hiding: Hiding, repository: Repository, tmp_path: Path
) -> AsyncIterator[Scene]:
    """Offramp before it, with a mirror of all, and bundles."""
    proxy = await Proxy.start(hiding.url)
    served = await serve(
        None, upstreams=[{"prefix": PREFIX, "url": proxy.url}], index={"enabled": False}
    )
    (tmp_path / "clients").mkdir()
    at = Scene(served, proxy, repository, tmp_path / "clients")
    word = ALL["Authorization"]
    at.upstreams.mirrors.begin(at.remote, await at.upstreams.views.now(at.remote, word), word)
    await at.upstreams.mirrors.made(at.remote)
    await index_all(served.settings, Silent(), gc=False)
    await served.runtime.catalogs.refresh_all()
    proxy.forget()
    yield at
    await proxy.close()


def client(at: Scene, headers: dict[str, str], url: str = "") -> Client:
    """Who shows this credential."""
    return by_header(anonymous(at.directory), url or at.served.url, headers["Authorization"])


def secrets(at: Scene) -> set[str]:
    """Ids of objects that only the hidden refs reach."""
    lines = at.repository.git(
        *("rev-list", "--objects", "--all", "--not"),
        *(f"--exclude={SECRET}*", f"--exclude={SECRET_TAGS}*", "--all"),
    )
    found = {line.split()[0] for line in lines.splitlines()}
    assert len(found) >= 5  # two tags, commit, tree, blob
    return found


async def both(at: Scene, headers: dict[str, str], name: str) -> tuple[Done, State]:
    """A clone through Offramp, which must be what one from the upstream is."""
    found = []
    done = None
    for base in (at.proxy.upstream, at.served.url):
        where = at.directory / f"{name}-{base.rpartition(':')[2]}"
        url = at.url if base == at.served.url else at.there
        who = client(at, headers, base)
        done = await clone(who, url, where)
        assert done.well, done.finished.stderr
        found.append(await state(who, where))
    assert done is not None
    assert found[0] == found[1]
    return done, found[1]


async def test_each_gets_what_the_upstream_gives(at: Scene) -> None:
    """Both clones come by location and equal those from the upstream; one has no hidden object."""
    done, everything = await both(at, ALL, "all")
    assert done.packs
    assert secrets(at) <= everything.objects
    done, some = await both(at, SOME, "some")
    assert done.packs
    assert not secrets(at) & some.objects
    assert everything.objects - some.objects == secrets(at)
    # Again, after what the other was given is cached.
    assert (await both(at, SOME, "again"))[1].objects == some.objects


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_a_hidden_ref_is_not_told(at: Scene, version: int) -> None:
    """In no version of the protocol, whoever asked before."""
    for headers, seen in ((ALL, True), (SOME, False), (ALL, True)):
        who = client(at, headers)
        said = await who("-c", f"protocol.version={version}", "ls-remote", at.url)
        assert (SECRET in said.stdout) is (SECRET_TAGS in said.stdout) is seen
        assert ("refs/heads/main" in said.stdout) is True


async def test_a_hidden_object_is_not_given_by_its_id(at: Scene) -> None:
    """Commit, tag, tree and blob: who does not see the ref hears the upstream's own words."""
    for oid in sorted(secrets(at)):
        assert (await upload_pack(at, fetch_of(oid), ALL)).status == 200
        reply = await upload_pack(at, fetch_of(oid), SOME)
        assert f"ERR upload-pack: not our ref {oid}".encode() in reply.body
        assert b"packfile" not in reply.body
        both_wanted = fetch_of(at.repository.oid("main"), oid)
        assert b"not our ref" in (await upload_pack(at, both_wanted, SOME)).body
    plan = at.repository.oid(f"{SECRET}plan")
    assert not (await checkout(client(at, SOME), at.url, plan, at.directory / "some")).well
    assert (await checkout(client(at, ALL), at.url, plan, at.directory / "all")).packs
    named = v2_request("fetch", f"want-ref {SECRET}plan", "done")
    assert plan.encode() not in (await upload_pack(at, named, SOME)).body


@pytest.mark.parametrize("version", [0, 1])
async def test_old_protocols_give_no_hidden_object(at: Scene, version: int) -> None:
    """A want of protocol v0 is looked at like one of v2."""
    plan, main = at.repository.oid(f"{SECRET}plan"), at.repository.oid("main")
    line = f"want {plan} ofs-delta no-progress\n"
    body = f"{len(line) + 4:04x}{line}00000009done\n".encode()
    headers = {"Git-Protocol": f"version={version}"}
    refused = await upload_pack(at, body, {**SOME, **headers})
    assert b"PACK" not in refused.body
    assert b"not our ref" in refused.body
    assert b"PACK" in (await upload_pack(at, body, {**ALL, **headers})).body
    good = body.replace(plan.encode(), main.encode())
    assert b"PACK" in (await upload_pack(at, good, {**SOME, **headers})).body


async def test_bundles_that_hold_hidden_objects_are_not_listed(at: Scene) -> None:
    """By the protocol and as a file: only who sees all that is in a bundle is told of it."""
    for headers, listed in ((SOME, False), (ALL, True), (SOME, False)):
        by_protocol = await upload_pack(at, BUNDLE_URI, headers)
        by_file = await ask(at.served, "GET", f"/-/bundles{REPOSITORY}", headers=headers)
        for reply in (by_protocol, by_file):
            assert reply.status == 200
            assert (b"signature=" in reply.body) is listed


async def test_the_mirror_serves_both_whoever_it_was_updated_for(at: Scene) -> None:
    """After a push the one who sees less comes first: the other misses nothing, then or later."""
    at.repository.commit("refs/heads/main", 50)
    at.repository.commit(f"{SECRET}plan", 51, plan="a better plan")
    for round_number in range(2):
        for name, headers in (("some", SOME), ("all", ALL)):
            _, got = await both(at, headers, f"{name}-{round_number}")
            assert (secrets(at) & got.objects == set()) is (name == "some")
    refs = refs_of(await upload_pack(at, LS_REFS, SOME))
    assert not [name for name in refs if "/secret/" in name]
    at.check_mirror()
