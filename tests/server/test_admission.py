# Law of this file: what is too much is refused in words that stock clients show, and what is at
# hand is never refused.

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from redirects.locality import Whereabouts
from server.admission import Busy, Gate, Places, Runs
from tests.conftest import Git, Serve, Served
from tests.hg.versions import V1, environment, executable, hg
from tests.repos.hg_serving import make_seed
from tests.server.asking import (
    ask,
    listen_to_access,
    make_repository,
    occupied,
    pack,
    post,
    run_git,
    want,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one repository, ``p.git``."""
    root = tmp_path / "root"
    root.mkdir()
    make_repository(root / "p.git", {"noise": os.urandom(300_000)})
    return root


def tip(root: Path) -> str:
    """The commit of ``p.git``."""
    return run_git("rev-parse", "main", cwd=root / "p.git")


def refusals(served: Served, reason: str) -> float:
    """How many requests were refused for it."""
    return served._samples("offramp_refused_total").get((("reason", reason),), 0.0)


# --- runs ----------------------------------------------------------------------------------------


def test_runs_wait_up_to_a_bound() -> None:
    """One runs, two wait, the fourth is refused; one that has ended leaves its place."""
    release = threading.Event()
    with Runs(1, 2, "run") as runs:
        first, second, third = (runs.submit(release.wait) for _ in range(3))
        with pytest.raises(Busy, match="try again in 10 s"):
            runs.submit(release.wait)
        assert third.cancel()
        fourth = runs.submit(release.wait)
        release.set()
        assert first.result()
        assert second.result()
        assert fourth.result()
    with pytest.raises(RuntimeError):
        runs.submit(release.wait)


async def test_places_wait_up_to_a_bound() -> None:
    """The same for programs that answer one client each; who gives up waiting leaves its place."""
    places = Places(1, 1)
    async with places:
        waiting = asyncio.create_task(places.__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await places.__aenter__()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        waiting = asyncio.create_task(places.__aenter__())
        await asyncio.sleep(0)
    await waiting
    await places.__aexit__()


async def test_a_fetch_beyond_the_queue(serve: Serve, root: Path, git: Git, tmp_path: Path) -> None:
    """A fetch that needs a run is answered 503; one that is at hand is answered all the same."""
    served = await serve(root, limits={"programs": 1, "queue": 1})
    known = await post(served, "p.git", want(tip(root)))
    assert len(pack(known.body)) > 300_000
    async with occupied(served):
        again = await post(served, "p.git", want(tip(root)))
        assert pack(again.body) == pack(known.body)
        shallow = want(tip(root)).replace(b"0009done", b"000cdeepen 10009done")
        refused = await post(served, "p.git", shallow)
        assert (refused.status, refused.headers["retry-after"]) == (503, "10")
        assert refused.body == b"The server is too busy; try again in 10 s.\n"
        cloned = await git(
            "clone", "--depth=1", f"{served.url}/p.git", tmp_path / "clone", check=False
        )
        assert cloned.status == 128
        assert "HTTP 503" in cloned.stderr
    assert refusals(served, "queue") == 2
    assert served.outcomes()["error"] == 2
    await git("clone", "--depth=1", f"{served.url}/p.git", tmp_path / "later")


async def test_mercurial_beyond_the_queue(serve: Serve, tmp_path: Path) -> None:
    """Stock Mercurial prints the reason, and when to come again."""
    version = V1[-1]
    root = tmp_path / "root"
    root.mkdir()
    seed = make_seed(tmp_path)
    seed.path.rename(root / "r")
    program = str(executable(version))
    served = await serve(root, limits={"programs": 1, "queue": 0}, hg={"program": program})

    async def clone(name: str, *args: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(*hg(version), "clone", "-q", *args, f"{served.url}/r", tmp_path / name),
            env=environment(tmp_path),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        return process.returncode, said.decode()

    assert await clone("first") == (0, "")
    async with occupied(served):
        assert await clone("again") == (0, "")
        assert await clone("older", "--rev", seed.before) == (
            255,
            "abort: HTTP Error 503: The server is too busy; try again in 10 s\n",
        )
    assert await clone("older", "--rev", seed.before) == (0, "")


# --- rates ---------------------------------------------------------------------------------------


def test_a_client_is_an_address_or_a_network() -> None:
    """Of IPv6 all addresses of a /56 are one client; of IPv4 each is one."""
    gate = Gate()
    first = Whereabouts("192.0.2.1", "192.0.2.0/24")
    assert gate.wait(first, 1.0, 1, 0.0) == 0.0
    assert gate.wait(first, 1.0, 1, 0.0) == 1.0
    assert gate.wait(first, 0.0, 1, 0.0) == 0.0
    assert gate.wait(Whereabouts("192.0.2.2", "192.0.2.0/24"), 1.0, 1, 0.0) == 0.0
    assert gate.wait(Whereabouts("2001:db8::1", "2001:db8::/56"), 1.0, 1, 0.0) == 0.0
    assert gate.wait(Whereabouts("2001:db8::2", "2001:db8::/56"), 1.0, 1, 0.0) == 1.0


async def test_too_many_requests(serve: Serve, root: Path, git: Git, tmp_path: Path) -> None:
    """They are answered 429, and git prints why; whoever watches the server is not refused."""
    served = await serve(root, limits={"rate": 0.001, "burst": 1})
    assert (await ask(served, "GET", "/p.git/info/refs?service=git-upload-pack")).status == 200
    cloned = await git("clone", f"{served.url}/p.git", tmp_path / "clone", check=False)
    assert cloned.status == 128
    assert "remote: Too many requests from your address; try again in " in cloned.stderr
    assert "error: 429" in cloned.stderr
    for path in ("livez", "readyz"):
        assert (await ask(served, "GET", f"/-/{path}")).status == 200
    assert refusals(served, "rate") == 1
    # Figures cost more than an answer, and by default everybody may read them.
    assert (await ask(served, "GET", "/-/metrics")).status == 429


async def test_operators_read_figures_at_any_rate(serve: Serve, root: Path) -> None:
    """Whoever is named as operator is not refused the figures when he is needed most."""
    served = await serve(
        root, limits={"rate": 0.001, "burst": 1}, access={"operators": ["127.0.0.1"]}
    )
    target = "/p.git/info/refs?service=git-upload-pack"
    assert [(await ask(served, "GET", target)).status for _ in range(2)] == [200, 429]
    assert (await ask(served, "GET", "/-/metrics")).status == 200


async def test_figures_keep_nobody_waiting(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While they are put together, once for all who ask, others are answered."""
    served = await serve(root)
    begun, release = threading.Event(), threading.Event()
    runs = []

    def render() -> tuple[bytes, str]:
        runs.append(1)
        begun.set()
        release.wait()
        return b"figures", "text/plain"

    monkeypatch.setattr(served.runtime.metrics.rendered, "work", render)
    first = asyncio.create_task(ask(served, "GET", "/-/metrics"))
    await asyncio.to_thread(begun.wait)
    assert (await ask(served, "GET", "/p.git/info/refs?service=git-upload-pack")).status == 200
    more = [asyncio.create_task(ask(served, "GET", "/-/metrics")) for _ in range(5)]
    await ask(served, "GET", "/-/livez")
    release.set()
    assert [reply.body for reply in await asyncio.gather(first, *more)] == [b"figures"] * 6
    assert len(runs) <= 2


async def test_behind_a_proxy_of_ours(serve: Serve, root: Path) -> None:
    """Clients are told apart by the address that a proxy of ours names."""
    served = await serve(
        root, limits={"rate": 0.001, "burst": 1}, regions={"proxies": ["127.0.0.1"]}
    )

    async def status(client: str) -> int:
        target = "/p.git/info/refs?service=git-upload-pack"
        return (await ask(served, "GET", target, headers={"X-Forwarded-For": client})).status

    said = [await status(client) for client in ("192.0.2.1", "192.0.2.2", "192.0.2.1")]
    assert said == [200, 200, 429]


# --- the log -------------------------------------------------------------------------------------


async def test_the_log_tells_what_was_decided(
    serve: Serve, root: Path, git: Git, tmp_path: Path
) -> None:
    """A fetch's line has its decision, and how many bytes were named by a location."""
    served = await serve(root, log={"format": "json"})
    lines = listen_to_access(served)
    await git(*("-c", "fetch.uriProtocols=http", "clone", f"{served.url}/p.git", tmp_path / "sent"))
    await git("clone", f"{served.url}/p.git", tmp_path / "inline")
    told = [line for line in await lines.until(7) if '"command": "fetch"' in line]
    assert '"decision": "self", "redirected": 30' in told[0]
    assert '"decision": "client_accepts_none", "redirected": 0}' in told[1]
