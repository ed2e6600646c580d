# Law of this file: one run in one file, whose lock says that the run goes on. Each run has files
# of its own: a follower never sees bytes of two runs.
#
#   incoming/<key>           the journal; locked (LOCK_EX) by the process that runs, from its
#                            creation to its end. Three frames, each a length in bytes (64 bits,
#                            big-endian) and a body: the run's name; the head, once it is known;
#                            the record, once all is written.
#   incoming/<key>.<name>    what becomes the entity; locked (LOCK_SH) against sweep and eviction.
#
# A journal whose lock is free has no run any more. Without its third frame that run has failed, or
# its process has died.

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache.layout import (
    Descriptor,
    Layout,
    is_named,
    lock,
    remove,
    unavailable,
    unlock,
    write_all,
)
from stores.entity import is_digest

_LENGTH: Final = 8


@dataclass(frozen=True, slots=True)
class Led:
    """We run.

    Attributes:
        journal: locked by us.
        name: the run's name.
        content: the file to write the entity into.
    """

    journal: Descriptor
    name: str
    content: Descriptor


@dataclass(frozen=True, slots=True)
class Followed:
    """Somebody else runs, or ran until just now.

    Attributes:
        journal: theirs.
    """

    journal: Descriptor


def take_off(layout: Layout, key: str) -> Led | Followed:
    """Become the one who runs for ``key``, or find the one who does.

    Raises:
        CacheUnavailable: incoming/ cannot be written.
        ValueError: ``key`` is no SHA-256 in lower-case hex.
    """
    if not is_digest(key):
        raise ValueError(f"{key!r} is no key: no SHA-256 in lower-case hex")
    path = layout.incoming(key)
    while True:
        journal, created = layout.create_or_open(key)
        locked = lock(journal.number, fcntl.LOCK_EX)
        if not locked and not created:
            return Followed(journal)
        # Between creating and locking, somebody may have taken ours for one of a dead run.
        if locked and is_named(journal.number, path):
            if created:
                return _begin(layout, key, journal)
            _clear(layout, key, journal)
        if locked:
            unlock(journal.number)


def land(layout: Layout, key: str, name: str, journal: Descriptor) -> None:
    """Remove what lies in incoming/ of our run, which has ended, and give up its lock."""
    remove(content_path(layout, key, name))
    remove(layout.incoming(key))
    unlock(journal.number)


def content_path(layout: Layout, key: str, name: str) -> Path:
    """Where a run's entity lies until it is complete."""
    return layout.incoming(f"{key}.{name}")


def append_frame(journal: Descriptor, body: bytes) -> None:
    """Say the next thing of a run.

    Raises:
        OSError: the disk refused.
    """
    write_all(journal.number, len(body).to_bytes(_LENGTH, "big") + body)


@dataclass(slots=True)
class Frames:
    """Reads a journal's frames as they appear.

    Attributes:
        journal: what is read.
        offset: where the next frame begins.
    """

    journal: Descriptor
    offset: int = 0

    def read(self) -> bytes | None:
        """The next frame, or None while it is not there, complete."""
        file = self.journal.number
        # The size is asked first: what is appended after that is for the next look. Asked last, it
        # would speak of a frame whose length was read before it was there, as 0.
        size = os.fstat(file).st_size
        if size < self.offset + _LENGTH:
            return None
        length = int.from_bytes(os.pread(file, _LENGTH, self.offset), "big")
        end = self.offset + _LENGTH + length
        if size < end:
            return None
        body = os.pread(file, length, self.offset + _LENGTH)
        self.offset = end
        return body


def has_ended(journal: Descriptor) -> bool:
    """Tell whether nobody runs any more. What the run has said was all said before."""
    if not lock(journal.number, fcntl.LOCK_SH):
        return False
    unlock(journal.number)
    return True


def _begin(layout: Layout, key: str, journal: Descriptor) -> Led:
    name = secrets.token_hex(8)
    path = content_path(layout, key, name)
    try:
        # The name first: whoever clears up after us knows then which file is ours.
        append_frame(journal, name.encode())
        content = Descriptor(layout.create(path.name))
        lock(content.number, fcntl.LOCK_SH)
    except OSError as error:
        remove(layout.incoming(key))
        unlock(journal.number)
        raise unavailable(f"write {path}", error) from error
    return Led(journal, name, content)


def _clear(layout: Layout, key: str, journal: Descriptor) -> None:
    """Remove the files of a dead run, whose lock we hold."""
    with suppress(OSError, UnicodeDecodeError):
        name = Frames(journal).read()
        if name is not None:
            remove(content_path(layout, key, name.decode("ascii")))
    try:
        layout.incoming(key).unlink(missing_ok=True)
    except OSError as error:
        unlock(journal.number)
        raise unavailable(f"remove {layout.incoming(key)}", error) from error
