# Law of this file: a CDN that pulls from Offramp, set up as howto-pull-cdn.md says, gives content
# to whoever shows a URL of Offramp's, asks Offramp once, and gives nothing to anybody else.

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import pytest
from click.testing import CliRunner
from yarl import URL

from cli.main import offramp
from tests.conformance.clones import accepting, locations, state, stock
from tests.conformance.repositories import Repository, make
from tests.conftest import Serve, Served
from tests.docs.test_docs import ROOT, blocks
from tests.nginx import running_nginx

PAGE: Final = ROOT / "docs/howto-pull-cdn.md"
FIRST: Final = "first 5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2\n"
CACHE_KEY: Final = "proxy_cache_key $1$is_args$args;"
# Whoever may read, signed URLs are what a CDN must not open to others.
PRIVATE: Final = {
    "auth": "token",
    "tokens": [{"token": "0123456789abcdef-opens-all", "repositories": ["*"]}],
}

pytestmark = pytest.mark.nginx


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with some history."""
    return make(tmp_path / "root")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where the CDN will be; it listens already, so that its URL is known before it runs."""
    with closing(socket.create_server(("127.0.0.1", 0))) as made:
        yield made


def documented(kind: str, word: str) -> str:
    """The block of the page that holds a word."""
    (found,) = (b.text for b in blocks(kind) if b.page == PAGE and word in b.text)
    return found


@contextmanager
def cdn(
    here: Path, word: str, listener: socket.socket, origin: str, key: str = CACHE_KEY
) -> Iterator[None]:
    """Stock nginx with the page's settings that hold ``word``, in front of ``origin``.

    ``key``: under what it keeps content, if not as the page says.
    """
    here.mkdir()
    text = documented("nginx", word)
    assert key == CACHE_KEY or CACHE_KEY in text
    text = text.replace(CACHE_KEY, key)
    text = re.sub(r" *ssl_certificate(_key)? .*;\n", "", text)
    text = text.replace("listen 443 ssl;", "listen {}:{};".format(*listener.getsockname()))
    text = text.replace("/var/cache/nginx/content", str(here / "cache"))
    assert "127.0.0.1:8417" in text
    text = text.replace("http://127.0.0.1:8417", origin)
    with running_nginx(here, text, listener):
        yield


async def get(url: str, **headers: str) -> tuple[int, str, bytes]:
    """Status, what the cache says of it, and content."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(url, encoded=True), headers=headers) as answer,
    ):
        return answer.status, answer.headers.get("X-Cache", ""), await answer.read()


async def clone(server: Served, url: str, repository: Repository, here: Path) -> str:
    """Clone with a token as stock git, compare, and return the one location."""
    (here / "clones").mkdir()
    await stock(here)("clone", "--bare", repository.stock_url, here / "clones/theirs")
    client = accepting(here)
    url = url.replace("http://", "http://x:0123456789abcdef-opens-all@")
    said = await client.traced()("clone", "--bare", repository.url(url), here / "clones/ours")
    assert await state(client, here / "clones/ours") == await state(client, here / "clones/theirs")
    (location,) = locations(said).values()
    return location


async def opens_for_its_url_alone(location: str) -> None:
    """A cache answers the URL again, whole and in part, and no other one."""
    status, cached, whole = await get(location)
    assert (status, cached) == (200, "HIT")
    assert await get(location, Range="bytes=8-15") == (206, "HIT", whole[8:16])
    bare, _, query = location.partition("?")
    wrong = [bare, re.sub(r"expires=\d", "expires=9", location), re.sub("key=.", "key=x", location)]
    wrong.append(f"{bare}?{query[:-1]}{'0' if query[-1] != '0' else '1'}")
    assert [(await get(url))[0] for url in wrong] == [403] * 4
    # A refusal is not kept: it is asked about again each time.
    assert (await get(wrong[0]))[1] == "MISS"


@dataclass(frozen=True)
class Pulled:
    """A server that a CDN can pull from.

    Attributes:
        origin: the server.
        data: its data directory.
        target: the CDN, in settings.
    """

    origin: Served
    data: Path
    target: dict[str, Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with the secret of the CDN beside that of the server, as the page says."""
    made = tmp_path / "data"
    made.mkdir()
    (made / "secret.key").write_text(FIRST)
    (made / "secret.key").chmod(0o600)
    if os.geteuid() == 0:
        os.chown(made / "secret.key", 12345, -1)  # the server's user, and root types
    lines = documented("sh secret", "od").replace("/etc/offramp", str(made))
    lines = lines.replace("/var/lib/offramp", str(made))
    subprocess.run(("sh", "-eu", "-c", lines), cwd=tmp_path, check=True)
    assert (made / "secret.key").read_text().startswith(FIRST)
    given = {(found.st_uid, found.st_mode & 0o777) for found in map(os.stat, made.iterdir())}
    assert given == {((made / "secret.key").stat().st_uid, 0o600)}
    for file in made.iterdir():
        os.chown(file, os.geteuid(), -1)
    return made


