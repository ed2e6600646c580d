# Law of this file: each command of protocol version 1 has one way: answered here from the index,
# from a record or by a place, or by the `hg serve` behind us. Who may ask was settled before.

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from indexer.catalog import CloneBundle
from redirects.acceptance import SENT_IN_VAIN, Location
from redirects.sessions import HERE
from repos.hg.database import IndexBroken, IndexUnreadable
from repos.hg.errors import Unservable
from repos.hg.lookup import Lookups
from repos.hg.peer import PeerRefused
from repos.hg.program import HgFailed
from repos.hg.repository import HgRepository, HgSnapshot
from repos.hg.v1_answers import REMEMBERED
from server.exchange import EXCHANGE, client_of
from server.hg.responding import retrieved
from server.hg.v1 import replies, small
from server.hg.v1.asked import Asked, read_asked
from server.hg.v1.bundling import Bundling
from server.hg.v1.getbundle import DIALECT
from server.hg.v1.manifests import BOTH, entries, usable
from server.hg.v1.passing import Behind, NoBackend
from server.hg.v1.words import capabilities, edited, streams
from server.outcome import Outcome
from server.runtime import Runtime
from server.sessions.asked import hg_session
from stores.entity import Entity
from wire.hg.handshake import asks_upgrade
from wire.hg.v1.manifest import INLINE_SCHEME, encode_manifest
from wire.hg.v1.media import MERCURIAL_0_1, choose
from wire.hg.v1.requests import COMMANDS, BadRequest

_log = logging.getLogger("offramp.hg")

# Seconds that a client waits for the index to follow the repository; then hg itself answers it.
# A first index of a large repository takes minutes.
PATIENCE: Final = 5.0

# Repositories of which is remembered which clone bundles may be named.
_REPOSITORIES: Final = 1024

# That streaming is not allowed.
_NO_STREAM: Final = b"1\n"

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

_Looked = tuple[tuple[str, tuple[CloneBundle, ...]], tuple[CloneBundle, ...]]
"""A state of a repository with its clone bundles, and those of them that may be named."""


@dataclass(frozen=True, slots=True)
class _Question:
    """One request for a repository of this machine.

    Attributes:
        request: of the client.
        lookups: of the repository.
        asked: what it asks.
        behind: whom to ask what is not answered here.
    """

    request: web.Request
    lookups: Lookups
    asked: Asked
    behind: Behind

    @property
    def name(self) -> str:
        """The repository's."""
        return self.lookups.repository.name


