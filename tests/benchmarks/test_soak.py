# Law of this file: a soak finds what it is there to find: each excuse is given to whom it is due
# alone, a wrong clone is seen, what grows is told from what does not; and a short one runs.

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks import soak, soak_scene
from benchmarks.repository import generate
from benchmarks.servers import environment
from benchmarks.soak_checks import BLOBLESS, FULL, SHALLOW, Shape, check_git
from benchmarks.soak_clients import Told, Try
from benchmarks.soak_judge import INTERVAL, Cause, Tally
from benchmarks.soak_memory import Sample, Samples, slope
from benchmarks.soak_origin import GitOrigin, History
from benchmarks.soak_programs import HUNG, Ran, run, told
from benchmarks.soak_proxy import CUT, Fault, Proxy
from benchmarks.soak_troubles import Trouble, Troubles, What
from tests.hg import versions

PORT = 4711
BROKEN = "fatal: early EOF"
BODY = bytes(4 * CUT)


def tried(
    said: str = BROKEN, *, at: float | None = None, status: int = 128, old: bool = False
) -> Try:
    """A client that failed after 10 s, and was told a location at a moment."""
    named = () if at is None else (Told(PORT, at),)
    return Try("client", Ran(status, "", said, 100.0, 110.0), named, old=old)


KILL = Trouble(What.KILL, 105.0, 105.0)
FORCED = Trouble(What.FORCED, 105.0, 106.0)
STORE = Trouble(What.STORE, 100.0, 110.0)


def dead(began: float, *, unseen: bool = False) -> Trouble:
    """A target that failed from a moment on."""
    return Trouble(What.FILES, began, 200.0, unseen=unseen)


# --- judging ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "client", "cause"),
    [
        ([KILL], tried(), Cause.KILLED),
        ([], tried(), Cause.NONE),
        ([STORE], tried(), Cause.NONE),
        ([KILL], tried("fatal: bad object"), Cause.NONE),
        ([Trouble(What.KILL, 99.0, 99.0)], tried(), Cause.NONE),
        ([FORCED], tried("not our ref", old=True), Cause.MOVED),
        ([FORCED], tried("not our ref"), Cause.NONE),
        ([], tried("not our ref", old=True), Cause.NONE),
        ([dead(106.0)], tried(at=105.0), Cause.CUT_OFF),
        ([dead(106.0)], tried(), Cause.NONE),
        ([dead(105.0 - INTERVAL / 2)], tried(at=105.0), Cause.JUST_DIED),
        ([dead(105.0 - 2 * INTERVAL)], tried(at=105.0), Cause.DEAD),
        ([dead(105.0 - 2 * INTERVAL, unseen=True)], tried(at=105.0), Cause.DECEIVED),
        ([KILL], tried(status=HUNG), Cause.HUNG),
    ],
)
def test_excuses(done: list[Trouble], client: Try, cause: Cause) -> None:
    """Only what was done to this client, while it ran, explains its failure."""
    tally = Tally(Troubles(done), {PORT: What.FILES})
    assert tally.judge(client)
    assert [failure.cause for failure in tally.failures] == [cause]


def test_second_tries() -> None:
    """One that comes through is counted; who fails for no reason again is left alone."""
    tally = Tally(Troubles([KILL]), {})
    assert tally.judge(tried())
    assert not tally.judge(tried(status=0), tried())
    assert tally.rescued == 1
    assert not tally.judge(tried("fatal: bad object"), tried())
    assert tally.count(Cause.NONE, again=True) == 1


def test_the_same_fault_twice() -> None:
    """Who tries again and meets another fault is not who was sent to the same dead one again."""
    tally = Tally(Troubles([dead(90.0), dead(300.0)]), {PORT: What.FILES})
    tally.judge(tried(at=105.0), tried(at=101.0))
    later = Try("client", Ran(128, "", BROKEN, 299.0, 305.0), (Told(PORT, 299.5),))
    tally.judge(later, tried(at=101.0))
    assert [failure.same for failure in tally.failures] == [True, False]


def test_what_a_ref_could_have_been() -> None:
    """Its value of before until it surely is another, and the new one from when it may be."""
    history = History()
    history.are({"main": "a"})
    began = time.time()
    history.may_become({"main": "b"})
    meanwhile = time.time()
    history.are({"main": "b"})
    later = time.time()
    assert history.could_be("main", "a", began, began)
    assert not history.could_be("main", "b", began - 1, began - 1)
    assert all(history.could_be("main", value, meanwhile, meanwhile) for value in "ab")
    assert not history.could_be("main", "a", later + 1, later + 1)
    assert history.could_be("main", "a", meanwhile, later + 1)
    assert not history.could_be("other", "a", began, later)
    assert history.could_be("other", "", began, later)


# --- wrong clones ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that is cloned."""
    path = tmp_path_factory.mktemp("root") / "repository.git"
    generate(path, 12)
    return path


@pytest.fixture
async def origin(path: Path, tmp_path: Path) -> GitOrigin:
    """What is known of it."""
    origin = GitOrigin(path, environment(tmp_path / "home"))
    await origin.look()
    await origin.git("config", "uploadpack.allowFilter", "true")
    return origin


