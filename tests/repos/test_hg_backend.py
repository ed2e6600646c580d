# Law of this file: there is an `hg serve` when it is needed, whatever happens to it, and none when
# it is not; nobody but us can ask it, and it does nothing that it was not told to.

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from repos.hg.backend import Backend, BackendFailed, BackendLimits, State
from repos.hg.backend_conf import Premises
from repos.hg.peer import Peer, PeerFailed, PeerRefused
from repos.hg.program import Hg
from tests.hg.versions import hg, output
from tests.repos.hg_replay import stock
from tests.repos.hg_serving import BUNDLECAPS, NEWEST, VERSIONS, Seed, make_seed, parts
from tests.repos.test_hg_program import program
from tests.repos.test_program import alive

AT_ONCE = BackendLimits(again=0.0)
NEVER_AGAIN = BackendLimits(again=3600.0)

# For what must not hang; nothing waits this long.
PATIENCE = 60

Start = Callable[..., Backend]


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    """A small repository, to be copied."""
    return make_seed(tmp_path_factory.mktemp("seed"))


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Backends that are closed at the end, and must leave nothing then."""
    backends: list[Backend] = []
    place = tmp_path / "private"

    def make(
        given: Hg | None = None,
        *,
        push: bool = False,
        limits: BackendLimits = AT_ONCE,
    ) -> Backend:
        backends.append(Backend(given or stock(tmp_path, NEWEST), place, push=push, limits=limits))
        return backends[-1]

    yield make
    for backend in backends:
        await backend.close()
    assert not place.exists() or not list(place.iterdir())
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def call(url: str, command: str = "heads", **arguments: bytes) -> bytes:
    """Ask what a client asks."""
    named = {name.encode(): value for name, value in arguments.items()}
    return await asyncio.to_thread(Peer(url).call, command, named)


async def bundle(url: str, **arguments: bytes) -> bytes:
    """A whole bundle."""

    def read() -> bytes:
        named = {name.encode(): value for name, value in arguments.items()}
        with Peer(url).stream("getbundle", {b"bundlecaps": BUNDLECAPS, **named}) as pieces:
            return b"".join(pieces)

    return await asyncio.to_thread(read)


async def ended(backend: Backend) -> None:
    """Wait until a program is gone, and what is to be done about it is done."""
    assert backend._run is not None
    await asyncio.wrap_future(backend._run.program.ended)


def secret_of(backend: Backend) -> str:
    """What nobody may see."""
    assert backend._run is not None
    return backend._run.premises.secret


# --- it serves -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_repositories(tmp_path: Path, seed: Seed, version: str) -> None:
    """Repositories in any directory are answered from, also one that was made after the start."""
    root = tmp_path / 'a "b", c\\" \N{GREEK SMALL LETTER ALPHA} #'
    backend = Backend(stock(tmp_path, version), root / "data", push=False)
    try:
        one, two = (seed.sow(root / name) for name in ("one", "deep/er/two"))
        for hg_dir in (one, two):
            url = await backend.url(hg_dir)
            assert await call(url) == seed.tip + b"\n"
            answer = await bundle(url, heads=seed.tip, common=b"0" * 40, cg=b"1")
            assert b"changegroup" in parts(answer)
        pid = backend.pid
        output(hg(NEWEST), root, "init", "three")
        assert await call(await backend.url(root / "three" / ".hg")) == b"0" * 40 + b"\n"
        assert backend.pid == pid
    finally:
        await backend.close()
    assert list((root / "data").iterdir()) == []


async def test_questions_right_after_the_start(tmp_path: Path, seed: Seed, start: Start) -> None:
    """All that come together are answered, whatever of hg is being loaded then."""
    hg_dir = seed.sow(tmp_path / "one")
    url = await start().url(hg_dir)
    asked = (bundle(url, heads=seed.tip, common=b"0" * 40, cg=b"1") for _ in range(8))
    assert len(set(await asyncio.gather(*asked))) == 1


async def test_a_repository_that_is_gone(tmp_path: Path, seed: Seed, start: Start) -> None:
    """It is not found; all others are answered from as before."""
    gone, stays = seed.sow(tmp_path / "gone"), seed.sow(tmp_path / "stays")
    backend = start()
    await call(await backend.url(gone))
    shutil.rmtree(gone.parent)
    with pytest.raises(PeerRefused) as refused:
        await call(await backend.url(gone))
    assert refused.value.status == 404
    assert await call(await backend.url(stays)) == seed.tip + b"\n"


async def test_nobody_else_can_ask(tmp_path: Path, seed: Seed, start: Start) -> None:
    """Who does not know the secret finds nothing, and no list of processes tells it."""
    backend = start()
    url = await backend.url(seed.sow(tmp_path / "one"))
    place = urlsplit(url)
    _, secret, rest = place.path.split("/", 2)
    assert secret == secret_of(backend)
    for path in ("", f"/{rest}", f"/x{secret[1:]}/{rest}"):
        with pytest.raises(PeerRefused) as refused:
            await call(f"http://{place.netloc}{path}")
        assert refused.value.status == 404
    (conf,) = (tmp_path / "private").glob("*/*.conf")
    assert secret in conf.read_text()
    assert conf.stat().st_mode & 0o777 == 0o600
    assert conf.parent.stat().st_mode & 0o777 == 0o700
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert secret.encode() not in process.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


async def test_what_a_repository_says_of_its_readers(
    tmp_path: Path, seed: Seed, start: Start
) -> None:
    """Hgweb refuses those that it cannot know; secret changesets are for nobody in any case."""
    closed = seed.sow(tmp_path / "closed", "[web]\ndeny_read = *\n")
    open_ = seed.sow(tmp_path / "open", "[web]\nview = all\n")
    output(hg(NEWEST), open_.parent, "phase", "--secret", "--force", "tip")
    backend = start()
    with pytest.raises(PeerRefused) as refused:
        await call(await backend.url(closed))
    assert (refused.value.status, refused.value.text) == (401, "read not authorized")
    assert await call(await backend.url(open_)) == seed.before + b"\n"


async def pushed(seed: Seed, url: str) -> tuple[int, str, bytes]:
    """Push a bookmark: status and reason of HTTP, and the answer."""

    def ask() -> tuple[int, str, bytes]:
        place = urlsplit(url)
        fields = {"namespace": "bookmarks", "key": "new", "old": "", "new": seed.tip.decode()}
        said = urlencode(fields)
        headers = {"X-HgArgs-Post": str(len(said)), "Content-Type": "application/mercurial-0.1"}
        connection = HTTPConnection(place.netloc)
        try:
            connection.request("POST", f"{place.path}?cmd=pushkey", said, headers)
            response = connection.getresponse()
            return response.status, response.reason, response.read()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("version", VERSIONS)
async def test_pushes(tmp_path: Path, seed: Seed, start: Start, version: str) -> None:
    """They pass where they may; a repository's own list of people is not widened."""
    backend = start(stock(tmp_path, version), push=True)
    free = await backend.url(seed.sow(tmp_path / "free"))
    assert await pushed(seed, free) == (200, "Script output follows", b"1\n")
    assert b"new\t" + seed.tip in await call(free, "listkeys", namespace=b"bookmarks")
    for name in ("allow_push", "allow-push", "deny_push"):
        theirs = await backend.url(seed.sow(tmp_path / name, f"[web]\n{name} = alice\n"))
        assert (await pushed(seed, theirs))[:2] == (401, "push not authorized")
        assert await call(theirs, "listkeys", namespace=b"bookmarks") == b""


