# Law of this file: who asks the same again did not get what it was sent for, and gets it inline,
# and whole; who only looks so is sent there as before.

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from redirects.health import State
from redirects.suspicion import PER_ADDRESS, TABLE_SIZE
from server.repeats import TABLE_FILE
from tests.conformance.clones import accepting, declining, locations, state
from tests.conformance.fleet import SELDOM, Fleet, ask, one_shot
from tests.conformance.repositories import Repository
from tests.conftest import Serve

pytestmark = pytest.mark.nginx


async def test_an_increment_that_is_asked_for_again(
    fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """Who has something already gets the rest inline, and then by a place again; nothing breaks.

    A pack that is only whole together with what the client has is never named to anybody.
    """
    url, client = repository.url(fleet.served.url), accepting(tmp_path).traced()
    await declining(tmp_path)("clone", "--bare", url, "base")
    changed = repository.git("show", "main:big.txt").replace("line 7", "line seven")
    repository.commit("refs/heads/main", 20, **{"big.txt": changed + "\n"})
    sent = []
    for number in range(4):
        shutil.copytree(tmp_path / "base", tmp_path / f"{number}")
        said = await client("-C", f"{number}", "fetch", "origin", "+refs/heads/*:refs/heads/*")
        sent.append(fleet.sent_to(said))
        if not sent[-1]:
            await fleet.until(State.UP)  # the probe that it brought came back
    assert sent == [{"a"}, set(), {"a"}, set()]
    why = [made.reason for made in fleet.served.runtime.decisions.last()]
    assert why.count("asked_again") == 2
    held = [await state(client, tmp_path / f"{number}") for number in range(4)]
    assert held == held[:1] * 4
    assert f"refs/heads/main {repository.oid('main')} " in held[0].refs


@pytest.mark.parametrize(
    "options",
    [(), ("--single-branch",), ("--depth=1",), ("--depth=1", "--no-tags"), ("--filter=blob:none",)],
    ids=" ".join,
)
async def test_a_clone_that_is_run_again_after_a_push(
    fleet: Fleet, repository: Repository, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Whatever others pushed between its tries: the second one comes inline, and is whole."""
    url, client = repository.url(fleet.served.url), accepting(tmp_path).traced()
    if options:
        await client("clone", "--bare", *options, url, "before")  # what it gets is published
        os.truncate(fleet.served.settings.data / TABLE_FILE, 0)  # as if that were long ago
    fleet.servers["a"].kill()
    failed = await client("clone", "--bare", *options, url, "failed", check=False)
    assert failed.status != 0
    assert fleet.sent_to(failed) == {"a"}
    repository.commit("refs/heads/main", 20)
    repository.commit("refs/heads/brand-new", 21)
    repository.git("tag", "-a", "-m", "brand new", "v3.0", "main")
    assert fleet.sent_to(await client("clone", "--bare", *options, url, "again")) == set()
    made = fleet.served.runtime.decisions.last()
    assert "asked_again" in {each.reason for each in made}
    held = await state(client, tmp_path / "again")
    assert any(line.startswith(f"refs/heads/main {repository.oid('main')}") for line in held.refs)


async def test_an_increment_that_is_asked_for_again_after_a_push(
    fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """What a client has tells that it is the same one, though it wants something else by now."""
    url, client = repository.url(fleet.served.url), accepting(tmp_path).traced()
    await declining(tmp_path)("clone", "--bare", url, "base")
    sent = []
    for number in range(2):
        repository.commit("refs/heads/main", 20 + number)
        repository.commit(f"refs/heads/new-{number}", 30 + number)
        shutil.copytree(tmp_path / "base", tmp_path / f"{number}")
        said = await client("-C", f"{number}", "fetch", "origin", "+refs/heads/*:refs/heads/*")
        sent.append(fleet.sent_to(said))
    assert sent == [{"a"}, set()]


async def test_machines_that_build_a_commit_each(
    fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """A fleet behind one address is redirected; who builds the same again after a push is not.

    Each asks for one commit by its id, as `actions/checkout` does.
    """
    url, client = repository.url(fleet.served.url), accepting(tmp_path).traced()
    wanted = [repository.oid(name) for name in ("main", "topic", "main~1")]
    sent = []
    for number, oid in enumerate((*wanted, wanted[0])):
        await client("init", "--bare", f"{number}")
        said = await client("-C", f"{number}", "fetch", "--no-tags", "--depth=1", url, oid)
        sent.append(fleet.sent_to(said))
        repository.commit("refs/heads/main", 20 + number)
    assert sent == [{"a"}, {"a"}, {"a"}, set()]


async def test_a_clone_that_leaves_out_files_has_not_failed(
    fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """What it checks out it asks for at once, and on another connection: another question."""
    url, client = repository.url(fleet.served.url), accepting(tmp_path).traced()
    said = await client("clone", "--filter=blob:none", url, "partial")
    assert {"clone> command=fetch", "fetch> command=fetch"} <= set(
        re.findall(r"\S+> command=fetch", said.stderr)
    )
    why = [made.reason for made in fleet.served.runtime.decisions.last()]
    assert "asked_again" not in why
    assert fleet.told == []


async def test_machines_side_by_side_are_no_suspicion(fleet: Fleet, repository: Repository) -> None:
    """Those of one address whose earlier requests still go on: all of them are redirected."""
    async with AsyncExitStack() as stack:
        for _ in range(12):
            session = await stack.enter_async_context(aiohttp.ClientSession())
            assert await ask(session, fleet.served, repository)
    assert fleet.told == []


async def test_the_same_connection_is_no_suspicion(fleet: Fleet, repository: Repository) -> None:
    """Whose program goes on has not failed."""
    async with aiohttp.ClientSession() as session:
        assert all([await ask(session, fleet.served, repository) for _ in range(3)])
    assert fleet.told == []


async def test_one_after_another_does_not_switch_redirects_off(
    fleet: Fleet, repository: Repository
) -> None:
    """A fleet behind one address that repeats itself has its share inline, and then redirects."""
    redirected = []
    for _ in range(3 * PER_ADDRESS):
        async with one_shot() as session:
            redirected.append(await ask(session, fleet.served, repository))
    assert redirected[:2] == [True, False]
    assert redirected.count(False) == PER_ADDRESS
    assert all(redirected[2 * PER_ADDRESS :])
    await fleet.until(State.UP)
    assert set(fleet.told) == {State.SUSPECT, State.UP}
    # Who is not believed may be right: it is looked whether the target works.
    fleet.told.clear()
    async with one_shot() as session:
        assert await ask(session, fleet.served, repository)
    assert fleet.told[0] is State.SUSPECT


async def test_what_is_written_down_tells_nobodys_address(
    fleet: Fleet, repository: Repository
) -> None:
    """Whoever reads the data directory cannot find clients by trying all addresses."""
    for _ in range(2):
        async with one_shot() as session:
            await ask(session, fleet.served, repository)
    content = (fleet.served.settings.data / TABLE_FILE).read_bytes()
    assert content.strip(b"\0")
    assert len(content) <= TABLE_SIZE
    assert hashlib.blake2b(b"127.0.0.1", digest_size=16).digest() not in content


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Via", "X-Real-IP"])
async def test_behind_an_unknown_proxy_nobody_is_known_again(
    fleet: Fleet, repository: Repository, header: str
) -> None:
    """Its address is everybody's; it is not listed in regions.proxies."""
    for _ in range(3):
        async with one_shot() as session:
            assert await ask(session, fleet.served, repository, **{header: "192.0.2.7"})
    assert fleet.told == []


async def test_who_shows_another_credential_is_another(
    fleet: Fleet, repository: Repository
) -> None:
    """Jobs of a CI have each a token of their own."""
    for number in range(3):
        async with one_shot() as session:
            assert await ask(session, fleet.served, repository, Authorization=f"Bearer {number}")
    assert fleet.told == []


@pytest.mark.parametrize("jump", [-1e9, 1e9])
async def test_a_clock_that_jumps(
    fleet: Fleet, repository: Repository, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Whoever sets this machine's clock, a second try is known as one, and a probe is in time."""
    real = time.time
    async with one_shot() as session:
        assert await ask(session, fleet.served, repository)
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    async with one_shot() as session:
        assert not await ask(session, fleet.served, repository)
    await fleet.until(State.UP)
    async with one_shot() as session:
        assert await ask(session, fleet.served, repository)


async def test_our_own_blobs_are_not_suspected(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """An inline answer would go the same way."""
    served = await serve(repository.root, health={})
    url, client = repository.url(served.url), accepting(tmp_path).traced()
    for name in ("one", "two", "three"):
        assert locations(await client("clone", "--bare", url, name))


async def test_other_workers_know_it_too(
    serve: Serve, fleet: Fleet, repository: Repository
) -> None:
    """A second try that comes to another process of this machine is known as one."""
    other = await serve(
        repository.root,
        targets=[target.model_dump() for target in fleet.served.settings.targets],
        data=fleet.served.settings.data,
        health=SELDOM,
    )
    async with one_shot() as session:
        assert await ask(session, fleet.served, repository)
    async with one_shot() as session:
        assert not await ask(session, other, repository)


async def test_a_client_whose_name_is_no_text(
    fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """It is redirected, known again and answered inline, as any other."""
    client, sent = accepting(tmp_path).traced(), []
    for number in range(2):
        named = ("-c", "http.userAgent=git/\udce9", "clone", "-q")
        said = await client(*named, repository.url(fleet.served.url), f"{number}")
        sent.append(fleet.sent_to(said))
    assert sent == [{"a"}, set()]


async def test_a_table_that_cannot_be_used(fleet: Fleet, repository: Repository) -> None:
    """A disk that fails costs the second tries, and no answer."""
    table = fleet.served.runtime.sent_table
    good, table.descriptor = table.descriptor, -1
    try:
        for _ in range(2):
            async with one_shot() as session:
                assert await ask(session, fleet.served, repository)
    finally:
        table.descriptor = good


async def test_listed_proxies_say_who_asks(
    serve: Serve, fleet: Fleet, repository: Repository, tmp_path: Path
) -> None:
    """Then the client's own address counts, whatever connections the proxy keeps."""
    served = await serve(
        repository.root,
        targets=[target.model_dump() for target in fleet.served.settings.targets],
        data=tmp_path / "data",
        health=SELDOM,
        regions={"proxies": ["127.0.0.0/8"]},
    )
    async with aiohttp.ClientSession() as session:
        for address, redirected in (
            ("192.0.2.7", True),
            ("192.0.2.8", True),
            ("192.0.2.7", False),
        ):
            said = await ask(session, served, repository, **{"X-Forwarded-For": address})
            assert said == redirected
