# Law of this file: what an idle client asks is answered from the snapshot alone, and encoded once
# for each snapshot: snapshots of one digest answer everything alike.

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final

from repos.hg.errors import CommandError
from repos.hg.repository import HgSnapshot
from wire.hg.v1.answers import (
    encode_branchmap,
    encode_found,
    encode_heads,
    encode_known,
    encode_listkeys,
    encode_not_found,
)

# What is kept of encoded answers, by all repositories together. A repository of 1000 heads has
# 100 kB of them; one whose answers are larger than this has them encoded each time.
REMEMBERED_BYTES: Final = 32 << 20


@dataclass(slots=True)
class Remembered:
    """Answers by snapshot and question; those that were not asked for longest make room.

    It can be used in several threads at once.

    Attributes:
        limit: how many bytes of answers it keeps.
    """

    limit: int = REMEMBERED_BYTES
    _answers: OrderedDict[tuple[str, Hashable], bytes] = field(default_factory=OrderedDict)
    _size: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, snapshot: HgSnapshot, question: Hashable, make: Callable[[], bytes]) -> bytes:
        """What ``make`` gives, or gave to this question of a snapshot with the same digest."""
        place = snapshot.digest, question
        with self._lock:
            found = self._answers.get(place)
            if found is not None:
                self._answers.move_to_end(place)
                return found
        made = make()
        with self._lock:
            if place not in self._answers and _cost(made) <= self.limit:
                self._answers[place] = made
                self._size += _cost(made)
            while self._size > self.limit:
                _, oldest = self._answers.popitem(last=False)
                self._size -= _cost(oldest)
        return made


def _cost(answer: bytes) -> int:
    # Keys and the dictionary's own entries count too, else tiny answers would never make room.
    return len(answer) + 500


REMEMBERED: Final = Remembered()
"""What this process has encoded."""


def heads(snapshot: HgSnapshot) -> bytes:
    """Answer ``heads``."""
    return REMEMBERED.answer(snapshot, "heads", lambda: encode_heads(snapshot.heads))


def known(snapshot: HgSnapshot, nodes: Iterable[bytes]) -> bytes:
    """Answer ``known``: what is hidden, secret or stripped is not."""
    return encode_known(snapshot.index.known(nodes))


def branchmap(snapshot: HgSnapshot) -> bytes:
    """Answer ``branchmap``."""
    return REMEMBERED.answer(snapshot, "branchmap", lambda: encode_branchmap(snapshot.branches))


def listkeys(snapshot: HgSnapshot, namespace: bytes) -> bytes | None:
    """Answer ``listkeys``; a namespace that is not listed is empty, as from stock hg.

    ``phases`` has no roots that are hidden: hg tells those, and no client can use them.

    Returns:
        None if the namespace is there and only hg knows what is in it.
    """
    if namespace == b"bookmarks":
        return REMEMBERED.answer(snapshot, namespace, lambda: encode_listkeys(_bookmarks(snapshot)))
    ours = {b"namespaces": snapshot.namespaces, b"phases": snapshot.phases}.get(namespace)
    if ours is None:
        return None if namespace in snapshot.namespaces else b""
    return REMEMBERED.answer(snapshot, namespace, lambda: encode_listkeys(ours))


def _bookmarks(snapshot: HgSnapshot) -> dict[bytes, bytes]:
    return {name: node.hex().encode() for name, node in snapshot.bookmarks.items()}


def lookup(found: bytes | CommandError) -> bytes:
    """Answer ``lookup`` with what :meth:`repos.hg.lookup.Lookups.lookup` returned or raised."""
    if isinstance(found, CommandError):
        return encode_not_found(found.message % found.words)
    return encode_found(found)
