# Law of this file: of all processes one at a time asks hg and changes the index, and what it found
# is what all of them serve: the state of an index never goes back behind one that was seen.

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from repos.hg import database
from repos.hg.asking import ask
from repos.hg.build import Builder, Misfit
from repos.hg.bundling import pour
from repos.hg.database import IndexBroken, IndexUnreadable, failure_of
from repos.hg.errors import Restricted, Unservable
from repos.hg.generation import Generation, built, current, forget, locked, open_current
from repos.hg.index import HgIndex
from repos.hg.nodes import Dag
from repos.hg.program import Hg, HgFailed
from repos.hg.state import State, decode, requirements_of, stamps_of, stored_changesets
from repos.stamps import RACY_SECONDS, Stamp, is_racy, stamp

# What was hidden stays in the index until this much of it is: then it is built anew.
HIDDEN_LEAST: Final = 1000
HIDDEN_SHARE: Final = 10

# A repository that changes while it is read is read again, so many times.
_TRIES: Final = 4
# The command line has room for about so many bases. Fewer bases than there are is only more work.
_MOST_BASES: Final = 4000

_UNSERVABLE: Final = {
    b"treemanifest": "its manifest is split by directories",
    b"lfs": "it has files in LFS",
    b"largefiles": "its large files are kept elsewhere",
    b"narrowhg-experimental": "it is a narrow clone",
    b"exp-copies-sidedata-changeset": "it keeps copies beside its changesets",
    b"exp-changelog-v2": "its changelog has more than version 02 of changegroups can say",
    b"exp-revlogv2.2": "its revisions have more than version 02 of changegroups can say",
    b"shallow": "it is a shallow clone",
}

# Both names of one setting, and what of a truth value is no.
_PULLS: Final = (b"web.allow-pull", b"web.allowpull")
_NO: Final = frozenset((b"0", b"no", b"false", b"off", b"never"))


@dataclass(frozen=True, slots=True)
class Kept:
    """What is served, and from where.

    Attributes:
        state: what hg said.
        index: the index, as it is served.
    """

    state: State
    index: HgIndex


