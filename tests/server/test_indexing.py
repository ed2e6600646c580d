# Law of this file: a server that indexes does so by itself, in another process, after a push too.

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.conftest import Git, Serve


async def test_what_is_pushed_is_indexed(serve: Serve, git: Git, tmp_path: Path) -> None:
    """After a push the bundles are made without being asked for, and clones come from them."""
    root = tmp_path / "root"
    await git("init", "-q", "--bare", root / "project.git")
    work = tmp_path / "work"
    await git("init", "-q", work)
    await git("commit", "-q", "--allow-empty", "-m", "first", cwd=work)
    served = await serve(
        root, index={"enabled": True, "interval": "1h"}, git={"push": ["project.git"]}
    )
    indexing = served.runtime.indexing
    assert indexing is not None
    ended: asyncio.Queue[None] = asyncio.Queue()
    refresh = indexing.done

    async def told() -> None:
        await refresh()
        ended.put_nowait(None)

    indexing.done = told
    await ended.get()
    await git("push", "-q", f"{served.url}/project.git", "HEAD:refs/heads/main", cwd=work)
    await ended.get()
    assert {bundle.filter for bundle in await served.runtime.catalogs.bundles("project.git")} == {
        None,
        "blob:none",
    }
    await git(
        "-c", "fetch.uriProtocols=http", "clone", f"{served.url}/project.git", tmp_path / "clone"
    )
    assert served.executions() == 0
    assert served.outcomes() == {"redirect": 1}
