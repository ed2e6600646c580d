# Law of this file: each command of protocol version 1 has one way: answered here from the index,
# from a record or by a place, or by the `hg serve` behind us. Who may ask was settled before.

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from indexer.catalog import CloneBundle
from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.errors import Unservable
from repos.hg.lookup import Lookups
from repos.hg.program import HgFailed
from repos.hg.repository import HgRepository, HgSnapshot
from server.exchange import EXCHANGE, client_of
from server.git.requests import body_of
from server.hg.responding import retrieved
from server.hg.v1 import replies, small
from server.hg.v1.bundling import Bundling
from server.hg.v1.getbundle import DIALECT, Asked
from server.hg.v1.manifests import entries, usable
from server.hg.v1.passing import NoBackend, passed, their_capabilities
from server.hg.v1.words import capabilities, edited
from server.outcome import Outcome
from server.runtime import Runtime
from wire.hg.v1.manifest import INLINE_SCHEME, encode_manifest
from wire.hg.v1.media import choose
from wire.hg.v1.requests import (
    COMMANDS,
    BadRequest,
    BatchCall,
    client_version,
    posted_length,
    read_arguments,
    read_batch,
    read_protocol,
)

_log = logging.getLogger("offramp.hg")

# Seconds that a client waits for the index to follow the repository; then hg itself answers it.
# A first index of a large repository takes minutes.
PATIENCE: Final = 5.0

# Bytes of arguments that are read in the event loop; more would stop it for too long.
_QUICK: Final = 64 << 10

# Repositories of which is remembered which clone bundles may be named.
_REPOSITORIES: Final = 1024

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

# What a header has beside its name and value.
_AROUND: Final = len(": \r\n")


_Answer = Callable[[web.Request, Lookups, HgSnapshot, Asked], Awaitable[web.StreamResponse]]


_Looked = tuple[tuple[str, tuple[CloneBundle, ...]], tuple[CloneBundle, ...]]
"""A state of a repository with its clone bundles, and those of them that may be named."""


