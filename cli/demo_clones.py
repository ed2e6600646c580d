# Law of this file: what stock git got is judged by stock git: its fsck, its list of objects, its
# refs. Offramp's own word counts for nothing here.

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cli.demo_programs import Programs, cpu_seconds
from cli.demo_wire import Wire
from cli.errors import Failed

# What heads may take: the refs, a few lines of protocol, and HTTP headers. A few of Offramp's own
# probes of the store, made while a clone runs, take less.
HEADS: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Clone:
    """One clone and what it took.

    Attributes:
        depth: of history, or None for all of it.
        redirected: the client had ``fetch.uriProtocols`` set.
        warm: it was not the first of its kind.
        sent: bytes that Offramp sent, on the wire.
        stored: bytes that came from the store, on the wire: for the client, for Offramp's probes,
            and for its reading back of what it has just published.
        cpu: seconds of processor time of the server and the programs that it ran; or None.
        seconds: for which the client ran.
        fsck: what ``git fsck`` complained of; empty if nothing.
        content: hash of all objects, refs and shallow boundaries: what the client has.
        objects: how many objects it has.
    """

    depth: int | None
    redirected: bool
    warm: bool
    sent: int
    stored: int
    cpu: float | None
    seconds: float
    fsck: str
    content: str
    objects: int

    @property
    def shape(self) -> str:
        """What was asked for, as options of ``git clone``."""
        return "full" if self.depth is None else f"--depth={self.depth}"

    @property
    def values(self) -> dict[str, object]:
        """For a document."""
        return {"shape": self.shape, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Cloner:
    """Clones with stock git and measures.

    Attributes:
        programs: how git is run.
        directory: where clones go, and are removed again.
        offramp, store: relays that count.
        pid: of the server.
    """

    programs: Programs
    directory: Path
    offramp: Wire
    store: Wire
    pid: int

    async def clone(self, name: str, depth: int | None, *, redirected: bool, warm: bool) -> Clone:
        """Clone the repository ``name`` and look at what came.

        Raises:
            Failed: git could not clone, and why.
        """
        kind = "redirected" if redirected else "inline"
        path = self.directory / f"{kind}-{depth or 'full'}-{'warm' if warm else 'cold'}"
        # Each is a client of its own, so none takes over what another has.
        settings = ("-c", "fetch.uriProtocols=http") if redirected else ()
        options = () if depth is None else (f"--depth={depth}",)
        sent, stored, cpu = self.offramp.sent, self.store.sent, cpu_seconds(self.pid)
        began = time.monotonic()
        await self.programs.git(
            *settings, "clone", "--quiet", *options, f"{self.offramp.url}/{name}", path
        )
        seconds = time.monotonic() - began
        ended = cpu_seconds(self.pid)
        sent, stored = self.offramp.sent - sent, self.store.sent - stored
        fsck = await self._fsck(path)
        content, objects = await contents(self.programs, path)
        return Clone(
            depth=depth,
            redirected=redirected,
            warm=warm,
            sent=sent,
            stored=stored,
            cpu=None if cpu is None or ended is None else ended - cpu,
            seconds=seconds,
            fsck=fsck,
            content=content,
            objects=objects,
        )

    async def _fsck(self, path: Path) -> str:
        try:
            await self.programs.git("-C", path, "fsck", "--full", "--strict", "--no-progress")
        except Failed as failure:
            return failure.message
        return ""


async def contents(programs: Programs, path: Path) -> tuple[str, int]:
    """Hash of everything that a repository has, and how many objects that is."""
    listing = await programs.git(
        "-C", path, "cat-file", "--batch-all-objects", "--batch-check", "--unordered"
    )
    objects = sorted(listing.splitlines())
    refs = await programs.git("-C", path, "for-each-ref")
    directory = (await programs.git("-C", path, "rev-parse", "--absolute-git-dir")).rstrip("\n")
    shallow = Path(directory, "shallow")
    boundary = sorted(shallow.read_text().splitlines()) if shallow.exists() else []
    whole = "\n".join([*objects, refs, *boundary])
    return hashlib.sha256(whole.encode()).hexdigest(), len(objects)


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must be so, and whether it is."""

    what: str
    ok: bool


def checks(clones: tuple[Clone, ...], objects: int) -> tuple[Check, ...]:
    """What must be so of clones of a repository that has so many objects."""
    inline = [clone for clone in clones if not clone.redirected]
    redirected = [clone for clone in clones if clone.redirected]
    shapes = {clone.shape for clone in clones}
    same = all(len({c.content for c in clones if c.shape == shape}) == 1 for shape in shapes)
    whole = all(clone.objects == objects for clone in clones if clone.depth is None)
    # The same objects may be packed a little differently.
    least = {shape: min(c.sent for c in inline if c.shape == shape) // 2 for shape in shapes}
    return (
        Check("git fsck finds nothing wrong with any clone", not any(c.fsck for c in clones)),
        Check("redirected and inline clones have the same objects and refs", same),
        Check(f"full clones have all {objects:,} objects", whole),
        Check(
            f"an inline clone takes less than {HEADS >> 10} KiB from the store",
            all(clone.stored < HEADS for clone in inline),
        ),
        Check(
            f"for a redirected clone Offramp sends less than {HEADS >> 10} KiB",
            all(clone.sent < HEADS for clone in redirected),
        ),
        Check(
            "the content of a redirected clone comes from the store",
            all(clone.stored >= least[clone.shape] for clone in redirected),
        ),
    )