@pytest.fixture
async def pulled(
    serve: Serve, repository: Repository, listener: socket.socket, data: Path
) -> Pulled:
    """A server that has begun, and a CDN that has not."""
    target = {
        "type": "hmac",
        "name": "cdn",
        "base_url": "http://{}:{}".format(*listener.getsockname()),
        "keys": [{"id": "cdn-1", "file": str(data / "cdn-1.key")}],
    }
    return Pulled(await serve(repository.root, access=PRIVATE, data=data), data, target)


async def test_a_host_of_its_own(
    serve: Serve, repository: Repository, listener: socket.socket, pulled: Pulled, tmp_path: Path
) -> None:
    """Private content comes from the CDN by the secret that both were given, and not without."""
    base = pulled.target["base_url"]
    with cdn(tmp_path / "nginx", "entities", listener, pulled.origin.url):
        # What the CDN pulls from has to be there before; both are servers of one data directory.
        both = {"access": PRIVATE, "data": pulled.data}
        server = await serve(repository.root, targets=[pulled.target], **both)
        location = await clone(server, server.url, repository, tmp_path)
        assert location.startswith(f"{base}/entities/")
        await opens_for_its_url_alone(location)
        digest = urlsplit(location).path[-64:]
        assert (await get(f"{base}/-/blobs/{digest}?{urlsplit(location).query}"))[0] == 404
        assert (await get(f"{base}/documents/catalogs"))[0] == 404


@pytest.mark.parametrize(
    ("cache_key", "said"),
    [
        (CACHE_KEY, "ok    target cdn: nothing comes without its signature or after its end"),
        ("proxy_cache_key $1;", "fail  target cdn: content comes without a signature"),
    ],
    ids=["as-documented", "without-the-query"],
)
async def test_the_doctor_looks_at_the_cache(
    listener: socket.socket, pulled: Pulled, tmp_path: Path, cache_key: str, said: str
) -> None:
    """A CDN that keeps content under its path alone is found; as documented, all is well."""
    settings = tmp_path / "offramp.toml"
    (key,) = pulled.target["keys"]
    settings.write_text(
        f'data = "{pulled.data}"\nroot = "{tmp_path / "root"}"\n[[targets]]\ntype = "hmac"\n'
        f'name = "cdn"\nbase_url = "{pulled.target["base_url"]}"\n'
        f'keys = [{{ id = "cdn-1", file = "{key["file"]}" }}]\n'
    )
    with cdn(tmp_path / "nginx", "entities", listener, pulled.origin.url, cache_key):
        command = ["doctor", "--config", str(settings)]
        looked = await asyncio.to_thread(CliRunner().invoke, offramp, command)
    assert said in looked.output


async def test_one_host_for_all(
    serve: Serve, repository: Repository, listener: socket.socket, tmp_path: Path
) -> None:
    """A whole server behind a cache: questions pass, content is kept, operators' pages are not."""
    base = "http://{}:{}".format(*listener.getsockname())
    server = await serve(repository.root, access=PRIVATE, public_url=base)
    with cdn(tmp_path / "nginx", "git.example.org", listener, server.url):
        location = await clone(server, base, repository, tmp_path)
        assert location.startswith(f"{base}/-/blobs/")
        await opens_for_its_url_alone(location)
        assert (await get(f"{base}/-/metrics"))[0] == 403