@dataclass(frozen=True, slots=True)
class Front:
    """Answers protocol version 1 for repositories of this machine."""

    runtime: Runtime
    bundling: Bundling
    looked: OrderedDict[str, _Looked] = field(default_factory=OrderedDict)

    async def answer(
        self, request: web.Request, lookups: Lookups, command: str
    ) -> web.StreamResponse:
        """Answer one command; the caller may read the repository."""
        exchange = request[EXCHANGE]
        repository = lookups.repository
        exchange.dialect = DIALECT
        exchange.command, exchange.outcome = command, Outcome.HIT
        try:
            if command not in COMMANDS:
                return await self._unknown(request, repository, command)
            asked = await self._asked(request, command)
            refusal = self._refusal(repository.name, asked)
            if refusal is not None:
                return replies.refused(request, refusal)
            if _pushes(asked):
                return await self._push(request, repository)
            return await self._pull(request, lookups, asked)
        except BadRequest as bad:
            return replies.refused(request, str(bad))
        except NoBackend as error:
            _log.error("request %s: %s", exchange.request_id, error)
            return replies.failed(request)

    # --- what is asked, and whether it may be ----------------------------------------------------

    async def _asked(self, request: web.Request, command: str) -> Asked:
        headers = list(request.headers.items())
        posted = posted_length(headers)
        body = b""
        if posted is not None:
            body = await body_of(request, self.runtime.settings.limits.request_time)
        query = request.raw_path.partition("?")[2]
        size = len(query) + len(body) + sum(len(name) + len(value) for name, value in headers)
        read = functools.partial(_read, command, query, headers, body)
        return read() if size <= _QUICK else await asyncio.to_thread(read)

    def _refusal(self, name: str, asked: Asked) -> str | None:
        """Why this may not be asked."""
        if _pushes(asked) and not self.runtime.settings.hg.may_push(name):
            return (
                f"pushing to '{name}' through this server is not enabled; push to where the"
                " repository lives, or have the operator list it in hg.push"
            )
        return None

    async def _unknown(
        self, request: web.Request, repository: HgRepository, command: str
    ) -> web.StreamResponse:
        """A command of an extension, perhaps; hg knows, and who may send it."""
        request[EXCHANGE].command = "other"
        # The program behind us takes pushes for all repositories if it does for one.
        settings = self.runtime.settings.hg
        if _NAME.fullmatch(command) is None or (
            settings.push and not settings.may_push(repository.name)
        ):
            return replies.refused(request, f"unknown command {command[:100]!r}")
        return await passed(request, self.runtime, repository)

    async def _push(self, request: web.Request, repository: HgRepository) -> web.StreamResponse:
        try:
            # Hooks may take long before they say anything.
            limit = self.runtime.settings.limits.program_time
            return await passed(request, self.runtime, repository, silence=limit)
        finally:
            self.runtime.pushed()

    # --- reading ---------------------------------------------------------------------------------

    async def _pull(
        self, request: web.Request, lookups: Lookups, asked: Asked
    ) -> web.StreamResponse:
        repository = lookups.repository
        try:
            snapshot = await snapshot_soon(repository)
        except HgFailed as failure:
            _log.error("repository %s: %s", repository.name, " ".join(str(failure).split()))
            return replies.failed(request)
        if snapshot is None:
            return await self._without_index(request, repository, asked)
        return await self._ways.get(asked.command, self._pass)(request, lookups, snapshot, asked)

    @property
    def _ways(self) -> dict[str, _Answer]:
        return {
            "capabilities": self._capabilities,
            "batch": self._small,
            **dict.fromkeys(small.SMALL, self._small),
            "clonebundles": self._manifest,
            "clonebundles_manifest": self._manifest,
            "get_cached_bundle_inline": self._inline_bundle,
            "getbundle": self._getbundle,
        }

    async def _without_index(
        self, request: web.Request, repository: HgRepository, asked: Asked
    ) -> web.StreamResponse:
        """Answer for a repository of which our index says nothing, or nothing yet."""
        match asked.command:
            case "capabilities":
                theirs = await their_capabilities(self.runtime, repository)
                if theirs is None:
                    return replies.failed(request)
                pushes = self.runtime.settings.hg.may_push(repository.name)
                words = edited(theirs, pushes=pushes, bundles=False)
                return replies.string(words.encode())
            case "clonebundles" | "clonebundles_manifest":
                return replies.string(b"")
            case _:
                return await passed(request, self.runtime, repository)

    async def capabilities(self, name: str, snapshot: HgSnapshot) -> bytes:
        """The words of version 1 for a repository that has an index."""
        bundles = await self._bundles(name, snapshot)
        settings = self.runtime.settings.hg
        words = capabilities(
            snapshot, settings, pushes=settings.may_push(name), bundles=bool(bundles)
        )
        return words.encode()

    async def _capabilities(
        self, request: web.Request, lookups: Lookups, snapshot: HgSnapshot, asked: Asked
    ) -> web.StreamResponse:
        del request, asked
        return replies.string(await self.capabilities(lookups.repository.name, snapshot))

    async def _small(
        self, request: web.Request, lookups: Lookups, snapshot: HgSnapshot, asked: Asked
    ) -> web.StreamResponse:
        try:
            found = await small.answer(lookups, snapshot, asked.calls)
        except small.NotOurs:
            return await self._pass(request, lookups, snapshot, asked)
        except HgFailed as failure:
            _log.error("%s: %s", lookups.repository.name, " ".join(str(failure).split()))
            return await self._pass(request, lookups, snapshot, asked)
        return replies.string(found[0] if asked.command != "batch" else small.joined(found))

    async def _pass(
        self, request: web.Request, lookups: Lookups, snapshot: HgSnapshot, asked: Asked
    ) -> web.StreamResponse:
        del snapshot, asked
        return await passed(request, self.runtime, lookups.repository)

    async def _bundles(self, name: str, snapshot: HgSnapshot) -> tuple[CloneBundle, ...]:
        """The clone bundles that may be named now; looked at once for each state."""
        bundles = await self.runtime.catalogs.clone_bundles(name)
        state = (snapshot.digest, bundles)
        known = self.looked.get(name)
        if known is None or known[0] != state:
            known = self.looked[name] = (state, usable(bundles, snapshot))
            while len(self.looked) > _REPOSITORIES:
                self.looked.popitem(last=False)
        return known[1]

    # --- clone bundles ---------------------------------------------------------------------------

    async def _manifest(
        self, request: web.Request, lookups: Lookups, snapshot: HgSnapshot, asked: Asked
    ) -> web.StreamResponse:
        runtime, settings = self.runtime, self.runtime.settings
        bundles = await self._bundles(lookups.repository.name, snapshot)
        modern = asked.command != "clonebundles"
        found = list(
            entries(
                runtime,
                bundles,
                client_of(request, settings.public_url, settings.listen),
                runtime.access_rules.audience,
                version=asked.version,
                inline=modern and settings.hg.inline_bundles,
                fingerprints=modern and asked.arguments.get(b"store_fingerprint") == b"1",
            )
        )
        if found:
            self.bundling.offered.note(lookups.repository.name, bundles)
        if any(not entry.url.startswith(INLINE_SCHEME) for entry in found):
            request[EXCHANGE].outcome = Outcome.REDIRECT
        return replies.string(encode_manifest(found))

    async def _inline_bundle(
        self, request: web.Request, lookups: Lookups, snapshot: HgSnapshot, asked: Asked
    ) -> web.StreamResponse:
        """Send a clone bundle in the protocol."""
        wanted = asked.arguments.get(b"path", b"").decode("ascii", "replace")
        name = lookups.repository.name
        for bundle in await self._bundles(name, snapshot):
            if bundle.id == wanted and self.runtime.settings.hg.inline_bundles:
                framing = choose(asked.protocol, ("none", "zlib"), uncompressed=True)
                return await self.bundling.send_inline(request, bundle.entity, framing)
        return replies.refused(request, f"there is no clone bundle {wanted[:100]!r}; clone again")

    # --- getbundle -------------------------------------------------------------------------------

    async def _getbundle(
        self, request: web.Request, lookups: Lookups, snapshot: HgSnapshot, asked: Asked
    ) -> web.StreamResponse:
        return await self.bundling.getbundle(request, lookups.repository, snapshot, asked)


