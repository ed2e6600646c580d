# Law of this file: what the indexer asks is answered by git's own programs, run on the repository
# as it lies there. Nothing here writes into it. These calls block; async callers use a thread.
#
# Whether git trusts a repository (safe.directory) is decided where its refs are read, by
# upload-pack: every object id that is passed in here has come from there.

from __future__ import annotations

import hashlib
import os
import re
import selectors
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from repos.git.program import Git, GitFailed, Running
from wire.git.pack import HASH_SIZES, PackChecker

# How often a caller of a long run hears of it, and may end it.
TICK_SECONDS: Final = 0.25

_READ: Final = 1 << 20
_FORMATS: Final = {2 * size: name for name, size in HASH_SIZES.items()}
# git's own words (progress.c): `Writing objects:  45% (9/20), ...` or, without a total,
# `Enumerating objects: 1234`.
_PROGRESS: Final = re.compile(
    r"(Enumerating|Counting|Compressing|Writing) objects: +(?:\d+% \((\d+)/(\d+)\)|(\d+))"
)
_CHATTER: Final = re.compile(r"[A-Z][a-z]+ objects:|Delta compression|Total \d")


@dataclass(frozen=True, slots=True)
class Step:
    """How far a run has come.

    Attributes:
        phase: ``enumerating``, ``counting``, ``compressing`` or ``writing``; empty at first.
        done: objects of this phase that are done.
        total: objects of this phase, or None while git does not know.
    """

    phase: str = ""
    done: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class PackFile:
    """A whole pack that was written to a file.

    Attributes:
        digest: SHA-256 of the file, hex.
        size: its length in bytes.
        checksum: the pack's own trailing checksum, hex.
        objects: how many objects it holds.
    """

    digest: str
    size: int
    checksum: str
    objects: int


def _ignore(_: Step) -> None:
    """Nobody wants to know."""


def object_format_of(oid: str) -> str:
    """``sha1`` or ``sha256``, by the length of a full object id in hex.

    Raises:
        ValueError: no object format has ids of that length.
    """
    try:
        return _FORMATS[len(oid)]
    except KeyError:
        raise ValueError(f"{oid!r} is no full object id of {' or '.join(HASH_SIZES)}") from None


def incomplete_history(path: Path) -> str | None:
    """Why no pack of the repository at ``path`` could stand alone, or None if one can.

    Shallow and grafted repositories end where their files say; a clone without these files would
    miss parents. A partial clone would fetch what it lacks, and so write into itself.
    """
    if (path / "shallow").is_file():
        return "it is shallow; fetch its whole history with `git fetch --unshallow`"
    if (path / "info" / "grafts").is_file():
        return "its history is grafted (info/grafts)"
    if next((path / "objects" / "pack").glob("*.promisor"), None) is not None:
        return "it is a partial clone; serve a whole one instead"
    return None


def pack_objects(
    git: Git,
    path: Path,
    tips: Iterable[str],
    filter_spec: str | None,
    sink: Path,
    *,
    told: Callable[[Step], None] = _ignore,
) -> PackFile:
    """Write a self-contained pack of everything that ``tips`` reach to the file ``sink``.

    Args:
        git: how programs are run.
        path: the repository's git directory.
        tips: full object ids in hex, of one object format, at least one.
        filter_spec: such as ``blob:none``, or None for everything.
        sink: a path; a file there is replaced. If this raises, none is left.
        told: called several times a second with how far it is; what it raises ends the run.

    Raises:
        GitFailed: pack-objects ended badly, for instance because an object is missing.
        wire.git.pack.BadPack: what it wrote is not one whole pack.
        OSError: the file cannot be written.
        ValueError: there are no tips.
    """
    tips = sorted(set(tips))
    if not tips:
        raise ValueError(f"{path}: a pack of no tips was asked for; leave empty repositories out")
    checker = PackChecker(object_format_of(tips[0]))
    digest = hashlib.sha256()
    arguments = ["pack-objects", "--revs", "--stdout", "--delta-base-offset", "--all-progress"]
    if filter_spec is not None:
        arguments.append(f"--filter={filter_spec}")
    try:
        with (
            sink.open("wb") as file,
            closing(_output(git, path, arguments, tips, lambda run: told(_step(run)))) as output,
        ):
            for chunk in output:
                checker.feed(chunk)
                digest.update(chunk)
                file.write(chunk)
        info = checker.finish()
    except GitFailed as failure:
        sink.unlink(missing_ok=True)
        raise GitFailed(failure.command, failure.status, _complaints(failure.stderr)) from failure
    except BaseException:
        sink.unlink(missing_ok=True)
        raise
    told(Step("writing", info.objects, info.objects))
    return PackFile(digest.hexdigest(), info.size, info.checksum, info.objects)


