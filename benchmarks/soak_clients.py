# Law of this file: clients are stock programs, set up as their users would; each tells from which
# locations it was told to download, and what it got is looked at when it says that all is well.

from __future__ import annotations

import asyncio
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from benchmarks.hg_repository import Hg
from benchmarks.soak_checks import BLOBLESS, FULL, SHALLOW, Shape, check_git, check_hg
from benchmarks.soak_origin import GitOrigin, HgOrigin
from benchmarks.soak_programs import Ran, run, told

_ACCEPTS: Final = ("fetch.uriProtocols=http,https",)
_V0: Final = ("protocol.version=0",)

# As git's trace of packets has it: the time of day, and a pack's checksum and URL.
_NAMED: Final = re.compile(
    r"^(\d\d):(\d\d):(\d\d\.\d+) .*< [0-9a-f]{40} (https?://\S+)$", re.MULTILINE
)
_APPLYING: Final = re.compile(r"applying clone bundle from (https?://\S+)")
_DAY: Final = 86400.0

# Machines of a fleet; few enough that some come back.
_MACHINES: Final = 400


@dataclass(frozen=True, slots=True)
class Told:
    """A location that a client was told.

    Attributes:
        port: of it.
        when: seconds of :func:`time.time`; for hg, when it began.
    """

    port: int
    when: float


@dataclass(frozen=True, slots=True)
class Try:
    """What came of one run of a client.

    Attributes:
        kind: of the client.
        ran: its run.
        told: locations that it was told.
        wrong: what is wrong with what it has, although it said that all is well; empty: nothing.
        old: it speaks git's protocol v0, whose requests know nothing of each other.
    """

    kind: str
    ran: Ran
    told: tuple[Told, ...] = ()
    wrong: str = ""
    old: bool = False


