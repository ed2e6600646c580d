# Law of this file: every call is answered if its server can answer it: where a target fails,
# another is asked, and at last the server itself. A wrong byte never reaches the caller.

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import aiohttp

from client.address import parse_address
from client.answers import Batch, collect
from client.download import download
from client.errors import BadCall, BrokenAnswer, TargetFailed
from client.exchange import Pieces, exchange
from client.handshake import greet
from client.limits import DEFAULT, Limits
from client.link import Link
from client.many import Answer, Conversation
from client.spool import Spool
from client.targets import Accept, Targets, every_target
from client.watch import NOTHING, Call, Watch
from wire.hg.cbor import Item, Scalar, Value
from wire.hg.encodings import PREFERENCE, Encoding
from wire.hg.handshake import ServerApi
from wire.hg.messages import Location, Moved, Offer, Ok

_NO_ARGUMENTS: Mapping[bytes, Value] = {}


@asynccontextmanager
async def connect(
    url: str,
    *,
    session: aiohttp.ClientSession | None = None,
    downloads: aiohttp.ClientSession | None = None,
    encodings: Sequence[Encoding] = PREFERENCE,
    accept: Accept = every_target,
    checked: bool = True,
    watch: Watch = NOTHING,
    limits: Limits = DEFAULT,
) -> AsyncGenerator[Repository, None]:
    """Ask a server what it speaks; the repository can then be asked.

    Args:
        url: of the repository, as it is cloned; ``user:password@`` in it is sent to its server
            alone.
        session: for the server; one of our own if None. It is not closed here.
        downloads: for targets, likewise. It must not carry credentials or cookies of the server:
            what it carries goes wherever the server points.
        encodings: that the server may use, and that we use for requests if it reads them.
        accept: which of the advertised targets may be used.
        checked: refuse commands and arguments that the server does not list, as Mercurial does.
        watch: what is to be told while calls are under way.
        limits: see there.

    Raises:
        ClientError: nobody answers, or nothing that can be spoken with.
    """
    async with AsyncExitStack() as stack:
        if session is None:
            session = await stack.enter_async_context(_session(decompress=True))
        if downloads is None:
            downloads = await stack.enter_async_context(_session(decompress=False))
        greeting = await greet(session, parse_address(url), limits)
        link = Link(
            greeting.address, greeting.api, session, downloads, tuple(encodings), limits, watch
        )
        yield Repository(link, greeting.descriptor, Targets(greeting.api, accept), checked=checked)


def _session(*, decompress: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=decompress)


