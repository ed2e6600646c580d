# Law of this file: a mirror is asked as a client asks it that is redirected there, with no
# credential, and no redirect of its own is followed. What it answers is its refs, or a reason why
# no client should be sent there for them.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

import aiohttp
from yarl import URL

from redirects.decision import Reason
from redirects.sessions import SessionMirror, Vcs
from server.http_faults import why
from server.sessions.refs import Ours, git_digest, hg_state_digest
from server.upstreams.asking import SERVICE, Down
from server.upstreams.hg_asking import BATCH, HgState
from wire.git.capabilities import Capabilities, is_v2, lacking, parse_advertisement
from wire.git.pktline import ProtocolError
from wire.git.refs import Refs, parse_ls_refs
from wire.git.response import FetchResponseParser, Head, RemoteError, is_cut_off
from wire.git.v0_advertisement import parse_advertisement as parse_v0
from wire.git.v2 import encode_ls_refs, encode_wholeness, without_object_format
from wire.hg.v1.media import MERCURIAL_0_1

MARK: Final = "X-Offramp-Sessions"
"""By this header an Offramp says, with each answer of a repository, what becomes of sessions."""

STAY: Final = "stay"
"""They stay: it was asked below ``/-/here/``."""

MAY_MOVE: Final = "may-move"
"""They may be redirected to mirrors of its own."""

T = TypeVar("T")

_GIT_HEADERS: Final = {"User-Agent": "git/offramp", "Git-Protocol": "version=2"}
# Some servers know Mercurial's clients by their User-Agent.
_HG_HEADERS: Final = {"User-Agent": "mercurial/proto-1.0 (Offramp)", "Accept": MERCURIAL_0_1}

# Statuses by which whoever stands before a mirror says that the mirror does not answer.
_GATEWAY: Final = frozenset({502, 503, 504})

# Refs behind which history is looked at.
_TIPS: Final = 32
# Repositories of which it is remembered that their history is whole.
_REMEMBERED: Final = 4096
# A list of half a million refs.
_LONGEST: Final = 64 << 20
# A longer list is read in a thread: it would stop the event loop for too long.
_THREAD: Final = 256 << 10


class Unreachable(Exception):  # noqa: N818 - a state of the mirror
    """It does not answer at all; the message is for the log."""


