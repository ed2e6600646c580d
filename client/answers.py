# Law of this file: an answer is a status, and after one that is ok, objects. No socket.

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from client.errors import TooLarge
from wire.hg import cbor
from wire.hg.cbor import Chunk, Item, Value
from wire.hg.errors import ProtocolViolation
from wire.hg.messages import Ok, Status, parse_status


@dataclass(frozen=True, slots=True)
class Batch:
    """Objects that came together.

    Attributes:
        items: complete objects, and pieces of indefinite byte strings.
        size: of the bytes that came, which need not be those of these objects: what has begun
            counts, too.
    """

    items: list[Item]
    size: int


class AnswerReader:
    """Reads one answer, in pieces that are cut anywhere.

    Attributes:
        status: None until it has come.
    """

    def __init__(self, limits: cbor.Limits) -> None:
        self.status: Status | None = None
        self._decoder = cbor.Decoder(limits)

    def feed(self, data: bytes, *, end: bool) -> list[Item]:
        """The objects that ``data`` completes; the status is not among them.

        Raises:
            ProtocolViolation: there is no status, or objects follow one that is not ok.
            cbor.CborError: they cannot be read.
        """
        items = self._decoder.feed(data)
        if self.status is None and items:
            self.status = parse_status(items.pop(0))
        if items and not isinstance(self.status, Ok):
            raise ProtocolViolation("objects after a status that has none")
        if end:
            self._decoder.end()
            if self.status is None:
                raise ProtocolViolation("an answer without a status")
        return items


class Collected:
    """Objects of one answer, held whole; byte strings that came in pieces are put together.

    Attributes:
        size: bytes that came.
    """

    def __init__(self) -> None:
        self.size = 0
        self._values: list[Value] = []
        self._pieces: list[bytes] = []

    def add(self, items: Iterable[Item], size: int) -> None:
        """Take more of the answer."""
        self.size += size
        for item in items:
            if not isinstance(item, Chunk):
                self._values.append(item)
                continue
            self._pieces.append(item.data)
            if item.last:
                self._values.append(b"".join(self._pieces))
                self._pieces.clear()

    def values(self) -> list[Value]:
        """All objects, once the answer is complete."""
        return self._values


async def collect(batches: AsyncIterator[Batch], limit: int, what: str) -> list[Value]:
    """All objects of an answer.

    Raises:
        TooLarge: they are more than ``limit`` bytes.
    """
    collected = Collected()
    async for batch in batches:
        collected.add(batch.items, batch.size)
        if collected.size > limit:
            raise too_large(what, limit)
    return collected.values()


def too_large(what: str, limit: int) -> TooLarge:
    """Who wants a list of objects gets no more than fits."""
    return TooLarge(
        f"{what}: an answer of more than {limit} bytes, which is what is held at a time; use"
        " stream(), or ask for less at once"
    )