class Repository:
    """A repository on a server, to be asked. :func:`connect` makes it.

    Attributes:
        descriptor: all that the server says of this API.
        targets: which are offered, and which have failed.
    """

    def __init__(
        self,
        link: Link,
        descriptor: Mapping[Scalar, Value],
        targets: Targets,
        *,
        checked: bool,
    ) -> None:
        self.descriptor = descriptor
        self.targets = targets
        self._link = link
        self._checked = checked

    @property
    def url(self) -> str:
        """The repository's, without credentials."""
        return str(self._link.address)

    @property
    def api(self) -> ServerApi:
        """What the server says of itself, as far as we go by it."""
        return self._link.api

    async def call(
        self,
        name: bytes,
        args: Mapping[bytes, Value] = _NO_ARGUMENTS,
        *,
        data: bytes | None = None,
    ) -> list[Value]:
        """Send one command; all objects of its answer.

        Byte strings that come in pieces are put together.

        Raises:
            CallError: the server says why not.
            TooLarge: the answer is more than ``limits.collected``.
            ClientError: the answer cannot be had.
        """
        async with self._opened(Call(name, args, data)) as batches:
            what = name.decode("utf-8", "replace")
            return await collect(batches, self._link.limits.collected, what)

    @asynccontextmanager
    async def stream(
        self,
        name: bytes,
        args: Mapping[bytes, Value] = _NO_ARGUMENTS,
        *,
        data: bytes | None = None,
    ) -> AsyncGenerator[AsyncIterator[Item], None]:
        """Send one command; iterate over the objects of its answer as they come.

        What is held at a time is an object, or a piece of an indefinite byte string. Leaving the
        context before the end hangs up.

        Raises:
            ClientError: as :meth:`call`. While iterating, too: only after the last object is it
                sure that the answer is whole. (Each object was checked, if the answer came from a
                target.)
        """
        async with (
            self._opened(Call(name, args, data)) as batches,
            aclosing(_items(batches)) as items,
        ):
            yield items

    @asynccontextmanager
    async def many(self, calls: Sequence[Call]) -> AsyncGenerator[AsyncIterator[Answer], None]:
        """Send commands together; iterate over their answers in the order in which they end.

        A command that fails is an answer with an error. Leaving the context before the end hangs
        up.

        Raises:
            ClientError: the exchange as a whole failed, then or while iterating; what has not come
                then does not come.
        """
        for call in calls:
            self._check(call)
        conversation = Conversation(self._link, calls, self.targets, self._resolved)
        async with aclosing(conversation.answers()) as answers:
            yield answers

    # --- one answer ---------------------------------------------------------------------------

    @asynccontextmanager
    async def _opened(self, call: Call) -> AsyncGenerator[AsyncIterator[Batch], None]:
        self._check(call)
        async with AsyncExitStack() as stack:
            yield await self._answer(call, stack)

    async def _answer(
        self, call: Call, stack: AsyncExitStack, failures: int = 0
    ) -> AsyncIterator[Batch]:
        """The objects of an answer, wherever they are; ``stack`` holds what they come from."""
        while True:
            offer = self.targets.offer(inline=failures >= self._link.limits.targets)
            async with AsyncExitStack() as asked:
                pieces = await asked.enter_async_context(exchange(self._link, (call,), offer))
                status = await _begun(pieces)
                if isinstance(status, Batch):
                    stack.push_async_exit(asked.pop_all())
                    return await stack.enter_async_context(aclosing(_inline(status, pieces)))
            spool = await self._spooled(call, status.location, offer)
            if spool is not None:
                return await _read_back(spool, call, stack)
            failures += 1

    async def _resolved(self, call: Call, location: Location, offer: Offer | None) -> list[Value]:
        """All objects of an answer that a multirequest found to be elsewhere."""
        async with AsyncExitStack() as stack:
            spool = await self._spooled(call, location, offer)
            if spool is None:
                batches = await self._answer(call, stack, failures=1)
            else:
                batches = await _read_back(spool, call, stack)
            what = call.name.decode("utf-8", "replace")
            return await collect(batches, self._link.limits.collected, what)

    async def _spooled(self, call: Call, location: Location, offer: Offer | None) -> Spool | None:
        """What lies at a location; None if it cannot be had, and its target is given up."""
        watch = self._link.watch
        if offer is None or not offer.targets:
            raise BrokenAnswer(
                f"{self.url} redirects an answer although no target was offered: it can be had"
                " from nowhere"
            )
        name = self.targets.name_of(location.url, offer)
        if name in self.targets.failed:
            # It was offered before another answer found out.
            return None
        if watch.redirected is not None:
            watch.redirected(call, location, name)
        try:
            return await download(self._link, location)
        except TargetFailed as failed:
            self.targets.fail(location.url, offer, str(failed))
            if watch.failed is not None:
                watch.failed(call, name, str(failed))
            return None

    def _check(self, call: Call) -> None:
        """Refuse what the server does not list."""
        if not self._checked:
            return
        name = call.name.decode("utf-8", "replace")
        command = self.api.commands.get(call.name)
        if command is None:
            listed = sorted(each.decode("utf-8", "replace") for each in self.api.commands)
            raise BadCall(f"{self.url} has no command {name!r}{_meant(name, listed)}")
        for argument in call.args:
            if argument not in command.args:
                listed = sorted(each.decode("utf-8", "replace") for each in command.args)
                given = argument.decode("utf-8", "replace")
                raise BadCall(f"{name} has no argument {given!r}{_meant(given, listed)}")


def _meant(given: str, listed: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, listed, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(listed)}" if listed else "; it has none"


async def _begun(pieces: Pieces) -> Batch | Moved:
    """The first objects of the only answer of an exchange, or where they are.

    Raises:
        CallError: the server says why not.
    """
    moved: Moved | None = None
    async for piece in pieces:
        if piece.error is not None:
            raise piece.error
        if isinstance(piece.status, Moved):
            # Read on to the end: nothing may follow, and the connection is then free.
            moved = piece.status
        elif isinstance(piece.status, Ok):
            return Batch(piece.items, piece.size)
    assert moved is not None  # noqa: S101 - without an answer, the reactor refuses the end
    return moved


async def _inline(first: Batch, pieces: Pieces) -> AsyncGenerator[Batch, None]:
    yield first
    async for piece in pieces:
        if piece.error is not None:
            raise piece.error
        yield Batch(piece.items, piece.size)


async def _read_back(spool: Spool, call: Call, stack: AsyncExitStack) -> AsyncIterator[Batch]:
    stack.callback(spool.close)
    where = f"the redirected answer to {call.name.decode('utf-8', 'replace')}"
    return await stack.enter_async_context(aclosing(spool.batches(where)))


async def _items(batches: AsyncIterator[Batch]) -> AsyncGenerator[Item, None]:
    async for batch in batches:
        for item in batch.items:
            yield item
