# Law of this file: what an upstream is asked over HTTP, and what its answers mean: a yes, a no that
# is meant for the caller, or that nobody knows. What is not exactly git's answer is never a yes.

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import perf_counter, time
from typing import Final
from urllib.parse import urljoin, urlsplit

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from server.http_faults import why
from server.outcome import Question, Reply
from server.upstreams.routes import Remote
from wire.git.capabilities import Capabilities, is_v2, parse_advertisement
from wire.git.pktline import ProtocolError
from wire.git.probe import LONGEST_PROBE, Allowed, probe_verdict
from wire.git.refs import Refs, parse_ls_refs
from wire.git.v0_advertisement import V0Advertisement
from wire.git.v0_advertisement import parse_advertisement as parse_v0
from wire.git.v2 import encode_ls_refs, encode_probe, without_object_format

SERVICE: Final = "git-upload-pack"
_TAIL: Final = f"/info/refs?service={SERVICE}"
_V2: Final = {"Git-Protocol": "version=2"}
_AGENT: Final = "git/offramp"

# A list of half a million refs; longer, and nobody's clone would be pleasant.
_LONGEST_LIST: Final = 64 << 20
# A longer list is read in a thread: it would stop the event loop for too long.
_THREAD: Final = 256 << 10
# What an upstream's refusal may say to the caller.
LONGEST_WORD: Final = 4 << 10
_HOPS: Final = 3
# Statuses that are meant for the caller.
NO: Final = frozenset({401, 403, 404, 410})
_MOVED: Final = frozenset({301, 302, 303, 307, 308})


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """The upstream says no to this credential.

    Attributes:
        status: 401, 403 or 404.
        challenges: its ``WWW-Authenticate`` headers.
        text: what it says to people; may be empty.
    """

    def __init__(self, status: int, challenges: tuple[str, ...] = (), text: str = "") -> None:
        self.status = status
        self.challenges = challenges
        self.text = text
        super().__init__(f"the upstream answered {status}")


class Down(Exception):  # noqa: N818 - a state of the upstream
    """The upstream says neither yes nor no; the message is fit to be shown to a caller.

    Attributes:
        retry_after: seconds after which it wants to be asked again, if it said so.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class SpeaksV2:
    """The upstream speaks protocol v2 for this repository.

    Attributes:
        base: URL of the repository, after redirects.
        capabilities: what it can do, as far as we understand it.
    """

    base: str
    capabilities: Capabilities

    def spelt(self, request: bytes) -> bytes:
        """A request of ours in the words that it advertises."""
        if self.capabilities.has("object-format"):
            return request
        return without_object_format(request)

    @property
    def object_format(self) -> str:
        """``sha1`` or ``sha256``."""
        return self.capabilities.object_format


@dataclass(frozen=True, slots=True)
class SpeaksV0:
    """The upstream speaks protocol v0 only; what can be asked is the advertisement.

    Attributes:
        base: URL of the repository, after redirects.
        object_format: ``sha1`` or ``sha256``.
    """

    base: str
    object_format: str


Spoken = SpeaksV2 | SpeaksV0

Count = Callable[[str, Question, Reply, float], None]
"""Told of each question: the upstream's path, what was asked, how it ended, and the seconds."""


def _uncounted(upstream: str, question: Question, reply: Reply, seconds: float) -> None:
    """Keep no figures."""


@dataclass(slots=True)
class Ending:
    """How a question ends, if not by an exception."""

    reply: Reply = "yes"


