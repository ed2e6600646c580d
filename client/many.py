# Law of this file: of several commands sent together, each answer is handed out when it is
# complete, whichever comes first; one that fails does not fail the others.

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

from client.answers import Collected, too_large
from client.errors import ClientError
from client.exchange import Piece, exchange
from client.link import Link
from client.targets import Targets
from client.watch import Call
from wire.hg.cbor import Value
from wire.hg.messages import Location, Moved, Offer

Resolve = Callable[[Call, Location, Offer | None], Awaitable[list[Value]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one of several calls.

    Attributes:
        index: which of the calls, counted from 0.
        call: that call.
        error: why there is no answer; None if there is one.
    """

    index: int
    call: Call
    error: ClientError | None
    _values: list[Value]

    @property
    def objects(self) -> list[Value]:
        """The objects of the answer.

        Raises:
            ClientError: there is none.
        """
        if self.error is not None:
            raise self.error
        return self._values


class Conversation:
    """One multirequest. Redirected answers are fetched while the others come in.

    Args:
        link: to whom.
        calls: what is asked.
        targets: to be offered.
        resolve: fetches an answer that is elsewhere.
    """

    def __init__(
        self, link: Link, calls: Sequence[Call], targets: Targets, resolve: Resolve
    ) -> None:
        self._link = link
        self._calls = tuple(calls)
        self._targets = targets
        self._resolve = resolve
        self._collected = [Collected() for _ in calls]
        self._held = 0
        self._slots = asyncio.Semaphore(link.limits.downloads)
        self._tasks: set[asyncio.Task[None]] = set()
        # One answer waits at most: who is slow to take them slows the server down.
        self._ready: asyncio.Queue[Answer | Exception] = asyncio.Queue(1)

    async def answers(self) -> AsyncGenerator[Answer, None]:
        """The answers, as they become complete."""
        if not self._calls:
            return
        try:
            conversing = self._begin(self._converse())
            for _ in self._calls:
                yield _given(await self._ready.get())
            # The last answer is not the end: that the exchange was in order shows only there.
            await conversing
            if not self._ready.empty():
                _given(self._ready.get_nowait())
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        return task

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        """Bring an error to where the answers are taken."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - raised there
            await self._ready.put(error)

    async def _converse(self) -> None:
        offer = self._targets.offer()
        async with exchange(self._link, self._calls, offer) as pieces:
            async for piece in pieces:
                if piece.error is not None:
                    await self._ready.put(self._done(piece.index, piece.error))
                elif isinstance(piece.status, Moved):
                    if piece.end:
                        self._begin(self._fetch(piece.index, piece.status.location, offer))
                else:
                    self._add(piece)
                    if piece.end:
                        await self._ready.put(self._done(piece.index, None))

    def _add(self, piece: Piece) -> None:
        self._collected[piece.index].add(piece.items, piece.size)
        self._held += piece.size
        if self._held > self._link.limits.collected:
            raise too_large("a multirequest", self._link.limits.collected)

    def _done(self, index: int, error: ClientError | None) -> Answer:
        collected, self._collected[index] = self._collected[index], Collected()
        self._held -= collected.size
        return Answer(index, self._calls[index], error, collected.values())

    async def _fetch(self, index: int, location: Location, offer: Offer | None) -> None:
        call = self._calls[index]
        async with self._slots:
            try:
                answer = Answer(index, call, None, await self._resolve(call, location, offer))
            except ClientError as error:
                answer = Answer(index, call, error, [])
            await self._ready.put(answer)


def _given(answer: Answer | Exception) -> Answer:
    if isinstance(answer, Exception):
        raise answer
    return answer
