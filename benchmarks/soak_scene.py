# Law of this file: a soak runs on real servers, each a program of its own on a free port of
# loopback, and on repositories that are generated; all is gone when its `with` block ends.

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import boto3

from benchmarks import hg_repository, hg_servers, repository, servers
from benchmarks.hg_repository import Hg
from benchmarks.soak_chaos import Chaos
from benchmarks.soak_clients import Kind, git_kinds, hg_kinds
from benchmarks.soak_origin import Author, GitOrigin, HgOrigin
from benchmarks.soak_programs import ProgramFailed, run, told
from benchmarks.soak_proxy import Proxy
from benchmarks.soak_server import Serving, bucket_server, file_server
from benchmarks.soak_troubles import Troubles, What

_BUCKET: Final = "packs"
_KEYS: Final = ("AKIASOAK", "hush")

# Every size is redirected: what is looked for are faults, and small packs have as many.
_SETTINGS: Final = """\
root = "{root}"
data = "{data}"
listen = "127.0.0.1:{port}"
workers = {workers}
reuse_port = true

[git]
push = ["live.git"]

[hg]
program = "{hg}"

[index]
enabled = true
interval = "20s"
growth = 0.01

[redirect]
min_size = 0
percentage = PORTION

[regions]
proxies = ["127.0.0.0/8"]

[limits]
stop_time = "2m"

[log]
format = "json"

[store]
type = "s3"
bucket = "{bucket}"
region = "us-east-1"
endpoint = "{store}"
path_style = true
access_key_id = "{key}"
secret_access_key = "{secret}"

[[stores]]
name = "copies"
type = "directory"
path = "{copies}"

[[targets]]
type = "s3"
name = "bucket"
endpoint = "{target}"
priority = 1

[[targets]]
type = "http"
name = "files"
store = "copies"
base_url = "{files}"
priority = 1
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """How large a soak is, beside its length.

    Attributes:
        commits: of the git repository that is pushed to.
        changesets: of the Mercurial repository.
        mercurials: versions of clients.
        workers: of the server.
        restarts: when it is replaced, by the length of the soak; the second half is for what grows.
    """

    commits: int = 400
    changesets: int = 200
    mercurials: tuple[str, ...] = ("5.9.3", "6.9.5", "7.2.4")
    workers: int = 3
    restarts: tuple[float, ...] = (0.05, 0.15)


@dataclass(slots=True)
class Scene:
    """Everything that a soak runs on.

    Attributes:
        serving: the server.
        chaos: what is done to it.
        kinds: of clients.
        targets: which trouble a target of that port has.
        data: the data directory.
        temp: where the server's temporary files go.
    """

    serving: Serving
    chaos: Chaos
    kinds: list[Kind]
    targets: dict[int, What]
    data: Path
    temp: Path


@asynccontextmanager
async def scene(
    work: Path, effort: Effort, length: float, seed: int, troubles: Troubles
) -> AsyncIterator[Scene]:
    """Make it below ``work``.

    Raises:
        servers.CannotStart, ProgramFailed, HgFailed: a part of it cannot be had.
    """
    chance = random.Random(seed)
    environ = servers.environment(work / "home")
    root, data, temp = work / "root", work / "data", work / "serve" / "temp"
    for each in (root, data, temp):
        each.mkdir(parents=True)
    own = {**servers.environment(work / "serve" / "home"), "TMPDIR": str(temp)}
    programs = {each: hg_servers.mercurial(work / "home", each) for each in effort.mercurials}
    gits, hg = await asyncio.to_thread(_repositories, root, work, effort)
    async with AsyncExitStack() as stack:
        moto = free_port()
        there = bucket_server(moto, work / "moto", environ)
        stack.push_async_callback(there.kill)
        await there.start(moto)
        await asyncio.to_thread(_make_bucket, moto)
        store, bucket = Proxy(moto), Proxy(moto)
        for proxy in (store, bucket):
            await proxy.start()
            stack.push_async_callback(proxy.close)
        copies = work / "copies"
        copies.mkdir()
        files, files_port = file_server(copies, work / "nginx", environ)
        stack.push_async_callback(files.kill)
        await files.start(files_port)
        serving = Serving(work / "offramp.toml", work / "serve", own, free_port())
        template = _SETTINGS.format(
            root=root, data=data, port=serving.port, workers=effort.workers, copies=copies,
            hg=hg_servers.executable(hg_servers.READS), bucket=_BUCKET, store=store.url,
            key=_KEYS[0], secret=_KEYS[1], target=bucket.url,
            files=f"http://127.0.0.1:{files_port}",
        )  # fmt: skip
        live, *others = (GitOrigin(path, environ) for path in gits)
        for origin in (live, *others):
            await origin.look()
        url = f"{serving.url}/{live.name}"
        author = Author(live, work / "author.git", url, troubles, random.Random(seed + 1))
        grown = HgOrigin(hg, work / "hg-author", hg_servers.mercurial(work / "home", "7.2.4"))
        chaos = Chaos(
            serving, template, store, bucket, files, files_port, author, grown, troubles, chance,
            length, effort.restarts,
        )  # fmt: skip
        serving.config.write_text(chaos.settings())
        stack.callback(serving.left_over)
        await serving.start()
        bases = await _bases(live, grown, programs, work)
        await author.start()
        await grown.start()
        await _indexed(serving.url, live.name, environ, work)
        kinds = git_kinds(serving.url, live, others, environ, bases[0])
        kinds += hg_kinds(serving.url, grown, programs, bases[1])
        targets = {bucket.port: What.BUCKET, files_port: What.FILES}
        yield Scene(serving, chaos, kinds, targets, data, temp)


def free_port() -> int:
    """One of loopback that nobody has now."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port: int = probe.getsockname()[1]
        return port


