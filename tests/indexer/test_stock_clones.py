# Law of this file: what the indexer publishes is given to stock git by a plain static server, and
# the clones are whole.

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and remembers which."""

    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """Remember the request line."""
        self.asked.append(str(args[0]))


class Site:
    """A directory that is served over HTTP."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[str] = []
        handler = type("Handler", (Quiet,), {"asked": self.asked})
        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(handler, directory=str(directory))
        )
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def put(self, name: str, content: bytes) -> str:
        """Serve ``content``; returns its URL."""
        (self.directory / name).write_bytes(content)
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def close(self) -> None:
        """Stop."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty one."""
    directory = tmp_path / "site"
    directory.mkdir()
    site = Site(directory)
    yield site
    site.close()


def git(directory: Path, *args: str) -> str:
    """Stock git's answer."""
    done = subprocess.run(["git", "-C", str(directory), *args], capture_output=True, check=True)
    assert b"warning" not in done.stderr, done.stderr.decode()
    return done.stdout.decode().strip()


def bundle_list(url: str, token: int) -> bytes:
    """A bundle list with one bundle, in the syntax of git's configuration."""
    return (
        "[bundle]\n\tversion = 1\n\tmode = all\n\theuristic = creationToken\n"
        f'[bundle "one"]\n\turi = {url}\n\tcreationToken = {token}\n'
    ).encode()


def in_packs(repository: Path) -> int:
    """How many objects its packs hold, twice those that two packs hold."""
    lines = git(repository, "count-objects", "-v").splitlines()
    return int(dict(line.split(": ") for line in lines)["in-pack"])


@pytest.mark.parametrize("how", ["bundle", "list"])
async def test_a_clone_takes_everything_from_the_bundle(
    bench, tmp_path: Path, site: Site, how: str
) -> None:
    """With `--bundle-uri` the server itself sends no more than the annotated tags once again."""
    await bench.index()
    bundle = await bench.bundle()
    assert bundle.bundle_file is not None
    url = site.put("full", await bench.content(bundle.bundle_file.digest))
    if how == "list":
        url = site.put("list", bundle_list(url, bundle.creation_token))
    git(tmp_path, "clone", f"--bundle-uri={url}", bench.served.tree.as_uri(), "clone")
    clone = tmp_path / "clone"
    assert any("/full" in line for line in site.asked)
    assert bundle.objects <= in_packs(clone) <= bundle.objects + len(bundle.peeled)
    git(clone, "fsck", "--strict")
    for ref in ("main", "side", "v1"):
        ours = f"refs/tags/{ref}" if ref == "v1" else f"refs/remotes/origin/{ref}"
        assert git(clone, "rev-parse", ours) == bench.served.run("rev-parse", ref)


@pytest.mark.parametrize("how", ["bundle", "list"])
async def test_a_blobless_clone_takes_the_blobless_bundle(
    bench, tmp_path: Path, site: Site, how: str
) -> None:
    """`--filter=blob:none --bundle-uri` works with a blobless bundle; blobs come when needed."""
    bench.served.commit("file-0", "changed\n")
    bench.served.run("config", "uploadpack.allowFilter", "true")
    await bench.index()
    bundle = await bench.bundle("blob:none")
    assert bundle.bundle_file is not None
    url = site.put("blobless", await bench.content(bundle.bundle_file.digest))
    if how == "list":
        url = site.put("list", bundle_list(url, bundle.creation_token))
    source = bench.served.tree.as_uri()
    git(tmp_path, "clone", "--bare", "--filter=blob:none", f"--bundle-uri={url}", source, "clone")
    clone = tmp_path / "clone"
    assert any("/blobless" in line for line in site.asked)
    assert bundle.objects <= in_packs(clone) <= bundle.objects + len(bundle.peeled)
    blobs = git(clone, "rev-list", "--objects", "--missing=print", "--all").count("?")
    assert blobs == 4
    assert git(clone, "show", "main:file-0") == "changed"
    assert git(clone, "log", "--format=%H") == bench.served.run("log", "--format=%H")


async def test_a_bundle_file_can_be_cloned_by_itself(bench, tmp_path: Path) -> None:
    """It names HEAD, so that a clone of the file knows its branch."""
    await bench.index()
    bundle = await bench.bundle()
    assert bundle.bundle_file is not None
    (tmp_path / "all.bundle").write_bytes(await bench.content(bundle.bundle_file.digest))
    git(tmp_path, "clone", "--quiet", "all.bundle", "clone")
    assert git(tmp_path / "clone", "symbolic-ref", "HEAD") == "refs/heads/main"
    assert git(tmp_path / "clone", "rev-parse", "HEAD") == bench.served.run("rev-parse", "main")
    git(tmp_path / "clone", "bundle", "verify", "--quiet", str(tmp_path / "all.bundle"))
