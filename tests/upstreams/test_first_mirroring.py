# Law of this file: until a mirror is there, and where none may be, clients get the upstream's own
# answers; from then on locations. Who may not ask at all is told 404, and the upstream nothing.

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.upstreams.clients import checkout, clone
from tests.upstreams.faults import Answers, Holds, Proxy, Truncated
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene, speaking

pytestmark = pytest.mark.nginx

SHAPES = {"whole": (), "depth-1": ("--depth=1",), "no-blobs": ("--filter=blob:none",)}


async def test_clients_are_passed_through_while_it_runs(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """While the mirror's fetch hangs, each shape of clone is the forge's own; then redirected."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    held = Holds(after=100)
    proxy.fault("fetch", held, times=1)
    await at.begin()
    await held.held()
    for name, options in SHAPES.items():
        done = await at.same(*options, name=f"passed-{name}")
        assert not done.packs
    await at.same(name="passed-old", client=speaking(at.client, 0))
    assert not at.mirror.exists()
    held.release()
    await at.upstreams.mirrors.made(at.remote)
    proxy.forget()
    for name, options in SHAPES.items():
        assert (await at.same(*options, name=name)).packs
    assert {exchange.kind for exchange in proxy.exchanges} == {"ls-refs"}
    at.check_mirror()


async def test_what_is_pushed_while_it_runs_is_in_the_next_clone(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """The first mirroring is of the refs when it began; what lacks then is fetched after it."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    held = Holds(after=100)
    proxy.fault("fetch", held, times=1)
    await at.begin()
    await held.held()
    at.repository.commit("refs/heads/main", 20)
    at.repository.git("update-ref", "-d", "refs/heads/topic")
    assert not (await at.same(name="passed")).packs
    held.release()
    await at.upstreams.mirrors.made(at.remote)
    assert (await at.same()).packs
    at.check_mirror()


async def test_the_first_fetch_starts_it(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """The first clone is passed through, and ten at once start one mirroring."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    held = Holds(after=None)
    names = [f"clone-{number}" for number in range(10)]
    proxy.fault("fetch", held)
    clones = [asyncio.create_task(clone(at.client, at.url, at.directory / name)) for name in names]
    await held.held()
    held.release()
    for done in await asyncio.gather(*clones):
        assert done.well, done.finished.stderr
    await at.upstreams.mirrors.made(at.remote)
    for name in names:
        await at.check_same(name)
    discoveries = [e for e in proxy.seen("info-refs") if "offramp" not in e.headers["User-Agent"]]
    assert len(discoveries) == 1, "the mirror's git asks once"
    assert (await at.same(name="after")).packs


@pytest.mark.parametrize("version", [0, 2])
async def test_what_may_not_be_mirrored_is_passed_through(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path, version: int
) -> None:
    """With `mirror = []` clones are the forge's own, always, and nothing is kept of them."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path, mirror=())
    client = speaking(at.client, version)
    for number, options in enumerate((*SHAPES.values(), ())):
        assert not (await at.same(*options, name=f"{number}", client=client)).packs
    at.repository.commit("refs/heads/main", 20)
    await at.same(name="pushed", client=client)
    oid = at.repository.oid("main")
    assert (await checkout(client, at.url, oid, at.directory / "job")).well
    assert not at.mirrors_on_disk()
    assert at.served.executions() == 0


async def test_what_is_denied_is_not_there(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """In whichever spelling it is asked for, the answer is 404 and the upstream hears nothing."""
    forge.make("acme/secret.git")
    limits = {"allow": ["acme/*"], "deny": ["acme/secret*"]}
    at = await scene(serve, proxy, forge.make(NAME), tmp_path, **limits)
    assert (await at.same()).well
    proxy.forget()
    for path in ("acme/secret", "acme/secret.git", "acme/SECRET", "acme/%73ecret", "other/x"):
        for version in (0, 2):
            client = speaking(at.client, version)
            url = f"{at.served.url}/up/{path}"
            listed = await client("ls-remote", url, check=False)
            assert listed.status == 128
            assert "not found" in listed.stderr
            done = await checkout(client, url, "12" * 20, at.directory / f"v{version}")
            assert not done.well
    assert not proxy.exchanges


FAILING = {
    "refused": Answers(500),
    "cut-short": Truncated(after=900),
    "broken": Truncated(after=900, broken=True),
    "no-pack": Truncated(after=20),
    "login-page": Answers.login_page(),
    "too-many": Answers.too_many(3),
}


@pytest.mark.parametrize("fault", FAILING.values(), ids=FAILING)
async def test_nothing_is_visible_of_one_that_failed(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path, fault: Answers | Truncated
) -> None:
    """Clients are passed through as before; it is tried again after a pause, not at once."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    proxy.fault("fetch", fault)
    await at.begin()
    await at.upstreams.mirrors.made(at.remote)
    proxy.heal()
    assert not at.mirrors_on_disk()
    proxy.forget()
    assert not (await at.same(name="passed")).packs
    assert at.upstreams.mirrors._of(at.remote).making is None
    assert len(proxy.seen("fetch")) == 1
    _pause_is_over(at)
    assert not (await at.same(name="starts-it")).packs
    await at.upstreams.mirrors.made(at.remote)
    assert (await at.same()).packs
    at.check_mirror()


def _pause_is_over(at: Scene) -> None:
    at.upstreams.mirrors._of(at.remote).paused_until = 0.0
