# Law of this file: what an upstream of Mercurial is asked by ourselves, and what its answers mean:
# a yes, a no that is meant for the caller, or that nobody knows. What is cut short is never a yes.

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from server.outcome import Question
from server.upstreams.asking import LONGEST_WORD, NO, Asking, Down, heed_status, shown
from server.upstreams.routes import Remote
from wire.hg.v1.capabilities import Capabilities
from wire.hg.v1.media import HG_ERROR, MERCURIAL_0_1, MERCURIAL_0_2, BadAnswer
from wire.hg.v1.requests import BadRequest, BatchCall, read_nodes

# Some servers know Mercurial's clients by their User-Agent.
_HEADERS: Final = {"User-Agent": "mercurial/proto-1.0 (Offramp)", "Accept": MERCURIAL_0_1}
_MEDIA_TYPES: Final = frozenset({MERCURIAL_0_1, MERCURIAL_0_2, HG_ERROR})

# Branches, bookmarks and phases of a repository with a hundred thousand of each.
_LONGEST: Final = 64 << 20
# A longer answer is read in a thread: it would stop the event loop for too long.
_THREAD: Final = 256 << 10
_NULL: Final = bytes(20)

# What is asked in one batch: all that decides what a client is told of a repository.
_CALLS: Final = (
    ("heads", b""),
    ("branchmap", b""),
    *(("listkeys", namespace) for namespace in (b"bookmarks", b"namespaces", b"phases")),
)
BATCH: Final = "cmd=batch&cmds=" + quote(
    ";".join(
        f"{name} {f'namespace={namespace.decode()}' if namespace else ''}"
        for name, namespace in _CALLS
    ),
    safe="",
)
# As a batch escapes them (wire.hg.v1.requests), in the order in which they are undone.
_ESCAPES: Final = ((b":e", b"="), (b":s", b";"), (b":o", b","), (b":c", b":"))


@dataclass(frozen=True, slots=True, weakref_slot=True)
class HgState:
    """What an upstream says of a repository, to one credential.

    Attributes:
        heads: the nodes of its heads, the null node alone if it is empty.
        answers: by command and namespace, as clients get them.
        digest: of all of it, in whatever order it was said.
    """

    heads: tuple[bytes, ...]
    answers: Mapping[tuple[str, bytes], bytes]
    digest: bytes

    @classmethod
    def read(cls, answer: bytes) -> HgState:
        """Read the answer to the batch.

        Raises:
            Down: it is none.
        """
        found = [_unescaped(each) for each in answer.split(b";")]
        if len(found) != len(_CALLS):
            raise Down(f"the upstream answers {len(found)} of {len(_CALLS)} commands of a batch")
        try:
            heads = read_nodes(found[0].strip())
        except BadRequest as error:
            raise Down(f"the upstream's heads cannot be read: {error}") from None
        if not heads:
            raise Down("the upstream names no heads, not even of an empty repository")
        hasher = hashlib.sha256(b" ".join(sorted(found[0].split())))
        for each in found[1:]:
            lines = b"\n".join(sorted(each.split(b"\n")))
            hasher.update(len(lines).to_bytes(8, "big") + lines)
        return cls(heads, dict(zip(_CALLS, found, strict=True)), hasher.digest())

    @staticmethod
    def holds(call: BatchCall) -> bool:
        """Whether every state has the answer to a small command."""
        return (call.name, call.arguments.get(b"namespace", b"")) in _CALLS

    def answer(self, call: BatchCall) -> bytes | None:
        """The answer to a small command; None if only the upstream knows it.

        Raises:
            BadRequest: it is malformed.
        """
        if call.name == "known":
            nodes = read_nodes(call.arguments.get(b"nodes", b""))
            return b"1" * len(nodes) if set(nodes) <= {*self.heads} - {_NULL} else None
        return self.answers.get((call.name, call.arguments.get(b"namespace", b"")))


@dataclass(frozen=True, slots=True)
class HgAsking:
    """Asks upstreams of Mercurial, over the connections of all upstreams."""

    asking: Asking

    async def capabilities(self, remote: Remote, authorization: str | None) -> Capabilities:
        """What it says that it can do, of this repository and to this credential.

        Raises:
            Refused, Down: it says no, or nothing.
        """
        said = await self._string(remote, authorization, "discovery", "cmd=capabilities")
        try:
            words = Capabilities.parse(said)
        except BadAnswer as error:
            raise Down(f"the upstream's answer cannot be read: {error}") from None
        if "batch" not in words or "getbundle" not in words:
            raise Down("the upstream is older than Mercurial 1.9, or is none")
        return words

    async def state(self, remote: Remote, authorization: str | None) -> HgState:
        """What this credential sees of the repository, now.

        Raises:
            Refused, Down: it says no, or nothing.
        """
        said = await self._string(remote, authorization, "refs", BATCH)
        if len(said) > _THREAD:
            return await asyncio.to_thread(HgState.read, said)
        return HgState.read(said)

    async def _string(
        self, remote: Remote, authorization: str | None, question: Question, query: str
    ) -> bytes:
        """What it answers to a command, if that is a string."""
        url = URL(f"{remote.url}?{query}", encoded=True)
        with self.asking.counted(remote, question):
            async with self.asking.request(
                remote, "GET", url, authorization, headers=_HEADERS
            ) as response:
                await judge(response)
                return await _whole(response)


async def judge(response: aiohttp.ClientResponse) -> None:
    """Let an answer of the protocol pass; an error of the protocol is one.

    Raises:
        Refused, Down: it is none.
    """
    if 300 <= response.status < 400:
        raise Down("the upstream redirects; write the URL to which it does into the settings")
    words = b""
    if response.status in NO and response.content_type in {"text/plain", MERCURIAL_0_1}:
        words = await response.content.read(LONGEST_WORD)
    heed_status(response, words.decode(errors="replace").removeprefix("0\n").strip())
    if response.content_type not in _MEDIA_TYPES:
        raise Down(
            f"the upstream does not answer as Mercurial does (Content-Type {shown(response)})"
        )


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """The body of an answer that is a string."""
    if response.content_length is None and "Transfer-Encoding" not in response.headers:
        raise Down("the upstream does not say how long its answer is, so nobody could see its end")
    pieces = bytearray()
    async for data in response.content.iter_any():
        pieces += data
        if len(pieces) > _LONGEST:
            raise Down(f"the upstream's answer is longer than {_LONGEST >> 20} MiB")
    if response.content_type == HG_ERROR:
        said = pieces[:LONGEST_WORD].decode(errors="replace").strip()
        raise Down(f"the upstream says {said!r}")
    if response.content_type != MERCURIAL_0_1:
        raise Down("the upstream answers with a stream in place of a string")
    return bytes(pieces)


def _unescaped(text: bytes) -> bytes:
    for escaped, plain in _ESCAPES:
        text = text.replace(escaped, plain)
    return text