class Kind(Protocol):
    """One kind of client."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def turn(self) -> AbstractAsyncContextManager[object]:
        """Held by one who runs."""
        ...

    async def attempt(self, here: Path, machine: int) -> Try:
        """Run it once, in an empty directory, as one of the machines of a fleet."""
        ...


@dataclass(frozen=True, slots=True)
class Git:
    """A git client.

    Attributes:
        name: of its kind.
        server: base URL.
        origin: what it asks for.
        environ: of it.
        config: ``-c`` words.
        options: of its ``git clone --bare``.
        shape: what it should have then.
        bundles: it is given the list of bundles.
    """

    name: str
    server: str
    origin: GitOrigin
    environ: Mapping[str, str]
    config: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    shape: Shape = FULL
    bundles: bool = False

    @property
    def turn(self) -> AbstractAsyncContextManager[object]:
        """Nobody waits for another."""
        return nullcontext()

    @property
    def url(self) -> str:
        """Of its repository."""
        return f"{self.server}/{self.origin.name}"

    async def attempt(self, here: Path, machine: int) -> Try:
        """See :class:`Kind`."""
        options = list(self.options)
        if self.bundles:
            options.append(f"--bundle-uri={self.server}/-/bundles/{self.origin.name}")
        ran = await self.run(here, machine, "clone", "--bare", *options, self.url, "clone")
        return await self.judge(here, ran)

    async def run(self, here: Path, machine: int, *arguments: str | Path) -> Ran:
        """Run git as that machine; a proxy that the server believes would tell it so."""
        address = f"10.{machine >> 8}.{machine & 255}.9"
        header = f"http.{self.server}/.extraHeader=X-Forwarded-For: {address}"
        config = (word for setting in (header, *self.config) for word in ("-c", setting))
        traced = {"GIT_TRACE_PACKET": str(here / "trace"), "GIT_TRACE_REDACT": "0", "TZ": "UTC0"}
        return await run(("git", *config, *arguments), here, {**self.environ, **traced})

    async def judge(self, here: Path, ran: Ran, commit: str = "") -> Try:
        """What came of a run whose result is in ``clone``."""
        trace = here / "trace"
        named = trace.read_text(errors="replace") if trace.exists() else ""
        wrong = ""
        if not ran.status:
            wrong = await check_git(self.origin, here / "clone", self.shape, ran, commit=commit)
        old = self.config == _V0
        return Try(self.name, ran, tuple(_told(named, ran.began)), wrong, old)


@dataclass(frozen=True, slots=True)
class Checkout(Git):
    """What CI does: an empty repository, and a fetch of one commit."""

    async def attempt(self, here: Path, machine: int) -> Try:
        """See :class:`Kind`."""
        await told(("git", "init", "--quiet", "--bare", "clone"), here, self.environ)
        commit = self.origin.commits[-1]
        words = ("fetch", "--no-tags", "--depth=1", self.url, f"+{commit}:refs/remotes/origin/main")
        ran = await self.run(here, machine, "-C", "clone", *words)
        return await self.judge(here, ran, commit)


@dataclass(frozen=True, slots=True)
class Update(Git):
    """A fetch into a clone of before.

    Attributes:
        base: the clone.
    """

    base: Path = Path()

    async def attempt(self, here: Path, machine: int) -> Try:
        """See :class:`Kind`."""
        await asyncio.to_thread(shutil.copytree, self.base, here / "clone")
        specs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        ran = await self.run(here, machine, "-C", "clone", "fetch", "--prune", self.url, *specs)
        return await self.judge(here, ran)


@dataclass(frozen=True, slots=True)
class Mercurial:
    """An hg client.

    It cannot be had to say as whom it comes, so that all of them come from one address. Of each
    version there is one at a time: of two side by side that ask the same nobody could say, when one
    asks again, that it is not the other.

    Attributes:
        name: of its kind.
        server: base URL.
        origin: what it asks for.
        hg: the program.
        turn: of those of this version.
        base: a clone of before into which it pulls; None: it clones.
    """

    name: str
    server: str
    origin: HgOrigin
    hg: Hg
    turn: asyncio.Lock
    base: Path | None = None

    async def attempt(self, here: Path, machine: int) -> Try:
        """See :class:`Kind`."""
        del machine
        url = f"{self.server}/{self.origin.name}"
        if self.base is None:
            words: tuple[str | Path, ...] = ("clone", "--noupdate", url, "clone")
        else:
            await asyncio.to_thread(shutil.copytree, self.base, here / "clone")
            words = ("-R", "clone", "pull", url)
        ran = await run((*self.hg.program, *words), here, self.hg.environ)
        named = tuple(
            Told(urlsplit(url).port or 80, ran.began) for url in _APPLYING.findall(ran.said)
        )
        wrong = "" if ran.status else await check_hg(self.origin, self.hg, here / "clone", ran)
        return Try(self.name, ran, named, wrong)


def _told(trace: str, began: float) -> Iterator[Told]:
    """The locations in a trace; its times of day are those after ``began``."""
    for hours, minutes, seconds, url in _NAMED.findall(trace):
        of_day = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        yield Told(urlsplit(url).port or 80, began + (of_day - began % _DAY) % _DAY)


def git_kinds(
    server: str, live: GitOrigin, others: list[GitOrigin], environ: Mapping[str, str], base: Path
) -> list[Kind]:
    """One of each kind of git client.

    Args:
        server: base URL.
        live: what is pushed to all the time; most ask for that.
        others: repositories that stay as they are.
        environ: of git.
        base: a clone of ``live`` of before.
    """
    git = partial(Git, server=server, environ=environ)
    quiet = others[0]
    return [
        git("git clone, redirected", origin=live, config=_ACCEPTS),
        git("git clone, inline", origin=live),
        git(
            "git clone --depth=1, redirected",
            origin=live,
            config=_ACCEPTS,
            options=("--depth=1",),
            shape=SHALLOW,
        ),
        git("git clone --depth=1, inline", origin=live, options=("--depth=1",), shape=SHALLOW),
        Checkout(
            "git fetch of a commit, redirected", server, live, environ, _ACCEPTS, shape=SHALLOW
        ),
        Update("git fetch of what is new, redirected", server, live, environ, _ACCEPTS, base=base),
        Update("git fetch of what is new, inline", server, live, environ, base=base),
        git(
            "git clone, blobless, redirected",
            origin=live,
            config=_ACCEPTS,
            options=("--filter=blob:none",),
            shape=BLOBLESS,
        ),
        git("git clone with a bundle list", origin=live, bundles=True),
        git("git clone, protocol v0", origin=live, config=_V0),
        *(git("git clone, redirected", origin=each, config=_ACCEPTS) for each in others),
        git("git clone with a bundle list", origin=quiet, bundles=True),
        git("git clone, protocol v0", origin=quiet, config=_V0),
    ]


def hg_kinds(server: str, origin: HgOrigin, programs: Mapping[str, Hg], base: Path) -> list[Kind]:
    """A clone and a pull by each Mercurial of ``programs``, which are named by their versions."""
    kinds: list[Kind] = []
    for version, hg in programs.items():
        turn = asyncio.Lock()
        kinds.append(Mercurial(f"hg {version} clone", server, origin, hg, turn))
        kinds.append(Mercurial(f"hg {version} pull", server, origin, hg, turn, base))
    return kinds


Judge = Callable[[Try, Try | None], bool]
"""Told of a try, and of the one before if that failed; says whether it is to be tried again."""


@dataclass(slots=True)
class Seat:
    """Clients that follow one another.

    Attributes:
        kinds: of them, drawn as cards are, so that none is forgotten.
        here: a directory of its own.
        chance: decides.
        judge: told of each.
    """

    kinds: list[Kind]
    here: Path
    chance: random.Random
    judge: Judge
    _left: list[Kind] = field(default_factory=list)
    _number: int = 0

    async def sit(self, until: float) -> None:
        """Run clients until a moment of :func:`time.time`; the last one comes to its end."""
        while time.time() < until:
            if not self._left:
                self._left = self.chance.sample(self.kinds, k=len(self.kinds))
            await self.one(self._left.pop())

    async def one(self, kind: Kind) -> None:
        """Run a client of one kind, and again as long as the judge says so."""
        machine = self.chance.randrange(_MACHINES)
        before = None
        async with kind.turn:
            while self.judge(tried := await self._attempt(kind, machine), before):
                before = tried

    async def _attempt(self, kind: Kind, machine: int) -> Try:
        self._number += 1
        here = self.here / str(self._number)
        here.mkdir(parents=True)
        tried = await kind.attempt(here, machine)
        await asyncio.to_thread(shutil.rmtree, here, ignore_errors=True)
        return tried