async def snapshot_soon(repository: HgRepository) -> HgSnapshot | None:
    """What the repository serves; None where our index cannot say it, or not soon.

    Raises:
        HgFailed: hg refuses the repository.
    """
    taken = asyncio.ensure_future(repository.snapshot())
    taken.add_done_callback(retrieved)
    done, _ = await asyncio.wait({taken}, timeout=PATIENCE)
    if not done:
        _log.info("repository %s: the index is not ready; hg answers", repository.name)
        return None
    try:
        return taken.result()
    except Unservable as reason:
        _log.debug("repository %s: %s", repository.name, reason)
        return None
    except (IndexBroken, IndexUnreadable) as error:
        _log.warning("repository %s: %s", repository.name, error)
        return None


def _read(command: str, query: str, headers: list[tuple[str, str]], body: bytes) -> Asked:
    """Read a request.

    Raises:
        BadRequest: it is malformed.
    """
    arguments = read_arguments(query, headers, body)
    agents = [value for name, value in headers if name.lower() == "user-agent"]
    names = {name.lower() for name, _ in headers}
    alone = command != "batch"
    calls = (BatchCall(command, arguments),) if alone else read_batch(arguments.get(b"cmds", b""))
    return Asked(
        command,
        arguments,
        read_protocol(headers),
        client_version(agents[0] if agents else ""),
        sum(len(name) + len(value) + _AROUND for name, value in headers),
        "authorization" in names or "cookie" in names,
        calls,
    )


def _pushes(asked: Asked) -> bool:
    """Whether a command, or one of a batch, changes the repository."""
    return any(
        call.name in COMMANDS and COMMANDS[call.name].permission == "push" for call in asked.calls
    )
