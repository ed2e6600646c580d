# Law of this file: what a caller says that it has is answered by what its own view of the upstream
# reaches; that the mirror has it too is told to nobody else.

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.clones import packets, v2_request
from tests.conformance.repositories import Repository, make
from tests.conftest import Serve
from tests.upstreams.clients import basic
from tests.upstreams.faults import Proxy
from tests.upstreams.hiding import Hiding
from tests.upstreams.packed import V0, fetch_v0, fetch_v2, stands_alone
from tests.upstreams.private import upload_pack
from tests.upstreams.scene import NAME, PREFIX, Scene

SECRET: Final = "refs/heads/secret/"
ALL: Final = {"Authorization": basic("all", "all")}
SOME: Final = {"Authorization": basic("some", "some")}
_LINES: Final = [f"{random.Random(7).random()} {number}\n" for number in range(3000)]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A file that is on a branch which only some may see, and almost the same on main later."""
    repository = make(tmp_path / "root", NAME)
    text = "".join(_LINES)
    repository.git("branch", "secret/plan", "main")
    repository.commit(f"{SECRET}plan", 40, plan=text)
    repository.commit("refs/heads/main", 41, plan=f"{text}and one more\n")
    return repository


@pytest.fixture
async def at(serve: Serve, repository: Repository, tmp_path: Path) -> AsyncIterator[Scene]:
    """An upstream that shows it so, and Offramp with a mirror of all."""
    users: dict[str, tuple[str, ...]] = {"all": (), "some": (SECRET,)}
    hiding = await Hiding.start(tmp_path / "root", repository, users)
    proxy = await Proxy.start(hiding.url)
    upstream = {"prefix": PREFIX, "url": proxy.url}
    served = await serve(None, upstreams=[upstream], index={"enabled": False})
    (tmp_path / "clients").mkdir()
    at = Scene(served, proxy, repository, tmp_path / "clients")
    word = ALL["Authorization"]
    at.upstreams.mirrors.begin(at.remote, await at.upstreams.views.now(at.remote, word), word)
    await at.upstreams.mirrors.made(at.remote)
    proxy.forget()
    yield at
    await proxy.close()
    await hiding.close()


async def _acknowledged(at: Scene, who: dict[str, str], *haves: str) -> set[str]:
    """What of these is acknowledged to somebody who goes on telling."""
    told = [f"have {oid}" for oid in haves]
    body = v2_request("fetch", f"want {at.repository.oid('main')}", *told)
    reply = await upload_pack(at, body, who)
    lines = [line.decode(errors="replace").split() for line in packets(reply.body)]
    assert ["acknowledgments"] in lines
    return {words[1] for words in lines if words[0] == "ACK"}


async def test_only_what_the_own_view_reaches_is_acknowledged(at: Scene) -> None:
    """A hidden tip, its tree and its tag are as unknown as what does not exist."""
    plan, main = at.repository.oid(f"{SECRET}plan"), at.repository.oid("main~1")
    tree = at.repository.oid(f"{SECRET}plan^{{tree}}")
    nothing = "1234567890" * 4
    # Who sees more comes first and between: what was found for one holds for that one only.
    assert await _acknowledged(at, ALL, plan, main, nothing) == {plan, main}
    assert await _acknowledged(at, SOME, plan, main, nothing) == {main}
    assert await _acknowledged(at, SOME, plan, tree, nothing) == set()
    assert await _acknowledged(at, ALL, plan) == {plan}
    assert await _acknowledged(at, SOME, plan) == set()


async def test_no_pack_is_thin_against_what_is_hidden(at: Scene, tmp_path: Path) -> None:
    """Who only claims to have a hidden commit gets no difference to its content."""
    plan, main = at.repository.oid(f"{SECRET}plan"), at.repository.oid("main")
    body = fetch_v2("thin-pack", f"want {main}", f"have {plan}")
    everything = await upload_pack(at, body, ALL)
    assert not stands_alone(everything.body, tmp_path / "all")
    own = await upload_pack(at, body, SOME)
    assert stands_alone(own.body, tmp_path / "some")
    assert not at.proxy.seen("fetch")


async def test_hidden_haves_of_old_protocols_are_the_upstreams(at: Scene) -> None:
    """In v0 git itself acknowledges: it is asked in the mirror only about what the view reaches."""
    plan, main = at.repository.oid(f"{SECRET}plan"), at.repository.oid("main")
    for who, have, passed in (
        (SOME, at.repository.oid("main~1"), 0),
        (ALL, plan, 0),
        (SOME, plan, 1),
        (SOME, "1234567890" * 4, 1),
    ):
        reply = await upload_pack(at, fetch_v0(main, haves=(have,)), {**who, **V0})
        assert b"PACK" in reply.body
        assert len(at.proxy.seen("fetch")) == passed
