# Law of this file: stock clients are sent to servers that demand signatures, and get everything;
# whoever has no signature, or one that is not for this, gets nothing there.

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from yarl import URL

from redirects.shared_secret import HmacSigner
from redirects.signing import SigningKeys
from redirects.targets import SignedHttpTarget
from stores.entity import entity_key
from tests.conformance.clones import accepting, locations, state, stock
from tests.conformance.repositories import Repository
from tests.conftest import Serve, Served
from tests.edges import PrivateKey, cloudfront, documented, edge, nginx, served, shared_hmac

GOLDEN: Final = Path(__file__).parents[1] / "redirects" / "golden"
NEW: Final = "0new-0new-0new-0new-0new-0new-0new-0new"
OLD: Final = "0old-0old-0old-0old-0old-0old-0old-0old"
TOKEN: Final = "0123456789abcdef-opens-all"
PRIVATE: Final = {"auth": "token", "tokens": [{"token": TOKEN, "repositories": ["*"]}]}
NEW_KEY: Final = {"id": "new", "secret": NEW}
OLD_KEY: Final = {"id": "old", "secret": OLD}


async def clone(repository: Repository, served: Served, directory: Path) -> list[str]:
    """Clone as somebody with a token, compare with stock git, and return the locations."""
    number = len(list(directory.glob("clone-*")))
    theirs, ours = directory / f"stock-{number}", directory / f"clone-{number}"
    await stock(directory)("clone", "--bare", repository.stock_url, theirs)
    client = accepting(directory)
    url = repository.url(served.url.replace("http://", f"http://x:{TOKEN}@"))
    said = await client.traced()("clone", "--bare", url, ours)
    assert await state(client, ours) == await state(client, theirs)
    return list(locations(said).values())


async def status(url: str) -> int:
    """Of a GET as a client sends it."""
    async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as answer:
        return answer.status


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The root of the server's store."""
    return tmp_path / "data" / "store"


# --- nginx -------------------------------------------------------------------------------


@pytest.mark.nginx
async def test_private_packs_from_nginx(
    serve: Serve, repository: Repository, tmp_path: Path, store: Path
) -> None:
    """A private clone gets its pack from nginx, by a URL that works for nothing else."""
    here = tmp_path / "nginx"
    with nginx(here, store, {"new": NEW}) as base:
        target = {"type": "secure_link", "base_url": base, "keys": [NEW_KEY]}
        server = await serve(repository.root, targets=[target], access=PRIVATE)
        (url,) = await clone(repository, server, tmp_path)
        path = urlsplit(url).path
        assert path in served(here)
        assert await status(url) == 200
        for wrong in _wrong(url):
            assert await status(wrong) == 403, wrong
        assert await status(_ended(server, url)) == 410
        assert not served(here)[2:]  # the client, and we with a right URL


def _wrong(url: str) -> Iterator[str]:
    """The URL without a signature, with another, for other things, and by made-up keys."""
    parts = urlsplit(url)
    said = {name: value for name, (value,) in parse_qs(parts.query).items()}
    yield url.partition("?")[0]
    for name in said:
        yield re.sub(rf"{name}=[^&]*&?", "", url)
        yield re.sub(rf"{name}=[^&]*", f"{name}=", url)
        yield url.replace(f"{name}=", f"{name}=9")
    digest = parts.path[-64:]
    other = digest[:2] + digest[2:][::-1]
    yield url.replace(digest, other)
    # As one would sign for a key of which the server knows no secret.
    forged = hashlib.md5(f"{said['expires']}{parts.path} ".encode(), usedforsecurity=False)
    md5 = base64.urlsafe_b64encode(forged.digest()).decode().rstrip("=")
    for key in ("nobody", ""):
        yield f"{url.partition('?')[0]}?md5={md5}&expires={said['expires']}&key={key}"


def _ended(server: Served, url: str) -> str:
    """The same URL as it was given out too long ago."""
    (target,) = server.runtime.targets
    digest = urlsplit(url).path[-64:]
    assert isinstance(target, SignedHttpTarget)
    ended = int(time.time()) - 1
    return f"{url.partition('?')[0]}?{target.signer.query(target.base_url, digest, ended)}"


@pytest.mark.nginx
async def test_a_key_is_changed(
    serve: Serve, repository: Repository, tmp_path: Path, store: Path
) -> None:
    """While a key is changed every clone is redirected, and URLs of the old key go on working."""
    named: list[str] = []
    with nginx(tmp_path / "nginx", store, {"old": OLD, "new": NEW}) as base:
        for keys in ([OLD_KEY], [OLD_KEY, NEW_KEY], [NEW_KEY, OLD_KEY], [NEW_KEY]):
            target = {"type": "secure_link", "base_url": base, "keys": keys}
            server = await serve(repository.root, targets=[target], access=PRIVATE)
            named += await clone(repository, server, tmp_path)
        assert [parse_qs(urlsplit(url).query)["key"] for url in named] == [
            ["old"],
            ["old"],
            ["new"],
            ["new"],
        ]
        assert [await status(url) for url in named] == [200] * 4