@dataclass(slots=True)
class Keeper:
    """Keeps the index of one repository. Its methods block.

    Attributes:
        hg: how it is run.
        hg_dir: the repository's ``.hg``.
        directory: where the index lies.
    """

    hg: Hg
    hg_dir: Path
    directory: Path
    _name: str = ""
    _generation: Generation | None = None
    _dag: Dag | None = None

    def stamps(self) -> tuple[tuple[int, int, int], ...]:
        """What differs as soon as the repository was changed."""
        configuration = map(stamp, map(str, configuration_files(self.hg.environ)))
        return (*stamps_of(self.hg_dir, self.hg.environ), *configuration)

    def check(self) -> None:
        """Ask whether the repository can be served, without reading what is in it.

        Raises:
            HgFailed: hg refuses the repository.
            Unservable: the protocol cannot say what is in it.
        """
        self._refuse_unservable()
        ask(self.hg, self.hg_dir.parent, ())

    def refresh(self, broken: HgIndex | None = None) -> Kept:
        """What is to be served now; the index is made, or grows, if it must.

        Args:
            broken: an index that turned out to be damaged, and is not to be used any more.

        Raises:
            HgFailed: hg refuses the repository.
            Unservable: the protocol cannot say what is in it.
            IndexBroken: no index can be made that holds what it says.
            IndexUnreadable: it cannot be read or written now, as when the disk is full; one that
                is there stays.
            OSError: neither can the repository, or the directory of the index.
        """
        with locked(self.directory):
            if broken is not None and broken.generation.path.parent.name == current(self.directory):
                forget(self.directory)
            return self._try()

    def last(self) -> Kept | None:
        """What was served when hg was asked last, by any process; None if there is no index.

        Raises:
            IndexBroken: the index is damaged.
            IndexUnreadable: it cannot be read now.
            OSError: neither can its directory.
        """
        if current(self.directory) is None:
            return None
        with locked(self.directory):
            generation, state = self._open()
            if generation is None or state is None:
                return None
            return Kept(state, self._index(generation, state))

    def _try(self) -> Kept:
        broken: IndexBroken | Misfit | None = None
        for _ in range(_TRIES):
            before = self.stamps()
            try:
                kept = self._refresh(anew=broken is not None)
            except Misfit as misfit:
                if broken is not None:  # also what was built from nothing does not fit
                    raise Unservable(f"this repository cannot be read: {misfit}") from misfit
                broken = misfit
            except IndexBroken as error:
                if broken is not None:  # nor can one be made
                    raise
                broken = error
            except HgFailed:
                # What it was to bundle may have gone while it was asked.
                if self.stamps() == before:
                    raise
            else:
                if kept is not None:
                    return kept
        if broken is not None:
            raise broken
        raise HgFailed("serve", 0, "the repository changes faster than it can be read")

    def _refresh(self, *, anew: bool) -> Kept | None:
        """One try; None if the repository changed meanwhile."""
        stamps = self.stamps()
        began = time.time()
        generation, state = (None, None) if anew else self._open()
        if generation is not None and state is not None and state.stamps == stamps:
            return Kept(state, self._index(generation, state))
        self._refuse_unservable()
        old_heads = state.told.heads if state is not None else ()
        told = ask(self.hg, self.hg_dir.parent, old_heads)
        if is_racy(_may_hide(stamps, began), began):
            stamps = ()  # a change in the same tick of the clock would go unseen
        stored = stored_changesets(self.hg_dir)
        if generation is None or state is None or self._dag is None:
            return self._build(State(stamps, secrets.token_hex(16), told, stored))
        if any(self._dag.rev(head) is None for head in told.heads):
            return self._grow(generation, state, State(stamps, state.epoch, told, stored))
        return self._settle(generation, state, State(stamps, state.epoch, told, stored), self._dag)

    def _refuse_unservable(self) -> None:
        for word in sorted(requirements_of(self.hg_dir)):
            if word in _UNSERVABLE:
                raise Unservable(
                    f"this repository can have no index: {_UNSERVABLE[word]}"
                    f" (requirement {word.decode('ascii')})"
                )
        self._refuse_restricted()

    def _refuse_restricted(self) -> None:
        """Where hg's configuration says who may read, hgweb asks who somebody is. We do not know.

        hgweb heeds here also what a file says whose owner it does not trust.
        """
        own = (self.hg_dir / name for name in ("hgrc", "hgrc-not-shared"))
        if not any(map(_mentions_web, chain(own, configuration_files(self.hg.environ)))):
            return  # asking hg costs a process
        try:
            said = self.hg.run("config", "--untrusted", "web", repository=self.hg_dir.parent)
        except HgFailed as failure:
            if failure.status != 1:  # which only says that there is nothing
                raise
            return
        web = dict(line.partition(b"=")[::2] for line in said.splitlines())
        if (
            web.get(b"web.deny_read")
            or web.get(b"web.allow_read", b"*") not in {b"", b"*"}
            or any(web.get(name, b"").lower() in _NO for name in _PULLS)
        ):
            raise Restricted(
                "hg's configuration says who may read this repository (web.allow_read,"
                " web.deny_read or web.allow-pull, in its hgrc or in HGRCPATH), and this server"
                " does not know its users; let access.tokens or access.proxies decide, and take"
                " those settings out"
            )

    # --- what is there ------------------------------------------------------------------

    def _open(self) -> tuple[Generation | None, State | None]:
        """The generation that counts, with its graph up to date, and its state."""
        name = current(self.directory)
        if self._generation is None or name != self._name:
            self._generation = open_current(self.directory)
            self._name = name or ""
            self._dag = Dag.empty()
        generation = self._generation
        if generation is None or self._dag is None:
            return None, None
        with generation.reading() as db:
            self._dag = self._dag.grown(
                db.execute(
                    "SELECT node, p1, p2 FROM changeset WHERE rev >= ? ORDER BY rev",
                    (len(self._dag),),
                )
            )
            noted = database.read_meta(db, "state")
        return generation, None if noted is None else decode(noted)

    def _index(self, generation: Generation, state: State) -> HgIndex:
        assert self._dag is not None  # noqa: S101 - it came with the generation
        revs = [self._dag.rev(head) for head in state.told.heads]
        if None in revs:
            raise IndexBroken("the index lacks what it serves")
        return HgIndex.of(generation, self._dag, (rev for rev in revs if rev is not None))

    # --- what becomes of it -------------------------------------------------------------

    def _build(self, state: State) -> Kept | None:
        """Make an index from nothing."""
        with built(self.directory) as path:
            try:
                self._fill(path, state)
            except sqlite3.Error as error:  # not damage: nobody else ever saw this file
                raise IndexUnreadable(f"{path}: {error}") from error
        generation, noted = self._open()
        if generation is None or noted is None:
            return None
        return Kept(noted, self._index(generation, noted))

    def _fill(self, path: Path, state: State) -> None:
        db = database.open_new(path)
        try:
            builder = Builder(db, Dag.empty(), growing=False)
            if state.told.heads != (bytes(20),):
                pour(self.hg, self.hg_dir.parent, (), builder, self.directory)
            else:
                builder.finish()
            database.write_meta(db, "format", database.FORMAT)
            database.write_meta(db, "repository", os.fsencode(self.hg_dir))
            # A state whose heads did not come is none: the repository changed meanwhile.
            if all(builder.dag.rev(head) is not None for head in state.told.heads):
                database.write_meta(db, "state", state.encode())
            database.seal(db, path)
        finally:
            db.close()

    def _grow(self, generation: Generation, old: State, new: State) -> Kept | None:
        """Add what is served and not there."""
        assert self._dag is not None  # noqa: S101 - it came with the generation
        dag = self._dag
        still = [head for head, known in zip(old.told.heads, new.told.known, strict=True) if known]
        both = chain(still, (head for head in new.told.heads if dag.rev(head) is not None))
        revs = {rev for rev in map(dag.rev, both) if rev is not None and rev >= 0}
        # Ancestors of another base add nothing.
        tops = dag.heads(dag.ancestors(revs))[:_MOST_BASES]
        with _growing(generation.path) as db:
            builder = Builder(db, dag, growing=True)
            bases = [dag.node(rev) for rev in tops]
            pour(self.hg, self.hg_dir.parent, bases, builder, self.directory)
            if any(builder.dag.rev(head) is None for head in new.told.heads):
                # What was to be served went away meanwhile. What came may stay: it is not served.
                db.execute("COMMIT")
                return None
            state = self._succeeding(old, new, builder.dag)
            database.write_meta(db, "state", state.encode())
            db.execute("COMMIT")
        self._dag = builder.dag
        return self._unless_hollow(generation, state)

    def _settle(self, generation: Generation, old: State, new: State, dag: Dag) -> Kept | None:
        """Note a state for which everything is there."""
        state = self._succeeding(old, new, dag)
        with _growing(generation.path) as db:
            database.write_meta(db, "state", state.encode())
            db.execute("COMMIT")
        return self._unless_hollow(generation, state)

    def _succeeding(self, old: State, new: State, dag: Dag) -> State:
        """The new state, in a new epoch if something that was served is not any more."""
        revs = [rev for rev in map(dag.rev, new.told.heads) if rev is not None and rev >= 0]
        served = dag.ancestors(revs)
        before = [dag.rev(head) for head in old.told.heads]
        if all(rev is not None and (rev < 0 or served[rev]) for rev in before):
            return new
        return State(new.stamps, secrets.token_hex(16), new.told, new.stored)

    def _unless_hollow(self, generation: Generation, state: State) -> Kept | None:
        """What is served; or, if too much of the index is not, an index without that."""
        index = self._index(generation, state)
        hidden = len(index.dag) - index.count
        if hidden > max(HIDDEN_LEAST, len(index.dag) // HIDDEN_SHARE):
            return self._build(state)
        return Kept(state, index)


def _may_hide(stamps: tuple[Stamp, ...], now: float) -> Iterator[Stamp]:
    """Those of a tick of the clock in which another change could hide.

    Where two changes fall into one second, hg moves the time of the second by a second, and so on:
    after many, a file is of the future. Who changes it then is told by what hg cannot move (see
    `stamps_of`).
    """
    return (each for each in stamps if each[0] / 1e9 <= now + RACY_SECONDS)


def configuration_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """The files that HGRCPATH names, which hg reads for every repository; they may not be there.

    hg finds them from the root directory, where we start it; of a directory it reads ``*.rc``.

    Args:
        environ: of which hg sees a part.
    """
    for name in environ.get("HGRCPATH", "").split(os.pathsep):
        if name:
            home = os.path.expanduser(name)  # noqa: PTH111 - leaves what it does not know
            place = Path("/", os.path.expandvars(home))
            yield from sorted(place.glob("*.rc")) if place.is_dir() else (place,)


def _mentions_web(hgrc: Path) -> bool:
    try:
        text = hgrc.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # hg shall say
    return b"web" in text or b"%include" in text


@contextmanager
def _growing(path: Path) -> Iterator[sqlite3.Connection]:
    """The connection that writes, in a transaction that this block commits, or that is undone."""
    try:
        db = database.open_to_grow(path)
    except sqlite3.Error as error:
        raise failure_of(path, error) from error
    try:
        db.execute("BEGIN IMMEDIATE")
        yield db
    except sqlite3.Error as error:
        raise failure_of(path, error) from error
    finally:
        db.close()  # gives up what was not committed
