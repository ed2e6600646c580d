# Law of this file: for every ref of a repository it is known when it could have had which value, so
# that of each clone it can be said whether the repository ever looked so while it was made. Nobody
# but the author here changes it, and nothing is ever collected.

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final

from benchmarks.hg_repository import Hg
from benchmarks.soak_programs import Ran, run, told
from benchmarks.soak_troubles import Troubles, What

_WHO: Final = "A U Thor <author@example.org>"
_MAIN: Final = "refs/heads/main"
_FORCED: Final = "refs/heads/topic"

# Pushes until one branch goes for each that comes.
_BRANCHES: Final = 6

# How often a push is tried again that a killed worker took with it.
_TRIES: Final = 4


@dataclass(slots=True)
class _Value:
    value: str
    since: float
    until: float = inf


@dataclass(slots=True)
class History:
    """What each ref could have been, and when; an empty value: it was not there."""

    _values: dict[str, list[_Value]] = field(default_factory=dict)

    def may_become(self, changes: Mapping[str, str]) -> None:
        """From now on refs may have new values, or those they had."""
        now = time.time()
        for ref, value in changes.items():
            known = self._values.setdefault(ref, [_Value("", 0.0)])
            known.append(_Value(value, now))

    def are(self, refs: Mapping[str, str]) -> None:
        """These refs have these values, and nothing is under way that would change them."""
        now = time.time()
        for ref in {*self._values, *refs}:
            value = refs.get(ref, "")
            known = self._values.setdefault(ref, [_Value(value, now)])
            for each in known:
                if each.value != value:
                    each.until = min(each.until, now)
            if all(each.value != value or each.until < inf for each in known):
                known.append(_Value(value, now))

    def could_be(self, ref: str, value: str, began: float, ended: float) -> bool:
        """Whether a ref could have had a value at some moment of a time."""
        return any(
            each.value == value and each.since <= ended and each.until >= began
            for each in self._values.get(ref, [_Value("", 0.0)])
        )

    def names(self) -> set[str]:
        """All refs that there ever were."""
        return set(self._values)