async def clone(origin: GitOrigin, here: Path, *options: str) -> Ran:
    """A clone of it, by stock git alone."""
    words = ("git", "clone", "--bare", *options, origin.path.as_uri(), "clone")
    ran = await run(words, here, origin.environ)
    assert ran.status == 0, ran.said
    return ran


@pytest.mark.parametrize(
    ("options", "shape"),
    [((), FULL), (("--depth=1",), SHALLOW), (("--filter=blob:none",), BLOBLESS)],
)
async def test_right_clones(
    origin: GitOrigin, tmp_path: Path, options: tuple[str, ...], shape: Shape
) -> None:
    """Nothing is wrong with what stock git's own server gives."""
    ran = await clone(origin, tmp_path, *options)
    assert not await check_git(origin, tmp_path / "clone", shape, ran)


async def test_wrong_clones(origin: GitOrigin, tmp_path: Path) -> None:
    """What is missing, what is too much, and what was never so is each found."""
    ran = await clone(origin, tmp_path, "--depth=1")
    place = tmp_path / "clone"
    some_refs = Shape(whole=False)
    assert "objects are missing" in await check_git(origin, place, some_refs, ran)
    assert "refs/heads/topic=None" in await check_git(origin, place, FULL, ran)
    other = "1" * 40
    assert "asked for" in await check_git(origin, place, SHALLOW, ran, commit=other)
    await told(("git", "hash-object", "-w", "--stdin"), place, origin.environ, b"from elsewhere")
    assert "not the origin's" in await check_git(origin, place, SHALLOW, ran)
    await told(("git", "update-ref", "refs/heads/new", "main"), place, origin.environ)
    assert "never had" in await check_git(origin, place, SHALLOW, ran)


# --- what is measured, and what fails --------------------------------------------------------


def test_growth_is_told_from_a_moment() -> None:
    """A line is its slope; one large answer is no growth, and neither is one sample."""
    assert slope([(t, 3.0 * t) for t in range(20)]) == pytest.approx(3)
    assert slope([(t, 900.0 if t == 15 else 5.0) for t in range(20)]) == 0
    assert slope([(1.0, 5.0)]) == 0


def test_what_comes_in_steps_is_told_from_the_beginning() -> None:
    """A step has no slope, and is a rise all the same; one large answer is none."""

    def risen(*memory: int) -> float:
        samples = Samples({1: [Sample(float(at), each, 0) for at, each in enumerate(memory)]})
        return samples.risen(1)

    assert risen(*[5] * 50, 900, *[25] * 49) == 20
    assert risen(*[5] * 98, 900, 5) == 0
    assert risen(5) == risen() == 0


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy in front of a server that says much."""

    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(BODY)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(says, "127.0.0.1", 0) as server:
        proxy = Proxy(server.sockets[0].getsockname()[1])
        await proxy.start()
        yield proxy
        await proxy.close()


async def asked(proxy: Proxy) -> tuple[bytes, bool]:
    """What came, and whether it came to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    came = b""
    try:
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        while piece := await reader.read(1 << 16):
            came += piece
    except OSError:
        return came, False
    finally:
        writer.close()
    return came, True


async def test_a_proxy_fails_as_it_is_told(proxy: Proxy) -> None:
    """In each way, and as long as it is told; before and after, all passes as it is."""
    assert await asked(proxy) == (BODY, True)
    async with proxy.failing(Fault.REFUSES):
        with pytest.raises(ConnectionRefusedError):
            await asked(proxy)
    async with proxy.failing(Fault.ERRORS):
        came, _ = await asked(proxy)
        assert came.startswith(b"HTTP/1.1 500 ")
    async with proxy.failing(Fault.TRUNCATES):
        came, whole = await asked(proxy)
        assert (len(came) <= CUT, whole) == (True, False)
    async with proxy.failing(Fault.HANGS):
        asking = asyncio.create_task(asked(proxy))
        done, _ = await asyncio.wait([asking], timeout=0.1)
        assert not done
    assert await asking == (b"", False)
    assert await asked(proxy) == (BODY, True)


# --- all of it -------------------------------------------------------------------------------


@pytest.mark.nginx
async def test_a_short_soak(tmp_path: Path) -> None:
    """Stock clients get through some seconds of everything, and all goals are reached."""
    for version in soak.QUICK.mercurials:
        versions.hg(version)
    absent = soak_scene.missing()
    if absent is not None:
        pytest.skip(absent)
    result = await soak.soak(tmp_path, soak.QUICK, 6.0, 1, 2, lambda _: None)
    assert [goal.name for goal in result.goals() if not goal.reached] == [], result
    assert result.troubles[What.KILL.value]
    assert result.troubles[What.PUSH.value]
    assert len(result.runs) > 8
    assert sum(result.redirected.values())


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who lacks a program is told in one line, and what makes no sense is refused."""
    monkeypatch.setattr(soak_scene, "missing", lambda: "nginx is missing")
    for arguments in ([], ["--minutes", "0"]):
        with pytest.raises(SystemExit) as ended:
            soak.main(arguments)
        assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "nginx is missing" in said
    assert "--minutes must be more than 0" in said
