# Law of this file: every limit of the client has a name, a default and a reason.

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wire.hg import cbor


@dataclass(frozen=True, slots=True)
class Limits:
    """What servers and targets may cost us. Sizes are in bytes, times in seconds.

    Attributes:
        handshake: of the answer to the handshake; that of Mercurial is 3 KB, and each target adds
            a few hundred bytes.
        hops: HTTP redirects that are followed one after another; a mirror or two, and no circles.
        connect: until a connection stands, TLS included.
        silence: of a server before and within an answer. Mercurial's computes a large one for
            minutes before its first byte.
        target_silence: of a target. What lies there is ready, so long silence means it is down.
        tries: of one location, as long as each gets a part of it. Whoever gets nothing at all goes
            to the next target at once.
        pause: before the second try; doubled before each other.
        targets: that may fail in one call; then it is asked inline, which always works.
        entity: of a redirected answer; it may take so much of the disk of temporary files (TMPDIR).
        spool: of a redirected answer that stays in memory; more goes to a temporary file.
        downloads: of one multirequest at a time.
        item: of one object. It must hold the largest file revision of a repository.
        members: of all collections in one object; manifests are byte strings and have none.
        collected: of answers that are held whole: by calls that return lists, and by multirequests
            in all.
        decoded: that an error, a text or a progress may tell, which are for people.
    """

    handshake: int = 4 << 20
    hops: int = 5
    connect: float = 30.0
    silence: float = 600.0
    target_silence: float = 30.0
    tries: int = 5
    pause: float = 0.5
    targets: int = 3
    entity: int = 64 << 30
    spool: int = 1 << 20
    downloads: int = 4
    item: int = 256 << 20
    members: int = 4 << 20
    collected: int = 256 << 20
    decoded: int = 1 << 20

    @property
    def objects(self) -> cbor.Limits:
        """Of the objects of answers."""
        return cbor.Limits(item_size=self.item, members=self.members)


DEFAULT: Final = Limits()