@dataclass(slots=True)
class GitOrigin:
    """A repository as the server has it.

    Attributes:
        path: the repository.
        environ: of git.
        history: what its refs were.
        commits: ids that were on its main branch, the newest last.
    """

    path: Path
    environ: Mapping[str, str]
    history: History = field(default_factory=History)
    commits: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its served path."""
        return self.path.name

    async def git(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """What git says in it."""
        return await told(("git", *arguments), self.path, self.environ, stdin)

    async def look(self) -> dict[str, str]:
        """Read the refs as they are, while nobody changes them."""
        lines = (await self.git("for-each-ref", "--format=%(refname) %(objectname)")).splitlines()
        refs = dict(line.split() for line in lines)
        self.history.are(refs)
        if refs[_MAIN] not in self.commits[-1:]:
            self.commits.append(refs[_MAIN])
        return refs

    async def objects(self, tips: Iterable[str], *options: str) -> set[str]:
        """What is reached from ``tips``, by options of git-rev-list(1)."""
        said = await self.git(
            "rev-list", "--objects", *options, "--stdin", stdin="\n".join(tips).encode()
        )
        return {line.split()[0] for line in said.splitlines() if not line.startswith("~")}

    async def all_objects(self) -> set[str]:
        """What it has, reached or not."""
        return set(
            (
                await self.git("cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
            ).split()
        )


@dataclass(slots=True)
class Author:
    """Writes into a git repository, by pushes of stock git.

    Attributes:
        origin: the repository.
        clone: a bare repository of its own, in which commits are made.
        url: through which most pushes go.
        troubles: told of pushes.
        chance: decides what is pushed, and which way.
        failed: pushes that did not come through at once, what git said of them, and their times.
    """

    origin: GitOrigin
    clone: Path
    url: str
    troubles: Troubles
    chance: random.Random
    failed: list[Ran] = field(default_factory=list)
    _number: int = 0
    _branches: list[str] = field(default_factory=list)

    async def start(self) -> None:
        """Make the clone and the first topic branch."""
        environ = self.origin.environ
        await told(
            ("git", "clone", "--quiet", "--bare", self.origin.path, self.clone),
            self.clone.parent,
            environ,
        )
        await self.push()

    async def push(self) -> None:
        """Make something new, and push it; what is lost with a killed worker is pushed again.

        Raises:
            soak_programs.ProgramFailed: it cannot be pushed.
        """
        self._number += 1
        changes = {_MAIN: await self._commit(_MAIN, _MAIN)}
        forced = self._number % 3 == 1
        if forced:
            # On what it was based on before, so that what was there goes away.
            changes[_FORCED] = await self._commit("refs/made/topic", _MAIN + "~3")
        if self._number % 2 == 0:
            name = f"refs/heads/feature/{self._number}"
            self._branches.append(name)
            changes[name] = changes[_MAIN]
        if len(self._branches) > _BRANCHES:
            changes[self._branches.pop(0)] = ""
        if self._number % 10 == 0:
            changes[f"refs/tags/r{self._number}"] = await self._tag(changes[_MAIN])
        self.origin.history.may_become(changes)
        with self.troubles.going_on(What.PUSH) as pushed:
            words = [f"+{value}:{ref}" if value else f":{ref}" for ref, value in changes.items()]
            direct = self.chance.random() < 0.3
            pushed.how = "into the directory" if direct else "through the server"
            if forced:
                with self.troubles.going_on(What.FORCED):
                    await self._send(self.origin.path if direct else self.url, words)
            else:
                await self._send(self.origin.path if direct else self.url, words)
            await self.origin.look()

    async def _send(self, where: str | Path, words: list[str]) -> None:
        command = ("git", "push", "--quiet", where, *words)
        for left in reversed(range(_TRIES)):
            if not left:
                await told(command, self.clone, self.origin.environ)
                return
            ran = await run(command, self.clone, self.origin.environ)
            if not ran.status:
                return
            self.failed.append(ran)
            # A program of the worker that was killed may still be writing.
            await asyncio.sleep(0.5)

    async def _commit(self, ref: str, parent: str) -> str:
        chance = self.chance
        text = "".join(f"{chance.random()}\n" for _ in range(chance.randint(20, 200)))
        path = f"src/part{chance.randrange(8)}/pushed{chance.randrange(40)}.txt"
        base = (await self._git("rev-parse", parent)).strip()
        stream = (
            f"commit {ref}\ncommitter {_WHO} {int(time.time())} +0000\n"
            f"data 5\nnews\n\nfrom {base}\nM 100644 inline {path}\ndata {len(text)}\n{text}\n"
        )
        await self._git("fast-import", "--quiet", "--force", stdin=stream.encode())
        return (await self._git("rev-parse", ref)).strip()

    async def _tag(self, commit: str) -> str:
        text = f"object {commit}\ntype commit\ntag r{self._number}\ntagger {_WHO} 0 +0000\n\nr\n"
        return (await self._git("mktag", stdin=text.encode())).strip()

    async def _git(self, *arguments: str, stdin: bytes = b"") -> str:
        return await told(("git", *arguments), self.clone, self.origin.environ, stdin)


@dataclass(slots=True)
class HgOrigin:
    """A Mercurial repository as the server has it, and a work copy that grows it.

    Attributes:
        path: the repository.
        work: a clone of it.
        hg: that writes.
        history: what its only head was; a ref named ``head``.
    """

    path: Path
    work: Path
    hg: Hg
    history: History = field(default_factory=History)
    _number: int = 0

    @property
    def name(self) -> str:
        """Its served path."""
        return self.path.name

    async def start(self) -> None:
        """Make the work copy."""
        await self.run("clone", "--quiet", self.path, self.work, where=self.path.parent)
        self.history.are({"head": await self._head()})

    async def run(self, *arguments: str | Path, where: Path) -> str:
        """What hg says."""
        return await told((*self.hg.program, *arguments), where, self.hg.environ)

    async def grow(self) -> None:
        """Add a changeset."""
        self._number += 1
        (self.work / f"news{self._number % 9}").write_text(f"{self._number}\n" * 50)
        await self.run("commit", "--quiet", "--addremove", "--message", "news", where=self.work)
        self.history.may_become({"head": await self._head()})
        await self.run("push", "--quiet", self.path, where=self.work)
        self.history.are({"head": await self._head()})

    async def nodes(self, head: str) -> set[str]:
        """All changesets up to one."""
        revisions = f"ancestors({head})"
        said = await self.run("log", "-r", revisions, "-T", "{node}\n", where=self.work)
        return set(said.split())

    async def _head(self) -> str:
        return await self.run("log", "-r", "tip", "-T", "{node}", where=self.work)
