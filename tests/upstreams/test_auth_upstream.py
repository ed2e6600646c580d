# Law of this file: a caller's credential, of whatever scheme, reaches the upstream as it was shown,
# and is found nowhere else afterwards: not in memory, on disk, in a log or among arguments.

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.server.asking import Reply, ask, converse, head, listen_to_access
from tests.upstreams.clients import anonymous, basic, bearer, by_header, clone
from tests.upstreams.faults import Answers, Breaks, Holds, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.private import (
    LS_REFS,
    REPOSITORY,
    USERS,
    fetch_of,
    mirrored,
    private,
    refs_of,
    same,
    shown,
    upload_pack,
    user,
)
from tests.upstreams.scene import NAME, PREFIX, Scene
from tests.upstreams.traces import Calls, in_files, in_memory, spellings

pytestmark = pytest.mark.nginx

TOKEN = "glpat-of_somebody-0123456789"
SECRET = "correct-horse-battery"
DISCOVERY = f"{REPOSITORY}/info/refs?service=git-upload-pack"
V2 = {"Git-Protocol": "version=2"}


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A private repository of two users and a token."""
    at = await private(serve, proxy, forge, tmp_path)
    forge.allow_token(NAME, TOKEN)
    return at


# --- schemes -------------------------------------------------------------------------------------


async def test_a_token_opens_what_it_opens_at_the_forge(at: Scene, forge: Forge) -> None:
    """Bearer works like Basic: whole clones by location, until the token is withdrawn."""
    await mirrored(at)
    client = by_header(anonymous(at.directory), at.served.url, bearer(TOKEN))
    assert (await same(at, client, "token")).packs
    assert {exchange.authorization for exchange in at.proxy.seen()} == {bearer(TOKEN)}
    forge.revoke_token(NAME, TOKEN)
    assert not (await clone(client, at.url, at.directory / "late")).well


@pytest.mark.parametrize(
    "word",
    ["Basic", "Basic !!!", "Bearer", "Negotiate YII=", "basic YW5uOg==", "ann:hers", "Basic Og"],
)
async def test_what_is_not_understood_is_judged_by_the_upstream(at: Scene, word: str) -> None:
    """It is shown as it came, and is never taken for no credential at all."""
    await mirrored(at)
    reply = await ask(at.served, "GET", DISCOVERY, headers={**V2, "Authorization": word})
    assert reply.status == 401
    assert {exchange.authorization for exchange in at.proxy.seen()} == {word}


@pytest.mark.parametrize(
    "lines",
    [
        (basic("ann", USERS["ann"]), basic("eve", "guess")),
        (basic("ann", USERS["ann"]), basic("ann", USERS["ann"])),
        ("Basic \xfcber",),
        ("Bearer a\x01b",),
        ("",),
    ],
    ids=["two", "twice", "not-ascii", "control", "empty"],
)
async def test_what_may_be_read_in_two_ways_is_asked_of_nobody(
    at: Scene, lines: tuple[str, ...]
) -> None:
    """Several or unreadable headers are refused: the upstream might believe another one than we."""
    await mirrored(at)
    headers = "".join(f"Authorization: {line}\r\n" for line in lines)
    top = f"GET {DISCOVERY} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{headers}\r\n"
    reply = await converse(at.served, top.encode("latin-1"))
    assert reply.status == 400
    assert not at.proxy.exchanges
    # The same for what is passed through.
    for path in (f"{REPOSITORY}/HEAD", f"{REPOSITORY}/info/refs?service=git-receive-pack"):
        assert (await converse(at.served, top.replace(DISCOVERY, path).encode("latin-1"))).status
        assert not at.proxy.exchanges


# --- what is left of a credential ----------------------------------------------------------------


async def _all_that_can_happen(at: Scene, forge: Forge, client_password: str) -> list[Reply]:
    """Yes, no and silence, probes, updates of the mirror, and what is passed through: as dora."""
    headers = {"Authorization": basic("dora", client_password)}
    forge.allow(NAME, "dora", client_password)
    oid = at.repository.oid("main")
    replies = [await upload_pack(at, body, headers) for body in (LS_REFS, fetch_of(oid))]
    await at.upstreams.mirrors.made(at.remote)
    replies.append(await upload_pack(at, fetch_of(oid), headers))
    replies.append(await upload_pack(at, fetch_of(at.repository.oid("main~1")), headers))
    replies.append(await upload_pack(at, fetch_of("1" * 40), headers))
    at.repository.commit("refs/heads/main", 20)
    replies += [await upload_pack(at, LS_REFS, headers)]
    replies += [await upload_pack(at, fetch_of(at.repository.oid("main")), headers)]
    replies += [await ask(at.served, "GET", f"{REPOSITORY}/HEAD", headers=headers)]
    for kind in ("ls-refs", "fetch"):
        at.proxy.fault(kind, Breaks())
    at.repository.commit("refs/heads/main", 21)
    replies += [await upload_pack(at, LS_REFS, headers)]
    replies += [await upload_pack(at, fetch_of(at.repository.oid("main")), headers)]
    replies += [await upload_pack(at, fetch_of("2" * 40), headers)]
    at.proxy.heal()
    wrong = {"Authorization": basic("dora", f"{client_password}-wrong")}
    replies += [await upload_pack(at, LS_REFS, wrong)]
    at.proxy.fault("info-refs", Answers.login_page())
    replies += [await upload_pack(at, LS_REFS, {"Authorization": bearer(client_password)})]
    return replies


async def test_a_credential_leaves_no_trace(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a password nor its base64 is in memory, files, logs, answers or arguments."""
    caplog.set_level(logging.DEBUG)
    secrets = (
        *spellings(SECRET, "dora"),
        *spellings(f"{SECRET}-wrong", "dora"),
    )
    calls = Calls.make(tmp_path / "calls")
    with calls.on_path():
        at = await private(serve, proxy, forge, tmp_path)
    access = listen_to_access(at.served)
    replies = await _all_that_can_happen(at, forge, SECRET)
    statuses = {reply.status for reply in replies}
    assert {200, 401, 503} <= statuses, statuses
    for reply in replies:
        said = reply.body + repr(reply.headers).encode()
        assert not any(secret in said for secret in secrets), said
    assert b"--config-env" in calls.words()
    for written in (calls.words(), access.getvalue().encode(), caplog.text.encode()):
        assert written
        assert not any(secret in written for secret in secrets)
    assert at.mirror.is_dir()
    assert in_files(at.served.settings.data, secrets) == []
    assert in_memory(at.served.runtime, secrets) == []
    # What does keep it is found.
    at.upstreams.views._known["x", "y"] = headers = {"z": basic("dora", SECRET)}  # type: ignore[assignment]
    assert len(in_memory(at.served.runtime, secrets)) == 1
    assert headers
    (at.mirror / "left").write_text(SECRET)
    assert in_files(at.served.settings.data, secrets) == [at.mirror / "left"]