@pytest.mark.parametrize("version", VERSIONS)
async def test_no_pushes(tmp_path: Path, seed: Seed, start: Start, version: str) -> None:
    """Without them hgweb refuses, whatever a repository's own configuration allows."""
    hgrc = "[web]\nallow-push = *\nallow_push = *\ndeny_push =\n"
    url = await start(stock(tmp_path, version)).url(seed.sow(tmp_path / "theirs", hgrc))
    assert (await pushed(seed, url))[:2] == (401, "push not authorized")
    assert await call(url, "listkeys", namespace=b"bookmarks") == b""


# --- it comes up ---------------------------------------------------------------------------


async def test_who_comes_at_the_same_time(tmp_path: Path, seed: Seed, start: Start) -> None:
    """All share one program, also those that come when the first has gone away."""
    hg_dir = seed.sow(tmp_path / "one")
    backend = start()
    first = asyncio.create_task(backend.url(hg_dir))
    await asyncio.sleep(0)
    others = [asyncio.create_task(backend.url(hg_dir)) for _ in range(4)]
    await asyncio.sleep(0)
    lost = backend.pid
    assert lost is not None
    first.cancel()
    assert len(set(await asyncio.gather(*others))) == 1
    assert first.cancelled()
    assert not alive(lost)
    assert len(list((tmp_path / "private").iterdir())) == 1


