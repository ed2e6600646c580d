# Law of this file: a clone is right if its repository was so at some moment while it was made: each
# ref had that value, all that it reaches is there, and nothing is there that is not the origin's.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.hg_repository import Hg
from benchmarks.soak_origin import GitOrigin, HgOrigin
from benchmarks.soak_programs import ProgramFailed, Ran, run, told

# What git keeps of bundle lists.
_BUNDLES: Final = "refs/bundles/"
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of a history a client asked for.

    Attributes:
        reached: options of git-rev-list(1) that list it.
        whole: all refs are there.
    """

    reached: tuple[str, ...] = ()
    whole: bool = True


FULL: Final = Shape()
SHALLOW: Final = Shape(("--no-walk",), whole=False)
BLOBLESS: Final = Shape(("--filter=blob:none",))


async def check_git(
    origin: GitOrigin, clone: Path, shape: Shape, ran: Ran, *, commit: str = ""
) -> str:
    """What is wrong with a clone, or nothing.

    Args:
        origin: of what it is one.
        clone: a bare repository.
        shape: what it should have.
        ran: of the client that made it.
        commit: that it asked for, in place of refs.
    """
    try:
        return await _wrong(origin, clone, shape, ran, commit)
    except ProgramFailed as failed:
        return str(failed)


async def _wrong(origin: GitOrigin, clone: Path, shape: Shape, ran: Ran, commit: str) -> str:
    said = await told(
        ("git", "for-each-ref", "--format=%(refname) %(objectname)"), clone, origin.environ
    )
    refs = dict(line.split() for line in said.splitlines() if not line.startswith(_BUNDLES))
    if commit:
        if refs != {"refs/remotes/origin/main": commit}:
            return f"asked for {commit} and has {refs}"
    elif never := [
        f"{ref}={refs.get(ref)}"
        for ref in (origin.history.names() | set(refs) if shape.whole else refs)
        if not origin.history.could_be(ref, refs.get(ref, ""), ran.began, ran.ended)
    ]:
        return f"refs that the repository never had meanwhile: {never[:_SHOWN]}"
    if not refs:
        return "it has no refs"
    listed = ("git", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    has = set((await told(listed, clone, origin.environ)).split())
    if missing := await origin.objects(refs.values(), *shape.reached) - has:
        return f"{len(missing)} objects are missing, {sorted(missing)[:_SHOWN]}"
    if made_up := has - await origin.all_objects():
        return f"{len(made_up)} objects are not the origin's, {sorted(made_up)[:_SHOWN]}"
    checked = await run(
        ("git", "fsck", "--connectivity-only", "--no-dangling"), clone, origin.environ
    )
    return f"git fsck: {checked.said[-300:]}" if checked.status else ""


async def check_hg(origin: HgOrigin, hg: Hg, clone: Path, ran: Ran) -> str:
    """What is wrong with a clone, or nothing; arguments as of :func:`check_git`."""
    try:
        words = ("log", "-r", "all()", "-T", "{node}\n")
        has = (await told((*hg.program, *words), clone, hg.environ)).split()
        heads = await told((*hg.program, "log", "-r", "head()", "-T", "{node} "), clone, hg.environ)
        head = heads.strip()
        if not origin.history.could_be("head", head, ran.began, ran.ended):
            return f"heads that the repository never had meanwhile: {heads}"
        if set(has) != await origin.nodes(head):
            return f"{len(has)} changesets, which are others than the origin's up to {head}"
        await told((*hg.program, "verify", "--quiet"), clone, hg.environ)
    except ProgramFailed as failed:
        return str(failed)
    return ""