def count_new_objects(
    git: Git,
    path: Path,
    tips: Iterable[str],
    base_tips: Iterable[str],
    *,
    filter_spec: str | None,
    limit: int,
    told: Callable[[Step], None] = _ignore,
) -> int:
    """Count the objects that ``tips`` reach and ``base_tips`` do not, up to ``limit`` + 1.

    Bitmaps are used where there are any. Without them git looks only at the edge of the history,
    so an object that came back from older history may be counted as new.

    Raises:
        GitFailed: an object is missing, or rev-list ended badly otherwise.
    """
    base = set(base_tips)
    new = sorted(set(tips) - base)
    if not new:
        return 0
    arguments = ["rev-list", "--objects", "--no-object-names", "--use-bitmap-index", "--stdin"]
    if filter_spec is not None:
        arguments.append(f"--filter={filter_spec}")
    lines = [*new, *(f"^{oid}" for oid in sorted(base))]
    counted = 0
    with closing(_output(git, path, arguments, lines, lambda _: told(Step()))) as output:
        for chunk in output:
            counted += chunk.count(b"\n")
            if counted > limit:
                break
    return min(counted, limit + 1)


def all_reachable(
    git: Git,
    path: Path,
    tips: Iterable[str],
    from_: Iterable[str],
    *,
    told: Callable[[Step], None] = _ignore,
) -> bool:
    """Tell whether every one of ``tips`` is reachable from the object ids ``from_``.

    An object that the repository does not have is not reachable, and reaches nothing. Commits do
    not reach annotated tags, so a tag that is not itself in ``from_`` counts as unreachable; so
    does a tree or blob: the answer may be a wrong no, never a wrong yes.

    Raises:
        GitFailed: the repository is damaged, or git ended badly otherwise.
    """
    roots = set(from_)
    rest = sorted(set(tips) - roots)
    if not rest:
        return True
    if not roots:
        return False
    types = _types(git, path, [*rest, *roots])
    if "missing" in types.values() or any(types.get(oid) != "commit" for oid in rest):
        return False
    lines = [*rest, *(f"^{oid}" for oid in sorted(roots))]
    arguments = ["rev-list", "--max-count=1", "--stdin"]
    with closing(_output(git, path, arguments, lines, lambda _: told(Step()))) as output:
        return not any(output)


def reachable_commits(
    git: Git, path: Path, oids: Iterable[str], from_: Iterable[str]
) -> frozenset[str]:
    """Those of ``oids`` that are commits reachable from the object ids ``from_``.

    As for :func:`all_reachable`, it may leave out too much, never too little: what the repository
    does not have reaches nothing, and what is no commit is left out.

    Raises:
        GitFailed: the repository is damaged, or git ended badly otherwise.
    """
    asked, roots = sorted(set(oids)), sorted(set(from_))
    types = _types(git, path, [*asked, *roots])
    known = [oid for oid in roots if types.get(oid) in {"commit", "tag"}]
    commits = {oid for oid in asked if types.get(oid) == "commit"}
    if not commits or not known:
        return frozenset()
    lines = [*sorted(commits), *(f"^{oid}" for oid in known)]
    beyond: set[str] = set()
    with closing(_output(git, path, ["rev-list", "--stdin"], lines, _wait)) as output:
        rest = b""
        for data in output:
            *whole, rest = (rest + data).split(b"\n")
            beyond.update(commits.intersection(line.decode("ascii") for line in whole))
    return frozenset(commits - beyond)


def _wait(_: Running) -> None:
    """Nobody wants to know how far it is."""


def _types(git: Git, path: Path, oids: list[str]) -> dict[str, str]:
    """``commit``, ``tag``, ``tree``, ``blob`` or ``missing`` by object id."""
    output = git.run(
        f"--git-dir={path}",
        "cat-file",
        "--batch-check=%(objectname) %(objecttype)",
        "--buffer",
        stdin="".join(f"{oid}\n" for oid in oids).encode(),
    )
    pairs = (line.rpartition(" ") for line in output.decode().splitlines())
    return {oid: kind for oid, _, kind in pairs}


def _output(
    git: Git,
    path: Path,
    arguments: list[str],
    lines: list[str],
    tick: Callable[[Running], None],
) -> Generator[bytes, None, None]:
    """Run a program that reads all of ``lines`` before it answers, and yield its answer.

    ``tick`` is called every :data:`TICK_SECONDS` whether or not anything came; what it raises
    kills the program, as does closing the iterator.
    """
    with git.start(f"--git-dir={path}", *arguments) as running:
        with suppress(BrokenPipeError):  # it gave up early; its exit code says why
            running.stdin.write("".join(f"{line}\n" for line in lines).encode())
            running.stdin.close()
        due = time.monotonic() + TICK_SECONDS
        descriptor = running.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while True:
                ready = selector.select(max(0.0, due - time.monotonic()))
                if time.monotonic() >= due:
                    due = time.monotonic() + TICK_SECONDS
                    tick(running)
                if ready:
                    chunk = os.read(descriptor, _READ)
                    if not chunk:
                        return
                    yield chunk


def _step(running: Running) -> Step:
    """The last that git said of its progress."""
    said = list(_PROGRESS.finditer(running.stderr_text()))
    if not said:
        return Step()
    phase, done, total, so_far = said[-1].groups()
    if total is None:
        return Step(phase.lower(), int(so_far))
    return Step(phase.lower(), int(done), int(total))


def _complaints(stderr: str) -> str:
    """What a program said beside its progress."""
    lines = (line.strip() for line in re.split(r"[\r\n]+", stderr))
    return "\n".join(line for line in lines if line and not _CHATTER.match(line))