@pytest.mark.nginx
async def test_a_key_that_nginx_does_not_know(
    serve: Serve, repository: Repository, tmp_path: Path, store: Path
) -> None:
    """A key that was forgotten there is no failed clone: nothing is named, all goes inline."""
    with nginx(tmp_path / "nginx", store, {"old": OLD}) as base:
        target = {"type": "secure_link", "base_url": base, "keys": [NEW_KEY, OLD_KEY]}
        server = await serve(repository.root, targets=[target], access=PRIVATE)
        assert await clone(repository, server, tmp_path) == []


# --- CDNs --------------------------------------------------------------------------------


def key_file(tmp_path: Path, name: str) -> dict[str, Any]:
    """A key of the tests, in a file that nobody else may read."""
    path = Path(shutil.copy(GOLDEN / f"cloudfront_{name}.pem", tmp_path))
    path.chmod(0o600)
    return {"id": f"K{name.upper()}", "file": path}


def private(name: str) -> PrivateKey:
    """The same key, for the other side."""
    key = load_pem_private_key((GOLDEN / f"cloudfront_{name}.pem").read_bytes(), None)
    assert isinstance(key, PrivateKey)
    return key


@pytest.mark.parametrize(("name", "scope"), [("rsa", "entity"), ("ecdsa", "prefix")])
async def test_cloudfront(  # noqa: PLR0917 - fixtures and a table
    serve: Serve, repository: Repository, tmp_path: Path, store: Path, name: str, scope: str
) -> None:
    """A clone gets its pack from what demands what CloudFront demands, by either policy.

    Two servers that share nothing but the key name the same URL.
    """
    with edge(store, cloudfront({f"K{name.upper()}": private(name)}, time.time)) as cdn:
        target = {
            "type": "cloudfront",
            "base_url": cdn.url,
            "scope": scope,
            "keys": [key_file(tmp_path, name)],
        }
        named = []
        for _ in range(2):
            server = await serve(repository.root, targets=[target], access=PRIVATE)
            named += await clone(repository, server, tmp_path)
        assert urlsplit(named[0]).path in cdn.asked
        # A window may have ended in between.
        if _window(server, named[0]) == _window(server, named[1]):
            assert named[0] == named[1]
        assert await status(named[0]) == 200
        assert await status(named[0].partition("?")[0]) == 403
        documents = re.sub("/entities/.*[?]", "/documents/x?", named[0])
        assert await status(documents) == 403


def _window(server: Served, url: str) -> str:
    """What decides whether two URLs are of one window."""
    query = parse_qs(urlsplit(url).query)
    said = query["Policy"] if "Policy" in query else query["Expires"]
    return said[0]


async def test_hmac(serve: Serve, repository: Repository, tmp_path: Path, store: Path) -> None:
    """A clone gets its pack from an edge that shares a secret."""
    with edge(store, shared_hmac({"new": NEW}, time.time)) as cdn:
        target = {"type": "hmac", "base_url": cdn.url, "keys": [NEW_KEY]}
        server = await serve(repository.root, targets=[target], access=PRIVATE)
        (url,) = await clone(repository, server, tmp_path)
        assert urlsplit(url).path in cdn.asked
        assert await status(url) == 200
        assert await status(url.partition("?")[0]) == 403


# --- the code of the documentation -------------------------------------------------------

_ASK: Final = """
import { allowed } from "./edge.mjs";
const secrets = new Map([["new", process.env.SECRET]]);
const urls = JSON.parse(process.env.URLS);
for (const url of urls) console.log(await allowed(url, secrets, Number(process.env.NOW)));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_documented_edge(tmp_path: Path) -> None:
    """The JavaScript of the documentation takes what we sign, and nothing else."""
    base, digest, now = "https://cdn.example.org", "ab" * 32, 1_700_000_000
    keys = SigningKeys("new", {"new": NEW.encode(), "old": OLD.encode()})
    bare = f"{base}/{entity_key(digest)}"
    good = f"{bare}?{HmacSigner(keys).query(base, digest, now + 1)}"
    bad = [
        bare,
        f"{bare}?{HmacSigner(keys).query(base, digest, now)}",
        f"{bare}?{HmacSigner(replace(keys, current='old')).query(base, digest, now + 1)}",
        good.replace(digest, "ab" + "cd" * 31),
        good.replace("/entities/", "/documents/"),
        good.replace("signature=", "signature=x"),
        good.replace("expires=1", "expires=2"),
        good.replace("key=new", "key=__proto__"),
    ]
    (tmp_path / "edge.mjs").write_text(documented("js", "export async function allowed"))
    (tmp_path / "ask.mjs").write_text(_ASK)
    asked = {"SECRET": NEW, "URLS": json.dumps([good, *bad]), "NOW": str(now)}
    done = subprocess.run(
        ("node", "ask.mjs"),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["true", *["false"] * len(bad)], done.stderr