async def test_who_waited_in_vain_leaves_no_trace(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """While one user's update of the mirror runs another waits, and is passed through at last."""
    at = await private(serve, proxy, forge, tmp_path, max_wait="50ms")
    forge.allow(NAME, "dora", SECRET)
    await mirrored(at)
    oid = at.repository.commit("refs/heads/main", 20)
    held = Holds()
    at.proxy.fault("fetch", held, times=1)
    dora = {"Authorization": basic("dora", SECRET)}
    for headers in (shown("ann"), dora):
        assert oid in refs_of(await upload_pack(at, LS_REFS, headers)).values()
    anns = asyncio.create_task(upload_pack(at, fetch_of(oid), shown("ann")))
    await held.held()
    reply = await upload_pack(at, fetch_of(oid), dora)
    assert reply.status == 200
    held.release()
    assert (await anns).status == 200
    await at.updated()
    assert in_memory(at.served.runtime, spellings(SECRET, "dora")) == []


async def test_credentials_in_the_url_of_a_clone_are_not_kept(
    at: Scene, forge: Forge, caplog: pytest.LogCaptureFixture
) -> None:
    """`git clone http://user:password@here/...` works, and nothing of it is logged or stored."""
    caplog.set_level(logging.DEBUG)
    access = listen_to_access(at.served)
    forge.allow(NAME, "dora", SECRET)
    await mirrored(at)
    url = at.url.replace("://", f"://dora:{SECRET}@")
    done = await clone(anonymous(at.directory), url, at.directory / "clone")
    assert done.well, done.finished.stderr
    assert done.packs
    # Somebody takes us for a proxy, and one who writes it into the path.
    for target in (url, f"{PREFIX}http://dora:{SECRET}@forge/{NAME}/info/refs"):
        reply = await converse(at.served, head("GET", target))
        assert SECRET.encode() not in reply.body
    secrets = spellings(SECRET, "dora")
    for written in (access.getvalue(), caplog.text):
        assert written
        assert not any(secret in written.encode() for secret in secrets)
    assert in_files(at.served.settings.data, secrets) == []
    assert in_memory(at.served.runtime, secrets) == []
    assert all(SECRET not in location for location in done.packs.values())


async def test_a_password_that_was_changed_opens_nothing(at: Scene, forge: Forge) -> None:
    """A yes is remembered for the header that it was said to, not for the user."""
    later = at.tell_time()
    await mirrored(at)
    assert (await same(at, user(at, "ann"), "before")).packs
    later(1)
    forge.allow(NAME, "ann", "a new one")
    assert not (await clone(user(at, "ann"), at.url, at.directory / "old")).well
    new = await clone(user(at, "ann", "a new one"), at.url, at.directory / "new")
    assert new.well
    assert new.packs