@dataclass(slots=True)
class Asking:
    """Asks upstreams; one connection pool for all.

    Attributes:
        http: the connections.
        count: told of each question.
    """

    http: aiohttp.ClientSession
    count: Count = _uncounted
    _contexts: dict[str, ssl.SSLContext] = field(default_factory=dict)

    async def discover(
        self, remote: Remote, authorization: str | None
    ) -> tuple[Spoken, Refs | None]:
        """What the upstream speaks for this repository; with v0 its refs come along.

        Raises:
            Refused, Down: it says no, or nothing.
        """
        base = remote.url
        with self.counted(remote, "discovery"):
            for _ in range(_HOPS + 1):
                async with self.request(
                    remote, "GET", base + _TAIL, authorization, headers=_V2
                ) as response:
                    if response.status in _MOVED:
                        base = moved(remote, base, response.headers.get("Location", ""))
                        continue
                    body = await _body(response, "advertisement")
                return await _read_discovery(body, base)
            raise Down("the upstream redirects again and again")

    async def refs(self, remote: Remote, spoken: Spoken, authorization: str | None) -> bytes | Refs:
        """The refs that this credential sees, now: an answer to ``ls-refs``, or a list with v0.

        Raises:
            Refused, Down: it says no, or nothing.
        """
        if isinstance(spoken, SpeaksV0):
            again, refs = await self.discover(remote, authorization)
            if refs is None:
                raise Down(f"the upstream spoke protocol v0, and now {type(again).__name__}")
            return refs
        asked = encode_ls_refs(
            spoken.object_format,
            peel=True,
            symrefs=True,
            unborn="unborn" in spoken.capabilities.value("ls-refs").split(),
            prefixes=(),
        )
        with self.counted(remote, "refs"):
            async with self.request(
                remote,
                "POST",
                f"{spoken.base}/{SERVICE}",
                authorization,
                headers=_V2,
                body=spoken.spelt(asked),
            ) as response:
                body = await _body(response, "result")
            if body[4:8] == b"ERR ":
                raise Refused(403, text=body[8:LONGEST_WORD].decode(errors="replace").strip())
        return body

    async def may_have(
        self, remote: Remote, spoken: SpeaksV2, authorization: str | None, oids: Collection[str]
    ) -> str | None:
        """Ask whether this credential may have objects that no ref of its names.

        Returns:
            None if it may have all of them, else the upstream's words.

        Raises:
            Refused, Down: it says no to the credential, or nothing.
        """
        filtered = "filter" in spoken.capabilities.fetch_features
        asked = encode_probe(oids, spoken.object_format, filtered=filtered)
        with self.counted(remote, "probe") as ending:
            words = await self._probe(remote, spoken, authorization, asked)
            ending.reply = "yes" if words is None else "no"
        return words

    @contextmanager
    def counted(self, remote: Remote, question: Question) -> Iterator[Ending]:
        """Count the question that this block puts; one that is given up does not count."""
        began = perf_counter()
        ending = Ending()
        try:
            yield ending
        except Refused:
            self.count(remote.upstream.title, question, "no", perf_counter() - began)
            raise
        except Exception:
            self.count(remote.upstream.title, question, "down", perf_counter() - began)
            raise
        else:
            self.count(remote.upstream.title, question, ending.reply, perf_counter() - began)

    async def _probe(
        self, remote: Remote, spoken: SpeaksV2, authorization: str | None, asked: bytes
    ) -> str | None:
        async with self.request(
            remote,
            "POST",
            f"{spoken.base}/{SERVICE}",
            authorization,
            headers=_V2,
            body=spoken.spelt(asked),
        ) as response:
            _check(response, "result", await _words(response))
            said = b""
            async for data in response.content.iter_any():
                said = (said + data)[:LONGEST_PROBE]
                try:
                    verdict = probe_verdict(said)
                except ProtocolError as error:
                    raise Down(f"the upstream's answer cannot be read: {error}") from None
                if verdict is not None:
                    response.close()  # the rest is content, which nobody asked for
                    return None if isinstance(verdict, Allowed) else verdict.message
        raise Down("the upstream's answer is cut short")

    @asynccontextmanager
    async def request(
        self,
        remote: Remote,
        method: str,
        url: str | URL,
        authorization: str | None,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; no redirect is followed by itself.

        Args:
            remote: the repository.
            method: of HTTP.
            url: a :class:`URL` is sent as it is.
            authorization: the credential.
            headers: win over our own.
            body: of git's service.

        Raises:
            Down: the connection fails, or it takes too long, also in the block.
        """
        fields = {"User-Agent": _AGENT, **headers}
        if authorization is not None:
            fields["Authorization"] = authorization
        if body is not None:
            fields["Content-Type"] = f"application/x-{SERVICE}-request"
        async with (
            _told(),
            asyncio.timeout(remote.upstream.timeout),
            self.http.request(
                method,
                url,
                data=body,
                headers=fields,
                allow_redirects=False,
                ssl=self.context(remote),
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response,
        ):
            yield response

    def context(self, remote: Remote) -> ssl.SSLContext | bool:
        """What its certificate is checked with; True: with this machine's authorities."""
        ca_file = remote.upstream.ca_file
        if ca_file is None:
            return True
        known = self._contexts.get(str(ca_file))
        if known is None:
            try:
                known = ssl.create_default_context(cafile=ca_file)
            except (OSError, ssl.SSLError) as error:
                raise Down(f"ca_file {ca_file} cannot be used: {error}") from None
            self._contexts[str(ca_file)] = known
        return known


def reply_of(status: int) -> Reply:
    """What a status of HTTP says, of an answer that is not looked into."""
    if status in NO:
        return "no"
    return "down" if status == 429 or status >= 500 else "yes"


def moved(remote: Remote, base: str, location: str) -> str:
    """The base URL to which a redirect of discovery leads.

    Raises:
        Down: it leads away from the upstream, and the settings do not allow where.
    """
    target = urljoin(base + _TAIL, location)
    if not target.endswith(_TAIL):
        raise Down("the upstream redirects to what is no repository (a page to log in?)")
    old, new = urlsplit(base), urlsplit(target)
    host = new.netloc.lower()
    same = host == old.netloc.lower() or host == urlsplit(remote.url).netloc.lower()
    if not (same or host in remote.upstream.redirect_hosts):
        raise Down(f"the upstream redirects to {new.hostname}, which redirect_hosts does not list")
    if new.scheme not in {"http", "https"} or (old.scheme == "https" and new.scheme == "http"):
        raise Down("the upstream redirects to a URL that is less safe")
    return target.removesuffix(_TAIL)


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """Whatever befalls a connection is :class:`Down`; its words name no URL and no credential."""
    try:
        yield
    except TimeoutError:
        raise Down("the upstream did not answer in time") from None
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
        raise Down("the upstream's certificate cannot be verified; see ca_file") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Down(f"the upstream cannot be asked ({why(error)})") from None


async def _body(response: aiohttp.ClientResponse, kind: str) -> bytes:
    """The whole body of an answer that is git's; ``kind`` is advertisement or result."""
    _check(response, kind, await _words(response))
    pieces = bytearray()
    async for data in response.content.iter_any():
        pieces += data
        if len(pieces) > _LONGEST_LIST:
            raise Down(f"the upstream's list of refs is longer than {_LONGEST_LIST >> 20} MiB")
    return bytes(pieces)


async def _words(response: aiohttp.ClientResponse) -> str:
    """What a refusal says to people."""
    if response.status not in NO or response.content_type != "text/plain":
        return ""
    return (await response.content.read(LONGEST_WORD)).decode(errors="replace").strip()


def heed_status(response: aiohttp.ClientResponse, words: str) -> None:
    """Let status 200 pass.

    Args:
        response: the answer.
        words: what it says to people, if it is a no.

    Raises:
        Refused, Down: it is another one.
    """
    status = response.status
    if status in NO:
        challenges = tuple(response.headers.getall("WWW-Authenticate", ()))
        raise Refused(404 if status == 410 else status, challenges, words)
    if status != 200:
        raise Down(f"the upstream answers with status {status}", _retry_after(response.headers))


def _check(response: aiohttp.ClientResponse, kind: str, words: str) -> None:
    """Let git's own answer pass.

    Raises:
        Refused, Down: it is none.
    """
    heed_status(response, words)
    if response.content_type != f"application/x-{SERVICE}-{kind}":
        raise Down(f"the upstream does not answer as git does (Content-Type {shown(response)})")


def shown(response: aiohttp.ClientResponse) -> str:
    """Its Content-Type, as far as it is fit to be shown."""
    return repr(response.content_type[:64])


def _retry_after(headers: CIMultiDictProxy[str]) -> float | None:
    """Seconds, of either form (RFC 9110 section 10.2.3); None if it says nothing sensible."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return float(said[:9])
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time())
    except (ValueError, OverflowError):
        return None


def _discovered(body: bytes, base: str) -> tuple[Spoken, Refs | None]:
    if is_v2(body):
        return SpeaksV2(base, parse_advertisement(body)), None
    advertised: V0Advertisement = parse_v0(body)
    return SpeaksV0(base, advertised.object_format), advertised.refs


async def _read_discovery(body: bytes, base: str) -> tuple[Spoken, Refs | None]:
    try:
        if len(body) > _THREAD:
            return await asyncio.to_thread(_discovered, body, base)
        return _discovered(body, base)
    except ProtocolError as error:
        raise Down(f"the upstream's answer cannot be read: {error}") from None


async def read_refs(body: bytes) -> Refs:
    """Read an answer to ``ls-refs``.

    Raises:
        Down: it is none.
    """
    try:
        if len(body) > _THREAD:
            return await asyncio.to_thread(parse_ls_refs, body)
        return parse_ls_refs(body)
    except ProtocolError as error:
        raise Down(f"the upstream's list of refs cannot be read: {error}") from None