LISTENS = "echo 'listening at http://x/ (bound to 127.0.0.1:{port})'; exec sleep 1000"
GARBAGE = {
    "ends": ("echo no such thing >&2; exit 3", "exited with 3: no such thing"),
    "is killed": ("kill -9 $$", "ended by signal 9"),
    "is no server": ("echo '<html>'; exec sleep 1000", "did not answer within"),
    "listens elsewhere": (LISTENS.format(port=1), "does not answer as hgweb does"),
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage(tmp_path: Path, start: Start, kind: str) -> None:
    """A program that is no hg is a failure that says what it did; nothing of it is left."""
    script, says = GARBAGE[kind]
    pid = tmp_path / "pid"
    given = program(tmp_path, f"echo $$ > {pid}; {script}")
    limits = BackendLimits(start=0.5, again=0.0) if kind == "is no server" else AT_ONCE
    backend = start(given, limits=limits)
    with pytest.raises(BackendFailed, match=says):
        await backend.url(tmp_path / ".hg")
    assert not alive(int(pid.read_text()))
    assert backend.state is State.IDLE


async def test_a_program_that_is_not_there(tmp_path: Path, start: Start) -> None:
    """It is named in the failure."""
    with pytest.raises(BackendFailed, match="no-hg"):
        await start(Hg(executable=str(tmp_path / "no-hg"))).url(tmp_path / ".hg")


async def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    """A failure says which, and there is another try."""
    (tmp_path / "file").touch()
    backend = Backend(Hg(), tmp_path / "file", push=False, limits=AT_ONCE)
    for _ in range(2):
        with pytest.raises(BackendFailed, match=r"cannot be started: .*file"):
            await backend.url(tmp_path / ".hg")
    backend = Backend(Hg(), tmp_path / "a\nb", push=False, limits=AT_ONCE)
    with pytest.raises(BackendFailed, match="line break"):
        await backend.url(tmp_path / ".hg")
    assert list((tmp_path / "a\nb").iterdir()) == []


async def test_the_secret_is_in_no_message(tmp_path: Path, start: Start) -> None:
    """What the program says is told without it."""
    given = program(tmp_path, f"cp $3 {tmp_path}/conf; cat $3 >&2; exit 1")
    with pytest.raises(BackendFailed, match="prefix = /<secret>") as failed:
        await start(given).url(tmp_path / ".hg")
    secret = (tmp_path / "conf").read_text().split("prefix = /")[1].split("\n")[0]
    assert len(secret) > 40
    assert secret not in str(failed.value)


async def test_it_is_not_tried_again_at_once(tmp_path: Path, start: Start) -> None:
    """Within a moment after a failure all are told of that one."""
    given = program(tmp_path, f"echo x >> {tmp_path}/starts; exit 3")
    backend = start(given, limits=NEVER_AGAIN)
    for _ in range(3):
        with pytest.raises(BackendFailed, match="exited with 3"):
            await backend.url(tmp_path / ".hg")
    assert (tmp_path / "starts").read_text() == "x\n"


# --- it ends -------------------------------------------------------------------------------


async def test_killed(
    tmp_path: Path, seed: Seed, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """An end is noticed and logged, and the next question starts a new program."""
    hg_dir = seed.sow(tmp_path / "one")
    backend = start()
    before = await backend.url(hg_dir)
    pid = backend.pid
    assert pid is not None
    secret = secret_of(backend)
    os.kill(pid, signal.SIGKILL)
    await ended(backend)
    assert backend.state is State.IDLE
    assert f"hg serve (process {pid}) was ended by signal 9" in caplog.text
    assert secret not in caplog.text
    with pytest.raises(PeerFailed, match="no connection"):
        await call(before)
    assert await call(await backend.url(hg_dir)) == seed.tip + b"\n"
    assert backend.pid != pid


async def test_killed_right_after_its_start(tmp_path: Path, seed: Seed, start: Start) -> None:
    """A program that ends as soon as it has begun is not started all the time."""
    hg_dir = seed.sow(tmp_path / "one")
    backend = start(limits=NEVER_AGAIN)
    await backend.url(hg_dir)
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGTERM)
    await ended(backend)
    with pytest.raises(BackendFailed, match=r"exited with 255|ended by signal 15"):
        await backend.url(hg_dir)


async def test_suspected(tmp_path: Path, seed: Seed, start: Start) -> None:
    """A program that answers is left alone; one that hangs is ended, and there is a new one."""
    hg_dir = seed.sow(tmp_path / "one")
    backend = start(limits=NEVER_AGAIN)
    await backend.suspect()
    await backend.url(hg_dir)
    pid = backend.pid
    assert pid is not None
    await backend.suspect()
    assert backend.pid == pid
    backend._limits = BackendLimits(probe=0.1, again=3600.0)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.gather(backend.suspect(), backend.suspect())
    assert not alive(pid)
    assert backend.state is State.IDLE
    backend._limits = NEVER_AGAIN
    assert await call(await backend.url(hg_dir)) == seed.tip + b"\n"


async def test_its_files_are_gone(tmp_path: Path, seed: Seed, start: Start) -> None:
    """Suspected, a program that has lost its configuration is replaced."""
    hg_dir = seed.sow(tmp_path / "one")
    backend = start()
    url = await backend.url(hg_dir)
    shutil.rmtree(tmp_path / "private")
    with pytest.raises(PeerFailed, match="status 500"):
        await call(url)
    await backend.suspect()
    assert await call(await backend.url(hg_dir)) == seed.tip + b"\n"


async def test_closed(tmp_path: Path, seed: Seed, start: Start) -> None:
    """There is no program any more, nor will there be; closing twice is closing once."""
    hg_dir = seed.sow(tmp_path / "one")
    backend = start()
    await backend.url(hg_dir)
    pid = backend.pid
    assert pid is not None
    await backend.close()
    assert not alive(pid)
    await backend.close()
    await backend.suspect()
    with pytest.raises(BackendFailed, match="this server stops"):
        await backend.url(hg_dir)


async def test_closed_while_it_is_stopped(tmp_path: Path, seed: Seed, start: Start) -> None:
    """A program that somebody stopped goes on, to hear that it is to end."""
    backend = start(limits=BackendLimits(stop=3600.0))
    await backend.url(seed.sow(tmp_path / "one"))
    pid = backend.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE):
        await backend.close()
    assert not alive(pid)