def _repositories(root: Path, work: Path, effort: Effort) -> tuple[list[Path], Path]:
    made = []
    for name, share in (("live.git", 1), ("quiet.git", 2), ("small.git", 6)):
        path = root / name
        repository.generate(path, effort.commits // share)
        config = path / "config"
        # Nothing goes away, so that it can be said of any object whether it was ever there.
        more = "[http]\n\treceivepack = true\n[gc]\n\tauto = 0\n[receive]\n\tautogc = false\n"
        config.write_text(config.read_text() + more)
        made.append(path)
    hg = hg_servers.mercurial(work / "home", hg_servers.READS)
    hg_repository.generate(hg, root / "project", effort.changesets)
    return made, root / "project"


def _make_bucket(port: int) -> None:
    session = boto3.Session(aws_access_key_id=_KEYS[0], aws_secret_access_key=_KEYS[1])
    endpoint = f"http://127.0.0.1:{port}"
    with closing(session.client("s3", region_name="us-east-1", endpoint_url=endpoint)) as client:
        client.create_bucket(Bucket=_BUCKET)


async def _bases(
    live: GitOrigin, grown: HgOrigin, programs: dict[str, Hg], work: Path
) -> tuple[Path, Path]:
    """Clones that lack some of what there is."""
    base, hg_base = work / "base.git", work / "hg-base"
    await told(("git", "init", "--quiet", "--bare", base), work, live.environ)
    older = "+refs/heads/main~20:refs/heads/main"
    await told(("git", "-C", live.path, "push", "--quiet", base, older), work, live.environ)
    # The oldest Mercurial makes it, so that each can read it.
    first = next(iter(programs.values()))
    words = ("clone", "--quiet", "--noupdate", "--rev", "20", grown.path, hg_base)
    await told((*first.program, *words), work, first.environ)
    shutil.rmtree(base / "hooks", ignore_errors=True)
    return base, hg_base


async def _indexed(server: str, name: str, environ: dict[str, str], work: Path) -> None:
    """Wait until bundles are there."""
    here = work / "first"
    here.mkdir()
    async with asyncio.timeout(120):
        while True:
            url = f"{server}/-/bundles/{name}"
            words = ("clone", "--quiet", "--bare", f"--bundle-uri={url}", f"{server}/{name}", "c")
            ran = await run(("git", *words), here, environ)
            if ran.status:
                raise ProgramFailed(f"git clone of a server that just began: {ran.said}")
            if (here / "c" / "refs" / "bundles").exists() or _has_bundles(here / "c"):
                return
            shutil.rmtree(here / "c")
            await asyncio.sleep(0.5)


def _has_bundles(clone: Path) -> bool:
    packed = clone / "packed-refs"
    return packed.exists() and "refs/bundles/" in packed.read_text()


def missing() -> str | None:
    """One line that says what to install, or None if all is there."""
    if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        return "nginx is missing; on Debian: apt-get install nginx-light"
    return hg_servers.missing_mercurial()