class Unfit(Exception):  # noqa: N818 - a state of the mirror
    """It answers, and nobody should be sent there for this repository.

    Attributes:
        reason: why; the message is for the log.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Reading:
    """Asks one mirror for the refs of one repository.

    Attributes:
        http: the connections; they keep no cookies.
        mirror: whom to ask.
        answer_time: seconds within which an answer begins; else it is not reachable.
        whole_time: seconds within which it is all here.
        whole: repositories of which it was seen that it has the whole history.
    """

    http: aiohttp.ClientSession
    mirror: SessionMirror
    answer_time: float
    whole_time: float
    whole: set[str] = field(default_factory=set)

    async def digest(self, vcs: Vcs, repository: str, ours: Ours) -> str:
        """The digest of its refs, now; see :mod:`server.sessions.refs`.

        Of a git repository whose refs are ours it is seen once whether its history is whole.

        Raises:
            Unreachable: it does not answer.
            Unfit: its answer is none that a client could go on with.
        """
        try:
            async with asyncio.timeout(self.whole_time):
                if vcs == "git":
                    return await self._git(repository, ours)
                return hg_state_digest(await self._hg(repository))
        except TimeoutError:
            raise _unreadable(f"its answer is not whole within {self.whole_time:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"its answer broke off ({why(error)})") from None
        except (ProtocolError, RemoteError, Down) as error:
            raise _unreadable(f"its answer cannot be read: {error}") from None

    async def _git(self, repository: str, ours: Ours) -> str:
        first = self.mirror.first_url("git", repository)
        async with self._asked("GET", first, _GIT_HEADERS) as response:
            said = await _body(response, f"application/x-{SERVICE}-advertisement")
        if not is_v2(said):
            await _read(parse_v0, said)
            raise Unfit(
                Reason.MIRROR_LACKS,
                "it speaks git's protocol v0 alone; its web server may keep the header"
                " Git-Protocol from git",
            )
        capabilities = parse_advertisement(said)
        if ours.capabilities is not None and (words := lacking(ours.capabilities, capabilities)):
            raise Unfit(Reason.MIRROR_LACKS, f"its git does not offer {', '.join(words)}")
        asked = encode_ls_refs(
            capabilities.object_format,
            peel=True,
            symrefs=True,
            unborn="unborn" in capabilities.value("ls-refs").split(),
            prefixes=(),
        )
        refs = await _read(parse_ls_refs, await self._posted(repository, capabilities, asked))
        digest = await git_digest(refs)
        if digest == ours.digest and refs.tips and repository not in self.whole:
            await self._see_whole(repository, capabilities, refs)
        return digest

    async def _see_whole(self, repository: str, capabilities: Capabilities, refs: Refs) -> None:
        """See that history is not cut off behind some of the refs, HEAD first.

        A shallow clone that was made in the usual way is cut off behind each of them.
        """
        named = (ref.oid for ref in sorted(refs.refs, key=lambda ref: ref.name != b"HEAD"))
        tips = islice(dict.fromkeys(oid for oid in named if oid is not None), _TIPS)
        asked = encode_wholeness(tips, capabilities.object_format)
        parser = FetchResponseParser()
        events = parser.feed(await self._posted(repository, capabilities, asked, marked=False))
        parser.close()
        if any(isinstance(event, Head) and is_cut_off(event.raw) for event in events):
            raise Unfit(Reason.MIRROR_CUT_OFF, "it is a shallow clone")
        if len(self.whole) >= _REMEMBERED:
            self.whole.clear()
        self.whole.add(repository)

    async def _posted(
        self, repository: str, capabilities: Capabilities, asked: bytes, *, marked: bool = True
    ) -> bytes:
        """What is answered to one request of protocol v2."""
        if not capabilities.has("object-format"):
            asked = without_object_format(asked)
        service = f"{self.mirror.repository_url(repository)}/{SERVICE}"
        headers = {**_GIT_HEADERS, "Content-Type": f"application/x-{SERVICE}-request"}
        async with self._asked("POST", service, headers, asked, marked=marked) as response:
            return await _body(response, f"application/x-{SERVICE}-result")

    async def _hg(self, repository: str) -> HgState:
        first = self.mirror.first_url("hg", repository)
        async with self._asked("GET", first, _HG_HEADERS) as response:
            words = (await _body(response, MERCURIAL_0_1)).split()
        if b"batch" not in words:
            raise _unreadable("it is older than Mercurial 1.9, or is none")
        batch = f"{self.mirror.repository_url(repository)}?{BATCH}"
        async with self._asked("GET", batch, _HG_HEADERS) as response:
            said = await _body(response, MERCURIAL_0_1)
        state = await _read(HgState.read, said)
        if b"obsolete" in _keys(state.answers["listkeys", b"namespaces"]):
            asked = f"{self.mirror.repository_url(repository)}?cmd=listkeys&namespace=obsolete"
            async with self._asked("GET", asked, _HG_HEADERS) as response:
                if await _body(response, MERCURIAL_0_1):
                    raise Unfit(Reason.HAS_MARKERS, "it has markers of what is obsolete")
        return state

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        marked: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, to an answer that a client could go on with.

        ``marked``: an Offramp says in the answer whether sessions stay; not where it sends a pack.
        """
        opened = self.http.request(
            method,
            URL(url, encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        try:
            async with asyncio.timeout(self.answer_time):
                response = await opened
        except TimeoutError:
            raise Unreachable(f"no answer within {self.answer_time:g} s") from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise Unreachable("its certificate cannot be verified") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"no answer ({why(error)})") from None
        async with response:
            self._judge(response, marked=marked)
            yield response

    def _judge(self, response: aiohttp.ClientResponse, *, marked: bool) -> None:
        status, mark = response.status, response.headers.get(MARK)
        if status in _GATEWAY:
            raise Unreachable(f"it answers with status {status}")
        if 300 <= status < 400:
            raise Unfit(Reason.MIRROR_REDIRECTS, f"it redirects (status {status})")
        if status == 404 and self.mirror.offramp and mark is None:
            said = "it answers with status 404, and does not say that sessions stay"
            raise Unfit(Reason.MIRROR_NO_OFFRAMP, said)
        if status != 200:
            raise _unreadable(f"it answers with status {status}")
        if not marked:
            return
        if self.mirror.offramp and mark != STAY:
            raise Unfit(Reason.MIRROR_NO_OFFRAMP, "its answer does not say that sessions stay")
        if not self.mirror.offramp and mark is not None:
            raise Unfit(Reason.MIRROR_MOVES_SESSIONS, "it says that sessions may be redirected")


def _keys(listed: bytes) -> set[bytes]:
    """The keys of an answer to ``listkeys``."""
    return {line.partition(b"\t")[0] for line in listed.split(b"\n")}


def _unreadable(message: str) -> Unfit:
    return Unfit(Reason.MIRROR_UNREADABLE, message)


async def _body(response: aiohttp.ClientResponse, media_type: str) -> bytes:
    """The whole body of an answer of this type."""
    if response.content_type != media_type:
        raise _unreadable(f"it answers with Content-Type {response.content_type[:64]!r}")
    pieces = bytearray()
    async for data in response.content.iter_any():
        pieces += data
        if len(pieces) > _LONGEST:
            raise _unreadable(f"its answer is longer than {_LONGEST >> 20} MiB")
    return bytes(pieces)


async def _read(parse: Callable[[bytes], T], body: bytes) -> T:
    if len(body) > _THREAD:
        return await asyncio.to_thread(parse, body)
    return parse(body)
