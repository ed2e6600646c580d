# Law of this file: what users and their CI do with stock git and credentials, where each action
# tells from where the packs came that the client kept. No credential is on a command line.

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.conformance.clones import Client, accepting, locations
from tests.conftest import Finished

# Who is asked for a password that nobody gave has to fail, not to wait for a person.
_SILENT: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": ""}


@dataclass(frozen=True)
class Done:
    """What one action of a client came to.

    Attributes:
        finished: the last git command; also one that failed.
        packs: URLs by checksum of the packs that the client was sent to, downloaded, checked and
            keeps; empty: all content came inline, or nothing came.
    """

    finished: Finished
    packs: dict[str, str]

    @property
    def well(self) -> bool:
        """Whether git says that all went well."""
        return self.finished.status == 0


# --- who asks ------------------------------------------------------------------------------------


def anonymous(directory: Path) -> Client:
    """A client that accepts locations and has no credentials."""
    return replace(accepting(directory), environ=_SILENT)


def basic(user: str, password: str) -> str:
    """The value of ``Authorization`` for a user."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def bearer(token: str) -> str:
    """The value of ``Authorization`` for a token."""
    return f"Bearer {token}"


def by_header(client: Client, url: str, authorization: str) -> Client:
    """The same client, sending ``Authorization`` with its first request to ``url`` and below it."""
    settings = {f"http.{url}/.extraHeader": f"Authorization: {authorization}"}
    return _configured(client, settings)


def by_unscoped_header(client: Client, authorization: str) -> Client:
    """The same client, sending ``Authorization`` to whatever host it talks to."""
    return _configured(client, {"http.extraHeader": f"Authorization: {authorization}"})


def by_helper(client: Client, url: str, user: str, password: str) -> Client:
    """The same client, whose credential helper knows a password for the host of ``url``.

    Such a client asks without credentials first, and again when it is told to.
    """
    store = client.directory / f"credentials-{len(list(client.directory.glob('credentials-*')))}"
    scheme, _, host = url.partition("://")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    store.touch(mode=0o600)
    store.write_text(f"{scheme}://{login}@{host.partition('/')[0]}\n")
    return _configured(client, {"credential.helper": f"store --file={store}"})


def _configured(client: Client, settings: dict[str, str]) -> Client:
    environ = {"GIT_CONFIG_COUNT": f"{len(settings)}"}
    for number, (key, value) in enumerate(settings.items()):
        environ |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return replace(client, environ={**client.environ, **environ})


# --- what they do --------------------------------------------------------------------------------


async def clone(client: Client, url: str, to: Path, *options: str) -> Done:
    """``git clone``, whole and bare unless ``options`` say otherwise."""
    finished = await client.traced()("clone", "--bare", *options, url, to, check=False)
    return _done(finished, to)


async def checkout(client: Client, url: str, oid: str, to: Path) -> Done:
    """What CI does: one commit by its id, without history and tags."""
    await client("init", "--quiet", to)
    return await fetch(client, to, "--depth=1", url, oid)


async def fetch(client: Client, clone: Path, *words: str) -> Done:
    """``git fetch --no-tags`` with options, a URL or remote, and refspecs."""
    finished = await client.traced()("-C", clone, "fetch", "--no-tags", *words, check=False)
    return _done(finished, clone)


async def push(client: Client, clone: Path, url: str, *refspecs: str) -> Finished:
    """``git push``; packs go the other way, and never through a location."""
    return await client("-C", clone, "push", url, *refspecs, check=False)


def _done(finished: Finished, clone: Path) -> Done:
    named = locations(finished)
    kept = {path.stem.removeprefix("pack-") for path in clone.rglob("objects/pack/pack-*.pack")}
    if finished.status == 0:
        missing = named.keys() - kept
        assert not missing, f"git was sent to packs that it did not keep: {missing}"
    return Done(finished, {checksum: url for checksum, url in named.items() if checksum in kept})
