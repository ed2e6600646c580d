# Law of this file: a clone that pulls has afterwards what it would have from stock `hg serve`, and
# nothing is broken on the way.

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.cloning import Client, said, talk
from tests.hg.conftest import Sources
from tests.hg.repositories import work
from tests.hg.stock import SERVER_V2, serving
from tests.hg.versions import V2, hg

WAYS = pytest.mark.parametrize("redirect", [True, False], ids=["redirected", "inline"])


async def served_copy(
    serve: Serve, sources: Sources, tmp_path: Path, kind: str, *, redirect: bool = True
) -> tuple[Served, Path]:
    """A server of a repository that the test may change."""
    source = sources.copy(kind, tmp_path / "root")
    settings = {"min_size": 0} if redirect else {"enabled": False}
    return await serve_hg(serve, tmp_path / "root", redirect=settings), source


@WAYS
async def test_pulls_of_what_is_new(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path, *, redirect: bool
) -> None:
    """Pulls bring new changesets and heads, and move bookmarks; of nothing new, they do nothing."""
    served, source = await served_copy(serve, sources, tmp_path, "branches", redirect=redirect)
    whole, part = tmp_path / "whole", tmp_path / "part"
    before = await client.clone(f"{served.url}/repo", whole)
    await client.clone(f"{served.url}/repo", part, "--rev", "first")
    assert await client.pull(whole) == before
    with work(hg(V2), source) as made:
        made.update("default")
        new = made.commit("on", base="b3\n", new="n\n")
        made.hg("bookmark", "--force", "--inactive", "--rev", ".", "first")
        made.update("stable")
        made.hg("branch", "--quiet", "grown")
        made.commit("another branch", base="b4\n")
    await said(whole, "pull", "--quiet")
    with serving(hg(V2), source) as url:
        expected = await client.clone(url, tmp_path / "stock")
    for each in (whole, part):
        found = await client.pull(each)
        assert found.unnamed == expected.unnamed
        assert (found.heads, found.branches) == (expected.heads, expected.branches)
        moved = next(line for line in found.changesets if line.startswith(new))
        assert "[first]" in moved
    assert len(expected.unnamed) == len(before.unnamed) + 2


@WAYS
async def test_pulls_of_parts(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path, *, redirect: bool
) -> None:
    """A revision, a branch or a bookmark is pulled with its ancestors, as from stock `hg serve`."""
    served, source = await served_copy(serve, sources, tmp_path, "branches", redirect=redirect)
    choices = (("--rev", "stable"), ("--branch", "finished"), ("--bookmark", "@"))
    with serving(hg(V2), source) as stock:
        await client.clone(f"{served.url}/repo", tmp_path / "ours", "--rev", "first")
        await client.clone(stock, tmp_path / "stock", "--rev", "first")
        for choice in choices:
            expected = await client.pull(tmp_path / "stock", *choice)
            assert await client.pull(tmp_path / "ours", *choice) == expected, choice
    nothing = await talk(tmp_path / "ours", "pull", "--bookmark", "no-such")
    assert nothing.returncode == 255
    assert nothing.stderr == b"abort: remote bookmark no-such not found!\n"


async def test_phases_move_as_they_do_with_a_stock_server(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path
) -> None:
    """After a draft became public and grew, a pull brings what a stock v2 server would bring."""
    served, source = await served_copy(serve, sources, tmp_path, "phases")
    with serving(hg(V2), source, *SERVER_V2) as stock:
        before = await client.clone(f"{served.url}/repo", tmp_path / "ours")
        assert await client.clone(stock, tmp_path / "stock") == before
        assert sum(" draft " in line for line in before.changesets) == 3
        with work(hg(V2), source) as made:
            made.hg("phase", "--public", "seen")
            made.update("seen")
            made.commit("after it", draft="d3\n")
        after = await client.pull(tmp_path / "ours")
        assert await client.pull(tmp_path / "stock") == after
        assert len(after.changesets) == len(before.changesets) + 1
        # A clone made now has the phases of now.
        anew = await client.clone(f"{served.url}/repo", tmp_path / "anew")
    assert sum(" public " in line for line in anew.changesets) == 2


async def test_obsolete_changesets_go(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path
) -> None:
    """After an amend, who pulls gets the new changeset, and who clones does not get the old one."""
    served, source = await served_copy(serve, sources, tmp_path, "obsolete")
    before = await client.clone(f"{served.url}/repo", tmp_path / "clone")
    with work(hg(V2), source) as made:
        made.update("tip")
        made.write("work", "amended\n")
        made.hg("commit", "--amend", "--message", "amended", "--date", "1700000001 0")
    pulled = await client.pull(tmp_path / "clone")
    assert len(pulled.changesets) == len(before.changesets) + 1
    after = await client.clone(f"{served.url}/repo", tmp_path / "again")
    assert len(after.changesets) == len(before.changesets)
    assert after.heads != before.heads


async def test_clones_of_what_is_being_committed_to(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path
) -> None:
    """Whatever is committed while a clone is made, the clone is whole, and so is a pull after."""
    served, source = await served_copy(serve, sources, tmp_path, "merges")
    stop = threading.Event()

    def commit() -> int:
        with work(hg(V2), source) as made:
            for number in range(1, 16):
                made.commit(f"number {number}", counter=f"{number}\n", README=f"{number}\n")
                # However quick the clones were, something is committed beside and after them.
                if stop.is_set() and number > 1:
                    break
            return number

    committing = asyncio.create_task(asyncio.to_thread(commit))
    clones = [tmp_path / f"clone{number}" for number in range(2)]
    try:
        for to in clones:
            await client.clone(f"{served.url}/repo", to)
    finally:
        stop.set()
        count = await committing
    assert count > 1
    states = [await client.pull(to) for to in clones]
    assert len({each.changesets for each in states}) == 1
    assert len(states[0].changesets) == len(sources.expected("merges").changesets) + count
