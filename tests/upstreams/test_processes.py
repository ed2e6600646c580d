# Law of this file: processes may be killed at any moment, disks may be full, and several may want
# the same mirror at once: it is whole afterwards, made once, and clones are right all the while.

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.processes import Offramp, Running
from tests.conformance.repositories import run_git
from tests.upstreams.faults import Holds, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.machine import MADE, Gathers, Machine, ended, gits_of
from tests.upstreams.scene import NAME

pytestmark = pytest.mark.nginx

# A git whose fetches, while the file `full` is there, cannot write what is larger than a block; it
# is told so by write(2), as on a full disk.
FULL = """#!/bin/sh
case " $* " in
*" fetch "*) if [ -e {here}/full ]; then trap '' XFSZ; ulimit -f 1; fi ;;
esac
exec {real} "$@"
"""


@pytest.fixture
async def machine(proxy: Proxy, forge: Forge, tmp_path: Path) -> AsyncIterator[Machine]:
    """It; what still runs after the test is killed."""
    offramp = Offramp(tmp_path / "data")
    yield Machine(offramp, proxy, forge.make(NAME), tmp_path)
    await offramp.close()


async def _killed(machine: Machine, server: Running, *, git: bool) -> None:
    await server.kill()
    if git:
        gits = gits_of(machine.offramp.data)
        assert gits
        for pid in gits:
            os.kill(pid, signal.SIGKILL)


KILLS = pytest.mark.parametrize("git", [True, False], ids=["with-its-git", "alone"])
CUTS = pytest.mark.parametrize("after", [0, 200, 1500])


@KILLS
@CUTS
async def test_a_first_mirroring_that_is_killed(machine: Machine, after: int, git: bool) -> None:
    """Nothing of it is visible; the next server makes the mirror, and clones are right."""
    server = await machine.serve()
    held = Gathers(after=after)
    machine.proxy.fault("fetch", held)
    cloning = asyncio.create_task(machine.clone(server, "broken"))
    await held.gathered(2)  # the client's, and the mirror's
    await _killed(machine, server, git=git)
    assert not (await cloning).well
    assert not machine.mirror.exists()
    machine.proxy.heal()
    held.release()
    again = await machine.serve()
    assert not (await machine.right(again, "passed")).packs
    await again.logged(MADE)
    assert (await machine.right(again, "mirrored")).packs
    machine.check_mirror()


@KILLS
@CUTS
async def test_an_update_that_is_killed(machine: Machine, after: int, git: bool) -> None:
    """The mirror is as it was; the next server brings it up to date."""
    server = await machine.serve()
    await machine.mirrored(server)
    before = run_git(machine.mirror, "for-each-ref")
    machine.push()
    held = Holds(after=after)
    machine.proxy.fault("fetch", held, times=1)
    cloning = asyncio.create_task(machine.clone(server, "broken"))
    await held.held()
    await _killed(machine, server, git=git)
    assert not (await cloning).well
    assert run_git(machine.mirror, "for-each-ref") == before
    run_git(machine.mirror, "fsck", "--strict", "--no-dangling")
    again = await machine.serve()
    assert (await machine.right(again, "next")).packs
    machine.check_mirror()
    held.release()
    for pid in gits_of(machine.offramp.data):
        await ended(pid)
    assert (await machine.right(again, "last")).packs
    machine.check_mirror()


def _full_disk(machine: Machine) -> Path:
    """A git for the server, whose fetches find the disk full while the file is there."""
    here = machine.directory / "wrapper"
    here.mkdir()
    program = here / "git"
    program.write_text(FULL.format(here=here, real=shutil.which("git")))
    program.chmod(0o755)
    return here / "full"


async def test_a_disk_that_is_full(machine: Machine) -> None:
    """Clients are passed through; when there is room again, the mirror is made and kept up."""
    full = _full_disk(machine)
    path = f"{full.parent}{os.pathsep}{os.environ['PATH']}"
    machine.push()
    full.touch()
    server = await machine.serve(path=path)
    assert not (await machine.right(server, "full-at-first")).packs
    assert "File too large" in await server.logged("could not be mirrored")
    assert not [p for p in machine.mirror.parent.iterdir() if p.is_dir()]
    await server.kill()
    full.unlink()
    server = await machine.serve(path=path)
    await machine.mirrored(server)
    before = run_git(machine.mirror, "for-each-ref")
    machine.repository.commit("refs/heads/main", 21, other=os.urandom(8192).hex())
    full.touch()
    assert not (await machine.right(server, "full-again")).packs
    assert run_git(machine.mirror, "for-each-ref") == before
    run_git(machine.mirror, "fsck", "--strict", "--no-dangling")
    full.unlink()
    assert (await machine.right(server, "room")).packs
    machine.check_mirror()


async def test_two_processes_make_one_mirror(machine: Machine) -> None:
    """Both have clients for it at the same time: the upstream sends its content to one of them."""
    servers = [await machine.serve(), await machine.serve()]
    held = Gathers(after=None)
    machine.proxy.fault("fetch", held)
    clones = [
        asyncio.create_task(machine.clone(server, f"passed-{number}"))
        for number, server in enumerate(servers)
    ]
    await held.gathered(3)  # both clients', and a mirror's
    held.release()
    for done in await asyncio.gather(*clones):
        assert done.well, done.finished.stderr
    for number, server in enumerate(servers):
        await machine.check(f"passed-{number}")
        await server.logged(MADE)
    assert machine.fetches() == 1
    for number, server in enumerate(servers):
        assert (await machine.right(server, f"mirrored-{number}")).packs
    machine.check_mirror()


async def test_two_processes_update_one_mirror(machine: Machine) -> None:
    """Clients of both want what was just pushed: one fetch, and one pack for all."""
    servers = [await machine.serve(), await machine.serve()]
    await machine.mirrored(servers[0])
    machine.push()
    held = Holds(after=None)
    machine.proxy.fault("fetch", held, times=1)
    first = asyncio.create_task(machine.clone(servers[0], "0"))
    await held.held()
    machine.proxy.forget()
    asked = Holds(after=None)
    machine.proxy.fault("ls-refs", asked, times=1)
    second = asyncio.create_task(machine.clone(servers[1], "1"))
    await asked.held()
    asked.release()
    held.release()
    for number, done in enumerate(await asyncio.gather(first, second)):
        assert done.well, done.finished.stderr
        assert done.packs
        await machine.check(f"{number}")
    assert machine.fetches() == 0
    assert not machine.proxy.seen("fetch")
    machine.check_mirror()


async def test_workers_are_one_server(machine: Machine) -> None:
    """With two workers, ten clients of what was just pushed cost one fetch."""
    server = await machine.serve("--workers", "2")
    await machine.mirrored(server)
    machine.push()
    names = [f"{number}" for number in range(10)]
    for done in await asyncio.gather(*(machine.clone(server, name) for name in names)):
        assert done.well, done.finished.stderr
        assert done.packs
    for name in names:
        await machine.check(name)
    assert machine.fetches() == 1
    machine.check_mirror()