_Answer = Callable[[_Question, HgSnapshot], Awaitable[web.StreamResponse]]


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
        exchange.dialect, exchange.outcome = DIALECT, Outcome.HIT
        exchange.command = command if command in COMMANDS else "unknown"
        try:
            limit = self.runtime.settings.limits.request_time
            asked = await read_asked(request, command, limit)
            behind = Behind(self.runtime, request, lookups.repository, asked)
            question = _Question(request, lookups, asked, behind)
            refusal = self._refusal(question)
            if refusal is not None:
                return replies.refused(request, refusal)
            if behind.writes:
                return await self._push(behind)
            return await self._pull(question)
        except BadRequest as bad:
            return replies.refused(request, str(bad))
        except NoBackend as error:
            _log.error("request %s: %s", exchange.request_id, error)
            return replies.failed(request)

    def _refusal(self, question: _Question) -> str | None:
        """Why this may not be asked."""
        name, asked = question.name, question.asked
        # What a command of an extension does, hg knows; the one who is asked takes no pushes.
        if asked.command not in COMMANDS and _NAME.fullmatch(asked.command) is None:
            return f"unknown command {asked.command[:100]!r}"
        if question.behind.writes and question.request[EXCHANGE].here:
            return f"nothing is pushed below {HERE}/; push to where the repository lives"
        if question.behind.writes and not self.runtime.settings.hg.may_push(name):
            return (
                f"pushing to '{name}' through this server is not enabled; push to where the"
                " repository lives, or have the operator list it in hg.push"
            )
        return None

    async def _push(self, behind: Behind) -> web.StreamResponse:
        try:
            # Hooks may take long before they say anything.
            return await behind.answer(self.runtime.settings.limits.program_time)
        finally:
            self.runtime.pushed()

    # --- reading ---------------------------------------------------------------------------------

    async def _pull(self, question: _Question) -> web.StreamResponse:
        try:
            snapshot = await snapshot_soon(question.lookups.repository)
        except HgFailed as failure:
            _log.error("repository %s: %s", question.name, " ".join(str(failure).split()))
            return replies.failed(question.request)
        if snapshot is None:
            return await self._without_index(question)
        return await self._ways.get(question.asked.command, self._pass)(question, snapshot)

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
            "hello": self._hello,
            "stream_out": self._stream_out,
        }

    async def _without_index(self, question: _Question) -> web.StreamResponse:
        """Answer for a repository of which our index says nothing, or nothing yet."""
        match question.asked.command:
            case "capabilities":
                try:
                    theirs = await question.behind.capabilities()
                except PeerRefused as no:
                    return replies.refused(question.request, no.text)
                if theirs is None:
                    return replies.failed(question.request)
                return replies.string(edited(theirs, bundles=False).encode())
            case "clonebundles" | "clonebundles_manifest":
                return replies.string(b"")
            case _:
                return await question.behind.answer()

    async def capabilities(self, name: str, snapshot: HgSnapshot) -> bytes:
        """The words of version 1 for a repository that has an index."""
        bundles = await self._bundles(name, snapshot)
        settings = self.runtime.settings.hg
        asked = ("capabilities", settings.stream_clones, bool(bundles))
        return REMEMBERED.answer(
            snapshot,
            asked,
            lambda: capabilities(snapshot, settings, bundles=bool(bundles)).encode(),
        )

    async def _capabilities(self, question: _Question, snapshot: HgSnapshot) -> web.StreamResponse:
        moved = self._moved(question, snapshot)
        if moved is not None:
            return moved
        return replies.string(await self.capabilities(question.name, snapshot))

    def _moved(self, question: _Question, snapshot: HgSnapshot) -> web.Response | None:
        """The redirect by which a session moves to a mirror; None if it stays.

        With this request stock clients begin everything, pushes too.
        """
        request, sessions = question.request, self.runtime.sessions
        if sessions is None or request.method != "GET" or asks_upgrade(request.headers):
            return None
        session = hg_session(question.name, snapshot, self.runtime.settings.hg)
        audience = self.runtime.access_rules.audience_of(question.name)
        return sessions.redirect(request, session, self.runtime.pipeline.control, audience)

    async def _hello(self, question: _Question, snapshot: HgSnapshot) -> web.StreamResponse:
        return replies.string(
            b"capabilities: %b\n" % await self.capabilities(question.name, snapshot)
        )

    async def _stream_out(self, question: _Question, snapshot: HgSnapshot) -> web.StreamResponse:
        """The store's files, as clients before 3.5 copy them."""
        if streams(snapshot, self.runtime.settings.hg):
            return await question.behind.answer()
        return replies.string(_NO_STREAM)

    async def _small(self, question: _Question, snapshot: HgSnapshot) -> web.StreamResponse:
        asked = question.asked
        try:
            found = await small.answer(question.lookups, snapshot, asked)
        except small.NotOurs:
            return await question.behind.answer()
        except HgFailed as failure:
            _log.error("%s: %s", question.name, " ".join(str(failure).split()))
            return await question.behind.answer()
        return replies.string(found)

    @staticmethod
    async def _pass(question: _Question, snapshot: HgSnapshot) -> web.StreamResponse:
        del snapshot
        return await question.behind.answer()

    async def _bundles(self, name: str, snapshot: HgSnapshot) -> tuple[CloneBundle, ...]:
        """The clone bundles that may be named now; looked at once for each state."""
        bundles = await self.runtime.catalogs.clone_bundles(name)
        if not bundles:
            return ()
        state = (snapshot.digest, bundles)
        known = self.looked.get(name)
        if known is None or known[0] != state:
            known = self.looked[name] = (
                state,
                # It looks at each changeset, once for each state.
                await asyncio.to_thread(usable, bundles, snapshot),
            )
            while len(self.looked) > _REPOSITORIES:
                self.looked.popitem(last=False)
        return known[1]

    # --- clone bundles ---------------------------------------------------------------------------

    async def _manifest(self, question: _Question, snapshot: HgSnapshot) -> web.StreamResponse:
        runtime, settings, asked = self.runtime, self.runtime.settings, question.asked
        bundles = await self._bundles(question.name, snapshot)
        modern = asked.command != "clonebundles"
        inline = modern and settings.hg.inline_bundles
        # hg gives up where a bundle does not come, and who runs it again asks for the list again.
        key = f"{DIALECT} clonebundles {question.lookups.repository.identity}"
        in_vain = bool(bundles) and runtime.repeats.asked_again(question.request, key)
        nearest: list[tuple[CloneBundle, Location]] = []
        found = list(
            entries(
                runtime,
                bundles,
                client_of(question.request, settings.public_url, settings.listen),
                runtime.access_rules.audience_of(question.name),
                repository=question.name,
                version=asked.version,
                inline=await self.bundling.at_hand(bundles) if inline else (),
                fingerprints=modern and asked.arguments.get(b"store_fingerprint") == b"1",
                acceptance=SENT_IN_VAIN if in_vain else BOTH,
                named=lambda bundle, location: nearest.append((bundle, location)),
            )
        )
        runtime.repeats.sent(question.request, key, _likely(nearest))
        if found:
            self.bundling.offered.note(question.name, bundles)
        if any(not entry.url.startswith(INLINE_SCHEME) for entry in found):
            question.request[EXCHANGE].outcome = Outcome.REDIRECT
        return replies.string(encode_manifest(found))

    async def _inline_bundle(self, question: _Question, snapshot: HgSnapshot) -> web.StreamResponse:
        """Send a clone bundle in the protocol."""
        asked, request = question.asked, question.request
        wanted = asked.arguments.get(b"path", b"").decode("ascii", "replace")
        for bundle in await self._bundles(question.name, snapshot):
            if bundle.id == wanted and self.runtime.settings.hg.inline_bundles:
                framing = choose(asked.protocol, uncompressed=True)
                if framing.media_type == MERCURIAL_0_1:
                    return replies.refused(request, "this client takes no clone bundle so")
                return await self.bundling.send_inline(request, bundle.entity, framing)
        return replies.refused(request, f"there is no clone bundle {wanted[:100]!r}; clone again")

    # --- getbundle -------------------------------------------------------------------------------

    async def _getbundle(self, question: _Question, snapshot: HgSnapshot) -> web.StreamResponse:
        return await self.bundling.getbundle(question.asked, snapshot, question.behind)


def _likely(nearest: Sequence[tuple[CloneBundle, Location]]) -> Iterator[tuple[Location, Entity]]:
    """What a client may take of the bundles that it is told of, the likeliest first.

    That is the first; that of the store's own files (`hg clone --stream`); another, where it cannot
    read the first or prefers others (`ui.clonebundleprefers`). It says nothing of that.
    """
    of_files = [each for each in nearest[1:] if each[0].kind == "stream-v2"]
    others = [each for each in nearest[1:] if each[0].kind != "stream-v2"]
    for bundle, location in (*nearest[:1], *of_files, *others):
        yield location, bundle.entity


async def snapshot_soon(repository: HgRepository) -> HgSnapshot | None:
    """What the repository serves; None where our index cannot say it, or not soon.

    Raises:
        HgFailed: hg refuses the repository.
    """
    known = repository.at_hand()
    if known is not None:
        return known  # as for nearly all requests, which a task of its own would cost much
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