async def test_closed_while_it_starts(tmp_path: Path, start: Start) -> None:
    """Who waits for the start is told."""
    backend = start(program(tmp_path, "exec sleep 1000"))
    waiting = asyncio.create_task(backend.url(tmp_path / ".hg"))
    await asyncio.sleep(0)
    pid = backend.pid
    assert pid is not None
    await backend.close()
    with pytest.raises(BackendFailed):
        await waiting
    assert not alive(pid)


async def test_a_program_that_does_not_want_to_end(tmp_path: Path, seed: Seed) -> None:
    """It is ended with what it has started."""
    real = stock(tmp_path, NEWEST)
    script = f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/child; {real.executable} \"$@\""
    given = Hg(environ=real.environ, executable=program(tmp_path, script).executable)
    limits = BackendLimits(stop=0.2)
    backend = Backend(given, tmp_path / "private", push=False, limits=limits)
    await backend.url(seed.sow(tmp_path / "one"))
    pid = backend.pid
    assert pid is not None
    await backend.close()
    assert not alive(pid)
    assert not alive(int((tmp_path / "child").read_text()))


def test_a_killed_server(tmp_path: Path, seed: Seed) -> None:
    """It leaves no program behind, and its files are removed by the next one."""
    hg_dir = seed.sow(tmp_path / "one")
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from repos.hg.backend import Backend\n"
        "from repos.hg.program import Hg\n"
        "async def main():\n"
        "    backend = Backend(Hg(executable=sys.argv[1]), Path(sys.argv[2]), push=False)\n"
        "    await backend.url(Path(sys.argv[3]))\n"
        "    print(backend.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    place = tmp_path / "private"
    given = stock(tmp_path, NEWEST)
    argv = [sys.executable, "-c", code, given.executable, str(place), str(hg_dir)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        descriptor = os.pidfd_open(pid)
        living = Premises(place, push=False)
        assert len(list(place.iterdir())) == 2
        server.kill()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    gone = poll.poll(60_000)
    if not gone:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)
    assert gone, "hg serve outlives its server"
    Premises(place, push=False).remove()
    assert list(place.iterdir()) == [living.path]
    living.remove()
