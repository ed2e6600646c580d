# Law of this file: a private repository at a forge behind Offramp, users with passwords of their
# own, and what each of them gets; a question to the server is asked without git where git would
# ask more than one.

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.conformance.clones import V2_HEADERS, Client, packets, state, v2_request
from tests.conftest import Serve
from tests.server.asking import Reply, ask
from tests.upstreams.clients import Done, anonymous, basic, by_header, clone
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, PREFIX, Scene

USERS: Final = {"ann": "a word: of ann's", "bob": "bob-has-another-one"}
REPOSITORY: Final = f"{PREFIX}{NAME}"


async def private(
    serve: Serve,
    proxy: Proxy,
    forge: Forge,
    directory: Path,
    *,
    access: Mapping[str, Any] | None = None,
    **upstream: Any,
) -> Scene:
    """Start Offramp before a forge with one repository, which is for :data:`USERS` alone.

    Args:
        serve: the fixture.
        proxy: between the two.
        forge: the forge; what it has already stays as it is.
        directory: of the test.
        access: settings of that name.
        upstream: further settings of the upstream.
    """
    repository = forge.make(NAME, users=USERS)
    served = await serve(
        None,
        upstreams=[{"prefix": PREFIX, "url": proxy.url, **upstream}],
        access=dict(access or {}),
        log={"access": True},
        index={"enabled": False},
    )
    (directory / "clients").mkdir()
    return Scene(served, proxy, repository, directory / "clients")


def user(at: Scene, name: str, password: str | None = None) -> Client:
    """A client that shows a user's password to Offramp with every request."""
    word = basic(name, USERS[name] if password is None else password)
    return by_header(anonymous(at.directory), at.served.url, word)


def shown(name: str) -> dict[str, str]:
    """The header with a user's password."""
    return {"Authorization": basic(name, USERS[name])}


async def mirrored(at: Scene, authorization: str | None = None) -> None:
    """Mirror the repository with ann's credential, or with another; and count anew."""
    upstreams = at.upstreams
    word = shown("ann")["Authorization"] if authorization is None else authorization
    view = await upstreams.views.now(at.remote, word)
    upstreams.mirrors.begin(at.remote, view, word)
    await upstreams.mirrors.made(at.remote)
    assert at.mirror.is_dir()
    at.proxy.forget()


async def same(at: Scene, client: Client, name: str) -> Done:
    """Clone through Offramp; it has to be what a clone from the forge is."""
    done = await clone(client, at.url, at.directory / name)
    assert done.well, done.finished.stderr
    at_forge = by_header(anonymous(at.directory), at.proxy.upstream, shown("ann")["Authorization"])
    expected = at.directory / f"{name}-expected"
    assert (await clone(at_forge, at.there, expected)).well
    assert await state(client, at.directory / name) == await state(at_forge, expected)
    return done


async def upload_pack(
    at: Scene, body: bytes, headers: Mapping[str, str], path: str = REPOSITORY
) -> Reply:
    """One request for ``git-upload-pack``."""
    words = {**V2_HEADERS, **headers}
    return await ask(at.served, "POST", f"{path}/git-upload-pack", body, headers=words)


def fetch_of(*oids: str, have: str = "") -> bytes:
    """A v2 fetch of these objects, from somebody who accepts locations."""
    wants = [f"want {oid}" for oid in oids]
    haves = [f"have {have}"] if have else []
    return v2_request("fetch", "ofs-delta", "packfile-uris http,https", *wants, *haves, "done")


LS_REFS: Final = v2_request("ls-refs", "peel", "symrefs")
BUNDLE_URI: Final = v2_request("bundle-uri")


def refs_of(reply: Reply) -> dict[str, str]:
    """The refs that an answer to ``ls-refs`` names."""
    assert reply.status == 200, reply
    lines = [line.decode().split() for line in packets(reply.body)]
    return {words[1]: words[0] for words in lines}


async def direct(url: str, headers: Mapping[str, str] | None = None) -> aiohttp.ClientResponse:
    """What another server than Offramp answers; its body has been read."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=dict(headers or {})) as response,
    ):
        await response.read()
        return response
